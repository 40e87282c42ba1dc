"""OpenAI Agents SDK: `hooks = install(ledger)` records what agents do; `Runner.run(…, hooks=hooks)` lets budgets, holds
and halts stop them, too.

A trace is a run, or part of the run that is open. An agent that another one uses as a tool is a sub-run. Guardrails are
PolicyDecided; a tool that waits for approval ends the run as escalated, and `hooks.record_interruptions(result)` says
what is asked. The SDK lets a tracing processor stop nothing: without the hooks calls are only counted.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from agentledger.producers.calls import Call, ModelCall, ToolCall
from agentledger.producers.integrations.approvals import Approvals
from agentledger.producers.integrations.recording import OPEN_MAX, is_inside, unbroken
from agentledger.producers.runs import Run, current_run
from agentledger.producers.usage import disjoint_tokens
from agentledger.schemas.errors import MissingLibraryError

if TYPE_CHECKING:
    from agentledger.producers.recorder import Ledger

try:
    from agents import RunHooks, add_trace_processor
    from agents.models import get_default_model
    from agents.tracing import (
        AgentSpanData,
        FunctionSpanData,
        GenerationSpanData,
        GuardrailSpanData,
        ResponseSpanData,
        TracingProcessor,
        get_current_span,
        get_current_trace,
    )
except ImportError as error:
    raise MissingLibraryError("openai-agents", "openai-agents") from error

ENGINE = "openai-agents"
_WAITS = "waits for an answer"


def install(ledger: Ledger, *, workflow: str = "", provider: str = "openai") -> LedgerHooks:
    """Record all agents of this process from now on; the hooks let what is recorded stop them.

    `workflow` is that of the runs, by default the name of the trace; `provider` is who bills for the models.
    """
    processor = LedgerTracingProcessor(ledger, workflow=workflow, provider=provider)
    add_trace_processor(processor)
    return LedgerHooks(processor)


class _Open:
    """A trace or a span that is under way: the run that it is part of, and what happens inside of it follows from."""

    def __init__(self, run: Run, follows: str | None) -> None:
        self.run = run
        self.follows = follows
        self.own_run: Run | None = None  # begun here, and ended with it
        self.call: Call | None = None
        self.was_started = False  # a tool: whether it came to its call
        self.has_hooks = False  # of a run: whether the hooks hear of its calls
        self.was_stopped = False  # of a run: by a guardrail
        self.admitted: list[ModelCall] = []  # of a run: model calls that may be made and haven't begun


class LedgerTracingProcessor(TracingProcessor):
    """Turns traces into runs and spans into events. Safe for threads."""

    def __init__(self, ledger: Ledger, *, workflow: str = "", provider: str = "openai") -> None:
        self.ledger = ledger
        self.provider = provider
        self.approvals = Approvals()
        self._workflow = workflow
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._lock = threading.Lock()
        self._paused: deque[tuple[str, Run]] = deque(maxlen=OPEN_MAX)  # tools that wait for approval, and their runs

    def on_trace_start(self, trace: Any) -> None:
        """A trace begins a run where none is open."""
        with unbroken(self.ledger, "a trace"):
            self._put(trace.trace_id, self._outermost(trace.name))

    def on_trace_end(self, trace: Any) -> None:
        """The trace's run is over."""
        with unbroken(self.ledger, "the end of a trace"):
            opened = self._take(trace.trace_id)
            if opened is not None:
                self._end_run(opened)

    def on_span_start(self, span: Any) -> None:
        """A span begins a call, or the run of a sub-agent, or only says what is inside of what."""
        with unbroken(self.ledger, "a span"):
            above = self.of(span.parent_id) or self.of(span.trace_id)
            if above is None:
                trace = get_current_trace()
                self._put(span.span_id, self._outermost(trace.name if trace else ""))
                return
            opened, content = _Open(above.run, above.follows), span.span_data
            if isinstance(content, AgentSpanData) and isinstance(above.call, ToolCall):
                sub = self.ledger.run(workflow=content.name, parent=above.run).begin(cause=above.follows)
                opened = _Open(sub, sub.event_id)
                opened.own_run = sub
            elif isinstance(content, FunctionSpanData):
                self._begin(opened, above.run.tool_call(content.name), above)
            elif isinstance(content, GenerationSpanData | ResponseSpanData):
                self._begin(opened, self._admitted(above), above)
            elif not isinstance(content, AgentSpanData):
                opened.call = above.call  # a turn, a task: what is inside of it is inside of what it is in
            self._put(span.span_id, opened)

    def on_span_end(self, span: Any) -> None:
        """A span's call is over."""
        with unbroken(self.ledger, "the end of a span"):
            opened, content = self._take(span.span_id), span.span_data
            if opened is None:
                return
            if isinstance(content, GuardrailSpanData):
                self._guardrail(opened, content)
            elif isinstance(content, FunctionSpanData) and isinstance(opened.call, ToolCall):
                self._end_tool(opened, opened.call, span)
            elif isinstance(content, GenerationSpanData | ResponseSpanData) and isinstance(opened.call, ModelCall):
                with unbroken(self.ledger, "an answer"):
                    _take_answer(opened.call, content)
                _end_call(opened.call, span.error, "ModelError")
            elif isinstance(content, AgentSpanData) and span.error is not None:
                self._failed(opened)
            self._end_run(opened)

    def _outermost(self, name: str) -> _Open:
        """The run that is open here, or one of its own: of a trace, or of a trace that goes on after a pause."""
        run = current_run()
        if run is not None and not is_inside(ToolCall):
            return _Open(run, run.enclosing_event_id())
        own = self.ledger.run(workflow=self._workflow or name).begin()
        opened = _Open(own, own.event_id)
        opened.own_run = own
        return opened

    def shutdown(self) -> None:
        """Deliver what waits, within the ledger's bound."""
        self.ledger.flush()

    def force_flush(self) -> None:
        """Deliver what waits, within the ledger's bound."""
        self.ledger.flush()

    def of(self, place: str | None) -> _Open | None:
        """The trace or span of this id, while it is under way."""
        return None if place is None else self._open.get(place)

    def paused_run(self, tool: str) -> Run | None:
        """The run in which this tool waits, once; None where none does."""
        found = next(((name, run) for name, run in self._paused if name == tool), None)
        if found is None:
            return None
        self._paused.remove(found)
        return found[1]

    def here(self) -> _Open | None:
        """The span, or else the trace, that is under way here."""
        span, trace = get_current_span(), get_current_trace()
        return self.of(span.span_id if span else None) or self.of(trace.trace_id if trace else None)

    def holder(self, opened: _Open) -> _Open:
        """The outermost of what is under way in the same run: the trace, or the sub-agent."""
        return next((outer for outer in list(self._open.values()) if outer.run is opened.run), opened)

    def _admitted(self, above: _Open) -> ModelCall:
        """The call that the hooks have asked for; without them one that nobody was asked about."""
        admitted = self.holder(above).admitted
        return admitted.pop(0) if admitted else above.run.model_call(model="", provider=self.provider)

    def _begin(self, opened: _Open, call: Call, above: _Open) -> None:
        call.parent_event_id = above.follows
        if call.is_admitted:
            call.begin()
        else:
            call.begin_unasked()
        opened.call, opened.follows = call, call.event_id

    def _end_tool(self, opened: _Open, call: ToolCall, span: Any) -> None:
        content = span.span_data
        if content.input is not None:
            call.arguments(content.input)
        if content.output is not None:
            call.result(content.output)
        elif span.error is None and not opened.was_started and self.holder(opened).has_hooks:
            call.deny(reason=_WAITS)
            opened.run.escalate(_WAITS)
            self._paused.append((content.name, opened.run))
        _end_call(call, span.error, "ToolError")

    def _guardrail(self, opened: _Open, content: Any) -> None:
        verdict, enforced = ("deny", "blocked") if content.triggered else ("allow", "allowed")
        opened.run.policy_decision(engine=ENGINE, policy=content.name, verdict=verdict, enforced=enforced)
        if content.triggered:
            self.holder(opened).was_stopped = True
            opened.run.halt(f"guardrail {content.name}")

    def _failed(self, opened: _Open) -> None:
        """An agent has failed, and not because somebody stopped it: that says how the run ends already."""
        was_refused = opened.run.refused_by or opened.run.meter.last_refusal
        if not was_refused and not self.holder(opened).was_stopped:
            opened.run.fail()

    def _end_run(self, opened: _Open) -> None:
        if opened.own_run is not None:
            refusal = opened.run.refused_by or opened.run.meter.last_refusal
            opened.own_run.end(refusal)

    def _put(self, place: str, opened: _Open) -> None:
        with self._lock:
            self._open[place] = opened
            if len(self._open) > OPEN_MAX:
                self._open.popitem(last=False)

    def _take(self, place: str) -> _Open | None:
        with self._lock:
            return self._open.pop(place, None)


