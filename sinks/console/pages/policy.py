"""Policy: decisions by rule and by action, denials, actions that were blocked or not, and writes without a decision."""

from __future__ import annotations

from starlette.responses import Response

from agentledger.sinks.console.visits import Visit

RANGES = {"day": 86_400, "hour": 3_600, "week": 7 * 86_400, "month": 30 * 86_400}
ROWS_MAX = 100

_WHERE = """WHERE tenant_id = {tenant_id:String} AND occurrence = 'first'
    AND ledger_time >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')"""
_RULES = f"""
SELECT policy, rule, count() AS decisions, countIf(verdict = 'allow') AS allowed, countIf(verdict = 'deny') AS denied,
    countIf(verdict NOT IN ('allow', 'deny')) AS others,
    countIf(verdict = 'deny' AND enforced != 'blocked') AS unenforced
FROM agentledger.ledger {_WHERE} AND event_type = 'PolicyDecided'
GROUP BY policy, rule ORDER BY denied DESC, decisions DESC LIMIT {ROWS_MAX}"""
_ACTIONS = f"""
SELECT action, count() AS decisions, countIf(verdict = 'deny') AS denied, uniqExact(run_id) AS runs
FROM agentledger.ledger {_WHERE} AND event_type = 'PolicyDecided'
GROUP BY action ORDER BY denied DESC, decisions DESC LIMIT {ROWS_MAX}"""
_DENIALS = f"""
SELECT ledger_time, run_id, agent_id, policy, rule, action, target, reason, enforced
FROM agentledger.ledger {_WHERE} AND event_type = 'PolicyDecided' AND verdict = 'deny'
ORDER BY ledger_time DESC LIMIT {ROWS_MAX}"""
_UNDECIDED = f"""
SELECT ledger_time, run_id, agent_id, tool, effect, target, status
FROM agentledger.ledger {_WHERE} AND event_type = 'ToolCallCompleted' AND effect IN ('write', 'irreversible')
    AND policy_decision_id IS NULL AND NOT dry_run
ORDER BY ledger_time DESC LIMIT {ROWS_MAX}"""


def show_policy(visit: Visit) -> Response:
    """The page /policy."""
    span = visit.choice("range", RANGES)
    since_us = visit.now_us - RANGES[span] * 1_000_000
    with visit.recorded("policy", range=span) as client:
        found = {
            name: visit.rows_from(client, sql, since_us=since_us)
            for name, sql in {
                "rules": _RULES, "actions": _ACTIONS, "denials": _DENIALS, "undecided": _UNDECIDED
            }.items()
        }  # fmt: skip
    return visit.page("policy.html", **found, span=span, ranges=list(RANGES), rows_max=ROWS_MAX)
