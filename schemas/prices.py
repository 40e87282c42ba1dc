"""What a call costs: a price book over the data that `genai-prices` ships, and the charge that follows from a call.

Prices never come from the network: a charge names the version of the book, and the same version always gives the
same charge. Money is computed in integers and rounded once per charge.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Final

import genai_prices
from genai_prices import types
from genai_prices.data_snapshot import DataSnapshot

from agentledger.schemas.events import ModelCallCompleted
from agentledger.schemas.genai_tariffs import (
    SCALE,
    STANDARD_TIERS,
    at_tier,
    constraints_of,
    moment_of,
    passed_tier,
    price_at,
    probe,
    tier_names,
    tier_starts,
    variants_of,
)
from agentledger.schemas.money import NANOUSD_MAX
from agentledger.schemas.ports import Charge, ListedPrice, PriceBook, Tariff, TokenUsage, Unpriced

UNKNOWN_MODEL: Final = Unpriced("unknown_model")
NO_USAGE: Final = Unpriced("no_usage")
INVALID_USAGE: Final = Unpriced("invalid_usage")
UNKNOWN_TIER = Unpriced("unknown_tier")
FINE_TUNED: Final = "ft:"  # OpenAI's and LiteLLM's mark of a tuned model, which has a price of its own or none
LOOKUPS_MAX = 4096  # model names kept with what they mean; names come from outside, so their number is bounded
TARIFFS_MAX = 4096  # tariffs kept; the book has some 2,000 models with one to three tariffs each
DAY_US: Final = 86_400_000_000


class GenaiPriceBook:
    """The prices bundled with the installed `genai-prices`, looked up by provider and model as calls name them."""

    source = "genai-prices"
    version = genai_prices.__version__

    def __init__(self) -> None:
        from genai_prices.data import providers  # noqa: PLC0415 - half a second of import: only where prices are used

        # A snapshot of our own: the module's global one may be replaced by one from the network.
        self._snapshot = DataSnapshot(providers=providers, from_auto_update=False)
        self._find = lru_cache(LOOKUPS_MAX)(self._look_up)  # a bound, as names come from outside
        self._tariffs: dict[tuple[int, ...], Tariff] = {}
        # Per provider, model and tier as calls name them: the prices of the day of the last call.
        self._standing: dict[tuple[str, str, str], _Standing] = {}

    def rate(
        self, provider: str, model: str, usage: TokenUsage | None, *, at_us: int, service_tier: str = ""
    ) -> Charge | Unpriced:
        """What this usage cost at that time.

        Unpriced where the book has no such model, where it has no price for a tier other than the standard one, or
        where the usage makes no sense.
        """
        if usage is None:
            return NO_USAGE
        if _is_negative(usage):
            return INVALID_USAGE
        names = provider, model, service_tier
        known = self._standing.get(names)
        if known is None or not known.from_us <= at_us < known.until_us:
            found = self._find(provider, model)
            if found is None:
                return UNKNOWN_MODEL
            known = self._prices_of_day(*found, service_tier.lower(), at_us)
            if known is None:
                return UNKNOWN_TIER
            if len(self._standing) >= LOOKUPS_MAX:
                self._standing.clear()
            self._standing[names] = known
        return known.priced(usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens).charge(*usage)

    def rate_at_once(self, call: ModelCallCompleted, at_us: int) -> Charge | None:
        """What `rate_model_call` gives, where the prices of that time are known already; else None."""
        asked = call.requested_model
        known = self._standing.get((call.provider, call.answered_model or asked, call.service_tier))
        if known is None or not has_usage(call) or FINE_TUNED in asked:
            return None
        if not known.from_us <= at_us < known.until_us:
            return None
        plain, read, written = call.input_tokens or 0, call.cache_read_tokens or 0, call.cache_write_tokens or 0
        answered, thought = call.output_tokens or 0, call.reasoning_tokens or 0
        if plain < 0 or read < 0 or written < 0 or answered < 0 or thought < 0:
            return None
        rated = known.priced(plain + read + written).charge(plain, read, written, answered, thought)
        return rated if isinstance(rated, Charge) else None

    def listed(self, provider: str, model: str, *, at_us: int) -> list[ListedPrice]:
        """Every price of the model at that time, by tier and size of the prompt; empty where it has none."""
        found = self._find(provider, model)
        if found is None:
            return []
        book_provider, book_model = found
        moment = moment_of(at_us)
        rows = []
        for tier in ("", *tier_names(book_model)):
            variants = variants_of(book_provider, book_model, moment, tier) if tier else []
            if tier and not variants:
                continue
            for start in tier_starts(price_at(book_model, moment, variants)):
                tariff = self._tariff(book_model, moment, variants, start + 1 if start else 0)
                rows.append(
                    ListedPrice(book_provider.id, book_model.id, tier, start, tariff, self.source, self.version)
                )
        return rows

    def tool_cost(self, tool: str, *, at_us: int) -> int | None:
        """None: the book has no tools."""
        del tool, at_us
        return None

    def human_cost(self, human_ms: int, *, at_us: int) -> int | None:
        """None: the book has no people."""
        del human_ms, at_us
        return None

    def _look_up(self, provider: str, model: str) -> tuple[types.Provider, types.ModelInfo] | None:
        for provider_id, reference in spellings(provider, model):
            try:
                found = self._snapshot.find_provider_model(reference, None, provider_id, None)
            except LookupError:
                continue
            if reference.startswith(FINE_TUNED) and not found[1].id.startswith(FINE_TUNED):
                continue  # a loose match of the base model: its price isn't the tuned model's
            return found
        return None

    def _prices_of_day(
        self, provider: types.Provider, model: types.ModelInfo, tier: str, at_us: int
    ) -> _Standing | None:
        """The prices at that time, and for how long they stand; None where the book has none for this tier."""
        moment = moment_of(at_us)
        variants = variants_of(provider, model, moment, tier) if tier else []
        if not variants and tier not in STANDARD_TIERS:
            return None
        passed = tier_starts(price_at(model, moment, variants))[1:]
        tariffs = [self._tariff(model, moment, variants, size) for size in (0, *(start + 1 for start in passed))]
        from_us, until_us = at_us, at_us + 1
        # With another constraint a price has its hours.
        if all(isinstance(one, types.StartDateConstraint) for one in constraints_of(model)):
            from_us = at_us // DAY_US * DAY_US
            until_us = from_us + DAY_US
        return _Standing(from_us, until_us, passed, [_Priced(tariff, provider.id, model.id) for tariff in tariffs])

    def _tariff(
        self, model: types.ModelInfo, moment: datetime, variants: list[types.PriceVariant], all_input_tokens: int
    ) -> Tariff:
        """The tariff at this moment, tier and size of the prompt, from the cache."""
        price = price_at(model, moment, variants)
        # By identity: the book's objects live as long as the book.
        key = id(model.get_prices(moment)), *map(id, variants), passed_tier(price, all_input_tokens)
        tariff = self._tariffs.get(key)
        if tariff is None:
            if len(self._tariffs) >= TARIFFS_MAX:
                self._tariffs.clear()
            tariff = self._tariffs[key] = probe(at_tier(price, all_input_tokens))
        return tariff


def charge_by(tariff: Tariff, usage: TokenUsage, provider: str, model: str) -> Charge | Unpriced:
    """The charge for this usage: the whole is rounded once, half to even, and its shares add up to it."""
    return _Priced(tariff, provider, model).charge(*usage)


class _Priced:
    """A tariff under the names that the price book has for the model."""

    __slots__ = ("_input", "_model", "_output", "_provider", "_read", "_reasoning", "_request", "_write")

    def __init__(self, tariff: Tariff, provider: str, model: str) -> None:
        self._provider = provider
        self._model = model
        self._input, self._read, self._write, self._output, self._reasoning, self._request = tariff

    def charge(self, plain: int, read: int, written: int, answered: int, thought: int) -> Charge | Unpriced:
        """The charge for so many tokens, in the order of TokenUsage: see `charge_by`."""
        cache_read = _product(read, self._read)
        cache_write = _product(written, self._write)
        reasoning = _product(thought, self._reasoning)
        money_out = _product(answered, self._output) + reasoning
        money_in = _product(plain, self._input) + cache_read + cache_write + self._request
        total = _rounded(money_in + money_out)
        if total > NANOUSD_MAX:
            return INVALID_USAGE
        output = _lesser(_rounded(money_out), total)
        input_share = total - output
        read_share = _lesser(_rounded(cache_read), input_share)
        return Charge(
            self._provider,
            self._model,
            cost_nanousd=total,
            input_cost_nanousd=input_share,
            output_cost_nanousd=output,
            cache_read_cost_nanousd=read_share,
            cache_write_cost_nanousd=_lesser(_rounded(cache_write), input_share - read_share),
            reasoning_cost_nanousd=_lesser(_rounded(reasoning), output),
        )


class _Standing:
    """Prices that stand from one moment to another: one for each size of the prompt, by what the size has passed."""

    __slots__ = ("_passed", "_priced", "from_us", "until_us")

    def __init__(self, from_us: int, until_us: int, passed: list[int], priced: list[_Priced]) -> None:
        self.from_us = from_us
        self.until_us = until_us
        self._passed = passed
        self._priced = priced

    def priced(self, all_input_tokens: int) -> _Priced:
        """The price for so many tokens of input."""
        place = 0
        for start in self._passed:
            if all_input_tokens > start:
                place += 1
        return self._priced[place]


def usage_of(call: ModelCallCompleted) -> TokenUsage | None:
    """The call's usage; None where the provider gave none."""
    if not has_usage(call):
        return None
    return TokenUsage(
        call.input_tokens or 0,
        call.cache_read_tokens or 0,
        call.cache_write_tokens or 0,
        call.output_tokens or 0,
        call.reasoning_tokens or 0,
    )


