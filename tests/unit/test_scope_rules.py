"""The rules over all runs of a tenant: each fires on what it is for, not on less, once, and is over again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from agentledger.processors.rules.models import RuleSet
from agentledger.processors.scope_rules import watches_of
from agentledger.processors.scope_watch import RuleWatch
from agentledger.schemas import uuid7
from agentledger.schemas.budget_questions import Raise, raise_of
from agentledger.schemas.control import control_key
from agentledger.schemas.errors import ConfigurationError
from agentledger.schemas.events import (
    AlertRaised,
    AlertResolved,
    ApprovalDecided,
    ApprovalRequested,
    BudgetExceeded,
    ControlIssued,
    Event,
    GapDetected,
    PolicyDecided,
    RunStarted,
    ToolCallCompleted,
)
from agentledger.schemas.topics import BUDGETS, CONTROL
from tests.run_logs import T0_US
from tests.scope_rig import Happened, Stage2, budget, declarations, happened, run_stage2, stage1, tick

HOUR_MS = 3_600_000
USD = 1_000_000_000


def rules(*items: dict[str, Any]) -> list[RuleWatch[Any]]:
    """Watches of a rules file."""
    return watches_of(RuleSet.model_validate({"rules": items}).rules)


def folded(
    log: Sequence[Happened], *rule: dict[str, Any], declared: Sequence[tuple[int, Event]] = (), end_ms: int = 0
) -> Stage2:
    """Stage 2 over one source's log and these declarations, up to an end."""
    end_ms = end_ms or max((record.time_us - T0_US for record in log), default=0) // 1000 + 2000
    ordered = sorted([*log], key=lambda record: record.time_us)
    partials = stage1([*ordered, tick(end_ms)], 0, partitions=1)
    holds = declarations([*declared, (end_ms, tick(end_ms).event)])
    return run_stage2([record.value for record in partials], holds, lambda: rules(*rule), sources=1)


def life(stage: Stage2) -> list[str]:
    """What became of alerts, in order."""
    events = stage.events(AlertRaised, AlertResolved)
    return [f"{type(event).__name__.removeprefix('Alert').lower()} {event.rule}" for event in events]


def calls(count: int, *, at_ms: int = 0, every_ms: int = 100, **fields: Any) -> list[Happened]:
    """So many tool calls."""
    kind = fields.pop("kind", ToolCallCompleted)
    first = fields.pop("first_seq", 0)
    return [
        happened(at_ms + number * every_ms, kind=kind, producer_seq=first + number, **fields) for number in range(count)
    ]


ERRORS = {"name": "errors", "kind": "error_rate", "window": "1m", "percent": 50, "resolve_percent": 20}


def test_error_rate_is_raised_once_and_over_when_calls_succeed_again() -> None:
    good, bad = calls(30), calls(40, at_ms=3000, status="error", first_seq=30)
    later = calls(100, at_ms=90_000, first_seq=70)
    stage = folded([*good, *bad, *later], ERRORS, end_ms=200_000)
    assert life(stage) == ["raised errors", "resolved errors"]
    [alert] = stage.events(AlertRaised)
    assert (alert.scope, alert.scope_value) == ("tool", "get_order")
    assert alert.observed >= 50
    assert alert.expected == 50


def test_error_rate_is_over_when_nothing_is_called_any_more() -> None:
    stage = folded(calls(40, status="error"), ERRORS, end_ms=300_000)
    assert life(stage) == ["raised errors", "resolved errors"]


def test_error_rate_needs_its_volume() -> None:
    assert life(folded(calls(19, status="error"), ERRORS, end_ms=9000)) == []
    assert life(folded(calls(20, status="error"), ERRORS, end_ms=9000)) == ["raised errors"]


LATENCY = {"name": "slow", "kind": "latency", "window": "1m", "limit": "2s"}


def test_latency_looks_at_the_quantile_and_not_at_the_mean() -> None:
    one_slow = [*calls(99, latency_ms=100.0), *calls(1, at_ms=9900, latency_ms=1e6, first_seq=99)]
    assert life(folded(one_slow, LATENCY, end_ms=15_000)) == []
    many_slow = [*calls(90, latency_ms=100.0), *calls(10, at_ms=9000, latency_ms=5000.0, first_seq=90)]
    stage = folded(many_slow, LATENCY, end_ms=200_000)
    assert life(stage) == ["raised slow", "resolved slow"]
    [alert] = stage.events(AlertRaised)
    assert alert.observed == pytest.approx(5_000_000, rel=0.02)


