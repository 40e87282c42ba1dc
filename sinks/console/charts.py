"""Charts: the numbers travel as JSON in an attribute, a script draws them, and a table says the same in words."""

from __future__ import annotations

import json
from typing import NamedTuple


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
