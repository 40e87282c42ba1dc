"""The writer: every record of the ledger's topics into ClickHouse, once and in order.

A flush writes its rows, one INSERT per writer schema, then one row per log into `ledger_batches`: only that row says
that they are written. After a crash the writer goes on from there, finds what an unfinished flush left, and writes the
rest: index, ledger time and leaf of a record depend on nothing but the records before it.

A writer claims the logs that it is assigned. The INSERTs of one that was stopped for longer than its session (SIGSTOP)
and wakes up are refused from then on, and it ends; those that it had under way were waited for. What is left open: on a
cluster of replicas, an INSERT that goes through a replica which has not seen the claim yet can escape. Its rows then
stand twice under the same log index, which a count of the log shows.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from agentledger.schemas import Codec, open_registry
from agentledger.schemas.errors import BrokerError, LedgerConflictError, StoreError
from agentledger.schemas.ports import Clock
from agentledger.schemas.ready import say_ready
from agentledger.schemas.topics import LEDGER_TOPICS
from agentledger.sinks.batching import Batch, SourceRecord
from agentledger.sinks.clickhouse_store import ClickHouseLedgerStore
from agentledger.sinks.dead_letters import Announcer
from agentledger.sinks.flushing import Flusher
from agentledger.sinks.rows import LogPlace
from agentledger.sinks.store import LedgerStore
from agentledger.sinks.topic_ids import ADMIN_S_MAX, topic_id
from agentledger.sinks.writer_metrics import WriterMetrics

GROUP = "agentledger-writer"
BATCH_BYTES_MAX = 64 * 1024 * 1024  # of values in one flush: held several times over while it is sent
READ_ROWS_MAX = 2_000  # of one read, so that the bound on bytes is looked at in time
QUEUED_KBYTES_MAX = 65_536  # what librdkafka may fetch ahead
# One fetch is under way at a time: one that waits for idle partitions holds back those with a backlog.
FETCH_WAIT_MS_MAX, FETCH_BYTES_MIN = 20, 64 * 1024
SESSION_S = 10.0
POLL_S_MAX = 600  # how long ClickHouse may be away before the partitions go to another writer
RETRY_S_MIN, RETRY_S_MAX = 0.2, 5.0
GC_THRESHOLD = 100_000  # a flush makes some 200,000 objects, none of them in cycles
LOG_EVERY_S = 30.0

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class WriterConfig:
    """What a writer needs. `kafka` holds librdkafka's settings, bootstrap.servers at least."""

    kafka: dict[str, Any] = field(repr=False)
    clickhouse_url: str
    clickhouse_user: str = "default"
    clickhouse_password: str = field(default="", repr=False)
    schema_registry_url: str = ""
    schema_registry_auth: str = field(default="", repr=False)
    kafka_instance: str = ""  # tells brokers without topic ids apart: a mock cluster begins anew at each start
    batch_rows_max: int = 50_000  # a part of the table each: fewer, larger parts need fewer merges
    linger_ms_max: int = 250


def now_us() -> int:
    """The wall clock, microseconds since 1970."""
    return time.time_ns() // 1000