def test_latency_against_its_own_history() -> None:
    rule = {**LATENCY, "times": 3, "limit": "1ms", "baseline": "8h"}
    usual = [call for hour in range(4) for call in calls(30, at_ms=hour * HOUR_MS, latency_ms=200.0)]
    assert life(folded(usual, rule, end_ms=4 * HOUR_MS)) == []
    slower = calls(30, at_ms=4 * HOUR_MS, latency_ms=900.0)
    assert life(folded([*usual, *slower], rule, end_ms=4 * HOUR_MS + 10_000)) == ["raised slow"]


def test_burst_of_denials_by_agent() -> None:
    rule = {"name": "denials", "kind": "denial_burst", "window": "1m", "denials": 5}
    few = calls(4, kind=PolicyDecided, verdict="deny", action="refund", agent_id="a")
    assert life(folded([*few, *calls(4, at_ms=500, kind=PolicyDecided, verdict="deny", agent_id="b")], rule)) == []
    stage = folded(calls(5, kind=PolicyDecided, verdict="deny", agent_id="a"), rule, end_ms=100_000)
    assert life(stage) == ["raised denials", "resolved denials"]
    assert stage.events(AlertRaised)[0].scope_value == "a"


GAP = {"name": "gap", "kind": "sequence_gap", "window": "10s"}


def numbered(*seqs: int, every_ms: int = 1000, at_ms: int = 0) -> list[Happened]:
    """One call per sequence number."""
    return [
        happened(at_ms + place * every_ms, kind=ToolCallCompleted, producer_seq=seq) for place, seq in enumerate(seqs)
    ]


def test_a_hole_is_told_after_its_wait_and_once() -> None:
    stage = folded(numbered(0, 1, 2, 5, 6, 9), GAP, end_ms=60_000)
    holes = [(gap.first_missing_seq, gap.last_missing_seq) for gap in stage.events(GapDetected)]
    assert holes == [(3, 4), (7, 8)]
    assert life(stage) == ["raised gap"]
    assert stage.events(AlertRaised)[0].observed == 4
    assert stage.events(GapDetected)[0].gap_producer_id == "sdk"


def test_a_hole_that_is_filled_in_time_is_none() -> None:
    assert folded(numbered(0, 3, 2, 1, 4), GAP, end_ms=60_000).events() == []


def test_numbers_across_many_blocks_are_no_hole() -> None:
    assert folded(numbered(*range(300), every_ms=20), GAP, end_ms=60_000).events() == []


def test_late_events_fill_a_hole_that_was_told() -> None:
    log = [*numbered(0, 1, 4, 5), *numbered(2, at_ms=20_000), *numbered(3, at_ms=30_000)]
    assert life(folded(log, GAP, end_ms=60_000)) == ["raised gap", "resolved gap"]


def test_a_producer_that_counts_wildly_gives_few_gaps() -> None:
    stage = folded(numbered(*(number * 1_000_003 for number in range(500)), every_ms=10), GAP, end_ms=60_000)
    assert 1 <= len(stage.events(GapDetected)) <= 32
    assert life(stage) == ["raised gap"]


def test_a_version_is_new_only_where_there_was_one_before() -> None:
    rule = {"name": "new", "kind": "new_version", "window": "1h", "quiet": "1h"}
    starts = [
        happened(at_ms, kind=RunStarted, prompt_version=version, workflow=workflow)
        for at_ms, version, workflow in (
            (0, "p1", "refund"),
            (1000, "p2", "refund"),
            (2 * HOUR_MS, "p1", "refund"),
            (2 * HOUR_MS + 1000, "p3", "refund"),
            (2 * HOUR_MS + 2000, "p9", "triage"),
            (2 * HOUR_MS + 3000, "p3", "refund"),
        )
    ]
    stage = folded(starts, rule, end_ms=4 * HOUR_MS)
    assert [alert.summary for alert in stage.events(AlertRaised)] == [
        "prompt p3 is new in workflow refund, watched since 2025-06-15 15:06 UTC"
    ]
    assert life(stage) == ["raised new", "resolved new"]


BURN = {
    "name": "burn",
    "kind": "spend_burn_rate",
    "period": "30d",
    "windows": [
        {"long": "1h", "short": "5m", "rate": 14.4, "severity": "critical"},
        {"long": "6h", "short": "30m", "rate": 6},
    ],
}


def test_burn_rate_of_a_monthly_budget() -> None:
    """720 USD a month is 1 USD an hour: 14.4 times that is 14.4 USD in an hour, and still so in the last 5 minutes."""
    declared = [(0, budget(720 * USD, window="month"))]
    minutes = range(60)
    long = [happened(minute * 60_000, int(0.12 * USD), producer_seq=minute) for minute in range(360)]
    stage = folded(long, BURN, declared=declared)
    assert life(stage) == [
        "raised burn"
    ]  # 7.2 USD an hour: too slow for the first pair, over 6 hours enough for the other
    assert stage.events(AlertRaised)[0].severity == "warning"
    steady = [happened(minute * 60_000, int(0.05 * USD), producer_seq=minute) for minute in minutes]
    assert life(folded(steady, BURN, declared=declared)) == []
    fast = [happened(minute * 60_000, int(0.3 * USD), producer_seq=minute) for minute in minutes]
    stage = folded(fast, BURN, declared=declared, end_ms=12 * HOUR_MS)
    assert life(stage)[0] == "raised burn"
    assert life(stage)[-1] == "resolved burn"


