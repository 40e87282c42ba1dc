"""The facts of one call, read from its span: the fields of a ModelCallCompleted or a ToolCallCompleted.

Content goes through `describe`, which by default gives its digest and size alone.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal

from agentledger.producers.bounds import clean_text
from agentledger.producers.json_values import (
    as_list,
    as_text,
    cost_nanousd,
    digest_and_size,
    parse_json_text,
)
from agentledger.producers.otel import names
from agentledger.producers.otel.roles import first_of, is_mcp_call
from agentledger.producers.otel.spans import ERROR, Span
from agentledger.producers.otel.usage import disjoint_usage, usage_not_read

ARGUMENTS_CHARS_MAX = 1 << 20  # of a Python literal that stands for arguments
LABEL_NOT_READ = "usage_not_read"
SPAN_ERROR = "span_error"
_MS_MAX = 2**53
Part = Literal["input", "output", "arguments", "result"]
Describe = Callable[
    [Part, Any, str], dict[str, Any]
]  # what it is, its value, the tool's name: the call's fields for it


def describe_by_digest(part: Part, value: Any, tool: str) -> dict[str, Any]:
    """Digest and size of a value, as fields of its call."""
    del tool
    digest, size = digest_and_size(value)
    return {f"{part}_digest": digest, f"{part}_bytes": size}


def model_call_fields(span: Span, describe: Describe = describe_by_digest) -> dict[str, Any]:
    """The fields of a ModelCallCompleted. Raises ImportFormatError where a cost is no amount of money."""
    attributes = span.attributes
    requested = _text(attributes, names.REQUESTED_MODEL)
    return {
        "provider": _provider(attributes) or _prefix(requested),
        "requested_model": requested,
        "answered_model": _text(attributes, names.ANSWERED_MODEL),
        "response_id": _text(attributes, names.RESPONSE_ID),
        "service_tier": _text(attributes, names.SERVICE_TIER),
        "finish_reason": _finish_reason(first_of(attributes, names.FINISH_REASON)),
        "reported_cost_nanousd": _cost(attributes),
        "time_to_first_token_ms": _time_to_first_token_ms(attributes),
        **disjoint_usage(attributes),
        **_described(describe, "input", _input(span)),
        **_described(describe, "output", _output(span)),
        **_ending(span),
    }


def tool_call_fields(span: Span, describe: Describe = describe_by_digest) -> dict[str, Any]:
    """The fields of a ToolCallCompleted."""
    attributes = span.attributes
    tool = tool_of(span)
    fields = {
        "tool": tool,
        "call_id": _text(attributes, names.TOOL_CALL_ID),
        **_described(describe, "arguments", _arguments(first_of(attributes, names.TOOL_ARGUMENTS)), tool),
        **_described(describe, "result", first_of(attributes, names.TOOL_RESULT), tool),
        **_ending(span),
    }
    if fields["status"] == "error" and "timeout" in fields["error_type"].lower():
        fields["status"] = "timeout"
    return fields


def tool_of(span: Span) -> str:
    """The tool's name; where no attribute has it, the span's own without the method's name in front."""
    name = _text(span.attributes, names.TOOL_NAME)
    if name:
        return name
    return span.name.removeprefix(names.MCP_TOOL_CALL).strip() if is_mcp_call(span) else span.name


def labels_of(span: Span) -> dict[str, str]:
    """What has no field and is worth keeping, and the names of usage attributes that nobody here understands."""
    labels: dict[str, str] = {}
    for name, label in names.LABELS.items():
        value = span.attributes.get(name)
        if label not in labels and isinstance(value, str | int | Decimal) and value != "":
            labels[label] = str(value)
    left = usage_not_read(span.attributes)
    return labels | {LABEL_NOT_READ: ", ".join(left)} if left else labels


def failed(span: Span) -> bool:
    """Whether the span says that what it is about went wrong."""
    return span.status == ERROR or bool(span.attributes.get(names.ERROR_TYPE))


def error_message(span: Span) -> str:
    """What went wrong, in the program's own words; from the status, else from the exception that was recorded."""
    return clean_text(span.status_text or _exception(span, names.EXCEPTION_MESSAGE))


