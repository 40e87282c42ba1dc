"""Watched budgets: declared limits on scopes wider than a run, summed from what was rated, second by second. Pure.

Decisions that hold here:

- Usage belongs to the window of the second of ledger time in which it was folded by stage 1, so a window that closed
  never changes; a declaration counts for the whole second in which it was made.
- What a budget counted before it was changed stays; what happened before it was first declared isn't counted.
- A threshold is crossed when usage reaches it, a budget is exceeded when usage is over its limit. Each is said once per
  window; of a window without an end (total, sliding) again after usage was back at or below the limit.
- Where `on_exceeded` is halt, escalate or ask_human, a halt of the scope is issued; it lapses when the window ends, or
  after one length of a sliding window, and is lifted when usage is within the limit before that. Where `on_exceeded`
  is ask_human, a person is asked, too: declaring more is the answer.
- The alert is resolved when the window ends, the limit was raised, or usage slid below it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agentledger.processors.budget_windows import bucket_of, first_bucket, window_of
from agentledger.processors.budgets import RUNBOOK_URL, SUMMED, amount_text
from agentledger.processors.charges import cut
from agentledger.processors.partial_records import BUCKET_US, Usage, group_fields
from agentledger.processors.scope_events import Conclusions, Finding, alert_id_of, short
from agentledger.processors.scope_run_budgets import tell_runs
from agentledger.processors.scope_state import NEVER, Used, Watched
from agentledger.schemas.budget_questions import RAISED, Raise
from agentledger.schemas.control import is_control_scope
from agentledger.schemas.errors import ConfigurationError
from agentledger.schemas.events import (
    ApprovalDecided,
    ApprovalRequested,
    BudgetDeclared,
    BudgetExceeded,
    BudgetThresholdCrossed,
    ControlIssued,
)
from agentledger.schemas.identity import content_id

BUDGETS_MAX = 1000  # per tenant; declarations beyond are refused with an alert
VALUES_MAX = 5000  # scope values with a sum of their own, of all budgets; those beyond share OTHER and raise an alert
DECLARATIONS_MAX = 200  # whose repetition is known; clients repeat within seconds
OTHER = "(other)"
HALTING = frozenset({"halt", "escalate", "ask_human"})
RULE = "budget_exceeded"
_KEPT = (
    "budget_id",
    "budget_version",
    "scope",
    "scope_value",
    "metric",
    "limit_amount",
    "window",
    "window_ms",
    "time_zone",
    "thresholds_percent",
    "on_exceeded",
    "enforcement",
)

GroupUsage = Iterable[tuple[str, Usage]]


def budget_key(event: BudgetDeclared) -> str:
    """What names one limit: the budget and its metric."""
    return f"{event.budget_id}\x1f{event.metric}"


def declare(out: Conclusions, event: BudgetDeclared) -> None:
    """Take a declaration in: a new budget, a change, or its end. Budgets of each run are watched in stage 1."""
    if event.event_id in out.state.declarations:
        return  # a repetition: what was declared since must not be undone by it
    out.state.declarations = [*out.state.declarations, event.event_id][-DECLARATIONS_MAX:]
    budgets, key = out.state.budgets, budget_key(event)
    tell_runs(out, event, key)
    if event.retired or event.scope == "run" or event.metric not in SUMMED or not _has_window(event):
        watched = budgets.pop(key, None)
        if watched is not None:
            for value, used in sorted(watched.values.items()):
                _end_alert(out, watched, value, used, "budget_retired")
        return
    declared = {name: getattr(event, name) for name in _KEPT}
    watched = budgets.get(key)
    if watched is None:
        if len(budgets) < BUDGETS_MAX:
            budgets[key] = Watched(declared)
        else:
            out.say(_too_many(f"{BUDGETS_MAX:,} budgets are watched; {short(event.budget_id)} is not"))
        return
    if any(watched.declared[name] != declared[name] for name in ("scope", "scope_value", "window", "window_ms")):
        for value, used in sorted(watched.values.items()):
            _end_alert(out, watched, value, used, "budget_changed")
        budgets[key] = Watched(declared)  # another budget under the same name: it starts anew
        return
    watched.declared = declared
    for value, used in sorted(watched.values.items()):
        if used.exceeded and used.used <= declared["limit_amount"]:
            _end_alert(out, watched, value, used, "limit_raised", answer=event)
        _look(out, watched, value, used)


def use(out: Conclusions, usage: GroupUsage) -> dict[str, dict[str, int]]:
    """Count what a second used; the amounts that were added, by budget key and scope value."""
    added: dict[str, dict[str, int]] = {}
    by_scope: dict[str, list[tuple[str, Watched]]] = {}
    for key, watched in out.state.budgets.items():
        by_scope.setdefault(watched.declared["scope"], []).append((key, watched))
    for group, amounts in usage:
        for scope, budgets in by_scope.items():
            found = scope_value_of(scope, group, out.state.tenant_id)
            if found is None:
                continue
            for key, watched in budgets:
                wanted = watched.declared["scope_value"]
                amount = amounts[SUMMED.index(watched.declared["metric"])]
                if amount and wanted in ("", found):
                    sums = added.setdefault(key, {})
                    sums[found] = sums.get(found, 0) + amount
    for key, sums in sorted(added.items()):
        watched = out.state.budgets[key]
        for value, amount in sorted(sums.items()):
            _add(out, watched, value, amount)
    return added


def pass_time(out: Conclusions) -> None:
    """What follows from the second being over: windows that ended, usage that slid away."""
    for _, watched in sorted(out.state.budgets.items()):
        for value, used in sorted(watched.values.items()):
            if used.exceeded or used.crossed:
                _turn(out, watched, value, used, out.now_us)


def deadline(out: Conclusions) -> int:
    """The next second after this one in which `pass_time` has something to say without any usage."""
    soonest = NEVER
    for watched in out.state.budgets.values():
        sliding = watched.declared["window"] == "sliding"
        for used in watched.values.values():
            if not (used.exceeded or used.crossed):
                continue
            if sliding and used.slots:
                soonest = min(soonest, out.second + max(1, watched.declared["window_ms"] // 60_000))
            elif used.window_end_us is not None:
                soonest = min(soonest, max(out.second + 1, -(-used.window_end_us // BUCKET_US) - 1))
    return soonest


def scope_value_of(scope: str, group: str, tenant_id: str) -> str | None:
    """Which value of this scope a group of usage belongs to; None where it has none."""
    if scope == "tenant":
        return tenant_id
    fields = group_fields(group)
    if scope == "team":
        return fields.labels.get("team")
    if scope.startswith("label:"):
        return fields.labels.get(scope.removeprefix("label:"))
    return {"agent": fields.agent_id, "workflow": fields.workflow, "user": fields.actor}.get(scope) or None


def _add(out: Conclusions, watched: Watched, value: str, amount: int) -> None:
    used = watched.values.get(value)
    if used is None:
        if _count_values(out) >= VALUES_MAX:
            for other in out.state.budgets.values():
                for name in [name for name, known in other.values.items() if _is_over(other, known, out.now_us)]:
                    del other.values[name]
        if _count_values(out) >= VALUES_MAX:
            out.say(_too_many(f"budgets have over {VALUES_MAX:,} scope values: the rest is summed together"))
            value = OTHER
        used = watched.values.setdefault(value, Used())
    start_us = out.second * BUCKET_US
    _turn(out, watched, value, used, start_us)
    window_ms = watched.declared["window_ms"]
    if watched.declared["window"] == "sliding":
        slot = bucket_of(start_us, window_ms)
        used.slots[slot] = used.slots.get(slot, 0) + amount
    used.used += amount
    if value != OTHER:
        _look(out, watched, value, used)


def _count_values(out: Conclusions) -> int:
    return sum(len(watched.values) for watched in out.state.budgets.values())


def _turn(out: Conclusions, watched: Watched, value: str, used: Used, time_us: int) -> None:
    """Bring a sum to the window of this time."""
    declared = watched.declared
    if declared["window"] == "sliding":
        oldest = first_bucket(time_us, declared["window_ms"])
        gone = [slot for slot in used.slots if slot < oldest]
        for slot in gone:
            used.used -= used.slots.pop(slot)
        if gone:
            limit = declared["limit_amount"]
            used.crossed = [percent for percent in used.crossed if used.used * 100 >= limit * percent]
            if used.exceeded and used.used <= limit:
                _end_alert(out, watched, value, used, "condition_ended")
        return
    if used.window_end_us is not None and time_us < used.window_end_us:
        return
    if used.window_end_us is None and used.window_start_us is None and used.used:
        return  # a window without an end
    window = window_of(declared["window"], time_us, time_zone=declared["time_zone"])
    if used.used and used.window_start_us is not None:
        used.closed = [used.window_start_us, used.used]
    if used.exceeded:
        _end_alert(out, watched, value, used, "window_ended")
    used.window_start_us, used.window_end_us = window
    used.used, used.crossed = 0, []


def _look(out: Conclusions, watched: Watched, value: str, used: Used) -> None:
    """Say which lines a sum has crossed that weren't said."""
    declared = watched.declared
    if declared["enforcement"] != "watch" or used.used <= 0:
        return
    limit = declared["limit_amount"]
    for text in declared["thresholds_percent"]:
        percent = int(text) if text.isdigit() else 0
        if percent > 0 and percent not in used.crossed and used.used * 100 >= limit * percent:
            used.crossed.append(percent)
            _say_crossed(out, watched, value, used, percent)
    if used.used > limit and not used.exceeded:
        used.exceeded = True
        used.episode += 1
        _say_exceeded(out, watched, value, used)


