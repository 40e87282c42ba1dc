"""The packer: joins the events of each partition into packed messages on the partition of the same number.

At-least-once: after a crash the last messages may be packed again, in other groups; the fold knows each record by its
offset. Records never change their order, and nothing is decoded.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from agentledger.processors.acknowledged import DELIVERY_TIMEOUT_S, producer_settings
from agentledger.processors.packer_metrics import PackerMetrics
from agentledger.processors.packing import ENTRY_OVERHEAD_BYTES, PackedRecord, pack
from agentledger.processors.programs import die
from agentledger.processors.topics import PACKER_GROUP
from agentledger.schemas.errors import BrokerError
from agentledger.schemas.ready import say_ready
from agentledger.schemas.topics import EVENTS, PACKED

PACKED_EVENTS_MAX = 500  # more gains nothing: the cost per message is then far below that per event
PACKED_BYTES_MAX = 512 * 1024
READ_EVENTS_MAX = 4000  # one read fills a message for each of 8 partitions
# A packed message costs the worker about as much as ten events, and the broker four requests.
LINGER_S = 0.025
EPOCH_MS = 600_000  # no message reaches over a boundary of `rules.normals`, which the fold relies on
IN_FLIGHT_MAX = 128  # packed messages not yet acknowledged: 64 MiB at most
COMMIT_SECONDS = 1.0
VALUE_BYTES_MAX = PACKED.bytes_max - 512 - ENTRY_OVERHEAD_BYTES  # with room for the record batch around it

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackerConfig:
    """What a packer needs. `kafka` holds librdkafka's settings, bootstrap.servers at least."""

    kafka: dict[str, Any] = field(repr=False)
    session_timeout_s: float = 10.0
    metrics: PackerMetrics = field(default_factory=PackerMetrics, repr=False, compare=False)


class Packer:
    """One consumer and one producer, and per partition the offset up to which packed messages are acknowledged."""

    def __init__(self, config: PackerConfig) -> None:
        self._producer = Producer(producer_settings(config.kafka))
        self._consumer = Consumer(
            {
                "auto.offset.reset": "earliest",
                # For what fills a message, as it lingers: a read for each event would cost more than the events.
                "fetch.wait.max.ms": round(LINGER_S * 1000),
                "fetch.min.bytes": 64 * 1024,
                "fetch.error.backoff.ms": 100,
                "queued.max.messages.kbytes": 65_536,
                "session.timeout.ms": int(config.session_timeout_s * 1000),
                "heartbeat.interval.ms": int(config.session_timeout_s * 250),
                **config.kafka,
                "group.id": PACKER_GROUP,
                "enable.auto.commit": False,
            }
        )
        self._done: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._commit_at = 0.0
        self._failure: str | None = None
        self._metrics = config.metrics
        self._metrics.watch(lambda: len(self._producer))
        self.packed = 0
        self.oversized = 0

    def run(self, stop: threading.Event) -> None:
        """Pack until told to stop. Raises BrokerError where a message can't be delivered."""
        self._consumer.subscribe([EVENTS.name], on_assign=self._assigned, on_revoke=self._revoked)
        while not stop.is_set():
            messages = self._consumer.consume(READ_EVENTS_MAX, LINGER_S)
            if messages:
                self._pack(messages)
            self._producer.poll(0)
            while len(self._producer) > IN_FLIGHT_MAX:
                self._producer.poll(0.05)
            self._raise_failure()
            if time.monotonic() >= self._commit_at:
                self._commit()
        self._settle()
        self._consumer.close()

    def _pack(self, messages: list[Message]) -> None:
        waiting: dict[int, list[PackedRecord]] = {}
        sizes: dict[int, int] = {}
        epochs: dict[int, int] = {}
        for message in messages:
            error = message.error()
            if error is not None:
                self._on_error(error)
                continue
            partition, record = _placed(message)
            size = ENTRY_OVERHEAD_BYTES + len(record.value or b"")
            records = waiting.setdefault(partition, [])
            epoch = record.timestamp_ms // EPOCH_MS
            is_full = len(records) >= PACKED_EVENTS_MAX or sizes.get(partition, 0) + size > PACKED_BYTES_MAX
            if records and (is_full or epoch != epochs[partition]):
                self._send(partition, records)
                records = waiting[partition] = []
                sizes[partition] = 0
            records.append(record)
            epochs[partition] = epoch
            sizes[partition] = sizes.get(partition, 0) + size
            self.oversized += record.oversized
        for partition, records in waiting.items():
            self._send(partition, records)

    def _send(self, partition: int, records: list[PackedRecord]) -> None:
        if not records:
            return
        after = records[-1].offset + 1

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                self._failure = self._failure or f"offsets up to {after - 1} of {partition}: {error.str()}"
            elif self._failure is None:
                self._done[partition] = max(after, self._done.get(partition, 0))

        value = pack(records)
        while True:
            try:
                self._producer.produce(PACKED.name, value, None, partition, on_delivery=delivered)
                break
            except BufferError:
                self._producer.poll(0.1)
                self._raise_failure()
        self.packed += len(records)
        oversized = sum(record.oversized for record in records)
        self._metrics.note_message(len(records), oversized, records[-1].timestamp_ms / 1000)

    def _commit(self) -> None:
        self._commit_at = time.monotonic() + COMMIT_SECONDS
        new = dict(self._done.items() - self._committed.items())
        if not new:
            return
        offsets = [TopicPartition(EVENTS.name, partition, offset) for partition, offset in new.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            log.warning("offsets not committed, they will be packed again after a restart: %s", error.args[0].str())
            return
        self._committed.update(new)

    def _settle(self) -> None:
        """Everything read so far acknowledged and committed."""
        self._producer.flush(DELIVERY_TIMEOUT_S + 5)
        self._raise_failure()
        self._commit()

    def _assigned(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        log.info("ready: %d partitions", len(partitions))
        say_ready()

    def _revoked(self, _: Consumer, __: list[TopicPartition]) -> None:
        self._settle()
        self._done.clear()
        self._committed.clear()

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise BrokerError(f"reading {EVENTS.name} failed: {error.str()}")
        log.warning("reading %s: %s", EVENTS.name, error.str())

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise BrokerError(f"a packed message was refused: {self._failure}", where=PACKED.name)


def _placed(message: Message) -> tuple[int, PackedRecord]:
    partition, offset, value = message.partition(), message.offset(), message.value()
    if partition is None or offset is None:
        raise BrokerError("a record came without its place in the log", where=EVENTS.name)
    oversized = value is not None and len(value) > VALUE_BYTES_MAX
    return partition, PackedRecord(offset, message.timestamp()[1], None if oversized else value, oversized)


def run_packer(config: PackerConfig, stop: threading.Event | None = None) -> None:
    """Pack until `stop` is set; without one, until SIGTERM or SIGINT.

    Writes the ready file once partitions are assigned.
    """
    if stop is None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    try:
        Packer(config).run(stop)
    except Exception as error:  # noqa: BLE001 - whatever it is, the next start packs it again
        die(error)
