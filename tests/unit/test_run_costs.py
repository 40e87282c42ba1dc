"""What a run cost, by part; its thresholds and what stops it."""

from __future__ import annotations

import pytest

from agentledger.processors.budgets import NEVER, declared_thresholds, next_lines
from agentledger.schemas.control import RUN_BUDGETS, control_key
from agentledger.schemas.events import (
    AlertRaised,
    AlertResolved,
    ApprovalDecided,
    BudgetThresholdCrossed,
    ControlIssued,
    CostRated,
    Event,
    OutcomeCosted,
    RunStarted,
)
from agentledger.schemas.testing.price_book import FixedPriceBook
from agentledger.schemas.topics import CONTROL
from tests.run_logs import Author, Folded, folded

PRICES = FixedPriceBook(
    {"sold": (2000, 500, 2500, 8000, 9000)}, tools={"search": 5_000_000}, human_nanousd_per_hour=36_000_000_000
)


def stated(events: list[Event]) -> OutcomeCosted:
    """The last word on the one run."""
    last: OutcomeCosted = folded(events, PRICES).events(OutcomeCosted)[-1]
    return last


def test_a_charge_has_its_shares_and_its_tier() -> None:
    usage = {"cache_read_tokens": 10, "cache_write_tokens": 4, "output_tokens": 3, "reasoning_tokens": 2}
    [charge] = folded([Author().model_call(1, service_tier="flex", **usage)], PRICES).events(CostRated)
    assert charge.input_cost_nanousd == 2000 + 10 * 500 + 4 * 2500
    assert charge.output_cost_nanousd == 3 * 8000 + 2 * 9000
    assert charge.cost_nanousd == charge.input_cost_nanousd + charge.output_cost_nanousd
    assert charge.cache_read_cost_nanousd == 5000
    assert charge.cache_write_cost_nanousd == 10_000
    assert charge.reasoning_cost_nanousd == 18_000
    assert charge.service_tier == "flex"


def test_a_runs_cost_is_that_of_models_tools_and_people() -> None:
    author = Author()
    last = stated(
        [
            author.start(parent_run_id="run-0", prompt_version="p-3", policy_version="q-4"),
            author.model_call(1000),
            author.tool_call(tool="search"),
            author.tool_call(tool="mail", reported_cost_nanousd=7),
            author.tool_call(tool="free"),
            author.write(ApprovalDecided, verdict="approved", human_ms=60_000),
            author.write(ApprovalDecided, verdict="approved"),
            author.outcome(),
        ]
    )
    assert last.model_cost_nanousd == 2_000_000
    assert last.tool_cost_nanousd == 5_000_007
    assert last.human_cost_nanousd == 600_000_000
    assert last.human_ms == 60_000
    assert last.cost_nanousd == 2_000_000 + 5_000_007 + 600_000_000
    assert (last.parent_run_id, last.prompt_version, last.policy_version) == ("run-0", "p-3", "q-4")
    assert (last.wasted_cost_nanousd, last.retry_cost_nanousd) == (0, 0)


def test_parts_that_nothing_has_a_price_for_are_unknown_and_not_zero() -> None:
    author = Author()
    last = stated([author.start(), author.model_call(10, "other"), author.tool_call(), author.outcome()])
    parts = (last.cost_nanousd, last.model_cost_nanousd, last.tool_cost_nanousd, last.human_cost_nanousd)
    assert parts == (None, None, None, None)
    assert (last.wasted_cost_nanousd, last.retry_cost_nanousd, last.human_ms) == (None, None, None)


@pytest.mark.parametrize(
    ("status", "attempt", "wasted", "retried"),
    [("ok", 1, 0, 0), ("ok", 2, 0, 1), ("error", 1, 1, 0), ("rejected", 3, 1, 1), ("cancelled", 1, 1, 0)],
)
def test_failed_calls_are_wasted_and_later_attempts_are_retries(
    status: str, attempt: int, wasted: int, retried: int
) -> None:
    author = Author()
    last = stated([author.start(), author.model_call(1000, status=status, attempt=attempt), author.outcome()])
    assert (last.cost_nanousd, last.wasted_cost_nanousd) == (2_000_000, wasted * 2_000_000)
    assert last.retry_cost_nanousd == retried * 2_000_000


