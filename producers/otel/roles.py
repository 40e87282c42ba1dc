"""What a span stands for: a call of a model, a call of a tool, an agent, a step of one, or nothing that we know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from agentledger.producers.json_values import as_text
from agentledger.producers.otel.names import (
    CONVENTIONS,
    GEN_AI,
    INPUT_TOKENS,
    MCP_METHOD,
    MCP_TOOL_CALL,
    MODEL,
    OUTPUT_TOKENS,
    REQUESTED_MODEL,
    ROLES,
    ROLES_BY_PRESENCE,
    TOOL,
)
from agentledger.producers.otel.spans import SERVER, Span


def first_of(attributes: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The value under the first of these names that has one; None where none has."""
    return next((value for name in names if (value := attributes.get(name)) is not None), None)


def role_of(span: Span) -> str:
    """model, tool, agent or step; empty for any other span.

    Spans of an MCP server are other spans: the call is that of the client, who asked for it.
    """
    attributes = span.attributes
    if MCP_METHOD in attributes and span.kind == SERVER:
        return ""
    for name, roles in ROLES:
        role = roles.get(as_text(attributes.get(name)))
        if role is not None:
            return role
        if name in attributes and name in _SAYS_ALL:
            return ""
    for name, role in ROLES_BY_PRESENCE:
        if name in attributes:
            return role
    has_usage = first_of(attributes, (*INPUT_TOKENS, *OUTPUT_TOKENS)) is not None
    return MODEL if has_usage and first_of(attributes, REQUESTED_MODEL) is not None else ""


def without_copies(spans: Iterable[Span]) -> list[Span]:
    """Spans that came together, each once; but each copy of a tool's, numbered.

    There are recorders that give two calls of a tool one span id; a model's, which costs money, is never counted twice.
    """
    copies: dict[str, list[Span]] = {}
    for span in spans:
        known = copies.setdefault(span.span_id, [])
        if not known:
            known.append(span)
        elif role_of(span) == TOOL:
            known.append(replace(span, copy=len(known)))
    return [span for group in copies.values() for span in group]


def is_mcp_call(span: Span) -> bool:
    """Whether the span is a tool call by the Model Context Protocol, told by its client."""
    return span.attributes.get(MCP_METHOD) == MCP_TOOL_CALL and span.kind != SERVER


def convention_of(span: Span) -> str:
    """Which convention the span's attributes follow."""
    return next((convention for name, convention in CONVENTIONS if name in span.attributes), GEN_AI)


# Where one of these has a value that is unknown here, the span is a kind that is unknown here.
_SAYS_ALL = frozenset({"openinference.span.kind", "gen_ai.operation.name", "ai.operationId"})