def has_usage(call: ModelCallCompleted) -> bool:
    """False where the provider gave no usage."""
    return call.input_tokens is not None or call.output_tokens is not None or call.cache_read_tokens is not None


def rate_model_call(
    call: ModelCallCompleted, prices: PriceBook, ledger_time_us: int | None = None
) -> Charge | Unpriced:
    """The charge of a call by the model that answered, or by the one that was asked for where that isn't known.

    The price is that of the call's time: `occurred_at`, or `ledger_time_us` (broker's append time) where that is
    earlier, as nothing is recorded before it happened. A tuned model is only ever rated by its own name: some gateways
    answer with the name of its base.
    """
    at_us = priced_at(call.occurred_at, ledger_time_us)
    if isinstance(prices, GenaiPriceBook):
        charge = prices.rate_at_once(call, at_us)
        if charge is not None:
            return charge
    usage = usage_of(call)
    asked, answered = call.requested_model, call.answered_model
    names = [asked] if FINE_TUNED in asked else [name for name in (answered, asked) if name]
    rated: Charge | Unpriced = UNKNOWN_MODEL if usage is not None else NO_USAGE
    for name in names:
        rated = prices.rate(call.provider, name, usage, at_us=at_us, service_tier=call.service_tier)
        if isinstance(rated, Charge):
            break
    return rated


