"""Prices by hand: what providers' public price pages say, and the arithmetic of a bill, exact to the nano-dollar.

A price per million tokens is a whole number of nano-dollars per token: $3 per million is 3,000 per token. Every
example spells out `tokens * nano-dollars per token`. Pages are named with the time as of which they are quoted. Where
the shipped book lacks a price, the price comes from a file of one's own, as a user would write it.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agentledger.schemas.events import ModelCallCompleted
from agentledger.schemas.ports import Charge, PriceBook, TokenUsage, Unpriced
from agentledger.schemas.price_books import FilePriceBook
from agentledger.schemas.price_file import parse_price_file
from agentledger.schemas.prices import GenaiPriceBook, rate_model_call

BOOK = GenaiPriceBook()
OWN = FilePriceBook(
    parse_price_file(b"""
version: by-hand
models:
  # Anthropic, "Pricing": platform.claude.com/docs/en/about-claude/pricing, as of October 2025.
  # Caching for an hour costs twice the input price, a batch half of everything, also of the cache.
  - model: claude-sonnet-4-5
    provider: anthropic
    aliases: [claude-sonnet-4-5-20250929]
    cache_write_ttl: 1h
    prices:
      - valid_from: 2025-09-29
        input: 3
        cache_read: 0.30
        cache_write_5m: 3.75
        cache_write_1h: 6
        output: 15
        above:
          200000: {input: 6, cache_read: 0.60, cache_write_5m: 7.50, cache_write_1h: 12, output: 22.50}
        tiers:
          batch: {multiply: 0.5}
  # DeepSeek, "Models & Pricing": api-docs.deepseek.com/quick_start/pricing, as of August 2025: a discount by night,
  # and from 16:00 UTC on 5 September 2025 one price all day.
  - model: deepseek-chat
    provider: deepseek
    prices:
      - {valid_from: 2025-02-26, input: 0.27, cache_read: 0.07, output: 1.10}
      - {valid_from: 2025-02-26, hours_utc: 16:30-00:30, input: 0.135, cache_read: 0.035, output: 0.55}
      - {valid_from: 2025-09-05T16:00:00Z, input: 0.56, cache_read: 0.07, output: 1.68}
tools:
  # Google, "Grounding with Google Search": ai.google.dev/gemini-api/docs/pricing, as of October 2025: $35 per 1,000.
  google_search: [{valid_from: 2025-03-25, usd_per_call: 0.035}]
people:
  - {valid_from: 2026-01-01, usd_per_hour: 48}
  - {valid_from: 2026-07-01, usd_per_hour: 54.50}
