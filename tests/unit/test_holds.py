"""The hold fold by example: what is granted, what is refused, and what follows from reports and from time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.processors.hold_events import RUNBOOK_URLS
from agentledger.processors.hold_rules import DUE_PER_RECORD_MAX, LATE_US, REMEMBERED_US, RENEWED_US_MAX
from agentledger.processors.hold_state import RUN_KEPT_US
from agentledger.processors.holds import HoldFold
from agentledger.schemas.budget_questions import Raise, raise_of
from agentledger.schemas.events import (
    AlertRaised,
    AlertResolved,
    AlertUpdated,
    ApprovalDecided,
    ApprovalRequested,
    BudgetExceeded,
    BudgetHeld,
    BudgetReleased,
    BudgetSettled,
    BudgetThresholdCrossed,
    ControlIssued,
    Event,
    HoldDecided,
    HoldRequested,
)
from agentledger.schemas.partitioning import partition_of
from agentledger.schemas.topics import BUDGETS
from tests.hold_logs import CODEC, PARTITIONS, SECOND_US, T0_US, HoldLog, of, one

DAY_US = 86_400 * SECOND_US
ROOT = Path(__file__).resolve().parents[2]


def verdict(events: list[Event]) -> tuple[str, str]:
    decided = one(HoldDecided, events)
    return decided.verdict, decided.reason


@pytest.fixture
def log() -> HoldLog:
    log = HoldLog()
    log.declare(budget_id="all", limit_amount=100)
    log.declare(budget_id="per-agent", scope="agent", limit_amount=60)
    return log


def test_a_hold_takes_its_part_of_each_budget_that_it_falls_under(log: HoldLog) -> None:
    derived = log.request("h1", 40, agent_id="a")
    assert verdict(derived) == ("granted", "")
    assert [(held.budget_id, held.scope_value, held.amount, held.held_amount) for held in of(BudgetHeld, derived)] == [
        ("all", "acme", 40, 40),
        ("per-agent", "a", 40, 40),
    ]
    assert one(HoldDecided, derived).expires_at == T0_US + 60 * SECOND_US


def test_only_reports_and_time_can_wait_for_the_next_request(log: HoldLog) -> None:
    log.records.clear()
    log.request("h1", 40)
    log.settle("h1", 10)
    log.tick(T0_US)
    log.declare(budget_id="more")
    assert [log.fold.can_wait(value) for _, value in log.records] == [False, True, True, False]
    assert not log.fold.can_wait(None)


def test_all_scopes_or_none(log: HoldLog) -> None:
    log.request("h1", 40, agent_id="a")
    refused = log.request("h2", 30, agent_id="a")
    decided = one(HoldDecided, refused)
    assert len(refused) == 1
    assert (decided.verdict, decided.reason, decided.budget_id, decided.scope_value) == (
        "refused",
        "limit",
        "per-agent",
        "a",
    )
    assert (decided.limit_amount, decided.held_amount, decided.used_amount, decided.on_exceeded) == (60, 40, 0, "halt")
    assert verdict(log.request("h3", 60, agent_id="b")) == ("granted", "")  # nothing of h2 was held on "all"
    assert verdict(log.request("h4", 1, agent_id="c"))[0] == "refused"


def test_settling_puts_the_real_cost_in_place_of_the_ask(log: HoldLog) -> None:
    log.request("h1", 60, agent_id="a")
    settled = of(BudgetSettled, log.settle("h1", 10))
    assert [(item.amount, item.held_amount, item.used_amount) for item in settled] == [(10, 0, 10), (10, 0, 10)]
    assert verdict(log.request("h2", 50, agent_id="a")) == ("granted", "")


def test_releasing_gives_everything_back(log: HoldLog) -> None:
    log.request("h1", 60, agent_id="a")
    released = of(BudgetReleased, log.release("h1"))
    assert [(item.amount, item.held_amount, item.used_amount, item.reason) for item in released] == [
        (60, 0, 0, "released")
    ] * 2
    assert verdict(log.request("h2", 60, agent_id="a")) == ("granted", "")


def test_a_hold_whose_owner_died_is_given_back(log: HoldLog) -> None:
    log.request("h1", 60, agent_id="a")
    assert log.tick(T0_US + 59 * SECOND_US) == []
    released = of(BudgetReleased, log.tick(T0_US + 60 * SECOND_US))
    assert [item.reason for item in released] == ["expired"] * 2
    assert log.tick(T0_US + 61 * SECOND_US) == []


def test_time_passes_with_any_record_of_the_tenant(log: HoldLog) -> None:
    log.request("h1", 60, agent_id="a")
    derived = log.request("h2", 60, T0_US + 60 * SECOND_US, agent_id="a")
    assert [type(event) for event in derived[:3]] == [BudgetReleased, BudgetReleased, HoldDecided]
    assert verdict(derived) == ("granted", "")


def test_a_report_after_the_time_is_up_still_counts_once(log: HoldLog) -> None:
    log.request("h1", 60, agent_id="a")
    log.tick(T0_US + 60 * SECOND_US)
    late = T0_US + 3600 * SECOND_US
    settled = of(BudgetSettled, log.settle("h1", 55, late))
    assert [(item.amount, item.held_amount, item.used_amount) for item in settled] == [(55, 0, 55)] * 2
    assert log.settle("h1", 55, late + 1) == []


def test_what_a_refused_call_used_all_the_same_counts(log: HoldLog) -> None:
    log.request("h1", 60, agent_id="a")
    assert verdict(log.request("h2", 10, agent_id="a"))[0] == "refused"
    assert [item.used_amount for item in of(BudgetSettled, log.settle("h2", 10))] == [10, 10]


def test_a_repetition_gets_the_same_answer_and_changes_nothing(log: HoldLog) -> None:
    first = log.request("h1", 60, agent_id="a")
    again = log.request("h1", 60, T0_US + SECOND_US, agent_id="a")
    assert again == of(HoldDecided, first)
    log.settle("h1", 10)
    assert log.request("h1", 60, T0_US + SECOND_US, agent_id="a") == again
    assert log.settle("h1", 20) == log.release("h1") == []
    refused = log.request("h2", 90, agent_id="b")
    log.settle("h1", 0)
    assert log.request("h2", 90, agent_id="b") == refused


def test_only_what_is_asked_for_is_checked_but_everything_used_counts() -> None:
    log = HoldLog()
    log.declare(budget_id="money", limit_amount=10)
    log.declare(budget_id="calls", metric="tool_calls", limit_amount=2)
    assert verdict(log.request("h1", 10)) == ("granted", "")
    derived = log.request("h2", 0, ask_tool_calls=1)
    assert verdict(derived) == ("granted", "")
    assert [held.budget_id for held in of(BudgetHeld, derived)] == ["calls"]
    settled = of(BudgetSettled, log.settle("h2", 3, actual_tool_calls=1))
    assert [(item.metric, item.amount, item.used_amount) for item in settled] == [
        ("tool_calls", 1, 1),
        ("cost_nanousd", 3, 3),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"cost": 0},
        {"cost": -1},
        {"cost": 5, "ask_tokens": -5},
        {"hold_id": "", "cost": 5},
        {"hold_id": "x" * 201, "cost": 5},
    ],
)
def test_what_makes_no_sense_is_refused(log: HoldLog, fields: dict[str, Any]) -> None:
    assert verdict(log.request(**{"hold_id": "h", **fields})) == ("refused", "invalid")


def test_a_halted_scope_gets_no_holds(log: HoldLog) -> None:
    log.command("halt", "agent", "a")
    log.command("halt", "workflow", "w", expires_at=T0_US + 10 * SECOND_US)
    decided = one(HoldDecided, log.request("h1", 1, agent_id="a"))
    assert (decided.verdict, decided.reason, decided.scope, decided.scope_value) == ("refused", "halted", "agent", "a")
    assert verdict(log.request("h2", 1, agent_id="b", workflow="w")) == ("refused", "halted")
    assert verdict(log.request("h3", 1, T0_US + 10 * SECOND_US, agent_id="b", workflow="w")) == ("granted", "")
    log.command("resume", "agent", "a")
    assert verdict(log.request("h4", 1, agent_id="a")) == ("granted", "")


def test_lines_are_said_once_and_the_scope_is_halted_when_it_is_over() -> None:
    log = HoldLog()
    log.declare(scope="agent", limit_amount=100, on_exceeded="escalate", window="day")
    log.request("h1", 50, agent_id="a")
    assert [item.threshold_percent for item in of(BudgetThresholdCrossed, log.settle("h1", 50))] == [50]
    log.request("h2", 50, agent_id="a")
    derived = log.settle("h2", 51)
    assert [item.threshold_percent for item in of(BudgetThresholdCrossed, derived)] == [80, 100]
    exceeded, alert, halt = one(BudgetExceeded, derived), one(AlertRaised, derived), one(ControlIssued, derived)
    assert (exceeded.used_amount, exceeded.on_exceeded) == (101, "escalate")
    assert (alert.rule, alert.observed, alert.expected) == ("budget_exceeded", 101.0, 100.0)
    assert alert.runbook_url == RUNBOOK_URLS[alert.rule]
    assert (halt.command, halt.scope, halt.scope_value) == ("halt", "agent", "a")
    assert halt.expires_at == exceeded.window_end
    assert verdict(log.request("h3", 1, agent_id="a")) == ("refused", "limit")
    assert exceeded.window_end is not None
    resolved = one(AlertResolved, log.tick(exceeded.window_end))
    assert (resolved.alert_id, resolved.reason) == (alert.alert_id, "window_ended")
    assert verdict(log.request("h4", 1, exceeded.window_end, agent_id="a")) == ("granted", "")


@pytest.mark.parametrize(("scope", "value"), [("team", "red"), ("user", "ann"), ("label:region", "eu")])
def test_a_budget_of_any_scope_halts_it_when_it_is_over(scope: str, value: str) -> None:
    log = HoldLog()
    log.declare(scope=scope, limit_amount=100)
    log.request("h1", 100, actor="ann", labels={"team": "red", "region": "eu"})
    halt = one(ControlIssued, log.settle("h1", 101))
    assert (halt.command, halt.scope, halt.scope_value) == ("halt", scope, value)


def test_escalate_tells_somebody_when_the_first_call_finds_no_room_and_halts_a_run_of_its_own() -> None:
    log = HoldLog()
    log.declare(scope="agent", window="run", limit_amount=100, on_exceeded="escalate")
    log.declare(budget_id="day", scope="agent", window="day", limit_amount=500, on_exceeded="escalate")
    log.request("h1", 90, agent_id="a")
    derived = log.request("h2", 11, agent_id="a")
    assert one(HoldDecided, derived).on_exceeded == "escalate"
    alert, halt = one(AlertRaised, derived), one(ControlIssued, derived)
    assert (alert.rule, alert.severity, alert.scope_value) == ("budget_limit_reached", "critical", "a")
    assert (halt.command, halt.scope, halt.scope_value, halt.on_exceeded) == ("halt", "run", "run-1", "escalate")
    assert len(log.request("h3", 11, agent_id="a")) == 1  # said once
    wide = log.request("h4", 501, agent_id="b", run_id="run-2")
    assert one(AlertRaised, wide).alert_id != alert.alert_id
    assert of(ControlIssued, log.request("h5", 411, agent_id="a", run_id="run-2")) != []  # its own budget comes first
    log.commit()
    log.crash(None)
    derived = log.declare(scope="agent", window="run", limit_amount=200, on_exceeded="escalate", budget_version=2)
    assert {item.rule for item in of(AlertResolved, derived)} == {"budget_limit_reached"}
    assert {(item.command, item.scope_value) for item in of(ControlIssued, derived)} == {
        ("resume", "run-1"), ("resume", "run-2"),
    }  # fmt: skip
    assert verdict(log.request("h6", 11, agent_id="a")) == ("granted", "")


def test_ask_human_asks_once_and_more_budget_is_the_answer() -> None:
    log = HoldLog()
    log.declare(limit_amount=100, on_exceeded="ask_human", window="day")
    log.request("h1", 90, agent_id="a")
    derived = log.request("h2", 11, agent_id="a")
    question = one(ApprovalRequested, derived)
    assert (question.action, question.target, question.run_id) == ("raise_budget", "b of tenant acme", "run-1")
    assert raise_of(question.change_redacted) == Raise("b", "tenant", "acme", "cost_nanousd", 100, 0)
    assert json.loads(question.change_redacted)["held"] == 90
    assert of(ControlIssued, derived) == []  # smaller calls go on while somebody thinks about it
    assert {record.topic for record in log.sent if b"raise_budget" in (record.value or b"")} == {BUDGETS.name}
    assert len(log.request("h3", 11)) == 1
    log.commit()
    log.crash(None)
    assert (
        of(ApprovalDecided, log.declare(limit_amount=100, on_exceeded="ask_human", window="day", labels={"x": "y"}))
        == []
    )
    derived = log.declare(
        limit_amount=200, on_exceeded="ask_human", window="day", budget_version=2, declared_by="maria"
    )
    answer = one(ApprovalDecided, derived)
    assert (answer.approval_id, answer.verdict, answer.decided_by) == (question.approval_id, "approved", "maria")
    log.request("h4", 111)
    log.settle("h1", 250)
    assert question.expires_at is not None
    derived = log.tick(question.expires_at)
    assert one(ApprovalDecided, derived).verdict == "expired"
    assert one(ApprovalDecided, derived).approval_id != question.approval_id


def test_a_sliding_budget_that_slid_below_its_limit_halts_again_when_it_is_over_again() -> None:
    log = HoldLog()
    log.declare(window="sliding", window_ms=3_600_000, limit_amount=100, on_exceeded="escalate")
    start = T0_US - T0_US % (60 * SECOND_US)
    log.request("h1", 60, start)
    assert one(AlertRaised, log.request("h2", 60, start)).rule == "budget_limit_reached"
    log.settle("h1", 40, start)
    log.request("h3", 60, start + 1800 * SECOND_US)
    assert one(ControlIssued, log.settle("h3", 61, start + 1800 * SECOND_US)).command == "halt"
    later = start + 3700 * SECOND_US  # the first forty count no more
    log.request("h4", 39, later)
    assert one(ControlIssued, log.settle("h4", 40, later)).command == "halt"


def test_a_halting_budget_only_refuses_while_it_is_not_over() -> None:
    log = HoldLog()
    log.declare(limit_amount=100, on_exceeded="halt")
    log.request("h1", 90)
    assert [type(event) for event in log.request("h2", 11)] == [HoldDecided]


def test_usage_over_the_limit_of_a_budget_that_asks_halts_and_asks() -> None:
    log = HoldLog()
    log.declare(limit_amount=100, on_exceeded="ask_human", window="day")
    log.request("h1", 90)
    derived = log.settle("h1", 101)
    assert one(ControlIssued, derived).on_exceeded == "ask_human"
    question = one(ApprovalRequested, derived)
    assert len(log.request("h2", 1)) == 1
    retired = log.declare(limit_amount=100, on_exceeded="ask_human", window="day", budget_version=2, retired=True)
    answer = one(ApprovalDecided, retired)
    assert (answer.approval_id, answer.verdict, answer.decided_by) == (question.approval_id, "expired", "")


def test_a_tool_call_that_fails_with_all_its_retries_is_over_the_budget_of_retries() -> None:
    log = HoldLog()
    log.declare(metric="tool_retries", scope="agent", window="run", limit_amount=2, on_exceeded="escalate")
    said: list[Event] = []
    for number, failures in enumerate((1, 0, 1, 2, 3)):
        assert verdict(log.request(f"h{number}", 0, agent_id="a", ask_tool_calls=1)) == ("granted", "")
        said = log.settle(f"h{number}", 0, actual_tool_calls=1, tool_failures=failures)
        assert bool(of(BudgetExceeded, said)) == (failures == 3)
    exceeded, halt = one(BudgetExceeded, said), one(ControlIssued, said)
    assert (exceeded.metric, exceeded.used_amount, exceeded.limit_amount) == ("tool_retries", 3, 2)
    assert (halt.scope, halt.scope_value, halt.on_exceeded) == ("run", "run-1", "escalate")
    assert one(AlertRaised, said).severity == "critical"
    refused = one(HoldDecided, log.request("h9", 0, agent_id="a", ask_tool_calls=1))
    assert (refused.reason, refused.metric, refused.on_exceeded) == ("limit", "tool_retries", "escalate")
    assert verdict(log.request("h10", 0, agent_id="a", run_id="run-2", ask_tool_calls=1)) == ("granted", "")


def test_more_budget_ends_the_halt() -> None:
    log = HoldLog()
    log.declare(limit_amount=100)
    log.request("h1", 100)
    log.settle("h1", 101)
    derived = log.declare(limit_amount=110, budget_version=2)
    assert one(AlertResolved, derived).reason == "budget_changed"
    assert one(ControlIssued, derived).command == "resume"
    assert verdict(log.request("h2", 9)) == ("granted", "")
    assert verdict(log.request("h3", 1)) == ("refused", "limit")


def test_a_budget_that_only_warns_refuses_nothing() -> None:
    log = HoldLog()
    log.declare(limit_amount=10, on_exceeded="warn")
    assert verdict(log.request("h1", 30)) == ("granted", "")
    derived = log.settle("h1", 30)
    assert one(BudgetExceeded, derived).on_exceeded == "warn"
    assert of(ControlIssued, derived) == []


def test_budgets_that_are_watched_retired_or_not_understood_refuse_nothing() -> None:
    log = HoldLog()
    log.declare(budget_id="watched", limit_amount=1, enforcement="watch")
    log.declare(budget_id="gone", limit_amount=1)
    log.declare(budget_id="gone", limit_amount=1, budget_version=2, retired=True)
    log.declare(budget_id="weekly", limit_amount=1, window="week")
    log.declare(budget_id="time", limit_amount=1, metric="wall_clock_ms")
    derived = log.request("h1", 50)
    assert verdict(derived) == ("granted", "")
    assert of(BudgetHeld, derived) == []


def test_a_window_that_ends_with_a_hold_in_it_ends_its_alert_all_the_same() -> None:
    """The hold expires, which looks at the account, before the window's own end comes up: both at the same tick."""
    log = HoldLog()
    log.declare(window="hour", limit_amount=100)
    start = T0_US - T0_US % (3600 * SECOND_US)
    log.request("h1", 90, start)
    log.request("dead", 10, start)
    log.settle("h1", 120, start)
    log.commit()
    derived = log.tick(start + 3601 * SECOND_US)
    assert {type(event) for event in derived} >= {BudgetReleased, AlertResolved}
    log.crash()
    assert of(AlertResolved, log.tick(start + 3602 * SECOND_US)) == []


