"""One run of an agent: what it does becomes events, and its budget is held."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload

from agentledger.producers.bounds import NAME_BYTES_MAX, clean_labels, clean_run_id, clean_text
from agentledger.producers.budget_guard import RunBudget, RunUsage, to_budget
from agentledger.producers.calls import Call, enclosing, is_cancellation, leave
from agentledger.producers.emitter import BLANK_ENVELOPE
from agentledger.producers.envelope import RunEnvelope
from agentledger.producers.event_ids import new_event_id, new_trace_id, span_id_of
from agentledger.producers.halts import ANY
from agentledger.producers.run_calls import RunCalls
from agentledger.producers.tracing import trace_id_of
from agentledger.schemas import events
from agentledger.schemas.errors import BudgetExceededError, HoldUnansweredError, UnpricedError
from agentledger.schemas.scopes import scopes_of

if TYPE_CHECKING:
    from agentledger.producers.recorder import Ledger

_F = TypeVar("_F", bound=Callable[..., Any])
LIVE = "sdk"  # the source of runs that are recorded while they happen


def current_run() -> Run | None:
    """The run that is open in this thread or task, or None."""
    innermost = enclosing.get()
    return cast("Run", innermost.run) if isinstance(innermost, Call) else innermost


class Run(RunCalls):
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
        labels = clean_labels({**ledger.labels, **ledger.content.labels(labels)})
        self.trace_id: str = trace_id_of(trace) or (parent.trace_id if isinstance(parent, Run) else new_trace_id())
        envelope = RunEnvelope(
            run_id or new_event_id(ledger.clock()),
            trace_id=self.trace_id,
            agent_id=ledger.agent_id,
            agent_version=ledger.agent_version,
            workflow=workflow,
            environment=ledger.environment,
            actor=actor or ledger.actor,
            labels=labels,
        )
        super().__init__(ledger, envelope, budget)
        lineage = parent.lineage if isinstance(parent, Run) else (clean_run_id(parent),) if parent else ()
        self.lineage: tuple[str, ...] = (self.run_id, *lineage)
        self.scopes = tuple(
            scopes_of(
                tenant_id=ledger.tenant_id, agent_id=clean_text(ledger.agent_id, NAME_BYTES_MAX),
                workflow=clean_text(workflow, NAME_BYTES_MAX), actor=envelope.actor, run_id=self.run_id, labels=labels,
            )
        )  # fmt: skip
        # What a halt that stops this run may be about. A halt of a run stops its sub-runs here, too.
        self.halted_by = (("host", ANY), *self.scopes, *(("run", run_id) for run_id in lineage))
        self._status = ""
        self._reason = ""
        self._outer: Token[Run | Call | None] | None = None
        self._facts: dict[str, Any] = {
            "source": ledger.source,
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
        self.begin()
        self._outer = enclosing.set(self)
        return self

    def begin(self, *, cause: str | None = None) -> Self:
        """Begin without becoming what `current_run()` gives: for a run whose end is seen elsewhere, such as in a
        callback; `end` must follow. `cause` is the event that it follows from, by default what is open here.
        """
        cause = self.enclosing_event_id() if cause is None else cause
        self.ledger.listen()
        self._started_us = self.ledger.timer()
        started = events.RunStarted(**BLANK_ENVELOPE, **self._facts, **_declared(self.meter.budget))
        now_us = self.ledger.clock()
        event_id = new_event_id(now_us)
        self.span_id = span_id_of(event_id)
        self._emit(started, event_id, cause, self.span_id, now_us)
        self.event_id = event_id
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._outer is not None:
            leave(self._outer)
            self._outer = None
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """The run is over; `error` is what ended it. Never raises."""
        status, reason = self._how_it_ended(error)
        failed = error is not None and not _is_clean_exit(error)
        self.add(
            events.RunFinished(
                **BLANK_ENVELOPE,
                status=status,
                reason=reason,
                duration_ms=max(0, self.ledger.timer() - self._started_us) // 1000,
                error_type=type(error).__name__ if failed else "",
                error_message=self.ledger.content.error_text(error) if error is not None and failed else "",
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

    def _end_as(self, status: str, reason: str) -> None:
        self._status = status
        self._reason = clean_text(reason)

    def _how_it_ended(self, error: BaseException | None) -> tuple[str, str]:
        if self._status:
            return self._status, self._reason
        if self.refused_by is not None and (error is None or not is_cancellation(error)):
            return _stopped(self.refused_by)  # also where the agent swallowed the error, or raised its own
        if error is None or _is_clean_exit(error):
            refusal = self.meter.last_refusal
            return "succeeded", f"{self.meter.refusals} calls refused: {refusal}" if refusal else ""
        if isinstance(error, BudgetExceededError):  # HoldRefusedError is one
            return _stopped(error)
        if isinstance(error, HoldUnansweredError | UnpricedError):
            return _stopped(error)
        return ("cancelled" if is_cancellation(error) else "failed"), ""


def _stopped(refusal: BaseException) -> tuple[str, str]:
    """How a run ends whose call was refused: escalated where the budget wants a person, else halted; and why."""
    asks = getattr(refusal, "on_exceeded", "")
    return ("escalated" if asks in {"escalate", "ask_human"} else "halted"), clean_text(refusal)


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
        "budget_tool_retries": budget.tool_retries,
        "on_budget_exceeded": budget.on_exceeded,
    }
