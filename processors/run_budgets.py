"""The budgets of one run: its own, and those declared for each run of its scope. Lines, alerts, halts. Pure.

Decisions that hold here:

- A declared limit counts for a run from the run's next event after the declaration, with all that the run has used by
  then. A run that had ended by then is left alone.
- Each line is said once; of a limit that was changed, once more only where usage was below it in between.
- The alert is resolved when the run ends, the limit is raised above what was used, or the budget ends. Raising the last
  limit that a run had exceeded lifts its halt.
- Both kinds of budgets of a run count alike: see `runs` for what uses them up.
"""

from __future__ import annotations

from typing import Any

from agentledger.processors.budgets import (
    HALTING,
    METRICS,
    NEVER,
    NO_LIMITS,
    RUNBOOK_URL,
    WALL_CLOCK,
    Amounts,
    Crossing,
    amount_text,
    crossed_now,
    crossings,
    exceeded_bit,
    next_line,
    next_lines,
    reached_bits,
)
from agentledger.processors.charges import cut
from agentledger.processors.conclusions import Conclusion
from agentledger.processors.run_budget_book import RunBudgetBook, RunLimit
from agentledger.processors.run_state import DeclaredLimit, RunState
from agentledger.schemas.budget_questions import RAISED, Raise
from agentledger.schemas.events import (
    AlertRaised,
    AlertResolved,
    ApprovalDecided,
    ApprovalRequested,
    BudgetExceeded,
    BudgetThresholdCrossed,
    ControlIssued,
)
from agentledger.schemas.identity import derived_id

OWN = ""  # stands for the run's own budget among the ids of declared ones; its events say "run"
RULE = "budget_exceeded"
METRIC_PLACE = {metric: place for place, metric in enumerate(METRICS)}


def take_declared(state: RunState, book: RunBudgetBook, offset: int, out: list[Conclusion]) -> None:
    """Bring the run's declared limits to what holds at this place of the log."""
    at, limits = book.before(offset, state.tenant_id)
    if at <= state.declared_at:
        return
    state.declared_at = at
    known = {(limit.budget_id, limit.metric): limit for limit in state.declared}
    state.declared = []
    lifted: list[DeclaredLimit] = []
    for limit in limits:
        if limit.holds(state):
            before = known.pop((limit.budget_id, limit.metric), None)
            now = _begun(limit, before, state.used.listed()[limit.metric])
            state.declared.append(now)
            if before is not None and before.is_open and not now.is_open:
                _resolve_declared(state, before, "limit_raised", out, limit)
                lifted.append(now)
    for gone in known.values():
        if gone.is_open:
            _resolve_declared(state, gone, "budget_retired", out)
            lifted.append(gone)
    state.has_limits = bool(state.declared) or state.limits != NO_LIMITS
    _lift_halt(state, lifted, out)


def cross_lines(state: RunState, used: Amounts, cause_id: str | None, out: list[Conclusion]) -> None:
    """Say which lines this usage has crossed that weren't said. `cause_id`: None for time."""
    if used.reaches(state.lines):
        own = _Source(OWN, "", state.on_exceeded)
        for crossing in crossings(state.limits, used.listed(), state.crossed, state.thresholds):
            _tell(state, own, crossing, cause_id, out)
            if crossing.percent is None:
                state.alerts |= 1 << METRIC_PLACE[crossing.metric]
        state.lines = Amounts(next_lines(state.limits, state.crossed, state.thresholds))
    for number, limit in enumerate(state.declared):
        amount = used.listed()[limit.metric]
        if amount < limit.line:
            continue
        source = _Source(limit.budget_id, limit.declaration, limit.on_exceeded)
        for crossing in crossed_now(METRICS[limit.metric], limit.limit, amount, limit.crossed, limit.thresholds):
            _tell(state, source, crossing, cause_id, out)
        crossed = limit.crossed | reached_bits(limit.limit, amount, limit.thresholds)
        line, is_new = next_line(limit.limit, crossed, limit.thresholds), amount > limit.limit and not limit.is_exceeded
        question = limit.question
        if is_new and limit.on_exceeded == "ask_human" and not question and not state.finished:
            question = _ask(state, limit, amount, out)
        state.declared[number] = limit._replace(
            crossed=crossed, line=line, is_open=limit.is_open or is_new, question=question
        )