def test_a_run_has_so_much_time_from_its_first_hold_on() -> None:
    log = HoldLog()
    log.declare(scope="agent", window="run", metric="wall_clock_ms", limit_amount=90_000)
    assert verdict(log.request("h1", 1, agent_id="a"))[0] == "granted"
    log.settle("h1", 1)
    derived = log.request("h2", 1, T0_US + 45 * SECOND_US, agent_id="a")
    assert verdict(derived)[0] == "granted"
    assert one(BudgetThresholdCrossed, derived).threshold_percent == 50
    log.settle("h2", 1, T0_US + 46 * SECOND_US)
    assert log.tick(T0_US + 89 * SECOND_US) == []
    assert log.tick(T0_US + 100 * SECOND_US) == []  # no call is under way: the run may have ended long ago
    derived = log.request("h3", 1, T0_US + 101 * SECOND_US, agent_id="a")
    decided = one(HoldDecided, derived)
    assert (decided.verdict, decided.metric, decided.limit_amount, decided.used_amount) == (
        "refused",
        "wall_clock_ms",
        90_000,
        101_000,
    )
    assert one(BudgetExceeded, derived).used_amount == 101_000
    assert one(ControlIssued, derived).scope == "run"
    assert verdict(log.request("other", 1, T0_US + 101 * SECOND_US, agent_id="a", run_id="run-2"))[0] == "granted"


