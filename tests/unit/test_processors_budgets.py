"""Budget arithmetic: each line is crossed once, in order, and never early."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.processors.budgets import METRICS, THRESHOLDS_PERCENT, Crossing, crossings, declared_limits
from tests.run_logs import Author

TOOL_CALLS = METRICS.index("tool_calls")


def lines(limit: int | None, amounts: list[int]) -> list[Crossing]:
    limits: list[int | None] = [None] * len(METRICS)
    limits[TOOL_CALLS] = limit
    crossed = [0] * len(METRICS)
    found = []
    for amount in amounts:
        used = [0] * len(METRICS)
        used[TOOL_CALLS] = amount
        found += list(crossings(limits, used, crossed, THRESHOLDS_PERCENT))
    return found


def test_each_line_is_reported_when_it_is_reached_and_once() -> None:
    found = [(line.percent, line.used) for line in lines(10, [*range(15), 14, 3])]
    assert found == [(50, 5), (80, 8), (100, 10), (None, 11)]


def test_a_jump_reports_every_line_that_it_passes_in_order() -> None:
    assert [line.percent for line in lines(10, [100])] == [50, 80, 100, None]


@pytest.mark.parametrize("limit", [None, 10])
def test_what_is_not_limited_or_not_used_crosses_nothing(limit: int | None) -> None:
    assert lines(limit, [0] if limit else [10**15]) == []


def test_a_limit_of_zero_is_exceeded_by_the_first_use() -> None:
    assert lines(0, [0]) == []
    assert [line.percent for line in lines(0, [0, 1])] == [50, 80, 100, None]


@given(st.integers(0, 2**63 - 1), st.lists(st.integers(0, 2**63 - 1), max_size=20).map(sorted))
def test_lines_are_crossed_exactly_where_usage_reaches_them(limit: int, amounts: list[int]) -> None:
    found = lines(limit, amounts)
    assert len({line.percent for line in found}) == len(found)
    for percent in (50, 80, 100):
        first = next((amount for amount in amounts if amount > 0 and amount * 100 >= limit * percent), None)
        assert [line.used for line in found if line.percent == percent] == ([] if first is None else [first])
    first = next((amount for amount in amounts if amount > limit), None)
    assert [line.used for line in found if line.percent is None] == ([] if first is None else [first])


def test_limits_come_in_the_order_of_the_metrics_and_negative_ones_are_none() -> None:
    started = Author().start(
        budget_cost_nanousd=1, budget_tokens=2, budget_model_calls=-3, budget_tool_calls=4, budget_tool_retries=3
    )
    assert declared_limits(started) == [1, 2, None, 4, None, 3]
