"""Charts: the numbers travel as JSON in an attribute, a script draws them, and a table says the same in words."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from agentledger.sinks.queries import QueryResult, unique_names

LINES_MAX = 6  # colours that can be told apart
MOMENTS_MAX = 2_000


class Line(NamedTuple):
    """One line of a chart: a value, or None where there is none, for each moment."""

    name: str
    values: list[float | None]


class Chart(NamedTuple):
    """Lines over time. `title` says what and in which unit; moments are seconds since 1970."""

    title: str
    moments_s: list[int]
    lines: list[Line]

    def as_json(self) -> str:
        """What the script draws."""
        return json.dumps({"names": [line.name for line in self.lines],
                           "columns": [self.moments_s, *(line.values for line in self.lines)]})  # fmt: skip

    def table(self) -> list[tuple[int, list[float | None]]]:
        """The same by moment, in microseconds, for whoever doesn't see the chart."""
        columns = [line.values for line in self.lines]
        return [(at_s * 1_000_000, [values[i] for values in columns]) for i, at_s in enumerate(self.moments_s)]


def chart_of(result: QueryResult) -> Chart | None:
    """An answer drawn over its first column of times, a line for each column of numbers; None where it has none."""
    names, rows = unique_names(result.names), result.rows[:MOMENTS_MAX]
    at = next((i for i, kind in enumerate(result.types) if kind.removeprefix("Nullable(").startswith("Date")), None)
    numbers = [i for i in range(len(names)) if i != at and _is_numeric(result.types[i])][:LINES_MAX]
    if at is None or not numbers or len(rows) < 2:
        return None
    placed = sorted(((_seconds(row[at]), row) for row in rows if isinstance(row[at], date)), key=lambda pair: pair[0])
    moments = [moment for moment, _ in placed]
    if len(set(moments)) < len(moments):
        return None  # several rows of one moment are no line
    return Chart(
        f"{', '.join(names[i] for i in numbers)} by {names[at]}", moments,
        [Line(names[i], [_finite(row[i]) for _, row in placed]) for i in numbers],
    )  # fmt: skip


def _is_numeric(kind: str) -> bool:
    plain = kind.removeprefix("Nullable(").removeprefix("LowCardinality(")
    return plain.startswith(("Int", "UInt", "Float", "Decimal"))


def _finite(value: Any) -> float | None:
    """A gap in the line for what JSON has no number for."""
    return None if value is None or not math.isfinite(value) else float(value)


def _seconds(moment: date) -> int:
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
