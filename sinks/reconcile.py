"""Holds, charges and the ledger's own sums, compared as they stand in ClickHouse: a nano-dollar apart is a drift.

Each check pairs what is expected with what was found, both whole numbers in the metric's unit, per tenant:

- `settled_as_charged`: what a client settled a call's hold at, against the charges that name the call.
- `settled_is_charged`: a call that was settled at more than nothing has a charge, priced or not.
- `settled_as_reported`: what was counted on each account, against the client's report.
- `held_adds_up`: what an account says is held, against its holds that are open.
- `used_adds_up`: what an account says is used, against what was settled in its window.
- `nothing_leaked`: no hold is open long after its time.
- `runs_as_charged`: the cost that a run was last said to have, against the sum of its charges.

Charges without a price have no amount, so they are in no comparison; the alert for unpriced models speaks of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agentledger.sinks.queries import Client, query

EXAMPLES_MAX = 5
CHARGED_S_MAX = 120  # by then the charge of a settled call is in the ledger, unless something is wrong
LEAKED_S = 180  # after a hold's time: a hold ends with the tick after it; the rest is what a decider may be down
OPEN_S_MAX = 86_400  # how far back a hold may be open: four times longer than one may last
RUN_S_MAX = 6 * 86_400  # a run's account is forgotten a week after its last call, and then begins anew
TIME_S_MAX = 120


class AccountWindow(NamedTuple):
    """Of one declared limit, what of its usage counts now. Times are microseconds since 1970.

    Usage from `counts_from_us` on counts, but none from before `began_us`, when the limit got its window. Of a sliding
    window that of the last so many `buckets` before the last word on an account counts; elsewhere there are none.
    """

    tenant_id: str
    budget_id: str
    metric: str
    counts_from_us: int
    began_us: int = 0
    bucket_us: int = 1
    buckets: int = 0
    is_per_run: bool = False


@dataclass(frozen=True)
class Drift:
    """One pair that differs."""

    subject: str
    expected: int
    found: int
    event_ids: tuple[str, ...]


@dataclass(frozen=True)
class CheckResult:
    """A check's result for one tenant. Sums are over all pairs; `examples` are the first of `drifts`."""

    check: str
    tenant_id: str
    compared: int
    expected: int
    found: int
    drifts: int
    last_us: int
    examples: tuple[Drift, ...] = field(default=())


_FIRST = "occurrence = 'first'"
_PARTS = "('BudgetHeld', 'BudgetSettled', 'BudgetReleased')"
_US = "toUnixTimestamp64Micro(occurred_at)"
_AT = "toUnixTimestamp64Micro(ledger_time)"
_SETTLES = f"""
    SELECT tenant_id, hold_id, argMin(event_id, log_index) AS report_id, argMin(call_event_id, log_index) AS call_id,
        argMin(actual_cost_nanousd, log_index) AS actual, min({_AT}) AS at
    FROM agentledger.ledger
    WHERE event_type = 'HoldReported' AND {_FIRST} AND action = 'settle' AND call_event_id IS NOT NULL
        AND {_AT} > {{from_us:Int64}} AND {_AT} <= {{to_us:Int64}}
    GROUP BY tenant_id, hold_id"""
_CHARGES = f"""
    SELECT rated_event_id, sum(cost_nanousd) AS cost, countIf(cost_nanousd IS NOT NULL) AS priced,
        any(event_id) AS charge_id
    FROM agentledger.ledger
    WHERE event_type = 'CostRated' AND {_FIRST} AND {_AT} > {{from_us:Int64}} - {OPEN_S_MAX} * 1000000
    GROUP BY rated_event_id"""
# An account's key; the declared limit that it belongs to is the `place` in the arrays of limits.
_PLACE = "indexOf({names:Array(String)}, concat(tenant_id, '\\0', budget_id, '\\0', metric))"
_ACCOUNT = "tenant_id, budget_id, metric, scope, scope_value, run"
_RUN = f"if({_PLACE} > 0 AND {{per_run:Array(UInt8)}}[{_PLACE}] = 1, run_id, '') AS run"
_NAMED = "concat('budget ', budget_id, ' ', metric, ' of ', scope, ' ', scope_value, if(run = '', '', ', run '), run)"

