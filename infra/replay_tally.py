"""What conclusions add up to: spend per workflow, who was stopped, which alerts were raised. Pure.

A replay with other prices, budgets or rules isn't equal to the ledger, and isn't meant to be: both are added up, and
the difference is the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from agentledger.schemas.events import AlertRaised, BudgetExceeded, CostRated, Event, HoldDecided

STOPS = frozenset({"halt", "escalate", "ask_human"})  # what a budget asks for that ends or holds up what goes on
ALERTS_MAX = 200_000  # alerts remembered one by one; those beyond are only counted


class Scope(NamedTuple):
    """One value of one scope of a tenant: a run, an agent, the tenant itself."""

    tenant_id: str
    scope: str
    value: str


@dataclass
class Spend:
    """What the charges of a workflow come to."""

    charges: int = 0
    unpriced: int = 0
    cost_nanousd: int = 0

    def add(self, other: Spend) -> None:
        """Add another sum."""
        self.charges += other.charges
        self.unpriced += other.unpriced
        self.cost_nanousd += other.cost_nanousd


class Stop(NamedTuple):
    """The first limit exceeded that stops a scope: at which ledger time (microseconds), and by how much."""

    at_us: int
    budget_id: str
    metric: str
    limit: int
    used: int
    on_exceeded: str


class Alert(NamedTuple):
    """One condition that was raised: when first, and what it said."""

    at_us: int
    rule: str
    severity: str
    scope: Scope
    summary: str


@dataclass
class Tally:
    """The sums over conclusions of one side."""

    spend: dict[tuple[str, str], Spend] = field(default_factory=dict)  # by tenant and workflow
    prices: Counter[str] = field(default_factory=Counter)  # by price version: charges
    stops: dict[Scope, Stop] = field(default_factory=dict)
    spent_after: Counter[Scope] = field(default_factory=Counter)  # nano-dollars of stopped runs after their stop
    refused: Counter[str] = field(default_factory=Counter)  # by tenant: holds refused
    raised: Counter[str] = field(default_factory=Counter)  # by rule
    alerts: dict[str, Alert] = field(default_factory=dict)  # by alert id

    def count(self, event: Event) -> None:
        """Add one conclusion. For `spent_after` those of a run come in their order."""
        if isinstance(event, CostRated):
            self._count_charge(event)
        elif isinstance(event, BudgetExceeded):
            if event.on_exceeded in STOPS:
                scope = Scope(event.tenant_id, event.scope, event.scope_value)
                stop = Stop(
                    event.occurred_at, event.budget_id, event.metric, event.limit_amount, event.used_amount,
                    event.on_exceeded,
                )  # fmt: skip
                self._stop(scope, stop)
        elif isinstance(event, HoldDecided):
            self.refused[event.tenant_id] += event.verdict == "refused"
        elif isinstance(event, AlertRaised):
            self.raised[event.rule] += 1
            if len(self.alerts) < ALERTS_MAX:
                scope = Scope(event.tenant_id, event.scope, event.scope_value)
                alert = Alert(event.occurred_at, event.rule, event.severity, scope, event.summary)
                self.alerts.setdefault(event.alert_id, alert)

    def add(self, other: Tally) -> None:
        """Add the tally of another part."""
        for key, spend in other.spend.items():
            self.spend.setdefault(key, Spend()).add(spend)
        self.prices.update(other.prices)
        for scope, stop in other.stops.items():
            self._stop(scope, stop)
        self.spent_after.update(other.spent_after)
        self.refused.update(other.refused)
        self.raised.update(other.raised)
        for alert_id, alert in other.alerts.items():
            known = self.alerts.setdefault(alert_id, alert)
            if alert.at_us < known.at_us:
                self.alerts[alert_id] = alert

    def total(self) -> Spend:
        """The spend of all workflows."""
        total = Spend()
        for spend in self.spend.values():
            total.add(spend)
        return total

    def _count_charge(self, charge: CostRated) -> None:
        spend = self.spend.setdefault((charge.tenant_id, charge.workflow), Spend())
        spend.charges += 1
        spend.unpriced += not charge.priced
        if charge.priced:
            self.prices[charge.price_version] += 1
        cost = charge.cost_nanousd or 0
        spend.cost_nanousd += cost
        run = Scope(charge.tenant_id, "run", charge.run_id)
        if run in self.stops:
            self.spent_after[run] += cost

    def _stop(self, scope: Scope, stop: Stop) -> None:
        known = self.stops.get(scope)
        if known is None or stop.at_us < known.at_us:
            self.stops[scope] = stop


def newly_stopped(stored: Tally, replayed: Tally) -> Iterator[tuple[Scope, Stop]]:
    """What the replay would have stopped and the ledger didn't, the earliest first."""
    yield from _only(replayed.stops, stored.stops)


def no_longer_stopped(stored: Tally, replayed: Tally) -> Iterator[tuple[Scope, Stop]]:
    """What the ledger stopped and the replay would not have, the earliest first."""
    yield from _only(stored.stops, replayed.stops)


def _only(these: dict[Scope, Stop], those: dict[Scope, Stop]) -> Iterator[tuple[Scope, Stop]]:
    found = [(scope, stop) for scope, stop in these.items() if scope not in those]
    yield from sorted(found, key=lambda one: (one[1].at_us, one[0]))
