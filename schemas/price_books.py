"""The price book that a program uses: the shipped one, with the prices of a file of one's own before it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from agentledger.schemas.genai_tariffs import SCALE, STANDARD_TIERS
from agentledger.schemas.money import NANOUSD_MAX, cost_of_time, usd_to_nanousd
from agentledger.schemas.ports import Charge, ListedPrice, PriceBook, Tariff, TokenUsage, Unpriced
from agentledger.schemas.prices import (
    INVALID_USAGE,
    LOOKUPS_MAX,
    NO_USAGE,
    UNKNOWN_TIER,
    GenaiPriceBook,
    charge_by,
    spellings,
)

if TYPE_CHECKING:
    from agentledger.schemas.price_file import Dated, ModelPrices, Price, PriceFile, Rates

DatedT = TypeVar("DatedT", bound="Dated")
PRICES_FILE_ENV = "AGENTLEDGER_PRICES_FILE"


def open_prices(path: Path | str | None = None) -> PriceBook:
    """The shipped prices, with those of the file at `path` before them. Raises ConfigurationError."""
    if not path:
        return GenaiPriceBook()
    from agentledger.schemas.price_file import read_price_file  # noqa: PLC0415 - pydantic only where there is a file

    return FilePriceBook(read_price_file(Path(path)), GenaiPriceBook())


class FilePriceBook:
    """A price file, and below it another book for what the file doesn't have.

    `source` and `version` name both, the file with the beginning of its SHA-256: the same pair always gives the same
    charges.
    """

    def __init__(self, file: PriceFile, below: PriceBook) -> None:
        self._file = file
        self._below = below
        self.source = f"file+{below.source}"
        self.version = f"{file.version}@{file.digest[:12]}+{below.version}"
        self._by_name = {
            (entry.provider.lower(), name.lower()): entry
            for entry in file.models
            for name in (entry.model, *entry.aliases)
        }
        self._find = lru_cache(LOOKUPS_MAX)(self._look_up)  # a bound, as names come from outside
        self._steps: dict[tuple[int, str, str], list[tuple[int, Tariff]]] = {}

    def rate(
        self, provider: str, model: str, usage: TokenUsage | None, *, at_us: int, service_tier: str = ""
    ) -> Charge | Unpriced:
        """As the file says; as the book below where the file doesn't have the model at that time."""
        entry = self._find(provider, model)
        price = None if entry is None else _at(entry.prices, at_us)
        if entry is None or price is None:
            return self._below.rate(provider, model, usage, at_us=at_us, service_tier=service_tier)
        if usage is None:
            return NO_USAGE
        if min(usage) < 0:
            return INVALID_USAGE
        tier = _tier(price, service_tier)
        if tier is None:
            return UNKNOWN_TIER
        all_input = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        tariff = [tariff for start, tariff in self._tariffs(entry, price, tier) if start == 0 or all_input > start][-1]
        return charge_by(tariff, usage, entry.provider or provider, entry.model)

    def tool_cost(self, tool: str, *, at_us: int) -> int | None:
        """What one call costs by the file; as the book below where the file doesn't have the tool."""
        price = _at(self._file.tools.get(tool, ()), at_us)
        return self._below.tool_cost(tool, at_us=at_us) if price is None else usd_to_nanousd(price.usd_per_call)

    def human_cost(self, human_ms: int, *, at_us: int) -> int | None:
        """What that much of a person's time costs by the file's rate, else by the book below; None where negative."""
        rate = _at(self._file.people, at_us)
        if rate is None:
            return self._below.human_cost(human_ms, at_us=at_us)
        if human_ms < 0:
            return None
        cost = cost_of_time(human_ms, usd_to_nanousd(rate.usd_per_hour))
        return cost if cost <= NANOUSD_MAX else None

    def listed(self, provider: str, model: str, *, at_us: int) -> list[ListedPrice]:
        """Every price of the model at that time, by tier and size of the prompt; empty where it has none."""
        entry = self._find(provider, model)
        price = None if entry is None else _at(entry.prices, at_us)
        if entry is None or price is None:
            return self._below.listed(provider, model, at_us=at_us)
        return [
            ListedPrice(entry.provider, entry.model, tier, start, tariff, self.source, self.version)
            for tier in ("", *price.tiers)
            for start, tariff in self._tariffs(entry, price, tier)
        ]

    def _look_up(self, provider: str, model: str) -> ModelPrices | None:
        for maker, name in [*spellings(provider, model), (None, model.strip().lower())]:
            found = self._by_name.get((maker or "", name)) or self._by_name.get(("", name))
            if found is not None:
                return found
        return None

    def _tariffs(self, entry: ModelPrices, price: Price, tier: str) -> list[tuple[int, Tariff]]:
        key = id(price), entry.cache_write_ttl, tier  # by identity: the entries live as long as the book
        steps = self._steps.get(key)
        if steps is None:
            steps = self._steps[key] = [
                (start, tariff_of(rates, entry.cache_write_ttl)) for start, rates in price.steps(tier)
            ]
        return steps


def tariff_of(rates: Rates, cache_write_ttl: str) -> Tariff:
    """The tariff of these rates: what isn't said of the cache costs as input, of reasoning as output."""
    plain = rates.input or 0
    write_5m = plain if rates.cache_write_5m is None else rates.cache_write_5m
    write_1h = write_5m if rates.cache_write_1h is None else rates.cache_write_1h
    per_million = (
        plain,
        plain if rates.cache_read is None else rates.cache_read,
        write_1h if cache_write_ttl == "1h" else write_5m,
        rates.output or 0,
        (rates.output or 0) if rates.reasoning is None else rates.reasoning,
    )
    # US dollars per million tokens are thousands of nano-dollars per thousand tokens, so 1,000 nano-dollars a token.
    amounts = [int(price * 1000 * SCALE) for price in per_million]
    return Tariff._make([*amounts, int((rates.request or 0) * 10**9 * SCALE)])


def _tier(price: Price, service_tier: str) -> str | None:
    """The file's name of the tier, empty for the standard one; None where the file has no price for it."""
    tier = service_tier.lower()
    for name in price.tiers:
        if name.lower() == tier:
            return name
    return "" if tier in STANDARD_TIERS else None


def _at(entries: Sequence[DatedT], at_us: int) -> DatedT | None:
    """The entry that counts then: of those that hold, the one with the latest start, of equal ones the last."""
    holding = [entry for entry in entries if entry.holds_at(at_us)]
    return max(reversed(holding), key=lambda entry: entry.valid_from, default=None)