_PAIRS = {
    "settled_as_charged": f"""
        SELECT tenant_id, concat('hold ', hold_id) AS subject, assumeNotNull(cost) AS expected, actual AS found,
            [report_id, charge_id] AS ids, at
        FROM ({_SETTLES}) AS settles INNER JOIN ({_CHARGES}) AS charges ON rated_event_id = call_id
        WHERE priced > 0""",
    "settled_is_charged": f"""
        SELECT tenant_id, concat('hold ', hold_id) AS subject, if(rated_event_id = call_id, actual, 0) AS expected,
            actual AS found, [report_id] AS ids, at
        FROM ({_SETTLES}) AS settles LEFT JOIN ({_CHARGES}) AS charges ON rated_event_id = call_id
        WHERE at <= {{to_us:Int64}} - {CHARGED_S_MAX} * 1000000""",
    "settled_as_reported": f"""
        SELECT tenant_id, concat('hold ', hold_id, ' on ', budget_id, ' ', metric) AS subject,
            greatest(0, multiIf(metric = 'cost_nanousd', cost, metric = 'tokens', tokens,
                metric = 'model_calls', model_calls, tool_calls)) AS expected,
            amount AS found, [report_id, settled_id] AS ids, at
        FROM (
            SELECT tenant_id, hold_id, budget_id, metric, amount, parent_event_id, event_id AS settled_id, {_AT} AS at
            FROM agentledger.ledger
            WHERE event_type = 'BudgetSettled' AND {_FIRST} AND {_AT} > {{from_us:Int64}} AND {_AT} <= {{to_us:Int64}}
        ) AS settled
        INNER JOIN (
            SELECT event_id AS report_id, actual_cost_nanousd AS cost, actual_tokens AS tokens,
                actual_model_calls AS model_calls, actual_tool_calls AS tool_calls
            FROM agentledger.ledger
            WHERE event_type = 'HoldReported' AND {_FIRST} AND {_AT} > {{from_us:Int64}} - {OPEN_S_MAX} * 1000000
        ) AS reports ON report_id = parent_event_id""",
    "held_adds_up": f"""
        SELECT tenant_id, {_NAMED} AS subject, sum(if(ended = 0, part, 0)) AS expected, argMax(held, seq) AS found,
            [argMax(id, seq)] AS ids, max(part_at) AS at
        FROM (
            SELECT {_ACCOUNT}, hold_id, sumIf(amount, event_type = 'BudgetHeld') AS part,
                countIf(event_type != 'BudgetHeld') AS ended, argMax(held_amount, producer_seq) AS held,
                max(producer_seq) AS seq, argMax(event_id, producer_seq) AS id, max({_AT}) AS part_at
            FROM (
                SELECT *, {_RUN} FROM agentledger.ledger
                WHERE event_type IN {_PARTS} AND {_FIRST} AND {_AT} > {{to_us:Int64}} - {OPEN_S_MAX} * 1000000
            )
            GROUP BY {_ACCOUNT}, hold_id
        )
        GROUP BY {_ACCOUNT}""",
    "nothing_leaked": f"""
        SELECT tenant_id, concat('hold ', hold_id, ' on ', {_NAMED}) AS subject, 0 AS expected,
            if(ended = 0 AND over_us < {{to_us:Int64}} - {LEAKED_S} * 1000000, part, 0) AS found, [id] AS ids, at
        FROM (
            SELECT {_ACCOUNT}, hold_id, sumIf(amount, event_type = 'BudgetHeld') AS part,
                countIf(event_type != 'BudgetHeld') AS ended, any(event_id) AS id, max({_AT}) AS at,
                max(toUnixTimestamp64Micro(ifNull(expires_at, toDateTime64(0, 6, 'UTC')))) AS over_us
            FROM (
                SELECT *, '' AS run FROM agentledger.ledger
                WHERE event_type IN {_PARTS} AND {_FIRST} AND {_AT} > {{to_us:Int64}} - {OPEN_S_MAX} * 1000000
            )
            GROUP BY {_ACCOUNT}, hold_id
        )""",
    "used_adds_up": f"""
        SELECT tenant_id, {_NAMED} AS subject,
            if(buckets = 0, counted, arraySum(arrayFilter(
                (amount, bucket) -> bucket >= intDiv(last_us, bucket_us) - buckets, slid.2, slid.1))) AS expected,
            used AS found, [id] AS ids, last_us AS at
        FROM (
            SELECT {_ACCOUNT}, any({{buckets_us:Array(Int64)}}[place]) AS bucket_us,
                any({{buckets:Array(Int64)}}[place]) AS buckets, any({{from:Array(Int64)}}[place]) AS counts_from_us,
                sumIf(amount, is_use AND {_US} >= {{from:Array(Int64)}}[place]) AS counted,
                sumMapIf([intDiv({_US}, {{buckets_us:Array(Int64)}}[place])], [amount],
                    is_use AND {{buckets:Array(Int64)}}[place] > 0) AS slid,
                argMax(used_amount, producer_seq) AS used, argMax(event_id, producer_seq) AS id,
                max({_US}) AS last_us, min({_US}) AS first_us
            FROM (
                SELECT *, {_PLACE} AS place, {_RUN},
                    event_type = 'BudgetSettled' AND {_US} >= {{began:Array(Int64)}}[place] AS is_use
                FROM agentledger.ledger
                WHERE event_type IN {_PARTS} AND {_FIRST} AND place > 0
            )
            GROUP BY {_ACCOUNT}
        )
        WHERE last_us >= counts_from_us AND (run = '' OR first_us > {{to_us:Int64}} - {RUN_S_MAX} * 1000000)""",
    "runs_as_charged": f"""
        SELECT tenant_id, concat('run ', run_id) AS subject, charged AS expected, assumeNotNull(said) AS found,
            [id] AS ids, at
        FROM (
            SELECT tenant_id, run_id, sumIf(cost_nanousd, event_type = 'CostRated') AS charged,
                tupleElement(argMaxIf(tuple(cost_nanousd), revision, event_type = 'OutcomeCosted'), 1) AS said,
                argMaxIf(event_id, revision, event_type = 'OutcomeCosted') AS id,
                countIf(event_type = 'OutcomeCosted') AS statements, max({_AT}) AS at
            FROM agentledger.ledger
            WHERE event_type IN ('CostRated', 'OutcomeCosted') AND {_FIRST} AND (tenant_id, run_id) IN (
                SELECT tenant_id, run_id FROM agentledger.ledger
                WHERE event_type IN ('CostRated', 'OutcomeCosted') AND {_AT} > {{from_us:Int64}}
                    AND {_AT} <= {{to_us:Int64}})
            GROUP BY tenant_id, run_id
        )
        WHERE statements > 0 AND said IS NOT NULL AND at <= {{to_us:Int64}}""",
}
CHECKS = tuple(_PAIRS)
_TOTALS = """
SELECT tenant_id, count() AS compared, sum(toInt128(expected)) AS all_expected,
    sum(toInt128(found)) AS all_found,
    countIf(expected != found) AS drifts, maxIf(at, expected != found) AS last_us,
    arraySlice(arraySort(groupArrayIf(1000)((at, subject, expected, found, ids), expected != found)), 1, {examples})
        AS examples
FROM ({pairs})
GROUP BY tenant_id ORDER BY tenant_id"""


