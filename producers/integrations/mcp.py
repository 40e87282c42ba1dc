"""MCP: `instrument(session, ledger)` records the tools that an MCP client calls, and hands each call's trace on.

Takes the client of the newer library (`mcp.client.Client`) and its sessions (`mcp.ClientSession`). The W3C
`traceparent` travels in the request's `_meta`, as the MCP specification says of trace context. A refused call raises
before it is sent. `intercept` sees each call first and may change its arguments, or refuse it by raising.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from agentledger.producers.calls import ToolCall, enclosing
from agentledger.producers.integrations.recording import Recorded, run_here, unbroken
from agentledger.schemas.errors import MissingLibraryError

if TYPE_CHECKING:
    from agentledger.producers.recorder import Ledger

try:
    import mcp  # noqa: F401 - only to say it in time where it is missing
except ImportError as error:
    raise MissingLibraryError("mcp", "mcp") from error

_T = TypeVar("_T")
_TIMED_OUT = {-32001, 408}  # the library's codes for a request without an answer in time, the newer one first
_MARK = "_agentledger_instrumented"
Intercept = Callable[[ToolCall, dict[str, Any] | None], Awaitable[dict[str, Any] | None]]


def instrument(client: _T, ledger: Ledger, *, workflow: str = "mcp", intercept: Intercept | None = None) -> _T:
    """Record the tools that this client or session calls; the same object. A call outside of any run is one of its own,
    of this `workflow`.

    `intercept` is given the call, before it is sent, and its arguments, and gives those that are sent. It may set what
    it knows of the call (`effect`, `target`, `policy_decision_id`), and what it raises goes to the caller: the tool
    isn't called then, and the call is recorded as denied.
    """
    target: Any = client
    if getattr(target, _MARK, False):
        return client
    call_tool = target.call_tool

    async def recorded_call_tool(name: str, arguments: dict[str, Any] | None = None, *args: Any, **rest: Any) -> Any:
        recorded: Recorded[ToolCall] | None = None
        with unbroken(ledger, "a tool call"):
            recorded = _recorded(ledger, workflow, name, arguments)
            if recorded is not None:
                await recorded.begin_async()
        if recorded is None or not recorded.call.event_id:
            return await call_tool(name, arguments, *args, **rest)
        arguments = await _intercepted(recorded, arguments, intercept)
        rest["meta"] = {**(rest.get("meta") or {}), "traceparent": recorded.call.traceparent}
        with recorded.enclosing():
            try:
                result = await call_tool(name, arguments, *args, **rest)
            except BaseException as error:
                if getattr(error, "code", None) in _TIMED_OUT:
                    recorded.call.status = "timeout"
                recorded.end(error)
                raise
        with unbroken(ledger, "the result of a tool"):
            _take_result(recorded.call, result)
        recorded.end()
        return result

    target.call_tool = recorded_call_tool
    setattr(target, _MARK, True)
    return client


def _recorded(ledger: Ledger, workflow: str, name: str, arguments: dict[str, Any] | None) -> Recorded[ToolCall] | None:
    """The call to record; None where it is the one that is open already, told by another integration."""
    innermost = enclosing.get()
    if isinstance(innermost, ToolCall) and innermost.tool == name:
        return None
    run, own = run_here(ledger, workflow)
    return Recorded(run.tool_call(name, arguments=arguments or {}), own)


async def _intercepted(
    recorded: Recorded[ToolCall], arguments: dict[str, Any] | None, intercept: Intercept | None
) -> dict[str, Any] | None:
    if intercept is None:
        return arguments
    try:
        changed = await intercept(recorded.call, arguments)
    except BaseException as refusal:
        recorded.call.deny(reason="refused by the interceptor")
        recorded.end(refusal)
        raise
    if changed is not arguments:
        recorded.call.arguments(changed or {})
    return changed


def _take_result(call: ToolCall, result: Any) -> None:
    """A result may say that the tool failed, which is no error of the protocol."""
    content = getattr(result, "structured_content", None) or getattr(result, "structuredContent", None)
    call.result(getattr(result, "content", result) if content is None else content)
    if getattr(result, "is_error", False) or getattr(result, "isError", False):
        call.status, call.error_type = "error", "ToolError"
