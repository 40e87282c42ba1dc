"""Outcomes: what attempts achieve and what a success costs, by any dimension and over time, two groups compared."""

from __future__ import annotations

from starlette.responses import Response

from agentledger.schemas.errors import UsageError
from agentledger.sinks.console.charts import Chart, Line
from agentledger.sinks.console.visits import PAGE_TIME_S_MAX, Visit
from agentledger.sinks.cost_per_outcome import (
    METRICS,
    AttemptGroup,
    Comparison,
    Selection,
    attempt_groups,
    compare_groups,
)
from agentledger.sinks.cost_report import signed_text, with_ends

RANGES = {"week": 7, "day": 1, "month": 30, "quarter": 92}
DIMENSIONS = ("workflow", "model", "agent", "agent_version", "prompt_version", "policy_version")
GROUPS_MAX = 200  # of one page
DAY_US = 86_400_000_000

_BY_DAY = """
SELECT toUnixTimestamp(toDateTime(day)) AS at_s, sum(cost_nanousd) AS cost, sum(successes) AS successes,
    sum(attempts) AS attempts, sum(unaccounted) AS unaccounted
FROM agentledger.cost_per_outcome
WHERE tenant_id = {tenant_id:String} AND day >= toDate(fromUnixTimestamp64Micro({since_us:Int64}, 'UTC'))
    AND ({workflow:String} = '' OR workflow = {workflow:String})
GROUP BY at_s ORDER BY at_s"""


def show_outcomes(visit: Visit) -> Response:
    """The page /outcomes."""
    span = visit.choice("range", RANGES)
    by = visit.choice("by", dict.fromkeys(DIMENSIONS))
    workflow = visit.text("workflow")
    since_us = visit.now_us - RANGES[span] * DAY_US
    chosen = Selection(by, workflow or None, visit.visitor.tenant_id, since_us=since_us)
    with visit.recorded("outcomes", by=by, workflow=workflow, range=span) as client:
        groups = attempt_groups(client, chosen, time_s_max=PAGE_TIME_S_MAX)[:GROUPS_MAX]
        days = visit.rows_from(client, _BY_DAY, since_us=since_us, workflow=workflow)
    chart = Chart(
        "dollars per successful outcome, by the day on which runs started",
        [row["at_s"] for row in days],
        [Line("dollars per success",
              [row["cost"] / row["successes"] / 1e9 if row["cost"] and row["successes"] else None for row in days])],
    )  # fmt: skip
    return visit.page(
        "outcomes.html", groups=groups, chart=chart, comparison=_comparison(visit, chosen, groups), span=span, by=by,
        workflow=workflow, ranges=list(RANGES), dimensions=DIMENSIONS, base=visit.text("base"),
        other=visit.text("other"), metrics=METRICS, with_ends=with_ends, signed_text=signed_text,
    )  # fmt: skip


def _comparison(visit: Visit, chosen: Selection, groups: list[AttemptGroup]) -> Comparison | None:
    """The two groups that were asked for, side by side. Raises UsageError where one isn't there."""
    base, other = visit.text("base"), visit.text("other")
    if not base or not other or base == other:
        return None
    by_value = {group.value: group for group in groups}
    if base not in by_value or other not in by_value:
        raise UsageError("one of the two has no attempts in this time", next_step="choose two of the table")
    return compare_groups(by_value[base], by_value[other], chosen.by)
