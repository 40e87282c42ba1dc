"""Cost per outcome on a real ClickHouse: sub-runs, and outcomes that come late, twice, reversed or never."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from agentledger.infra.cli import cli
from agentledger.schemas import events as e
from agentledger.schemas.errors import UsageError
from agentledger.schemas.testing.price_book import FixedPriceBook
from agentledger.sinks.cost_per_outcome import Selection, attempt_groups, choose_two, compare_groups
from agentledger.sinks.queries import query
from tests.ledger_rows import DAY_S, Ledger, clickhouse_with_views, id_of
from tests.run_logs import Author, folded, interleaved, some_run

pytestmark = pytest.mark.integration
PARTS = ("own", "model", "tool", "human", "wasted", "retry", "validation")


def priced(ledger: Ledger, kind: type[e.Event], name: str, at_s: float, cost: int | None, **fields: Any) -> str:
    """A call with its charge; without one where `cost` is None."""
    run_id = fields["run_id"]
    event_id = ledger.add(kind, name, at_s, **fields)
    if cost is not None:
        word = {e.ModelCallCompleted: "model", e.ToolCallCompleted: "tool", e.ApprovalDecided: "human"}[kind]
        charge = {"rated_event_id": event_id, "kind": word, "priced": True, "cost_nanousd": cost}
        whose = {"run_id": run_id, "workflow": fields["workflow"], "producer_id": f"processor:{run_id}"}
        ledger.add(e.CostRated, f"charge of {name}", at_s, **charge, **whose)
    return event_id


def attempt(ledger: Ledger, run_id: str, at_s: float, cost: int, status: str, **fields: Any) -> dict[str, Any]:
    """A run of one call that starts then and ends ten seconds later; an empty status: it hasn't ended."""
    common = {"run_id": run_id, "workflow": "claims", "producer_id": f"sdk:{run_id}"}
    versions = {"policy_version": "v1", "prompt_version": "p1"} | fields
    ledger.add(e.RunStarted, f"{run_id} start", at_s, **common, **versions)
    priced(ledger, e.ModelCallCompleted, f"{run_id} m", at_s + 1, cost, status="ok", requested_model="big",
           input_tokens=10, **common)  # fmt: skip
    if status:
        ledger.add(e.RunFinished, f"{run_id} end", at_s + 10, status=status, **common)
    return common


def fill_claims(ledger: Ledger) -> None:
    """One tree of four runs with every kind of cost, and runs whose outcomes come in every way."""
    add = ledger.add
    a = attempt(ledger, "a", 0, 1000, "succeeded", labels={"team": "x"})
    priced(ledger, e.ToolCallCompleted, "a t", 2, 200, status="timeout", tool="search", attempt=2, **a)
    priced(ledger, e.ApprovalDecided, "a yes", 3, 300, verdict="approved", human_ms=60_000, **a)
    add(e.PolicyDecided, "a deny", 3, verdict="deny", **a)
    sub = {"run_id": "a.1", "workflow": "look up", "producer_id": "sdk:a.1"}
    add(e.RunStarted, "a.1 start", 4, parent_run_id="a", policy_version="v9", **sub)
    priced(ledger, e.ModelCallCompleted, "a.1 m1", 4, 150, status="rejected", requested_model="small", **sub)
    priced(ledger, e.ModelCallCompleted, "a.1 m2", 5, 250, status="ok", attempt=2, requested_model="small", **sub)
    checked = priced(ledger, e.ModelCallCompleted, "a.1 m3", 6, 40, status="ok", requested_model="judge", **sub)
    add(e.ValidationCompleted, "a.1 v", 6, parent_event_id=checked, validated_event_id=id_of("a.1 m2"), **sub)
    add(e.ValidationCompleted, "a.1 w", 6, parent_event_id=id_of("a.1 m2"), validated_event_id=id_of("a.1 m2"), **sub)
    priced(ledger, e.ModelCallCompleted, "a.1 u", 6, 7777, status="ok", requestor="user", **sub)  # not the agent's
    deep = {"run_id": "a.1.1", "workflow": "look up", "producer_id": "sdk:a.1.1"}
    add(e.RunStarted, "a.1.1 start", 7, parent_run_id="a.1", **deep)
    priced(ledger, e.ToolCallCompleted, "a.1.1 t", 7, 60, status="ok", tool="search", **deep)
    add(e.OutcomeRecorded, "a late", 3 * DAY_S, success=True, **a)
    b = attempt(ledger, "b", 100, 500, "succeeded")
    add(e.OutcomeRecorded, "b once", 115, success=True, **b)
    add(e.OutcomeRecorded, "b twice", 120, success=True, **b)
    c = attempt(ledger, "c", 200, 700, "succeeded")
    add(e.OutcomeRecorded, "c first", 215, success=True, **c)
    add(e.OutcomeRecorded, "c reversed", 220, success=False, replaces_event_id=id_of("c first"), **c)
    attempt(ledger, "d", 300, 900, "succeeded")  # never an outcome
    attempt(ledger, "e", 400, 100, "")  # never an end either
    f = attempt(ledger, "f", 500, 300, "escalated")
    add(e.OutcomeRecorded, "f unknown", 515, success=None, **f)


