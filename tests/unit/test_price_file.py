"""A price file of one's own: what it says counts, what it doesn't say comes from the book below, errors say where."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.schemas.errors import ConfigurationError
from agentledger.schemas.ports import Charge, TokenUsage, Unpriced
from agentledger.schemas.price_books import FilePriceBook, open_prices
from agentledger.schemas.price_file import BYTES_MAX, SHAPE, parse_price_file
from agentledger.schemas.prices import GenaiPriceBook
from agentledger.schemas.testing.price_book import FixedPriceBook

AT_US = 1_790_000_000_000_000
BELOW = FixedPriceBook({"sold": (2000, 500, 2500, 8000, 8000), "other": (1, 1, 1, 1, 1)}, tools={"grep": 7})


def book(text: str) -> FilePriceBook:
    return FilePriceBook(parse_price_file(text.encode()), BELOW)


def cost(prices: FilePriceBook, model: str, usage: TokenUsage, *, tier: str = "", provider: str = "") -> int | str:
    rated = prices.rate(provider, model, usage, at_us=AT_US, service_tier=tier)
    return rated.cost_nanousd if isinstance(rated, Charge) else rated.reason


MINE = book(
    """
version: "1"
models:
  - model: Sold
    aliases: [sold-2026]
    provider: acme
    prices:
      - {input: 1, output: 4, request: 0.001, tiers: {batch: {multiply: 0.5}, priority: {input: 3}}}
  - model: later
    prices: [{valid_from: 2027-01-01, input: 1, output: 1}]
