"""Stage 1: the anomaly rules of one run, `(run, memory, event) -> alerts`. Pure; time is ledger time.

The fold calls `observe` for each event that counts, after it has taken the event in, and `pass_time` for runs whose
`deadline_us` has come, before it folds the record that brought the time. Both change the run's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any, Final, TypeVar

from agentledger.processors.rules import judgements as judge
from agentledger.processors.rules import trackers
from agentledger.processors.rules.conditions import (
    LAST_US,
    open_alerts,
    resolve,
    resolve_quiet,
)
from agentledger.processors.rules.memory import RunFacts, RunMemory, Said
from agentledger.processors.rules.models import (
    ClockSkew,
    Conflict,
    CostMismatch,
    CyclingToolCalls,
    DenialsInRun,
    IdenticalToolCalls,
    RepeatedWork,
    RetryStorm,
    RunRule,
    SilentFailure,
    SlowApproval,
    StepCount,
    StuckRun,
    UnpricedModel,
    UnsafeAction,
    WriteWithoutDecision,
)
from agentledger.processors.rules.normals import EPOCH_US, Normals
from agentledger.schemas.events import (
    ApprovalDecided,
    ApprovalRequested,
    ConflictDetected,
    Event,
    ModelCallCompleted,
    OutcomeRecorded,
    PolicyDecided,
    RunFinished,
    RunStarted,
    ToolCallCompleted,
)

CONTEXTS_MAX = 10_000  # combinations of tenant, workflow, agent and environment whose rules are kept at hand
LIVE_SOURCES = frozenset({"", "sdk"})  # RunStarted.source of runs that are recorded while they happen
_ENDS_WITH_RUN = (
    IdenticalToolCalls,
    CyclingToolCalls,
    RepeatedWork,
    RetryStorm,
    StepCount,
    DenialsInRun,
    SlowApproval,
    StuckRun,
    ClockSkew,
)
R = TypeVar("R")


class Applicable:
    """The rules that apply to one run, by kind."""

    def __init__(self, rules: Sequence[RunRule]) -> None:
        self.rules = tuple(rules)
        self.identical = self._of(IdenticalToolCalls)
        self.cycling = self._of(CyclingToolCalls)
        self.repeated = self._of(RepeatedWork)
        self.retries = self._of(RetryStorm)
        self.steps = self._of(StepCount)
        self.denials = self._of(DenialsInRun)
        self.unsafe = self._of(UnsafeAction)
        self.undecided = self._of(WriteWithoutDecision)
        self.slow = self._of(SlowApproval)
        self.silent = self._of(SilentFailure)
        self.stuck = self._of(StuckRun)
        self.mismatch = self._of(CostMismatch)
        self.skew = self._of(ClockSkew)
        self.conflict = self._of(Conflict)
        self.unpriced = self._of(UnpricedModel)
        self.stuck_while_silent = tuple(rule for rule in self.stuck if rule.resolve == "condition_ends")
        self.quiet = tuple(rule for rule in self.rules if rule.resolve == "quiet")
        self.ending = tuple(
            rule
            for rule in self.rules
            if rule.resolve == "run_ends" or (rule.resolve == "condition_ends" and isinstance(rule, _ENDS_WITH_RUN))
        )
        self.effects = frozenset(
            [effect for rule in self.unsafe for effect in rule.effects]
            + [effect for rule in self.undecided for effect in rule.effects]
        )
        self.keep_recent = any(not rule.consecutive for rule in self.identical)
        self.keep_results = bool(self.repeated or self.steps)
        # Below these nothing can fire: most events stop there.
        self.steps_min = min((rule.floor for rule in self.steps), default=2**62)
        self.ahead_us_min = min((rule.ahead_us for rule in self.skew), default=2**62)
        self.behind_us_min = min((rule.behind_us for rule in self.skew), default=2**62)

    def _of(self, kind: type[R]) -> tuple[R, ...]:
        return tuple(rule for rule in self.rules if isinstance(rule, kind))


class RunRules:
    """The enabled run-level rules. `rules` may hold any; those of stage 2 are left out."""

    def __init__(self, rules: Iterable[Any]) -> None:
        kinds = RunRule.__args__
        self.rules: tuple[RunRule, ...] = tuple(
            rule for rule in rules if isinstance(rule, kinds) and rule.enabled and rule.scope == "run"
        )
        self._applicable: dict[tuple[str, str, str, str, bool], Applicable] = {}

    def observe(
        self,
        run: RunFacts,
        memory: RunMemory,
        event: Event,
        *,
        offset: int,
        normals: Normals,
        cost_nanousd: int | None = None,
        unpriced_reason: str = "",
    ) -> list[Said]:
        """What follows from an event that the run has just taken in; `run.last_time_us` is its ledger time.

        For a model call: `cost_nanousd` is our charge, None without a price; `unpriced_reason` is empty unless the
        missing price is worth an alert.
        """
        kind = type(event)
        if kind is RunStarted:
            if memory.imported is None:
                memory.imported = event.source not in LIVE_SOURCES  # type: ignore[attr-defined]
            memory.applicable = None
        rules: Applicable | None = memory.applicable
        if rules is None:
            rules = memory.applicable = self._for(run, memory)
        heard: list[Said] | None = None
        if memory.alerts:
            heard = []
            for rule in rules.stuck_while_silent:
                heard += resolve(run, memory, rule, "heard_again")
        if kind is ToolCallCompleted:
            said = _on_tool_call(rules, run, memory, event, normals)  # type: ignore[arg-type]
        elif kind is ModelCallCompleted:
            said = _on_model_call(rules, run, memory, event, normals, cost=(cost_nanousd, unpriced_reason))  # type: ignore[arg-type]
        elif kind is RunFinished:
            said = _on_finish(rules, run, memory, event, normals, offset=offset)  # type: ignore[arg-type]
        else:
            react = _REACT.get(kind)
            said = [] if react is None else react(rules, run, memory, event)
        if heard:
            said = heard + said
        apart_us = event.occurred_at - run.last_time_us
        if memory.imported is False and (
            apart_us > rules.ahead_us_min or -apart_us > rules.behind_us_min or memory.skewed
        ):
            said += judge.clock_skew(rules.skew, run, memory, event)
        return said

    def pass_time(self, run: RunFacts, memory: RunMemory, now_us: int) -> list[Said]:
        """What follows from its being `now_us` and nothing new of the run. Called where `deadline_us` has come."""
        rules = memory.applicable or self._for(run, memory)
        said: list[Said] = []
        if not run.finished:
            said += judge.stuck(rules.stuck, run, memory, now_us)
            said += judge.slow_approvals(rules.slow, run, memory, now_us)
        said += judge.undecided_for_too_long(rules.undecided, run, memory, now_us)
        for rule in rules.quiet:
            said += resolve_quiet(run, memory, rule, now_us)
        return said

    def deadline_us(self, run: RunFacts, memory: RunMemory) -> int | None:
        """When something follows from silence; None: nothing ever will. May only grow later without any event."""
        rules = memory.applicable or self._for(run, memory)
        times: list[int] = []
        if not run.finished:
            times += judge.stuck_deadlines(rules.stuck, run, memory)
            if memory.approvals:
                times += judge.approval_deadlines(rules.slow, run, memory)
        if memory.awaited:
            times += judge.decision_deadlines(rules.undecided, memory)
        if memory.alerts:
            for rule in rules.quiet:
                times += [alert[LAST_US] + rule.quiet_us for _, alert in open_alerts(memory, rule)]
        return min(times) if times else None

    def _for(self, run: RunFacts, memory: RunMemory) -> Applicable:
        context = (run.tenant_id, run.workflow, run.agent_id, run.environment, bool(memory.imported))
        found = self._applicable.get(context)
        if found is None:
            tenant, workflow, agent, environment, imported = context
            found = Applicable(
                [
                    rule
                    for rule in self.rules
                    if rule.where.matches(tenant=tenant, workflow=workflow, agent=agent, environment=environment)
                    and (rule.imports or not imported)
                ]
            )
            if len(self._applicable) >= CONTEXTS_MAX:
                self._applicable.clear()
            self._applicable[context] = found
        return found


def _steps_limit(rules: Applicable, run: RunFacts, normals: Normals) -> float:
    """So many calls are beyond none of the rules on steps: found once for an epoch."""
    epoch = run.last_time_us // EPOCH_US
    known = normals.limits.get(rules)
    if known is None or known[0] != epoch:
        limits = [judge.steps_limit(rule, run, normals) for rule in rules.steps]
        known = normals.limits[rules] = epoch, min(limits, default=inf)
    return known[1]


def _on_tool_call(
    rules: Applicable, run: RunFacts, memory: RunMemory, call: ToolCallCompleted, normals: Normals
) -> list[Said]:
    said: list[Said] = []
    is_conspicuous = trackers.note_tool_call(
        memory, run, call, keep_recent=rules.keep_recent, keep_results=rules.keep_results
    )
    if is_conspicuous or memory.alerts or call.attempt > 1:
        said += judge.identical_calls(rules.identical, run, memory, call)
        said += judge.cycles(rules.cycling, run, memory, call)
        said += judge.repeated_work(rules.repeated, run, memory, call)
        said += judge.tool_retries(rules.retries, run, memory, call)
    if (taken := run.model_calls + run.tool_calls) > rules.steps_min and taken > _steps_limit(rules, run, normals):
        said += judge.steps(rules.steps, run, memory, call, normals)
    if call.status == "denied" and rules.denials and call.policy_decision_id is None:  # else the decision counts
        trackers.note_denial(memory, run.last_time_us)
        said += judge.denials(rules.denials, run, memory, call)
    if call.effect in rules.effects:
        said += judge.denied_call(rules.unsafe, run, memory, call)
        said += judge.undecided_write(rules.undecided, run, memory, call, normals)
    return said


def _on_model_call(
    rules: Applicable,
    run: RunFacts,
    memory: RunMemory,
    call: ModelCallCompleted,
    normals: Normals,
    *,
    cost: tuple[int | None, str],
) -> list[Said]:
    said: list[Said] = []
    cost_nanousd, unpriced_reason = cost
    trackers.note_model_call(memory, call, cost_nanousd)
    if memory.model_failures or call.attempt > 1 or memory.alerts:
        said += judge.model_retries(rules.retries, run, memory, call)
    if (taken := run.model_calls + run.tool_calls) > rules.steps_min and taken > _steps_limit(rules, run, normals):
        said += judge.steps(rules.steps, run, memory, call, normals)
    if memory.cost_nanousd != memory.reported_nanousd:
        said += judge.cost_mismatch(rules.mismatch, run, memory, call)
    if unpriced_reason:
        said += judge.unpriced(rules.unpriced, run, memory, call, unpriced_reason)
    return said


def _on_decision(rules: Applicable, run: RunFacts, memory: RunMemory, decided: PolicyDecided) -> list[Said]:
    trackers.note_decision(memory, decided)
    said = judge.denied_decision(rules.unsafe, run, memory, decided)
    if rules.denials and decided.verdict == "deny":
        trackers.note_denial(memory, run.last_time_us)
        said += judge.denials(rules.denials, run, memory, decided)
    return said + judge.awaited_decision(rules.undecided, run, memory, decided)


def _on_approval(
    rules: Applicable, run: RunFacts, memory: RunMemory, event: ApprovalRequested | ApprovalDecided
) -> list[Said]:
    trackers.note_approval(memory, event, run.last_time_us)
    said: list[Said] = []
    for rule in rules.slow:
        late = [asked for asked in memory.approvals.values() if run.last_time_us >= asked + rule.window_us]
        if not late and rule.resolve == "condition_ends":
            said += resolve(run, memory, rule, "decided")
    return said


def _on_outcome(rules: Applicable, run: RunFacts, memory: RunMemory, event: OutcomeRecorded) -> list[Said]:
    return judge.silent_failure(rules.silent, run, memory, event)


def _on_finish(
    rules: Applicable, run: RunFacts, memory: RunMemory, event: RunFinished, normals: Normals, *, offset: int
) -> list[Said]:
    if not memory.is_counted:
        memory.is_counted = True
        steps = run.model_calls + run.tool_calls
        normals.add(offset, run.last_time_us, run.tenant_id, run.workflow, steps, policy=memory.policy_seen)
    memory.approvals.clear()
    said: list[Said] = []
    if memory.alerts:
        for rule in rules.ending:
            said += resolve(run, memory, rule, "run_ended")
    return said + judge.silent_failure(rules.silent, run, memory, event)


def _on_conflict(rules: Applicable, run: RunFacts, memory: RunMemory, event: ConflictDetected) -> list[Said]:
    return judge.conflict(rules.conflict, run, memory, event)


_REACT: Final[dict[type[Event], Callable[..., list[Said]]]] = {
    PolicyDecided: _on_decision,
    ApprovalRequested: _on_approval,
    ApprovalDecided: _on_approval,
    OutcomeRecorded: _on_outcome,
    ConflictDetected: _on_conflict,
}
