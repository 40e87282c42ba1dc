"""What calls and people's time cost: the charge of one, and the sums of a run. Pure."""

from __future__ import annotations

from typing import Final

from agentledger.processors.conclusions import NAME_CHARS_MAX, Conclusion
from agentledger.processors.run_state import RunState
from agentledger.schemas.events import ApprovalDecided, CostRated, Event, ModelCallCompleted, ToolCallCompleted
from agentledger.schemas.identity import derived_id
from agentledger.schemas.ports import Charge, PriceBook, Unpriced
from agentledger.schemas.prices import priced_at
from agentledger.schemas.tool_prices import rate_tool_call

INT64_MAX: Final = 2**63 - 1
_WORD_MAX: Final = 2**62 - 1  # up to here compiled code has numbers in registers, and compares them at once
# Calls that brought nothing: what they cost is wasted. An attempt after the first is a retry; one that fails is both.
WASTED: Final = frozenset({"error", "rejected", "cancelled", "timeout", "denied"})


def model_charge(call: ModelCallCompleted, rated: Charge | Unpriced, prices: PriceBook) -> Conclusion:
    """The charge of a model call, or that it has none."""
    if isinstance(rated, Charge):
        return _rated(
            call,
            "model",
            provider=rated.provider,
            model=rated.model,
            priced=True,
            cost=rated.cost_nanousd,
            input_cost=rated.input_cost_nanousd,
            output_cost=rated.output_cost_nanousd,
            reported_cost=call.reported_cost_nanousd,
            source=prices.source,
            version=prices.version,
            cache_read_cost=rated.cache_read_cost_nanousd,
            cache_write_cost=rated.cache_write_cost_nanousd,
            reasoning_cost=rated.reasoning_cost_nanousd,
            service_tier=cut(call.service_tier),
        )
    return _rated(
        call,
        "model",
        provider=cut(call.provider),
        model=cut(call.requested_model or call.answered_model),
        priced=False,
        reported_cost=call.reported_cost_nanousd,
        source=prices.source,
        version=prices.version,
        unpriced_reason=rated.reason,
        service_tier=cut(call.service_tier),
    )


def tool_charge(call: ToolCallCompleted, prices: PriceBook, ledger_time_us: int) -> tuple[int, Conclusion] | None:
    """The charge of a tool call; None where neither the price book nor the call says what it cost."""
    reported = call.reported_cost_nanousd
    at_us = priced_at(call.occurred_at, ledger_time_us)
    rated = rate_tool_call(call.tool, call.status, reported, prices, at_us=at_us)
    if rated is None:
        return None
    cost, by_book = rated
    source, version = (prices.source, prices.version) if by_book else ("reported", "")
    return cost, _rated(
        call, "tool", model=cut(call.tool), priced=True, cost=cost, reported_cost=reported, source=source,
        version=version,
    )  # fmt: skip


def human_charge(
    decided: ApprovalDecided, human_ms: int, prices: PriceBook, ledger_time_us: int
) -> tuple[int, Conclusion] | None:
    """The charge of the time that a person took to decide; None where no rate is configured."""
    cost = prices.human_cost(human_ms, at_us=priced_at(decided.occurred_at, ledger_time_us))
    if cost is None or cost > INT64_MAX:
        return None
    return cost, _rated(decided, "human", priced=True, cost=cost, source=prices.source, version=prices.version)


def add_charge(state: RunState, part: int, cost_nanousd: int, *, status: str, attempt: int) -> None:
    """Add a charge to the run's sums. `part` is a place in `RunState.costs`."""
    state.charges[part] += 1
    state.cost_nanousd = clamped(state.cost_nanousd + cost_nanousd)
    state.costs[part] = clamped(state.costs[part] + cost_nanousd)
    if status in WASTED:
        state.wasted_nanousd = clamped(state.wasted_nanousd + cost_nanousd)
    if attempt > 1:
        state.retry_nanousd = clamped(state.retry_nanousd + cost_nanousd)


def clamped(amount: int) -> int:
    """Sums stay within 64 bits: numbers that big are wrong anyway, and must not stop the partition."""
    if -_WORD_MAX <= amount <= _WORD_MAX:
        return amount
    return max(-INT64_MAX, min(amount, INT64_MAX))


def cut(text: str) -> str:
    """A name as it is copied into what follows."""
    return text if len(text) <= NAME_CHARS_MAX else text[:NAME_CHARS_MAX]


def _rated(
    cause: Event,
    kind: str,
    *,
    provider: str = "",
    model: str = "",
    priced: bool,
    cost: int | None = None,
    input_cost: int | None = None,
    output_cost: int | None = None,
    reported_cost: int | None = None,
    source: str,
    version: str,
    unpriced_reason: str = "",
    cache_read_cost: int | None = None,
    cache_write_cost: int | None = None,
    reasoning_cost: int | None = None,
    service_tier: str = "",
) -> Conclusion:
    """A CostRated. Its fields are in the order of the record: by name they take twice as long, and there are many."""
    fields = (
        cause.event_id, kind, provider, model, priced, cost, input_cost, output_cost, reported_cost, source, version,
        unpriced_reason, cache_read_cost, cache_write_cost, reasoning_cost, service_tier,
    )  # fmt: skip
    return Conclusion(CostRated, derived_id(cause.event_id, "CostRated"), fields)
