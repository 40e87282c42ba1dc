"""Alerts: open, resolved, and the history of a rule."""

from __future__ import annotations

from starlette.responses import Response

from agentledger.sinks.console.visits import Visit

ROWS_MAX = 200
STATES = {"open": "status = 'open'", "resolved": "status = 'resolved'", "all": "true"}
SEVERITIES = {"": "every severity", "critical": "critical", "warning": "warning", "info": "info"}

_ALERTS = """
SELECT alert_id, status, severity, rule, summary, scope, scope_value, run_id, agent_id, workflow, raised_at,
    last_raised_at, resolved_at, resolve_reason, resolved_by, seen, observed, expected, runbook_url, trigger_event_ids
FROM agentledger.alerts
WHERE tenant_id = {{tenant_id:String}} AND {condition} AND ({{rule:String}} = '' OR rule = {{rule:String}})
    AND ({{severity:String}} = '' OR severity = {{severity:String}})
ORDER BY status, indexOf(['info', 'warning', 'critical'], severity) DESC, raised_at DESC, alert_id
LIMIT {rows_max}"""
_RULES = """
SELECT rule, countIf(status = 'open') AS open, count() AS alerts, sum(seen) AS seen, max(raised_at) AS last_raised_at
FROM agentledger.alerts WHERE tenant_id = {tenant_id:String} GROUP BY rule ORDER BY open DESC, alerts DESC LIMIT 100"""


def show_alerts(visit: Visit) -> Response:
    """The page /alerts."""
    state, severity = visit.choice("state", STATES), visit.choice("severity", SEVERITIES)
    rule = visit.text("rule")
    sql = _ALERTS.format(condition=STATES[state], rows_max=ROWS_MAX)
    return visit.page(
        "alerts.html", alerts=visit.rows(sql, rule=rule, severity=severity), rules=visit.rows(_RULES), state=state,
        severity=severity, rule=rule, states=list(STATES), severities=SEVERITIES, rows_max=ROWS_MAX,
    )  # fmt: skip
