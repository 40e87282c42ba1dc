"""What the hold fold keeps of a tenant: budgets, accounts, holds and halts. Pure; microseconds of ledger time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agentledger.processors.budget_windows import Window, bucket_of, bucket_us, first_bucket, window_of
from agentledger.schemas.errors import ConfigurationError
from agentledger.schemas.events import BudgetDeclared, Event

ASKED = ("cost_nanousd", "tokens", "model_calls", "tool_calls")  # what can be asked for
WALL_CLOCK = "wall_clock_ms"  # what passes by itself, from a run's first hold on
TOOL_RETRIES = "tool_retries"  # how often a run may try one tool call again; `used` is the most failures in a row
METRICS = (*ASKED, WALL_CLOCK, TOOL_RETRIES)
PER_RUN = (WALL_CLOCK, TOOL_RETRIES)  # metrics that only a run can have a budget of
INT64_MAX = 2**63 - 1
NAME_CHARS_MAX = 1024  # what is copied into each derived event is cut here, so that those always fit their topic
LABELS_CHARS_MAX = 8192
EXCESS_ALARM_PERCENT = 10  # of the limit: so much overshoot is possible that the asks, or the ttl, are too small
RUN_KEPT_US = 7 * 86_400_000_000  # how long after its last call a run's own account is kept
SEPARATOR = "\x00"


@dataclass(slots=True)
class Budget:
    """One limit on one metric, as it was declared last."""

    budget_id: str
    metric: str
    version: int
    scope: str
    scope_value: str
    limit: int
    window: str
    window_ms: int | None
    time_zone: str
    thresholds: list[int]
    on_exceeded: str
    is_held: bool
    retired: bool
    when_unreachable: str = ""  # refuse or allow: of calls that nobody decides on

    @property
    def name(self) -> str:
        """Unique within the tenant."""
        return f"{self.budget_id}{SEPARATOR}{self.metric}"

    @property
    def refuses(self) -> bool:
        """Whether its limit stops calls. One that only warns has no bound either."""
        return self.on_exceeded != "warn"

    def window_at(self, time_us: int) -> Window:
        """Its window at this ledger time."""
        return window_of(self.window, time_us, time_zone=self.time_zone, window_ms=self.window_ms)


@dataclass(slots=True)
class Account:
    """What one scope has held and used of a budget, in its window now. Amounts are in the metric's unit.

    Held is what calls under way may still use, whenever they began: it is carried into the next window. `excess` is the
    bound on how far `used + held` may lie over the limit (see infra/docs/BUDGETS.md). `flags` holds the thresholds that
    were crossed, and `over`, `halted`, `told` and `excess` for what was said beyond them. Of a run's time nothing can
    be held: `held` counts its open holds, `used` is what has passed since `start_us`, its first one.
    """

    budget: str
    scope: str
    scope_value: str
    run_id: str
    shape: str = ""
    start_us: int | None = None
    end_us: int | None = None
    held: int = 0
    used: int = 0
    excess: int = 0
    last_us: int = 0  # when it was last held or used
    flags: list[str] = field(default_factory=list)
    buckets: dict[str, int] = field(default_factory=dict)  # of a sliding window: bucket number to amount
    question: str = ""  # the approval id under which a person is being asked for more

    @property
    def name(self) -> str:
        """Unique within the tenant."""
        return SEPARATOR.join((self.budget, self.scope, self.scope_value, self.run_id))

    def reserved(self, budget: Budget) -> int:
        """What calls under way may still use, in the metric's unit; of time nothing can be reserved."""
        return 0 if budget.metric == WALL_CLOCK else self.held

    def roll(self, budget: Budget, time_us: int) -> bool:
        """Go on to the window of this ledger time; usage out of it no longer counts. Whether that changed anything."""
        if budget.metric == WALL_CLOCK and self.start_us is not None:
            self.used = max(0, time_us - self.start_us) // 1000
        shape = f"{budget.window} {budget.time_zone} {budget.window_ms}"
        if shape != self.shape:  # a changed window begins at 0
            self.shape, self.used, self.buckets, self.start_us, self.end_us = shape, 0, {}, None, None
        elif budget.window in {"run", "total"} or (self.end_us is not None and time_us < self.end_us):
            return False
        start, end = budget.window_at(time_us)
        if budget.window == "sliding" and budget.window_ms:
            oldest = first_bucket(time_us, budget.window_ms)
            self.buckets = {number: amount for number, amount in self.buckets.items() if int(number) >= oldest}
            self.used = sum(self.buckets.values())
            self.excess = min(self.excess, max(0, self.used + self.held - budget.limit))
        elif start is not None or (start, end) != (self.start_us, self.end_us):
            self.used = 0
            self.excess = max(0, self.held - budget.limit)
        self.start_us, self.end_us = start, end
        return True

    def use(self, budget: Budget, time_us: int, amount: int) -> None:
        """Count real use in the window now."""
        self.used = clamped(self.used + amount)
        if budget.window == "sliding" and budget.window_ms:
            number = str(bucket_of(time_us, budget.window_ms))
            self.buckets[number] = clamped(self.buckets.get(number, 0) + amount)

    def due_us(self, budget: Budget) -> int | None:
        """When time alone may change it: its window ends, its run's time is up, nothing of it counts any more."""
        if budget.metric == WALL_CLOCK and self.held and self.start_us is not None and "over" not in self.flags:
            return self.start_us + (budget.limit + 1) * 1000
        if budget.window == "run":
            return self.last_us + RUN_KEPT_US
        if budget.window == "sliding" and budget.window_ms and not self.flags:
            return self.last_us + budget.window_ms * 1000 + 2 * bucket_us(budget.window_ms)
        return self.end_us

    def is_spent(self, budget: Budget, time_us: int) -> bool:
        """True where nothing of it counts any more: it may be forgotten."""
        if self.held or (self.flags and budget.window != "run"):
            return False
        return self.last_us + RUN_KEPT_US <= time_us if budget.window == "run" else not self.used