def _say_crossed(out: Conclusions, watched: Watched, value: str, used: Used, percent: int) -> None:
    event_id = _line_id(out, watched, value, used, "BudgetThresholdCrossed", str(percent))
    facts = _facts(watched, value, used)
    envelope = out.envelope(event_id, facts["scope"], value)
    out.events.append(BudgetThresholdCrossed(**envelope, **facts, threshold_percent=percent))


def _say_exceeded(out: Conclusions, watched: Watched, value: str, used: Used) -> None:
    declared, facts = watched.declared, _facts(watched, value, used)
    scope, action = declared["scope"], declared["on_exceeded"]
    event_id = _line_id(out, watched, value, used, "BudgetExceeded")
    out.events.append(BudgetExceeded(**out.envelope(event_id, scope, value), **facts, on_exceeded=action))
    out.say(_finding(watched, value, used))
    if action not in HALTING or not is_control_scope(scope):
        return
    expires_at = used.window_end_us
    if declared["window"] == "sliding":
        expires_at = out.now_us + declared["window_ms"] * 1000
    event_id = _line_id(out, watched, value, used, "ControlIssued")
    out.events.append(
        ControlIssued(
            **out.envelope(event_id, scope, value),
            command="halt",
            scope=scope,
            scope_value=value,
            reason=_finding(watched, value, used).summary,
            issued_by=f"budget:{declared['budget_id']}",
            expires_at=expires_at,
            on_exceeded=action,
        )
    )
    if action == "ask_human" and not used.question:
        out.events.append(_question(out, watched, value, used))


