"""Prices: models are found by the names that calls carry; charges agree with the library and with what was billed."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.types import ModelPrice
from hypothesis import given, settings
from hypothesis import strategies as st

from agentledger.schemas import usd_to_nanousd
from agentledger.schemas.events import ModelCallCompleted
from agentledger.schemas.genai_tariffs import STANDARD_TIERS
from agentledger.schemas.ports import Charge, TokenUsage, Unpriced
from agentledger.schemas.prices import LOOKUPS_MAX, GenaiPriceBook, rate_model_call, usage_of
from agentledger.schemas.testing.price_book import FixedPriceBook
from tests.traces import traces_folder

AT_US = 1_762_000_000_000_000  # November 2025
BOOK = GenaiPriceBook()
UNKNOWN = Unpriced("unknown_model")
SOLD = {(provider.id, model.id): (provider, model) for provider in providers for model in provider.models}
usages = st.builds(TokenUsage, *[st.integers(0, 400_000)] * 5)


def call(**fields: Any) -> ModelCallCompleted:
    envelope = {"event_id": "e", "tenant_id": "t", "producer_id": "p", "producer_seq": 0, "run_id": "r"}
    return ModelCallCompleted(**envelope, occurred_at=AT_US, **fields)


def library_usage(usage: TokenUsage) -> genai_prices.Usage:
    return genai_prices.Usage(
        input_tokens=usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens + usage.reasoning_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
    )


def rounded(usd: Decimal) -> int:
    return int((usd * 10**9).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


@pytest.mark.parametrize(
    ("provider", "model", "found"),
    [
        ("openai", "gpt-4.1", ("openai", "gpt-4.1")),
        ("", "gpt-4.1-2025-04-14", ("openai", "gpt-4.1")),
        ("OpenAI", "GPT-4.1", ("openai", "gpt-4.1")),
        ("", "xai/grok-3", ("x-ai", "grok-3")),
        ("xai", "grok-3", ("x-ai", "grok-3")),
        ("xai", "xai/grok-4", ("x-ai", "grok-4-0709")),
        ("", "gemini/gemini-3-pro-preview", ("google", "gemini-3-pro-preview")),
        ("google", "@google/gemini-3-pro-preview", ("google", "gemini-3-pro-preview")),
        ("openrouter", "google/gemini-3-pro-preview", ("google", "gemini-3-pro-preview")),
        ("", "openrouter/google/gemini-3-pro-preview", ("google", "gemini-3-pro-preview")),
        ("openrouter", "google/gemini-2.5-pro", ("openrouter", "google/gemini-2.5-pro")),
        ("", "mistral/mistral-small-latest", ("mistral", "mistral-small-latest")),
        ("openai", "ft:gpt-3.5-turbo-0125:org", ("openai", "ft:gpt-3.5-turbo-")),
    ],
)
def test_models_are_found_by_the_names_that_calls_carry(provider: str, model: str, found: tuple[str, str]) -> None:
    charge = BOOK.rate(provider, model, TokenUsage(1000), at_us=AT_US)
    assert isinstance(charge, Charge)
    assert (charge.provider, charge.model) == found


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "ft:gpt-4.1-2025-04-14:sierra:tau2-full-sft:BzrYdMNm"),
        ("", "ft:gpt-4.1-2025-04-14:sierra:tau2-full-sft:BzrYdMNm"),
        ("", "openai/ft:gpt-4.1-2025-04-14:sierra::x"),
        ("ollama", "qwen2.5:1.5b"),
        ("ollama_chat", "gpt-4.1"),
        ("", "ollama_chat/qwen2.5:1.5b"),
        ("openai", "grok-3"),
        ("openai", ""),
        ("", ""),
        ("", "/"),
    ],
)
def test_a_model_is_never_given_the_price_of_another(provider: str, model: str) -> None:
    assert BOOK.rate(provider, model, TokenUsage(1000), at_us=AT_US) == UNKNOWN


@given(st.sampled_from(sorted(SOLD)), usages, st.integers(1_600_000_000, 1_900_000_000))
def test_charges_are_those_of_the_library_rounded_once(sold: tuple[str, str], usage: TokenUsage, at_s: int) -> None:
    provider, model = SOLD[sold]
    charge = BOOK.rate(provider.id, model.id, usage, at_us=at_s * 1_000_000)
    if charge == UNKNOWN:  # a model whose own id its match rule doesn't match
        assert provider.find_model(model.id) is None or model.id.startswith("ft:")
        return
    assert isinstance(charge, Charge)
    _, found = BOOK._snapshot.find_provider_model(model.id, None, provider.id, None)
    moment = datetime.fromtimestamp(at_s, UTC)
    theirs = found.calc_price(library_usage(usage), provider, genai_request_timestamp=moment)
    assert charge.cost_nanousd == rounded(theirs.total_price)


def test_a_large_prompt_is_charged_by_its_tier() -> None:
    small = BOOK.rate("google", "gemini-3-pro-preview", TokenUsage(200_000), at_us=AT_US)
    large = BOOK.rate("google", "gemini-3-pro-preview", TokenUsage(1, 200_000), at_us=AT_US)
    assert isinstance(small, Charge)
    assert isinstance(large, Charge)
    assert small.cost_nanousd == 200_000 * 2000
    assert large.cost_nanousd == 4000 + 200_000 * 400


def test_a_tier_is_charged_by_its_own_price_and_unpriced_where_the_book_has_none() -> None:
    def rate(tier: str, model: str = "claude-sonnet-4-5", at_us: int = 1_798_000_000_000_000) -> Charge | Unpriced:
        return BOOK.rate("anthropic", model, TokenUsage(10_000), at_us=at_us, service_tier=tier)

    standard, batch = rate(""), rate("batch")
    assert isinstance(standard, Charge)
    assert isinstance(batch, Charge)
    assert batch.cost_nanousd * 2 == standard.cost_nanousd
    assert rate("default") == rate("Standard") == standard
    assert rate("no-such-tier") == Unpriced("unknown_tier")
    assert rate("priority") == Unpriced("unknown_tier")


@given(
    st.sampled_from(sorted(sold for sold in SOLD if SOLD[sold][1].price_variants)),
    usages,
    st.integers(1_790_000_000, 1_900_000_000),
)
def test_tiers_are_charged_as_the_library_does(sold: tuple[str, str], usage: TokenUsage, at_s: int) -> None:
    provider, model = SOLD[sold]
    for variant in model.price_variants or ():
        [(name, tier)] = variant.when.items()
        if (name, tier) != ("processing", "batch") and name != "service_tier":
            continue
        rated = BOOK.rate(provider.id, model.id, usage, at_us=at_s * 1_000_000, service_tier=tier)
        if isinstance(rated, Unpriced):
            assert rated == UNKNOWN or tier not in STANDARD_TIERS
            continue
        _, found = BOOK._snapshot.find_provider_model(model.id, None, provider.id, None)
        moment = datetime.fromtimestamp(at_s, UTC)
        theirs = found.calc_price(
            library_usage(usage), provider, genai_request_timestamp=moment, price_context=variant.when
        )
        assert rated.cost_nanousd == rounded(theirs.total_price)


@pytest.mark.parametrize("at_us", [-(2**63), -1, 0, 2**63 - 1])
def test_any_time_can_be_asked_for(at_us: int) -> None:
    assert isinstance(BOOK.rate("openai", "gpt-4.1", TokenUsage(1), at_us=at_us), Charge)


def test_many_names_take_a_bounded_place() -> None:
    book = GenaiPriceBook()
    for number in range(5000):
        book.rate("openai", f"name-{number}", TokenUsage(1), at_us=AT_US)
    assert book._find.cache_info().currsize <= LOOKUPS_MAX


def test_the_book_uses_the_bundled_prices_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genai_prices.data_snapshot._custom_snapshot", object())
    assert isinstance(GenaiPriceBook().rate("openai", "gpt-4.1", TokenUsage(1), at_us=AT_US), Charge)


def test_a_call_is_rated_by_the_model_that_answered_else_by_the_one_asked_for() -> None:
    book = FixedPriceBook({"asked": (1, 0, 0, 0, 0), "answered": (2, 0, 0, 0, 0)})

    def cost(asked: str, answered: str) -> int | str:
        rated = rate_model_call(call(requested_model=asked, answered_model=answered, input_tokens=10), book)
        return rated.cost_nanousd if isinstance(rated, Charge) else rated.reason

    assert cost("asked", "answered") == 20
    assert cost("asked", "") == 10
    assert cost("asked", "unlisted") == 10
    assert cost("", "") == "unknown_model"
    assert cost("ft:answered:us", "answered") == "unknown_model"


def test_usage_is_none_only_where_the_provider_gave_none() -> None:
    assert usage_of(call()) is None
    assert rate_model_call(call(requested_model="gpt-4.1"), BOOK) == Unpriced("no_usage")
    assert usage_of(call(input_tokens=0)) == TokenUsage()
    assert usage_of(call(input_tokens=1, output_tokens=2, reasoning_tokens=3)) == TokenUsage(1, 0, 0, 2, 3)


def tau2_turns() -> Iterator[tuple[str, TokenUsage, int]]:
    for path in sorted(traces_folder().glob("tau2-*/*.json.gz")):
        batch = json.loads(gzip.decompress(path.read_bytes()))
        models = {"assistant": batch["info"]["agent_info"]["llm"], "user": batch["info"]["user_info"]["llm"]}
        for message in (message for run in batch["simulations"] for message in run["messages"]):
            usage = message.get("usage")
            if message["role"] in models and usage:
                tokens = TokenUsage(input_tokens=usage["prompt_tokens"], output_tokens=usage["completion_tokens"])
                yield models[message["role"]], tokens, usd_to_nanousd(message["cost"])


@pytest.mark.traces
def test_recorded_costs_are_met_to_the_nano_dollar_or_differ_by_what_the_record_leaves_out() -> None:
    turns: Counter[str] = Counter()
    exact: Counter[str] = Counter()
    for model, usage, reported in tau2_turns():
        turns[model] += 1
        rated = BOOK.rate("", model, usage, at_us=AT_US)
        if model.startswith("ft:"):
            assert (rated, reported) == (UNKNOWN, 0)
            continue
        assert isinstance(rated, Charge)
        exact[model] += rated.cost_nanousd == reported
        difference = rated.cost_nanousd - reported
        if model.startswith("gpt-4.1"):  # the record doesn't say how many tokens came from the cache, at 0.5 for 2 USD
            cached, rest = divmod(difference, 1500)
            assert rest == 0
            assert 0 <= cached <= usage.input_tokens
        if model == "xai/grok-4":  # its reasoning isn't in the recorded completion tokens, but was billed
            assert difference <= 0
    assert exact["xai/grok-3"] == turns["xai/grok-3"] == 934
    assert turns["gpt-4.1"] == 1094
    assert exact["gpt-4.1"] == 501


@pytest.mark.traces
def test_recorded_costs_of_a_gateway_with_cache_and_reasoning_are_met_to_the_nano_dollar() -> None:
    replies = 0
    for path in sorted(traces_folder().glob("swe-django/trajs/*.gz")):
        for message in json.loads(gzip.decompress(path.read_bytes()))["messages"]:
            response = (message.get("extra") or {}).get("response")
            if not response or "cost" not in response["usage"]:
                continue
            usage = response["usage"]
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
            tokens = TokenUsage(
                usage["prompt_tokens"] - cached, cached, 0, usage["completion_tokens"] - reasoning, reasoning
            )
            rated = BOOK.rate(response["provider"], response["model"], tokens, at_us=AT_US)
            assert isinstance(rated, Charge)
            assert rated.cost_nanousd == usd_to_nanousd(usage["cost"])
            replies += 1
    assert replies == 3374


DAY_US = 86_400_000_000
# Of each kind: one price, prices with dates, tiers of size, both, hours of the day, and names that the book hasn't.
ASKED = [
    ("openai", "gpt-4.1"), ("openai", "o3"), ("google", "gemini-2.5-pro"), ("anthropic", "claude-opus-4-6"),
    ("deepseek", "deepseek-chat"), ("deepseek", "deepseek-v4-flash"), ("nobody", "nothing"),
]  # fmt: skip
moments = st.builds(
    lambda day, hour, us: day * DAY_US + hour * (DAY_US // 48) + us,
    st.integers(20_100, 20_800),  # January 2025 to December 2026
    st.integers(0, 47),
    st.integers(-1, 1),
)
sizes = st.sampled_from([0, 1, 127_999, 128_000, 128_001, 200_000, 200_001, 272_001, 400_000])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(ASKED), moments, st.tuples(sizes, sizes), st.sampled_from(["", "batch", "flex"])),
        min_size=1,
        max_size=8,
    )
)
def test_what_was_asked_before_changes_no_charge(asked: list[Any]) -> None:
    book = GenaiPriceBook()
    for (provider, model), at_us, (plain, read), tier in asked + asked:
        known = call(
            provider=provider, answered_model=model, service_tier=tier,
            input_tokens=plain, cache_read_tokens=read, output_tokens=7,
        )  # fmt: skip
        usage = TokenUsage(plain, read, 0, 7, 0)
        fresh = GenaiPriceBook().rate(provider, model, usage, at_us=at_us, service_tier=tier)
        assert book.rate(provider, model, usage, at_us=at_us, service_tier=tier) == fresh
        known.occurred_at = at_us
        assert rate_model_call(known, book) == fresh


def test_the_models_of_that_law_are_of_each_kind() -> None:
    models = [SOLD[name][1] for name in ASKED[:-1]]
    priced = [model.prices for model in models if not isinstance(model.prices, ModelPrice)]
    kinds = {type(one.constraint).__name__ for prices in priced for one in prices}
    assert kinds == {"NoneType", "StartDateConstraint", "TimeOfDateConstraint"}
    assert any(row.above for name in ASKED[:-1] for row in BOOK.listed(*name, at_us=AT_US))
