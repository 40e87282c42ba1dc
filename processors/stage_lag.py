"""Lag of our own stages, seen from outside: how long ago was written what a stage has not yet acknowledged."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from agentledger.processors.acknowledged import producer_settings
from agentledger.processors.offsets import GroupOffsets, Standing
from agentledger.processors.rules.models import StageLag, rule_version
from agentledger.processors.topics import HOLDS_GROUP, PACKER_GROUP, SCOPES_GROUP, WORKER_GROUP
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import AgentledgerError, BrokerError
from agentledger.schemas.events import AlertRaised, AlertResolved, AlertUpdated, Event
from agentledger.schemas.identity import content_id, uuid7
from agentledger.schemas.partitioning import partition_of
from agentledger.schemas.ports import Clock
from agentledger.schemas.topics import ALERTS, EVENTS, HOLDS, PACKED, PARTIALS

LOOK_SECONDS = 5.0
READ_SECONDS = 10.0
READ_BACK_MAX = 20_000  # records of a partition that a start reads, a second or so; alerts are few, a flood becomes one
SAMPLES_MAX = 720  # an hour of them: a lag of more than that is told as an hour
WRITER_GROUP = "agentledger-writer"  # that of the sinks: stages don't import each other
STAGES = (
    ("writer", WRITER_GROUP, EVENTS.name),
    ("packer", PACKER_GROUP, EVENTS.name),
    ("worker", WORKER_GROUP, PACKED.name),
    ("holds", HOLDS_GROUP, HOLDS.name),
    ("scopes", SCOPES_GROUP, PARTIALS.name),
    ("scopes", SCOPES_GROUP, HOLDS.name),
)

log = logging.getLogger(__name__)


class Standings:
    """Where one stage stands on one topic. Times are seconds of any one clock."""

    def __init__(self) -> None:
        self._ends: dict[int, deque[tuple[float, int]]] = {}

    def note(self, now_s: float, standings: Mapping[int, Standing]) -> float:
        """Take in committed offset and end of each partition; the lag of the slowest, seconds.

        The lag of a partition is the age of the oldest sample of its end that the stage hasn't reached.
        """
        worst = 0.0
        for partition, (done, end) in standings.items():
            ends = self._ends.setdefault(partition, deque(maxlen=SAMPLES_MAX))
            ends.append((now_s, end))
            while ends and ends[0][1] <= done:
                ends.popleft()
            if ends:
                worst = max(worst, now_s - ends[0][0])
        return worst


class LagAlerts:
    """Raised once per rule and stage, told again as it grows, resolved once the stage has caught up."""

    def __init__(self, rules: Iterable[StageLag]) -> None:
        self._rules = tuple(rules)
        self._open: dict[tuple[str, str], float] = {}  # rule and stage, to the lag at which it is told next
        self._since_us = 0
        self._producer_id = ""
        self._seq = 0

    def take_up(self, said: Iterable[Event], now_us: int) -> None:
        """Go on with what was left open by those who watched before; `said` has their events, the oldest first.

        Watching began before `now_us`, and no lag is seen to be longer than that: until it tells, nothing is resolved.
        """
        self._since_us = now_us
        stages = {stage for stage, *_ in STAGES}
        known = {alert_id_of(rule.name, stage): (rule, stage) for rule in self._rules for stage in stages}
        for event in said:
            if not isinstance(event, AlertRaised | AlertUpdated | AlertResolved) or event.alert_id not in known:
                continue
            rule, stage = known[event.alert_id]
            if isinstance(event, AlertResolved):
                self._open.pop((rule.name, stage), None)
            else:
                times = event.count if isinstance(event, AlertUpdated) else 1
                self._open[rule.name, stage] = 10 * times * rule.window_us / 1e6

    def conclude(self, stage: str, lag_s: float, now_us: int) -> list[Event]:
        """What to say of a stage with this lag, rule by rule."""
        rules = [rule for rule in self._rules if not rule.stages or stage in rule.stages]
        return [event for rule in rules for event in self._judge(rule, stage, lag_s, now_us)]

    def _judge(self, rule: StageLag, stage: str, lag_s: float, now_us: int) -> Iterator[Event]:
        limit_s, below_us, key = rule.window_us / 1e6, rule.resolve_below_us, (rule.name, stage)
        next_s = self._open.get(key)
        fields = self._envelope(now_us) | {"alert_id": alert_id_of(rule.name, stage), "rule": rule.name}
        if lag_s >= (limit_s if next_s is None else next_s):
            fields |= {"severity": rule.severity, "observed": lag_s, "expected": limit_s}
            fields["summary"] = f"stage {stage} is {lag_s:.0f} s behind: what it decides comes that much late"
            if next_s is None:
                fields |= {"runbook_url": rule.runbook_url, "rule_version": rule_version(rule)}
                yield self._numbered(AlertRaised(**fields, scope="stage", scope_value=stage))
            else:
                yield self._numbered(AlertUpdated(**fields, count=round(next_s / limit_s)))
            self._open[key] = 10 * (next_s or limit_s)
        elif next_s is not None and lag_s < below_us / 1e6 and now_us - self._since_us >= below_us:
            del self._open[key]
            yield self._numbered(AlertResolved(**fields, reason="condition_ended", resolved_by=rule.name))

    def _numbered(self, event: Event) -> Event:
        event.producer_seq, self._seq = self._seq, self._seq + 1
        return event

    def _envelope(self, now_us: int) -> dict[str, Any]:
        self._producer_id = self._producer_id or f"stage-lag:{uuid7(now_us)}"
        return {
            "event_id": uuid7(now_us),
            "tenant_id": "",
            "producer_id": self._producer_id,
            "producer_seq": 0,
            "run_id": "",
            "occurred_at": now_us,
        }


def alert_id_of(rule: str, stage: str) -> str:
    """The same for every repetition of the condition, whoever saw it."""
    return content_id(0, "alert", rule, "", "stage", stage)


def said_before(kafka: dict[str, Any], codec: Codec, partitions: int) -> Iterator[Event]:
    """What was said of the stages, as far as it is among the last records of the alerts topic. Raises BrokerError."""
    keys = {stage.encode() for stage, *_ in STAGES}
    settings = {"group.id": "agentledger-stage-lag", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = Consumer({**kafka, **settings})
    try:
        for partition in sorted({partition_of(key, partitions) for key in keys}):
            for message in _last_records(consumer, partition):
                if message.key() in keys:
                    try:
                        yield codec.decode(message.value())
                    except AgentledgerError as error:
                        log.warning("an alert in partition %d is passed over: %s", partition, error)
    except KafkaException as error:
        what = f"open alerts can't be read: {error.args[0].str()}"
        raise BrokerError(what, where=ALERTS.name, next_step="check that Kafka is up") from error
    finally:
        consumer.close()


def _last_records(consumer: Consumer, partition: int) -> Iterator[Message]:
    low, end = consumer.get_watermark_offsets(TopicPartition(ALERTS.name, partition), READ_SECONDS)
    consumer.assign([TopicPartition(ALERTS.name, partition, max(low, end - READ_BACK_MAX))])
    while True:
        message = consumer.poll(READ_SECONDS)
        if message is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        error = message.error()
        if error is None:
            yield message
        elif error.code() == KafkaError._PARTITION_EOF:
            return
        else:
            raise KafkaException(error)


class LagWatch(threading.Thread):
    """Asks the broker every few seconds, in a thread and over connections of its own."""

    def __init__(
        self, kafka: dict[str, Any], codec: Codec, clock: Clock, rules: Iterable[StageLag],
        note: Callable[[str, float], None] = lambda stage, lag_s: None,
    ) -> None:  # fmt: skip
        super().__init__(name="stage-lag", daemon=True)
        self._kafka = kafka
        self._codec = codec
        self._clock = clock
        self._producer = Producer(producer_settings(kafka))
        self._stages = [(name, GroupOffsets(kafka, group, topic), Standings()) for name, group, topic in STAGES]
        self._partitions = len(self._producer.list_topics(EVENTS.name, 30).topics[EVENTS.name].partitions)
        self._alerts = LagAlerts(rules)
        self._note = note  # told the lag of each stage, seconds, at each look
        self._knows_open = False
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End; what was said is sent."""
        self._stopped.set()
        self.join(LOOK_SECONDS)
        self._producer.flush(LOOK_SECONDS)

    def run(self) -> None:
        """Look until stopped. A broker that doesn't answer is no lag: nothing can go on without it."""
        while not self._stopped.wait(LOOK_SECONDS):
            try:
                self._look()
            except BrokerError as error:
                log.warning("lag of the stages is unknown: %s", error)

    def _look(self) -> None:
        worst: dict[str, float] = {}
        for stage, offsets, lag in self._stages:
            lag_s = lag.note(self._clock() / 1e6, offsets.standing(range(self._partitions)))
            worst[stage] = max(worst.get(stage, 0.0), lag_s)
        if not self._knows_open:
            self._alerts.take_up(list(said_before(self._kafka, self._codec, self._partitions)), self._clock())
            self._knows_open = True
        for stage, lag_s in worst.items():
            self._note(stage, lag_s)
            for event in self._alerts.conclude(stage, lag_s, self._clock()):
                log.warning("stage %s: %.0f s behind", stage, lag_s)
                self._producer.produce(ALERTS.name, self._codec.encode(event), stage.encode())
        self._producer.poll(0)
