"""What genai-prices says of a model, by time, tier and size of the prompt; and what that is as a tariff of ours."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import genai_prices
from genai_prices import types

from agentledger.schemas.ports import Tariff

STANDARD_TIERS = frozenset({"", "default", "standard", "auto", "on_demand"})
# A tariff counts billionths of a nano-dollar per token: every published price is a whole number of those.
SCALE: Final = 10**9
PROBE_TOKENS = 10**6
LAST_MOMENT_US = 253_402_300_799_000_000  # the end of the year 9999, where Python's calendar ends


def moment_of(at_us: int) -> datetime:
    """The time (microseconds since 1970), or the nearest that Python's calendar has."""
    return datetime.fromtimestamp(min(max(at_us, 0), LAST_MOMENT_US) / 1e6, UTC)


def variants_of(
    provider: types.Provider, model: types.ModelInfo, moment: datetime, tier: str
) -> list[types.PriceVariant]:
    """The book's prices for this tier at that moment; a maker's tiers don't hold where another sells its model."""
    if not any(sold is model for sold in provider.models):
        return []
    when = {"processing": "batch"} if tier == "batch" else {"service_tier": tier}
    return [
        variant
        for variant in model.price_variants or ()
        if variant.when == when and (variant.constraint is None or variant.constraint.active(moment))
    ]


def constraints_of(model: types.ModelInfo) -> list[Any]:
    """When prices of the model, of any tier, hold, where that is bounded."""
    prices = [] if isinstance(model.prices, types.ModelPrice) else model.prices
    return [one.constraint for one in (*prices, *(model.price_variants or ())) if one.constraint is not None]


def tier_names(model: types.ModelInfo) -> list[str]:
    """The tiers that the book has prices for at some time, as calls name them; `default` is the standard one."""
    names = [tier for variant in model.price_variants or () for tier in variant.when.values()]
    return [name for name in dict.fromkeys(names) if name not in STANDARD_TIERS]


def price_at(model: types.ModelInfo, moment: datetime, variants: list[types.PriceVariant]) -> types.ModelPrice:
    """The model's price at that moment, with what these variants say instead."""
    price = model.get_prices(moment)
    for variant in reversed(variants):  # the first one that matches wins, key by key
        price = types.ModelPrice(**vars(price) | {k: v for k, v in vars(variant.prices).items() if v is not None})
    return price


def tier_starts(price: types.ModelPrice) -> list[int]:
    """The sizes of a prompt (tokens) beyond which something costs something else, ascending; 0 is the first."""
    starts = {
        tier.start for value in vars(price).values() if isinstance(value, types.TieredPrices) for tier in value.tiers
    }
    return [0, *sorted(starts)]


def passed_tier(price: types.ModelPrice, all_input_tokens: int) -> int:
    """The highest start of a tier that this size of the prompt has passed; -1 for the base price."""
    start = -1
    for value in vars(price).values():
        if isinstance(value, types.TieredPrices):
            for tier in value.tiers:
                if start < tier.start < all_input_tokens:
                    start = tier.start
    return start


def at_tier(price: types.ModelPrice, all_input_tokens: int) -> types.ModelPrice:
    """The same prices with each tiered one replaced by what applies at this size of the prompt."""
    flat: dict[str, Any] = {}
    for name, value in vars(price).items():
        if isinstance(value, types.TieredPrices):
            passed = [tier.price for tier in value.tiers if all_input_tokens > tier.start]
            flat[name] = passed[-1] if passed else value.base
        else:
            flat[name] = value
    return types.ModelPrice(**flat)


def probe(price: types.ModelPrice) -> Tariff:
    """Ask the library what a million tokens of each kind cost: so its rules of what contains what hold here too."""
    empty = _total(price)

    def per_token(**usage: int) -> int:
        return (_total(price, **usage) - empty) // PROBE_TOKENS

    return Tariff(
        input_tokens=per_token(input_tokens=PROBE_TOKENS),
        cache_read_tokens=per_token(input_tokens=PROBE_TOKENS, cache_read_tokens=PROBE_TOKENS),
        cache_write_tokens=per_token(input_tokens=PROBE_TOKENS, cache_write_tokens=PROBE_TOKENS),
        output_tokens=per_token(output_tokens=PROBE_TOKENS),
        reasoning_tokens=per_token(output_tokens=PROBE_TOKENS, output_reasoning_tokens=PROBE_TOKENS),
        request=empty,
    )


def _total(price: types.ModelPrice, **usage: int) -> int:
    """The library's price in billionths of a nano-dollar."""
    usd: Decimal = price.calc_price(genai_prices.Usage(**usage))["total_price"]
    return int(usd * 10**9 * SCALE)
