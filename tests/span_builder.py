"""Spans for tests, with few words: a trace with ids of its own, times that count on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentledger.producers.otel import Memory, Span, SpanEvents, SpanReader

TRACE_ID = "5b8efff798038103d269b633813fc60c"
START_US = 1_790_000_000_000_000


def span(number: int, parent: int | None = None, attributes: dict[str, Any] | None = None, **facts: Any) -> Span:
    """The span with this number as its id, under that of `parent`; higher numbers begin later and end earlier."""
    return Span(
        **{
            "name": f"span {number}",
            "trace_id": TRACE_ID,
            "span_id": f"{number:016x}",
            "parent_id": "" if parent is None else f"{parent:016x}",
            "started_us": START_US + number * 1000,
            "ended_us": START_US + 1_000_000 - number * 1000,
            "status": "unset",
            "status_text": "",
            "attributes": attributes or {},
            "resource": {"service.name": "shop"},
            **facts,
        }
    )


def chat(**usage: int) -> dict[str, Any]:
    """GenAI's attributes of a call of gpt-4o."""
    named = {f"gen_ai.usage.{name}": count for name, count in usage.items()}
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        **named,
    }


def execute_tool(tool: str, **more: str) -> dict[str, Any]:
    """GenAI's attributes of a tool's call."""
    return {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool, **more}


def invoke_agent(agent: str = "") -> dict[str, Any]:
    """GenAI's attributes of an agent's span."""
    named = {"gen_ai.agent.name": agent} if agent else {}
    return {"gen_ai.operation.name": "invoke_agent", **named}


def read(*batches: Sequence[Span], tenant_id: str = "acme") -> SpanEvents:
    """What a reader makes of these batches, one after the other."""
    reader = SpanReader(Memory())
    found = SpanEvents()
    for batch in batches:
        given = reader.read(tenant_id, batch)
        found.events += given.events
        found.bad += given.bad
    return found
