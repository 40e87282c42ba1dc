"""A decider on holds in memory, behind a record producer that keeps its records: for tests without a broker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from agentledger.schemas.codec import Codec
from agentledger.schemas.events import Event, HoldDecided, HoldReported, HoldRequested
from agentledger.schemas.ports import DeliveryReport
from agentledger.schemas.registry import open_registry
from agentledger.schemas.testing.record_producer import FakeRecordProducer
from agentledger.schemas.topics import HOLDS

_ASKS = {
    "cost_nanousd": "ask_cost_nanousd",
    "tokens": "ask_tokens",
    "model_calls": "ask_model_calls",
    "tool_calls": "ask_tool_calls",
}


class FakeHoldDecider(FakeRecordProducer):
    """Takes records like a FakeRecordProducer and decides on requests at once, by one budget of the tenant.

    `limits` are by metric, in its unit; what isn't named has none. `used` and `held` are what was settled and what is
    held now. With `answers=False` requests wait undecided until `answer()`. Only one tenant; holds never lapse.
    """

    def __init__(
        self, limits: Mapping[str, int] | None = None, *, answers: bool = True, on_exceeded: str = "halt"
    ) -> None:
        super().__init__()
        self.limits = dict(limits or {})
        self.answers = answers
        self.used = dict.fromkeys(_ASKS, 0)
        self.holds: dict[str, dict[str, int]] = {}
        self.on_exceeded = on_exceeded
        self._codec = Codec(open_registry())
        self._take: Callable[[bytes], None] = lambda value: None
        self._undecided: list[HoldRequested] = []
        self._given_up: set[str] = set()
        self._deciding = threading.RLock()

    @property
    def held(self) -> dict[str, int]:
        """What is held now, by metric."""
        return {metric: sum(hold[metric] for hold in self.holds.values()) for metric in _ASKS}

    def subscribe(self, take: Callable[[bytes], None]) -> None:
        """Give each decision's bytes to `take`, from now on."""
        self._take = take

    def send(self, topic: str, key: bytes, value: bytes, on_delivery: DeliveryReport) -> bool:
        """As a FakeRecordProducer; then decide."""
        taken = super().send(topic, key, value, on_delivery)
        if taken and topic == HOLDS.name:
            self._hear(self._codec.decode(value))
        return taken

    def answer(self) -> None:
        """Decide on what waits undecided."""
        with self._deciding:
            waiting, self._undecided = self._undecided, []
            for request in waiting:
                self._decide(request)

    def _hear(self, event: Event) -> None:
        with self._deciding:
            if isinstance(event, HoldReported):
                self._report(event)
            elif isinstance(event, HoldRequested):
                if self.answers:
                    self._decide(event)
                else:
                    self._undecided.append(event)

    def _report(self, report: HoldReported) -> None:
        if report.action == "renew":
            return
        if self.holds.pop(report.hold_id, None) is None:
            self._given_up.add(report.hold_id)  # a release that overtakes the decision
        if report.action == "settle":
            for metric in _ASKS:
                self.used[metric] += getattr(report, f"actual_{metric}")

    def _decide(self, request: HoldRequested) -> None:
        asked = {metric: int(getattr(request, field)) for metric, field in _ASKS.items()}
        held = self.held
        over = next((m for m, limit in self.limits.items() if self.used[m] + held[m] + asked[m] > limit), None)
        facts: dict[str, Any] = {"verdict": "granted"}
        if over is not None:
            facts = {
                "verdict": "refused", "reason": "limit", "budget_id": "fake", "scope": "tenant",
                "scope_value": request.tenant_id, "metric": over, "limit_amount": self.limits[over],
                "held_amount": held[over], "used_amount": self.used[over], "on_exceeded": self.on_exceeded,
            }  # fmt: skip
        elif request.hold_id not in self._given_up:
            self.holds[request.hold_id] = asked
        decided = HoldDecided(
            event_id=request.event_id, tenant_id=request.tenant_id, producer_id=f"holds:{request.tenant_id}",
            producer_seq=0, run_id=request.run_id, occurred_at=request.occurred_at, hold_id=request.hold_id, **facts,
        )  # fmt: skip
        self._take(self._codec.encode(decided))