def cross_by_clock(state: RunState, now_us: int, out: list[Conclusion]) -> None:
    """Say which lines of wall-clock time a run has crossed by going on, though nothing is heard of it."""
    due_us = clock_deadline_us(state)
    if due_us is not None and now_us >= due_us and state.started_us is not None:
        used = Amounts(state.used.listed())
        used.wall_clock_ms = (now_us - state.started_us) // 1000
        cross_lines(state, used, None, out)


def clock_deadline_us(state: RunState) -> int | None:
    """When the run crosses its next line of wall-clock time, by the ledger; None: never by itself."""
    if not state.has_limits or state.started_us is None or state.finished or state.memory.imported:
        return None
    lines = [limit.line for limit in state.declared if limit.metric == WALL_CLOCK]
    line_ms = min([state.lines.wall_clock_ms, *lines])
    return None if line_ms >= NEVER else state.started_us + line_ms * 1000


def end_alerts(state: RunState, out: list[Conclusion]) -> None:
    """The run has ended: its budgets' alerts are over."""
    for metric, place in METRIC_PLACE.items():
        if state.alerts & (1 << place):
            _resolve_own(state, metric, out)
    state.alerts = 0
    for number, limit in enumerate(state.declared):
        if limit.is_open:
            _resolve_declared(state, limit, "run_ended", out)
            state.declared[number] = limit._replace(is_open=False, question="")


def has_halted(state: RunState) -> bool:
    """Whether a budget has halted the run, in so far as that is still known."""
    exceeded = exceeded_bit(state.thresholds)
    if state.on_exceeded in HALTING and any(bits & exceeded for bits in state.crossed):
        return True
    return any(limit.is_exceeded and limit.on_exceeded in HALTING for limit in state.declared)


def _begun(limit: RunLimit, before: DeclaredLimit | None, used: int) -> DeclaredLimit:
    """The limit as this run begins to count it: of one that was changed, lines that usage is beyond stay said."""
    crossed = 0
    if before is not None:
        said = {percent for place, percent in enumerate(before.thresholds) if before.crossed & (1 << place)}
        crossed = sum(1 << place for place, percent in enumerate(limit.thresholds) if percent in said)
        crossed |= exceeded_bit(limit.thresholds) if before.is_exceeded else 0
        crossed &= reached_bits(limit.limit, used, limit.thresholds)
    is_open = before is not None and before.is_open and bool(crossed & exceeded_bit(limit.thresholds))
    return DeclaredLimit(
        limit.budget_id,
        limit.metric,
        limit.declaration,
        limit.limit,
        limit.thresholds,
        cut(limit.on_exceeded),
        crossed,
        next_line(limit.limit, crossed, limit.thresholds),
        is_open,
        before.question if before is not None and is_open else "",
    )


class _Source:
    """The budget of which something is said, OWN or a declared one, and the declaration that it follows from."""

    __slots__ = ("budget_id", "id_parts", "on_exceeded")

    def __init__(self, budget_id: str, declaration: str, on_exceeded: str) -> None:
        self.budget_id = budget_id
        self.on_exceeded = on_exceeded
        # What tells the ids of what is said from those of other budgets of the run.
        self.id_parts: tuple[str, ...] = () if budget_id == OWN else (budget_id, declaration)