def test_burn_windows_scale_with_the_period_of_the_budget() -> None:
    """24 USD a day: windows are a 30th of those of a month."""
    declared = [(0, budget(24 * USD))]
    burst = [happened(second * 1000, int(0.02 * USD), producer_seq=second) for second in range(120)]
    stage = folded(burst, BURN, declared=declared, end_ms=2 * HOUR_MS)
    assert life(stage) == ["raised burn", "resolved burn"]
    assert stage.events(AlertRaised)[0].severity == "critical"


def test_scaled_windows_in_which_one_call_is_a_rate_are_left_out() -> None:
    burn = {**BURN, "short_min": "1m"}
    burst = [happened(second * 1000, int(0.02 * USD), producer_seq=second) for second in range(120)]
    of_a_day = folded(burst, burn, declared=[(0, budget(24 * USD))], end_ms=2 * HOUR_MS)
    assert [alert.severity for alert in of_a_day.events(AlertRaised)] == ["warning"]  # by the longer pair
    call = [happened(1000, int(0.5 * USD))]
    of_an_hour = [(0, budget(USD, window="hour"))]
    assert life(folded(call, BURN, declared=of_an_hour, end_ms=HOUR_MS))[0] == "raised burn"
    assert life(folded(call, burn, declared=of_an_hour, end_ms=HOUR_MS)) == []


def test_a_spike_is_measured_against_the_same_hour_of_other_weeks() -> None:
    rule = {"name": "spike", "kind": "spend_spike", "floor_usd": "1"}
    week_ms = 168 * HOUR_MS
    usual = [happened(week * week_ms + 1000, 10 * USD + week * USD, producer_seq=week) for week in range(5)]
    assert life(folded(usual, rule, end_ms=5 * week_ms)) == []
    night = happened(4 * week_ms + 5 * HOUR_MS, 8 * USD)
    stage = folded([*usual, night], rule, end_ms=5 * week_ms)
    assert life(stage) == ["raised spike", "resolved spike"]  # nothing was ever spent at that hour
    same_hour = happened(5 * week_ms + 1000, 30 * USD)
    stage = folded([*usual, same_hour], rule, end_ms=5 * week_ms + 10 * HOUR_MS)
    assert life(stage) == ["raised spike", "resolved spike"]
    assert stage.events(AlertRaised)[0].scope_value == "refund"


def test_too_little_known_is_no_spike() -> None:
    rule = {"name": "spike", "kind": "spend_spike", "floor_usd": "1"}
    log = [happened(0, USD), happened(168 * HOUR_MS, 100 * USD)]
    assert life(folded(log, rule, end_ms=169 * HOUR_MS)) == []


def test_an_exceeded_budget_halts_its_scope_and_the_halt_lapses_with_the_window() -> None:
    declared = [(0, budget(USD, scope="agent", scope_value="", window="hour", on_exceeded="halt"))]
    stage = folded([happened(5000, 2 * USD)], declared=declared, end_ms=2 * HOUR_MS)
    [exceeded], [halt] = stage.events(BudgetExceeded), stage.events(ControlIssued)
    assert (exceeded.scope_value, exceeded.used_amount, exceeded.agent_id) == ("refunds", 2 * USD, "refunds")
    assert (halt.command, halt.scope, halt.scope_value) == ("halt", "agent", "refunds")
    assert halt.expires_at == exceeded.window_end
    assert exceeded.window_end - exceeded.window_start == HOUR_MS * 1000
    assert life(stage) == ["raised budget_exceeded", "resolved budget_exceeded"]
    resolved = stage.events(AlertResolved)[0]
    assert (resolved.reason, resolved.occurred_at) == ("window_ended", exceeded.window_end)


@pytest.mark.parametrize(("scope", "value"), [("team", "red"), ("user", "ann"), ("label:region", "eu")])
def test_a_budget_of_any_scope_halts_it(scope: str, value: str) -> None:
    declared = [(0, budget(USD, scope=scope, scope_value="", window="hour", on_exceeded="halt"))]
    log = [happened(5000, 2 * USD, actor="ann", labels={"team": "red", "region": "eu"})]
    [halt] = folded(log, declared=declared, end_ms=10_000).events(ControlIssued)
    assert (halt.command, halt.scope, halt.scope_value) == ("halt", scope, value)


