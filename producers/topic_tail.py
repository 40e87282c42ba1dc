"""A thread that reads partitions of one topic and never a group: what both control and holds listen with.

It connects when it is started, waits for a topic that isn't there yet, and goes on after every outage. After a fork the
child has no thread: it starts its own when it is next asked to.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from agentledger.producers.quiet_log import quiet_logger

POLL_SECONDS = 0.1
OFFSETS_SECONDS = 5.0
# How long a look for the topic waits, ever longer: a broker that is away is noticed at once, one that is slow is found.
METADATA_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
RETRY_SECONDS = 0.1  # between two looks; a topic that isn't there is looked for once a second
ABSENT_SECONDS = 1.0
AGAIN_SECONDS = 1.0  # after a failure that ended the reading
CLOSE_SECONDS = 2.0
STATISTICS_MS = 1000
# What of a producer's configuration says how to reach the brokers.
_REACHING = ("bootstrap.servers", "security.", "sasl.", "ssl.", "socket.", "broker.address.", "client.dns.", "oauth")
_UNREACHABLE = {KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION}

_log = quiet_logger("agentledger.producers.kafka")  # shared with the publisher: an outage is one line, not two


def consumer_config(kafka: Mapping[str, Any], *, with_statistics: bool) -> dict[str, Any]:
    """librdkafka's settings for a reader beside a producer with this configuration."""
    reaching = {name: value for name, value in kafka.items() if name.startswith(_REACHING)}
    return {
        **reaching,
        "group.id": "agentledger-tail",  # asked for by the client; nothing is ever subscribed or committed
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 100,  # Kafka answers as soon as there is a record, the mock cluster when this is over
        "fetch.error.backoff.ms": 50,
        "queued.max.messages.kbytes": 16_384,  # by default 64 MiB for each partition, in an agent's memory
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        "statistics.interval.ms": STATISTICS_MS if with_statistics else 0,
    }


class TopicTail:
    """Reads the partitions that `choose(count)` names, each from its beginning or its end, in one daemon thread.

    `on_start` is called in the thread before anything else, and again where reading had to begin again; `on_caught_up`
    when everything that was there at that start was read; `on_record` with each record; `on_statistics` with
    librdkafka's statistics each second. They must not wait.
    `caught_up` is set once everything that was there at the start was read (or there is no such topic: then nothing
    is); `settled` is set with it, or when the broker is found to be out of reach.
    """

    def __init__(
        self,
        kafka: Mapping[str, Any],
        topic: str,
        *,
        choose: Callable[[int], Iterable[int]],
        from_end: bool,
        on_record: Callable[[Message], None],
        on_start: Callable[[], None] = lambda: None,
        on_caught_up: Callable[[], None] = lambda: None,
        on_idle: Callable[[], None] = lambda: None,
        on_statistics: Callable[[str], None] | None = None,
    ) -> None:
        self._kafka = consumer_config(kafka, with_statistics=on_statistics is not None)
        self._topic = topic
        self._choose = choose
        self._from_end = from_end
        self._on_record = on_record
        self._on_start = on_start
        self._on_caught_up = on_caught_up
        self._on_idle = on_idle
        self._on_statistics = on_statistics
        self._is_closed = False
        self._begin()
        _tails.add(self)

    def _begin(self) -> None:
        self.caught_up = threading.Event()
        self.settled = threading.Event()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._client: Any = None
        self._unread: set[int] = set()
        self._is_whole = False  # whether everything that was there at the (last) start was read
        self.was_waited_for = False  # a note for whoever waits once for `settled`

    def start(self) -> None:
        """Begin to read, if that hasn't happened yet in this process. Never waits."""
        if self._thread is not None or self._is_closed:
            return
        with self._lock:
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._read, name=f"agentledger-{self._topic}", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread; waits for it at most two seconds."""
        self._is_closed = True
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_SECONDS)

    def _read(self) -> None:
        """Read until it is closed, from the start again after whatever went wrong: a kill switch must not die."""
        while not self._stop.is_set():
            try:
                self._read_on()
            except Exception as error:  # noqa: BLE001 - whatever it is, the agent goes on; who waits is told
                _log.error("reading %s failed and begins again: %r", self._topic, error)
            self.settled.set()
            self._stop.wait(AGAIN_SECONDS)

    def _read_on(self) -> None:
        self._is_whole = False
        self._on_start()
        client = self._client = self._connect()
        try:
            if self._assign(client):
                while not self._stop.is_set():
                    self._take(client.poll(POLL_SECONDS))
        finally:
            self._client = None
            client.close()

    def _connect(self) -> Any:
        callbacks: dict[str, Any] = {"error_cb": self._hear_error}
        if self._on_statistics is not None:
            callbacks["stats_cb"] = self._on_statistics
        return Consumer({**self._kafka, **callbacks}, logger=_log)

    def _assign(self, client: Any) -> bool:
        """Find the partitions and begin to read them; False where it was stopped before."""
        looks = 0
        while not self._stop.is_set():
            pause = RETRY_SECONDS
            try:
                wait = METADATA_SECONDS[min(looks, len(METADATA_SECONDS) - 1)]
                found = client.list_topics(self._topic, timeout=wait).topics[self._topic]
                if found.error is None and found.partitions:
                    partitions = sorted(self._choose(len(found.partitions)))
                    client.assign([self._start_of(client, partition) for partition in partitions])
                    self._unread = set(partitions)
                    if self._from_end:
                        self._read_all()
                    return True
                if found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    self._read_all()  # nothing can have been said on a topic that isn't there
                    pause = ABSENT_SECONDS
            except KafkaException as error:
                self._hear_error(error.args[0])
            looks += 1
            client.poll(0)  # serves errors and the log
            self._stop.wait(pause)
        return False

    def _start_of(self, client: Any, partition: int) -> TopicPartition:
        if not self._from_end:
            return TopicPartition(self._topic, partition, OFFSET_BEGINNING)
        # The end as it is now, and not when the first fetch gets through: nothing said after this is missed.
        _, end = client.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=OFFSETS_SECONDS)
        return TopicPartition(self._topic, partition, end)

    def _take(self, message: Message | None) -> None:
        if message is None:
            self._on_idle()
            return
        error = message.error()
        if error is None:
            self._hand_on(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            self._unread.discard(message.partition() or 0)
            if not self._unread:
                self._read_all()
        else:
            self._hear_error(error)

    def _hand_on(self, message: Message) -> None:
        try:
            self._on_record(message)
        except Exception as error:  # noqa: BLE001 - one record must not keep those after it from being read
            _log.error("a record of %s was passed over: %r", self._topic, error)

    def _read_all(self) -> None:
        if not self._is_whole:
            self._is_whole = True
            self._on_caught_up()
            self.caught_up.set()
            self.settled.set()

    def _hear_error(self, error: KafkaError) -> None:
        if error.code() in _UNREACHABLE:
            self.settled.set()
        _log.warning("Kafka can't be reached or refuses: %s (reading %s)", error.str(), self._topic)

    def _forget_parent(self) -> None:
        """In a forked child: librdkafka's threads are gone, so the client can neither be used nor destroyed."""
        if self._client is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._client))
        self._begin()


_tails: weakref.WeakSet[TopicTail] = weakref.WeakSet()


def _forget_parents() -> None:
    for tail in list(_tails):
        tail._forget_parent()


os.register_at_fork(after_in_child=_forget_parents)
