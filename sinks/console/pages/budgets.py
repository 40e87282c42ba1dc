"""Budgets by scope, the widest first: what is used of each in its window, its pace, its end, its holds; and what is
halted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from starlette.responses import Response

from agentledger.schemas.scopes import LABEL_SCOPE
from agentledger.sinks.budget_usage import AMOUNTS, used_sql
from agentledger.sinks.console.snapshots import Key, Snapshot, oldest
from agentledger.sinks.console.visits import Question, Visit

BUDGETS_MAX = 100
ACCOUNTS_MAX = 5  # of a budget that each agent, user … has for itself: those that used most
HOLDS_MAX = 50
COMMANDS_MAX = 100
HOUR_US = 3_600_000_000
SCOPES = ("run", "agent", "workflow", "team", "user", "tenant")
DEPTHS = {"tenant": 0, "team": 1, "workflow": 2, "agent": 3, "user": 3, "run": 4}

_BUDGETS = f"""
SELECT budget_id, metric, limit_amount, scope, scope_value, window, window_ms, time_zone, on_exceeded, enforcement,
    declared_by, ledger_time
FROM agentledger.budgets WHERE tenant_id = {{tenant_id:String}} AND is_current AND NOT retired
ORDER BY scope != 'tenant', scope, scope_value, budget_id, metric LIMIT {BUDGETS_MAX}"""
_HOLDS = f"""
SELECT hold_id, run_id, agent_id, workflow, ask_cost_nanousd, ask_tokens, requested_at, status FROM agentledger.holds
WHERE tenant_id = {{tenant_id:String}} AND status = 'held' ORDER BY requested_at DESC LIMIT {HOLDS_MAX}"""
# What is held of each budget now, by holds that were neither settled nor given back. A call that takes over a day isn't
# counted.
_HELD = f"""
SELECT budget_id, metric, account, sum(held) AS held FROM (
    SELECT budget_id, metric, scope_value AS account, hold_id, sumIf(amount, event_type = 'BudgetHeld') AS held
    FROM agentledger.ledger
    WHERE tenant_id = {{tenant_id:String}} AND occurrence = 'first'
        AND event_type IN ('BudgetHeld', 'BudgetSettled', 'BudgetReleased')
        AND ledger_time >= fromUnixTimestamp64Micro({{since_us:Int64}}, 'UTC')
    GROUP BY budget_id, metric, account, hold_id
    HAVING countIf(event_type != 'BudgetHeld') = 0
) GROUP BY budget_id, metric, account HAVING held > 0 ORDER BY held DESC LIMIT {BUDGETS_MAX * ACCOUNTS_MAX}"""
# A budget lifts its own halts, a person's resume all that were there before it: as schemas.control has it.
_HALTS = f"""
SELECT scope, scope_value,
    argMax((command, reason, issued_by, expires_at, ledger_time), (ledger_time, log_index)) AS last
FROM (
    SELECT *, multiIf(NOT startsWith(issued_by, 'budget'), '', scope = 'run', 'budgets', issued_by) AS owner,
        maxIf(ledger_time, command = 'resume' AND owner = '') OVER (PARTITION BY scope, scope_value) AS lifted_at
    FROM agentledger.controls WHERE tenant_id = {{tenant_id:String}} AND command IN ('halt', 'resume')
)
GROUP BY scope, scope_value, owner
HAVING last.1 = 'halt' AND (last.4 IS NULL OR last.4 > fromUnixTimestamp64Micro({{now_us:Int64}}, 'UTC'))
    AND last.5 > any(lifted_at)
ORDER BY last.5 DESC LIMIT {COMMANDS_MAX}"""
_COMMANDS = f"""
SELECT ledger_time, command, scope, scope_value, reason, issued_by, expires_at FROM agentledger.controls
WHERE tenant_id = {{tenant_id:String}} ORDER BY ledger_time DESC LIMIT {COMMANDS_MAX}"""


class Account(NamedTuple):
    """What one agent, user … uses and holds of a budget. `forecast`: at the window's end, at the last hour's pace."""

    name: str
    used: int
    last_hour: int
    forecast: float | None
    held: int


class InForce(NamedTuple):
    """A declared budget, its window now, and the SQL of what is used of it; empty where its run's page shows that."""

    declared: Mapping[str, Any]
    start_us: int | None
    end_us: int | None
    sql: str

    @property
    def is_sliding(self) -> bool:
        """Whether its window's start moves with the time."""
        return bool(self.declared["window"] == "sliding")

    @property
    def key(self) -> Key:
        """Of its sums: another declaration and another window have others."""
        return ("used", self.declared["budget_id"], self.declared["metric"], str(self.declared["ledger_time"]),
                "sliding" if self.is_sliding else str(self.start_us))  # fmt: skip


class BudgetRow(NamedTuple):
    """A declared budget and its accounts, the one that used most first."""

    declared: Mapping[str, Any]
    start_us: int | None
    end_us: int | None
    accounts: list[Account]
    depth: int  # of its scope: a tenant is wider than a team, and this than an agent
    counted: Snapshot[Any] | None = None  # of when the sums are; None where nothing is summed up


