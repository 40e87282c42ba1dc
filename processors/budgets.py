"""A run's own budget: which lines its usage has crossed. Pure arithmetic over integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from agentledger.schemas.events import RunStarted

METRICS = ("cost_nanousd", "tokens", "model_calls", "tool_calls", "wall_clock_ms")
THRESHOLDS_PERCENT = [50, 80, 100]
THRESHOLDS_MAX = 16  # of one budget; each may say something once per metric
PERCENT_MAX = 1000
HALTING = frozenset({"halt", "escalate", "ask_human"})  # what `on_budget_exceeded` says where the run has to stop
NEVER = 2**64  # no usage is as large

Limits = list[int | None]
NO_LIMITS: Limits = [None] * len(METRICS)


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


def declared_thresholds(texts: Sequence[str]) -> list[int]:
    """The soft thresholds in percent, ascending. What is no whole number from 1 to PERCENT_MAX is left out."""
    found = {int(text) for text in texts[:1000] if text.isascii() and text.isdigit() and len(text) <= 4}
    return sorted(percent for percent in found if 1 <= percent <= PERCENT_MAX)[:THRESHOLDS_MAX] or THRESHOLDS_PERCENT


def exceeded_bit(thresholds: Sequence[int]) -> int:
    """The bit beside those of the thresholds."""
    return 1 << len(thresholds)


def next_lines(limits: Limits, crossed: list[int], thresholds: Sequence[int]) -> list[int]:
    """Per metric the least usage that crosses a line which isn't crossed yet."""
    lines = []
    for limit, bits in zip(limits, crossed, strict=True):
        if limit is None:
            lines.append(NEVER)
            continue
        amounts = [
            max(1, -(-limit * percent // 100)) for place, percent in enumerate(thresholds) if not bits & (1 << place)
        ]
        if not bits & exceeded_bit(thresholds):
            amounts.append(limit + 1)
        lines.append(min(amounts, default=NEVER))
    return lines


def crossings(limits: Limits, used: list[int], crossed: list[int], thresholds: Sequence[int]) -> Iterator[Crossing]:
    """What usage has crossed that `crossed` doesn't hold yet; `crossed` is brought up to date.

    Lists are in the order of METRICS; `crossed` holds a bit per threshold and one for exceeded. A threshold is crossed
    when usage reaches it, the budget is exceeded when usage is over it. Nothing used crosses nothing, not even 0.
    """
    exceeded = exceeded_bit(thresholds)
    for index, limit in enumerate(limits):
        amount = used[index]
        if limit is None or amount <= 0:
            continue
        for place, percent in enumerate(thresholds):
            bit = 1 << place
            if not crossed[index] & bit and amount * 100 >= limit * percent:
                crossed[index] |= bit
                yield Crossing(METRICS[index], percent, limit, amount)
        if amount > limit and not crossed[index] & exceeded:
            crossed[index] |= exceeded
            yield Crossing(METRICS[index], None, limit, amount)