def test_a_watched_budget_that_asks_halts_asks_and_takes_more_for_an_answer() -> None:
    asks = {"scope": "agent", "scope_value": "", "on_exceeded": "ask_human"}
    more = budget(3 * USD, budget_version=2, declared_by="maria", reason="go on", **asks)
    declared = [(0, budget(USD, **asks)), (10_000, more)]
    stage = folded([happened(5000, 2 * USD), happened(20_000, 2 * USD)], declared=declared, end_ms=26 * HOUR_MS)
    first, second = stage.events(ApprovalRequested)
    assert (first.action, first.target) == ("raise_budget", "b1 of agent refunds")
    answers = [(item.approval_id, item.verdict) for item in stage.events(ApprovalDecided)]
    assert answers == [(first.approval_id, "approved"), (second.approval_id, "expired")]
    approved = stage.events(ApprovalDecided)[0]
    assert (approved.decided_by, approved.reason) == ("maria", "go on")
    assert raise_of(first.change_redacted) == Raise("b1", "agent", "refunds", "cost_nanousd", USD, 2 * USD)
    commands = [(item.command, item.scope_value, item.on_exceeded) for item in stage.events(ControlIssued)]
    assert commands == [
        ("halt", "refunds", "ask_human"), ("resume", "refunds", ""), ("halt", "refunds", "ask_human"),
    ]  # fmt: skip
    asked = {record.topic for record in stage.derived if b"raise_budget" in (record.value or b"")}
    assert asked == {BUDGETS.name}  # among a run's events it would be one of the agent's own


def test_a_raised_limit_ends_the_alert_and_a_retired_budget_says_nothing_more() -> None:
    declared = [
        (0, budget(USD)),
        (10_000, budget(5 * USD, budget_version=2)),
        (20_000, budget(5 * USD, budget_version=3, retired=True)),
    ]
    log = [happened(5000, 2 * USD), happened(30_000, 50 * USD)]
    stage = folded(log, declared=declared, end_ms=60_000)
    assert [event.reason for event in stage.events(AlertResolved)] == ["limit_raised"]
    assert len(stage.events(BudgetExceeded)) == 1


def test_a_declaration_that_is_repeated_late_changes_nothing() -> None:
    first, second = budget(USD), budget(5 * USD, event_id=uuid7(T0_US + 1), budget_version=2)
    declared = [(0, first), (1000, second), (2000, first)]
    assert folded([happened(5000, 2 * USD)], declared=declared, end_ms=10_000).events(BudgetExceeded) == []


def test_usage_slides_out_of_a_sliding_window() -> None:
    declared = [(0, budget(USD, window="sliding", window_ms=60_000))]
    log = [happened(1000, 2 * USD), happened(200_000, 2 * USD)]
    stage = folded(log, declared=declared, end_ms=400_000)
    assert life(stage) == ["raised budget_exceeded", "resolved budget_exceeded"] * 2


def test_budgets_that_need_holds_are_left_to_holds() -> None:
    declared = [(0, budget(USD, enforcement="hold")), (0, budget(USD, budget_id="r", scope="run", scope_value=""))]
    assert folded([happened(5000, 2 * USD)], declared=declared, end_ms=10_000).events() == []


def test_a_rule_that_cannot_be_for_a_workflow_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="workflow"):
        rules({**ERRORS, "where": {"workflow": ["refund"]}})


def test_a_rule_for_other_tenants_says_nothing() -> None:
    rule = {**ERRORS, "where": {"tenant": ["globex"]}}
    assert life(folded(calls(40, status="error"), rule, end_ms=9000)) == []


def test_a_budget_over_on_two_metrics_halts_until_both_have_more() -> None:
    tokens = {"metric": "tokens", "on_exceeded": "halt"}
    declared = [
        (0, budget(USD, on_exceeded="halt")),
        (0, budget(5, event_id=uuid7(T0_US + 1), **tokens)),
        (10_000, budget(5 * USD, event_id=uuid7(T0_US + 2), budget_version=2, on_exceeded="halt")),
        (20_000, budget(50, event_id=uuid7(T0_US + 3), budget_version=2, **tokens)),
    ]
    stage = folded([replace(happened(5000, 2 * USD), tokens=6)], declared=declared, end_ms=30_000)
    commands = [(event.command, (event.occurred_at - T0_US) // 1_000_000) for event in stage.events(ControlIssued)]
    assert [command for command, _ in commands] == ["halt", "halt", "resume"]
    assert commands[-1][1] >= 20
    # Under a key of the budget's own: what a person commands of the same scope stays.
    keys = {record.key for record in stage.derived if record.topic == CONTROL.name}
    assert keys == {control_key("acme", "tenant", "acme", "budget:b1")}
