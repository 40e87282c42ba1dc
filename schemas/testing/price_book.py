"""A price book with prices of your own choosing."""

from __future__ import annotations

from collections.abc import Mapping

from agentledger.schemas.money import NANOUSD_MAX, cost_of_time
from agentledger.schemas.ports import Charge, ListedPrice, Tariff, TokenUsage, Unpriced


class FixedPriceBook:
    """Prices per model in nano-dollars per token, in the order of TokenUsage; the same at any time, by any provider.

    A tool's price is per call.
    """

    def __init__(
        self,
        prices: Mapping[str, tuple[int, int, int, int, int]],
        *,
        tools: Mapping[str, int] | None = None,
        human_nanousd_per_hour: int | None = None,
        source: str = "fixed",
        version: str = "1",
    ) -> None:
        self._prices = dict(prices)
        self._tools = dict(tools or {})
        self._human_nanousd_per_hour = human_nanousd_per_hour
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
        _, cache_read, cache_write, _, reasoning = amounts
        return Charge(
            provider,
            model,
            cost_nanousd=sum(amounts),
            input_cost_nanousd=sum(amounts[:3]),
            output_cost_nanousd=sum(amounts[3:]),
            cache_read_cost_nanousd=cache_read,
            cache_write_cost_nanousd=cache_write,
            reasoning_cost_nanousd=reasoning,
        )

    def listed(self, provider: str, model: str, *, at_us: int) -> list[ListedPrice]:
        """The one price of the model; empty where it was given none."""
        del at_us
        prices = self._prices.get(model)
        if prices is None:
            return []
        tariff = Tariff._make([*(price * 10**9 for price in prices), 0])
        return [ListedPrice(provider, model, "", 0, tariff, self.source, self.version)]

    def tool_cost(self, tool: str, *, at_us: int) -> int | None:
        """What one call of this tool costs; None for a tool that was given no price."""
        del at_us
        return self._tools.get(tool)

    def human_cost(self, human_ms: int, *, at_us: int) -> int | None:
        """What that much of a person's time costs; None where no rate was given."""
        del at_us
        rate = self._human_nanousd_per_hour
        return None if rate is None or human_ms < 0 else cost_of_time(human_ms, rate)
