"""Records to Kafka without ever waiting for it: librdkafka queues, sends, retries and reconnects in its own threads."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from agentledger.producers.quiet_log import quiet_logger
from agentledger.schemas.ports import DeliveryReport

DEFAULT_BOOTSTRAP_SERVERS = "127.0.0.1:9092"
ENV_PREFIX = "AGENTLEDGER_KAFKA_"
# A usual event is under 1 KB. 100,000 of them are a quarter of an hour of an outage at 100 events a second; 256 MiB is
# what that may cost an agent's memory where events are larger.
QUEUE_RECORDS_MAX = 100_000
QUEUE_KIB_MAX = 262_144
POLL_SECONDS = 0.1
CLOSE_SECONDS = 1.0

PRODUCER_CONFIG: dict[str, Any] = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "lz4",
    "linger.ms": 10,  # nobody looks for an event within 10 ms, and a batch costs hardly more than a record
    "message.timeout.ms": 0,  # infinite: a record is retried as long as this program lives
    # How long a topic that isn't there yet is waited for, by default 30 s; librdkafka counts it in microseconds in 32
    # bits, so from 2,147,484 on it would not wait at all.
    "topic.metadata.propagation.max.ms": 2_100_000,
    "message.max.bytes": 1_048_588,  # as the broker's default; `topics.EVENT_BYTES_MAX` keeps events below
    "queue.buffering.max.messages": QUEUE_RECORDS_MAX,
    "queue.buffering.max.kbytes": QUEUE_KIB_MAX,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1000,  # by default 10 s: a broker that is back should be found at once
    "socket.keepalive.enable": True,
}

_log = quiet_logger("agentledger.producers.kafka")
_ClientReport = Callable[[KafkaError | None, Message], None]


def kafka_config_from_env(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Bootstrap servers and security as `AGENTLEDGER_KAFKA_*` say; 127.0.0.1:9092 in plain text where they don't."""
    named = {
        "bootstrap.servers": environ.get(ENV_PREFIX + "BOOTSTRAP_SERVERS") or DEFAULT_BOOTSTRAP_SERVERS,
        "security.protocol": environ.get(ENV_PREFIX + "SECURITY_PROTOCOL"),
        "sasl.mechanism": environ.get(ENV_PREFIX + "SASL_MECHANISM"),
        "sasl.username": environ.get(ENV_PREFIX + "SASL_USERNAME"),
        "sasl.password": environ.get(ENV_PREFIX + "SASL_PASSWORD"),
    }
    return {name: value for name, value in named.items() if value}


class KafkaRecordProducer:
    """`RecordProducer` over librdkafka: idempotent, acks=all. Safe for threads and after a fork.

    `config` is librdkafka's and goes over the defaults above. Neither the constructor nor `send` needs a broker. The
    queue is bounded by 100,000 records and 256 MiB.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config: Mapping[str, Any] = {**PRODUCER_CONFIG, **config}
        self._client: Any = None
        self._reports: tuple[DeliveryReport | None, _ClientReport] = None, _ignored
        self._lock = threading.Lock()
        self._retired = threading.Event()
        self._is_closed = False
        self._open()
        _producers.add(self)

    def send(self, topic: str, key: bytes, value: bytes, on_delivery: DeliveryReport) -> bool:
        """True when queued, or refused for good (then on_delivery was told why); False when the queue is full."""
        told, report = self._reports
        if told is not on_delivery:  # who sends much gives the same one each time
            report = _reporting_to(on_delivery)
            self._reports = on_delivery, report
        client = self._client
        if client is None:  # never by its truth: an empty client has the length 0
            client = self._open()
        if client is None:
            on_delivery("_CLOSED: the producer is closed", value)
            return True
        try:
            client.produce(topic, value, key, on_delivery=report)
        except BufferError:
            return False
        except KafkaException as refused:
            error = refused.args[0]
            if error.fatal():
                self._replace()
            on_delivery(_named(error), value)
        return True

    def flush(self, timeout_s: float) -> int:
        """Wait until everything queued was delivered or given up; the count still waiting at the time-out."""
        client = self._client
        return 0 if client is None else int(client.flush(max(0.0, timeout_s)))

    def waiting(self) -> int:
        """How many records are queued and not yet delivered or given up; for a moment also unread lines of the log."""
        client = self._client
        return 0 if client is None else len(client)

    def close(self) -> None:
        """Give up what is still waiting, each record with its report, and end the poll thread."""
        with self._lock:
            self._is_closed = True
            client, self._client = self._client, None
            self._retired.set()
        if client is not None:
            client.purge()
            client.flush(CLOSE_SECONDS)

    def _open(self) -> Any:
        with self._lock:
            if self._client is None and not self._is_closed:
                self._retired = threading.Event()
                # librdkafka's own lines go to `logging` instead of the agent's stderr.
                client: Any = Producer(dict(self.config), logger=_log, error_cb=_log_error)
                threading.Thread(
                    target=_poll, args=(client, self._retired), name="agentledger-delivery", daemon=True
                ).start()
                self._client = client
            return self._client

    def _replace(self) -> None:
        """After a fatal error librdkafka takes no more records: the next `send` opens another client.

        The old one reports all of its records as failed, so each is accounted for.
        """
        with self._lock:
            client, self._client = self._client, None
            self._retired.set()
        if client is not None:
            client.purge()
            client.poll(0)

    def _forget_parent(self) -> None:
        """In a forked child: librdkafka's threads are gone, so the client can neither be used nor destroyed."""
        if self._client is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._client))  # destroying it would wait for those threads
        self._client = None
        self._lock = threading.Lock()
        self._retired = threading.Event()


def _reporting_to(on_delivery: DeliveryReport) -> _ClientReport:
    def report(error: KafkaError | None, message: Message) -> None:
        on_delivery(None if error is None else _named(error), message.value() or b"")

    return report


def _ignored(_: KafkaError | None, __: Message) -> None:
    """Nobody is told."""


def _named(error: KafkaError) -> str:
    return f"{error.name()}: {error.str()}"


_producers: weakref.WeakSet[KafkaRecordProducer] = weakref.WeakSet()


def _poll(client: Any, retired: threading.Event) -> None:
    """Serve delivery reports and log lines until the client is retired."""
    while not retired.is_set():
        client.poll(POLL_SECONDS)


def _log_error(error: KafkaError) -> None:
    _log.warning("Kafka can't be reached or refuses: %s (events wait in memory)", error.str())


def _forget_parents() -> None:
    for producer in list(_producers):
        producer._forget_parent()


os.register_at_fork(after_in_child=_forget_parents)
