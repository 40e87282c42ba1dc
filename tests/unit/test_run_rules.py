"""The rules on one run: each fires on what it is for, not on less, once; it grows, and is over again."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentledger.processors.packing import PackedRecord
from agentledger.processors.rules.models import RuleSet
from agentledger.schemas.events import (
    AlertRaised,
    AlertResolved,
    AlertUpdated,
    ApprovalDecided,
    ApprovalRequested,
    ConflictDetected,
    Event,
    OutcomeRecorded,
    PolicyDecided,
    RunFinished,
    Ticked,
    ToolCallCompleted,
)
from tests.run_logs import CODEC, T0_US, Author, Folded

MINUTE = 60.0
DIGEST = "sha256:0a"


class Story:
    """What happened to some runs of one partition, told in the order of the ledger."""

    def __init__(self, *rules: dict[str, Any]) -> None:
        self.rules = RuleSet.model_validate({"rules": rules}).rules
        self.log: list[tuple[int, Event]] = []
        self.now_s = 0.0

    def tell(self, *events: Event, every_s: float = 1.0) -> Story:
        """These events, one after the other."""
        for event in events:
            self.now_s += every_s
            self.log.append((T0_US // 1000 + int(self.now_s * 1000), event))
        return self

    def wait(self, seconds: float) -> Story:
        """Nothing happens but a tick at the end."""
        tick = Ticked(
            event_id="00000000-0000-7000-8000-000000000000", tenant_id="", producer_id="", producer_seq=0, run_id="",
            occurred_at=T0_US,
        )  # fmt: skip
        return self.tell(tick, every_s=seconds)

    def records(self) -> list[PackedRecord]:
        return [PackedRecord(offset, at_ms, CODEC.encode(event)) for offset, (at_ms, event) in enumerate(self.log)]

    def alerts(self) -> list[Any]:
        """The alert events, in order."""
        folded = Folded(rules=self.rules).take(self.records())
        return folded.events(AlertRaised, AlertUpdated, AlertResolved)

    def life(self) -> list[str]:
        """What became of alerts: `raised NAME`, `updated NAME COUNT`, `resolved NAME REASON`."""
        return [life_of(alert) for alert in self.alerts()]


def life_of(alert: Any) -> str:
    if isinstance(alert, AlertRaised):
        return f"raised {alert.rule}"
    if isinstance(alert, AlertUpdated):
        return f"updated {alert.rule} {alert.count}"
    return f"resolved {alert.rule} {alert.reason}"


def same(author: Author, count: int, **fields: Any) -> list[Event]:
    """So many equal tool calls."""
    return [author.tool_call(**({"arguments_digest": DIGEST, "result_digest": "r"} | fields)) for _ in range(count)]


def different(author: Author, count: int, **fields: Any) -> list[Event]:
    """So many different tool calls."""
    return [author.tool_call(arguments_digest=f"sha256:{number:x}", **fields) for number in range(1000, 1000 + count)]


LOOP = {"name": "loop", "kind": "identical_tool_calls", "calls": 4}


def test_a_loop_is_raised_once_and_over_with_another_call() -> None:
    author = Author()
    story = Story(LOOP).tell(author.start(), *same(author, 6), *different(author, 1))
    raised, resolved = story.alerts()
    assert [life_of(raised), life_of(resolved)] == ["raised loop", "resolved loop condition_ended"]
    assert (raised.scope, raised.scope_value, raised.severity) == ("run", "run-1", "warning")
    assert (raised.observed, raised.expected, raised.count) == (4, 4, 4)
    assert raised.trigger_event_ids == [story.log[4][1].event_id]
    assert raised.occurred_at == T0_US + 5_000_000
    assert raised.alert_id == resolved.alert_id
    assert len(raised.rule_version) == 12


def test_three_equal_calls_are_no_loop() -> None:
    author = Author()
    assert Story(LOOP).tell(author.start(), *same(author, 3), *different(author, 5), *same(author, 3)).life() == []


def test_calls_of_unknown_arguments_are_like_no_other() -> None:
    author = Author()
    assert Story(LOOP).tell(author.start(), *same(author, 30, arguments_digest="")).life() == []


def test_a_flood_becomes_one_alert_that_grows() -> None:
    author = Author()
    story = Story(LOOP).tell(author.start(), *same(author, 1200), author.finish())
    assert story.life() == [
        "raised loop",
        "updated loop 10",
        "updated loop 100",
        "updated loop 1000",
        "resolved loop run_ended",
    ]


def test_a_condition_that_comes_back_is_the_same_alert_with_new_events() -> None:
    author = Author()
    story = Story(LOOP).tell(author.start(), *same(author, 4), *different(author, 1), *same(author, 4))
    first, _, second = story.alerts()
    assert life_of(second) == "raised loop"
    assert first.alert_id == second.alert_id
    assert first.event_id != second.event_id


def test_a_loop_in_a_window_of_time() -> None:
    author, slow = Author(), Author()
    rule = LOOP | {"window": "10s"}
    assert Story(rule).tell(author.start(), *same(author, 4)).life() == ["raised loop"]
    assert Story(rule).tell(slow.start(), *same(slow, 6), every_s=5).life() == []


def test_equal_calls_with_other_results_are_polling() -> None:
    author = Author()
    polls = [author.tool_call(arguments_digest=DIGEST, result_digest=f"r{number}") for number in range(9)]
    assert Story(LOOP | {"same_result": True}).tell(author.start(), *polls).life() == []
    assert Story(LOOP).tell(author.start(), *polls).life() == ["raised loop"]


def test_a_loop_needs_its_volume_of_calls() -> None:
    author = Author()
    rule = LOOP | {"min_volume": 10}
    assert Story(rule).tell(author.start(), *same(author, 9)).life() == []
    author = Author()
    assert Story(rule).tell(author.start(), *different(author, 6), *same(author, 4)).life() == ["raised loop"]


@pytest.mark.parametrize("period", [2, 3, 4])
def test_a_cycle_of_calls(period: int) -> None:
    author = Author()
    calls = [author.tool_call(arguments_digest=f"sha256:{number % period}") for number in range(3 * period)]
    rule = {"name": "cycle", "kind": "cycling_tool_calls", "repeats": 3}
    assert Story(rule).tell(author.start(), *calls[:-1]).life() == []
    story = Story(rule).tell(author.start(), *calls, *different(author, 4))
    assert story.life() == ["raised cycle", "resolved cycle condition_ended"]
    assert story.alerts()[0].summary.startswith(f"the same {period} tool calls 3 times over")


def test_equal_calls_are_no_cycle() -> None:
    author = Author()
    assert Story({"name": "cycle", "kind": "cycling_tool_calls"}).tell(author.start(), *same(author, 20)).life() == []


CIRCLES = {"name": "circles", "kind": "repeated_work", "repeats": 3, "last": 6}


def circling(author: Author, numbers: Iterable[int], result: str = "r") -> list[Event]:
    return [author.tool_call(arguments_digest=f"sha256:{number}", result_digest=result) for number in numbers]


def test_going_in_circles_of_any_form() -> None:
    author = Author()
    story = Story(CIRCLES).tell(author.start(), *circling(author, [1, 2, 3, 1, 4, 2, 5, 3]))
    assert story.life() == ["raised circles"]
    author = Author()
    story = Story(CIRCLES).tell(author.start(), *circling(author, [1, 2, 3, 1, 4, 2, 5, 3, *range(10, 20)]))
    assert story.life() == ["raised circles", "resolved circles condition_ended"]


def test_repeated_calls_with_news_are_no_circles() -> None:
    author = Author()
    calls = [call for number in range(5) for call in circling(author, [1, 2, 3], f"r{number}")]
    assert Story(CIRCLES).tell(author.start(), *calls).life() == []


def test_two_repeats_are_no_circles() -> None:
    author = Author()
    assert Story(CIRCLES).tell(author.start(), *circling(author, [1, 2, 3, 1, 2, 4, 5, 6, 7, 8, 1, 2])).life() == []


STORM = {"name": "storm", "kind": "retry_storm", "errors": 5, "attempts": 4}


def test_a_tool_that_fails_again_and_again() -> None:
    author = Author()
    assert Story(STORM).tell(author.start(), *different(author, 4, status="error"), author.tool_call()).life() == []
    author = Author()
    story = Story(STORM).tell(author.start(), *different(author, 12, status="timeout"), author.tool_call())
    assert story.life() == ["raised storm", "updated storm 10", "resolved storm condition_ended"]


def test_failures_of_different_tools_are_no_storm() -> None:
    author = Author()
    calls = [author.tool_call(tool=f"t{number % 2}", status="error") for number in range(20)]
    assert Story(STORM).tell(author.start(), *calls).life() == []


def test_a_model_that_rejects_and_attempts_of_one_call() -> None:
    author = Author()
    calls = [author.model_call(status="rejected") for _ in range(5)]
    assert Story(STORM).tell(author.start(), *calls, author.model_call()).life() == [
        "raised storm",
        "resolved storm condition_ended",
    ]
    author = Author()
    attempts = [author.tool_call(attempt=number) for number in range(1, 5)]
    assert Story(STORM | {"of": ["tool"]}).tell(author.start(), *attempts).life() == ["raised storm"]
    assert Story(STORM | {"of": ["model"]}).tell(author.start(), *attempts).life() == []


STEPS = {"name": "runaway", "kind": "step_count", "times": 2, "quantile_percent": 90, "floor": 10, "min_volume": 20}


def finished_runs(count: int, steps: int) -> list[Event]:
    events: list[Event] = []
    for number in range(count):
        author = Author(f"usual-{number}", seed=number)
        events += [author.start(), *different(author, steps), author.finish()]
    return events


def test_a_run_far_longer_than_its_workflow_usually_takes() -> None:
    author = Author("long")
    story = Story(STEPS).tell(*finished_runs(20, 8), every_s=0.1).wait(20 * MINUTE)
    story.tell(author.start(), *different(author, 40), author.finish())
    raised, *_, resolved = story.alerts()
    assert (raised.rule, raised.observed, raised.expected) == ("runaway", 17, 16)
    assert life_of(resolved) == "resolved runaway run_ended"
    assert sum(isinstance(alert, AlertRaised) for alert in story.alerts()) == 1


@pytest.mark.parametrize(("usual", "steps", "waits"), [(7, 40, True), (8, 16, True), (20, 16, True), (20, 40, False)])
def test_too_few_known_runs_or_steps_or_only_runs_of_now(usual: int, steps: int, waits: bool) -> None:
    author = Author("long")
    story = Story(STEPS).tell(*finished_runs(usual, 8), every_s=0.1)
    if waits:
        story.wait(20 * MINUTE)
    assert story.tell(author.start(), *different(author, steps)).life() == []


def test_of_few_known_runs_the_quartiles_count_and_not_the_longest() -> None:
    author, odd = Author("long"), Author("odd")
    usual = [*finished_runs(8, 8), odd.start(), *different(odd, 100), odd.finish()]
    story = Story(STEPS).tell(*usual, every_s=0.1).wait(20 * MINUTE)
    same = [author.tool_call(arguments_digest="a", result_digest="b") for _ in range(5)]
    story.tell(author.start(), *same[:4], *different(author, 20))
    assert story.life() == []  # long alone says little beside nine runs
    story.tell(same[4], author.finish())
    raised = story.alerts()[0]
    assert (raised.run_id, raised.observed, raised.expected) == ("long", 25, 16)
    assert "50 % of the 9 known runs of workflow refund end within 8" in raised.summary


DENIALS = {"name": "denied", "kind": "denials_in_run", "denials": 3, "window": "1m"}


def test_denials_in_a_run_within_a_minute() -> None:
    author = Author()
    denied = [author.write(PolicyDecided, verdict="deny", action="refund") for _ in range(3)]
    assert Story(DENIALS).tell(author.start(), *denied, author.finish()).life() == [
        "raised denied",
        "resolved denied run_ended",
    ]
    assert Story(DENIALS).tell(author.start(), *denied, every_s=40).life() == []
    assert Story(DENIALS).tell(author.start(), *denied[:2]).life() == []


def test_a_denied_call_and_its_decision_are_one_denial() -> None:
    author = Author()
    events: list[Event] = [author.start()]
    for _ in range(2):
        denied = author.write(PolicyDecided, verdict="deny")
        events += [denied, author.tool_call(status="denied", policy_decision_id=denied.event_id)]
    assert Story(DENIALS).tell(*events).life() == []
    assert Story(DENIALS).tell(*events, author.tool_call(status="denied")).life() == ["raised denied"]


UNSAFE = {"name": "unsafe", "kind": "unsafe_action", "severity": "critical", "quiet": "10m"}


def test_an_unsafe_action_is_raised_when_denied_and_over_when_quiet() -> None:
    author = Author()
    denied = author.write(PolicyDecided, verdict="deny", risk_tier="high", action="wipe")
    call = author.tool_call(tool="wipe", status="denied", effect="irreversible", policy_decision_id=denied.event_id)
    story = Story(UNSAFE).tell(author.start(), denied, call)
    assert story.life() == ["raised unsafe"]
    assert story.wait(9 * MINUTE).life() == ["raised unsafe"]
    assert story.wait(2 * MINUTE).life() == ["raised unsafe", "resolved unsafe quiet"]


def test_an_action_done_though_denied_is_an_alert_of_its_own() -> None:
    author = Author()
    denied = author.write(PolicyDecided, verdict="deny", risk_tier="high")
    call = author.tool_call(effect="write", policy_decision_id=denied.event_id)
    first, second = Story(UNSAFE).tell(author.start(), denied, call).alerts()
    assert first.alert_id != second.alert_id
    assert "though policy had denied it" in second.summary


@pytest.mark.parametrize(
    ("decision", "call"),
    [
        ({"verdict": "deny", "risk_tier": "low"}, {"effect": "read", "status": "denied"}),
        ({"verdict": "allow", "risk_tier": "critical"}, {"effect": "write"}),
        ({"verdict": "deny", "risk_tier": "low"}, {"effect": "write", "status": "denied", "dry_run": True}),
    ],
)
def test_what_is_not_unsafe(decision: dict[str, Any], call: dict[str, Any]) -> None:
    author = Author()
    assert (
        Story(UNSAFE).tell(author.start(), author.write(PolicyDecided, **decision), author.tool_call(**call)).life()
        == []
    )


WRITE = {"name": "bare", "kind": "write_without_decision", "policy_in_use": "seen", "grace": "1m", "quiet": "1h"}


def test_a_write_that_nobody_allowed() -> None:
    author = Author()
    decided = author.write(PolicyDecided, verdict="allow")
    allowed = author.tool_call(effect="write", policy_decision_id=decided.event_id)
    assert Story(WRITE).tell(author.start(), decided, allowed).life() == []
    assert Story(WRITE).tell(author.start(), decided, allowed, author.tool_call(effect="write")).life() == [
        "raised bare"
    ]


def test_a_decision_that_comes_late_is_waited_for() -> None:
    author = Author()
    decided, late = author.write(PolicyDecided, verdict="allow"), author.write(PolicyDecided, verdict="allow")
    call = author.tool_call(effect="write", policy_decision_id=late.event_id)
    assert Story(WRITE).tell(author.start(), decided, call, late).wait(5 * MINUTE).life() == []
    story = Story(WRITE).tell(author.start(), decided, call)
    assert story.life() == []
    assert story.wait(2 * MINUTE).life() == ["raised bare"]


def test_a_late_denial_is_no_permission() -> None:
    author = Author()
    decided, late = author.write(PolicyDecided, verdict="allow"), author.write(PolicyDecided, verdict="deny")
    call = author.tool_call(effect="write", policy_decision_id=late.event_id)
    assert Story(WRITE).tell(author.start(), decided, call, late).life() == ["raised bare"]


def test_an_approval_allows_what_needed_one() -> None:
    author = Author()
    decided = author.write(PolicyDecided, verdict="require_approval")
    asked = author.write(ApprovalRequested, approval_id="a")
    given = author.write(ApprovalDecided, approval_id="a", verdict="approved")
    call = author.tool_call(effect="write", policy_decision_id=decided.event_id)
    assert Story(WRITE).tell(author.start(), decided, asked, given, call).life() == []
    refused = author.write(ApprovalDecided, approval_id="a", verdict="rejected")
    assert Story(WRITE).tell(author.start(), decided, asked, refused, call).life() == ["raised bare"]


def test_where_no_policy_is_in_use_writes_are_ordinary() -> None:
    author = Author()
    write = author.tool_call(effect="write")
    assert Story(WRITE).tell(author.start(), write).life() == []
    assert Story(WRITE | {"policy_in_use": "always"}).tell(author.start(), write).life() == ["raised bare"]
    dry = author.tool_call(effect="write", dry_run=True)
    assert Story(WRITE | {"policy_in_use": "always"}).tell(author.start(), dry).life() == []


def test_a_workflow_under_policy_holds_for_runs_that_skip_it() -> None:
    rule = WRITE | {"policy_in_use": "workflow", "min_volume": 5}
    usual: list[Event] = []
    for number in range(5):
        author = Author(f"usual-{number}", seed=number)
        usual += [author.start(), author.write(PolicyDecided, verdict="allow"), author.finish()]
    author = Author("skips")
    skips = [author.start(), author.tool_call(effect="write")]
    assert Story(rule).tell(*usual).wait(20 * MINUTE).tell(*skips).life() == ["raised bare"]
    assert Story(rule).tell(*usual[:12]).wait(20 * MINUTE).tell(*skips).life() == []


SLOW = {"name": "slow", "kind": "slow_approval", "window": "15m"}


def test_an_approval_that_takes_too_long_is_found_on_an_idle_partition() -> None:
    author = Author()
    story = Story(SLOW).tell(author.start(), author.write(ApprovalRequested, approval_id="a"))
    assert story.wait(14 * MINUTE).life() == []
    assert story.wait(2 * MINUTE).life() == ["raised slow"]
    story.wait(60 * MINUTE).tell(author.write(ApprovalDecided, approval_id="a", verdict="approved"))
    assert story.life() == ["raised slow", "resolved slow decided"]


def test_an_approval_of_a_run_that_ended_is_not_waited_for() -> None:
    author = Author()
    asked = author.write(ApprovalRequested, approval_id="a")
    assert Story(SLOW).tell(author.start(), asked, author.finish("halted")).wait(60 * MINUTE).life() == []


SILENT = {"name": "silent", "kind": "silent_failure"}


@pytest.mark.parametrize("outcome_first", [False, True])
def test_success_that_was_none_whatever_comes_first(outcome_first: bool) -> None:
    author = Author()
    end = [author.finish("succeeded"), author.outcome(False)]
    story = Story(SILENT).tell(author.start(), *(reversed(end) if outcome_first else end))
    assert story.life() == ["raised silent"]
    assert story.tell(author.outcome(True)).life() == ["raised silent", "resolved silent condition_ended"]


@pytest.mark.parametrize(("status", "success"), [("succeeded", True), ("failed", False), ("succeeded", None)])
def test_no_silent_failure(status: str, success: bool | None) -> None:
    author = Author()
    assert Story(SILENT).tell(author.start(), author.finish(status), author.outcome(success)).life() == []


STUCK = {"name": "stuck", "kind": "stuck_run", "window": "15m"}


def test_a_stuck_run_is_found_on_an_idle_partition_and_over_when_heard_again() -> None:
    author = Author()
    story = Story(STUCK).tell(author.start(), author.model_call())
    assert story.wait(14 * MINUTE).life() == []
    assert story.wait(MINUTE).life() == ["raised stuck"]
    assert story.wait(60 * MINUTE).life() == ["raised stuck"]
    [raised] = story.alerts()
    assert raised.occurred_at == raised.window_end == T0_US + (2 + 15 * 60) * 1_000_000
    assert story.tell(author.model_call()).life() == ["raised stuck", "resolved stuck heard_again"]


def test_another_run_of_the_partition_tells_the_time_as_well() -> None:
    author, other = Author(), Author("run-2", seed=2)
    story = Story(STUCK).tell(author.start()).tell(other.start(), every_s=20 * MINUTE)
    assert [alert.run_id for alert in story.alerts()] == ["run-1"]


def test_what_is_not_stuck() -> None:
    author = Author()
    ended = Story(STUCK).tell(author.start(), author.finish()).wait(90 * MINUTE)
    waiting = Story(STUCK).tell(author.start(), author.write(ApprovalRequested, approval_id="a")).wait(90 * MINUTE)
    imported = Story(STUCK).tell(author.start(source="tau2"), author.model_call()).wait(90 * MINUTE)
    headless = Story(STUCK).tell(author.model_call()).wait(90 * MINUTE)
    assert [story.life() for story in (ended, waiting, imported, headless)] == [[], [], [], []]


MISMATCH = {"name": "bill", "kind": "cost_mismatch", "percent": 5, "floor_usd": 0.001, "min_volume": 3}


def test_a_cost_other_than_the_provider_says() -> None:
    author = Author()
    calls = [author.model_call(1000, reported_cost_nanousd=1_000_000) for _ in range(3)]  # by our prices 2,000,000
    assert Story(MISMATCH).tell(author.start(), *calls[:2]).life() == []
    story = Story(MISMATCH).tell(author.start(), *calls)
    assert story.life() == ["raised bill"]
    assert (story.alerts()[0].observed, story.alerts()[0].expected) == (6_000_000, 3_000_000)
    right = [author.model_call(1000, reported_cost_nanousd=2_000_000) for _ in range(60)]
    assert Story(MISMATCH).tell(author.start(), *right).life() == []
    assert story.tell(*right).life() == ["raised bill", "updated bill 10", "resolved bill condition_ended"]


SKEW = {"name": "skew", "kind": "clock_skew", "ahead": "2m", "behind": "1h", "min_volume": 3}


@pytest.mark.parametrize(("off_us", "is_skewed"), [(600_000_000, True), (60_000_000, False), (-7_200_000_000, True)])
def test_clock_skew(off_us: int, is_skewed: bool) -> None:
    author = Author()
    story = Story(SKEW)
    for number in range(5):
        event = author.start() if number == 0 else author.model_call()
        event.occurred_at = T0_US + (number + 1) * 1_000_000 + off_us
        story.tell(event)
    assert story.life() == (["raised skew"] if is_skewed else [])
    on_time = author.model_call()
    on_time.occurred_at = T0_US + 6_000_000
    assert story.tell(on_time).life() == (["raised skew", "resolved skew condition_ended"] if is_skewed else [])


def test_late_imports_are_no_clock_skew() -> None:
    author = Author()
    events = [author.start(source="tau2"), *(author.model_call() for _ in range(5))]
    assert Story(SKEW).wait(50 * 60 * MINUTE).tell(*events).life() == []


def test_a_conflict_is_told_at_once() -> None:
    author = Author()
    call = author.model_call()
    found = author.write(ConflictDetected, conflicting_event_id=call.event_id, place="events 0/7")
    rule = {"name": "twice", "kind": "conflict", "quiet": "1h"}
    [raised] = Story(rule).tell(author.start(), call, found).alerts()
    assert (raised.severity, raised.rule) == ("critical", "twice")
    assert call.event_id in raised.summary


def test_a_model_without_a_price_is_told_once_per_run_and_model() -> None:
    author = Author()
    rule = {"name": "unpriced", "kind": "unpriced_model", "scope": "run", "quiet": "1h"}
    calls = [author.model_call(model=model) for model in ("tuned", "tuned", "other", "sold")]
    assert Story(rule).tell(author.start(), *calls).life() == ["raised unpriced", "raised unpriced"]
    assert Story(rule).tell(author.start(), author.model_call(None, "tuned", status="error")).life() == []


def test_a_rule_for_others_or_switched_off_says_nothing() -> None:
    author = Author()
    events = [author.start(), *same(author, 6)]
    assert Story(LOOP | {"where": {"workflow": ["ref*"], "agent": ["refunds"]}}).tell(*events).life() == ["raised loop"]
    assert Story(LOOP | {"where": {"workflow": ["billing"]}}).tell(*events).life() == []
    assert Story(LOOP | {"enabled": False}).tell(*events).life() == []
    assert Story(LOOP | {"where": {"tenant": ["other"]}}).tell(*events).life() == []


EVERYTHING = (
    LOOP, CIRCLES, STORM, STEPS | {"min_volume": 5, "floor": 3}, DENIALS, UNSAFE,
    WRITE | {"policy_in_use": "workflow"}, SLOW, SILENT, STUCK, MISMATCH, SKEW,
    {"name": "cycle", "kind": "cycling_tool_calls", "repeats": 2},
    {"name": "unpriced", "kind": "unpriced_model", "scope": "run", "quiet": "5m"},
)  # fmt: skip


def _anything(author: Author, rng: random.Random, decided: str | None) -> Event:
    """Any event of a run; calls may name a decision."""
    return rng.choice(
        [
            lambda: author.start(source=rng.choice(["sdk", "sdk", "tau2"])),
            lambda: author.model_call(
                1000, rng.choice(["sold", "tuned"]), reported_cost_nanousd=rng.choice([None, 2_000_000, 9_000_000]),
                status=rng.choice(["ok", "error"]),
            ),
            lambda: author.tool_call(
                arguments_digest=rng.choice(["sha256:1", "sha256:2"]), result_digest="r",
                status=rng.choice(["ok", "ok", "error", "denied"]), effect=rng.choice(["read", "write"]),
                policy_decision_id=rng.choice([None, decided]),
            ),
            lambda: author.write(
                PolicyDecided, verdict=rng.choice(["allow", "deny"]), risk_tier=rng.choice(["low", "high"])
            ),
            lambda: author.write(ApprovalRequested, approval_id=rng.choice("ab")),
            lambda: author.write(ApprovalDecided, approval_id=rng.choice("ab"), verdict="approved"),
            lambda: author.write(OutcomeRecorded, success=rng.choice([True, False])),
            lambda: author.write(RunFinished, status=rng.choice(["succeeded", "failed"])),
        ]
    )()  # fmt: skip


def some_story(rng: random.Random) -> Story:
    """Runs that do all sorts of things at once, with silence of up to an hour in between, and some repetitions."""
    story = Story(*EVERYTHING)
    authors = [Author(f"run-{number}", seed=number) for number in range(4)]
    told: list[Event] = []
    for _ in range(rng.randint(5, 60)):
        author = rng.choice(authors)
        decided = next((event.event_id for event in reversed(told) if isinstance(event, PolicyDecided)), None)
        event = _anything(author, rng, decided)
        again = rng.choice(told) if told and rng.random() < 0.1 else event
        times = rng.randint(1, 4) if isinstance(event, ToolCallCompleted) else 1
        told.append(again)
        story.tell(again, every_s=rng.choice([0.001, 1, 1, 30]))
        for _ in range(times - 1):
            story.tell(author.tool_call(arguments_digest="sha256:1", result_digest="r"))
        if rng.random() < 0.15:
            story.wait(rng.choice([5, 61, 16 * MINUTE, 70 * MINUTE]))
    return story


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_alerts_follow_from_the_log_whatever_the_batches_and_crashes(seed: int) -> None:
    rng = random.Random(seed)
    story = some_story(rng)
    records = story.records()
    whole = Folded(rules=story.rules).take(records).by_id()
    stage = Folded(rules=story.rules)
    done = 0  # acknowledged input
    while done < len(records):
        fresh = Folded(rules=story.rules)
        fresh.states.update(stage.states)
        at = done
        while at < len(records):
            end = min(len(records), at + rng.randint(1, 9))
            for record in records[at:end]:
                stage.derived += fresh.fold.take(0, record)
            changed = fresh.fold.take_changed()
            if rng.random() < 0.2:
                written = changed[: rng.randint(0, len(changed))]
                stage.store(written)
                break  # dies with some of the states written, in their order
            stage.store(changed)
            fresh.store(changed)
            at = done = end
    assert stage.by_id() == whole


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_an_alert_is_raised_before_it_grows_and_over_before_it_is_raised_again(seed: int) -> None:
    is_open: dict[str, bool] = {}
    for alert in some_story(random.Random(seed)).alerts():
        if isinstance(alert, AlertRaised):
            assert not is_open.get(alert.alert_id, False)
        else:
            assert is_open[alert.alert_id]
        is_open[alert.alert_id] = not isinstance(alert, AlertResolved)
