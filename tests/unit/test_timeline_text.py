"""The timeline and the scoreboard as people see them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from agentledger.schemas.events import EVENT_TYPES
from agentledger.sinks.event_text import duration_text, money_text
from agentledger.sinks.run_trail import COLUMNS, Trail, in_order
from agentledger.sinks.scoreboard import scoreboard
from agentledger.sinks.timeline import HIDDEN, timeline

START = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = {"event_type", "producer_id", "requestor", "answered_model", "requested_model", "tool", "target", "status"} | {
    name for name in COLUMNS if name.startswith(("error", "scope", "policy", "rule", "verdict", "enforced", "reason"))
} | {"action", "metric", "on_exceeded", "severity", "summary", "verified_by", "result", "source", "resource"} | {
    "decided_by", "requested_from", "command", "task", "arguments_digest", "tenant_id"}  # fmt: skip
COUNTS = {"step", "log_index", "attempt", "limit_amount", "used_amount", "threshold_percent", "count"}
RUN: dict[str, Any] = {
    "run_id": "r1", "workflow": "refund", "agent_id": "bot", "agent_version": "3", "tenant_id": "acme", "source": "sdk",
    "status": "failed", "outcome_success": False, "outcomes": 1, "started_at": START, "duration_ms": 61_000,
    "start_recorded": True, "model_calls": 1, "tool_calls": 2, "tool_errors": 1, "repeated_tool_calls": 1,
    "total_tokens": 1150, "denials": 0, "budgets_exceeded": 1, "alerts": 0, "cost_nanousd": 3_100_000,
    "unpriced_model_calls": 0, "reported_cost_nanousd": None, "user_cost_nanousd": None,
    "budget_cost_nanousd": 3_000_000, "tool_cost_nanousd": None, "human_cost_nanousd": None,
}  # fmt: skip


def row(event_type: str, name: str, at_s: float = 0, **fields: Any) -> dict[str, Any]:
    assert event_type in EVENT_TYPES
    empty: dict[str, Any] = dict.fromkeys(COLUMNS)
    empty |= dict.fromkeys(TEXTS, "") | dict.fromkeys(COUNTS, 0)
    empty |= {"event_id": name, "event_type": event_type, "producer_id": "p1", "attempt": 1, "trigger_event_ids": [],
              "evidence_ids": [], "dry_run": False, "occurred_at": START + timedelta(seconds=at_s)}  # fmt: skip
    return empty | fields


def shown(renderable: RenderableType, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), record=True, color_system=None)
    console.print(renderable)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


EVENTS = [
    row("RunStarted", "start", task="order A-1"),
    row("ModelCallCompleted", "m1", 1, step=1, answered_model="gpt-4.1", status="ok", latency_ms=1200.4,
        input_tokens=100, cache_read_tokens=1000, output_tokens=40, reasoning_tokens=10),
    row("CostRated", "c1", 1, rated_event_id="m1", cost_nanousd=3_100_000),
    row("ToolCallCompleted", "t1", 2, step=2, tool="refund", status="ok", parent_event_id="m1", arguments_digest="d",
        target="order:A-1", latency_ms=20.0),
    row("ToolCallCompleted", "t2", 3, step=3, tool="refund", status="timeout", parent_event_id="m1",
        arguments_digest="d", attempt=2, latency_ms=30_000.0),
    row("BudgetExceeded", "b1", 3, trigger_event_id="c1", scope="run", metric="cost_nanousd", limit_amount=3_000_000,
        used_amount=3_100_000, on_exceeded="halt"),
    row("RunFinished", "end", 61, step=4, status="failed", reason="no\nrefund"),
    row("OutcomeRecorded", "o1", 86_400 * 2, success=False, score=0.5, verified_by="suite"),
]  # fmt: skip

GOLDEN = """\
run r1
failed · failure · 2026-01-01 00:00:00 UTC, 1m01s
workflow refund · agent bot 3 · tenant acme · source sdk

     time step what                                        tokens   took    cost
    +0.0s    0 run started order A-1
    +1.0s    1 model gpt-4.1                             1,100→50 1200ms $0.0031
