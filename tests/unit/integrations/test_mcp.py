"""The MCP library itself: a client and a server in one process, over its in-memory transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import mcp
import pytest
from mcp.client import Client
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

from agentledger.producers import RunBudget, RunBudgetExceededError, ToolCall
from agentledger.producers.integrations.mcp import instrument
from agentledger.schemas.events import RunFinished, ToolCallCompleted
from tests.framework_rig import SECRET, RecordingLedger

Seen = list[dict[str, Any]]


def server_of(seen: Seen) -> MCPServer:
    """A server with three tools that notes the `_meta` of each request."""
    server = MCPServer("orders")

    @server.tool()
    async def find(q: str, context: Context[Any, Any]) -> str:
        seen.append({"q": q, "meta": dict(context.request_context.meta or {})})
        return f"found {q}"

    @server.tool()
    async def broken() -> str:
        raise ValueError(SECRET)

    @server.tool()
    async def slow() -> str:
        await asyncio.sleep(30)
        return "late"

    return server


def talk(body: Callable[[Client], Awaitable[None]]) -> Seen:
    """What the server saw while `body` used a client."""
    seen: Seen = []

    async def main() -> None:
        async with Client(server_of(seen)) as client:
            await body(client)

    asyncio.run(main())
    return seen


@pytest.mark.parametrize("which", ["client", "session"])
def test_tools_are_recorded_and_the_trace_is_handed_on(ledger: RecordingLedger, which: str) -> None:
    async def body(client: Client) -> None:
        caller: Any = instrument(client if which == "client" else client.session, ledger)
        assert instrument(caller, ledger) is caller
        async with ledger.run("w"):
            result = await caller.call_tool("find", {"q": SECRET}, meta={"mine": 1})
            assert result.content[0].text == f"found {SECRET}"
            await asyncio.gather(*(caller.call_tool("find", {"q": str(place)}) for place in range(4)))
            assert (await caller.call_tool("broken")).is_error

    seen = talk(body)
    calls = ledger.every(ToolCallCompleted)
    assert [call.status for call in calls] == ["ok"] * 5 + ["error"]
    assert (calls[0].tool, calls[0].error_type, calls[-1].error_type) == ("find", "", "ToolError")
    assert calls[0].arguments_digest
    assert calls[0].result_digest
    assert seen[0]["meta"]["mine"] == 1
    assert {entry["meta"]["traceparent"] for entry in seen} == {
        f"00-{call.trace_id}-{call.span_id}-01" for call in calls[:5]
    }
    assert SECRET.encode() not in ledger.emitted


def test_errors_of_the_protocol_and_time_outs(ledger: RecordingLedger) -> None:
    async def body(client: Client) -> None:
        instrument(client, ledger)
        with pytest.raises(mcp.MCPError):
            await client.call_tool("slow", read_timeout_seconds=0.05)

    talk(body)
    call = ledger.only(ToolCallCompleted)
    assert (call.tool, call.status, call.error_type) == ("slow", "timeout", "MCPError")
    assert ledger.names() == ["RunStarted", "ToolCallCompleted", "RunFinished"]


def test_a_budget_stops_the_call(ledger: RecordingLedger) -> None:
    async def body(client: Client) -> None:
        instrument(client, ledger)
        async with ledger.run("w", budget=RunBudget(tool_calls=1)):
            await client.call_tool("find", {"q": "a"})
            with pytest.raises(RunBudgetExceededError):
                await client.call_tool("find", {"q": "b"})

    assert [entry["q"] for entry in talk(body)] == ["a"]
    assert len(ledger.every(ToolCallCompleted)) == 1


def test_an_interceptor_changes_and_refuses(ledger: RecordingLedger) -> None:
    async def intercept(call: ToolCall, arguments: dict[str, Any] | None) -> dict[str, Any] | None:
        call.effect = "read"
        if arguments == {"q": "forbidden"}:
            raise PermissionError(SECRET)
        return {"q": "changed"}

    async def body(client: Client) -> None:
        instrument(client, ledger, intercept=intercept)
        await client.call_tool("find", {"q": "a"})
        with pytest.raises(PermissionError, match=SECRET):
            await client.call_tool("find", {"q": "forbidden"})

    assert [entry["q"] for entry in talk(body)] == ["changed"]
    changed, refused = ledger.every(ToolCallCompleted)
    assert (changed.status, changed.effect) == ("ok", "read")
    assert (refused.status, refused.error_type) == ("denied", "PermissionError")
    assert SECRET.encode() not in ledger.emitted


def test_a_call_that_another_integration_tells_of_counts_once(ledger: RecordingLedger) -> None:
    async def body(client: Client) -> None:
        instrument(client, ledger)
        async with ledger.run("w") as run, run.tool_call("find"):
            await client.call_tool("find", {"q": "a"})

    talk(body)
    assert ledger.only(RunFinished).status == "succeeded"
    assert len(ledger.every(ToolCallCompleted)) == 1


def test_a_ledger_that_fails_breaks_nothing(ledger: RecordingLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: object, **kwargs: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(ledger, "run", failing)

    async def body(client: Client) -> None:
        assert not (await instrument(client, ledger).call_tool("find", {"q": "a"})).is_error

    assert len(talk(body)) == 1
    assert SECRET.encode() not in ledger.emitted
    assert [ledger.problems.pop().reason] == ["integration"]
