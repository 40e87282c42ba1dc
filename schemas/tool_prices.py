"""What a call of a tool cost: the one rule, for whoever charges it and whoever settles a hold on it. Pure.

The price book comes first, as for models; what the tool reported itself counts where the book has no price for it. A
call that was denied was not made: the book's price isn't due.
"""

from __future__ import annotations

from typing import NamedTuple

from agentledger.schemas.ports import PriceBook


class ToolCost(NamedTuple):
    """Nano-dollars, and whether they are the book's price or what the call reported."""

    cost_nanousd: int
    is_by_book: bool


def rate_tool_call(
    tool: str, status: str, reported_cost_nanousd: int | None, prices: PriceBook, *, at_us: int
) -> ToolCost | None:
    """What the call cost at that time (microseconds since 1970); None where neither book nor call says anything."""
    priced = None if status == "denied" else prices.tool_cost(tool, at_us=at_us)
    if priced is not None:
        return ToolCost(priced, is_by_book=True)
    return None if reported_cost_nanousd is None else ToolCost(reported_cost_nanousd, is_by_book=False)
