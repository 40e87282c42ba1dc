"""The events in which a tenant's hold fold says what it concluded. Pure; each takes the next number of its producer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from agentledger.processors.budgets import RUNBOOK_URL, amount_text
from agentledger.processors.hold_state import Account, Budget, Context, Head, Hold, context_of, cut
from agentledger.schemas.budget_questions import RAISED, Raise
from agentledger.schemas.control import is_control_scope
from agentledger.schemas.events import (
    AlertRaised,
    AlertResolved,
    AlertUpdated,
    ApprovalDecided,
    ApprovalRequested,
    BudgetDeclared,
    BudgetExceeded,
    BudgetHeld,
    BudgetReleased,
    BudgetSettled,
    BudgetThresholdCrossed,
    ControlIssued,
    Event,
    HoldDecided,
    HoldReported,
    HoldRequested,
)
from agentledger.schemas.identity import content_id

VERDICT_FIELDS = (
    "verdict",
    "reason",
    "budget_id",
    "scope",
    "scope_value",
    "metric",
    "limit_amount",
    "held_amount",
    "used_amount",
    "on_exceeded",
    "expires_at",
)
EXCEEDED_RULE = "budget_exceeded"
EXCESS_RULE = "budget_overshoot_bound"
LIMIT_RULE = "budget_limit_reached"
UNKNOWN_RULE = "hold_report_unknown"
RUNBOOK_URLS = {
    EXCEEDED_RULE: RUNBOOK_URL,
    LIMIT_RULE: RUNBOOK_URL,
    EXCESS_RULE: "infra/docs/BUDGETS.md#the-bound-on-overshoot",
    UNKNOWN_RULE: "infra/docs/BUDGETS.md#what-a-hold-does",
}


class Line(NamedTuple):
    """A budget's account, and whose event (if any) brought it where it is."""

    budget: Budget
    account: Account
    context: Context
    cause_id: str | None


class Ending(NamedTuple):
    """Why what was told at a limit is over: window_ended, retired, more; empty where it isn't. By whom, and why."""

    reason: str
    by: str = ""
    why: str = ""


