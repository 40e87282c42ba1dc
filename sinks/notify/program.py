"""The notify program: reads the alerts' topic, tells people, and says in the ledger what it told."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from agentledger.schemas import Codec
from agentledger.schemas.errors import AgentledgerError, BrokerError, MissingLibraryError
from agentledger.schemas.events import Event
from agentledger.schemas.ready import say_ready
from agentledger.schemas.topics import ALERTS, INTEGRITY
from agentledger.sinks.announcing import Announcer
from agentledger.sinks.notify.channels import open_channels, rules_of
from agentledger.sinks.notify.desk import Desk
from agentledger.sinks.notify.dispatcher import Dispatcher
from agentledger.sinks.notify.metrics import NotifyMetrics
from agentledger.sinks.notify.settings import Incoming, NotifyFile
from agentledger.sinks.notify.state import NotifyState, UnsaidEvents
from agentledger.sinks.topic_ids import topic_id

GROUP = "agentledger-notify"  # for quotas and logs alone: where it stands is in its own file
BATCH_RECORDS_MAX = 1000  # of about 1 kB each; one transaction
POLL_S = 0.2
POLL_BUSY_S = 0.02  # while something is being sent, its end is waited for, too
METADATA_S_MAX = 20.0
SAY_AT_ONCE_MAX = 100
SAY_PAUSE_S = 0.2
SAY_AGAIN_S = 5.0  # where Kafka took none
STOP_S_MAX = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NotifyConfig:
    """What the program needs. `kafka` holds librdkafka's settings; `state_path` is its own file; `open_codec` gives a
    codec for each thread that uses one."""

    kafka: dict[str, Any] = field(repr=False)
    open_codec: Callable[[], Codec] = field(repr=False)
    kafka_instance: str
    state_path: Path
    file: NotifyFile
    metrics: NotifyMetrics = field(default_factory=NotifyMetrics, repr=False, compare=False)


def run_notify(config: NotifyConfig, stop: threading.Event) -> None:
    """Tell people of alerts until `stop` is set. Raises BrokerError, ConfigurationError."""
    codec, channels = config.open_codec(), open_channels(config.file.channels)
    desk = Desk(config.file, {name: rules_of(channel) for name, channel in config.file.channels.items()})
    dispatcher = Dispatcher(desk, NotifyState(config.state_path), channels, codec, metrics=config.metrics)
    listener: threading.Thread | None = None
    sayer = Sayer(config)
    sayer.start()
    try:
        reader = AlertsReader(config, dispatcher.state, codec)
        try:
            if config.file.incoming is not None:
                listener = _listen(config, config.file.incoming, stop)
            say_ready()
            while not stop.is_set():
                reader.read_into(dispatcher)
                if reader.is_caught_up:  # what was resolved while nobody listened wakes nobody
                    dispatcher.step()
                    config.metrics.note_look()
        finally:
            reader.close()
    except KafkaException as error:
        raise BrokerError(f"alerts can't be read: {error.args[0].str()}", where=ALERTS.name) from None
    finally:
        dispatcher.close()
        sayer.stop()
        if listener is not None:
            listener.join()


def _listen(config: NotifyConfig, incoming: Incoming, stop: threading.Event) -> threading.Thread:
    """Take answers to pages, one at a time: each is on the alerts' topic before it is answered."""
    try:
        from agentledger.sinks.notify.incoming_server import serve_incoming  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingLibraryError(error.name or "a library", "notify") from None
    one_at_a_time, codec = threading.Lock(), config.open_codec()

    def announce(events: Sequence[Event]) -> None:
        with one_at_a_time:
            Announcer(config.kafka, codec).announce_all([(event, event.run_id) for event in events], ALERTS.name)

    return serve_incoming(incoming, config.state_path, announce, stop)