def show_budgets(visit: Visit) -> Response:
    """The page /budgets."""
    questions: dict[str, Question] = {"halts": (_HALTS, {}), "commands": (_COMMANDS, {}), "holds": (_HOLDS, {})}
    found = visit.rows_together({**questions, **budget_questions(visit.now_us)})
    in_force = budgets_in_force(visit, found["declared"])
    budgets = budget_rows(in_force, found["held"], visit.snapshots_together(budget_sums(visit, in_force)))
    return visit.page(
        "budgets.html", budgets=budgets, halts=halts(found["halts"]), commands=found["commands"], holds=found["holds"],
        age=oldest([budget.counted for budget in budgets if budget.counted]), scopes=SCOPES, sent=visit.text("sent"),
        scope=visit.text("scope") or "run", scope_value=visit.text("value"),
    )  # fmt: skip


def halts(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The halts in force, as far as the ledger knows, the latest first."""
    names = ("command", "reason", "issued_by", "expires_at", "ledger_time")
    return [{"scope": row["scope"], "scope_value": row["scope_value"], **dict(zip(names, row["last"], strict=True))}
            for row in found]  # fmt: skip


def budget_questions(now_us: int) -> dict[str, Question]:
    """What is asked of the budgets in force: what was declared, and what is held of it."""
    return {"declared": (_BUDGETS, {}), "held": (_HELD, {"since_us": now_us - 24 * HOUR_US})}


def budgets_in_force(visit: Visit, declared: Sequence[Mapping[str, Any]]) -> list[InForce]:
    """The declared budgets with their windows."""
    return [_in_force(visit, one) for one in declared]


def _in_force(visit: Visit, declared: Mapping[str, Any]) -> InForce:
    window = visit.ports.window_of(
        declared["window"], visit.now_us, time_zone=declared["time_zone"], window_ms=declared["window_ms"]
    )
    each_run = declared["window"] == "run"  # the run's page shows those
    sql = "" if each_run else used_sql(declared["scope"], declared["metric"], accounts_max=ACCOUNTS_MAX)
    return InForce(declared, window.start_us, window.end_us, sql)


def budget_sums(visit: Visit, budgets: Sequence[InForce]) -> dict[Key, Callable[[], list[dict[str, Any]]]]:
    """What is used of each: sums that are kept, those of the shortest windows first."""
    shortest_first = sorted(budgets, key=lambda budget: -(budget.start_us or 0))
    return {budget.key: partial(_used, visit, budget) for budget in shortest_first if budget.sql}


def budget_rows(
    budgets: Sequence[InForce], held: Sequence[Mapping[str, Any]], sums: Mapping[Key, Snapshot[Any]]
) -> list[BudgetRow]:
    """The budgets in force with what is used and held of each: from the widest scope to the narrowest."""
    amounts = {(row["budget_id"], row["metric"], row["account"]): row["held"] for row in held}
    rows = [_row(budget, sums.get(budget.key), amounts) for budget in budgets]
    return sorted(rows, key=lambda row: row.depth)


def nearest_first(rows: list[BudgetRow]) -> list[BudgetRow]:
    """Those nearest to their limit first."""
    return sorted(rows, key=lambda row: -_share(row))


def _share(row: BudgetRow) -> float:
    return row.accounts[0].used / max(row.declared["limit_amount"], 1) if row.accounts else -1.0


def _depth(scope: str) -> int:
    return DEPTHS.get(scope, DEPTHS["team"])  # a label groups runs as a team does


def _row(budget: InForce, counted: Snapshot[Any] | None, held: Mapping[tuple[str, str, str], int]) -> BudgetRow:
    declared = budget.declared
    depth = _depth(declared["scope"])
    if counted is None:
        return BudgetRow(declared, budget.start_us, budget.end_us, [], depth)
    accounts = [
        Account(
            row["account"], row["used"], row["last_hour"],
            # A sliding window has no end to come to.
            None if budget.is_sliding
            else forecast(row["used"], row["last_hour"], counted.as_of_us, budget.end_us),
            held.get((declared["budget_id"], declared["metric"], row["account"]), 0),
        )
        for row in counted.value or []
        if row["used"] or not budget.is_sliding
    ]  # fmt: skip
    return BudgetRow(declared, budget.start_us, budget.end_us, accounts, depth, counted)


def _used(visit: Visit, budget: InForce) -> list[dict[str, Any]]:
    """What each account has used in the window, those that used most. It reads every record of the window."""
    declared = budget.declared
    return visit.sums(
        budget.sql, event_types=list(AMOUNTS[declared["metric"]].event_types), since_us=budget.start_us or 0,
        hour_ago_us=visit.now_us - HOUR_US, scope_value=declared["scope_value"],
        label=declared["scope"].removeprefix(LABEL_SCOPE),
    )  # fmt: skip


def forecast(used: int, last_hour: int, now_us: int, end_us: int | None) -> float | None:
    """What will be used at the end of the window if the last hour's pace holds; None without an end."""
    return None if end_us is None else used + last_hour * max(0, end_us - now_us) / HOUR_US
