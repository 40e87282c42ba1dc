"""Every view's numbers on a real ClickHouse: one row per fact, exact money, nothing counted twice."""

from __future__ import annotations

import io
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from rich.console import Console

from agentledger.schemas import events as e
from agentledger.schemas.errors import StoreError, UsageError
from agentledger.schemas.events import EVENT_TYPES
from agentledger.schemas.topics import EVENTS, topic_of
from agentledger.sinks.queries import query
from agentledger.sinks.run_trail import read_trail
from agentledger.sinks.runs_view import runs_where
from agentledger.sinks.scoreboard import scoreboard, scoreboard_rows
from agentledger.sinks.timeline import timeline
from tests.ledger_rows import DAY_S, Ledger, clickhouse_with_views, id_of

pytestmark = pytest.mark.integration


def fill_r1(ledger: Ledger) -> None:
    """A run with everything: retries, a simulated user, a broken budget, an alert, an outcome replaced."""
    add = ledger.add
    add(e.RunStarted, "start", 0, source="sdk", task="order A-1", budget_cost_nanousd=2000, labels={"team": "x"})
    add(e.RunStarted, "start again", 0.1, source="other", workflow="wrong", task="order B-2")
    m1 = add(e.ModelCallCompleted, "m1", 1, step=1, requested_model="gpt-4.1", answered_model="gpt-4.1-2025",
             status="ok", requestor="assistant", input_tokens=100, cache_read_tokens=40, output_tokens=10,
             latency_ms=1200.0, reported_cost_nanousd=900)  # fmt: skip
    add(e.ModelCallCompleted, "m1", 1, "conflict", step=1, input_tokens=999_999, requestor="assistant", status="ok",
        reported_cost_nanousd=10**9)  # fmt: skip
    charge = {"producer_id": "processor:r1", "kind": "model", "price_source": "book", "price_version": "7"}
    add(e.CostRated, "c1", 1.1, rated_event_id=m1, priced=True, cost_nanousd=1000, **charge)
    add(e.CostRated, "c1", 1.1, "duplicate", rated_event_id=m1, priced=True, cost_nanousd=1000, **charge)
    add(e.PolicyDecided, "allow", 1.2, step=2, verdict="allow", policy="refunds", rule="limit", parent_event_id=m1)
    tool = {"status": "ok", "requestor": "assistant", "parent_event_id": m1, "latency_ms": 50.0}
    same = {"tool": "get_order", "arguments_digest": "sha256:aa"}
    add(e.ToolCallCompleted, "t1", 2, step=3, **same, **tool)
    add(e.ToolCallCompleted, "t1", 2, "duplicate", step=3, **same, **tool)
    add(e.ToolCallCompleted, "t2", 3, step=4, **same, **tool | {"requestor": ""})  # empty is the assistant too
    add(e.ToolCallCompleted, "t3", 4, step=5, **same, **tool | {"requestor": "user"})
    m2 = add(e.ModelCallCompleted, "m2", 5, step=6, requested_model="secret-1", status="rejected", input_tokens=5,
             output_tokens=5, reasoning_tokens=2)  # fmt: skip
    add(e.CostRated, "c2", 5.1, rated_event_id=m2, priced=False, unpriced_reason="unknown_model", **charge)
    m3 = add(e.ModelCallCompleted, "m3", 6, step=7, requested_model="gpt-4.1", status="error", attempt=2,
             error_type="RateLimit")  # fmt: skip
    m4 = add(e.ModelCallCompleted, "m4", 7, step=8, requested_model="gpt-4.1", status="ok", requestor="user",
             input_tokens=7, output_tokens=7, reported_cost_nanousd=700)  # fmt: skip
    add(e.CostRated, "c4", 7.1, rated_event_id=m4, priced=True, cost_nanousd=500, **charge)
    add(e.PolicyDecided, "deny", 8, step=9, verdict="deny", policy="refunds", rule="limit", enforced="blocked")
    add(e.ToolCallCompleted, "t4", 9, step=10, tool="refund", status="denied", requestor="assistant")
    add(
        e.ToolCallCompleted, "t5", 9.5, step=11, tool="refund", status="error", error_type="Timeout"
    )  # no digest either
    m5 = add(e.ModelCallCompleted, "m5", 10, step=12, answered_model="gpt-4.1", status="ok", input_tokens=50,
             output_tokens=1)  # fmt: skip
    c5 = add(e.CostRated, "c5", 10.1, rated_event_id=m5, priced=True, cost_nanousd=1001, **charge)
    budget = {"producer_id": "processor:r1", "budget_id": "run", "scope": "run", "scope_value": "r1",
              "metric": "cost_nanousd", "limit_amount": 2000, "trigger_event_id": c5}  # fmt: skip
    add(e.BudgetThresholdCrossed, "b80", 10.2, threshold_percent=80, used_amount=2001, **budget)
    add(e.BudgetExceeded, "b100", 10.2, used_amount=2001, on_exceeded="ask_human", **budget)
    alert = {"producer_id": "processor:r1", "alert_id": id_of("alert"), "rule": "budget_exceeded"}
    raised = {"severity": "critical", "summary": "run r1 is over its budget", "trigger_event_ids": [m3, m5]}
    add(e.AlertRaised, "a1", 10.3, **alert, **raised)
    add(e.AlertRaised, "a1 again", 10.4, **alert, **raised)
    add(e.AlertResolved, "a1 over", 20, reason="acknowledged", resolved_by="kim", **alert)
    add(e.RunFinished, "end", 12, step=13, status="escalated", reason="handed over", reported_cost_nanousd=123)
    add(e.OutcomeRecorded, "o1", 2 * DAY_S, success=False, score=0.0, verified_by="suite")
    add(e.OutcomeRecorded, "o2", 3 * DAY_S, success=True, score=1.0, value_nanousd=10**10, verified_by="kim")
    costed = {"producer_id": "processor:r1", "cost_nanousd": 2001, "reported_cost_nanousd": 900, "model_calls": 4,
              "unpriced_model_calls": 2, "tool_calls": 5, "tool_errors": 2}  # fmt: skip
    add(e.OutcomeCosted, "oc2", 3 * DAY_S, success=True, revision=2, outcome_event_id=id_of("o2"), **costed)
    add(e.OutcomeCosted, "oc1", 3 * DAY_S + 1, success=False, revision=1, outcome_event_id=id_of("o1"), **costed)