concluded        !! cost budget of the run exceeded:
               $0.0031 of $0.0030, halt
    +2.0s    2   tool refund on order:A-1                           20ms
    +3.0s    3   tool refund try 2 timeout repeated                30.0s
   +61.0s    4 run failed (no refund)
   +2d00h      outcome failure score 0.5 by suite

1 model call · 2 tool calls (1 failed, 1 repeated) · 1,150 tokens · 1 broken
budget
cost $0.0031 · budget $0.0030, 103 % used"""


def test_a_run_reads_as_lines_of_80_columns() -> None:
    assert shown(timeline(Trail(RUN, EVENTS))) == GOLDEN


@pytest.mark.parametrize("width", [80, 120])
def test_a_long_run_with_wide_texts_stays_within_the_terminal(width: int) -> None:
    events = [row("RunStarted", "start", task="語" * 300)]
    call = {"tool": "run_" * 30, "status": "error", "target": "x" * 200, "latency_ms": 9e7}
    noise = "\x1b[31m tail \x07" * 20
    events += [
        row("ToolCallCompleted", f"t{step}", step * 60, step=step, error_message=noise, **call) for step in range(290)
    ]
    text = shown(timeline(Trail(RUN, events)), width)
    assert all(Console(width=width).measure(line).maximum <= width for line in text.splitlines())
    assert text.count("error") == 290
    assert not {"\x1b", "\x07"} & set(text)


def test_a_provider_cost_is_not_shown_as_ours() -> None:
    call = row("ModelCallCompleted", "m1", 1, answered_model="x", status="ok", reported_cost_nanousd=5_000_000)
    lines = shown(timeline(Trail(RUN, [call])))
    assert "~$0.0050" in lines
    assert "as the provider reported it" in lines
    assert "unpriced" in shown(timeline(Trail(RUN, [call | {"reported_cost_nanousd": None}])))


def test_a_persons_time_has_its_cost_in_the_line_of_the_decision() -> None:
    events = [
        row("ApprovalDecided", "a1", 1, verdict="approved"),
        row("CostRated", "c1", 1, rated_event_id="a1", cost_nanousd=6 * 10**9),
        row("ApprovalDecided", "a2", 2, verdict="rejected"),
    ]
    text = shown(timeline(Trail(RUN | {"human_cost_nanousd": 6 * 10**9}, events)))
    approved, rejected = (line for line in text.splitlines() if "approval decided" in line)
    assert approved.endswith("$6.0000")
    assert rejected.endswith("rejected")
    assert "of it people $6.0000" in text


@pytest.mark.parametrize("event_type", sorted(EVENT_TYPES))
def test_each_kind_of_event_has_words(event_type: str) -> None:
    text = shown(timeline(Trail(RUN, [row(event_type, "x", metric="tokens")])))
    assert ("+0.0s" in text or "\nconcluded" in text) is (event_type not in HIDDEN)


def test_a_hold_shows_where_it_was_refused() -> None:
    hold = {"metric": "cost_nanousd", "scope": "team", "scope_value": "x", "limit_amount": 10**9, "reason": "limit"}
    granted, refused = (row("HoldDecided", verdict, verdict=verdict, **hold) for verdict in ("granted", "refused"))
    text = shown(timeline(Trail(RUN, [granted, refused])))
    assert text.count("!! hold") == 1
    assert "concluded      !! hold refused, limit: cost budget of team x" in text


def test_a_conclusion_has_no_offset_to_the_agents_clock() -> None:
    """Imported runs are of long ago: what was concluded from them today is not days late."""
    call = row("ToolCallCompleted", "t1", 2, step=2, tool="refund", status="ok")
    alert = row("AlertRaised", "a1", 86_400 * 4, trigger_event_ids=["t1"], severity="warning", rule="loop")
    text = shown(timeline(Trail(RUN, [call, alert])))
    assert "4d" not in text
    assert "concluded        !! alert warning loop" in text


def test_a_late_step_stands_where_it_belongs() -> None:
    events = [row("StateChanged", f"s{step}", step=step) for step in (0, 2, 1)]
    events.insert(1, row("StateChanged", "other", producer_id="p2", step=0))
    assert [placed["event_id"] for placed, _ in in_order(events)] == ["s0", "other", "s1", "s2"]


kinds = st.sampled_from(["ModelCallCompleted", "CostRated", "BudgetExceeded", "AlertRaised", "OutcomeRecorded"])
names = st.integers(0, 9).map(lambda number: f"e{number}")


@given(st.lists(st.tuples(kinds, names, names, st.integers(0, 3)), max_size=10))
def test_every_event_is_placed_once_whatever_it_names(drawn: list[tuple[str, str, str, int]]) -> None:
    events: list[Mapping[str, Any]] = [
        row(kind, f"e{number}", step=step, rated_event_id=one, trigger_event_ids=[one, two], parent_event_id=one)
        for number, (kind, one, two, step) in enumerate(drawn)
    ]
    placed = in_order(events)
    assert sorted(str(event["event_id"]) for event, _ in placed) == sorted(str(event["event_id"]) for event in events)
    assert all(0 <= depth <= 3 for _, depth in placed)


@pytest.mark.parametrize(
    ("nanousd", "text"),
    [(None, "unpriced"), (0, "$0.0000"), (410_000_000, "$0.4100"), (4200, "$0.0000042"), (1, "$0.000000001"),
     (-500, "-$0.00000050"), (1_234_567_890_123, "$1,234.5679"), (50_000, "$0.000050")],
)  # fmt: skip
def test_a_small_amount_does_not_read_as_zero(nanousd: int | None, text: str) -> None:
    assert money_text(nanousd) == text


@pytest.mark.parametrize(
    ("duration_ms", "text"), [(1500, "1.5s"), (61_000, "1m01s"), (3_660_000, "1h01m"), (180_000_000, "2d02h")]
)
def test_durations_are_short(duration_ms: int, text: str) -> None:
    assert duration_text(duration_ms) == text


def score(workflow: str, **fields: Any) -> dict[str, Any]:
    return {
        "tenant_id": "acme", "workflow": workflow, "runs": 40, "successes": 34, "failures": 6, "unaccounted": 0,
        "cost_nanousd": 4_123_456_789, "cost_per_successful_outcome_nanousd": 121_278_140, "unpriced_model_calls": 0,
        "tool_calls_per_run": 7.3, "escalations": 2, "denials": 0, "budgets_broken": 1, "alerts": 0,
    } | fields  # fmt: skip


def test_the_scoreboard_fits_80_columns_and_marks_lower_bounds() -> None:
    unpriced = score("swe", unpriced_model_calls=3, unaccounted=2)
    nothing = score("none", cost_nanousd=None, cost_per_successful_outcome_nanousd=None, successes=0, failures=0)
    assert (
        shown(scoreboard([score("refund"), unpriced, nothing], 80))
        == """\
