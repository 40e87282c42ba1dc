"""The tokens of a span, made disjoint: what is contained in something else is taken out of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agentledger.producers.json_values import as_count, as_text
from agentledger.producers.otel import names
from agentledger.producers.otel.roles import first_of
from agentledger.producers.usage import Tokens, tokens_of_totals

_READ = frozenset(
    {
        *names.INPUT_TOKENS,
        *names.UNCACHED_INPUT_TOKENS,
        *names.CACHE_READ_TOKENS,
        *names.CACHE_WRITE_TOKENS,
        *names.OUTPUT_TOKENS,
        *names.REASONING_TOKENS,
        *names.TOTAL_TOKENS,
        *names.TOTAL_COST,
        *(part for parts in names.COST_PARTS for part in parts),
        *names.USAGE_CONTAINED,
    }
)
_ANTHROPIC = ("anthropic", "claude")


def disjoint_usage(attributes: Mapping[str, Any]) -> Tokens:
    """The disjoint counts of a span; None where it doesn't say.

    By the conventions cached tokens are part of the input and reasoning is part of the output. Some instrumentations
    hand on what a provider counts beside each other: that is seen where the whole is smaller than its part, where the
    total is the sum of all, and known of those in `names.CACHE_BESIDE_INPUT`.
    """
    given, answered = _count(attributes, names.INPUT_TOKENS), _count(attributes, names.OUTPUT_TOKENS)
    read, written = _count(attributes, names.CACHE_READ_TOKENS), _count(attributes, names.CACHE_WRITE_TOKENS)
    thought = _count(attributes, names.REASONING_TOKENS)
    total = _count(attributes, names.TOTAL_TOKENS)
    uncached = _count(attributes, names.UNCACHED_INPUT_TOKENS)
    cached = (read or 0) + (written or 0)
    if uncached is not None:
        given = uncached + cached
    elif given is not None and (_is_beside(cached, given, answered, total) or _hands_on(attributes)):
        given += cached
    if answered is not None and _is_beside(thought or 0, answered, given, total):
        answered += thought or 0
    return tokens_of_totals(
        input_total=given, output_total=answered, cache_read=read, cache_write=written, reasoning=thought
    )


def usage_not_read(attributes: Mapping[str, Any]) -> list[str]:
    """Names of usage attributes that have a number and are not understood, sorted: they may be money."""
    return sorted(
        name
        for name, value in attributes.items()
        if name.startswith(names.USAGE_PREFIXES) and name not in _READ and as_count(value)
    )


def _count(attributes: Mapping[str, Any], among: Iterable[str]) -> int | None:
    return next((count for name in among if (count := as_count(attributes.get(name))) is not None), None)


def _is_beside(part: int, whole: int, rest: int | None, total: int | None) -> bool:
    """Whether a part is counted beside what the convention calls its whole; `rest` is what else is in the total."""
    return part > whole or (bool(part) and rest is not None and total == whole + rest + part)


def _hands_on(attributes: Mapping[str, Any]) -> bool:
    """Whether the cached tokens came under a name that means them beside the input, for a model of Anthropic's."""
    name = next((name for name in names.CACHE_READ_TOKENS if as_count(attributes.get(name)) is not None), "")
    if name not in names.CACHE_BESIDE_INPUT:
        return False
    maker = f"{as_text(first_of(attributes, names.PROVIDER))} {as_text(first_of(attributes, names.REQUESTED_MODEL))}"
    return any(word in maker.lower() for word in _ANTHROPIC)
