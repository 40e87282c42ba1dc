"""The ticker: says every second, on each partition of the events and holds topics, that time has passed.

What is decided from silence (a stuck run, a window that ended, how far a source is) is decided from these records, so
it replays the same. A tick's content follows from its second and partition alone: of several tickers at once each says
the same, and the ledger marks the rest as duplicates. A second in which no ticker ran has no tick, and its number is
missing from the producer's sequence.

Where nothing but ticks has been written for QUIET_AFTER_S, only each tenth second is told: an idle ledger grows by a
tenth, and what is due in it may come so much later. The first record that isn't a tick ends that within a second.

Beside that it looks, from outside, how far the stages behind are, and decides the rules of kind `stage_lag`: the one
kind that goes by the clock of a machine, because a stage that stands still can't say so.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # left out of its stubs

from agentledger.processors.acknowledged import producer_settings
from agentledger.processors.programs import die
from agentledger.processors.rules.loading import enabled, rules_or_default
from agentledger.processors.rules.models import StageLag
from agentledger.processors.stage_lag import LagWatch
from agentledger.processors.ticker_metrics import TickerMetrics
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import BrokerError
from agentledger.schemas.events import Ticked
from agentledger.schemas.identity import content_id
from agentledger.schemas.ports import Clock
from agentledger.schemas.ready import say_ready
from agentledger.schemas.registry import open_registry
from agentledger.schemas.topics import EVENTS, HOLDS

INTERVAL_MS = 1000
TICK_TIMEOUT_S = 10  # a tick that is older is worth nothing: the next one says more
STOP_SECONDS = 5.0
METADATA_SECONDS = 30.0
LOOK_TIMEOUT_S = 1.0
QUIET_AFTER_S = 60
QUIET_EVERY = 10
TICKED_TOPICS = (EVENTS.name, HOLDS.name)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TickerConfig:
    """What a ticker needs. `kafka` holds librdkafka's settings, bootstrap.servers at least."""

    kafka: dict[str, Any] = field(repr=False)
    interval_ms: int = INTERVAL_MS
    watch_lag: bool = True
    rules_file: Path | None = None
    schema_registry_url: str = ""
    schema_registry_auth: str = field(default="", repr=False)
    metrics: TickerMetrics = field(default_factory=TickerMetrics, repr=False, compare=False)


def tick_of(topic: str, partition: int, now_us: int, interval_ms: int) -> Ticked:
    """The tick of this partition for the interval in which `now_us` lies: the same for whoever asks."""
    number = now_us // (interval_ms * 1000)
    place = f"{topic}:{partition}"
    time_us = number * interval_ms * 1000
    return Ticked(
        event_id=content_id(time_us, "Ticked", place, str(interval_ms)),
        tenant_id="",
        producer_id=f"ticker:{place}",
        producer_seq=number,
        run_id=f"tick:{place}",
        occurred_at=time_us,
        interval_ms=interval_ms,
    )


class Activity:
    """Whether anything but ticks is written, told by how partitions grow: ticks, of any number of tickers, grow all
    partitions alike.
    """

    def __init__(self) -> None:
        self._ends: Mapping[tuple[str, int], int] = {}
        self._active_us: int | None = None

    def note(self, now_us: int, ends: Mapping[tuple[str, int], int]) -> None:
        """Take in the ends of all partitions; none where they aren't known, which counts as activity."""
        grown = {end - self._ends.get(place, -1) for place, end in ends.items()}
        if len(grown) != 1 or not self._ends or self._active_us is None:
            self._active_us = now_us
        self._ends = dict(ends)

    def is_quiet(self, now_us: int) -> bool:
        """True where there were only ticks for QUIET_AFTER_S."""
        return self._active_us is not None and now_us - self._active_us >= QUIET_AFTER_S * 1_000_000


