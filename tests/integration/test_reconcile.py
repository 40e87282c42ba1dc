"""A drift of one nano-dollar is found, wherever it is, on a real ClickHouse; and nothing is where there is none."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentledger.infra.reconciliation import account_windows, alerts_due, alerts_said
from agentledger.schemas.events import (
    AlertRaised,
    AlertResolved,
    AlertUpdated,
    BudgetDeclared,
    BudgetHeld,
    BudgetReleased,
    BudgetSettled,
    CostRated,
    Event,
    HoldReported,
    OutcomeCosted,
)
from agentledger.sinks.reconcile import CHECKS, CheckResult, reconcile
from tests.hold_logs import SECOND_US, HoldLog, of
from tests.ledger_rows import START_US, Ledger, clickhouse_with_views, id_of

pytestmark = pytest.mark.integration

DAY_US = 86_400 * SECOND_US
BEGIN_US = START_US + DAY_US - 900 * SECOND_US  # a quarter of an hour before days and hours end
END_US = BEGIN_US + 1800 * SECOND_US
LIMITS: tuple[dict[str, Any], ...] = (
    {"budget_id": "total", "window": "total"},
    {"budget_id": "day", "window": "day", "scope": "agent"},
    {"budget_id": "hour", "window": "hour", "scope": "user"},
    {"budget_id": "run", "window": "run", "scope": "run"},
    {"budget_id": "slide", "window": "sliding", "window_ms": 600_000, "scope": "agent"},
    {"budget_id": "tools", "window": "total", "metric": "tool_calls"},
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with clickhouse_with_views(tmp_path_factory.mktemp("reconcile")) as (client, _):
        yield client


def some_events() -> list[tuple[int, Event]]:
    """Half an hour of holds with all that follows, each with its ledger time in microseconds."""
    rng, log = random.Random(7), HoldLog()
    events: list[tuple[int, Event]] = []

    def say(event: Event, at_us: int) -> None:
        events.append((at_us, event))
        events.extend((at_us, derived) for derived in log.send(event, at_us))

    for limit in LIMITS:
        usual = {"scope": "tenant", "metric": "cost_nanousd", "limit_amount": 10**6, "on_exceeded": "halt"}
        fields = {**usual, "enforcement": "hold", "budget_version": 1, "thresholds_percent": ["50"], **limit}
        say(log.event(BudgetDeclared, BEGIN_US, **fields), BEGIN_US)
    charged: dict[str, int] = {}
    for number in range(200):
        at_us = BEGIN_US + number * 9 * SECOND_US
        run_id = f"run-{number % 12}"
        whose = {"run_id": run_id, "agent_id": f"agent-{number % 3}", "actor": f"user-{number % 4}"}
        derived = log.request(f"h{number}", 50, at_us, ask_tool_calls=1, **whose)
        events.extend((at_us, event) for event in derived)
        if number % 11 == 5:
            continue  # dies
        at_us += rng.randint(1, 5) * SECOND_US
        cost, call_id = rng.randint(0, 60), id_of(f"call {number}")
        report = {"hold_id": f"h{number}", "action": "settle", "actual_cost_nanousd": cost, "actual_tool_calls": 1}
        say(log.event(HoldReported, at_us, call_event_id=call_id, **report, **whose), at_us)
        if number % 17 == 3:  # no price is known
            events.append((at_us, replace(charge(f"charge {number}", at_us, call_id, 0, run_id), cost_nanousd=None)))
            continue
        charged[run_id] = charged.get(run_id, 0) + cost
        events.append((at_us, charge(f"charge {number}", at_us, call_id, cost, run_id)))
    events.extend((END_US, event) for event in log.tick(END_US))
    for run_id, cost in charged.items():
        fields = {"revision": 2, "cost_nanousd": cost, "run_id": run_id}
        events.append((END_US, log.event(OutcomeCosted, END_US, **fields)))
    return events


def charge(name: str, at_us: int, call_id: str, cost: int, run_id: str) -> CostRated:
    return CostRated(
        event_id=id_of(name), tenant_id="acme", producer_id="processor", producer_seq=0, run_id=run_id,
        occurred_at=at_us, rated_event_id=call_id, kind="model", priced=True, cost_nanousd=cost,
    )  # fmt: skip


EVENTS = some_events()


def drifting(client: Any, events: list[tuple[int, Event]]) -> dict[str, CheckResult]:
    """The results of every check over a ledger of just these events, by name."""
    client.command("TRUNCATE TABLE agentledger.ledger")
    ledger = Ledger()
    for at_us, event in events:
        ledger.put_event(event, (at_us - START_US) / 1e6)
    ledger.write(client)
    declared = [(at_us, event) for at_us, event in events if isinstance(event, BudgetDeclared)]
    to_us = END_US + 200 * SECOND_US
    windows = account_windows(declared, to_us)
    return {item.check: item for item in reconcile(client, from_us=BEGIN_US - 1, to_us=to_us, windows=windows)}


def changed(kind: type[Event], which: int, change: Callable[[Any], Event | None]) -> list[tuple[int, Event]]:
    """The events, with one of a kind changed or left out."""
    events, count = [], 0
    for at_us, event in EVENTS:
        if isinstance(event, kind):
            count += 1
            if count == which:
                other = change(event)
                events += [] if other is None else [(at_us, other)]
                continue
        events.append((at_us, event))
    assert count >= which
    return events


def test_nothing_is_found_where_everything_adds_up(client: Any) -> None:
    results = drifting(client, EVENTS)
    assert results.keys() == set(CHECKS)
    assert [result for result in results.values() if result.drifts] == []
    compared = {check: result.compared for check, result in results.items()}
    settled = [event for _, event in EVENTS if isinstance(event, BudgetSettled)]
    assert compared["settled_as_reported"] == len(settled)
    assert compared["settled_as_charged"] == len(
        [event for _, event in EVENTS if isinstance(event, CostRated) and event.cost_nanousd is not None]
    )
    assert compared["settled_is_charged"] > compared["settled_as_charged"]
    assert compared["held_adds_up"] > 15
    assert compared["used_adds_up"] > 10
    assert compared["runs_as_charged"] == 12
    assert results["settled_as_charged"].expected == results["settled_as_charged"].found > 1000


def add_one(name: str) -> Callable[[Any], Event]:
    return lambda event: replace(event, **{name: getattr(event, name) + 1})


@pytest.mark.parametrize(
    ("kind", "which", "change", "checks"),
    [
        (CostRated, 20, add_one("cost_nanousd"), {"settled_as_charged", "runs_as_charged"}),
        (HoldReported, 30, add_one("actual_cost_nanousd"), {"settled_as_charged", "settled_as_reported"}),
        (BudgetSettled, 60, add_one("amount"), {"settled_as_reported", "used_adds_up"}),
        (OutcomeCosted, 3, add_one("cost_nanousd"), {"runs_as_charged"}),
        (BudgetReleased, 7, lambda event: None, {"held_adds_up", "nothing_leaked"}),
    ],
)
def test_one_nano_dollar_is_found(
    client: Any, kind: type[Event], which: int, change: Callable[[Any], Event | None], checks: set[str]
) -> None:
    results = drifting(client, changed(kind, which, change))
    found = {check for check, result in results.items() if result.drifts}
    assert found <= checks | {"held_adds_up"}
    assert found & checks
    for check in found & {"settled_as_charged", "settled_as_reported", "used_adds_up", "runs_as_charged"}:
        assert all(abs(drift.found - drift.expected) == 1 for drift in results[check].examples), check


def test_each_account_that_says_one_too_much_is_found(client: Any) -> None:
    """The last word on each account, of each kind of window."""
    tried = set()
    last: dict[tuple[str, str, str], int] = {}
    for place, (_, event) in enumerate(EVENTS):
        if isinstance(event, BudgetSettled | BudgetReleased | BudgetHeld):
            run_id = event.run_id if event.budget_id == "run" else ""
            last[event.budget_id, event.scope_value, run_id] = place
    for (budget_id, *_), place in last.items():
        if budget_id in tried:
            continue
        tried.add(budget_id)
        events = list(EVENTS)
        at_us, event = events[place]
        for name, check in (("used_amount", "used_adds_up"), ("held_amount", "held_adds_up")):
            events[place] = at_us, replace(event, **{name: getattr(event, name) + 1})
            [drift] = drifting(client, events)[check].examples
            assert drift.found - drift.expected == 1
            assert f"budget {budget_id} " in drift.subject
    assert tried == {limit["budget_id"] for limit in LIMITS}


def test_a_settled_call_without_a_charge_is_found_when_it_is_overdue(client: Any) -> None:
    def is_dear(event: CostRated) -> bool:
        return bool(event.cost_nanousd)

    dear = next(n for n, event in enumerate((e for _, e in EVENTS if isinstance(e, CostRated)), 1) if is_dear(event))
    results = drifting(client, changed(CostRated, dear, lambda event: None))
    assert results["settled_is_charged"].drifts == 1
    assert results["runs_as_charged"].drifts == 1


def test_a_charge_that_is_there_twice_is_found(client: Any) -> None:
    events = changed(CostRated, 9, lambda event: event)
    [double] = [event for _, event in events if isinstance(event, CostRated)][8:9]
    events.append((END_US - 1, replace(double, event_id=id_of("again"), cost_nanousd=5)))
    assert drifting(client, events)["settled_as_charged"].drifts == 1


def test_an_alert_is_raised_once_updated_and_resolved(client: Any) -> None:
    drifted = changed(CostRated, 20, add_one("cost_nanousd"))
    results = list(drifting(client, drifted).values())
    first = alerts_due(results, *alerts_said(client))
    assert {type(event) for event in first} == {AlertRaised}
    assert len(first) == 2
    raised = next(event for event in of(AlertRaised, first) if event.summary.startswith("settled_as_charged"))
    assert "1 of " in raised.summary
    assert "-1 nano-dollars" in raised.summary
    assert raised.trigger_event_ids
    again = list(drifting(client, drifted + [(END_US, event) for event in first]).values())
    assert alerts_due(again, *alerts_said(client)) == []
    many = [
        (at_us, replace(event, cost_nanousd=(event.cost_nanousd or 0) + 1) if isinstance(event, CostRated) else event)
        for at_us, event in EVENTS
    ]
    grown = list(drifting(client, many + [(END_US, event) for event in first]).values())
    updates = alerts_due(grown, *alerts_said(client))
    assert {type(event) for event in updates} == {AlertUpdated}
    assert {event.alert_id for event in of(AlertUpdated, updates)} == {
        event.alert_id for event in of(AlertRaised, first)
    }
    said = [(END_US, event) for event in [*first, *updates]]
    over = alerts_due(list(drifting(client, EVENTS + said).values()), *alerts_said(client))
    assert {type(event) for event in over} == {AlertResolved}
    seqs = sorted(event.producer_seq for event in [*first, *updates, *over])
    assert seqs == list(range(6))
    once_more = drifted + said + [(END_US + 1, event) for event in over]
    back = alerts_due(list(drifting(client, once_more).values()), *alerts_said(client))
    assert {type(event) for event in back} == {AlertRaised}
    assert {event.event_id for event in back}.isdisjoint(event.event_id for event in first)


def test_the_folders_of_a_ledger_may_be_empty(client: Any, tmp_path: Path) -> None:
    client.command("TRUNCATE TABLE agentledger.ledger")
    assert reconcile(client, from_us=0, to_us=END_US, windows=[]) == []
    assert alerts_said(client) == ({}, {})