def reconcile(
    client: Client, *, from_us: int, to_us: int, windows: Sequence[AccountWindow], checks: Sequence[str] = CHECKS
) -> list[CheckResult]:
    """Each check's result for each tenant that has something to compare. Times are ledger time, microseconds.

    Calls and runs are those with something said of them after `from_us` up to `to_us`; accounts are compared as they
    stand now. `windows` are of all declared limits. Raises StoreError.
    """
    parameters: dict[str, Any] = {
        "from_us": from_us,
        "to_us": to_us,
        "names": ["\0".join((window.tenant_id, window.budget_id, window.metric)) for window in windows],
        "from": [window.counts_from_us for window in windows],
        "began": [window.began_us for window in windows],
        "buckets_us": [window.bucket_us for window in windows],
        "buckets": [window.buckets for window in windows],
        "per_run": [int(window.is_per_run) for window in windows],
    }
    found = []
    for check in checks:
        sql = _TOTALS.replace("{examples}", str(EXAMPLES_MAX)).replace("{pairs}", _PAIRS[check])
        asked = {name: value for name, value in parameters.items() if f"{{{name}:" in sql}
        for row in query(client, sql, parameters=asked, time_s_max=TIME_S_MAX).records():
            drifts = tuple(
                Drift(said, want, have, tuple(map(str, ids))) for _, said, want, have, ids in row["examples"]
            )
            found.append(
                CheckResult(
                    check, row["tenant_id"], row["compared"], row["all_expected"], row["all_found"], row["drifts"],
                    row["last_us"], drifts,
                )
            )  # fmt: skip
    return found
