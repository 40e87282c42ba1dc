"""Lag of our own stages, seen from outside: how long ago was written what a stage has not yet acknowledged."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Producer

from agentledger.processors.acknowledged import producer_settings
from agentledger.processors.offsets import GroupOffsets, Standing
from agentledger.processors.topics import HOLDS_GROUP, PACKER_GROUP, SCOPES_GROUP, WORKER_GROUP
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import BrokerError
from agentledger.schemas.events import AlertRaised, AlertResolved, Event
from agentledger.schemas.identity import content_id, uuid7
from agentledger.schemas.ports import Clock
from agentledger.schemas.topics import ALERTS, EVENTS, HOLDS, PACKED, PARTIALS

LOOK_SECONDS = 5.0
SAMPLES_MAX = 720  # an hour of them: a lag of more than that is told as an hour
RAISE_AFTER_S = 30.0  # twice what a worker that was killed needs to be missed and replaced
RESOLVE_BELOW_S = 10.0
RULE = "stage_lag"
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


class StageLag:
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
    """Raised once per stage, resolved once it has caught up."""

    def __init__(self, raise_after_s: float = RAISE_AFTER_S, resolve_below_s: float = RESOLVE_BELOW_S) -> None:
        self._raise_after_s = raise_after_s
        self._resolve_below_s = resolve_below_s
        self._open: set[str] = set()
        self._producer_id = ""
        self._seq = 0

    def conclude(self, stage: str, lag_s: float, now_us: int) -> Event | None:
        """What to say of a stage with this lag, if anything."""
        if stage not in self._open and lag_s >= self._raise_after_s:
            self._open.add(stage)
            return AlertRaised(
                **self._envelope(now_us),
                alert_id=alert_id_of(stage),
                rule=RULE,
                severity="critical",
                summary=f"stage {stage} is {lag_s:.0f} s behind: what it decides comes that much late",
                scope="stage",
                scope_value=stage,
                observed=lag_s,
                expected=self._raise_after_s,
            )
        if stage in self._open and lag_s < self._resolve_below_s:
            self._open.discard(stage)
            return AlertResolved(
                **self._envelope(now_us),
                alert_id=alert_id_of(stage),
                rule=RULE,
                reason="condition_ended",
                resolved_by=RULE,
            )
        return None

    def _envelope(self, now_us: int) -> dict[str, Any]:
        self._producer_id = self._producer_id or f"stage-lag:{uuid7(now_us)}"
        seq, self._seq = self._seq, self._seq + 1
        return {
            "event_id": uuid7(now_us),
            "tenant_id": "",
            "producer_id": self._producer_id,
            "producer_seq": seq,
            "run_id": "",
            "occurred_at": now_us,
        }


def alert_id_of(stage: str) -> str:
    """The same for every repetition of the condition, whoever saw it."""
    return content_id(0, "alert", RULE, "", "stage", stage)


class LagWatch(threading.Thread):
    """Asks the broker every few seconds, in a thread and over connections of its own."""

    def __init__(self, kafka: dict[str, Any], codec: Codec, clock: Clock) -> None:
        super().__init__(name="stage-lag", daemon=True)
        self._codec = codec
        self._clock = clock
        self._producer = Producer(producer_settings(kafka))
        self._stages = [(name, GroupOffsets(kafka, group, topic), StageLag()) for name, group, topic in STAGES]
        self._partitions = len(self._producer.list_topics(EVENTS.name, 30).topics[EVENTS.name].partitions)
        self._alerts = LagAlerts()
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
        for stage, lag_s in worst.items():
            event = self._alerts.conclude(stage, lag_s, self._clock())
            if event is not None:
                log.warning("stage %s: %.0f s behind", stage, lag_s)
                self._producer.produce(ALERTS.name, self._codec.encode(event), stage.encode())
        self._producer.poll(0)
