"""A run's budgets: which lines its usage has crossed. Pure arithmetic over integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentledger.schemas.events import RunStarted
from agentledger.schemas.money import format_usd

# `tool_retries` is the most often that one tool call has failed in a row.
METRICS: Final = ("cost_nanousd", "tokens", "model_calls", "tool_calls", "wall_clock_ms", "tool_retries")
SUMMED: Final = METRICS[:5]  # what adds up over runs
# Places in METRICS.
COST: Final = 0
WALL_CLOCK: Final = 4
THRESHOLDS_PERCENT = [50, 80, 100]
THRESHOLDS_MAX = 16  # of one budget; each may say something once per metric
PERCENT_MAX = 1000
RUNBOOK_URL = "infra/docs/BUDGETS.md#at-the-limit"  # of the alerts that a limit was exceeded
HALTING = frozenset({"halt", "escalate", "ask_human"})  # what `on_budget_exceeded` says where the run has to stop
NEVER: Final = 2**62 - 1  # no usage is as large; compiled code has numbers up to here in registers

Limits = list[int | None]
NO_LIMITS: Final[Limits] = [None] * len(METRICS)


class Amounts:
    """An amount of each metric, by its name. Compiled code reads and changes these faster than those in a list."""

    __slots__ = ("cost_nanousd", "model_calls", "tokens", "tool_calls", "tool_retries", "wall_clock_ms")

    def __init__(self, amounts: list[int]) -> None:
        (
            self.cost_nanousd, self.tokens, self.model_calls, self.tool_calls, self.wall_clock_ms, self.tool_retries,
        ) = amounts  # fmt: skip

    def listed(self) -> list[int]:
        """The amounts in the order of METRICS."""
        return [
            self.cost_nanousd, self.tokens, self.model_calls, self.tool_calls, self.wall_clock_ms, self.tool_retries,
        ]  # fmt: skip

    def reaches(self, lines: Amounts) -> bool:
        """True where one of them is at its line, or above."""
        return (
            self.cost_nanousd >= lines.cost_nanousd
            or self.tokens >= lines.tokens
            or self.model_calls >= lines.model_calls
            or self.tool_calls >= lines.tool_calls
            or self.wall_clock_ms >= lines.wall_clock_ms
            or self.tool_retries >= lines.tool_retries
        )


class Crossing:
    """One line that was crossed just now. `percent` is None for the limit itself being exceeded."""

    __slots__ = ("limit", "metric", "percent", "used")

    def __init__(self, metric: str, percent: int | None, limit: int, used: int) -> None:
        self.metric = metric
        self.percent = percent
        self.limit = limit
        self.used = used


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


def exceeded_bit(thresholds: list[int]) -> int:
    """The bit beside those of the thresholds."""
    return 1 << len(thresholds)


def next_line(limit: int, bits: int, thresholds: list[int]) -> int:
    """The least usage that crosses a line of this limit which isn't crossed yet; NEVER where all are."""
    line = NEVER if bits & exceeded_bit(thresholds) else limit + 1
    for percent in thresholds:
        if not bits & 1:
            amount = -(-limit * percent // 100)
            line = min(line, amount if amount > 1 else 1)
        bits >>= 1
    return line


def next_lines(limits: Limits, crossed: list[int], thresholds: list[int]) -> list[int]:
    """The same per metric; NEVER where there is no limit."""
    lines: list[int] = []
    for place, limit in enumerate(limits):
        lines.append(NEVER if limit is None else next_line(limit, crossed[place], thresholds))
    return lines


def reached_bits(limit: int, used: int, thresholds: list[int]) -> int:
    """A bit for each threshold that usage has reached, and one where it is over the limit.

    A threshold is crossed when usage reaches it, the budget is exceeded when usage is over it. Nothing used crosses
    nothing, not even 0.
    """
    if used <= 0:
        return 0
    bits = exceeded_bit(thresholds) if used > limit else 0
    bit = 1
    for percent in thresholds:
        if used * 100 >= limit * percent:
            bits |= bit
        bit <<= 1
    return bits


def crossed_now(metric: str, limit: int, used: int, bits: int, thresholds: list[int]) -> list[Crossing]:
    """What usage has crossed that `bits` doesn't hold."""
    new = reached_bits(limit, used, thresholds) & ~bits
    found: list[Crossing] = []
    for percent in thresholds:
        if new & 1:
            found.append(Crossing(metric, percent, limit, used))
        new >>= 1
    if new:
        found.append(Crossing(metric, None, limit, used))
    return found


def crossings(limits: Limits, used: list[int], crossed: list[int], thresholds: list[int]) -> list[Crossing]:
    """What usage has crossed that `crossed` doesn't hold yet; `crossed` is brought up to date.

    Lists are in the order of METRICS; `crossed` holds a bit per threshold and one for exceeded.
    """
    found: list[Crossing] = []
    for index, limit in enumerate(limits):
        if limit is not None:
            found += crossed_now(METRICS[index], limit, used[index], crossed[index], thresholds)
            crossed[index] |= reached_bits(limit, used[index], thresholds)
    return found


def amount_text(metric: str, amount: int) -> str:
    """An amount of a metric for people."""
    return format_usd(amount) if metric == "cost_nanousd" else f"{amount:,} {metric.replace('_', ' ')}"
