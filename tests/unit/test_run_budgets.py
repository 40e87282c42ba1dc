"""Budgets that are declared for each run of a scope: which runs, which lines, halts, changes, and time by ticks."""

from __future__ import annotations

import random
from typing import Any

import pytest

from agentledger.processors.packing import PackedRecord
from agentledger.processors.scope_run_budgets import RUN_LIMITS_MAX
from agentledger.schemas.budget_questions import Raise, raise_of
from agentledger.schemas.events import (
    AlertRaised,
    AlertResolved,
    ApprovalDecided,
    ApprovalRequested,
    BudgetExceeded,
    BudgetThresholdCrossed,
    ControlIssued,
    Event,
    RunBudgetDeclared,
)
from agentledger.schemas.partitioning import partition_of
from agentledger.schemas.topics import BUDGETS, EVENTS
from tests.run_logs import CODEC, T0_US, Author, Folded, folded, run_budget, ticked
from tests.scope_rig import SOURCES, Stage2, budget, declarations, run_stage2, stage1, tick
from tests.traces import ROOT

START_MS = T0_US // 1000
LINES = (BudgetThresholdCrossed, BudgetExceeded)


def said(result: Folded) -> list[tuple[str, int | None, int]]:
    """Lines that were crossed: which budget, percent (None: exceeded), used."""
    return [
        (event.budget_id, getattr(event, "threshold_percent", None), event.used_amount)
        for event in result.events(*LINES)
    ]


def at_times(*records: tuple[int, Event | None]) -> Folded:
    """Events (None: ticks) at so many milliseconds after the start, each a batch of its own."""
    result = Folded()
    for offset, (at_ms, event) in enumerate(records):
        now_ms = START_MS + at_ms
        result.take([PackedRecord(offset, now_ms, CODEC.encode(event or ticked(now_ms)))])
    return result


def test_each_run_of_the_scope_is_watched_by_itself_also_without_a_start() -> None:
    one, two, third_party = Author("a"), Author("b"), Author("c")
    log = [run_budget(), one.start(), *(one.tool_call() for _ in range(3)), two.start(), two.tool_call()]
    result = folded([*log, *(third_party.tool_call() for _ in range(3))])
    found = [(event.run_id, event.used_amount) for event in result.events(BudgetExceeded)]
    assert found == [("a", 3), ("c", 3)]
    assert [event.scope_value for event in result.events(ControlIssued)] == ["a", "c"]
    assert [event.threshold_percent for event in result.events(BudgetThresholdCrossed)] == [50, 50, 50]
    [alert, _] = result.events(AlertRaised)
    file, _, anchor = alert.runbook_url.partition("#")
    assert f"\n### {anchor.replace('-', ' ').capitalize()}\n" in (ROOT / file).read_text("utf-8")
    assert alert.summary == "run a used 3 tool calls of 2 tool calls (careful, per run)"
    assert result.events(BudgetExceeded)[0].trigger_event_id == log[4].event_id


@pytest.mark.parametrize(
    ("scope", "value", "holds"),
    [
        ("tenant", "acme", True), ("tenant", "globex", False), ("team", "payments", True), ("team", "", True),
        ("agent", "refunds", True), ("agent", "other", False), ("user", "", False), ("run", "run-1", True),
        ("run", "run-2", False), ("label:team", "payments", True), ("label:tier", "", False), ("galaxy", "", False),
    ],
)  # fmt: skip
def test_a_scope_holds_the_runs_that_its_name_says(scope: str, value: str, *, holds: bool) -> None:
    author = Author()
    declared = run_budget(scope=scope, scope_value=value)
    assert bool(said(folded([declared, author.start(), author.tool_call()]))) is holds


def test_a_budget_of_another_tenant_or_declared_after_the_run_had_ended_says_nothing() -> None:
    author = Author()
    run = [author.start(), *(author.tool_call() for _ in range(3))]
    assert said(folded([run_budget(tenant_id="globex"), *run])) == []
    assert said(folded([*run, author.finish(), run_budget(), author.outcome()])) == []


def test_a_budget_that_is_declared_meanwhile_counts_what_the_run_has_used_by_then() -> None:
    author = Author()
    run = [author.start(), *(author.tool_call() for _ in range(3)), run_budget(), author.model_call()]
    assert said(folded(run)) == [("careful", 50, 3), ("careful", None, 3)]


def test_a_run_has_its_own_budget_and_declared_ones_side_by_side() -> None:
    author = Author()
    run = [run_budget(), author.start(budget_tool_calls=2), *(author.tool_call() for _ in range(3)), author.finish()]
    result = folded(run)
    assert [event.budget_id for event in result.events(BudgetExceeded)] == ["run", "careful"]
    alerts = [event.alert_id for event in result.events(AlertRaised)]
    assert len(set(alerts)) == 2
    assert [(event.alert_id, event.reason) for event in result.events(AlertResolved)] == [
        (alert_id, "run_ended") for alert_id in alerts
    ]