def fill_others(ledger: Ledger) -> None:
    add = ledger.add
    r2 = {"run_id": "r2", "producer_id": "p2"}  # its start was lost
    add(e.ModelCallCompleted, "r2 m1", 30, producer_seq=1, status="ok", requested_model="x", **r2)
    r3 = {"run_id": "r3", "producer_id": "p3"}
    add(e.RunStarted, "r3 start", 40, source="tau2", **r3)
    m1 = add(e.ModelCallCompleted, "r3 m1", 41, status="ok", requested_model="gpt-4.1", input_tokens=1, **r3)
    add(e.CostRated, "r3 c1", 41, rated_event_id=m1, kind="model", priced=True, cost_nanousd=0, run_id="r3",
        producer_id="processor:r3")  # fmt: skip
    add(e.RunFinished, "r3 end", 43, status="failed", reported_cost_nanousd=5000, duration_ms=2500, **r3)
    add(e.OutcomeRecorded, "r3 o1", 44, success=False, **r3)
    add(e.AlertRaised, "r3 a1", 45, run_id="r3", alert_id=id_of("alert"), rule="budget_exceeded", producer_id="x")
    other = {"tenant_id": "zeta", "producer_id": "p4"}  # the same run id in another tenant
    add(e.RunStarted, "zeta start", 50, **other)
    add(e.ModelCallCompleted, "zeta m1", 51, status="ok", input_tokens=3, **other)
    add(e.CostRated, "ghost", 60, run_id="ghost", rated_event_id=id_of("gone"), priced=True, cost_nanousd=5,
        producer_id="processor:ghost")  # fmt: skip
    add(e.GapDetected, "gap", 70, run_id="", gap_producer_id="p2", first_missing_seq=0, last_missing_seq=0,
        producer_id="writer")  # fmt: skip
    r9 = {"run_id": "r9", "producer_id": "p9", "workflow": "other"}
    for seq in (0, 1, 4):
        add(e.StateChanged, f"p9 {seq}", 80 + seq, producer_seq=seq, resource="order", **r9)
    ledger.put({"topic": EVENTS.name, "event_type": "", "poison_reason": "not Avro"}, 90)


