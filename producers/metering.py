"""What a run has used so far, kept as its calls begin and end; safe for threads."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from agentledger.producers.bounds import clean_int
from agentledger.producers.budget_guard import (
    CallKind,
    RunBudget,
    RunBudgetExceededError,
    RunUsage,
    check_before,
)
from agentledger.producers.calls import Call, ModelCall
from agentledger.producers.emitter import BLANK_ENVELOPE
from agentledger.schemas.events import ModelCallCompleted
from agentledger.schemas.ports import Charge, PriceBook, TokenUsage
from agentledger.schemas.tool_failures import FAILED, note_attempt
from agentledger.schemas.tool_prices import rate_tool_call

if TYPE_CHECKING:
    from agentledger.schemas.errors import AgentledgerError


class CallUse(NamedTuple):
    """What one model call used; None is unknown, which is not zero."""

    tokens: int | None
    cost_nanousd: int | None


class Meter:
    """The usage of one run, and the guard in front of its calls."""

    def __init__(self, run_id: str, budget: RunBudget | None, prices: Callable[[], PriceBook]) -> None:
        self.budget = budget
        self.usage = RunUsage()
        self.refusals = 0
        self.last_refusal: AgentledgerError | None = None
        self._run_id = run_id
        self._prices = prices
        self._warned: set[str] = set()
        self._failing: dict[tuple[str, str], int] = {}  # tool and digest of the arguments, to failures in a row
        self._lock = threading.Lock()

    def admit(self, kind: CallKind, elapsed_us: int) -> RunBudgetExceededError | None:
        """Count a call that begins. Raises RunBudgetExceededError where the budget refuses it.

        A budget that only warns refuses nothing: what would have been raised is returned, once for each metric.
        """
        with self._lock:
            budget, usage, warning = self.budget, self.usage, None
            if budget is not None:
                try:
                    check_before(kind, usage, budget, self._run_id, elapsed_us)
                except RunBudgetExceededError as refusal:
                    if budget.on_exceeded != "warn":
                        self.refusals += 1
                        self.last_refusal = refusal
                        raise
                    if refusal.metric not in self._warned:
                        self._warned.add(refusal.metric)
                        warning = refusal
            self._count(kind, 1)
            return warning

    def withdraw(self, kind: CallKind, refusal: AgentledgerError | None) -> None:
        """A call that was admitted is not made after all: somebody else refused it."""
        with self._lock:
            self._count(kind, -1)
            if refusal is not None:
                self.refusals += 1
                self.last_refusal = refusal

    def count(self, kind: CallKind) -> None:
        """Count a call that was made already: what happened is recorded whatever the budget says."""
        with self._lock:
            self._count(kind, 1)

    def settle(self, call: Call, at_us: int, *, is_counted: bool = True) -> int:
        """Add what an ended call used, and the call itself unless it is counted; how often this tool call has now
        failed in a row, 0 where it didn't fail.

        Never raises: what can't be read counts as unknown. A model call of unknown cost or tokens counts with what was
        estimated before it, where there was an estimate.
        """
        if isinstance(call, ModelCall):
            self._settle_model_call(call, at_us, is_counted)
            return 0
        is_limited = self.budget is not None and self.budget.cost_usd is not None
        cost = cost_of_tool(call, self._prices, at_us) if is_limited else clean_int(call.reported_cost_nanousd)
        with self._lock:
            if not is_counted:
                self.usage.tool_calls += 1
            if cost is not None:
                self.usage.cost_nanousd += max(0, cost)
            return self._note_attempt(call) if self._failing or call.status in FAILED else 0

    def _note_attempt(self, call: Call) -> int:
        failures = note_attempt(self._failing, (call.name, getattr(call, "arguments_digest", "")), call.status)
        self.usage.tool_retries = max(self.usage.tool_retries, failures)
        return failures

    def _settle_model_call(self, call: ModelCall, at_us: int, is_counted: bool) -> None:
        tokens, budget, total = _tokens_of(call), self.budget, self.usage
        is_free = tokens is None and call.is_unbilled
        cost = call.reported_cost_nanousd
        if cost is not None:
            cost = clean_int(cost)
        elif is_free:
            cost = 0
        elif budget is not None and budget.cost_usd is not None:
            usage = _usage_of(call)
            cost = None if usage is None else _price(call, usage, self._prices, at_us)
            cost = call.estimated_cost_nanousd if cost is None else cost
        if tokens is None:
            tokens = 0 if is_free else call.estimated_tokens
        with self._lock:
            if not is_counted:
                total.model_calls += 1
            if tokens is None:
                total.calls_without_tokens += 1
            else:
                total.tokens += tokens if tokens > 0 else 0
            if cost is None:
                total.calls_without_price += 1
            else:
                total.cost_nanousd += cost if cost > 0 else 0

    def _count(self, kind: CallKind, by: int) -> None:
        if kind == "model":
            self.usage.model_calls += by
        else:
            self.usage.tool_calls += by


def use_of(call: ModelCall, prices: Callable[[], PriceBook], at_us: int) -> CallUse:
    """What an ended call used: tokens as the provider said, dollars by the price book. Never raises.

    A call that failed without usage used nothing where its error says that it wasn't billed. Else that is unknown.
    """
    usage = _usage_of(call)
    if usage is None:
        return CallUse(0, 0) if call.is_unbilled else CallUse(None, None)
    return CallUse(sum(usage), _price(call, usage, prices, at_us))


def cost_of_tool(call: Call, prices: Callable[[], PriceBook], at_us: int) -> int | None:
    """What an ended tool call cost, nano-dollars, as the worker charges it; None where nobody says. Never raises."""
    reported = clean_int(call.reported_cost_nanousd)
    try:
        rated = rate_tool_call(call.name, call.status, reported, prices(), at_us=at_us)
    except Exception:  # noqa: BLE001 - a price book that fails gives no price
        return reported
    return None if rated is None else rated.cost_nanousd


def _price(call: ModelCall, usage: tuple[int, ...], prices: Callable[[], PriceBook], at_us: int) -> int | None:
    """The call's cost in nano-dollars by the price book; None where there is no price."""
    try:
        # Imported here: it brings the price library along, which most agents never need.
        from agentledger.schemas.prices import rate_model_call  # noqa: PLC0415

        facts = {
            **BLANK_ENVELOPE, **TokenUsage(*usage)._asdict(), "provider": call.provider,
            "requested_model": call.requested_model, "answered_model": call.answered_model,
            "service_tier": call.service_tier, "occurred_at": at_us,
        }  # fmt: skip
        rated = rate_model_call(ModelCallCompleted(**facts), prices())  # as the worker does: to the same nano-dollar
        return rated.cost_nanousd if isinstance(rated, Charge) else None
    except Exception:  # noqa: BLE001 - a price book that fails gives no price: the guard fails closed
        return None