@dataclass(slots=True)
class Context:
    """Whose call it is: what derived events copy from the request."""

    run_id: str = ""
    step: int = 0
    trace_id: str = ""
    span_id: str = ""
    agent_id: str = ""
    agent_version: str = ""
    workflow: str = ""
    environment: str = ""
    actor: str = ""
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Hold:
    """One request and what became of it. `status` is held, refused, settled, released or expired.

    `verdict` holds what the decision said after `hold_id`, so that a repeated request gets the same bytes again.
    """

    hold_id: str
    status: str
    request_id: str
    seq: int
    time_us: int
    event_id: str
    due_us: int  # when it expires; once it is done, when it is forgotten
    asks: list[int]
    accounts: list[str]
    verdict: list[Any]
    context: Context


@dataclass(slots=True)
class Halt:
    """A scope that was halted by a command."""

    scope: str
    scope_value: str
    expires_us: int | None


@dataclass(slots=True)
class Head:
    """What is kept of a tenant beside its cells."""

    offset: int = -1
    time_us: int = 0
    seq: int = 0
    unknown_reports: int = 0


def cut(text: str) -> str:
    """A name as it is copied into derived events and the names of accounts."""
    return text[:NAME_CHARS_MAX].replace(SEPARATOR, "\ufffd")


def clamped(amount: int) -> int:
    """Sums stay within 64 bits: numbers that big are wrong anyway, and must not stop the partition."""
    return max(-INT64_MAX, min(amount, INT64_MAX))


def context_of(event: Event) -> Context:
    """Whose call an event is about, cut to what fits."""
    kept, size = {}, 0
    for name, value in event.labels.items():
        size += len(name) + len(value)
        if size > LABELS_CHARS_MAX:
            break
        kept[name] = value
    return Context(
        run_id=event.run_id,
        step=event.step,
        trace_id=cut(event.trace_id),
        span_id=cut(event.span_id),
        agent_id=cut(event.agent_id),
        agent_version=cut(event.agent_version),
        workflow=cut(event.workflow),
        environment=cut(event.environment),
        actor=cut(event.actor),
        labels=kept,
    )


def ask_of(asks: list[int], metric: str) -> int:
    """What a hold with these asks takes of an account."""
    if metric in ASKED:
        return asks[ASKED.index(metric)]
    return 1 if metric == WALL_CLOCK else 0


def has_room(budget: Budget, account: Account, asks: list[int]) -> bool:
    """Whether a call with these asks fits into what is left of the account."""
    if budget.metric == TOOL_RETRIES:
        return account.used <= budget.limit
    ask = ask_of(asks, budget.metric)
    return not ask or account.used + account.reserved(budget) + ask <= budget.limit


def budget_of(event: BudgetDeclared) -> Budget:
    """The declared budget. Raises ConfigurationError where nothing can be held of it, ValueError for a threshold."""
    window_of(event.window, 0, time_zone=event.time_zone, window_ms=event.window_ms)
    if event.metric not in METRICS or (event.metric in PER_RUN and event.window != "run"):
        raise ConfigurationError(f"no hold is taken of {event.metric!r} per {event.window}")
    return Budget(
        budget_id=cut(event.budget_id),
        metric=cut(event.metric),
        version=event.budget_version,
        scope=cut(event.scope),
        scope_value=cut(event.scope_value),
        limit=max(0, event.limit_amount),
        window=event.window,
        window_ms=event.window_ms,
        time_zone=event.time_zone,
        thresholds=sorted({int(percent) for percent in event.thresholds_percent}),
        on_exceeded=cut(event.on_exceeded),
        is_held=event.enforcement == "hold",
        retired=event.retired,
        when_unreachable=event.when_unreachable,
    )