def fill_odd_trees(ledger: Ledger) -> None:
    for run_id, parent in (("x", "y"), ("y", "x"), ("s", "s"), ("below x", "x"), ("orphan", "gone")):
        odd = {"run_id": run_id, "workflow": "odd", "producer_id": f"sdk:{run_id}"}
        ledger.add(e.RunStarted, f"{run_id} start", 600, parent_run_id=parent, **odd)
        priced(ledger, e.ModelCallCompleted, f"{run_id} m", 601, 10, status="ok", **odd)
    other = {"tenant_id": "zeta", "run_id": "a.1", "workflow": "claims", "producer_id": "z"}
    ledger.add(e.RunStarted, "zeta a.1", 700, **other)  # another tenant's run of the same id has no parent


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str, Ledger]]:
    ledger = Ledger()
    fill_claims(ledger)
    fill_odd_trees(ledger)
    with clickhouse_with_views(tmp_path_factory.mktemp("clickhouse")) as (client, address):
        ledger.write(client)
        yield client, address, ledger


@pytest.fixture(scope="module")
def client(filled: tuple[Any, str, Ledger]) -> Any:
    return filled[0]


def trees(client: Any, where: str) -> dict[str, dict[str, Any]]:
    rows = query(client, f"SELECT * FROM agentledger.run_trees WHERE {where}").records()
    return {row["run_id"]: row for row in rows}


def test_a_tree_holds_all_that_its_runs_cost(client: Any) -> None:
    row = trees(client, "run_id = 'a'")["a"]
    assert row["cost_nanousd"] == (1000 + 200 + 300) + (150 + 250 + 40) + 60 == 2000
    assert {part: row[f"{part}_cost_nanousd"] for part in PARTS} == {
        "own": 1500, "model": 1000 + 150 + 250 + 40, "tool": 260, "human": 300, "wasted": 200 + 150,
        "retry": 200 + 250, "validation": 40,
    }  # fmt: skip
    assert (row["sub_runs"], row["depth"], row["tool_calls"], row["model_calls"], row["denials"]) == (2, 2, 2, 4, 1)
    assert (row["human_ms"], row["contained"], row["workflow"], row["policy_version"]) == (
        60_000,
        False,
        "claims",
        "v1",
    )
    assert (row["model"], row["labels"], row["unpriced_model_calls"]) == ("big", {"team": "x"}, 0)


def test_a_run_alone_has_its_own_parts(client: Any) -> None:
    [row] = query(client, "SELECT * FROM agentledger.runs WHERE run_id = 'a.1' AND tenant_id = 'acme'").records()
    assert (row["cost_nanousd"], row["user_cost_nanousd"], row["model"]) == (440, 7777, "small")
    assert (row["wasted_cost_nanousd"], row["retry_cost_nanousd"], row["validation_cost_nanousd"]) == (150, 250, 40)
    assert (row["tool_cost_nanousd"], row["human_cost_nanousd"], row["human_ms"]) == (None, None, None)


def test_outcomes_late_twice_reversed_and_never(client: Any) -> None:
    rows = trees(client, "workflow = 'claims' AND tenant_id = 'acme'")
    shown = ("outcome", "outcomes", "outcome_reversed", "silent_failure", "contained", "status")
    assert {name: tuple(row[column] for column in shown) for name, row in rows.items()} == {
        "a": ("success", 1, False, False, False, "succeeded"),  # a person took part
        "b": ("success", 2, False, False, True, "succeeded"),
        "c": ("failure", 2, True, True, True, "succeeded"),
        "d": ("none", 0, False, False, True, "succeeded"),
        "e": ("none", 0, False, False, False, "running"),
        "f": ("unknown", 1, False, False, False, "escalated"),
    }
    assert rows["a"]["outcome_delay_ms"] == (3 * DAY_S - 10) * 1000
    assert rows["a"]["resolution_ms"] == 3 * DAY_S * 1000
    assert rows["b"]["resolution_ms"] == 20_000
    assert [rows[name]["resolution_ms"] for name in "cdef"] == [None] * 4