def _tokens_of(call: ModelCall) -> int | None:
    """The sum of the call's tokens; None where `_usage_of` gives none."""
    try:
        tokens: Any = (
            (call.input_tokens or 0) + (call.cache_read_tokens or 0) + (call.cache_write_tokens or 0)
            + (call.output_tokens or 0) + (call.reasoning_tokens or 0)
        )  # fmt: skip
    except TypeError:
        tokens = 0
    if type(tokens) is int and tokens:  # then each of them is one; 0 may be of nothing at all
        return tokens
    usage = _usage_of(call)
    return None if usage is None else sum(usage)


def _usage_of(call: ModelCall) -> tuple[int, ...] | None:
    """The call's tokens, in the order of TokenUsage; None where none were given, or something that is no number."""
    given: tuple[Any, ...] = (
        call.input_tokens, call.cache_read_tokens, call.cache_write_tokens, call.output_tokens, call.reasoning_tokens,
    )  # fmt: skip
    if None in given:
        if given == _NO_USAGE:
            return None
        given = tuple([0 if tokens is None else tokens for tokens in given])
    try:
        return tuple(map(operator.index, given))
    except TypeError:
        counts = [clean_int(tokens) for tokens in given]
        return None if None in counts else tuple(count or 0 for count in counts)


_NO_USAGE = (None,) * len(TokenUsage._fields)