class AlertsReader:
    """Reads all partitions of the alerts' topic from where the state says. Raises KafkaException, BrokerError."""

    def __init__(self, config: NotifyConfig, state: NotifyState, codec: Codec) -> None:
        self._codec = codec
        self._log_id = topic_id(config.kafka, ALERTS.name, config.kafka_instance)
        self._consumer = Consumer({
            **config.kafka, "group.id": GROUP, "enable.auto.commit": False, "auto.offset.reset": "earliest",
            "enable.partition.eof": True, "queued.max.messages.kbytes": 16_384,
        })  # fmt: skip
        known = state.positions(self._log_id)
        metadata = self._consumer.list_topics(ALERTS.name, METADATA_S_MAX).topics[ALERTS.name]
        if metadata.error is not None:
            raise BrokerError(metadata.error.str(), where=ALERTS.name, next_step="agentledger init makes the topics")
        self._behind = set(metadata.partitions)
        self._consumer.assign(
            [TopicPartition(ALERTS.name, number, known.get(number, OFFSET_BEGINNING)) for number in self._behind]
        )

    @property
    def is_caught_up(self) -> bool:
        """Whether each partition has been read to its end once."""
        return not self._behind

    def read_into(self, dispatcher: Dispatcher) -> None:
        """Read what is there, at most a batch, and have it kept."""
        wait_s = POLL_BUSY_S if dispatcher.is_sending else POLL_S
        first = self._consumer.poll(wait_s)
        messages = [] if first is None else [first, *self._consumer.consume(BATCH_RECORDS_MAX - 1, 0)]
        events: list[tuple[Event, int]] = []
        positions: dict[int, int] = {}
        for message in messages:
            if self._is_record(message):
                positions[_number(message.partition())] = _number(message.offset()) + 1
                event = self._decoded(message)
                if event is not None:
                    events.append((event, message.timestamp()[1] * 1000))
        if positions:
            dispatcher.take(events, self._log_id, positions)

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()

    def _is_record(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.code() == KafkaError._PARTITION_EOF:
            self._behind.discard(_number(message.partition()))
        elif not error.retriable() and error.code() != KafkaError._ALL_BROKERS_DOWN:
            log.warning("alerts can't be read at the moment: %s", error.str())
        return False

    def _decoded(self, message: Message) -> Event | None:
        try:
            return self._codec.decode(message.value())
        except AgentledgerError as error:  # the writer keeps it, and what is wrong with it, in the trail
            log.warning(
                "an alert was passed over: %s (%s, partition %s, offset %s)", error, ALERTS.name, message.partition(),
                message.offset(),
            )  # fmt: skip
            return None


class Sayer(threading.Thread):
    """Brings events that wait in the state to Kafka, the oldest first; without a broker they wait on. In a thread and
    with a codec of its own: a page waits for nothing that is said of others."""

    def __init__(self, config: NotifyConfig) -> None:
        super().__init__(name="notify-sayer", daemon=True)
        self._config = config
        self._codec = config.open_codec()
        self._announcer = Announcer(config.kafka, self._codec)
        self._over = threading.Event()

    def stop(self) -> None:
        """End. What is not said yet is said after the next start."""
        self._over.set()
        self.join(STOP_S_MAX)

    def run(self) -> None:
        """Say what waits until stopped."""
        with contextlib.closing(UnsaidEvents(self._config.state_path)) as events:
            pause_s = SAY_PAUSE_S
            while not self._over.wait(pause_s):
                pause_s = SAY_PAUSE_S if self._say(events) else SAY_AGAIN_S
                self._config.metrics.note_waiting(events.count())

    def _say(self, events: UnsaidEvents) -> bool:
        """Say some; whether Kafka has all of them."""
        waiting = events.first(SAY_AT_ONCE_MAX)
        try:
            if waiting:
                said = [(self._codec.decode(one.event), "") for one in waiting]
                self._announcer.announce_all(said, INTEGRITY.name)
                events.remove(waiting[-1].seq)
        except BrokerError as error:
            log.warning("what was delivered is said in the ledger later: %s", error)
            return False
        return True


def _number(value: int | None) -> int:
    if value is None:
        raise ValueError("a message without a place")
    return value