def test_a_run_whose_time_is_up_in_the_middle_of_a_call_is_halted_then() -> None:
    log = HoldLog()
    log.declare(scope="agent", window="run", metric="wall_clock_ms", limit_amount=30_000, on_exceeded="escalate")
    log.request("h1", 1, agent_id="a")
    assert log.tick(T0_US + 30 * SECOND_US) == []
    log.commit()
    log.crash()
    derived = log.tick(T0_US + 31 * SECOND_US)
    assert one(BudgetExceeded, derived).used_amount == 31_000
    assert one(ControlIssued, derived).scope_value == "run-1"
    assert of(BudgetExceeded, log.settle("h1", 1, T0_US + 32 * SECOND_US)) == []


def test_accounts_are_forgotten_when_nothing_of_them_counts() -> None:
    log = HoldLog()
    log.declare(budget_id="day", window="day", scope="user")
    log.declare(budget_id="run", window="run", scope="run")
    log.declare(budget_id="slide", window="sliding", window_ms=3_600_000, scope="user")
    log.commit()
    empty = len(log.stored)
    log.request("h1", 100, actor="someone")
    log.settle("h1", 101, run_id="r")
    log.commit()
    assert len(log.stored) == empty + 4
    log.tick(T0_US + 2 * DAY_US)
    log.commit()
    assert len(log.stored) == empty + 1  # the run may go on
    resolved = one(AlertResolved, log.tick(T0_US + 2 * RUN_KEPT_US))
    assert resolved.rule == "budget_exceeded"
    log.commit()
    assert len(log.stored) == empty