def _end_alert(
    out: Conclusions, watched: Watched, value: str, used: Used, reason: str, *, answer: BudgetDeclared | None = None
) -> None:
    """What was raised is over; `answer` is the declaration of more, where that was it."""
    if not used.exceeded:
        return
    used.exceeded = False
    out.resolve(alert_id_of(out.state.tenant_id, _finding(watched, value, used)), reason)
    if used.question:
        out.events.append(_answer(out, watched, value, used, reason, answer=answer))
        used.question = ""
    action, scope = watched.declared["on_exceeded"], watched.declared["scope"]
    if action not in HALTING or not is_control_scope(scope):
        return
    if reason != "window_ended" and not _still_halts(out, watched, value):  # at a window's end it lapses by itself
        event_id = _line_id(out, watched, value, used, "ControlIssued", "resume", reason)
        command = {"command": "resume", "scope": scope, "scope_value": value, "reason": reason}
        issued_by = f"budget:{watched.declared['budget_id']}"
        out.events.append(ControlIssued(**out.envelope(event_id, scope, value), **command, issued_by=issued_by))


def _still_halts(out: Conclusions, watched: Watched, value: str) -> bool:
    """Whether another limit of the same budget halts this scope: the halt is the budget's."""
    declared = watched.declared
    for other in out.state.budgets.values():
        same = other is not watched and value in other.values and other.declared["budget_id"] == declared["budget_id"]
        is_here = same and other.declared["scope"] == declared["scope"] and other.declared["on_exceeded"] in HALTING
        if is_here and other.values[value].exceeded:
            return True
    return False