class Ticker:
    """One producer that sends a tick to each partition, once per interval."""

    def __init__(self, config: TickerConfig, clock: Clock = lambda: time.time_ns() // 1000) -> None:
        self._config = config
        self._clock = clock
        self._codec = Codec(open_registry(config.schema_registry_url, basic_auth=config.schema_registry_auth))
        # Idempotent: a tick that is repeated by the client is written once, and ticks keep their order.
        self._producer = Producer({**producer_settings(config.kafka), "delivery.timeout.ms": TICK_TIMEOUT_S * 1000})
        self._admin = AdminClient(config.kafka)
        self._activity = Activity()
        self._places: list[tuple[str, int]] = []
        self._was_ready = False
        self.ticked = 0
        self.lost = 0

    def run(self, stop: threading.Event) -> None:
        """Tick until told to stop. Raises BrokerError where the topics can't be found."""
        self._places = self._find_places()
        log.info("ticking on %d partitions every %d ms", len(self._places), self._config.interval_ms)
        watch = self._lag_watch()
        if watch is not None:
            watch.start()
        interval_us = self._config.interval_ms * 1000
        last = -1
        while not stop.is_set():
            now_us = self._clock()
            if now_us // interval_us != last:
                last = now_us // interval_us
                self._activity.note(now_us, self._ends())
                if last % QUIET_EVERY == 0 or not self._activity.is_quiet(now_us):
                    self._tick(now_us)
            self._producer.poll(0)
            stop.wait(min(0.05, self._config.interval_ms / 2000))
        if watch is not None:
            watch.stop()
        self._producer.flush(STOP_SECONDS)

    def _lag_watch(self) -> LagWatch | None:
        """What watches the stages; None where no rule asks for it."""
        if not self._config.watch_lag:
            return None
        rules = [rule for rule in enabled(rules_or_default(self._config.rules_file)) if isinstance(rule, StageLag)]
        note = self._config.metrics.note_lag
        return LagWatch(self._config.kafka, self._codec, self._clock, rules, note) if rules else None

    def _tick(self, now_us: int) -> None:
        for topic, partition in self._places:
            tick = tick_of(topic, partition, now_us, self._config.interval_ms)
            try:
                value = self._codec.encode(tick)
                self._producer.produce(topic, value, tick.run_id.encode(), partition, on_delivery=self._delivered)
            except BufferError:
                self.lost += 1  # the queue holds minutes of ticks already: the broker is away
                self._config.metrics.count_lost()

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.ticked += 1
            self._config.metrics.count_tick()
            if not self._was_ready:
                self._was_ready = True
                say_ready()
            return
        self.lost += 1
        self._config.metrics.count_lost()
        if error.fatal():
            die(BrokerError(f"ticks can't be written: {error.str()}", where=str(message.topic())))
        log.warning("a tick for %s, partition %s was lost: %s", message.topic(), message.partition(), error.str())

    def _ends(self) -> dict[tuple[str, int], int]:
        """The end of each partition; empty where the broker doesn't say."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(topic, partition): latest for topic, partition in self._places}
        try:
            found = self._admin.list_offsets(asked, request_timeout=LOOK_TIMEOUT_S)
            return {(place.topic, place.partition): future.result().offset for place, future in found.items()}
        except KafkaException as error:
            log.info("the ends of partitions are unknown: %s", error.args[0].str())
            return {}

    def _find_places(self) -> list[tuple[str, int]]:
        try:
            topics = self._admin.list_topics(timeout=METADATA_SECONDS).topics
        except KafkaException as error:
            raise BrokerError(
                f"Kafka does not answer: {error.args[0].str()}", next_step="check that Kafka is up"
            ) from error
        missing = [name for name in TICKED_TOPICS if name not in topics or not topics[name].partitions]
        if missing:
            raise BrokerError(f"there is no topic {missing[0]}", next_step="create the topics: agentledger init")
        return [(name, partition) for name in TICKED_TOPICS for partition in sorted(topics[name].partitions)]


def run_ticker(config: TickerConfig, stop: threading.Event | None = None) -> None:
    """Tick until `stop` is set; without one, until SIGTERM or SIGINT. Writes the ready file after the first tick."""
    if stop is None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    try:
        Ticker(config).run(stop)
    except Exception as error:  # noqa: BLE001 - whatever it is, a supervisor starts it again
        die(error)