def test_a_window_takes_what_was_held_along_and_leaves_what_was_used() -> None:
    log = HoldLog()
    log.declare(window="day", limit_amount=100)
    evening = T0_US - T0_US % DAY_US + DAY_US - SECOND_US
    log.request("h1", 30, evening)
    log.request("h2", 70, evening)
    log.settle("h1", 30, evening)
    morning = evening + SECOND_US
    decided = one(HoldDecided, log.request("h3", 31, morning))
    assert (decided.verdict, decided.held_amount, decided.used_amount) == ("refused", 70, 0)
    [settled] = of(BudgetSettled, log.settle("h2", 60, morning))
    assert (settled.held_amount, settled.used_amount) == (0, 60)  # it counts on the day when it became known


def test_a_hold_is_renewed_while_its_call_goes_on_and_expires_when_nobody_speaks_of_it(log: HoldLog) -> None:
    log.request("h1", 40, agent_id="a")
    at_us = T0_US
    for _ in range(5):
        at_us += 40 * SECOND_US
        renewed = of(BudgetHeld, log.renew("h1", at_us))
        assert [(item.budget_id, item.amount, item.held_amount) for item in renewed] == [
            ("all", 0, 40), ("per-agent", 0, 40),
        ]  # fmt: skip
        assert {item.expires_at for item in renewed} == {at_us + 60 * SECOND_US}
    log.commit()
    log.crash(None)
    assert of(BudgetReleased, log.tick(at_us + 59 * SECOND_US)) == []
    released = of(BudgetReleased, log.tick(at_us + 60 * SECOND_US))
    assert [(item.reason, item.held_amount) for item in released] == [("expired", 0)] * 2


