"""What is used of a budget, summed from the ledger as the folds count it: by agents alone, at the call's ledger time.

A simulated user's calls and people's time use up no budget; a call without a price does by what the provider reported.
"""

from __future__ import annotations

from typing import NamedTuple

from agentledger.schemas.scopes import LABEL_SCOPE, TEAM_LABEL

_CALLS = ("ModelCallCompleted",)
_BY_AGENTS = "requestor != 'user'"
# A conclusion's own time is the ledger time of what it follows from, and its ledger time is later, but for the clocks
# of brokers: that finds the parts of the table to be read, and is checked of no row.
_APPENDED_SINCE = "indexHint(ledger_time >= fromUnixTimestamp64Micro({since_us:Int64} - 3600000000, 'UTC'))"
_CHARGED_TO_AGENTS = f"""kind != 'human' AND rated_event_id NOT IN (
        SELECT event_id FROM agentledger.ledger WHERE tenant_id = {{tenant_id:String}} AND requestor = 'user'
            AND event_type IN ('ModelCallCompleted', 'ToolCallCompleted') AND occurrence = 'first' AND {_APPENDED_SINCE}
    )"""


class Amount(NamedTuple):
    """What counts for a metric: which records, how much of each, and which of them are agents'."""

    event_types: tuple[str, ...]
    sql: str
    condition: str


AMOUNTS = {
    "cost_nanousd": Amount(("CostRated",), "coalesce(cost_nanousd, reported_cost_nanousd, 0)", _CHARGED_TO_AGENTS),
    "tokens": Amount(
        _CALLS,
        "ifNull(input_tokens, 0) + ifNull(cache_read_tokens, 0) + ifNull(cache_write_tokens, 0)"
        " + ifNull(output_tokens, 0) + ifNull(reasoning_tokens, 0)",
        _BY_AGENTS,
    ),
    "model_calls": Amount(_CALLS, "1", _BY_AGENTS),
    "tool_calls": Amount(("ToolCallCompleted",), "1", _BY_AGENTS),
}
_ACCOUNTS = {
    "tenant": "toString(tenant_id)", "agent": "toString(agent_id)", "workflow": "toString(workflow)", "user": "actor",
    "team": f"labels['{TEAM_LABEL}']", "run": "run_id",
}  # fmt: skip


def account_of(scope: str) -> str:
    """The SQL of whose account a record counts for; empty for a scope without one. A label's name is a parameter."""
    return "labels[{label:String}]" if scope.startswith(LABEL_SCOPE) else _ACCOUNTS.get(scope, "")


def used_sql(scope: str, metric: str, *, each_run: bool = False, accounts_max: int) -> str:
    """A query for accounts (or, with `each_run`, the runs) with `used` and `last_hour`, the most used first.

    Parameters: `tenant_id`, `event_types`, `since_us` and `hour_ago_us` (ledger time, microseconds), `scope_value`
    (empty: each), `label` (of a label's scope). Empty where the ledger alone doesn't say it.
    """
    account, amount = account_of(scope), AMOUNTS.get(metric)
    if amount is None or not account:
        return ""
    at = "occurred_at" if metric == "cost_nanousd" else "ledger_time"
    return f"""
SELECT {"run_id" if each_run else account} AS account, sum({amount.sql}) AS used,
    sumIf({amount.sql}, {at} >= fromUnixTimestamp64Micro({{hour_ago_us:Int64}}, 'UTC')) AS last_hour
FROM agentledger.ledger
WHERE tenant_id = {{tenant_id:String}} AND occurrence = 'first' AND event_type IN {{event_types:Array(String)}}
    AND {at} >= fromUnixTimestamp64Micro({{since_us:Int64}}, 'UTC') AND {_APPENDED_SINCE} AND {amount.condition}
    AND ({{scope_value:String}} = '' OR {account} = {{scope_value:String}}) AND {account} != ''
GROUP BY account ORDER BY used DESC LIMIT {accounts_max}"""
