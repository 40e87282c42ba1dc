"""What message lists have in common: which result answers which call, and the digest of a turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentledger.producers.json_values import as_dict, as_list, as_text, digest_and_size, parse_json_text

ERROR_PREFIX = "Error:"


@dataclass(frozen=True)
class Call:
    """One tool call as a message holds it; `message` is that message's place in the list."""

    message: int
    call_id: str
    name: str
    arguments: Any
    requestor: str


def calls_of(messages: Sequence[Any]) -> list[Call]:
    """All tool calls of a message list in order; both `{name, arguments}` and OpenAI's `{function: {…}}`."""
    calls = []
    for place, raw_message in enumerate(messages):
        message = as_dict(raw_message)
        asked = as_list(message.get("tool_calls"))
        if not asked and isinstance(message.get("function_call"), dict):
            asked = [{"function": message["function_call"]}]
        for raw in asked:
            call = as_dict(raw)
            function = as_dict(call.get("function")) or call
            arguments = function.get("arguments")
            calls.append(
                Call(
                    message=place,
                    call_id=as_text(call.get("id")),
                    name=as_text(function.get("name")),
                    arguments=parse_json_text(arguments) if isinstance(arguments, str) else arguments,
                    requestor=as_text(call.get("requestor")) or as_text(message.get("role")),
                )
            )
    return calls


def pair_results(messages: Sequence[Any], calls: Sequence[Call]) -> tuple[dict[int, int], list[int]]:
    """Which message answers which call (by their places), and the tool messages that answer none.

    A result goes to the first open call with its id; where ids are empty, to the first open call without one.
    """
    answers: dict[int, int] = {}
    strays: list[int] = []
    waiting: list[int] = []
    upcoming = 0
    for place, raw_message in enumerate(messages):
        while upcoming < len(calls) and calls[upcoming].message <= place:
            waiting.append(upcoming)
            upcoming += 1
        message = as_dict(raw_message)
        if as_text(message.get("role")) not in {"tool", "function"}:
            continue
        wanted = as_text(message.get("tool_call_id")) or as_text(message.get("id"))
        name = as_text(message.get("name"))
        match = next(
            (at for at in waiting if calls[at].call_id == wanted and (wanted or name in {"", calls[at].name})), None
        )
        if match is None:
            strays.append(place)
        else:
            waiting.remove(match)
            answers[match] = place
    return answers, strays


def turn_digest(message: dict[str, Any]) -> tuple[str, int]:
    """Digest and size of what a model answered: the text and the calls."""
    return digest_and_size({"content": message.get("content"), "tool_calls": message.get("tool_calls")})


def result_failed(message: dict[str, Any]) -> bool:
    """Whether a tool's result says that the call failed: by its flag, or, where it has none, by `Error:` text."""
    flag = message.get("error", message.get("is_error"))
    if isinstance(flag, bool):
        return flag
    return as_text(message.get("content")).startswith(ERROR_PREFIX)


def tool_call_fields(call: Call, result: dict[str, Any] | None) -> dict[str, Any]:
    """The fields of a ToolCallCompleted. A call without a result has status error, type `no_result`."""
    arguments_digest, arguments_bytes = ("", None) if call.arguments is None else digest_and_size(call.arguments)
    fields: dict[str, Any] = {
        "tool": call.name,
        "call_id": call.call_id,
        "requestor": call.requestor,
        "arguments_digest": arguments_digest,
        "arguments_bytes": arguments_bytes,
    }
    if result is None:
        return fields | {"status": "error", "error_type": "no_result", "error_message": "the recording has no result"}
    fields["result_digest"], fields["result_bytes"] = digest_and_size(result.get("content"))
    if not result_failed(result):
        return fields | {"status": "ok"}
    return fields | {"status": "error", "error_type": "tool_error"}