def test_what_cannot_be_renewed_stays_as_it_is(log: HoldLog) -> None:
    assert log.renew("unknown", T0_US) == []
    log.request("h1", 40, agent_id="a")
    assert log.renew("h1", T0_US) == []  # of this moment: it lasts as long anyway
    log.settle("h1", 10)
    log.request("h2", 200, agent_id="a")
    log.request("h3", 1, agent_id="a")
    log.tick(T0_US + 60 * SECOND_US)
    for hold_id in ("h1", "h2", "h3"):
        assert log.renew(hold_id, T0_US + 61 * SECOND_US) == []


def test_a_hold_is_not_renewed_for_ever(log: HoldLog) -> None:
    log.request("h1", 40, agent_id="a")
    at_us = T0_US
    while at_us < T0_US + RENEWED_US_MAX - 60 * SECOND_US:
        at_us += 50 * SECOND_US
        assert of(BudgetHeld, log.renew("h1", at_us))
    log.renew("h1", T0_US + RENEWED_US_MAX - SECOND_US)
    assert len(of(BudgetReleased, log.tick(T0_US + RENEWED_US_MAX))) == 2


def test_each_run_has_a_budget_per_run_for_itself() -> None:
    log = HoldLog()
    log.declare(scope="agent", window="run", limit_amount=10)
    assert verdict(log.request("h1", 10, agent_id="a", run_id="r1"))[0] == "granted"
    assert verdict(log.request("h2", 1, agent_id="a", run_id="r1"))[0] == "refused"
    assert verdict(log.request("h3", 10, agent_id="a", run_id="r2"))[0] == "granted"
    halt = one(ControlIssued, log.settle("h3", 11))
    assert (halt.scope, halt.scope_value) == ("run", "r2")