def fill_holds(ledger: Ledger) -> None:
    """Five holds: settled after a release that came too early, refused, expired, held, and one only asked for."""
    add = ledger.add
    for number, name in enumerate(["h1", "h2", "h3", "h4", "h5"]):
        hold = {"run_id": "held", "hold_id": name, "producer_id": "hp"}
        add(e.HoldRequested, f"{name} ask", 100 + number, ask_cost_nanousd=500, ask_tokens=10, **hold)
        verdict = {"h2": "refused", "h5": ""}.get(name, "granted")
        if verdict:
            add(e.HoldDecided, f"{name} said", 100.02 + number, verdict=verdict,
                **hold | {"reason": "limit", "budget_id": "team"} if name == "h2" else hold)  # fmt: skip
    h1, h3 = ({"run_id": "held", "hold_id": name, "producer_id": "hp"} for name in ("h1", "h3"))
    add(e.HoldReported, "h1 over", 110, action="settle", actual_cost_nanousd=333, call_event_id=id_of("m1"), **h1)
    add(e.HoldReported, "h1 late", 111, action="release", reason="lost", **h1)
    add(e.BudgetReleased, "h3 over", 112, reason="expired", metric="tokens", amount=10, **h3)
    limit = {"budget_id": "team", "metric": "cost_nanousd", "run_id": "", "producer_id": "hp", "scope": "team"}
    add(e.BudgetDeclared, "team 1", 90, limit_amount=1000, budget_version=1, window="day", **limit)
    add(e.BudgetDeclared, "team 2", 95, limit_amount=2000, budget_version=2, window="day", **limit)
    grown = {"producer_id": "x", "rule": "loop", "alert_id": id_of("loop"), "run_id": "held"}
    add(e.AlertRaised, "loop 1", 96, severity="warning", summary="3 times", observed=3.0, expected=2.0, **grown)
    add(e.AlertUpdated, "loop 2", 97, severity="critical", summary="10 times", count=10, observed=10.0, **grown)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    ledger = Ledger()
    fill_r1(ledger)
    fill_others(ledger)
    fill_holds(ledger)
    with clickhouse_with_views(tmp_path_factory.mktemp("clickhouse")) as (connected, _):
        ledger.write(connected)
        yield connected


def records(client: Any, sql: str) -> list[dict[str, Any]]:
    return query(client, sql).records()


def one(client: Any, sql: str) -> dict[str, Any]:
    (row,) = records(client, sql)
    return row


def test_a_run_is_one_row_with_exact_numbers(client: Any) -> None:
    run = one(client, "SELECT * FROM agentledger.runs WHERE run_id = 'r1' AND tenant_id = 'acme'")
    expected = {
        "workflow": "refund", "agent_id": "bot", "source": "sdk", "task": "order A-1", "status": "escalated",
        "model_calls": 4, "user_model_calls": 1, "model_errors": 2, "tool_calls": 5, "user_tool_calls": 1,
        "tool_errors": 2, "repeated_tool_calls": 1, "input_tokens": 155, "cache_read_tokens": 40,
        "cache_write_tokens": None, "output_tokens": 16, "reasoning_tokens": 2, "total_tokens": 213,
        "cost_nanousd": 2001, "user_cost_nanousd": 500, "reported_cost_nanousd": 900, "unpriced_model_calls": 2,
        "outcome_success": True, "outcome_value_nanousd": 10**10, "outcome_verified_by": "kim", "outcomes": 2,
        "policy_decisions": 2, "denials": 1, "budget_thresholds_crossed": 1, "budgets_exceeded": 1, "alerts": 1,
        "labels": {"team": "x"}, "budget_cost_nanousd": 2000, "duration_ms": 12_000, "start_recorded": True,
    }  # fmt: skip
    assert {name: run[name] for name in expected} == expected
    assert run["started_at"].isoformat().startswith("2026-01-01T00:00:00")
    assert run["ended_at"].isoformat().startswith("2026-01-01T00:00:12")


