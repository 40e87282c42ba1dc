"""A run's budgets: which lines its usage has crossed. Pure arithmetic over integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from agentledger.schemas.events import RunStarted
from agentledger.schemas.money import format_usd

METRICS: Final = ("cost_nanousd", "tokens", "model_calls", "tool_calls", "wall_clock_ms", "tool_retries")
SUMMED: Final = METRICS[:5]  # what adds up over runs
# Places in METRICS.
COST: Final = 0
TOKENS: Final = 1
MODEL_CALLS: Final = 2
TOOL_CALLS: Final = 3
WALL_CLOCK: Final = 4
TOOL_RETRIES: Final = 5  # the most often that one tool call has failed in a row
THRESHOLDS_PERCENT = [50, 80, 100]
THRESHOLDS_MAX = 16  # of one budget; each may say something once per metric
PERCENT_MAX = 1000
RUNBOOK_URL = "infra/docs/BUDGETS.md#at-the-limit"  # of the alerts that a limit was exceeded
HALTING = frozenset({"halt", "escalate", "ask_human"})  # what `on_budget_exceeded` says where the run has to stop
NEVER: Final = 2**62 - 1  # no usage is as large; compiled code has numbers up to here in registers

Limits = list[int | None]
NO_LIMITS: Final[Limits] = [None] * len(METRICS)


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
        started.budget_tool_retries,
    )
    return [limit if limit is not None and limit >= 0 else None for limit in limits]


def declared_thresholds(texts: Sequence[str]) -> list[int]:
    """The soft thresholds in percent, ascending. What is no whole number from 1 to PERCENT_MAX is left out."""
    found = {int(text) for text in texts[:1000] if text.isascii() and text.isdigit() and len(text) <= 4}
    return sorted(percent for percent in found if 1 <= percent <= PERCENT_MAX)[:THRESHOLDS_MAX] or THRESHOLDS_PERCENT


def exceeded_bit(thresholds: Sequence[int]) -> int:
    """The bit beside those of the thresholds."""
    return 1 << len(thresholds)


def next_line(limit: int, bits: int, thresholds: Sequence[int]) -> int:
    """The least usage that crosses a line of this limit which isn't crossed yet; NEVER where all are."""
    line = NEVER if bits & exceeded_bit(thresholds) else limit + 1
    for place, percent in enumerate(thresholds):
        if not bits & (1 << place):
            amount = -(-limit * percent // 100)
            line = min(line, amount if amount > 1 else 1)
    return line


def next_lines(limits: Limits, crossed: list[int], thresholds: Sequence[int]) -> list[int]:
    """The same per metric; NEVER where there is no limit."""
    pairs = zip(limits, crossed, strict=True)
    return [NEVER if limit is None else next_line(limit, bits, thresholds) for limit, bits in pairs]


def reached_bits(limit: int, used: int, thresholds: Sequence[int]) -> int:
    """A bit for each threshold that usage has reached, and one where it is over the limit.

    A threshold is crossed when usage reaches it, the budget is exceeded when usage is over it. Nothing used crosses
    nothing, not even 0.
    """
    if used <= 0:
        return 0
    bits = sum(1 << place for place, percent in enumerate(thresholds) if used * 100 >= limit * percent)
    return bits | (exceeded_bit(thresholds) if used > limit else 0)


def crossed_now(metric: str, limit: int, used: int, bits: int, thresholds: Sequence[int]) -> Iterator[Crossing]:
    """What usage has crossed that `bits` doesn't hold."""
    new = reached_bits(limit, used, thresholds) & ~bits
    for place, percent in enumerate(thresholds):
        if new & (1 << place):
            yield Crossing(metric, percent, limit, used)
    if new & exceeded_bit(thresholds):
        yield Crossing(metric, None, limit, used)


def crossings(limits: Limits, used: list[int], crossed: list[int], thresholds: Sequence[int]) -> Iterator[Crossing]:
    """What usage has crossed that `crossed` doesn't hold yet; `crossed` is brought up to date.

    Lists are in the order of METRICS; `crossed` holds a bit per threshold and one for exceeded.
    """
    for index, limit in enumerate(limits):
        if limit is not None:
            yield from crossed_now(METRICS[index], limit, used[index], crossed[index], thresholds)
            crossed[index] |= reached_bits(limit, used[index], thresholds)


def amount_text(metric: str, amount: int) -> str:
    """An amount of a metric for people."""
    return format_usd(amount) if metric == "cost_nanousd" else f"{amount:,} {metric.replace('_', ' ')}"