def test_the_view_by_day_counts_each_attempt_once(client: Any) -> None:
    [row] = query(
        client, "SELECT * FROM agentledger.cost_per_outcome WHERE workflow = 'claims' AND tenant_id = 'acme'"
    ).records()
    expected = {
        "attempts": 6, "sub_runs": 2, "ended": 5, "completed": 4, "successes": 2, "failures": 1, "unaccounted": 3,
        "repeated_outcomes": 2, "reversed_outcomes": 1, "late_outcomes": 1, "silent_failures": 1, "escalations": 1,
        "contained": 3, "denials": 1, "cost_nanousd": 4500, "cost_per_attempt_nanousd": 750,
        "cost_per_success_nanousd": 2250, "containment_rate": 0.6, "resolution_ms_median": 3 * DAY_S * 1000,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert (str(row["day"]), row["model"], row["policy_version"]) == ("2026-01-01", "big", "v1")


def test_every_run_is_in_one_tree_and_the_trees_cost_what_the_runs_cost(client: Any) -> None:
    sums = "sum(cost_nanousd) AS cost, sum(tool_calls) AS tools, sum(unpriced_model_calls) AS unpriced"
    [runs] = query(client, f"SELECT count() AS runs, {sums} FROM agentledger.runs").records()
    [held] = query(
        client, f"SELECT toInt64(sum(sub_runs) + countIf(recorded)) AS runs, {sums} FROM agentledger.run_trees"
    ).records()
    assert held == runs
    assert runs["runs"] == 3 + 5 + 5 + 1


def test_rings_orphans_and_other_tenants_runs_are_trees_of_their_own(client: Any) -> None:
    odd = trees(client, "workflow = 'odd' ORDER BY run_id")
    assert {name: (row["recorded"], row["sub_runs"]) for name, row in odd.items() if name in {"s", "gone"}} == {
        "s": (True, 0), "gone": (False, 1),
    }  # fmt: skip
    assert odd["gone"]["outcome"] == "none"
    assert odd["gone"]["own_cost_nanousd"] is None
    assert {"x", "y"} <= set(odd)
    assert sum(odd[name]["sub_runs"] for name in ("x", "y")) == 1  # the run below the ring is below one of it
    assert sum(row["cost_nanousd"] for row in odd.values()) == 50
    assert trees(client, "tenant_id = 'zeta'")["a.1"]["sub_runs"] == 0


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("workflow", {"claims": 6, "odd": 4}),
        ("policy_version", {"v1": 6, "": 4}),
        ("prompt_version", {"p1": 6, "": 4}),
        ("model", {"big": 6, "": 4}),
        ("agent", {"bot": 10}),
        ("tenant", {"acme": 10}),
        ("day", {"2026-01-01": 10}),
        ("label:team", {"x": 1, "": 9}),
    ],
)
def test_attempts_by_each_dimension(client: Any, by: str, expected: dict[str, int]) -> None:
    groups = attempt_groups(client, Selection(by=by, tenant_id="acme"))
    assert {group.value: group.row["attempts"] for group in groups} == expected
    assert sum(group.row["cost_nanousd"] for group in groups) == 4550


def test_a_time_range_takes_attempts_by_their_start(client: Any) -> None:
    start_us = 1_767_225_600_000_000
    kept = Selection(
        workflow="claims", tenant_id="acme", since_us=start_us + 100_000_000, until_us=start_us + 300_000_000
    )
    [group] = attempt_groups(client, kept)
    assert (group.row["attempts"], group.row["cost_nanousd"]) == (2, 1200)  # b and c


def test_no_dimension_can_carry_sql(client: Any) -> None:
    with pytest.raises(UsageError, match="no dimension is called"):
        attempt_groups(client, Selection(by="1; DROP TABLE agentledger.ledger"))
    assert attempt_groups(client, Selection(by="label:x'] OR 1", workflow="' OR '1' = '1")) == []