def test_runs_lists_each_run_of_each_tenant_once(client: Any) -> None:
    rows = records(client, "SELECT tenant_id, run_id FROM agentledger.runs ORDER BY ALL")
    assert [tuple(row.values()) for row in rows] == [
        ("acme", "r1"), ("acme", "r2"), ("acme", "r3"), ("acme", "r9"), ("zeta", "r1"),
    ]  # fmt: skip


def test_what_is_unknown_is_null_and_never_zero(client: Any) -> None:
    run = one(client, "SELECT * FROM agentledger.runs WHERE run_id = 'r2'")
    unknown = ("cost_nanousd", "reported_cost_nanousd", "input_tokens", "total_tokens", "outcome_success", "ended_at",
               "duration_ms", "user_cost_nanousd", "budget_cost_nanousd")  # fmt: skip
    assert {name: run[name] for name in unknown} == dict.fromkeys(unknown)
    assert (run["status"], run["start_recorded"], run["workflow"]) == ("running", False, "refund")
    assert run["unpriced_model_calls"] == 1


def test_a_price_of_zero_is_a_price_and_the_runs_own_report_stands_in(client: Any) -> None:
    run = one(client, "SELECT * FROM agentledger.runs WHERE run_id = 'r3'")
    assert (run["cost_nanousd"], run["unpriced_model_calls"], run["reported_cost_nanousd"]) == (0, 0, 5000)
    assert (run["duration_ms"], run["outcome_success"], run["source"]) == (2500, False, "tau2")


def test_model_calls_carry_their_charge(client: Any) -> None:
    rows = records(
        client, "SELECT * FROM agentledger.model_calls WHERE run_id = 'r1' AND tenant_id = 'acme' ORDER BY step"
    )
    shown = ("model", "cost_nanousd", "reported_cost_nanousd", "priced", "unpriced_reason", "total_tokens")
    assert [tuple(row[name] for name in shown) for row in rows] == [
        ("gpt-4.1-2025", 1000, 900, True, "", 150),
        ("secret-1", None, None, False, "unknown_model", 12),
        ("gpt-4.1", None, None, False, "not_rated", None),
        ("gpt-4.1", 500, 700, True, "", 14),
        ("gpt-4.1", 1001, None, True, "", 51),
    ]
    assert {row["price_version"] for row in rows if row["priced"]} == {"7"}


def test_tool_calls_mark_repetitions(client: Any) -> None:
    rows = records(client, "SELECT * FROM agentledger.tool_calls WHERE run_id = 'r1' ORDER BY step")
    assert [(row["tool"], row["requestor"], row["status"], row["repeated"]) for row in rows] == [
        ("get_order", "assistant", "ok", False),
        ("get_order", "", "ok", True),
        ("get_order", "user", "ok", False),
        ("refund", "assistant", "denied", False),
        ("refund", "", "error", False),
    ]


@pytest.mark.parametrize("column", ["model_calls", "tool_calls", "denials", "outcomes"])
def test_runs_agree_with_the_views_of_single_facts(client: Any, column: str) -> None:
    facts = {
        "model_calls": "agentledger.model_calls WHERE requestor IN ('', 'assistant')",
        "tool_calls": "agentledger.tool_calls",
        "denials": "agentledger.policy_decisions WHERE verdict = 'deny'",
        "outcomes": "agentledger.outcomes",
    }[column]
    counted = one(client, f"SELECT count() AS n FROM {facts}")["n"]
    assert one(client, f"SELECT sum({column}) AS n FROM agentledger.runs")["n"] == counted > 0