def _question(out: Conclusions, watched: Watched, value: str, used: Used) -> ApprovalRequested:
    """A person is asked whether the budget may be more."""
    declared = watched.declared
    used.question = _approval_id(out, watched, value, used)
    change = Raise(
        declared["budget_id"], declared["scope"], value, declared["metric"], declared["limit_amount"], used.used
    )
    event_id = _line_id(out, watched, value, used, "ApprovalRequested")
    return ApprovalRequested(
        **out.envelope(event_id, declared["scope"], value),
        approval_id=used.question,
        **change.asked(),
        expires_at=used.window_end_us,
    )


def _answer(
    out: Conclusions, watched: Watched, value: str, used: Used, reason: str, *, answer: BudgetDeclared | None
) -> ApprovalDecided:
    """The question was answered by declaring more, or it has lapsed."""
    event_id = _line_id(out, watched, value, used, "ApprovalDecided", reason)
    envelope = out.envelope(event_id, watched.declared["scope"], value)
    if answer is None:
        return ApprovalDecided(
            **envelope, approval_id=used.question, verdict="expired", reason=reason.replace("_", " ")
        )
    return ApprovalDecided(
        **envelope,
        approval_id=used.question,
        verdict="approved",
        decided_by=cut(answer.declared_by),
        reason=cut(answer.reason) or RAISED,
    )


def _approval_id(out: Conclusions, watched: Watched, value: str, used: Used) -> str:
    """The same for a question and its answer: it names what was exceeded, and the how manieth time."""
    declared = watched.declared
    where = declared["budget_id"], declared["metric"], declared["scope"], value
    return content_id(0, "approval", out.state.tenant_id, *where, str(used.window_start_us), str(used.episode))


def _finding(watched: Watched, value: str, used: Used) -> Finding:
    declared = watched.declared
    metric, limit = declared["metric"], declared["limit_amount"]
    usage = f"{amount_text(metric, used.used)} of {amount_text(metric, limit)}"
    return Finding(
        RULE,
        "critical",
        declared["scope"],
        value,
        f"{declared['scope']} {short(value)} used {usage} ({short(declared['budget_id'])}, per {declared['window']})",
        subject=f"{declared['budget_id']}\x1f{metric}",
        runbook_url=RUNBOOK_URL,
        observed=float(used.used),
        expected=float(limit),
        window_start_us=used.window_start_us,
        window_end_us=used.window_end_us,
    )


def _facts(watched: Watched, value: str, used: Used) -> dict[str, Any]:
    declared = watched.declared
    return {
        "budget_id": declared["budget_id"],
        "scope": declared["scope"],
        "scope_value": value,
        "metric": declared["metric"],
        "limit_amount": declared["limit_amount"],
        "used_amount": used.used,
        "window_start": used.window_start_us,
        "window_end": used.window_end_us,
    }


def _line_id(out: Conclusions, watched: Watched, value: str, used: Used, *what: str) -> str:
    """The id of what is said once per line, scope value and window (or episode, where there is no window)."""
    declared = watched.declared
    window = str(used.window_start_us) if used.window_start_us is not None else f"{used.episode}:{out.second}"
    parts = (declared["budget_id"], declared["metric"], declared["scope"], value, str(declared["budget_version"]))
    return content_id(used.window_start_us or out.now_us, *what, out.state.tenant_id, *parts, window)


def _too_many(summary: str) -> Finding:
    return Finding("too_many_scope_values", "warning", "tenant", "", summary)


def _has_window(event: BudgetDeclared) -> bool:
    try:
        window_of(event.window, 0, time_zone=event.time_zone, window_ms=event.window_ms)
    except ConfigurationError:
        return False
    return event.window != "run"


def _is_over(watched: Watched, used: Used, now_us: int) -> bool:
    """True for a value without usage in the window of now: its sum may be forgotten."""
    if watched.declared["window"] == "sliding":
        return not used.slots and not used.exceeded
    return used.window_end_us is not None and used.window_end_us <= now_us and not used.exceeded
