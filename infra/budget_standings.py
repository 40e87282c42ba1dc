"""How far each budget is used now: held ones by their accounts' last events, watched ones summed from the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agentledger.processors.budget_declarations import Key, newest
from agentledger.processors.budget_windows import Window, window_of
from agentledger.schemas.events import BudgetDeclared
from agentledger.schemas.scopes import LABEL_SCOPE
from agentledger.sinks.budget_usage import AMOUNTS, used_sql
from agentledger.sinks.queries import query

STANDINGS_MAX = 1000  # of one budget's metric
RUNS_SINCE_US = 24 * 3_600_000_000  # runs are listed that used something in the last day
HOUR_US = 3_600_000_000

# A budget's conclusions of one account are numbered by their producer; those of one moment have the amounts of then.
_HELD = """
SELECT metric, scope, scope_value, if({per_run:Bool}, run_id, '') AS run,
    argMax(held_amount, producer_seq) AS held, argMax(used_amount, producer_seq) AS used,
    max(held_amount + used_amount) AS most, toUnixTimestamp64Micro(max(ledger_time)) AS last_us
FROM agentledger.ledger
WHERE event_type IN ('BudgetHeld', 'BudgetSettled', 'BudgetReleased') AND occurrence = 'first'
    AND tenant_id = {tenant:String} AND budget_id = {budget:String} AND metric = {metric:String}
GROUP BY metric, scope, scope_value, run
ORDER BY last_us DESC LIMIT {rows_max:UInt32}"""
# What no sum of records gives (time, retries) is known from the last line that was crossed.
_LINES = """
SELECT scope_value, argMax(used_amount, (ledger_time, log_index)) AS used
FROM agentledger.ledger
WHERE event_type IN ('BudgetThresholdCrossed', 'BudgetExceeded') AND occurrence = 'first'
    AND tenant_id = {tenant:String} AND budget_id = {budget:String} AND metric = {metric:String}
    AND occurred_at >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')
GROUP BY scope_value ORDER BY used DESC LIMIT {rows_max:UInt32}"""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One account of one limit. Amounts are in the metric's unit, times in microseconds since 1970.

    `most` is the most that was used and held at a time, of held budgets: what lies over the limit is overshoot.
    `is_exact`: False where the ledger says only what the last crossed line was.
    """

    budget_id: str
    metric: str
    scope: str
    scope_value: str
    run: str
    enforcement: str
    used: int
    held: int
    limit: int
    most: int
    over: int
    window_start_us: int | None
    window_end_us: int | None
    is_exact: bool = True

    @property
    def share(self) -> float | None:
        """What is used and held, of the limit; None of a limit of 0."""
        return (self.used + self.held) / self.limit if self.limit else None


def standings(client: Any, tenant_id: str, declared: Iterable[BudgetDeclared], now_us: int) -> list[Standing]:
    """Of these declarations (in ledger order), each limit in force with its accounts. Raises StoreError."""
    events = list(declared)
    began: dict[Key, int] = {}
    for event in events:
        began.setdefault((event.budget_id, event.metric), event.occurred_at)
    found: list[Standing] = []
    for key, event in sorted(newest(events).items()):
        if event.retired:
            continue
        window = window_of(event.window, now_us, time_zone=event.time_zone, window_ms=event.window_ms)
        if event.enforcement == "hold":
            found += _held(client, tenant_id, event, window)
        else:
            found += _watched(
                client, tenant_id, event, window, since_us=max(began[key], window.start_us or 0), now_us=now_us
            )
    return found


def _held(client: Any, tenant_id: str, event: BudgetDeclared, window: Window) -> list[Standing]:
    parameters = {**_named(tenant_id, event), "per_run": event.window == "run"}
    rows = query(client, _HELD, parameters=parameters).records()
    return [
        _standing(
            event, window, row["scope_value"], row["run"],
            # The last event of a window that has ended says nothing of the one that is open.
            used=row["used"] if row["last_us"] >= (window.start_us or 0) else 0, held=row["held"], most=row["most"],
        )
        for row in rows
    ]  # fmt: skip


def _watched(
    client: Any, tenant_id: str, event: BudgetDeclared, window: Window, *, since_us: int, now_us: int
) -> list[Standing]:
    each_run = event.window == "run"
    sql = used_sql(event.scope, event.metric, each_run=each_run, accounts_max=STANDINGS_MAX)
    if sql:
        parameters: dict[str, Any] = {
            "tenant_id": tenant_id, "event_types": list(AMOUNTS[event.metric].event_types),
            "since_us": now_us - RUNS_SINCE_US if each_run else since_us, "hour_ago_us": now_us - HOUR_US,
            "scope_value": event.scope_value, "label": event.scope.removeprefix(LABEL_SCOPE),
        }  # fmt: skip
        rows = query(client, sql, parameters=parameters).records()
    else:
        rows = query(client, _LINES, parameters={**_named(tenant_id, event), "since_us": since_us}).records()
        rows = [{"account": row["scope_value"], "used": row["used"]} for row in rows]
    return [
        _standing(
            event, window, row["account"], row["account"] if each_run else "", used=row["used"], is_exact=bool(sql)
        )
        for row in rows
    ]


def _named(tenant_id: str, event: BudgetDeclared) -> dict[str, Any]:
    return {"tenant": tenant_id, "budget": event.budget_id, "metric": event.metric, "rows_max": STANDINGS_MAX}


def _standing(
    event: BudgetDeclared,
    window: Window,
    account: str,
    run: str,
    *,
    used: int,
    held: int = 0,
    most: int = 0,
    is_exact: bool = True,
) -> Standing:
    most = most or used
    return Standing(
        budget_id=event.budget_id,
        metric=event.metric,
        scope="run" if run and event.enforcement == "watch" else event.scope,
        scope_value=account,
        run=run,
        enforcement=event.enforcement,
        used=used,
        held=held,
        limit=event.limit_amount,
        most=most,
        over=max(0, most - event.limit_amount),
        window_start_us=window.start_us,
        window_end_us=None if event.window == "sliding" else window.end_us,  # it slides on and has no end
        is_exact=is_exact,
    )