def test_money_adds_up_to_the_nanodollar_and_is_an_integer(client: Any) -> None:
    runs = one(client, "SELECT sum(cost_nanousd) + sum(user_cost_nanousd) AS n FROM agentledger.runs")["n"]
    calls = one(client, "SELECT sum(cost_nanousd) AS n FROM agentledger.model_calls")["n"]
    charges = one(client, "SELECT sum(cost_nanousd) AS n FROM agentledger.charges WHERE run_id != 'ghost'")["n"]
    assert runs == calls == charges == 2501
    money = records(client, "SELECT type FROM system.columns WHERE database = 'agentledger' AND name LIKE '%nanousd'")
    assert {row["type"] for row in money} == {"Nullable(Int64)", "Int64"}  # what a hold asks for is never unknown


def test_the_latest_outcome_by_ledger_order_counts(client: Any) -> None:
    rows = records(
        client, "SELECT success, is_latest FROM agentledger.outcomes WHERE run_id = 'r1' ORDER BY ledger_time"
    )
    assert [tuple(row.values()) for row in rows] == [(False, False), (True, True)]


def test_stated_costs_agree_with_runs(client: Any) -> None:
    names = "cost_nanousd, reported_cost_nanousd, model_calls, unpriced_model_calls, tool_calls, tool_errors"
    stated = one(client, f"SELECT success, {names} FROM agentledger.outcome_costs WHERE run_id = 'r1'")
    where = "WHERE run_id = 'r1' AND tenant_id = 'acme'"
    assert stated == one(client, f"SELECT outcome_success AS success, {names} FROM agentledger.runs {where}")


def test_an_alert_is_one_row_however_often_raised(client: Any) -> None:
    alert = one(client, "SELECT * FROM agentledger.alerts WHERE rule = 'budget_exceeded'")
    assert (alert["run_id"], alert["raises"], alert["status"], alert["severity"]) == ("r1", 3, "open", "critical")
    assert alert["resolved_at"] is None  # raised again after it was resolved


def test_budget_events_and_decisions(client: Any) -> None:
    budget = records(
        client,
        "SELECT event_type, used_amount, limit_amount FROM agentledger.budget_events"
        " WHERE run_id = 'r1' ORDER BY log_index",
    )
    assert [tuple(row.values()) for row in budget] == [
        ("BudgetThresholdCrossed", 2001, 2000), ("BudgetExceeded", 2001, 2000),
    ]  # fmt: skip
    verdicts = records(client, "SELECT verdict, enforced FROM agentledger.policy_decisions ORDER BY step")
    assert [tuple(row.values()) for row in verdicts] == [("allow", ""), ("deny", "blocked")]


def test_an_alert_that_grows_says_how_far(client: Any) -> None:
    alert = one(client, "SELECT * FROM agentledger.alerts WHERE rule = 'loop'")
    assert (alert["raises"], alert["updates"], alert["seen"], alert["observed"]) == (1, 1, 10, 10.0)
    assert (alert["severity"], alert["summary"], alert["status"]) == ("critical", "10 times", "open")


def test_a_hold_is_one_row_with_what_became_of_it(client: Any) -> None:
    columns = "hold_id, status, reason, ask_cost_nanousd, actual_cost_nanousd, decision_ms"
    rows = records(client, f"SELECT {columns} FROM agentledger.holds ORDER BY hold_id")
    assert [tuple(row.values()) for row in rows] == [
        ("h1", "settled", "", 500, 333, 20), ("h2", "refused", "limit", 500, None, 20),
        ("h3", "expired", "", 500, None, 20), ("h4", "held", "", 500, None, 20),
        ("h5", "requested", "", 500, None, None),
    ]  # fmt: skip
    limits = records(client, "SELECT limit_amount, is_current FROM agentledger.budgets ORDER BY budget_version")
    assert [tuple(row.values()) for row in limits] == [(1000, False), (2000, True)]


