"""What every price book keeps to: the shipped fake and the one over genai-prices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.schemas.ports import Charge, PriceBook, TokenUsage, Unpriced
from agentledger.schemas.price_books import FilePriceBook
from agentledger.schemas.price_file import parse_price_file
from agentledger.schemas.prices import GenaiPriceBook
from agentledger.schemas.testing.price_book import FixedPriceBook

AT_US = 1_750_000_000_000_000
BOOKS: dict[str, PriceBook] = {
    "fixed": FixedPriceBook({"gpt-4.1": (2000, 500, 2000, 8000, 8000)}),
    "genai-prices": GenaiPriceBook(),
    "file": FilePriceBook(
        parse_price_file(b"version: x\nmodels: [{model: gpt-4.1, prices: [{input: 2, cache_read: 0.5, output: 8}]}]"),
        FixedPriceBook({}),
    ),
}
usages = st.builds(TokenUsage, *[st.integers(0, 2_000_000)] * 5)
each_book = pytest.mark.parametrize("book", BOOKS.values(), ids=BOOKS.keys())


def rate(book: PriceBook, usage: TokenUsage | None, model: str = "gpt-4.1") -> Charge | Unpriced:
    return book.rate("openai", model, usage, at_us=AT_US)


@each_book
@given(usage=usages)
def test_a_charge_is_the_sum_of_its_shares_and_always_the_same(book: PriceBook, usage: TokenUsage) -> None:
    charge = rate(book, usage)
    assert isinstance(charge, Charge)
    assert charge.cost_nanousd == charge.input_cost_nanousd + charge.output_cost_nanousd
    assert min(charge.input_cost_nanousd, charge.output_cost_nanousd) >= 0
    assert rate(book, usage) == charge


@each_book
@given(usage=usages)
def test_each_kind_of_token_is_charged_by_itself(book: PriceBook, usage: TokenUsage) -> None:
    parts = [rate(book, TokenUsage(**{name: tokens})) for name, tokens in zip(TokenUsage._fields, usage, strict=True)]
    whole = rate(book, usage)
    assert isinstance(whole, Charge)
    assert whole.cost_nanousd == sum(part.cost_nanousd for part in parts if isinstance(part, Charge))


@each_book
def test_an_unknown_model_is_unpriced_and_not_free(book: PriceBook) -> None:
    assert rate(book, TokenUsage(input_tokens=10), "no-such-model-of-anyone") == Unpriced("unknown_model")


@each_book
def test_no_usage_is_unpriced_while_no_tokens_cost_nothing(book: PriceBook) -> None:
    assert rate(book, None) == Unpriced("no_usage")
    free = rate(book, TokenUsage())
    assert isinstance(free, Charge)
    assert (free.cost_nanousd, free.input_cost_nanousd, free.output_cost_nanousd) == (0, 0, 0)


@each_book
@pytest.mark.parametrize("usage", [TokenUsage(input_tokens=-1), TokenUsage(output_tokens=2**63 - 1)])
def test_usage_that_makes_no_sense_is_unpriced(book: PriceBook, usage: TokenUsage) -> None:
    assert rate(book, usage) == Unpriced("invalid_usage")


@each_book
def test_a_book_says_what_it_is(book: PriceBook) -> None:
    assert book.source
    assert book.version