def test_a_sliding_window_lets_go_bucket_by_bucket() -> None:
    log = HoldLog()
    log.declare(window="sliding", window_ms=3_600_000, limit_amount=100)
    start = T0_US - T0_US % (60 * SECOND_US)
    log.request("h1", 60, start)
    log.settle("h1", 60, start)
    log.request("h2", 40, start + 1800 * SECOND_US)
    log.settle("h2", 40, start + 1800 * SECOND_US)
    assert verdict(log.request("h3", 1, start + 3600 * SECOND_US))[0] == "refused"
    assert verdict(log.request("h4", 61, start + 3661 * SECOND_US))[0] == "refused"
    assert verdict(log.request("h5", 60, start + 3661 * SECOND_US))[0] == "granted"


def test_labels_and_teams_are_scopes() -> None:
    log = HoldLog()
    log.declare(budget_id="team", scope="team", scope_value="red", limit_amount=5)
    log.declare(budget_id="tier", scope="label:tier", limit_amount=7)
    assert verdict(log.request("h1", 6, labels={"team": "red"}))[0] == "refused"
    assert verdict(log.request("h2", 6, labels={"team": "blue", "tier": "gold"}))[0] == "granted"
    assert one(HoldDecided, log.request("h3", 2, labels={"tier": "gold"})).budget_id == "tier"