def error_type(span: Span) -> str:
    """The class of what went wrong."""
    return (
        as_text(span.attributes.get(names.ERROR_TYPE)) or _exception(span, names.EXCEPTION_TYPE) or SPAN_ERROR
    )  # fmt: skip


def _ending(span: Span) -> dict[str, Any]:
    wrong = failed(span)
    return {
        "requestor": "assistant",
        "latency_ms": span.latency_ms,
        "status": "error" if wrong else "ok",
        "error_type": error_type(span) if wrong else "",
        "error_message": error_message(span) if wrong else "",
    }


def _exception(span: Span, name: str) -> str:
    return next(
        (as_text(event.attributes.get(name)) for event in span.events if event.name == names.EXCEPTION_EVENT), ""
    )


def _text(attributes: Mapping[str, Any], among: Iterable[str]) -> str:
    return next((text for name in among if (text := as_text(attributes.get(name)))), "")


def _provider(attributes: Mapping[str, Any]) -> str:
    for name in names.PROVIDER:
        provider = as_text(attributes.get(name))
        if provider and provider.lower() not in names.FRAMEWORKS:
            return names.PROVIDER_SPELLINGS.get(provider.lower(), provider)
    return ""


def _prefix(model: str) -> str:
    return model.partition("/")[0] if "/" in model else ""


def _finish_reason(value: Any) -> str:
    """The first of several answers', which come as a list or as a list written as JSON."""
    if isinstance(value, str) and value.startswith("["):
        value = parse_json_text(value)
    return as_text(next(iter(as_list(value)), "")) or as_text(value)


def _cost(attributes: Mapping[str, Any]) -> int | None:
    """Nano-dollars: the whole where it is told, else the sum of its parts, rounded once; None where none is."""
    for parts in (*((name,) for name in names.TOTAL_COST), *names.COST_PARTS):
        present = [value for name in parts if (value := _number(attributes.get(name))) is not None]
        if present:
            return cost_nanousd(sum(present, Decimal(0)))
    return None


def _time_to_first_token_ms(attributes: Mapping[str, Any]) -> float | None:
    for name, unit_ms in names.TIME_TO_FIRST_TOKEN:
        value = _number(attributes.get(name))
        if value is not None and 0 <= value * unit_ms < _MS_MAX:
            return float(value * unit_ms)
    return None


def _number(value: Any) -> int | Decimal | None:
    return value if isinstance(value, int | Decimal) and not isinstance(value, bool) else None


def _input(span: Span) -> Any:
    return _messages(span, names.MODEL_INPUT, names.MODEL_INPUT_PREFIXES, names.MODEL_INPUT_EVENTS)


def _output(span: Span) -> Any:
    return _messages(span, names.MODEL_OUTPUT, names.MODEL_OUTPUT_PREFIXES, names.MODEL_OUTPUT_EVENTS)


def _messages(span: Span, among: Iterable[str], prefixes: tuple[str, ...], events: frozenset[str]) -> Any:
    """What was asked or answered, in whichever way the span tells it; None where it doesn't."""
    value = first_of(span.attributes, among)
    if value is not None:
        return value
    parts = {name: value for name, value in span.attributes.items() if name.startswith(prefixes)}
    if parts:
        return parts
    for event in span.events:
        if event.name == names.DETAILS_EVENT and (value := first_of(event.attributes, among)) is not None:
            return value
    told = [{"event": event.name, **event.attributes} for event in span.events if event.name in events]
    return told or None


def _arguments(value: Any) -> Any:
    """The arguments; a dict that was written as Python prints it (as LangChain's tracer does) as that dict."""
    parsed = parse_json_text(value) if isinstance(value, str) else value
    if isinstance(parsed, str) and parsed.startswith("{") and len(parsed) <= ARGUMENTS_CHARS_MAX:
        return _python_literal(parsed)
    return parsed


def _python_literal(text: str) -> Any:
    try:
        value = ast.literal_eval(text)
        return value if isinstance(value, dict) else text
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _described(describe: Describe, part: Part, value: Any, tool: str = "") -> dict[str, Any]:
    """The fields for content; a string of JSON stands for what it says, unless that is nested too deeply."""
    if value is None:
        return {}
    try:
        return describe(part, parse_json_text(value) if isinstance(value, str) else value, tool)
    except RecursionError:
        return describe(part, str(value), tool)
