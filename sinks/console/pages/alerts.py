"""Alerts: open, acknowledged and resolved; the history of a rule; and what a person says of one."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.responses import RedirectResponse, Response

from agentledger.schemas import uuid7
from agentledger.schemas.errors import UsageError
from agentledger.schemas.events import AlertAcknowledged, AlertResolved
from agentledger.sinks.console.charts import Chart, Line
from agentledger.sinks.console.pages.rule_trial import TRIAL, trial_ranges
from agentledger.sinks.console.visits import Visit

ROWS_MAX = 200
DAY_US = 86_400_000_000
HISTORY_DAYS = 90
UNCOUNTED = -1  # the producer_seq of events that nobody counts
STATES = {
    "open": "status = 'open'",
    "not acknowledged": "status = 'open' AND acknowledged_at IS NULL",
    "acknowledged": "status = 'open' AND acknowledged_at IS NOT NULL",
    "resolved": "status = 'resolved'",
    "all": "true",
}
SEVERITIES = {"": "every severity", "critical": "critical", "warning": "warning", "info": "info"}

_ALERTS = """
SELECT alert_id, status, severity, rule, summary, scope, scope_value, run_id, agent_id, workflow, raised_at,
    last_raised_at, resolved_at, resolve_reason, resolved_by, acknowledged_at, acknowledged_by, seen, observed,
    expected, runbook_url, trigger_event_ids
FROM agentledger.alerts
WHERE tenant_id = {{tenant_id:String}} AND {condition} AND ({{rule:String}} = '' OR rule = {{rule:String}})
    AND ({{severity:String}} = '' OR severity = {{severity:String}})
ORDER BY status, indexOf(['info', 'warning', 'critical'], severity) DESC, raised_at DESC, alert_id
LIMIT {rows_max}"""
_RULES = """
SELECT rule, countIf(status = 'open') AS open, countIf(status = 'open' AND acknowledged_at IS NULL) AS waiting,
    count() AS alerts, sum(seen) AS seen, max(raised_at) AS last_raised_at,
    quantileExactIf(0.5)(dateDiff('millisecond', raised_at, acknowledged_at), acknowledged_at > raised_at)
        AS taken_on_ms,
    quantileExactIf(0.5)(dateDiff('millisecond', raised_at, resolved_at), resolved_at > raised_at) AS resolved_ms
FROM agentledger.alerts WHERE tenant_id = {tenant_id:String} GROUP BY rule ORDER BY open DESC, alerts DESC LIMIT 100"""
_HISTORY = """
WITH fromUnixTimestamp64Micro({since_us:Int64}, 'UTC') AS since
SELECT toUnixTimestamp(toStartOfDay(assumeNotNull(raised_at))) AS at_s, count() AS alerts,
    countIf(severity = 'critical') AS critical
FROM agentledger.alerts
WHERE tenant_id = {tenant_id:String} AND rule = {rule:String}
    AND raised_at >= since
GROUP BY at_s ORDER BY at_s WITH FILL FROM toUnixTimestamp(toStartOfDay(since))
    TO toUnixTimestamp(fromUnixTimestamp64Micro({now_us:Int64}, 'UTC')) STEP 86400"""
_ONE = """
SELECT alert_id, status, rule, run_id, workflow FROM agentledger.alerts
WHERE tenant_id = {tenant_id:String} AND alert_id = {alert_id:UUID}"""


def show_alerts(visit: Visit) -> Response:
    """The page /alerts."""
    state, severity = visit.choice("state", STATES), visit.choice("severity", SEVERITIES)
    rule = visit.text("rule")
    sql = _ALERTS.format(condition=STATES[state], rows_max=ROWS_MAX)
    return visit.page(
        "alerts.html", alerts=visit.rows(sql, rule=rule, severity=severity), rules=visit.rows(_RULES), state=state,
        severity=severity, rule=rule, states=list(STATES), severities=SEVERITIES, rows_max=ROWS_MAX,
        history=_history(visit, rule) if rule else None, sent=visit.text("sent"), ranges=trial_ranges(),
        trial=visit.jobs.state(TRIAL, visit.visitor.tenant_id), can_try=visit.ports.try_rules is not None,
    )  # fmt: skip


def _history(visit: Visit, rule: str) -> Chart:
    """How often the rule fired, by day."""
    days = visit.rows(_HISTORY, rule=rule, since_us=visit.now_us - HISTORY_DAYS * DAY_US)
    return Chart(
        f"alerts a day of {rule}, last {HISTORY_DAYS} days",
        [row["at_s"] for row in days],
        [Line("alerts", [row["alerts"] for row in days]), Line("critical", [row["critical"] for row in days])],
    )


def answer_alert(visit: Visit) -> Response:
    """The form of /alerts/answer: somebody takes an alert on, or says that it is over; the broker has it then.

    Raises UsageError where the tenant has no such open alert, BrokerError.
    """
    answer, reason = visit.field("answer"), visit.field("reason")
    if answer not in {"acknowledge", "resolve"}:
        raise UsageError("this is no answer to an alert", next_step="send the form of the page Alerts")
    if answer == "resolve" and not reason:
        raise UsageError("to resolve an alert needs a reason", next_step="say what ended it")
    alert = _open_alert(visit)
    visit.ports.publish_alert(_event(visit, alert, answer, reason))
    said = urlencode({"sent": f"{answer} of {alert['rule']}"})
    return RedirectResponse(f"/alerts?{said}", 303)


def _open_alert(visit: Visit) -> Mapping[str, Any]:
    try:
        alert_id = str(uuid.UUID(visit.field("alert_id")))
    except ValueError:
        raise UsageError("this is no alert's id", next_step="send the form of the page Alerts") from None
    found = visit.rows(_ONE, alert_id=alert_id)
    if not found or found[0]["status"] != "open":
        raise UsageError("there is no such open alert", next_step="it may be resolved: see the page Alerts")
    return found[0]


def _event(visit: Visit, alert: Mapping[str, Any], answer: str, reason: str) -> AlertAcknowledged | AlertResolved:
    who, tenant_id = f"console:{visit.visitor.name}", visit.visitor.tenant_id
    alert_id, event_id = str(alert["alert_id"]), uuid7(visit.now_us)
    if answer == "acknowledge":
        return AlertAcknowledged(
            event_id=event_id, tenant_id=tenant_id, producer_id="console", producer_seq=UNCOUNTED,
            run_id=alert["run_id"], workflow=alert["workflow"], actor=who, occurred_at=visit.now_us, alert_id=alert_id,
            acknowledged_by=who, reason=reason, via="console",
        )  # fmt: skip
    return AlertResolved(
        event_id=event_id, tenant_id=tenant_id, producer_id="console", producer_seq=UNCOUNTED,
        run_id=alert["run_id"], workflow=alert["workflow"], actor=who, occurred_at=visit.now_us, alert_id=alert_id,
        rule=alert["rule"], reason=reason, resolved_by=who,
    )  # fmt: skip