class Writer:
    """One consumer, one store. While a thread writes one flush, the next is read and prepared; what is assigned doesn't
    change during a flush, because a rebalance waits for its end."""

    def __init__(
        self, config: WriterConfig, stop: threading.Event, store: LedgerStore | None = None, clock: Clock = now_us,
        metrics: WriterMetrics | None = None,
    ) -> None:  # fmt: skip
        self._metrics = metrics or WriterMetrics()
        self._config = config
        self._stop = stop
        self._clock = clock
        self._store = store or ClickHouseLedgerStore(
            config.clickhouse_url, config.clickhouse_user, config.clickhouse_password
        )
        registry = open_registry(config.schema_registry_url, basic_auth=config.schema_registry_auth)
        announcer = Announcer(config.kafka, Codec(registry))
        self._flusher = Flusher(self._store, registry, announcer.announce, clock)
        self._topic_ids: dict[str, str] = {}
        self._places: dict[tuple[str, int], LogPlace] = {}
        self._flushing = ThreadPoolExecutor(1, "flush")
        self._running: Future[Batch] | None = None
        self._expected: Batch | None = None  # what the running flush writes if nothing goes wrong
        self._logged_at = time.monotonic()
        self._written = 0
        self._consumer = Consumer(
            {
                "auto.offset.reset": "earliest",
                # For what fills a flush: a read for each record would cost more than the records.
                "fetch.wait.max.ms": FETCH_WAIT_MS_MAX,
                "fetch.min.bytes": FETCH_BYTES_MIN,
                "queued.max.messages.kbytes": QUEUED_KBYTES_MAX,
                "session.timeout.ms": int(SESSION_S * 1000),
                "heartbeat.interval.ms": int(SESSION_S * 250),
                "max.poll.interval.ms": POLL_S_MAX * 1000,
                "fetch.message.max.bytes": 8 * 1024 * 1024,
                **config.kafka,
                "group.id": GROUP,
                "enable.auto.commit": False,
            }
        )

    def run(self) -> None:
        """Write until told to stop; ClickHouse may be away meanwhile. Raises BrokerError, LedgerConflictError."""
        self._consumer.subscribe([topic.name for topic in LEDGER_TOPICS], self._assigned, self._revoked)
        try:
            while not self._stop.is_set():
                records = self._read()
                prepared = self._prepare(records) if records else None
                if records or (self._running is not None and self._running.done()):
                    went_as_expected = self._finish()
                if records:
                    self._start(records, prepared if went_as_expected else None)
            self._finish()
        finally:
            self._flushing.shutdown()
            self._consumer.close()

    def _read(self) -> list[SourceRecord]:
        """Records for one flush: until it is full, or the linger time is over and none is under way that it would wait
        for: who is behind writes large parts, which need less merging."""
        records: list[SourceRecord] = []
        size = 0
        deadline = time.monotonic() + self._config.linger_ms_max / 1000
        while len(records) < self._config.batch_rows_max and size < BATCH_BYTES_MAX and not self._stop.is_set():
            wait_s = max(0.0, deadline - time.monotonic())
            room = min(READ_ROWS_MAX, self._config.batch_rows_max - len(records))
            # A short wait at a time: a full read returns at once, and a slow one must not hold back what is here.
            messages = self._consumer.consume(room, min(max(wait_s, 0.01), 0.05))
            for message in messages:
                record = self._record(message)
                if record is not None:
                    records.append(record)
                    size += len(record.value or b"")
            if time.monotonic() >= deadline and not self._is_flushing():
                break
        return [record for record in records if self._flusher.is_open(record.place)]

    def _is_flushing(self) -> bool:
        return self._running is not None and not self._running.done()

    def _record(self, message: Message) -> SourceRecord | None:
        error = message.error()
        if error is not None:
            if error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise BrokerError(f"reading {message.topic()} failed: {error.str()}")
            log.warning("reading %s: %s", message.topic(), error.str())
            return None
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if topic is None or partition is None or offset is None:
            raise BrokerError("a record came without its place in the log")
        key: Any = message.key() or b""
        headers: Any = message.headers()
        place = self._places.get((topic, partition))
        if place is None:
            return None  # taken from us while it was on its way: whoever has the log now reads it again
        return SourceRecord(place, offset, message.timestamp()[1], key, headers, message.value())

    def _prepare(self, records: list[SourceRecord]) -> Batch | None:
        """The batch behind the one that is being written; None where it can't be known yet: then the flush makes it."""
        if self._running is not None and self._expected is None:
            return None
        try:
            return self._flusher.prepare(records, self._expected)
        except StoreError as error:
            log.debug("not prepared: %s", error)
            return None

    def _start(self, records: list[SourceRecord], prepared: Batch | None) -> None:
        """Begin to write one batch, however often that has to be tried."""
        first_try = [prepared]
        self._expected = prepared
        self._running = self._flushing.submit(
            self._measured_flush,
            min(record.timestamp_ms for record in records),
            lambda: self._flusher.flush(records, first_try.pop() if first_try else None),
        )

    def _measured_flush(self, oldest_ms: int, attempt: Callable[[], Batch]) -> Batch:
        began = time.monotonic()
        self._metrics.begin_flush(oldest_ms)
        batch = self._patiently(attempt, self._flusher.reopen)
        self._metrics.end_flush(batch.rows, time.monotonic() - began)
        return batch

    def _finish(self) -> bool:
        """Wait for the running flush. False if it didn't write what was expected: then what was prepared is void."""
        if self._running is None:
            return True
        running, expected = self._running, self._expected
        self._running = self._expected = None
        batch = running.result()
        self._committed(batch)
        return batch is expected

    def _committed(self, batch: Batch) -> None:
        self._written += batch.rows
        self._report(batch.rows)
        if not batch.entries:
            return
        offsets = [
            TopicPartition(entry.place.topic, entry.place.partition, entry.after.next_offset) for entry in batch.entries
        ]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)  # for those who watch the lag; nothing reads it
        except KafkaException as error:
            log.debug("offsets not committed: %s", error)

    def _patiently(self, attempt: Callable[[], T], before_retry: Callable[[], None] = lambda: None) -> T:
        """Try until the store takes it; nothing is skipped. Consumption waits meanwhile."""
        wait_s, said_at = RETRY_S_MIN, 0.0
        retrying = False
        while True:
            try:
                if retrying:
                    before_retry()
                return attempt()
            except LedgerConflictError:
                raise
            except StoreError as error:
                self._metrics.count_store_error()
                if time.monotonic() - said_at > LOG_EVERY_S:
                    log.warning("waiting: %s", error)
                    said_at = time.monotonic()
                if self._stop.wait(wait_s):
                    raise
                wait_s, retrying = min(RETRY_S_MAX, wait_s * 2), True

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._finish()
        self._topic_ids.clear()  # a topic that was deleted and made again since is another one
        places = [self._place(partition.topic, partition.partition) for partition in partitions]
        self._patiently(lambda: self._store.claim(places, self._clock()))
        for place, partition in zip(places, partitions, strict=True):
            self._places[place.topic, place.partition] = place
            position = self._patiently(lambda place=place: self._flusher.open(place))  # type: ignore[misc]
            first, end = consumer.get_watermark_offsets(partition, ADMIN_S_MAX)
            _check_reach(place, position.next_offset, first, end)
            partition.offset = position.next_offset or OFFSET_BEGINNING
        consumer.assign(partitions)
        log.info("writing %d logs", len(self._places))
        say_ready()

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._finish()
        for partition in partitions:
            place = self._places.pop((partition.topic, partition.partition), None)
            if place is not None:
                self._flusher.close_log(place)

    def _place(self, topic: str, partition: int) -> LogPlace:
        if topic not in self._topic_ids:
            self._topic_ids[topic] = topic_id(self._config.kafka, topic, self._config.kafka_instance)
        return LogPlace(topic, self._topic_ids[topic], partition)

    def _report(self, rows: int) -> None:
        if time.monotonic() - self._logged_at > LOG_EVERY_S:
            self._logged_at = time.monotonic()
            log.info("%d records written so far, %d in the last flush", self._written, rows)


def _check_reach(place: LogPlace, next_offset: int, first: int, end: int) -> None:
    """Compare where the log stands with the offsets that the topic has. Raises LedgerConflictError."""
    where = f"{place.topic}, partition {place.partition}"
    if next_offset > end:
        raise LedgerConflictError(
            f"the topic ends at offset {end}, but the ledger has records up to {next_offset - 1}",
            where=where,
            next_step="the topic was cut or replaced: restore it, or start a ledger of its own for it",
        )
    if first > next_offset:
        log.error(
            "LOST: offsets %d to %d were deleted before they were read (%s): skipped_offsets in ledger_batches has "
            "their count; give the topic a longer retention",
            next_offset, first - 1, where,
        )  # fmt: skip


def run_writer(config: WriterConfig, stop: threading.Event, metrics: WriterMetrics | None = None) -> None:
    """Run until `stop` is set. Raises BrokerError, LedgerConflictError."""
    gc.set_threshold(GC_THRESHOLD)
    Writer(config, stop, metrics=metrics).run()