def test_the_bound_on_overshoot_raises_an_alert() -> None:
    log = HoldLog()
    log.declare(limit_amount=100)
    log.request("h1", 1)
    alert = one(AlertRaised, log.settle("h1", 12))
    assert (alert.rule, alert.observed, alert.expected) == ("budget_overshoot_bound", 11.0, 10.0)


def test_reports_of_unknown_holds_count_nothing_and_are_said() -> None:
    log = HoldLog()
    log.declare(limit_amount=100)
    raised = one(AlertRaised, log.settle("nobody", 5))
    assert raised.rule == "hold_report_unknown"
    assert raised.runbook_url == RUNBOOK_URLS[raised.rule]
    derived = [event for number in range(9) for event in log.settle(f"nobody-{number}", 5)]
    assert one(AlertUpdated, derived).count == 10
    assert one(AlertUpdated, derived).alert_id == raised.alert_id
    assert verdict(log.request("h", 100))[0] == "granted"


def test_what_is_done_is_forgotten_in_time(log: HoldLog) -> None:
    log.commit()
    empty = len(log.stored)
    for number in range(20):
        log.request(f"h{number}", 1, agent_id="a")
        log.settle(f"h{number}", 1)
    log.request("dead", 1, agent_id="a")
    log.commit()
    assert len(log.stored) == empty + 21 + 2  # the holds, and two accounts
    log.tick(T0_US + 60 * SECOND_US + REMEMBERED_US)
    log.commit()
    assert len(log.stored) == empty + 1 + 2  # the one that expired may still be reported
    log.tick(T0_US + 60 * SECOND_US + REMEMBERED_US + LATE_US)
    log.commit()
    assert len(log.stored) == empty + 2


def test_a_flood_of_dead_owners_is_given_back_over_some_records() -> None:
    log = HoldLog()
    log.declare(limit_amount=10**6)
    for number in range(DUE_PER_RECORD_MAX + 10):
        log.request(f"h{number}", 1)
    assert len(log.tick(T0_US + 60 * SECOND_US)) == DUE_PER_RECORD_MAX
    assert len(log.tick(T0_US + 61 * SECOND_US)) == 10


def test_only_one_partition_decides_for_a_tenant() -> None:
    home = partition_of(b"acme", PARTITIONS)
    log = HoldLog(partition=(home + 1) % PARTITIONS)
    log.declare(limit_amount=100)
    derived = log.request("h1", 1)
    assert verdict(derived) == ("refused", "invalid")
    assert one(HoldDecided, derived).producer_id != "holds:acme"


