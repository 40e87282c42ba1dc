"""Which answers of an analyst's query are drawn, and how."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from agentledger.sinks.console.charts import LINES_MAX, chart_of
from agentledger.sinks.queries import QueryResult

DAY_S = 86_400


def answer(types: tuple[str, ...], *rows: tuple[Any, ...]) -> QueryResult:
    return QueryResult(tuple(f"c{i}" for i in range(len(types))), types, list(rows))


def test_numbers_are_drawn_over_their_days_in_order() -> None:
    chart = chart_of(
        answer(
            ("String", "Date", "UInt64", "Nullable(Decimal(9, 2))"),
            ("x", date(1970, 1, 3), 3, None),
            ("y", date(1970, 1, 2), 2, Decimal("1.5")),
        )
    )
    assert chart is not None
    assert chart.moments_s == [DAY_S, 2 * DAY_S]
    assert [(line.name, line.values) for line in chart.lines] == [("c2", [2.0, 3.0]), ("c3", [1.5, None])]


def test_times_without_a_zone_are_utc_and_what_is_no_number_is_a_gap() -> None:
    at = ("DateTime('UTC')", "Float64")
    naive = datetime.fromisoformat("1970-01-01T01:00")
    rows = [(naive, float("nan")), (datetime(1970, 1, 1, 2, tzinfo=UTC), float("inf"))]
    chart = chart_of(answer(at, *rows))
    assert chart is not None
    assert chart.moments_s == [3_600, 7_200]
    assert json.loads(chart.as_json())["columns"][1] == [None, None]


@pytest.mark.parametrize(
    "result",
    [
        answer(("String", "UInt64"), ("a", 1), ("b", 2)),
        answer(("Date", "String"), (date(1970, 1, 1), "a"), (date(1970, 1, 2), "b")),
        answer(("Date", "UInt64"), (date(1970, 1, 1), 1)),
        answer(("Date", "UInt64"), (date(1970, 1, 1), 1), (date(1970, 1, 1), 2)),
        answer(("Date", "Array(UInt64)"), (date(1970, 1, 1), [1]), (date(1970, 1, 2), [2])),
    ],
    ids=["no time", "no number", "one row", "a moment twice", "lists"],
)
def test_other_answers_are_tables_alone(result: QueryResult) -> None:
    assert chart_of(result) is None


def test_no_more_lines_than_colours() -> None:
    row = tuple(range(LINES_MAX + 3))
    types = ("Date", *["Int64"] * len(row))
    chart = chart_of(answer(types, (date(1970, 1, 1), *row), (date(1970, 1, 2), *row)))
    assert chart is not None
    assert len(chart.lines) == LINES_MAX