tools: {fetch: [{usd_per_call: 0.002}]}
"""
)


def test_the_file_comes_first_and_the_book_below_has_the_rest() -> None:
    usage = TokenUsage(input_tokens=10)
    assert cost(MINE, "sold", usage, provider="ACME") == 10 * 1_000 + 1_000_000
    assert cost(MINE, "acme/sold-2026", usage) == 10 * 1_000 + 1_000_000
    assert cost(MINE, "sold", usage) == 10 * 2000  # the provider isn't the file's
    assert cost(MINE, "other", usage) == 10
    assert cost(MINE, "later", usage) == "unknown_model"
    assert MINE.tool_cost("fetch", at_us=AT_US) == 2_000_000
    assert MINE.tool_cost("grep", at_us=AT_US) == 7
    assert MINE.tool_cost("rm", at_us=AT_US) is None
    assert MINE.human_cost(1, at_us=AT_US) is None


def test_what_is_not_said_of_cache_and_reasoning_costs_as_input_and_output() -> None:
    usage = TokenUsage(0, 10, 100, 0, 1000)
    assert cost(MINE, "sold", usage, provider="acme") == 110 * 1_000 + 1000 * 4_000 + 1_000_000


def test_a_tier_is_the_files_or_unpriced() -> None:
    usage = TokenUsage(input_tokens=10, output_tokens=1)
    assert cost(MINE, "sold", usage, provider="acme", tier="Batch") == 10 * 500 + 2_000 + 500_000
    assert cost(MINE, "sold", usage, provider="acme", tier="priority") == 10 * 3_000 + 4_000 + 1_000_000
    assert cost(MINE, "sold", usage, provider="acme", tier="standard") == 10 * 1_000 + 4_000 + 1_000_000
    assert cost(MINE, "sold", usage, provider="acme", tier="flex") == "unknown_tier"


def test_usage_is_checked_as_by_every_book() -> None:
    assert MINE.rate("acme", "sold", None, at_us=AT_US) == Unpriced("no_usage")
    assert cost(MINE, "sold", TokenUsage(-1), provider="acme") == "invalid_usage"
    assert cost(MINE, "sold", TokenUsage(2**62), provider="acme") == "invalid_usage"


@given(st.builds(TokenUsage, *[st.integers(0, 1_000_000)] * 5), st.sampled_from(["", "batch", "priority"]))
def test_shares_add_up(usage: TokenUsage, tier: str) -> None:
    rated = MINE.rate("acme", "sold", usage, at_us=AT_US, service_tier=tier)
    assert isinstance(rated, Charge)
    assert rated.cost_nanousd == rated.input_cost_nanousd + rated.output_cost_nanousd
    assert 0 <= rated.reasoning_cost_nanousd <= rated.output_cost_nanousd
    assert rated.cache_read_cost_nanousd >= 0
    assert rated.cache_write_cost_nanousd >= 0
    assert rated.cache_read_cost_nanousd + rated.cache_write_cost_nanousd <= rated.input_cost_nanousd


def test_an_explicit_step_of_a_tier_stands_beside_the_multiplied_ones() -> None:
    steps = book(
        "version: x\nmodels: [{model: m, prices: [{input: 2, output: 2, above: {100: {input: 4}}, "
        "tiers: {batch: {multiply: 0.5, above: {1000: {input: 9}}}}}]}]"
    )
    assert cost(steps, "m", TokenUsage(100), tier="batch") == 100 * 1000
    assert cost(steps, "m", TokenUsage(101), tier="batch") == 101 * 2000
    assert cost(steps, "m", TokenUsage(1001), tier="batch") == 1001 * 9000
    assert [(row.tier, row.above) for row in steps.listed("", "m", at_us=AT_US)] == [
        ("", 0), ("", 100), ("batch", 0), ("batch", 100), ("batch", 1000),
    ]  # fmt: skip


def test_the_version_says_what_the_file_was() -> None:
    assert MINE.source == "file+fixed"
    assert MINE.version.startswith("1@")
    assert MINE.version.endswith("+1")
    assert book("version: '1'\n").version != book("version: '1'\n\n").version


def test_the_shape_that_is_shown_is_a_valid_file() -> None:
    shown = FilePriceBook(parse_price_file(SHAPE.encode()), GenaiPriceBook())
    assert cost(shown, "claude-sonnet-4-5", TokenUsage(2), tier="batch", provider="anthropic") == 3000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a list", "holds a list"),
        ("version: [", "no YAML"),
        ("version: a\nversion: b", "prices.yaml:1: version: is said again on line 2"),
        ("models: []", "version: it is missing"),
        ("version: a\nprizes: []", "prices.yaml:2: prizes: there is no such key"),
        ("version: a\nmodels: [{model: m, prices: [{input: 1}]}]", r"yaml:2: models\[0\].prices\[0\]: needs input"),
        ("version: a\nmodels: [{model: m, prices: [{input: 1, output: -1}]}]", "output"),
        ("version: a\nmodels: [{model: m, prices: [{input: .nan, output: 1}]}]", "input"),
        ("version: a\nmodels: [{model: m, prices: [{input: 0.0000000000001, output: 1}]}]", "more than 12 decimals"),
        ("version: a\nmodels: [{model: m, prices: [{valid_from: soon, input: 1, output: 1}]}]", "give a day or a time"),
        ("version: a\nmodels: [{model: m, prices: [{hours_utc: noon, input: 1, output: 1}]}]", "two times of the day"),
        ("version: a\nmodels: [{model: m, prices: &p [{input: 1, output: 1}]}, {model: M, prices: *p}]",
         "listed twice"),
        ("version: a\nmodels: [{model: m, prices: [{input: 1, cache_read: 1, output: 1, above: {9: {input: 2}}}]}]",
         "say cache_read, too"),
        ("version: a\nmodels: [{model: m, prices: [{input: 1, output: 1, reasoning: 1, tiers: {x: {output: 2}}}]}]",
         "say reasoning, too"),
        ("version: a\npeople: [{usd_per_hour: 0.0000000001}]", "more than 9 decimals"),
    ],
)  # fmt: skip
def test_a_wrong_file_says_where_it_is_wrong(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse_price_file(text.encode(), where="prices.yaml")


def test_a_file_that_cant_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml"):
        open_prices(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigurationError, match="bytes"):
        parse_price_file(b" " * (BYTES_MAX + 1))
    assert isinstance(open_prices(""), GenaiPriceBook)
