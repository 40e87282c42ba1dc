"""Token counts as providers and frameworks report them, made disjoint: what is contained in something else is taken out
of it. The one place that knows who counts what within what.

| who | cached input | cache writes | reasoning |
|---|---|---|---|
| OpenAI (`prompt_tokens` or `input_tokens` with details) | within input | within input | within output |
| Anthropic (`cache_read_input_tokens`, …) | beside input | beside input | within output |
| LangChain, Pydantic AI, LiteLLM, OpenAI Agents, for every provider | within input | within input | within output |
| spans of OpenTelemetry (`producers.otel.usage` has the exceptions) | within input | within input | within output |
"""

from __future__ import annotations

from typing import Any, TypedDict

COUNT_MAX = 2**63 - 1


class Tokens(TypedDict):
    """The token fields of a ModelCallCompleted; None where the provider gave no usage."""

    input_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None


def disjoint_tokens(usage: Any, *, reasoning_apart: bool = False) -> Tokens:
    """The disjoint counts of an OpenAI-style (`prompt_tokens`) or Anthropic-style (`input_tokens`) usage.

    OpenAI counts cached tokens within the prompt and reasoning within the completion; Anthropic counts cache reads and
    writes beside the input. `reasoning_apart` is for gateways that count reasoning beside the completion, too.
    """
    usage = _object(usage)
    prompt = _first(usage, "prompt_tokens", "input_tokens")
    completion = _first(usage, "completion_tokens", "output_tokens")
    prompt_details = _object(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    completion_details = _object(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    within_read = _count(prompt_details.get("cached_tokens"))
    within_written = _count(prompt_details.get("cache_write_tokens"))
    beside_read = _count(usage.get("cache_read_input_tokens"))
    reasoning = _first(completion_details, "reasoning_tokens", "thinking_tokens")
    contained = 0 if reasoning_apart or completion is None or (reasoning or 0) > completion else reasoning or 0
    return Tokens(
        input_tokens=_without(prompt, within_read, within_written),
        cache_read_tokens=beside_read if within_read is None else within_read,
        cache_write_tokens=(
            _count(usage.get("cache_creation_input_tokens")) if within_written is None else within_written
        ),
        output_tokens=None if completion is None else completion - contained,
        reasoning_tokens=reasoning,
    )


def tokens_of_totals(
    *, input_total: Any, output_total: Any, cache_read: Any = None, cache_write: Any = None, reasoning: Any = None
) -> Tokens:
    """The disjoint counts where input and output are totals: cached input, cache writes and reasoning within them."""
    total_in, total_out = _count(input_total), _count(output_total)
    read, written, thought = _count(cache_read), _count(cache_write), _count(reasoning)
    return Tokens(
        input_tokens=_without(total_in, read, written),
        cache_read_tokens=read,
        cache_write_tokens=written,
        output_tokens=_without(total_out, thought),
        reasoning_tokens=thought,
    )


def _without(total: int | None, *contained: int | None) -> int | None:
    return None if total is None else max(0, total - sum(part or 0 for part in contained))


def _first(usage: dict[str, Any], *names: str) -> int | None:
    return next((count for name in names if (count := _count(usage.get(name))) is not None), None)


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= COUNT_MAX
    return value if is_count else None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
