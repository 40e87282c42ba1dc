"""A price book with prices of your own choosing."""

from __future__ import annotations

from collections.abc import Mapping

from agentledger.schemas.money import NANOUSD_MAX
from agentledger.schemas.ports import Charge, TokenUsage, Unpriced


class FixedPriceBook:
    """Prices per model in nano-dollars per token, in the order of TokenUsage; the same at any time, by any provider."""

    def __init__(
        self,
        prices: Mapping[str, tuple[int, int, int, int, int]],
        *,
        source: str = "fixed",
        version: str = "1",
    ) -> None:
        self._prices = dict(prices)
        self.source = source
        self.version = version

    def rate(
        self, provider: str, model: str, usage: TokenUsage | None, *, at_us: int, service_tier: str = ""
    ) -> Charge | Unpriced:
        """What this usage costs; Unpriced for a model that was given no price."""
        del at_us, service_tier
        if usage is None:
            return Unpriced("no_usage")
        if min(usage) < 0:
            return Unpriced("invalid_usage")
        prices = self._prices.get(model)
        if prices is None:
            return Unpriced("unknown_model")
        amounts = [tokens * price for tokens, price in zip(usage, prices, strict=True)]
        if sum(amounts) > NANOUSD_MAX:
            return Unpriced("invalid_usage")
        return Charge(sum(amounts), sum(amounts[:3]), sum(amounts[3:]), provider, model)