def priced_at(occurred_at_us: int, ledger_time_us: int | None) -> int:
    """The time whose prices hold: the agent's clock, but never later than the broker's."""
    return occurred_at_us if ledger_time_us is None else _lesser(occurred_at_us, ledger_time_us)


def spellings(provider: str, model: str) -> list[tuple[str | None, str]]:
    """Ways to read the names, most literal first: gateways put the maker in front, as in `xai/grok-3`.

    Only a name without any provider is looked for among all makers: a local model may be called like a sold one.
    """
    provider, reference = provider.strip().lower(), model.strip().lower()
    tried: list[tuple[str | None, str]] = [(provider, reference)] if provider else []
    rest = reference.removeprefix("@")
    while "/" in rest:
        prefix, rest = rest.split("/", 1)
        tried.append((prefix, rest))
    if not tried:
        tried.append((None, reference))
    return tried


def _rounded(amount: int) -> int:
    """Billionths of a nano-dollar to nano-dollars, half to even."""
    if not amount:
        return 0
    whole, rest = amount // SCALE, amount % SCALE
    return whole + (rest * 2 > SCALE or (rest * 2 == SCALE and whole % 2 == 1))


def _product(tokens: int, price: int) -> int:
    """Their product. The price in halves: compiled code computes products of small numbers quickly."""
    if not tokens or not price:
        return 0
    return ((tokens * (price >> 24)) << 24) + tokens * (price & 0xFFFFFF)


def _lesser(one: int, other: int) -> int:
    return one if one < other else other  # min() takes ten times as long where it is compiled


def _is_negative(usage: TokenUsage) -> bool:
    plain, read, written, answered, thought = usage
    return plain < 0 or read < 0 or written < 0 or answered < 0 or thought < 0