class HoldEvents:
    """Makes the derived events of one tenant; `head` holds its clock and its producer's next number."""

    def __init__(self, tenant_id: str, producer_id: str, head: Head) -> None:
        self._tenant_id = tenant_id
        self._producer_id = producer_id
        self._head = head

    def next_seq(self) -> int:
        """The producer's next number, which is then taken."""
        seq = self._head.seq
        self._head.seq = seq + 1
        return seq

    def new_id(self, *parts: str) -> str:
        """The id of an event of this moment."""
        return content_id(self._head.time_us, *parts, self._tenant_id)

    def decided(self, hold: Hold) -> HoldDecided:
        """The decision on a hold, the same bytes each time."""
        return HoldDecided(
            **self._envelope(hold.context, hold.event_id, hold.request_id, hold.seq, hold.time_us),
            hold_id=hold.hold_id,
            **dict(zip(VERDICT_FIELDS, hold.verdict, strict=False)),
        )

    def refused_for_good(self, request: HoldRequested, context: Context, place: str, verdict: list[Any]) -> HoldDecided:
        """The refusal of a request of which nothing is kept."""
        event_id = self.new_id("HoldDecided", request.hold_id, place)
        return HoldDecided(
            **self._envelope(context, event_id, request.event_id),
            hold_id=request.hold_id[:1024],
            **dict(zip(VERDICT_FIELDS, verdict, strict=False)),
        )

    def held(self, hold: Hold, budget: Budget, account: Account, amount: int) -> BudgetHeld:
        """A part of a budget was reserved; with an amount of 0, what is reserved lasts longer."""
        envelope = self._envelope(hold.context, self._hold_id(hold, account, "BudgetHeld"), hold.request_id)
        return BudgetHeld(**envelope, **_amounts(hold, budget, account, amount), expires_at=hold.due_us)

    def settled(self, hold: Hold, budget: Budget, account: Account, amount: int, *, cause_id: str) -> BudgetSettled:
        """A hold was replaced by what the call really used."""
        envelope = self._envelope(hold.context, self._hold_id(hold, account, "BudgetSettled"), cause_id)
        return BudgetSettled(**envelope, **_amounts(hold, budget, account, amount))

    def released(
        self, hold: Hold, budget: Budget, account: Account, amount: int, *, reason: str, cause_id: str
    ) -> BudgetReleased:
        """A hold was given back."""
        envelope = self._envelope(hold.context, self._hold_id(hold, account, "BudgetReleased"), cause_id)
        return BudgetReleased(**envelope, **_amounts(hold, budget, account, amount), reason=reason)

    def crossed(self, line: Line, percent: int) -> BudgetThresholdCrossed:
        """Usage reached a soft threshold."""
        envelope = self._line_envelope(line, "BudgetThresholdCrossed", str(percent))
        return BudgetThresholdCrossed(**envelope, **_standing(line), threshold_percent=percent)

    def exceeded(self, line: Line) -> Iterator[Event]:
        """Usage went over the limit: said, raised as an alert, and where the budget asks for it, halted."""
        budget, account, *_ = line
        envelope = self._line_envelope(line, "BudgetExceeded")
        yield BudgetExceeded(**envelope, **_standing(line), on_exceeded=budget.on_exceeded)
        used, limit = amount_text(budget.metric, account.used), amount_text(budget.metric, budget.limit)
        summary = f"{_place_text(account)} used {used} of {limit} of budget {budget.budget_id}"
        yield self._raised(line, EXCEEDED_RULE, summary, account.used, budget.limit)
        if budget.refuses and "halted" not in account.flags and is_control_scope(_commanded(line)[0]):
            account.flags.append("halted")
            reason = f"budget {budget.budget_id}: {budget.metric} is over its limit"
            yield self._command(line, "halt", reason, account.end_us)

    def limit_reached(self, line: Line) -> Iterator[Event]:
        """A call was refused, and the budget asks for more than that: an alert; a person is asked, or takes the run."""
        budget, account, *_ = line
        used, limit = (amount_text(budget.metric, amount) for amount in (account.used, budget.limit))
        what = "a person is asked for more" if budget.on_exceeded == "ask_human" else "handed over to a person"
        summary = f"{_place_text(account)} has no room left in budget {budget.budget_id} ({used} of {limit}): {what}"
        yield self._raised(line, LIMIT_RULE, summary, account.used, budget.limit)
        if budget.on_exceeded == "ask_human":
            if not account.question:
                yield self.asked(line)
        elif budget.window == "run" and "halted" not in account.flags:
            account.flags.append("halted")
            yield self._command(line, "halt", f"budget {budget.budget_id}: {budget.metric} is used up", None)

    def asked(self, line: Line) -> ApprovalRequested:
        """A person is asked whether the budget may be more. The question is kept with the account."""
        budget, account, *_ = line
        account.question = self.new_id("approval", account.name, str(budget.version), str(account.start_us))
        change = Raise(budget.budget_id, account.scope, account.scope_value, budget.metric, budget.limit, account.used)
        return ApprovalRequested(
            **self._line_envelope(line, "ApprovalRequested", account.question),
            approval_id=account.question,
            **change.asked(account.reserved(budget)),
            expires_at=account.end_us,
        )

    def answered(self, line: Line, ending: Ending) -> ApprovalDecided:
        """The question was answered by declaring more, or it has lapsed."""
        return ApprovalDecided(
            **self._line_envelope(line, "ApprovalDecided", line.account.question),
            approval_id=line.account.question,
            verdict="approved" if ending.reason == "more" else "expired",
            decided_by=cut(ending.by) if ending.reason == "more" else "",
            reason={"more": cut(ending.why) or RAISED, "retired": "the budget was retired"}.get(
                ending.reason, "its window has ended"
            ),
        )

    def excess(self, line: Line, expected: int) -> AlertRaised:
        """The bound on overshoot has grown too far: calls use more than they ask for, or report too late."""
        budget, account, *_ = line
        bound = amount_text(budget.metric, account.excess)
        what = f"{_place_text(account)} may be {bound} over budget {budget.budget_id}"
        return self._raised(line, EXCESS_RULE, f"{what}: asks too small or reports late", account.excess, expected)

    def over_again(self, line: Line, gone: list[str], *, is_changed: bool) -> Iterator[Event]:
        """What was raised on these lines no longer holds."""
        for flag, rule in (("over", EXCEEDED_RULE), ("told", LIMIT_RULE), ("excess", EXCESS_RULE)):
            if flag in gone:
                yield AlertResolved(
                    **self._line_envelope(line, "AlertResolved", rule),
                    alert_id=self._alert_id(line, rule),
                    rule=rule,
                    reason="budget_changed" if is_changed else "window_ended",
                    resolved_by=rule,
                )
        if "halted" in gone and is_changed:  # at the end of a window the command lapses by itself
            yield self._command(line, "resume", f"budget {line.budget.budget_id} was changed", None)

    def ordered(self, declared: BudgetDeclared, place: tuple[str, str], order: str) -> ControlIssued:
        """What becomes of calls of a scope that nobody decides on has changed with a declaration."""
        scope, value = place
        event_id = self.new_id("ControlIssued", order, scope, value, declared.event_id)
        return ControlIssued(
            **self._envelope(context_of(declared), event_id, declared.event_id),
            command=order,
            scope=scope,
            scope_value=value,
            reason=f"budget {cut(declared.budget_id)} was declared",
            issued_by=cut(declared.declared_by),
        )

    def unknown_report(self, report: HoldReported, context: Context) -> Iterator[Event]:
        """A report of a hold that is not known: its use is in no account. Said at 1, 10, 100 …"""
        count = self._head.unknown_reports
        if str(count).strip("0") != "1":
            return
        alert_id = content_id(0, UNKNOWN_RULE, self._tenant_id, "tenant", self._tenant_id)
        summary = f"{count} report(s) of holds that are not known: what they used is in no budget"
        common: dict[str, Any] = {
            **self._envelope(context, self.new_id(UNKNOWN_RULE, str(count)), report.event_id),
            "alert_id": alert_id,
            "rule": UNKNOWN_RULE,
            "severity": "warning",
            "summary": summary,
            "count": count,
            "trigger_event_ids": [report.event_id],
        }
        if count > 1:
            yield AlertUpdated(**common)
        else:
            yield AlertRaised(
                **common, scope="tenant", scope_value=self._tenant_id, runbook_url=RUNBOOK_URLS[UNKNOWN_RULE]
            )

    def _raised(self, line: Line, rule: str, summary: str, observed: int, expected: int) -> AlertRaised:
        account = line.account
        return AlertRaised(
            **self._line_envelope(line, "AlertRaised", rule),
            alert_id=self._alert_id(line, rule),
            rule=rule,
            severity="critical",
            summary=summary,
            runbook_url=RUNBOOK_URLS[rule],
            scope=account.scope,
            scope_value=account.scope_value,
            trigger_event_ids=[line.cause_id] if line.cause_id else [],
            observed=float(observed),
            expected=float(expected),
            window_start=account.start_us,
            window_end=account.end_us,
        )

    def _command(self, line: Line, command: str, reason: str, expires_us: int | None) -> ControlIssued:
        scope, value = _commanded(line)
        return ControlIssued(
            **self._line_envelope(line, "ControlIssued", command),
            command=command,
            scope=scope,
            scope_value=value,
            reason=reason,
            issued_by=f"budget:{line.budget.budget_id}",
            expires_at=expires_us,
            on_exceeded=line.budget.on_exceeded if command == "halt" else "",
        )

    def _hold_id(self, hold: Hold, account: Account, kind: str) -> str:
        return self.new_id(kind, hold.hold_id, account.name)

    def _line_envelope(self, line: Line, kind: str, *parts: str) -> dict[str, Any]:
        budget, account, context, cause_id = line
        event_id = self.new_id(kind, account.name, str(budget.version), str(account.start_us), *parts)
        return self._envelope(context, event_id, cause_id)

    def _alert_id(self, line: Line, rule: str) -> str:
        budget, account, *_ = line
        where = account.scope, account.scope_value, budget.budget_id, budget.metric, account.run_id
        return content_id(0, rule, self._tenant_id, *where)

    def _envelope(
        self,
        context: Context,
        event_id: str,
        cause_id: str | None,
        seq: int | None = None,
        time_us: int | None = None,
    ) -> dict[str, Any]:
        return {
            "event_id": event_id,
            "tenant_id": self._tenant_id,
            "producer_id": self._producer_id,
            "producer_seq": self.next_seq() if seq is None else seq,
            "run_id": context.run_id,
            "step": context.step,
            "parent_event_id": cause_id,
            "trace_id": context.trace_id,
            "span_id": context.span_id,
            "agent_id": context.agent_id,
            "agent_version": context.agent_version,
            "workflow": context.workflow,
            "environment": context.environment,
            "actor": context.actor,
            "occurred_at": self._head.time_us if time_us is None else time_us,
            "labels": context.labels,
        }


def _amounts(hold: Hold, budget: Budget, account: Account, amount: int) -> dict[str, Any]:
    return {
        "budget_id": budget.budget_id,
        "scope": account.scope,
        "scope_value": account.scope_value,
        "hold_id": hold.hold_id,
        "metric": budget.metric,
        "amount": amount,
        "held_amount": account.held,
        "used_amount": account.used,
    }


def _standing(line: Line) -> dict[str, Any]:
    budget, account, *_ = line
    return {
        "budget_id": budget.budget_id,
        "scope": account.scope,
        "scope_value": account.scope_value,
        "metric": budget.metric,
        "limit_amount": budget.limit,
        "used_amount": account.used,
        "window_start": account.start_us,
        "window_end": account.end_us,
        "trigger_event_id": line.cause_id,
    }


def _commanded(line: Line) -> tuple[str, str]:
    """Whom a command of this budget speaks to: the run, where each run has the budget for itself."""
    account = line.account
    return ("run", account.run_id) if line.budget.window == "run" else (account.scope, account.scope_value)


def _place_text(account: Account) -> str:
    value = account.scope_value
    return f"{account.scope} {value if len(value) <= 80 else value[:79] + '…'}"