workflow runs success     cost /success tools esc deny bdgt alrt
refund     40   34/40  $4.1235  $0.1213   7.3   2    0    1    0
swe        40   34/40 $4.1235* $0.1213*   7.3   2    0    1    0
none       40       - unpriced        -   7.3   2    0    1    0
* at least: of the model calls, 3 have no price
2 of the runs have no known outcome: their cost is counted"""
    )


def test_figures_are_never_cut() -> None:
    large = {"runs": 123_456, "successes": 12_345, "failures": 22_222, "cost_nanousd": 123_456_789_012_345,
             "escalations": 1234, "denials": 12_345, "alerts": 999}  # fmt: skip
    text = shown(scoreboard([score("refund"), score("workflow" * 9, tenant_id="t" * 40, **large)], 80))
    assert all(figure in text for figure in ("123,456 ", "12345/34567", "$123,456.79", " 1,234 ", " 12,345 ", " 999"))


def test_tenants_are_named_where_there_are_several() -> None:
    text = shown(scoreboard([score("refund"), score("refund", tenant_id="zeta")], 120), 120)
    assert [line.split()[:2] for line in text.splitlines()[1::2]] == [["tenant", "acme"], ["tenant", "zeta"]]
    assert "per success" in text
    assert "no run is recorded" in shown(scoreboard([]))
