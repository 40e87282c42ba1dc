"""One run of an agent: what it does becomes events, and its budget is held."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from agentledger.producers.bounds import TEXT_BYTES_MAX, clean_labels, clean_text, clean_texts
from agentledger.producers.budget_guard import CallKind, RunBudget, RunUsage, to_budget
from agentledger.producers.calls import Call, ModelCall, ToolCall, enclosing, is_cancellation, leave, set_facts
from agentledger.producers.emitter import BLANK_ENVELOPE
from agentledger.producers.envelope import RunEnvelope
from agentledger.producers.event_ids import new_event_id, new_trace_id, span_id_of
from agentledger.producers.metering import Meter
from agentledger.producers.run_facts import RunFacts
from agentledger.producers.tracing import trace_id_of
from agentledger.schemas import events
from agentledger.schemas.errors import BudgetExceededError

if TYPE_CHECKING:
    from decimal import Decimal

    from agentledger.producers.recorder import Ledger

_F = TypeVar("_F", bound=Callable[..., Any])
SOURCE = "sdk"


def current_run() -> Run | None:
    """The run that is open in this thread or task, or None."""
    innermost = enclosing.get()
    return innermost.run if isinstance(innermost, Call) else innermost


class Run(RunFacts):
    """One attempt of an agent at one task. `with` (or `async with`) begins and ends it.

    It ends as succeeded; as failed where an exception leaves it, which is re-raised unchanged; as halted or escalated
    where its budget refused a call; as cancelled where it was called off. `fail`, `halt`, `escalate` and `cancel` say
    otherwise. Nothing here raises because of what is recorded; only the budget refuses.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        workflow: str = "",
        task: str = "",
        budget: RunBudget | Mapping[str, Any] | None = None,
        run_id: str | None = None,
        parent: Run | str | None = None,
        actor: str = "",
        labels: Mapping[str, str] | None = None,
        prompt_version: str = "",
        policy_version: str = "",
        toolset_version: str = "",
        trace: str = "",
    ) -> None:
        parent = current_run() if parent is None else parent
        self.trace_id: str = trace_id_of(trace) or (parent.trace_id if isinstance(parent, Run) else new_trace_id())
        envelope = RunEnvelope(
            run_id or new_event_id(ledger.clock()),
            trace_id=self.trace_id,
            agent_id=ledger.agent_id,
            agent_version=ledger.agent_version,
            workflow=workflow,
            environment=ledger.environment,
            actor=actor or ledger.actor,
            labels={**ledger.labels, **clean_labels(labels)},
        )
        super().__init__(ledger, envelope)
        self.meter = Meter(self.run_id, to_budget(budget), ledger.price_book)
        self._started_us = ledger.timer()
        self._status = ""
        self._reason = ""
        self._outer: Token[Run | Call | None] | None = None
        self._facts: dict[str, Any] = {
            "source": SOURCE,
            "task": task,
            "parent_run_id": parent.run_id if isinstance(parent, Run) else parent or "",
            "prompt_version": prompt_version,
            "policy_version": policy_version,
            "toolset_version": toolset_version,
        }

    @property
    def usage(self) -> RunUsage:
        """What the run has used so far; dollars only where calls report them or the budget limits them."""
        return self.meter.usage

    @property
    def budget(self) -> RunBudget | None:
        """The budget that holds now."""
        return self.meter.budget

    @property
    def traceparent(self) -> str:
        """The W3C `traceparent` header of the run's root span."""
        return f"00-{self.trace_id}-{self.span_id or '0' * 15 + '1'}-01"

    def __enter__(self) -> Self:
        cause = self.enclosing_event_id()
        self._started_us = self.ledger.timer()
        started = events.RunStarted(**BLANK_ENVELOPE, **self._facts, **_declared(self.meter.budget))
        now_us = self.ledger.clock()
        event_id = new_event_id(now_us)
        self.span_id = span_id_of(event_id)
        self._emit(started, event_id, cause, self.span_id, now_us)
        self.event_id = event_id
        self._outer = enclosing.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._outer is not None:
            leave(self._outer)
            self._outer = None
        status, reason = self._how_it_ended(error)
        failed = error is not None and not _is_clean_exit(error)
        self.add(
            events.RunFinished(
                **BLANK_ENVELOPE,
                status=status,
                reason=reason,
                duration_ms=max(0, self.ledger.timer() - self._started_us) // 1000,
                error_type=type(error).__name__ if failed else "",
                error_message=clean_text(error, TEXT_BYTES_MAX) if failed else "",
            )
        )

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def fail(self, reason: str = "") -> None:
        """The run did not do its task."""
        self._end_as("failed", reason)

    def halt(self, reason: str = "") -> None:
        """The run was stopped by a rule."""
        self._end_as("halted", reason)

    def escalate(self, reason: str = "") -> None:
        """The task was handed over to a person."""
        self._end_as("escalated", reason)

    def cancel(self, reason: str = "") -> None:
        """The run was called off."""
        self._end_as("cancelled", reason)

    def model_call(
        self, *, model: str, provider: str = "", service_tier: str = "", attempt: int = 1, requestor: str = "assistant",
        input: object = None,  # noqa: A002 - the word that the record has for it
    ) -> ModelCall:  # fmt: skip
        """A call of a model, to be used in `with` or `async with`. Entering raises RunBudgetExceededError."""
        call = ModelCall(self, model, provider)
        call.service_tier = service_tier
        call.attempt = attempt
        call.requestor = requestor
        if input is not None:
            call.input(input)
        return call

    def tool_call(
        self, tool: str, *, arguments: object = None, effect: str = "", target: str = "", idempotency_key: str = "",
        attempt: int = 1, dry_run: bool = False, tool_version: str = "", call_id: str = "",
        policy_decision_id: str | None = None, evidence_ids: Iterable[str] = (), requestor: str = "assistant",
    ) -> ToolCall:  # fmt: skip
        """A call of a tool, to be used in `with` or `async with`. Entering raises RunBudgetExceededError.

        `effect` is read, write or irreversible; `policy_decision_id` is what `policy_decision` returned.
        """
        call = ToolCall(self, tool)
        if arguments is not None:
            call.arguments(arguments)
        call.effect = effect
        call.target = target
        call.idempotency_key = idempotency_key
        call.attempt = attempt
        call.dry_run = dry_run
        call.tool_version = tool_version
        call.call_id = call_id
        call.requestor = requestor
        if policy_decision_id is not None:
            call.policy_decision_id = self._event_ref("policy_decision_id", policy_decision_id)
        if evidence_ids:
            call.evidence_ids = clean_texts(evidence_ids)
        return call

    def record_model_call(
        self, *, model: str, provider: str = "", status: str = "", error: BaseException | None = None,
        input: object = None, output: object = None,  # noqa: A002 - the words that the record has for them
        reported_cost_usd: Decimal | float | str | None = None, occurred_at: int | None = None,
        **facts: object,
    ) -> str:  # fmt: skip
        """Record a call that has already happened; its event id. It counts for the budget but is not refused.

        `facts` are the other fields of ModelCallCompleted: input_tokens, latency_ms, finish_reason and so on.
        `occurred_at` is in microseconds since 1970; by default now.
        """
        call = ModelCall(self, model, provider)
        set_facts(call, self._known(ModelCall, facts))
        if input is not None:
            call.input(input)
        if output is not None:
            call.output(output)
        return self._record_past(call, status, error, reported_cost_usd, occurred_at)

    def record_tool_call(
        self, tool: str, *, arguments: object = None, result: object = None, status: str = "",
        error: BaseException | None = None, reported_cost_usd: Decimal | float | str | None = None,
        occurred_at: int | None = None, **facts: object,
    ) -> str:  # fmt: skip
        """Record a call that has already happened; its event id. It counts for the budget but is not refused.

        `facts` are the other fields of ToolCallCompleted: effect, target, latency_ms and so on.
        """
        call = ToolCall(self, tool)
        set_facts(call, self._known(ToolCall, facts))
        if arguments is not None:
            call.arguments(arguments)
        if result is not None:
            call.result(result)
        return self._record_past(call, status, error, reported_cost_usd, occurred_at)

    @overload
    def tool(self, function: _F, /, **facts: Any) -> _F: ...

    @overload
    def tool(self, function: None = None, /, **facts: Any) -> Callable[[_F], _F]: ...

    def tool(self, function: _F | None = None, /, **facts: Any) -> _F | Callable[[_F], _F]:
        """Decorate a tool, sync or async: each call of it becomes a tool call of this run.

        As `@run.tool` or `@run.tool(effect="write", name="create_refund", target=…)`.
        """
        if function is not None:
            return self.ledger.tool(function, run=self, **facts)
        return self.ledger.tool(run=self, **facts)

    def extend_budget(self, budget: RunBudget | Mapping[str, Any], *, approved_by: str, reason: str = "") -> str:
        """Give the run another budget, which counts from its start; the event id of the approval that says so."""
        self.meter.budget = to_budget(budget)
        return self.approval_decided(
            approval_id=f"budget:{self.run_id}", verdict="approved", decided_by=approved_by, reason=reason
        )

    def admit(self, kind: CallKind) -> None:
        """Count a call that begins. Raises RunBudgetExceededError where the budget refuses it."""
        warning = self.meter.admit(kind, self.ledger.timer() - self._started_us)
        if warning is not None:
            self.ledger.tell("budget", str(warning))

    def record_call(self, call: Call, occurred_at: int | None = None) -> None:
        """Emit an ended call and add what it used. Never raises."""
        ledger = self.ledger
        now_us = ledger.clock() if occurred_at is None else occurred_at
        self.meter.settle(call, now_us)
        ledger.emitter.emit(
            ledger.emitter.kinds[call.record_name],
            self.envelope,
            call,
            event_id=call.event_id,
            parent_event_id=call.parent_event_id,
            span_id=call.span_id,
            occurred_at=now_us,
        )

    def enclosing_event_id(self) -> str | None:
        """The event that what happens now follows from: the open call, or the start of the run around it."""
        innermost = enclosing.get()
        if innermost is not None and (self.event_id is None or self._is_mine(innermost)):
            return innermost.event_id or None
        return self.event_id

    def _record_past(
        self, call: Call, status: str, error: BaseException | None,
        reported_cost_usd: Decimal | float | str | None, occurred_at: int | None,
    ) -> str:  # fmt: skip
        call.status = status or call.status
        if error is not None:
            call.note_error(error)
        call.status = call.status or "ok"
        if reported_cost_usd is not None:
            call.reported_cost_usd(reported_cost_usd)
        call.requestor = call.requestor or "assistant"
        call.event_id = new_event_id(self.ledger.clock() if occurred_at is None else occurred_at)
        call.span_id = span_id_of(call.event_id)
        call.parent_event_id = self.enclosing_event_id()
        self.meter.count(call.kind)
        self.record_call(call, occurred_at)
        return call.event_id

    def _known(self, kind: type[Call], facts: Mapping[str, object]) -> dict[str, object]:
        """The facts that this record has fields for; the rest is told about and left out."""
        fields = events.EVENT_TYPES[kind.record_name].__dataclass_fields__
        own = {name: value for name, value in facts.items() if name in fields and name not in _ENVELOPE}
        for name in facts.keys() - own.keys():
            self.ledger.tell("unknown_field", f"{kind.record_name} has no {name}")
        if "policy_decision_id" in own:
            own["policy_decision_id"] = self._event_ref("policy_decision_id", own["policy_decision_id"])
        return own

    def _end_as(self, status: str, reason: str) -> None:
        self._status = status
        self._reason = clean_text(reason)

    def _how_it_ended(self, error: BaseException | None) -> tuple[str, str]:
        if self._status:
            return self._status, self._reason
        if error is None or _is_clean_exit(error):
            refusal = self.meter.last_refusal
            return "succeeded", f"{self.meter.refusals} calls refused: {refusal}" if refusal else ""
        if isinstance(error, BudgetExceededError):
            asks = getattr(error, "on_exceeded", "halt")
            return ("escalated" if asks in {"escalate", "ask_human"} else "halted"), clean_text(error)
        return ("cancelled" if is_cancellation(error) else "failed"), ""


_ENVELOPE = frozenset(events.Event.__dataclass_fields__)


def _is_clean_exit(error: BaseException) -> bool:
    return isinstance(error, SystemExit) and error.code in {None, 0}


def _declared(budget: RunBudget | None) -> dict[str, Any]:
    """RunStarted's fields for a budget."""
    if budget is None:
        return {}
    return {
        "budget_cost_nanousd": budget.cost_nanousd,
        "budget_tokens": budget.tokens,
        "budget_model_calls": budget.model_calls,
        "budget_tool_calls": budget.tool_calls,
        "budget_wall_clock_ms": budget.wall_clock_ms,
        "on_budget_exceeded": budget.on_exceeded,
    }