def worked_runs() -> Iterator[e.Event]:
    """60 runs whose calls fail, are retried and are approved by people, mixed, as the agents sent them."""
    rng = random.Random(60)
    runs = [some_run(number, rng) for number in range(60)]
    for number, events in enumerate(runs):
        for event in events:
            if isinstance(event, e.ModelCallCompleted | e.ToolCallCompleted):
                event.attempt = rng.choice([1, 1, 2, 3])
                statuses = (
                    ("error", "timeout", "denied")
                    if isinstance(event, e.ToolCallCompleted)
                    else ("rejected", "cancelled")
                )
                event.status = rng.choice(["ok", "ok", *statuses])
        if rng.random() < 0.3:
            decided = Author(f"run-{number}", seed=10_000 + number).write(
                e.ApprovalDecided, producer_id=f"gate-{number}", human_ms=rng.choice([None, 0, 61_001])
            )
            events.insert(len(events) // 2, decided)
    yield from interleaved(runs, rng)


def test_what_the_worker_states_is_what_the_views_say(client: Any) -> None:
    """The same log through the worker's fold and into the ledger: each part of each cost is the same nano-dollar."""
    prices = FixedPriceBook(
        {"sold": (2000, 500, 2500, 8000, 8000), "cheap": (100, 10, 100, 400, 400)},
        tools={"get_order": 300}, human_nanousd_per_hour=48 * 10**9,
    )  # fmt: skip
    log = list(worked_runs())
    ledger, seen = Ledger(), set[str]()
    for number, event in enumerate(log):
        event.tenant_id = "worker"
        ledger.put_event(event, 10**6 + number / 1000, "duplicate" if event.event_id in seen else "first")
        seen.add(event.event_id)
    for number, event in enumerate(folded(log, prices).events(e.CostRated, e.OutcomeCosted)):
        ledger.put_event(event, 10**6 + 100 + number / 1000)
    ledger.write(client)
    names = [
        *("cost_nanousd", "reported_cost_nanousd", "model_calls", "unpriced_model_calls", "tool_calls", "tool_errors"),
        *(f"{part}_cost_nanousd" for part in ("model", "tool", "human", "wasted", "retry")),
        *("human_ms", "parent_run_id", "prompt_version", "policy_version"),
    ]
    select = f"SELECT run_id, {', '.join(names)} FROM agentledger"
    stated = query(client, f"{select}.outcome_costs WHERE tenant_id = 'worker' ORDER BY run_id").records()
    viewed = query(client, f"{select}.runs WHERE tenant_id = 'worker' AND outcomes > 0 ORDER BY run_id").records()
    assert stated == viewed
    assert len(viewed) > 30
    assert all(any(row[f"{part}_cost_nanousd"] for row in viewed) for part in ("tool", "human", "wasted", "retry"))


def fill_versions(ledger: Ledger) -> None:
    """40 attempts under each of two policies: 30 against 12 successes, 1000 against 3000 each."""
    for version, start, wins, cost in (("old", 10_000, 30, 1000), ("new", 50_000, 12, 3000)):
        for number in range(40):
            run = {"run_id": f"{version} {number}", "workflow": "versions", "producer_id": f"sdk:{version}{number}"}
            at_s = start + 60 * number
            ledger.add(e.RunStarted, f"{version} {number} start", at_s, policy_version=version, **run)
            priced(ledger, e.ModelCallCompleted, f"{version} {number} m", at_s, cost + number, status="ok", **run)
            ledger.add(e.RunFinished, f"{version} {number} end", at_s + 5, status="succeeded", **run)
            ledger.add(e.OutcomeRecorded, f"{version} {number} o", at_s + 6, success=number < wins, **run)


def test_two_versions_side_by_side(filled: tuple[Any, str, Ledger], monkeypatch: pytest.MonkeyPatch) -> None:
    client, address, ledger = filled
    fill_versions(ledger)
    ledger.write(client)
    groups = attempt_groups(client, Selection(by="policy_version", workflow="versions"))
    base, other = choose_two(groups, "policy_version")
    assert (base.value, other.value) == ("old", "new")
    verdicts = {
        change.name: change.more_than_noise for change in compare_groups(base, other, "policy_version").differences
    }
    assert verdicts == {
        "completion_rate": False, "success_rate": True, "unaccounted_rate": False, "silent_failure_rate": True,
        "escalation_rate": False, "containment_rate": False, "tool_calls_per_run": False, "denials_per_run": False,
        "resolution_ms": False, "cost_per_attempt": True, "cost_per_success": True, "reported_cost_per_attempt": None,
        "reported_cost_per_success": None,
    }  # fmt: skip
    monkeypatch.setenv("AGENTLEDGER_CLICKHOUSE_URL", address)
    arguments = ["compare", "--workflow", "versions", "--by", "policy_version"]
    said = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False).stdout
    record = json.loads(said)
    assert (record["base"]["policy_version"], record["other"]["policy_version"]) == ("old", "new")
    assert record["base"]["metrics"]["success_rate"]["value"] == 0.75
    assert record["base"]["cost_nanousd"] == 40 * 1000 + sum(range(40))
    assert record["changes"]["cost_per_success"]["more_than_noise"] is True
    shown = CliRunner().invoke(cli, arguments, catch_exceptions=False).stdout
    assert "75.0%" in shown
    assert "30.0%" in shown
    with pytest.raises(UsageError, match="not two values"):
        CliRunner().invoke(cli, [*arguments, "--by", "model"], catch_exceptions=False)
    with pytest.raises(UsageError, match="several tenants"):
        CliRunner().invoke(cli, ["compare", "--workflow", "claims"], catch_exceptions=False)
    table = CliRunner().invoke(cli, ["costs", "--by", "policy_version", "--workflow", "versions"]).stdout
    assert "old" in table
    assert "new" in table
    records = json.loads(CliRunner().invoke(cli, ["costs", "--workflow", "versions", "--json"]).stdout)
    assert [(row["workflow"], row["attempts"], row["successes"]) for row in records] == [("versions", 80, 42)]