@pytest.mark.parametrize(("status", "cost"), [("ok", 5_000_000), ("timeout", 5_000_000), ("denied", None)])
def test_a_tool_has_its_price_unless_the_call_was_denied(status: str, cost: int | None) -> None:
    author = Author()
    last = stated([author.start(), author.tool_call(tool="search", status=status), author.outcome()])
    assert last.tool_cost_nanousd == cost
    assert last.wasted_cost_nanousd == (cost if cost and status != "ok" else 0 if cost else None)


def test_what_a_tool_reports_stands_beside_the_price_of_the_book() -> None:
    [charge] = folded([Author().tool_call(tool="search", reported_cost_nanousd=9)], PRICES).events(CostRated)
    assert (charge.cost_nanousd, charge.reported_cost_nanousd, charge.price_source) == (5_000_000, 9, "fixed")


def test_peoples_time_uses_no_budget_of_the_run() -> None:
    author = Author()
    decided = author.write(ApprovalDecided, verdict="approved", human_ms=3_600_000)
    assert folded([author.start(budget_cost_nanousd=1), decided], PRICES).events(BudgetThresholdCrossed) == []


def test_thresholds_are_those_that_the_run_declares() -> None:
    author = Author()
    start = author.start(budget_tool_calls=100, thresholds_percent=["10", "95", "x", "10", "", "0", "5000", "²"])
    told = folded([start, *(author.tool_call() for _ in range(101))]).events(BudgetThresholdCrossed)
    assert [event.threshold_percent for event in told] == [10, 95]


def test_thresholds_that_say_nothing_are_the_usual_ones() -> None:
    assert declared_thresholds([]) == declared_thresholds(["-1", "a"]) == [50, 80, 100]
    assert len(declared_thresholds([str(percent) for percent in range(1, 100)])) == 16


def test_the_next_line_is_the_least_usage_that_crosses_one() -> None:
    assert next_lines([10, None, 0, 10, 10], [0, 0, 0, 0b0111, 0b1111], [50, 80, 100])[:4] == [5, NEVER, 1, 11]


@pytest.mark.parametrize(
    ("asked", "halted"), [("halt", True), ("escalate", True), ("ask_human", True), ("warn", False), ("", False)]
)
def test_a_run_over_its_budget_is_halted_where_it_asks_for_that(asked: str, halted: bool) -> None:
    author = Author()
    start = author.start(budget_tool_calls=1, budget_model_calls=0, on_budget_exceeded=asked)
    result = folded([start, author.tool_call(), author.tool_call(), author.tool_call(), author.model_call()])
    issued = result.events(ControlIssued)
    assert [(event.command, event.scope, event.scope_value) for event in issued] == [("halt", "run", "run-1")] * (
        2 * halted
    )
    assert {event.on_exceeded for event in issued} <= {asked}  # so the run ends as that
    records = [record for record in result.derived if record.topic == CONTROL.name]
    assert [record.key for record in records] == [control_key("acme", "run", "run-1", RUN_BUDGETS)] * (2 * halted)
    assert all("tool calls of" in event.reason or "model calls of" in event.reason for event in issued)


def test_the_alert_of_a_budget_is_resolved_when_the_run_ends_and_nothing_is_halted_after() -> None:
    author = Author()
    start = author.start(budget_tool_calls=0, budget_model_calls=0, on_budget_exceeded="halt")
    result = folded([start, author.tool_call(), author.finish(), author.model_call()])
    [tools, models] = result.events(AlertRaised)
    assert [event.alert_id for event in result.events(AlertResolved)] == [tools.alert_id, models.alert_id]
    assert len(result.events(ControlIssued)) == 1


def test_a_start_that_comes_late_adds_what_it_says_to_the_statement() -> None:
    author = Author()
    events = [author.outcome(), author.write(RunStarted, prompt_version="p-1")]
    assert [event.prompt_version for event in Folded(PRICES).take([]).events()] == []
    assert [(event.revision, event.prompt_version) for event in folded(events).events(OutcomeCosted)] == [
        (1, ""),
        (2, "p-1"),
    ]