def test_a_limit_that_is_raised_resolves_the_alert_lifts_the_halt_and_can_be_exceeded_again() -> None:
    author = Author()
    calls = [author.tool_call() for _ in range(3)]
    log = [run_budget(), author.start(), *calls, run_budget(2, limit_amount=4), author.model_call()]
    result = folded([*log, author.tool_call(), author.tool_call()])
    assert said(result) == [("careful", 50, 1), ("careful", None, 3), ("careful", None, 5)]
    assert [event.reason for event in result.events(AlertResolved)] == ["limit_raised"]
    assert [event.command for event in result.events(ControlIssued)] == ["halt", "resume", "halt"]
    assert len(result.by_id()) == len(result.events())


def test_a_halt_stays_while_another_budget_of_the_run_is_exceeded() -> None:
    author = Author()
    declared = [run_budget(), run_budget(2, budget_id="other")]
    log = [*declared, author.start(), *(author.tool_call() for _ in range(3)), run_budget(3, retired=True)]
    result = folded([*log, author.model_call()])
    assert [event.reason for event in result.events(AlertResolved)] == ["budget_retired"]
    assert [event.command for event in result.events(ControlIssued)] == ["halt", "halt"]


@pytest.mark.parametrize("own", [True, False])
def test_a_tool_call_that_fails_with_all_its_retries_is_over_a_watched_budget_of_retries(own: bool) -> None:
    author = Author()
    declared = [] if own else [run_budget(metric="tool_retries", limit_amount=2, on_exceeded="escalate")]
    fields: dict[str, Any] = {"budget_tool_retries": 2, "on_budget_exceeded": "escalate"} if own else {}
    kinds = [("a", "error"), ("b", "timeout"), ("a", "denied"), ("a", "ok"), ("a", "error"), ("b", "error")]
    calls = [author.tool_call(arguments_digest=name, status=status) for name, status in kinds]
    fine = folded([*declared, author.start(**fields), *calls])
    assert [event.threshold_percent for event in fine.events(BudgetThresholdCrossed)] == [50] + [80, 100] * own
    result = folded([*declared, author.start(**fields), *calls, author.tool_call(arguments_digest="b", status="error")])
    [exceeded], [halt] = result.events(BudgetExceeded), result.events(ControlIssued)
    assert (exceeded.metric, exceeded.used_amount, exceeded.limit_amount) == ("tool_retries", 3, 2)
    assert (halt.command, halt.scope, halt.on_exceeded) == ("halt", "run", "escalate")
    user = author.tool_call(arguments_digest="b", status="error", requestor="user")
    assert folded([*declared, author.start(**fields), *calls, user]).events(BudgetExceeded) == []


def test_a_run_over_a_watched_budget_that_asks_is_halted_and_a_person_asked_whose_answer_is_more() -> None:
    author = Author()
    asks = run_budget(on_exceeded="ask_human")
    more = run_budget(2, on_exceeded="ask_human", limit_amount=3, declared_by="maria", reason="a large order")
    log = [asks, author.start(), *(author.tool_call() for _ in range(3))]
    asked = folded(log)
    [question] = asked.events(ApprovalRequested)
    assert raise_of(question.change_redacted) == Raise("careful", "run", "run-1", "tool_calls", 2, 3)
    assert [record.topic for record in asked.derived if b"raise_budget" in (record.value or b"")] == [BUDGETS.name]
    log += [more, author.model_call()]
    raised = folded(log)
    [answer] = raised.events(ApprovalDecided)
    assert (answer.approval_id, answer.verdict) == (question.approval_id, "approved")
    assert (answer.decided_by, answer.reason) == ("maria", "a large order")
    assert [event.command for event in raised.events(ControlIssued)] == ["halt", "resume"]
    again = folded([*log, author.tool_call(), author.finish("escalated")])
    _, second = again.events(ApprovalRequested)
    assert second.approval_id != question.approval_id
    assert [(event.approval_id, event.verdict) for event in again.events(ApprovalDecided)] == [
        (question.approval_id, "approved"), (second.approval_id, "expired"),
    ]  # fmt: skip


def test_a_budget_that_comes_to_ask_later_answers_no_question_that_it_never_asked() -> None:
    author = Author()
    log = [run_budget(), author.start(), *(author.tool_call() for _ in range(3))]
    log += [run_budget(2, on_exceeded="ask_human"), author.model_call()]
    log += [run_budget(3, limit_amount=9), author.model_call()]
    assert folded(log).events(ApprovalRequested, ApprovalDecided) == []


def test_a_repetition_of_an_older_declaration_undoes_nothing() -> None:
    author = Author()
    log = [run_budget(), run_budget(2, limit_amount=9), run_budget(), author.start()]
    assert said(folded([*log, *(author.tool_call() for _ in range(3))])) == []