def test_numbers_of_the_producer_are_dense(log: HoldLog) -> None:
    for number in range(30):
        log.request(f"h{number}", 7, agent_id="a" if number % 2 else "b")
        log.settle(f"h{number}", number)
    seqs = sorted(CODEC.decode(value).producer_seq for value in log.derived.values())
    assert seqs == list(range(len(seqs)))


def test_records_that_cannot_be_read_are_skipped() -> None:
    fold = HoldFold(CODEC, PARTITIONS, list)
    request = HoldLog().event(HoldRequested, T0_US, event_id="no uuid", hold_id="h", ask_cost_nanousd=1)
    for offset, value in enumerate((None, b"", b"\x00\x00\x00\x00\x63poison", CODEC.encode(request))):
        assert fold.take(0, offset, T0_US // 1000, value) == []
    assert fold.skipped.total() == 4
    assert fold.take_changed() == []


def test_a_leftover_of_a_paused_worker_is_not_held_again(log: HoldLog) -> None:
    log.request("h1", 60, agent_id="a")
    log.commit()
    leftover = {key: value for key, value in log.stored.items() if b"h1" in key}
    log.settle("h1", 1)
    log.tick(T0_US + 600 * SECOND_US)
    log.commit()
    assert not any(b"h1" in key for key in log.stored)
    log.stored.update(leftover)
    log.crash(None)
    assert log.tick(T0_US + 700 * SECOND_US) == []
    [settled] = of(BudgetSettled, log.settle("h1", 1, T0_US + 700 * SECOND_US)) or [None]
    assert settled is None


@pytest.mark.parametrize("keep", range(8))
def test_states_written_in_part_are_made_whole(log: HoldLog, keep: int) -> None:
    log.commit()
    log.request("h1", 10, agent_id="a")
    log.request("h2", 10, agent_id="a")
    log.settle("h1", 5)
    log.crash(keep)
    log.commit()
    log.crash()
    [_, settled] = of(BudgetSettled, log.settle("h2", 8))
    assert (settled.held_amount, settled.used_amount) == (0, 13)


@given(data=st.data())
def test_no_order_across_partitions_changes_what_is_concluded(data: st.DataObject) -> None:
    """Tenants of different partitions, interleaved in any way, with their states taken at any moment."""
    tenants = ("acme", "beta", "corp")
    logs = {tenant: HoldLog(tenant) for tenant in tenants}
    assert len({log.partition for log in logs.values()}) > 1
    for log in logs.values():
        log.declare(limit_amount=60)
        for number in range(6):
            at_us = T0_US + number * 7 * SECOND_US
            log.request(f"h{number}", 13, at_us, ttl_ms=20_000)
            if number % 3:
                log.settle(f"h{number}", 5 * number, at_us + SECOND_US)
        log.tick(T0_US + 90 * SECOND_US)
    expected = {event_id: value for log in logs.values() for event_id, value in log.derived.items()}
    by_partition: dict[int, list[tuple[int, bytes | None]]] = {}
    for log in logs.values():
        by_partition.setdefault(log.partition, []).extend(log.records)  # one tenant after the other, as they come
    turns = data.draw(st.permutations([place for place, records in by_partition.items() for _ in records]))
    fold, stored = HoldFold(CODEC, PARTITIONS, lambda: list(stored.items())), dict[bytes, bytes]()
    offsets = dict.fromkeys(by_partition, 0)
    derived = {}
    for number, partition in enumerate(turns):
        offset = offsets[partition]
        ms, value = by_partition[partition][offset]
        offsets[partition] += 1
        for record in fold.take(partition, offset, ms, value):
            derived[record.value[6:42].decode()] = record.value
        if data.draw(st.integers(0, 5)) == 0:
            for _, key, cell in fold.take_changed():
                if cell is None:
                    stored.pop(key, None)
                else:
                    stored[key] = cell
            if number % 2:
                fold.forget()
    assert derived == expected


def test_every_alert_of_the_holds_says_where_to_read_what_to_do() -> None:
    for url in RUNBOOK_URLS.values():
        file, _, anchor = url.partition("#")
        headings = (ROOT / file).read_text("utf-8").lower().replace(" ", "-")
        assert f"#-{anchor}\n" in headings, url