class LedgerHooks(RunHooks[Any]):
    """Asks for leave before each call: what it raises reaches the caller of `Runner.run`."""

    def __init__(self, processor: LedgerTracingProcessor) -> None:
        self._processor = processor

    async def on_llm_start(self, context: Any, agent: Any, system_prompt: Any, input_items: Any) -> None:
        """A model is about to be asked. Raises a refusal."""
        processor = self._processor
        with unbroken(processor.ledger, "leave for a model call"):
            here = processor.here()
            if here is None:
                return
            self._note_rejected(here.run, input_items)
            model = agent.model if isinstance(agent.model, str) else getattr(agent.model, "model", None)
            limit = getattr(agent.model_settings, "max_tokens", None)
            call = here.run.model_call(
                model=str(model or get_default_model()), provider=processor.provider, max_tokens=limit,
                input=[system_prompt, input_items],
            )  # fmt: skip
            holder = processor.holder(here)
            holder.has_hooks = True
            await call.admit_async()
            holder.admitted.append(call)

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        """A tool is about to be called. Raises a refusal."""
        with unbroken(self._processor.ledger, "leave for a tool call"):
            here = self._processor.here()
            if here is None or not isinstance(here.call, ToolCall):
                return
            here.was_started = True
            here.call.call_id = str(getattr(context, "tool_call_id", ""))
            if here.call.call_id in self._processor.approvals.waiting(""):
                self._processor.approvals.decide(here.run, here.call.call_id, "approved")
            try:
                await here.call.ask_after_all()
            except BaseException:
                here.call.deny(reason="refused before it was made")
                raise

    def _note_rejected(self, run: Run, input_items: Any) -> None:
        """What a person rejected isn't called: all that is seen of it is that the model is told."""
        waiting = self._processor.approvals.waiting("")
        for item in input_items if waiting and isinstance(input_items, list) else ():
            if item.get("type") == "function_call_output" and item.get("call_id") in waiting:
                self._processor.approvals.decide(run, item["call_id"], "rejected")

    def record_interruptions(self, result: Any) -> None:
        """Record what a run that has paused asks for: each tool that waits for approval."""
        with unbroken(self._processor.ledger, "what a run waits for"):
            for item in result.interruptions:
                name, run = str(item.name or ""), self._processor.paused_run(str(item.name or ""))
                if run is not None:
                    call_id, arguments = (getattr(item.raw_item, field, None) for field in ("call_id", "arguments"))
                    self._processor.approvals.ask(run, str(call_id or ""), arguments, action=name)


def _end_call(call: Call, failure: Any, kind: str) -> None:
    """End a call; a failure's words may quote what was asked, so they are kept as their size and digest."""
    if failure is not None and not call.status:
        call.status, call.error_type = "error", kind
        words = (failure.get("data") or {}).get("error") or failure.get("message")
        call.error_message = call.run.ledger.content.words(str(words or ""))
    call.end()


def _take_answer(call: ModelCall, content: Any) -> None:
    """What a span says of an answer: a response as the Responses API gives it, or the parts of a chat completion."""
    response = getattr(content, "response", None)
    usage = content.usage
    if response is not None:
        call.answered_model, call.response_id = response.model or "", response.id or ""
        call.finish_reason = response.status or ""
        call.output([item.model_dump(mode="json") for item in response.output])
        usage = response.usage.model_dump() if response.usage is not None else usage
    elif getattr(content, "output", None) is not None:
        call.output(content.output)
    model = getattr(content, "model", None) or call.answered_model
    call.requested_model = call.requested_model or str(model or "")
    if content.input is not None:
        call.input(content.input)
    if usage:
        call.usage(**disjoint_tokens(usage))