def test_wall_clock_time_runs_by_ticks_for_declared_and_own_budgets() -> None:
    author = Author()
    clock: dict[str, Any] = {"metric": "wall_clock_ms", "limit_amount": 90_000, "thresholds_percent": ["50", "100"]}
    start = author.start(budget_wall_clock_ms=60_000, thresholds_percent=["100"], on_budget_exceeded="halt")
    ticks: list[tuple[int, Event | None]] = [(at_ms, None) for at_ms in range(1000, 100_000, 1000)]
    result = at_times((0, run_budget(**clock)), (0, start), *ticks, (100_000, author.model_call()))
    assert said(result) == [
        ("careful", 50, 45_000),
        ("run", 100, 60_000),
        ("run", None, 61_000),
        ("careful", 100, 90_000),
        ("careful", None, 91_000),
    ]
    assert {event.trigger_event_id for event in result.events(*LINES)} == {None}
    assert [(event.command, event.occurred_at // 1000 - START_MS) for event in result.events(ControlIssued)] == [
        ("halt", 61_000),
        ("halt", 91_000),
    ]
    [state] = result.runs().values()
    assert state.used.wall_clock_ms == 100_000


def test_a_wall_clock_budget_that_is_declared_meanwhile_is_crossed_by_ticks_as_well() -> None:
    author = Author()
    clock = run_budget(metric="wall_clock_ms", limit_amount=5_000, thresholds_percent=["100"])
    ticks: list[tuple[int, Event | None]] = [(at_ms, None) for at_ms in range(2000, 20_000, 1000)]
    result = at_times((0, author.start()), (1000, clock), (1500, author.model_call()), *ticks)
    assert said(result) == [("careful", 100, 5_000), ("careful", None, 6_000)]


def test_wall_clock_time_stops_with_the_run_and_never_runs_for_an_imported_one() -> None:
    clock = run_budget(metric="wall_clock_ms", limit_amount=5_000)
    ended, imported = Author("ended"), Author("imported")
    ticks: list[tuple[int, Event | None]] = [(at_ms, None) for at_ms in range(2000, 20_000, 1000)]
    result = at_times((0, clock), (0, ended.start()), (1000, ended.finish()), *ticks)
    assert said(result) == []
    assert said(at_times((0, clock), (0, imported.start(source="tau2")), *ticks)) == []


def declared_to_runs(*items: tuple[int, Event], rng: random.Random | None = None) -> Stage2:
    """What stage 2 says to the runs' partitions of these declarations, at so many milliseconds after the start."""
    ticks = [tick(at_ms) for at_ms in range(0, 20_000, 1000)]
    sources = [stage1(ticks, source, partitions=1) for source in range(SOURCES)]
    partials = [record.value for records in sources for record in records]
    times = [(ticked.time_us // 1000 - START_MS, ticked.event) for ticked in ticks]
    log = declarations(sorted([*items, *times], key=lambda item: item[0]))
    return run_stage2(partials, log, rng=rng)


def told(stage: Stage2) -> list[tuple[str, int, bool]]:
    """Budget, partition and whether it ended, each declaration once."""
    records = [record for record in dict.fromkeys(stage.derived) if record.topic == EVENTS.name]
    events = [CODEC.decode(record.value) for record in records]
    return [
        (event.budget_id, partition_of(record.key, SOURCES), event.retired)
        for record, event in zip(records, events, strict=True)
        if isinstance(event, RunBudgetDeclared)
    ]


def per_run(budget_id: str = "r", **fields: Any) -> Event:
    return budget(8, budget_id=budget_id, window="run", metric="tool_calls", scope="workflow", **fields)


def test_a_watched_budget_per_run_is_told_to_every_partition_of_the_runs_and_its_end_too() -> None:
    end = per_run(event_id=run_budget(7).event_id, retired=True)
    stage = declared_to_runs((0, per_run()), (5000, end))
    assert told(stage) == [
        ("r", 0, False),
        ("r", 1, False),
        ("r", 2, False),
        ("r", 0, True),
        ("r", 1, True),
        ("r", 2, True),
    ]


def test_a_held_budget_per_run_is_not_told_unless_it_was_watched_before() -> None:
    held = per_run(event_id=run_budget(7).event_id, enforcement="hold")
    assert told(declared_to_runs((0, held))) == []
    assert [retired for _, _, retired in told(declared_to_runs((0, per_run()), (5000, held)))] == [False] * 3 + [
        True
    ] * 3


def test_what_is_told_survives_crashes_and_repetitions() -> None:
    items = [(number * 1000, per_run(f"b{number % 3}", event_id=run_budget(number).event_id)) for number in range(9)]
    plain = declared_to_runs(*items)
    for seed in range(5):
        assert set(told(declared_to_runs(*items, rng=random.Random(seed)))) == set(told(plain))


def test_limits_beyond_the_bound_are_refused_with_an_alert() -> None:
    items = [(0, per_run(f"b{number}", event_id=run_budget(number).event_id)) for number in range(RUN_LIMITS_MAX + 1)]
    stage = declared_to_runs(*items)
    assert len(told(stage)) == RUN_LIMITS_MAX * SOURCES
    [alert] = [CODEC.decode(record.value) for record in stage.derived if b"too_many_scope_values" in record.value]
    assert "b100 is not" in alert.summary
