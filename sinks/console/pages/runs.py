"""Runs: the latest of a time range, searched and filtered, a page at a time.

Which runs they are is asked of the ledger by time, agent and workflow; only these are then summed up by the view.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from agentledger.sinks.console.visits import Visit
from agentledger.sinks.runs_view import runs_where

ROWS_MAX = 50
CANDIDATES_MAX = 1000  # of which those with a status or a problem are picked: a bound for what the view sums up
PAGES_MAX = 100
SHARES = (64, 8, 1)  # of the time that is asked for, the latest first
EARLY_US = 3_600_000_000  # events of a run that were appended before its start: by other producers, or late
RANGES = {"day": 86_400, "hour": 3_600, "week": 7 * 86_400, "month": 30 * 86_400, "year": 366 * 86_400}
STATES = {
    "": "true",
    "running": "status = 'running'",
    "succeeded": "status = 'succeeded'",
    "failed": "status = 'failed'",
    "halted": "status = 'halted'",
    "escalated": "status = 'escalated'",
    "outcome failure": "outcome_success = false",
    "without outcome": "outcomes = 0",
    "with alerts": "alerts > 0",
    "with denials": "denials > 0",
    "over budget": "budgets_exceeded > 0",
    "unpriced": "unpriced_model_calls > 0",
}
ORDERS = {"newest": "first_ledger_time DESC", "dearest": "cost_nanousd DESC NULLS LAST", "longest": "events DESC"}

_CANDIDATES = """
SELECT run_id, toUnixTimestamp64Micro(min(ledger_time)) AS started_us FROM agentledger.ledger
WHERE tenant_id = {tenant_id:String} AND occurrence = 'first' AND event_type = {event_type:String} AND run_id != ''
    AND ledger_time >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')
    AND ({agent:String} = '' OR agent_id = {agent:String}) AND ({workflow:String} = '' OR workflow = {workflow:String})
    AND (startsWith(run_id, {text:String}) OR positionCaseInsensitive(task, {text:String}) > 0)
GROUP BY run_id ORDER BY max(ledger_time) DESC, run_id LIMIT {limit:UInt32} OFFSET {offset:UInt32}"""
# By itself the view would look for them in all that was ever written: a run's rows come after it began, with few that
# were appended before.
_OF_CANDIDATES = runs_where(
    "tenant_id = {tenant_id:String} AND run_id IN {run_ids:Array(String)}"
    " AND ledger_time >= fromUnixTimestamp64Micro({began_us:Int64}, 'UTC')"
)
_RUNS = """
SELECT run_id, workflow, agent_id, agent_version, status, started_at, duration_ms, model_calls, tool_calls, tool_errors,
    cost_nanousd, reported_cost_nanousd, unpriced_model_calls, outcomes, outcome_success, denials, alerts,
    budgets_exceeded, task
FROM ({runs}) WHERE {condition} ORDER BY {order}, run_id LIMIT {rows_max}"""
_NAMES = """
SELECT groupUniqArray(200)(toString(agent_id)) AS agents, groupUniqArray(200)(toString(workflow)) AS workflows
FROM agentledger.ledger
WHERE tenant_id = {tenant_id:String} AND event_type = 'RunStarted'
    AND ledger_time >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')"""


def show_runs(visit: Visit) -> Response:
    """The page /runs."""
    span = visit.choice("range", RANGES)
    state, order = visit.choice("state", STATES), visit.choice("order", ORDERS)
    number = _number(visit.text("page"))
    is_picked = bool(state) or order != "newest"
    asked = {name: visit.text(name) for name in ("agent", "workflow", "text")}
    page = {"limit": CANDIDATES_MAX, "offset": 0} if is_picked else {"limit": ROWS_MAX + 1, "offset": number * ROWS_MAX}
    naming = visit.questions.submit(_names, visit, span)
    candidates = _candidates(visit, RANGES[span] * 1_000_000, asked, page)
    sql = _RUNS.format(runs=_OF_CANDIDATES, condition=STATES[state], order=ORDERS[order], rows_max=ROWS_MAX)
    shown = candidates if is_picked else dict(list(candidates.items())[:ROWS_MAX])
    with visit.recorded("runs", **asked, range=span, state=state) as client:
        began_us = min(shown.values(), default=0) - EARLY_US
        runs = visit.rows_from(client, sql, run_ids=list(shown), began_us=began_us) if shown else []
    names = naming.result()
    return visit.page(
        "runs.html", runs=runs, span=span, state=state, order=order, asked=asked, number=number,
        ranges=list(RANGES), states=list(STATES), orders=list(ORDERS),
        agents=sorted(filter(None, names["agents"])), workflows=sorted(filter(None, names["workflows"])),
        has_more=not is_picked and len(candidates) > ROWS_MAX, is_cut=is_picked and len(candidates) == CANDIDATES_MAX,
        candidates_max=CANDIDATES_MAX,
    )  # fmt: skip


def _candidates(visit: Visit, range_us: int, asked: dict[str, str], page: dict[str, int]) -> dict[str, int]:
    """The latest runs of a time, and when they started. The end of the time is looked at first: it often has enough."""
    found: list[dict[str, Any]] = []
    for share in SHARES:
        since_us = visit.now_us - range_us // share
        found = visit.rows(_CANDIDATES, event_type="RunStarted", since_us=since_us, **asked, **page)
        if len(found) == page["limit"]:
            break
    return {row["run_id"]: row["started_us"] for row in found}


def _names(visit: Visit, span: str) -> dict[str, list[str]]:
    """The agents and workflows that can be chosen."""
    since_us = visit.now_us - RANGES[span] * 1_000_000
    found = visit.snapshot(("names", span), lambda: visit.sums(_NAMES, since_us=since_us)).value
    return found[0] if found else {"agents": [], "workflows": []}


def _number(text: str) -> int:
    return min(int(text), PAGES_MAX) if text.isascii() and text.isdigit() else 0
