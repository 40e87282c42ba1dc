"""LangChain and LangGraph: a callback handler, for one call (`config={"callbacks": [LedgerHandler(ledger)]}`) or, with
`install(ledger)`, for everything in the process.

The outermost chain, agent or graph is the run, unless one is open already. Model calls, tool calls and retrievals
inside of it are its events; what happens inside of a tool, such as a sub-agent, follows from that tool's call. A
refused call raises before it is made. An interrupt of a graph is an ApprovalRequested, and the run ends as escalated;
`Command(resume=…)` of the same thread is the ApprovalDecided.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentledger.producers.calls import Call, ModelCall
from agentledger.producers.integrations.approvals import Approvals, verdict_of
from agentledger.producers.integrations.recording import OPEN_MAX, REFUSALS, Recorded, unbroken
from agentledger.producers.runs import Run, current_run
from agentledger.producers.usage import disjoint_tokens, tokens_of_totals
from agentledger.schemas.errors import MissingLibraryError

if TYPE_CHECKING:
    from agentledger.producers.recorder import Ledger

try:
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.tracers.context import register_configure_hook
except ImportError as error:
    raise MissingLibraryError("langchain-core", "langchain") from error

_INTERRUPT = "GraphInterrupt"  # LangGraph's, known by its name: LangChain alone doesn't bring it
_ATTEMPT = "retry:attempt:"  # the tag that LangChain gives to what it tries again


def install(ledger: Ledger, *, workflow: str = "") -> LedgerHandler:
    """Record all that LangChain and LangGraph do in this process from now on, until `stop` of the handler."""
    handler = LedgerHandler(ledger, workflow=workflow)
    register_configure_hook(ContextVar("agentledger_langchain", default=handler), inheritable=True)
    return handler


@dataclass(slots=True)
class _Step:
    """One step of LangChain that is under way."""

    run: Run
    own_run: Run | None = None  # begun by this step, and ended with it
    recorded: Recorded[Any] | None = None  # the call that it is
    parent_event_id: str | None = None  # what the events inside of it follow from
    thread_id: str = ""
    retrieval: tuple[str, str] | None = None  # source and query
    answered: list[str] = field(default_factory=list)


class LedgerHandler(BaseCallbackHandler):
    """Turns LangChain's callbacks into events. Safe for threads; sync and async."""

    raise_error = True  # so that a refusal reaches the agent; nothing else is let out

    def __init__(self, ledger: Ledger, *, workflow: str = "") -> None:
        """`workflow` is that of the runs begun here; by default the name of the outermost chain or graph."""
        self._ledger = ledger
        self._workflow = workflow
        self._steps: OrderedDict[UUID, _Step] = OrderedDict()
        self._lock = threading.Lock()
        self._approvals = Approvals()
        self._is_on = True

    def stop(self) -> None:
        """Record nothing that begins from now on."""
        self._is_on = False

    def on_chain_start(
        self, serialized: dict[str, Any] | None, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        """The outermost chain begins a run; the others only say what is inside of what."""
        with unbroken(self._ledger, "a chain"):
            above = self._above(parent_run_id)
            if above is not None:
                self._open(run_id, _Step(above.run, parent_event_id=above.parent_event_id, thread_id=above.thread_id))
            elif self._is_on:
                step = self._root(_name(serialized, kwargs))
                step.thread_id = str((metadata or {}).get("thread_id") or "")
                self._open(run_id, step)
                self._resumed(step, inputs)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """The outermost chain ends its run."""
        with unbroken(self._ledger, "the end of a chain"):
            self._close(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """An interrupt comes up through the chains as an error that isn't one."""
        with unbroken(self._ledger, "the error of a chain"):
            if self._is_interrupt(error, run_id):
                error = None  # type: ignore[assignment]  # the graph pauses
            self._close(run_id, error)

    def on_chat_model_start(
        self, serialized: dict[str, Any] | None, messages: list[list[Any]], *, run_id: UUID,
        parent_run_id: UUID | None = None, tags: list[str] | None = None, metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        """A chat model is asked. Raises a refusal."""
        with unbroken(self._ledger, "a model call"):
            self._model(run_id, parent_run_id, messages, tags, {**(metadata or {}), **_called_with(kwargs)})

    def on_llm_start(
        self, serialized: dict[str, Any] | None, prompts: list[str], *, run_id: UUID,
        parent_run_id: UUID | None = None, tags: list[str] | None = None, metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        """A model that completes texts is asked. Raises a refusal."""
        with unbroken(self._ledger, "a model call"):
            self._model(run_id, parent_run_id, prompts, tags, {**(metadata or {}), **_called_with(kwargs)})

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A piece of a streamed answer."""
        with unbroken(self._ledger, "a token"):
            self._first_token(run_id)

    def on_stream_event(self, event: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A piece of a streamed answer, in LangChain's newer form."""
        with unbroken(self._ledger, "a token"):
            if "delta" in str(event.get("event", "")):
                self._first_token(run_id)

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """The model has answered."""
        with unbroken(self._ledger, "an answer"):
            step = self._steps.get(run_id)
            if step is not None and step.recorded is not None:
                with unbroken(self._ledger, "what an answer says"):
                    _take_answer(step.recorded.call, response)
            self._close(run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """The model has failed."""
        with unbroken(self._ledger, "a failed model call"):
            self._close(run_id, error)

    def on_tool_start(
        self, serialized: dict[str, Any] | None, input_str: str, *, run_id: UUID, parent_run_id: UUID | None = None,
        tags: list[str] | None = None, inputs: dict[str, Any] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        """A tool is called. Raises a refusal."""
        with unbroken(self._ledger, "a tool call"):
            step = self._inside(parent_run_id, "tool")
            if step is None:
                return
            call = step.run.tool_call(
                _name(serialized, kwargs), arguments=input_str if inputs is None else inputs, attempt=_attempt(tags),
                call_id=str(kwargs.get("tool_call_id") or ""),
            )  # fmt: skip
            self._begin(run_id, step, call)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """The tool has answered; a message may say that it failed."""
        with unbroken(self._ledger, "the end of a tool call"):
            step = self._steps.get(run_id)
            if step is not None and step.recorded is not None:
                call = step.recorded.call
                call.result(getattr(output, "content", output))
                call.call_id = call.call_id or str(getattr(output, "tool_call_id", None) or "")
                if getattr(output, "status", None) == "error":
                    call.status, call.error_type = "error", "ToolMessage"
            self._close(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """The tool has failed, or waits for a person."""
        with unbroken(self._ledger, "a failed tool call"):
            step = self._steps.get(run_id)
            if self._is_interrupt(error, run_id) and step is not None and step.recorded is not None:
                step.recorded.call.deny(reason="waits for an answer")
                self._close(run_id)
            else:
                self._close(run_id, error)

    def on_retriever_start(
        self, serialized: dict[str, Any] | None, query: str, *, run_id: UUID, parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        """Sources are looked up."""
        with unbroken(self._ledger, "a retrieval"):
            step = self._inside(parent_run_id, "retrieval")
            if step is not None:
                step.retrieval = _name(serialized, kwargs), query
                self._open(run_id, step)

    def on_retriever_end(self, documents: Sequence[Any], *, run_id: UUID, **kwargs: Any) -> None:
        """Sources were found: their ids are kept, and the digest of the question."""
        with unbroken(self._ledger, "the end of a retrieval"):
            step = self._steps.get(run_id)
            if step is not None and step.retrieval is not None:
                source, query = step.retrieval
                ids = [document.id for document in documents if document.id]
                step.run.evidence(source=source, evidence_ids=ids, query=query)
            self._close(run_id)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Nothing was found."""
        with unbroken(self._ledger, "a failed retrieval"):
            self._close(run_id, error)

    def _model(
        self, run_id: UUID, parent_run_id: UUID | None, asked: Any, tags: list[str] | None, named: dict[str, Any]
    ) -> None:
        step = self._inside(parent_run_id, "model")
        if step is None:
            return
        model = named.get("ls_model_name") or named.get("model") or named.get("model_name") or ""
        limit = named.get("ls_max_tokens") or named.get("max_tokens")
        call = step.run.model_call(
            model=str(model), provider=str(named.get("ls_provider") or ""), input=asked, attempt=_attempt(tags),
            max_tokens=limit if isinstance(limit, int) else None,
        )  # fmt: skip
        self._begin(run_id, step, call)

    def _begin(self, run_id: UUID, step: _Step, call: Call) -> None:
        call.parent_event_id = step.parent_event_id
        step.recorded = Recorded(call, None)
        try:
            step.recorded.begin()
        except REFUSALS as refusal:
            if step.own_run is not None:
                step.own_run.end(refusal)
            raise
        step.parent_event_id = call.event_id
        self._open(run_id, step)

    def _above(self, parent_run_id: UUID | None) -> _Step | None:
        return None if parent_run_id is None else self._steps.get(parent_run_id)

    def _inside(self, parent_run_id: UUID | None, what: str) -> _Step | None:
        """A new step inside of its parent, or the outermost one; None where nothing is to be recorded."""
        above = self._above(parent_run_id)
        if above is not None:
            return _Step(above.run, parent_event_id=above.parent_event_id, thread_id=above.thread_id)
        return self._root(what) if self._is_on else None

    def _root(self, name: str) -> _Step:
        run = current_run()
        if run is not None:
            return _Step(run, parent_event_id=run.enclosing_event_id())
        own = self._ledger.run(workflow=self._workflow or name).begin()
        return _Step(own, own_run=own, parent_event_id=own.event_id)

    def _open(self, run_id: UUID, step: _Step) -> None:
        with self._lock:
            self._steps[run_id] = step
            oldest = self._steps.popitem(last=False)[1] if len(self._steps) > OPEN_MAX else None
        if oldest is not None:
            _end(oldest, None)

    def _close(self, run_id: UUID, error: BaseException | None = None) -> None:
        with self._lock:
            step = self._steps.pop(run_id, None)
        if step is not None:
            _end(step, error)

    def _first_token(self, run_id: UUID) -> None:
        step = self._steps.get(run_id)
        if step is not None and step.recorded is not None and isinstance(step.recorded.call, ModelCall):
            step.recorded.call.first_token()

    def _is_interrupt(self, error: BaseException, run_id: UUID) -> bool:
        """Whether a graph pauses; the questions are recorded then, each once however far the error comes up."""
        if type(error).__name__ != _INTERRUPT:
            return False
        step = self._steps.get(run_id)
        if step is not None:
            for interrupt in error.args[0] if error.args else ():
                self._approvals.ask(step.run, str(interrupt.id), interrupt.value, step.thread_id)
        return True

    def _resumed(self, step: _Step, inputs: Any) -> None:
        """A graph goes on with an answer: a LangGraph `Command` with `resume`."""
        answer = getattr(inputs, "resume", None)
        if type(inputs).__name__ != "Command" or answer is None:
            return
        by_id = answer if isinstance(answer, dict) else {}
        for approval_id in self._approvals.waiting(step.thread_id):
            self._approvals.decide(step.run, approval_id, verdict_of(by_id.get(approval_id, answer)))


def _end(step: _Step, error: BaseException | None) -> None:
    if step.recorded is not None:
        step.recorded.end(error)
    if step.own_run is not None:
        step.own_run.end(error)


def _name(serialized: dict[str, Any] | None, kwargs: dict[str, Any]) -> str:
    return str(kwargs.get("name") or (serialized or {}).get("name") or "")


def _called_with(kwargs: dict[str, Any]) -> dict[str, Any]:
    parameters = kwargs.get("invocation_params")
    wanted = "model", "model_name", "max_tokens"
    return {name: parameters[name] for name in wanted if name in parameters} if isinstance(parameters, dict) else {}


def _attempt(tags: list[str] | None) -> int:
    numbers = [tag.removeprefix(_ATTEMPT) for tag in tags or () if tag.startswith(_ATTEMPT)]
    return int(numbers[-1]) if numbers and numbers[-1].isdecimal() else 1


def _take_answer(call: ModelCall, response: Any) -> None:
    """What a result says: of the message where there is one, else of the whole."""
    generation = response.generations[0][0]
    message = getattr(generation, "message", None)
    told = {**(generation.generation_info or {}), **(getattr(message, "response_metadata", None) or {})}
    call.answered_model = str(told.get("model_name") or told.get("model") or "")
    call.finish_reason = str(told.get("finish_reason") or told.get("stop_reason") or "")
    call.response_id = str(told.get("id") or "")
    tier = told.get("service_tier")
    call.service_tier = "" if tier in {None, "default", "standard"} else str(tier)
    if not call.provider:
        call.provider = str(told.get("model_provider") or "")
    call.output([generation.text, getattr(message, "tool_calls", None) or []])
    usage = getattr(message, "usage_metadata", None)
    if usage is not None:
        within, spent = usage.get("input_token_details") or {}, usage.get("output_token_details") or {}
        tokens = tokens_of_totals(
            input_total=usage.get("input_tokens"), output_total=usage.get("output_tokens"),
            cache_read=within.get("cache_read"), cache_write=within.get("cache_creation"),
            reasoning=spent.get("reasoning"),
        )  # fmt: skip
        call.usage(**tokens)
    elif (response.llm_output or {}).get("token_usage"):
        call.usage(**disjoint_tokens(response.llm_output["token_usage"]))
