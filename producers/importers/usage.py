"""Token counts as providers report them, made disjoint: what is contained in something else is taken out of it."""

from __future__ import annotations

from typing import Any, TypedDict

from agentledger.producers.importers.records import as_count, as_dict


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
    usage = as_dict(usage)
    prompt = _first(usage, "prompt_tokens", "input_tokens")
    completion = _first(usage, "completion_tokens", "output_tokens")
    prompt_details = as_dict(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    completion_details = as_dict(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    within_read = as_count(prompt_details.get("cached_tokens"))
    beside_read = as_count(usage.get("cache_read_input_tokens"))
    reasoning = as_count(completion_details.get("reasoning_tokens"))
    contained = 0 if reasoning_apart or completion is None or (reasoning or 0) > completion else reasoning or 0
    return Tokens(
        input_tokens=None if prompt is None else prompt - min(within_read or 0, prompt),
        cache_read_tokens=beside_read if within_read is None else within_read,
        cache_write_tokens=as_count(usage.get("cache_creation_input_tokens")),
        output_tokens=None if completion is None else completion - contained,
        reasoning_tokens=reasoning,
    )


def _first(usage: dict[str, Any], *names: str) -> int | None:
    return next((count for name in names if (count := as_count(usage.get(name))) is not None), None)
