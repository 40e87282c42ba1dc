"""What a run has used so far, kept as its calls begin and end; safe for threads."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from typing import Any

from agentledger.producers.bounds import clean_int
from agentledger.producers.budget_guard import (
    CallKind,
    RunBudget,
    RunBudgetExceededError,
    RunUsage,
    check_before,
)
from agentledger.producers.calls import Call, ModelCall
from agentledger.schemas.ports import Charge, PriceBook, TokenUsage

_FREE_STATUS = "error"  # a request that failed without usage was not billed; one that was cancelled may have been


class Meter:
    """The usage of one run, and the guard in front of its calls."""

    def __init__(self, run_id: str, budget: RunBudget | None, prices: Callable[[], PriceBook]) -> None:
        self.budget = budget
        self.usage = RunUsage()
        self.refusals = 0
        self.last_refusal: RunBudgetExceededError | None = None
        self._run_id = run_id
        self._prices = prices
        self._warned: set[str] = set()
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
            self._count(kind)
            return warning

    def count(self, kind: CallKind) -> None:
        """Count a call that was made already: what happened is recorded whatever the budget says."""
        with self._lock:
            self._count(kind)

    def settle(self, call: Call, at_us: int) -> None:
        """Add what an ended call used. Never raises: what can't be read counts as unknown."""
        if isinstance(call, ModelCall):
            self._settle_model_call(call, at_us)
        elif call.reported_cost_nanousd is not None:
            with self._lock:
                self.usage.cost_nanousd += max(0, clean_int(call.reported_cost_nanousd) or 0)

    def _settle_model_call(self, call: ModelCall, at_us: int) -> None:
        usage = _usage_of(call)
        cost = (
            call.reported_cost_nanousd if call.reported_cost_nanousd is None else clean_int(call.reported_cost_nanousd)
        )
        failed = usage is None and call.status == _FREE_STATUS
        if cost is None:
            cost = 0 if failed else self._price(call, usage, at_us)
        total = self.usage
        with self._lock:
            if usage is not None:
                total.tokens += max(0, sum(usage))
            elif not failed:
                total.calls_without_tokens += 1
            if cost is None:
                total.calls_without_price += 1
            else:
                total.cost_nanousd += max(0, cost)

    def _count(self, kind: CallKind) -> None:
        if kind == "model":
            self.usage.model_calls += 1
        else:
            self.usage.tool_calls += 1

    def _price(self, call: ModelCall, usage: TokenUsage | None, at_us: int) -> int | None:
        """The call's cost in nano-dollars by the price book, for the model that answered or else was asked for.

        None where there is no price, and where no budget in dollars asks for one.
        """
        if usage is None or self.budget is None or self.budget.cost_usd is None:
            return None
        try:
            prices = self._prices()
            for model in (call.answered_model, call.requested_model):
                if not model:
                    continue
                rated = prices.rate(call.provider, model, usage, at_us=at_us, service_tier=call.service_tier)
                if isinstance(rated, Charge):
                    return rated.cost_nanousd
        except Exception:  # noqa: BLE001, S110 - a price book that fails gives no price: the guard fails closed
            pass
        return None


def _usage_of(call: ModelCall) -> TokenUsage | None:
    """The call's tokens; None where none were given, or something that is no number."""
    given: tuple[Any, ...] = (
        call.input_tokens, call.cache_read_tokens, call.cache_write_tokens, call.output_tokens, call.reasoning_tokens,
    )  # fmt: skip
    if None in given:
        if given == _NO_USAGE:
            return None
        given = tuple(0 if tokens is None else tokens for tokens in given)
    try:
        return TokenUsage(*map(operator.index, given))
    except TypeError:
        counts = [clean_int(tokens) for tokens in given]
        return None if None in counts else TokenUsage(*(count or 0 for count in counts))


_NO_USAGE = (None,) * len(TokenUsage._fields)
