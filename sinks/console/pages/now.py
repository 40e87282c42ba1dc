"""Now: what is spent, what runs, what is wrong, how late the stages are, and when the trail was last signed."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.responses import Response

from agentledger.sinks.console.charts import Chart, Line
from agentledger.sinks.console.pages.budgets import (
    budget_questions,
    budget_rows,
    budget_sums,
    budgets_in_force,
    nearest_first,
)
from agentledger.sinks.console.snapshots import oldest
from agentledger.sinks.console.visits import Visit

HOUR_US, DAY_US, MONTH_US = 3_600_000_000, 86_400_000_000, 30 * 86_400_000_000
FLIGHT_ROWS_MAX = 10
ALERT_ROWS_MAX = 10

_SINCE = "ledger_time >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')"
_MINE = "tenant_id = {tenant_id:String} AND occurrence = 'first'"
_SPENT = f"""
SELECT toUnixTimestamp(toStartOfInterval(ledger_time, INTERVAL 15 MINUTE)) AS at_s,
    sum(cost_nanousd) AS cost, countIf(cost_nanousd IS NULL) AS unpriced
FROM agentledger.ledger WHERE {_MINE} AND {_SINCE} AND event_type = 'CostRated' GROUP BY at_s ORDER BY at_s"""
_FLIGHT = f"""
SELECT run_id, any(agent_id) AS agent_id, any(workflow) AS workflow, min(ledger_time) AS started_at,
    count() OVER () AS in_flight
FROM agentledger.ledger
WHERE {_MINE} AND {_SINCE} AND event_type IN ('RunStarted', 'RunFinished') AND run_id != ''
GROUP BY run_id HAVING countIf(event_type = 'RunFinished') = 0
ORDER BY started_at DESC LIMIT {FLIGHT_ROWS_MAX}"""
_PACE = f"""
SELECT count() AS events, uniqExact(run_id) AS runs,
    countIf(event_type = 'PolicyDecided' AND verdict = 'deny') AS denials,
    countIf(ledger_time >= fromUnixTimestamp64Micro({{now_us:Int64}} - 60000000, 'UTC')) AS events_of_minute
FROM agentledger.ledger
WHERE {_MINE} AND {_SINCE} AND event_type NOT IN ('', 'Ticked') AND topic = 'agentledger.events.v1'"""
ALERTS = """
SELECT alert_id, status, severity, rule, summary, scope, scope_value, run_id, raised_at, last_raised_at, resolved_at,
    resolve_reason, resolved_by, seen, runbook_url
FROM agentledger.alerts WHERE tenant_id = {tenant_id:String} AND status = 'open'
ORDER BY indexOf(['info', 'warning', 'critical'], severity) DESC, raised_at DESC LIMIT {rows_max:UInt32}"""
# Of all tenants: how late a program is says nothing of anybody's runs.
_STAGES = """
SELECT topic, max(last_ledger_time) AS newest,
    dateDiff('millisecond', argMax(last_ledger_time, written_at), max(written_at)) AS lag_ms
FROM agentledger.ledger_batches WHERE written_at >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')
GROUP BY topic ORDER BY topic"""
_OF_DAY = {"spent": _SPENT, "flight": _FLIGHT, "stages": _STAGES}  # these are kept
_CHECKPOINT = f"""
SELECT max(ledger_time) AS signed_at, count() AS signed FROM agentledger.ledger
WHERE event_type = 'CheckpointSigned' AND occurrence = 'first' AND {_SINCE}"""


def show_now(visit: Visit) -> Response:
    """The page /."""
    now_us = visit.now_us
    found = visit.rows_together({
        "hour": (_PACE, {"since_us": now_us - HOUR_US}),
        "signed": (_CHECKPOINT, {"since_us": now_us - MONTH_US}),
        "alerts": (ALERTS, {"rows_max": ALERT_ROWS_MAX}),
        **budget_questions(now_us),
    })  # fmt: skip
    in_force = budgets_in_force(visit, found["declared"])
    of_day = {name: partial(visit.sums, sql, since_us=now_us - DAY_US) for name, sql in _OF_DAY.items()}
    kept = visit.snapshots_together({**{(name,): ask for name, ask in of_day.items()}, **budget_sums(visit, in_force)})
    spent, flight, stages = (kept[name,].value for name in _OF_DAY)
    return visit.page(
        "now.html", **_spend(spent, now_us), flight=flight, in_flight=flight[0]["in_flight"] if flight else 0,
        hour=found["hour"][0], alerts=found["alerts"], signed=found["signed"][0], stages=stages,
        budgets=nearest_first(budget_rows(in_force, found["held"], kept))[:5], age=oldest([*kept.values()]),
    )  # fmt: skip


def _spend(counted: list[dict[str, Any]] | None, now_us: int) -> dict[str, Any]:
    """The sums of the day and its last hour, and the chart."""
    spent = counted or []
    costs = [row["cost"] for row in spent if row["cost"] is not None]
    hour_ago_s = (now_us - HOUR_US - 900_000_000) / 1_000_000
    chart = Chart(
        "spend per quarter of an hour, last 24 hours, dollars",
        [row["at_s"] for row in spent],
        [Line("dollars", [(row["cost"] or 0) / 1e9 for row in spent])],
    )
    return {
        "chart": chart, "cost_of_day": sum(costs) if costs else None,
        "cost_of_hour": None if counted is None else sum(row["cost"] or 0 for row in spent if row["at_s"] > hour_ago_s),
        "unpriced": sum(row["unpriced"] for row in spent),
    }  # fmt: skip