"""),
    BOOK,
)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def charge(book: PriceBook, provider: str, model: str, usage: TokenUsage, when: str, *, tier: str = "") -> Charge:
    rated = book.rate(provider, model, usage, at_us=at(when), service_tier=tier)
    assert isinstance(rated, Charge), rated
    return rated


def test_anthropic_cache_read_and_write() -> None:
    """Sonnet 4.5: $3 input, $3.75 writing the cache for 5 minutes, $0.30 reading it, $15 output."""
    usage = TokenUsage(input_tokens=1_200, cache_read_tokens=45_000, cache_write_tokens=3_000, output_tokens=850)
    rated = charge(BOOK, "anthropic", "claude-sonnet-4-5-20250929", usage, "2025-11-01")
    assert rated.cache_read_cost_nanousd == 45_000 * 300 == 13_500_000
    assert rated.cache_write_cost_nanousd == 3_000 * 3_750 == 11_250_000
    assert rated.input_cost_nanousd == 1_200 * 3_000 + 13_500_000 + 11_250_000 == 28_350_000
    assert rated.output_cost_nanousd == 850 * 15_000 == 12_750_000
    assert rated.cost_nanousd == 41_100_000  # $0.0411


def test_anthropic_cache_write_for_an_hour() -> None:
    """Sonnet 4.5: writing the cache for an hour costs $6, twice the input price."""
    usage = TokenUsage(input_tokens=1_200, cache_write_tokens=3_000)
    rated = charge(OWN, "anthropic", "claude-sonnet-4-5-20250929", usage, "2025-11-01")
    assert rated.cache_write_cost_nanousd == 3_000 * 6_000 == 18_000_000
    assert rated.cost_nanousd == 1_200 * 3_000 + 18_000_000 == 21_600_000


def test_anthropic_batch_is_half_of_everything() -> None:
    """Sonnet 4.5 in a batch: $1.50 input, $3 writing for an hour, $0.15 reading, $7.50 output."""
    usage = TokenUsage(input_tokens=10_001, cache_read_tokens=333, cache_write_tokens=7, output_tokens=11)
    rated = charge(OWN, "anthropic", "claude-sonnet-4-5", usage, "2025-11-01", tier="batch")
    assert rated.cost_nanousd == 10_001 * 1_500 + 333 * 150 + 7 * 3_000 + 11 * 7_500 == 15_154_950


def test_anthropic_long_context() -> None:
    """Sonnet 4.5: with more than 200,000 input tokens, cached ones included, all tokens cost the higher price."""
    at_the_line = TokenUsage(input_tokens=50_000, cache_read_tokens=150_000, output_tokens=1_000)
    over_it = TokenUsage(input_tokens=50_001, cache_read_tokens=150_000, output_tokens=1_000)
    below = charge(BOOK, "anthropic", "claude-sonnet-4-5", at_the_line, "2025-11-01")
    above = charge(BOOK, "anthropic", "claude-sonnet-4-5", over_it, "2025-11-01")
    assert below.cost_nanousd == 50_000 * 3_000 + 150_000 * 300 + 1_000 * 15_000 == 210_000_000
    assert above.cost_nanousd == 50_001 * 6_000 + 150_000 * 600 + 1_000 * 22_500 == 412_506_000
    own = charge(OWN, "anthropic", "claude-sonnet-4-5", over_it, "2025-11-01", tier="batch")
    assert own.cost_nanousd == 50_001 * 3_000 + 150_000 * 300 + 1_000 * 11_250 == 206_253_000


def test_openai_reasoning_and_cached_input() -> None:
    """GPT-5: $1.25 input, $0.125 cached, $10 output; reasoning is billed as output.

    openai.com/api/pricing, as of August 2025.
    """
    usage = TokenUsage(input_tokens=2_000, cache_read_tokens=6_144, output_tokens=300, reasoning_tokens=1_216)
    rated = charge(BOOK, "openai", "gpt-5-2025-08-07", usage, "2025-09-01")
    assert rated.cache_read_cost_nanousd == 6_144 * 125 == 768_000
    assert rated.input_cost_nanousd == 2_000 * 1_250 + 768_000 == 3_268_000
    assert rated.reasoning_cost_nanousd == 1_216 * 10_000 == 12_160_000
    assert rated.output_cost_nanousd == 300 * 10_000 + 12_160_000 == 15_160_000
    assert rated.cost_nanousd == 18_428_000


def test_openai_batch_and_flex_and_priority() -> None:
    """GPT-5: batch and flex are half, priority is double: $2.50 / $0.25 / $20. As of October 2026 in the book."""
    usage = TokenUsage(input_tokens=1_000, cache_read_tokens=1_001, output_tokens=100)
    standard = 1_000 * 1_250 + 1_001 * 125 + 100 * 10_000
    assert charge(BOOK, "openai", "gpt-5", usage, "2026-10-20").cost_nanousd == standard == 2_375_125
    # Half of 125 is 62.5: 1,001 tokens make half a nano-dollar, which is rounded once, to even.
    for tier in ("batch", "flex"):
        rated = charge(BOOK, "openai", "gpt-5", usage, "2026-10-20", tier=tier)
        assert rated.cost_nanousd == 1_000 * 625 + 62_562 + 100 * 5_000 == 1_187_562
    assert charge(BOOK, "openai", "gpt-5", usage, "2026-10-20", tier="priority").cost_nanousd == 2 * standard


def test_openai_price_change_on_a_day() -> None:
    """O3 went from $10 / $40 to $2 / $8 on 10 June 2025 (openai.com/api/pricing)."""
    usage = TokenUsage(input_tokens=5_000, output_tokens=400, reasoning_tokens=600)
    before = charge(BOOK, "openai", "o3", usage, "2025-06-09T23:59:59")
    after = charge(BOOK, "openai", "o3", usage, "2025-06-10T00:00:00")
    assert before.cost_nanousd == 5_000 * 10_000 + 400 * 40_000 + 600 * 40_000 == 90_000_000
    assert after.cost_nanousd == 5_000 * 2_000 + 400 * 8_000 + 600 * 8_000 == 18_000_000


def test_google_long_context_and_thinking() -> None:
    """Gemini 2.5 Pro: $1.25 / $10 up to 200,000 tokens of prompt, $2.50 / $15 above; thinking is output.

    Cached input costs a tenth: $0.125 and $0.25. ai.google.dev/gemini-api/docs/pricing, as of November 2025.
    """
    short = TokenUsage(input_tokens=100_000, cache_read_tokens=100_000, output_tokens=500, reasoning_tokens=2_500)
    rated = charge(BOOK, "google", "gemini-2.5-pro", short, "2025-11-15")
    assert rated.cost_nanousd == 100_000 * 1_250 + 100_000 * 125 + 500 * 10_000 + 2_500 * 10_000 == 167_500_000
    longer = TokenUsage(input_tokens=150_000, cache_read_tokens=100_000, output_tokens=500, reasoning_tokens=2_500)
    rated = charge(BOOK, "google", "gemini-2.5-pro", longer, "2025-11-15")
    assert rated.cache_read_cost_nanousd == 100_000 * 250 == 25_000_000
    assert rated.reasoning_cost_nanousd == 2_500 * 15_000 == 37_500_000
    assert rated.cost_nanousd == 150_000 * 2_500 + 25_000_000 + 500 * 15_000 + 37_500_000 == 445_000_000


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("2025-08-01T12:00:00", 2_000 * 270 + 8_000 * 70 + 1_000 * 1_100),  # by day
        ("2025-08-01T16:29:59", 2_000 * 270 + 8_000 * 70 + 1_000 * 1_100),
        ("2025-08-01T16:30:00", 2_000 * 135 + 8_000 * 35 + 1_000 * 550),  # by night
        ("2025-08-02T00:29:59", 2_000 * 135 + 8_000 * 35 + 1_000 * 550),
        ("2025-08-02T00:30:00", 2_000 * 270 + 8_000 * 70 + 1_000 * 1_100),
    ],
)
def test_deepseek_by_day_and_by_night(when: str, expected: int) -> None:
    """DeepSeek-V3: $0.27 / $0.07 on a cache hit / $1.10; half of it from 16:30 to 00:30 UTC."""
    usage = TokenUsage(input_tokens=2_000, cache_read_tokens=8_000, output_tokens=1_000)
    assert charge(BOOK, "deepseek", "deepseek-chat", usage, when).cost_nanousd == expected
    assert charge(OWN, "deepseek", "deepseek-chat", usage, when).cost_nanousd == expected
    assert expected in {2_200_000, 1_100_000}


def test_deepseek_price_change_at_an_hour() -> None:
    """From 16:00 UTC on 5 September 2025: $0.56 / $0.07 / $1.68 all day. The shipped book lacks it: the file has it."""
    usage = TokenUsage(input_tokens=2_000, cache_read_tokens=8_000, output_tokens=1_000)
    before = charge(OWN, "deepseek", "deepseek-chat", usage, "2025-09-05T15:59:59")
    after = charge(OWN, "deepseek", "deepseek-chat", usage, "2025-09-05T16:00:00")
    night = charge(OWN, "deepseek", "deepseek-chat", usage, "2025-09-05T20:00:00")
    assert before.cost_nanousd == 2_200_000
    assert after.cost_nanousd == night.cost_nanousd == 2_000 * 560 + 8_000 * 70 + 1_000 * 1_680 == 3_360_000


def test_xai_reasoning_is_billed_as_output() -> None:
    """Grok 3: $3 / $15; Grok 3 mini: $0.30 / $0.50, its reasoning as output. docs.x.ai/docs/models, as of May 2025."""
    usage = TokenUsage(input_tokens=1_471, output_tokens=29, reasoning_tokens=311)
    rated = charge(BOOK, "xai", "grok-3", usage, "2025-06-01")
    assert rated.cost_nanousd == 1_471 * 3_000 + 29 * 15_000 + 311 * 15_000 == 9_513_000
    mini = charge(BOOK, "xai", "grok-3-mini", usage, "2025-06-01")
    assert mini.reasoning_cost_nanousd == 311 * 500 == 155_500
    assert mini.cost_nanousd == 1_471 * 300 + 29 * 500 + 155_500 == 611_300


def test_mistral_small() -> None:
    """Mistral Small 3.1: $0.10 / $0.30. mistral.ai/pricing, as of March 2025."""
    rated = charge(BOOK, "mistral", "mistral-small-latest", TokenUsage(12_345, output_tokens=678), "2025-04-01")
    assert rated.cost_nanousd == 12_345 * 100 + 678 * 300 == 1_437_900


def test_a_tier_without_a_price_is_unpriced() -> None:
    """The shipped book knows batches from October 2026 on only; before, they are unpriced and never full price."""
    usage = TokenUsage(input_tokens=1)
    assert BOOK.rate("anthropic", "claude-sonnet-4-5", usage, at_us=at("2025-11-01"), service_tier="batch") == Unpriced(
        "unknown_tier"
    )


def test_tools_and_people() -> None:
    assert OWN.tool_cost("google_search", at_us=at("2025-10-01")) == 35_000_000
    assert OWN.tool_cost("google_search", at_us=at("2025-03-24")) is None
    # 7 minutes and 30 seconds at $48 an hour: an eighth of it.
    assert OWN.human_cost(450_000, at_us=at("2026-03-01")) == 6_000_000_000
    # One millisecond at $54.50 an hour: 54,500,000,000 / 3,600,000 = 15,138.89 nano-dollars.
    assert OWN.human_cost(1, at_us=at("2026-07-01")) == 15_139
    assert OWN.human_cost(1, at_us=at("2025-07-01")) is None
    assert BOOK.human_cost(1, at_us=0) is BOOK.tool_cost("google_search", at_us=0) is None


def test_a_call_has_the_price_of_its_time_and_never_of_a_later_one() -> None:
    """`occurred_at` counts, as imported runs have the prices of their time; a clock ahead of the broker does not."""
    call = ModelCallCompleted(
        event_id="e", tenant_id="t", producer_id="p", producer_seq=0, run_id="r", provider="openai",
        requested_model="o3", input_tokens=1_000, occurred_at=at("2025-06-09T12:00:00"),
    )  # fmt: skip
    imported = rate_model_call(call, BOOK, at("2026-01-01"))
    assert isinstance(imported, Charge)
    assert imported.cost_nanousd == 1_000 * 10_000
    call.occurred_at = at("2025-06-10T00:00:01")
    ahead = rate_model_call(call, BOOK, at("2025-06-09T23:59:59"))
    assert isinstance(ahead, Charge)
    assert ahead.cost_nanousd == 1_000 * 10_000
