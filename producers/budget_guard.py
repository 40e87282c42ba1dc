"""A run's own budget: pure rules that say, before each call, whether it may be made.

The guard knows what the run has used, not what the next call will use: tokens and dollars can pass their limit by what
the calls under way use, one call where a run makes one at a time. Counts of calls never pass theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from agentledger.schemas.errors import BudgetExceededError, MoneyError, UsageError
from agentledger.schemas.money import NANOUSD_PER_USD, usd_to_nanousd

CallKind = Literal["model", "tool"]
OnExceeded = Literal["halt", "warn", "ask_human", "escalate"]
ON_EXCEEDED = ("halt", "warn", "ask_human", "escalate")
_LIMITS = ("tokens", "model_calls", "tool_calls", "tool_retries")


class RunBudgetExceededError(BudgetExceededError):
    """The run's budget doesn't allow the next call; it was not made. `used` and `limit` are in the metric's unit.

    `metric` is cost_usd, tokens, model_calls, tool_calls, wall_clock_s or tool_retries; `on_exceeded` is what the
    budget asks for.
    """

    def __init__(self, run_id: str, metric: str, limit: float, used: float, on_exceeded: OnExceeded) -> None:
        self.run_id = run_id
        self.metric = metric
        self.limit = limit
        self.used = used
        self.on_exceeded = on_exceeded
        super().__init__(
            f"the run's budget is used up: {metric} {used:g} of {limit:g}",
            where=f"run {run_id}",
            next_step="end the run, or give it more with run.extend_budget",
        )


class UnknownUsageError(RunBudgetExceededError):
    """A call of this run has an unknown price or unknown tokens, so its budget can't be held: the next is refused."""

    def __init__(self, run_id: str, metric: str, limit: float, used: float, on_exceeded: OnExceeded) -> None:
        super().__init__(run_id, metric, limit, used, on_exceeded)
        what = "a price" if metric == "cost_usd" else "token counts"
        self.what = f"the run has a budget of {limit:g} {metric}, and one of its model calls came without {what}"
        self.next_step = "report call.usage(…) or call.reported_cost_usd(…), or set the budget's unpriced='allow'"
        self.args = (str(self),)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBudget:
    """Limits of one run; None is no limit. Dollars, counts and seconds as people say them.

    `tool_retries` is how often one tool call (the same tool, the same arguments) may be tried again: of 2, the limit is
    passed when the first attempt and two retries have failed in a row.

    `on_exceeded`: halt, escalate and ask_human refuse the next call (the run then ends halted, or escalated); warn
    only says so. `unpriced` decides what follows a call whose price or tokens are unknown: refuse or allow.
    Raises UsageError for a negative limit or an unknown word.
    """

    cost_usd: Decimal | float | str | None = None
    tokens: int | None = None
    model_calls: int | None = None
    tool_calls: int | None = None
    wall_clock_s: float | None = None
    tool_retries: int | None = None
    on_exceeded: OnExceeded = "halt"
    unpriced: Literal["refuse", "allow"] = "refuse"

    def __post_init__(self) -> None:
        if self.on_exceeded not in ON_EXCEEDED or self.unpriced not in {"refuse", "allow"}:
            raise UsageError(
                f"a budget can't do {self.on_exceeded!r} with unpriced={self.unpriced!r}",
                next_step=f"use on_exceeded {', '.join(ON_EXCEEDED)}, and unpriced refuse or allow",
            )
        for name in (*_LIMITS, "wall_clock_s"):
            limit = getattr(self, name)
            if limit is None:
                continue
            if not isinstance(limit, int | float) or isinstance(limit, bool) or not 0 <= limit < 2**53:
                raise UsageError(f"{name}={limit!r} is not a limit", next_step="give a number of 0 or more, or None")
        try:
            cost = self.cost_nanousd
        except MoneyError as error:
            raise UsageError(f"cost_usd is not a limit: {error}") from None
        if cost is not None and cost < 0:
            raise UsageError(f"cost_usd={self.cost_usd} is not a limit", next_step="give 0 or more dollars, or None")

    @property
    def cost_nanousd(self) -> int | None:
        """The limit of dollars in nano-dollars."""
        return None if self.cost_usd is None else usd_to_nanousd(self.cost_usd)

    @property
    def wall_clock_ms(self) -> int | None:
        """The limit of time in milliseconds."""
        return None if self.wall_clock_s is None else round(self.wall_clock_s * 1000)


def to_budget(budget: RunBudget | Mapping[str, Any] | None) -> RunBudget | None:
    """A budget from what a caller gave. Raises UsageError for a name that no budget has."""
    if budget is None or isinstance(budget, RunBudget):
        return budget
    try:
        return RunBudget(**budget)
    except TypeError:
        unknown = sorted(set(budget) - set(RunBudget.__slots__))
        raise UsageError(
            f"a budget has no {', '.join(map(str, unknown))}", next_step=f"it has {', '.join(RunBudget.__slots__)}"
        ) from None


@dataclass(slots=True)
class RunUsage:
    """What a run has used so far. Calls count when they begin; tokens and dollars when they end."""

    model_calls: int = 0
    tool_calls: int = 0
    tokens: int = 0
    cost_nanousd: int = 0
    tool_retries: int = 0  # the most often that one tool call has failed in a row
    calls_without_price: int = 0
    calls_without_tokens: int = 0


def check_before(kind: CallKind, usage: RunUsage, budget: RunBudget, run_id: str, elapsed_us: int) -> None:
    """Raise RunBudgetExceededError where the budget doesn't allow a next call of this kind; UnknownUsageError too.

    `on_exceeded` is not looked at here: the caller decides what a refusal leads to.
    """
    calls, limit = (usage.model_calls, budget.model_calls) if kind == "model" else (usage.tool_calls, budget.tool_calls)
    if limit is not None and calls >= limit:
        raise RunBudgetExceededError(run_id, f"{kind}_calls", limit, calls, budget.on_exceeded)
    if budget.tool_retries is not None and usage.tool_retries > budget.tool_retries:
        raise RunBudgetExceededError(
            run_id, "tool_retries", budget.tool_retries, usage.tool_retries, budget.on_exceeded
        )
    if budget.wall_clock_s is not None and elapsed_us >= budget.wall_clock_s * 1e6:
        raise RunBudgetExceededError(
            run_id, "wall_clock_s", budget.wall_clock_s, round(elapsed_us / 1e6, 3), budget.on_exceeded
        )
    for metric, amount, used, per_unit, unknown in (
        ("tokens", budget.tokens, usage.tokens, 1, usage.calls_without_tokens),
        ("cost_usd", budget.cost_nanousd, usage.cost_nanousd, NANOUSD_PER_USD, usage.calls_without_price),
    ):
        if amount is None:
            continue
        shown = amount / per_unit, used / per_unit
        if used >= amount:
            raise RunBudgetExceededError(run_id, metric, *shown, budget.on_exceeded)
        if unknown and budget.unpriced == "refuse":
            raise UnknownUsageError(run_id, metric, *shown, budget.on_exceeded)
