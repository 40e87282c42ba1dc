"""A trial of anomaly rules on history: what each would have said, and when. Pure; nothing is published.

The same folds as live, both stages, over records as the ledger has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentledger.processors.packing import PackedRecord
from agentledger.processors.rules.models import Rule
from agentledger.processors.run_fold import DerivedRecord, RunFold, StateRecord
from agentledger.processors.scope_fold import ScopeFold
from agentledger.processors.scope_rules import watches_of
from agentledger.schemas.codec import Codec
from agentledger.schemas.events import AlertRaised, AlertResolved, AlertUpdated, BudgetDeclared, Event, Ticked
from agentledger.schemas.ports import PriceBook
from agentledger.schemas.topics import ALERTS, HOLDS, PARTIALS

FIRINGS_MAX = 100_000  # kept; the rest is counted
STORE_EVERY = 20_000  # records between two times that states leave memory for `states`
END_OF_TIME_MS = 2**52


@dataclass(slots=True)
class Firing:
    """One alert as it would have been: raised, perhaps updated, perhaps resolved. Times in microseconds."""

    rule: str
    severity: str
    tenant_id: str
    scope: str
    scope_value: str
    run_id: str
    workflow: str
    summary: str
    raised_us: int
    alert_id: str
    count: int = 1
    updates: int = 0
    resolved_us: int | None = None
    resolve_reason: str = ""


class States(Protocol):
    """Where the states of runs are that aren't in memory."""

    def load(self, key: bytes) -> bytes | None:
        """The state under this key."""

    def store(self, records: Sequence[StateRecord]) -> None:
        """Keep these states; a value of None removes one."""


class RuleTrial:
    """Takes records of source partitions, each in its order, and declarations of budgets; `end` lets the rest out.

    `sources`: the numbers of the source partitions.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        prices: PriceBook,
        codec: Codec,
        sources: Iterable[int],
        states: States,
    ) -> None:
        self._codec = codec
        self._states = states
        self._names = {rule.name for rule in rules if rule.enabled}
        enabled = [rule for rule in rules if rule.enabled]
        self._runs = RunFold(codec, prices, states.load, partitions=1, rules=enabled)
        self._sources = {number: place for place, number in enumerate(sorted(set(sources)))}
        self._offsets = dict.fromkeys(self._sources, 0)  # our own: those of a topic that was made again begin anew
        self._scopes = ScopeFold(codec, len(self._sources), watches_of(enabled), lambda _key: None, list)
        self._scope_offset = 0
        self._open: dict[str, Firing] = {}
        self._since_stored = 0
        self.firings: list[Firing] = []
        self.fired = 0
        self.records = 0

    def declare(self, declared: Iterable[tuple[int, BudgetDeclared]]) -> None:
        """All declarations of budgets, with their ledger times in microseconds: before the first record."""
        take = self._scopes.inputs()[HOLDS.name]
        for offset, (time_us, event) in enumerate(sorted(declared, key=lambda item: item[0])):
            take(0, offset, time_us // 1000, self._codec.encode(event))
        take(0, 2**62, END_OF_TIME_MS, None)  # all are known: seconds need not wait for more

    def take(self, partition: int, ledger_time_us: int, value: bytes | None) -> None:
        """One record of the events topic; None where it has no value. Its time counts in any case."""
        self.records += 1
        offset = self._offsets[partition]
        self._offsets[partition] = offset + 1
        record = PackedRecord(offset, ledger_time_us // 1000, value)
        self._follow(self._runs.take(self._sources[partition], record))
        self._since_stored += 1
        if self._since_stored >= STORE_EVERY:
            self._since_stored = 0
            self._states.store(self._runs.take_changed())

    def end(self, at_us: int) -> None:
        """Let time pass up to here in every source: what is due until then is said."""
        tick = Ticked(event_id="0" * 36, tenant_id="", producer_id="", producer_seq=0, run_id="", occurred_at=at_us)
        value = self._codec.encode(tick)
        for partition in self._sources:
            self.take(partition, at_us, value)

    def _follow(self, derived: Sequence[DerivedRecord]) -> None:
        for record in derived:
            if record.topic == PARTIALS.name:
                self._scope_offset += 1
                take = self._scopes.inputs()[PARTIALS.name]
                self._follow(take(0, self._scope_offset, 0, record.value))
            elif record.topic == ALERTS.name:
                self._note(self._codec.decode(record.value))
        if derived:
            self._scopes.take_changed()  # nothing of it is stored: only so that it does not add up

    def _note(self, event: Event) -> None:
        if isinstance(event, AlertRaised) and event.rule in self._names:
            self.fired += 1
            firing = Firing(
                event.rule, event.severity, event.tenant_id, event.scope, event.scope_value, event.run_id,
                event.workflow, event.summary, event.occurred_at, event.alert_id, event.count,
            )  # fmt: skip
            self._open[event.alert_id] = firing
            if len(self.firings) < FIRINGS_MAX:
                self.firings.append(firing)
        elif isinstance(event, AlertUpdated) and event.alert_id in self._open:
            firing = self._open[event.alert_id]
            firing.count, firing.updates, firing.summary = event.count, firing.updates + 1, event.summary
        elif isinstance(event, AlertResolved) and event.alert_id in self._open:
            firing = self._open.pop(event.alert_id)
            firing.resolved_us, firing.resolve_reason = event.occurred_at, event.reason
