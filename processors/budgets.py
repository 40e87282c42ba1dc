"""A run's own budget: which lines its usage has crossed. Pure arithmetic over integers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from agentledger.schemas.events import RunStarted

METRICS = ("cost_nanousd", "tokens", "model_calls", "tool_calls", "wall_clock_ms")
THRESHOLDS_PERCENT = (50, 80, 100)
EXCEEDED = 1 << len(THRESHOLDS_PERCENT)  # the bit beside those of the thresholds
ALL_CROSSED = 2 * EXCEEDED - 1

Limits = list[int | None]


class Crossing(NamedTuple):
    """One line that was crossed just now. `percent` is None for the limit itself being exceeded."""

    metric: str
    percent: int | None
    limit: int
    used: int


def declared_limits(started: RunStarted) -> Limits:
    """The run's limits in the order of METRICS; None where none was declared. A negative limit counts as none."""
    limits = (
        started.budget_cost_nanousd,
        started.budget_tokens,
        started.budget_model_calls,
        started.budget_tool_calls,
        started.budget_wall_clock_ms,
    )
    return [limit if limit is not None and limit >= 0 else None for limit in limits]


def crossings(limits: Limits, used: list[int], crossed: list[int]) -> Iterator[Crossing]:
    """What usage has crossed that `crossed` doesn't hold yet; `crossed` is brought up to date.

    Lists are in the order of METRICS; `crossed` holds a bit per threshold and one for exceeded. A threshold is crossed
    when usage reaches it, the budget is exceeded when usage is over it. Nothing used crosses nothing, not even 0.
    """
    for index, limit in enumerate(limits):
        if limit is None or crossed[index] == ALL_CROSSED:
            continue
        amount = used[index]
        if amount <= 0:
            continue
        for place, percent in enumerate(THRESHOLDS_PERCENT):
            bit = 1 << place
            if not crossed[index] & bit and amount * 100 >= limit * percent:
                crossed[index] |= bit
                yield Crossing(METRICS[index], percent, limit, amount)
        if amount > limit and not crossed[index] & EXCEEDED:
            crossed[index] |= EXCEEDED
            yield Crossing(METRICS[index], None, limit, amount)