def test_the_scoreboard_counts_failed_runs_into_the_price_of_success(client: Any) -> None:
    row = one(client, "SELECT * FROM agentledger.scoreboard WHERE tenant_id = 'acme' AND workflow = 'refund'")
    expected = {
        "runs": 3, "finished": 2, "successes": 1, "failures": 1, "unaccounted": 1, "cost_nanousd": 2001,
        "cost_per_successful_outcome_nanousd": 2001, "reported_cost_nanousd": 5900, "unpriced_model_calls": 3,
        "tool_calls": 5, "escalations": 1, "denials": 1, "budgets_broken": 1, "alerts": 1,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert Decimal(row["success_rate"]) == Decimal("0.5")
    other = one(client, "SELECT * FROM agentledger.scoreboard WHERE workflow = 'other'")
    assert (other["cost_nanousd"], other["cost_per_successful_outcome_nanousd"]) == (None, None)


def test_events_holds_every_first_row_and_nothing_else(client: Any) -> None:
    counts = one(
        client,
        "SELECT count() AS rows, uniqExact(event_id) AS ids, (SELECT count() FROM agentledger.ledger"
        " WHERE occurrence = 'first' AND event_type != '') AS firsts FROM agentledger.events",
    )
    assert counts["rows"] == counts["ids"] == counts["firsts"] > 40
    row = one(client, f"SELECT value_hex, value_bytes FROM agentledger.events WHERE event_id = '{id_of('m1')}'")
    assert (bytes.fromhex(row["value_hex"]), row["value_bytes"]) == (b"raw bytes", 9)


def test_what_is_no_fact_has_views_of_its_own(client: Any) -> None:
    dead = one(client, "SELECT * FROM agentledger.dead_letters")
    assert (dead["poison_reason"], dead["value_bytes"]) == ("not Avro", 9)
    assert [str(row["event_id"]) for row in records(client, "SELECT event_id FROM agentledger.conflicts")] == [
        id_of("m1")
    ]
    gaps = records(client, "SELECT producer_id, missing, missing_ranges, announced FROM agentledger.gaps ORDER BY 1")
    assert [tuple(row.values()) for row in gaps] == [("p2", 1, [(0, 0)], 1), ("p9", 2, [(2, 3)], 0)]


def test_every_view_and_column_is_described_and_declared_as_it_is(client: Any) -> None:
    bare = records(
        client,
        "SELECT table, name FROM system.columns WHERE database = 'agentledger' AND comment = '' AND table IN"
        " (SELECT name FROM system.tables WHERE database = 'agentledger' AND engine = 'View')",
    )
    assert bare == []
    views = records(
        client, "SELECT name, comment, as_select FROM system.tables WHERE database = 'agentledger' AND engine = 'View'"
    )
    assert len(views) >= 10
    for view in views:
        assert view["comment"], view["name"]
        declared = {row["name"]: row["type"] for row in records(client, f"DESCRIBE TABLE agentledger.{view['name']}")}
        found = {row["name"]: row["type"] for row in records(client, f"DESCRIBE TABLE ({view['as_select']})")}
        assert declared == found, f"{view['name']}: a declared type that differs is a conversion for each row"


def test_the_lists_of_conclusions_in_the_sql_are_the_catalogues(client: Any) -> None:
    sql = one(client, "SELECT as_select FROM system.tables WHERE database = 'agentledger' AND name = 'runs'")[
        "as_select"
    ]
    listed = sql.split("event_type NOT IN (")[1].split(")")[0]
    derived = {name for name in EVENT_TYPES if topic_of(name).in_ledger and topic_of(name) is not EVENTS}
    derived |= {"ConflictDetected", "RunBudgetDeclared"}  # on the events topic
    assert {name.strip(" '") for name in listed.split(",")} == derived


@pytest.mark.parametrize(
    "view", ["events", "runs", "model_calls", "tool_calls", "policy_decisions", "outcomes", "charges"]
)
def test_a_filter_on_the_run_reaches_the_table(client: Any, view: str) -> None:
    plan = query(client, f"EXPLAIN indexes = 1, actions = 1 SELECT * FROM agentledger.{view} WHERE run_id = 'r1'").rows
    text = "\n".join(row[0] for row in plan)
    reads = text.count("ReadFromMergeTree")
    assert reads == (2 if view == "model_calls" else 1)
    assert text.count("Name: by_run") == reads, "the bloom filter on run_id is not used"


def test_a_query_is_bounded_and_cannot_write(client: Any) -> None:
    with pytest.raises(StoreError, match="READONLY"):
        query(client, "DROP TABLE agentledger.ledger")
    with pytest.raises(StoreError, match="READONLY"):
        query(client, "SELECT 1 SETTINGS readonly = 0")
    with pytest.raises(StoreError, match="READONLY"):
        query(client, "SELECT * FROM file('/etc/hostname', 'LineAsString', 'line String')")
    with pytest.raises(StoreError, match="LIMIT"):
        query(client, "SELECT number FROM numbers(1000)", rows_max=999)
    with pytest.raises(StoreError, match="TIMEOUT_EXCEEDED"):
        query(client, "SELECT sum(cityHash64(number)) FROM numbers(1000000000000)", time_s_max=1)
    with pytest.raises(UsageError):
        query(client, " ; ")


def test_an_answer_keeps_exact_integers_and_parameters_are_not_text_of_the_query(client: Any) -> None:
    result = query(client, "SELECT {x:String} AS text, 9223372036854775807 AS big;", parameters={"x": "'; DROP --"})
    assert (result.names, result.rows) == (("text", "big"), [("'; DROP --", 2**63 - 1)])
    assert result.types == ("String", "UInt64")
    assert query(client, "SELECT '100 %d' AS text").rows == [("100 %d",)]


def test_an_error_is_one_line_with_a_next_step(client: Any) -> None:
    with pytest.raises(StoreError) as caught:
        query(client, "SELECT nope FROM agentledger.runs")
    assert str(caught.value) == (
        "ClickHouse: Unknown expression identifier `nope` (UNKNOWN_IDENTIFIER): "
        "list the columns of a view with DESCRIBE agentledger.VIEW"
    )


def test_a_run_is_found_by_its_id_or_the_begin_of_it(client: Any) -> None:
    assert read_trail(client, "r9").run["run_id"] == "r9"
    assert read_trail(client, "r1", "zeta").run["input_tokens"] == 3
    with pytest.raises(UsageError, match=r"several tenants have a run r1.*acme, zeta"):
        read_trail(client, "r1")
    with pytest.raises(UsageError, match=r"several runs begin with r.*r9, r3, r2, r1"):
        read_trail(client, "r", "acme")
    with pytest.raises(UsageError, match=r"no run has the id nope.*the latest are r1"):
        read_trail(client, "nope", "zeta")


def test_a_run_s_row_is_the_view_s(client: Any) -> None:
    of_view = query(client, "SELECT * FROM agentledger.runs ORDER BY tenant_id, run_id")
    by_condition = query(client, f"SELECT * FROM ({runs_where('true')}) ORDER BY tenant_id, run_id")
    assert by_condition.names == of_view.names
    assert by_condition.rows == of_view.rows
    assert len(of_view.rows) > 4
    for run in of_view.records():
        assert read_trail(client, run["run_id"], run["tenant_id"]).run == run


def test_a_timeline_and_a_scoreboard_can_be_made_of_what_is_stored(client: Any) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(timeline(read_trail(client, "r1", "acme")))
    console.print(scoreboard(scoreboard_rows(client), 80))
    text = console.export_text()
    for expected in (
        "cost budget of the run exceeded",
        "alert critical budget_exceeded",
        "outcome success",
        "rejected",
        "repeated",
        "zeta",
    ):
        assert expected in text
