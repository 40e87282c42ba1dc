"""Pydantic AI: `Agent(…, capabilities=[LedgerCapability(ledger)])` records the agent's runs, model requests and tools.

A run of the agent is a run; in a run that is open already it is part of that; inside of a tool call, as a sub-agent, it
is a sub-run. A refused call raises before it is made. Tools that wait for approval end the run as escalated; the
run that goes on with the results records what was decided.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

from agentledger.producers.calls import ModelCall, ToolCall
from agentledger.producers.integrations.approvals import Approvals
from agentledger.producers.integrations.recording import Recorded, is_inside, run_here, unbroken
from agentledger.producers.runs import Run, current_run
from agentledger.producers.usage import tokens_of_totals
from agentledger.schemas.errors import MissingLibraryError

if TYPE_CHECKING:
    from agentledger.producers.recorder import Ledger

try:
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.exceptions import ApprovalRequired, CallDeferred
    from pydantic_ai.models.wrapper import WrapperModel
    from pydantic_ai.tools import DeferredToolRequests
except ImportError as error:
    raise MissingLibraryError("pydantic-ai", "pydantic-ai") from error

_WORKFLOW = "pydantic-ai"


@dataclass
class LedgerCapability(AbstractCapability[Any]):
    """Records what an agent does. `workflow` is that of its runs; by default the agent's name."""

    ledger: Ledger
    workflow: str = ""
    _: KW_ONLY
    approvals: Approvals = field(default_factory=Approvals, repr=False, compare=False)

    async def wrap_run(self, ctx: Any, *, handler: Callable[[], Awaitable[Any]]) -> Any:
        """A run of the agent. Each of its calls may raise a refusal, which ends it."""
        run = None
        with unbroken(self.ledger, "an agent's run"):
            run = self._new_run(ctx)
        if run is None:
            return await self._settled(await handler())
        async with run:
            return await self._settled(await handler())

    def get_wrapper_model(self, model: Any) -> Any:
        """The model, with its requests recorded."""
        return RecordedModel(model, self.ledger, self.workflow or _WORKFLOW, self.approvals)

    async def wrap_tool_execute(
        self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Callable[[Any], Awaitable[Any]]
    ) -> Any:
        """A tool is called. Raises a refusal."""
        recorded: Recorded[ToolCall] | None = None
        with unbroken(self.ledger, "a tool call"):
            run, own = run_here(self.ledger, self.workflow or _WORKFLOW)
            if ctx.tool_call_approved:
                self.approvals.decide(run, call.tool_call_id, "approved")
            tool = run.tool_call(
                call.tool_name, arguments=args, call_id=call.tool_call_id, attempt=getattr(ctx, "retry", 0) + 1
            )
            recorded = Recorded(tool, own)
            await recorded.begin_async()
        if recorded is None or not recorded.call.event_id:
            return await handler(args)
        with recorded.enclosing():
            try:
                result = await handler(args)
            except (ApprovalRequired, CallDeferred):
                recorded.call.deny(reason="waits for an answer")
                recorded.end()
                raise
            except BaseException as error:
                recorded.end(error)
                raise
        with unbroken(self.ledger, "the result of a tool"):
            recorded.call.result(result)
        recorded.end()
        return result

    def _new_run(self, ctx: Any) -> Run | None:
        """The agent's own run; None where it is part of one that is open, and not inside of a tool of that."""
        if current_run() is not None and not is_inside(ToolCall):
            return None
        return self.ledger.run(workflow=self.workflow or getattr(ctx.agent, "name", None) or _WORKFLOW)

    async def _settled(self, result: Any) -> Any:
        """Record what the run waits for."""
        with unbroken(self.ledger, "what a run waits for"):
            run, asked = current_run(), result.output
            if run is not None and isinstance(asked, DeferredToolRequests):
                for call in asked.approvals:
                    self.approvals.ask(run, call.tool_call_id, call.args, action=call.tool_name)
        return result


class RecordedModel(WrapperModel):
    """A model whose requests, whole and streamed, are recorded."""

    def __init__(self, wrapped: Any, ledger: Ledger, workflow: str, approvals: Approvals) -> None:
        super().__init__(wrapped)
        self._ledger = ledger
        self._workflow = workflow
        self._approvals = approvals

    async def request(self, messages: list[Any], model_settings: Any, model_request_parameters: Any) -> Any:
        """One request. Raises a refusal."""
        recorded = await self._begin(messages, model_settings)
        if recorded is None:
            return await super().request(messages, model_settings, model_request_parameters)
        with recorded.enclosing():
            try:
                response = await super().request(messages, model_settings, model_request_parameters)
            except BaseException as error:
                recorded.end(error)
                raise
        with unbroken(self._ledger, "an answer"):
            _take_answer(recorded.call, response)
        recorded.end()
        return response

    @asynccontextmanager
    async def request_stream(
        self, messages: list[Any], model_settings: Any, model_request_parameters: Any, run_context: Any = None
    ) -> AsyncIterator[Any]:
        """One streamed request. Raises a refusal."""
        recorded = await self._begin(messages, model_settings)
        began_s = time.perf_counter()
        streaming = super().request_stream(messages, model_settings, model_request_parameters, run_context)
        if recorded is None:
            async with streaming as stream:
                yield stream
            return
        try:
            async with streaming as stream:
                try:
                    yield stream
                finally:
                    with unbroken(self._ledger, "a streamed answer"):
                        _take_stream(recorded.call, stream, began_s)
        except BaseException as error:
            recorded.end(error)
            raise
        recorded.end()

    async def _begin(self, messages: list[Any], settings: Any) -> Recorded[ModelCall] | None:
        recorded: Recorded[ModelCall] | None = None
        with unbroken(self._ledger, "a model request"):
            run, own = run_here(self._ledger, self._workflow)
            self._note_denied(run, messages)
            call = run.model_call(
                model=self.wrapped.model_name, provider=self.wrapped.system, input=messages,
                max_tokens=(settings or {}).get("max_tokens"),
            )  # fmt: skip
            recorded = Recorded(call, own)
            await recorded.begin_async()
        return recorded if recorded is not None and recorded.call.event_id else None

    def _note_denied(self, run: Run, messages: list[Any]) -> None:
        """What people refused stands only in the messages: the tool isn't called."""
        for part in messages[-1].parts if messages else ():
            if getattr(part, "outcome", None) == "denied":
                self._approvals.decide(run, part.tool_call_id, "rejected")


def _take_stream(call: ModelCall, stream: Any, began_s: float) -> None:
    answer = stream.get()
    is_whole = answer.state == "complete" and not stream.cancelled
    _take_answer(call, answer, has_usage=is_whole)
    first_s = stream.time_to_first_chunk(began_s)
    call.time_to_first_token_ms = None if first_s is None else first_s * 1000
    if not is_whole:
        call.status = "cancelled"


def _take_answer(call: ModelCall, answer: Any, *, has_usage: bool = True) -> None:
    """What a response says. One without any count had no usage, which is not zero."""
    call.answered_model = answer.model_name or ""
    call.provider = answer.provider_name or call.provider
    call.finish_reason = answer.finish_reason or ""
    call.response_id = answer.provider_response_id or ""
    call.output(answer.parts)
    usage = answer.usage
    if has_usage and usage.has_values():
        tokens = tokens_of_totals(
            input_total=usage.input_tokens, output_total=usage.output_tokens, cache_read=usage.cache_read_tokens,
            cache_write=usage.cache_write_tokens, reasoning=usage.output_reasoning_tokens,
        )  # fmt: skip
        call.usage(**tokens)