def _tell(state: RunState, source: _Source, crossing: Crossing, cause_id: str | None, out: list[Conclusion]) -> None:
    metric, percent, limit, used = crossing.metric, crossing.percent, crossing.limit, crossing.used
    base, which = state.base_event_id, source.id_parts
    # In the order of both records: by name they take longer.
    about = (source.budget_id or "run", "run", state.run_id, metric, limit, used, None, None, cause_id)
    if percent is not None:
        event_id = derived_id(base, "BudgetThresholdCrossed", metric, str(percent), *which)
        out.append(Conclusion(BudgetThresholdCrossed, event_id, (*about, percent)))
        return
    event_id = derived_id(base, "BudgetExceeded", metric, *which)
    out.append(Conclusion(BudgetExceeded, event_id, (*about, source.on_exceeded)))
    summary = f"run {_short(state.run_id)} used {amount_text(metric, used)} of {amount_text(metric, limit)}"
    if which:
        summary += f" ({_short(source.budget_id)}, per run)"
    alert: dict[str, Any] = {
        "alert_id": _alert_id(state, source.budget_id, metric),
        "rule": RULE,
        "severity": "critical",
        "summary": summary,
        "scope": "run",
        "scope_value": state.run_id,
        "runbook_url": RUNBOOK_URL,
        "trigger_event_ids": [] if cause_id is None else [cause_id],
        "observed": float(used),
        "expected": float(limit),
    }
    out.append(Conclusion(AlertRaised, derived_id(base, "AlertRaised", RULE, metric, *which), alert))
    if source.on_exceeded in HALTING and not state.finished:
        command = {"command": "halt", "scope": "run", "scope_value": state.run_id, "reason": summary}
        event_id = derived_id(base, "ControlIssued", "halt", metric, *which)
        command |= {"issued_by": _issuer(source.budget_id), "on_exceeded": source.on_exceeded}
        out.append(Conclusion(ControlIssued, event_id, command))


def _resolve_own(state: RunState, metric: str, out: list[Conclusion]) -> None:
    _resolve(state, _alert_id(state, OWN, metric), "run_ended", (metric,), out)


def _ask(state: RunState, limit: DeclaredLimit, used: int, out: list[Conclusion]) -> str:
    """Ask a person whether the budget may be more; the approval id."""
    metric = METRICS[limit.metric]
    id_parts = metric, limit.budget_id, limit.declaration
    approval_id = derived_id(state.base_event_id, "approval", *id_parts)
    change = Raise(limit.budget_id, "run", state.run_id, metric, limit.limit, used)
    fields = {"approval_id": approval_id, **change.asked()}
    out.append(Conclusion(ApprovalRequested, derived_id(state.base_event_id, "ApprovalRequested", *id_parts), fields))
    return approval_id


def _resolve_declared(
    state: RunState, limit: DeclaredLimit, reason: str, out: list[Conclusion], answer: RunLimit | None = None
) -> None:
    """The alert is over, and so is the question: `answer` is the declaration of more, where that was it."""
    metric = METRICS[limit.metric]
    id_parts = (metric, limit.budget_id, limit.declaration, reason)
    _resolve(state, _alert_id(state, limit.budget_id, metric), reason, id_parts, out)
    if limit.question:
        fields = {"approval_id": limit.question, "verdict": "expired", "reason": reason.replace("_", " ")}
        if answer is not None:
            fields |= {"verdict": "approved", "decided_by": answer.declared_by, "reason": answer.reason or RAISED}
        event_id = derived_id(state.base_event_id, "ApprovalDecided", limit.question)
        out.append(Conclusion(ApprovalDecided, event_id, fields))


def _resolve(state: RunState, alert_id: str, reason: str, id_parts: tuple[str, ...], out: list[Conclusion]) -> None:
    fields = {"alert_id": alert_id, "rule": RULE, "reason": reason, "resolved_by": RULE}
    out.append(Conclusion(AlertResolved, derived_id(state.base_event_id, "AlertResolved", RULE, *id_parts), fields))


def _lift_halt(state: RunState, lifted: list[DeclaredLimit], out: list[Conclusion]) -> None:
    """Let the run go on where nothing stops it any more that its budgets had stopped it for."""
    halting = [limit for limit in lifted if limit.on_exceeded in HALTING]
    still = any(limit.is_exceeded and limit.on_exceeded in HALTING for limit in state.declared)
    if not halting or still or (state.alerts and state.on_exceeded in HALTING):
        return
    budget_id, text = halting[0].budget_id, f"budget {_short(halting[0].budget_id)} was raised or ended"
    command = {"command": "resume", "scope": "run", "scope_value": state.run_id, "reason": text}
    event_id = derived_id(state.base_event_id, "ControlIssued", "resume", str(state.declared_at))
    out.append(Conclusion(ControlIssued, event_id, command | {"issued_by": _issuer(budget_id)}))


def _alert_id(state: RunState, budget_id: str, metric: str) -> str:
    more = () if budget_id == OWN else (budget_id,)
    return derived_id(state.base_event_id, "alert", RULE, metric, *more)


def _issuer(budget_id: str) -> str:
    return RULE if budget_id == OWN else f"budget:{budget_id}"


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"
