"""A large ledger, made inside ClickHouse: what a console must be fast on.

Runs of 16 events each (4 model calls with their charges, 3 tool calls, 2 decisions, an outcome), spread over 30 days
and some twenty tenants, of which one has six in ten runs; alerts, holds, budgets, checkpoints beside them. Columns that
no page reads hold their default, so that 100 million rows take a few GB.
"""

from __future__ import annotations

import sys
from typing import Any

from agentledger.sinks.tables import LEDGER

TENANT = "acme"  # the large one
RUN_EVENTS = 16
NO_ID = "00000000-0000-0000-0000-000000000000"
DAYS = 30
END_US = 1_767_225_600_000_000 + 55 * 86_400_000_000  # 2026-02-25
RUNS_A_STATEMENT = 250_000
AGENTS, WORKFLOWS = 12, 8
_SPAN_US = DAYS * 86_400_000_000
# Bytes that can't be compressed and that no page reads would only fill the disk.
_SLIM = ("leaf_hash FixedString(32) CODEC(ZSTD)", "value_sha256 FixedString(32) CODEC(ZSTD)")

_KINDS = (
    "RunStarted", "ModelCallCompleted", "CostRated", "PolicyDecided", "ToolCallCompleted", "ModelCallCompleted",
    "CostRated", "ToolCallCompleted", "ModelCallCompleted", "CostRated", "PolicyDecided", "ToolCallCompleted",
    "ModelCallCompleted", "CostRated", "RunFinished", "OutcomeRecorded",
)  # fmt: skip
_EVENT_ID = "reinterpretAsUUID(toUInt128({number}) + bitShiftLeft(toUInt128({time_us}), 64))"
_RUNS = f"""
INSERT INTO {LEDGER} (topic, topic_id, partition, offset, log_index, ledger_time, batch_time, event_type, occurrence,
    schema_id, raw, event_id, tenant_id, producer_id, producer_seq, run_id, step, agent_id, agent_version, workflow,
    environment, actor, occurred_at, labels, source, task, prompt_version, provider, requested_model, answered_model,
    status, input_tokens, output_tokens, latency_ms, rated_event_id, kind, cost_nanousd, priced, price_source, tool,
    effect, target, arguments_digest, policy, rule, verdict, enforced, action, policy_decision_id, success, attempt)
WITH intDiv(number, {RUN_EVENTS}) AS run, number % {RUN_EVENTS} AS place, sipHash64(run) AS seed,
    {{kinds:Array(String)}}[place + 1] AS type,
    {{first_us:Int64}} + toInt64(run * {{step_us:Float64}}) AS start_us,
    start_us + toInt64(place * (1000000 + seed % 4000000)) AS time_us,
    if(seed % 10 < 6, '{TENANT}', concat('tenant-', toString(seed % 21))) AS tenant,
    concat('agent-', toString(intDiv(seed, 32) % {AGENTS})) AS agent,
    type = 'ModelCallCompleted' AS is_model, type = 'CostRated' AS is_charge, type = 'ToolCallCompleted' AS is_tool,
    type = 'PolicyDecided' AS is_decision, type = 'RunStarted' AS is_start,
    sipHash64(number) AS chance
SELECT if(is_charge, 'agentledger.costs.v1', 'agentledger.events.v1'), toUUID('00000000-0000-7000-8000-000000000001'),
    run % 4, number, number, fromUnixTimestamp64Micro(time_us, 'UTC'), fromUnixTimestamp64Micro(time_us, 'UTC'), type,
    if(chance % 1000 = 0, 'duplicate', 'first'), 1, 'raw bytes',
    {_EVENT_ID.format(number="number", time_us="start_us")},
    tenant, concat('p-', toString(run % 200)), number, concat('run-', lower(hex(seed))), place, agent,
    concat('2.', toString(seed % 3)), concat('flow-', toString(intDiv(seed, 512) % {WORKFLOWS})), 'production', '',
    fromUnixTimestamp64Micro(time_us - 300000, 'UTC'), map('team', concat('team-', toString(seed % 5))),
    if(is_start, 'sdk', ''), if(is_start, concat('Refund order A-', toString(run)), ''),
    if(is_start, concat('v', toString(seed % 2)), ''), if(is_model, 'openai', ''), if(is_model, 'gpt-4.1', ''),
    if(is_model, 'gpt-4.1', ''),
    multiIf(is_model OR is_tool, if(chance % 50 = 0, 'error', 'ok'),
        type = 'RunFinished', if(seed % 12 = 0, 'failed', 'succeeded'), ''),
    if(is_model, toNullable(500 + chance % 2000), NULL), if(is_model, toNullable(50 + chance % 500), NULL),
    if(is_model OR is_tool, toNullable(toFloat64(200 + chance % 5000)), NULL),
    if(is_charge, {_EVENT_ID.format(number="number - 1", time_us="start_us")}, toUUID('{NO_ID}')),
    if(is_charge, 'model', ''), if(is_charge, toNullable(1000000 + chance % 9000000), NULL), is_charge,
    if(is_charge, 'genai-prices', ''), if(is_tool, concat('tool-', toString(chance % 9)), ''),
    if(is_tool, if(place = 11, 'write', 'read'), ''), if(is_tool OR is_decision, concat('order:', toString(run)), ''),
    if(is_tool, toString(chance), ''), if(is_decision, 'refunds', ''), if(is_decision, 'amount_cap', ''),
    if(is_decision, if(chance % 40 = 0, 'deny', 'allow'), ''),
    if(is_decision, if(chance % 40 = 0, 'blocked', 'allowed'), ''), if(is_decision, 'create_refund', ''),
    if(is_tool AND place = 11, toNullable({_EVENT_ID.format(number="number - 1", time_us="start_us")}), NULL),
    if(type = 'OutcomeRecorded', toNullable(seed % 12 != 0), NULL), if(is_model OR is_tool, 1, 0)
FROM numbers({{first:UInt64}}, {{count:UInt64}})
WHERE time_us < {END_US}
"""
_BESIDE = """
INSERT INTO {ledger} (topic, topic_id, partition, offset, log_index, ledger_time, batch_time, event_type, occurrence,
    schema_id, raw, event_id, tenant_id, producer_id, run_id, agent_id, workflow, occurred_at, alert_id, rule, severity,
    summary, scope, scope_value, hold_id, verdict, action, ask_cost_nanousd, ask_tokens, count, origin, tree_size,
    root_hash)
WITH {{end_us}} - toInt64((number + 1) * ({span_us} / {count})) AS time_us, {subject} AS subject
SELECT '{topic}', toUUID('00000000-0000-7000-8000-00000000000{partition}'), 0, number, number,
    fromUnixTimestamp64Micro(time_us + {late_us}, 'UTC'), fromUnixTimestamp64Micro(time_us + {late_us}, 'UTC'),
    '{kind}', 'first', 2, 'raw', generateUUIDv7(), '{tenant}', 'holds:0',
    concat('run-', lower(hex(sipHash64(subject)))), concat('agent-', toString(subject % 12)),
    concat('flow-', toString(subject % 8)), fromUnixTimestamp64Micro(time_us, 'UTC'),
    reinterpretAsUUID(toUInt128(subject)), concat('rule_', toString(subject % 6)),
    ['info', 'warning', 'critical'][subject % 3 + 1], 'more than is usual', 'agent',
    concat('agent-', toString(subject % 12)), concat('hold-', toString(subject)), '{verdict}',
    '{action}', 5000000, 2000, 1, 'ledger', number, 'abc'
FROM numbers({count}) WHERE {condition}"""
_BUDGETS = f"""
INSERT INTO {LEDGER} (topic, topic_id, partition, offset, log_index, ledger_time, batch_time, event_type, occurrence,
    schema_id, raw, event_id, tenant_id, producer_id, occurred_at, budget_id, scope, scope_value, metric, limit_amount,
    window, on_exceeded, enforcement, budget_version, declared_by)
WITH fromUnixTimestamp64Micro({END_US} - {_SPAN_US} + toInt64(number), 'UTC') AS time,
    [
        ('tenant', '{TENANT}', 'cost_nanousd', 'day'), ('agent', '', 'cost_nanousd', 'hour'),
        ('workflow', 'flow-1', 'cost_nanousd', 'month'), ('team', '', 'tokens', 'day'),
        ('tenant', '{TENANT}', 'tool_calls', 'month'), ('agent', 'agent-3', 'cost_nanousd', 'day'),
        ('workflow', '', 'model_calls', 'month'), ('tenant', '{TENANT}', 'cost_nanousd', 'month')
    ][number + 1] AS of
SELECT 'agentledger.holds.v1', toUUID('00000000-0000-7000-8000-000000000009'), 0, number, number, time, time,
    'BudgetDeclared', 'first', 3, 'raw', generateUUIDv7(), '{TENANT}', 'budgets', time,
    concat('budget-', toString(number)), of.1, of.2, of.3, 1000000000000000, of.4, 'warn', 'watch', 1, 'budgets.yaml'
FROM numbers(8)"""
_BATCHES = f"""
INSERT INTO agentledger.ledger_batches (topic, topic_id, partition, first_offset, last_offset, first_index, last_index,
    rows, last_ledger_time, skipped_offsets, batch_time, written_at, tree)
WITH {END_US} - {_SPAN_US} + toInt64((number + 1) * ({_SPAN_US} / {{count:Int64}})) AS time_us
SELECT 'agentledger.events.v1', toUUID('00000000-0000-7000-8000-000000000001'), number % 4, number * 50,
    number * 50 + 49, number * 50, number * 50 + 49, 50, fromUnixTimestamp64Micro(time_us - 400000, 'UTC'), 0,
    fromUnixTimestamp64Micro(time_us, 'UTC'), fromUnixTimestamp64Micro(time_us, 'UTC'), 'tree'
FROM numbers({{count:Int64}})"""


def fill(client: Any, events: int) -> None:
    """Make a ledger of so many events up to END_US; says how far it is on stderr."""
    client.command(f"ALTER TABLE {LEDGER} " + ", ".join(f"MODIFY COLUMN {column}" for column in _SLIM))
    runs = events // RUN_EVENTS
    parameters: dict[str, Any] = {
        "kinds": list(_KINDS), "first_us": END_US - _SPAN_US, "step_us": _SPAN_US / runs,
    }  # fmt: skip
    for first in range(0, runs, RUNS_A_STATEMENT):
        count = min(RUNS_A_STATEMENT, runs - first)
        place = {"first": first * RUN_EVENTS, "count": count * RUN_EVENTS}
        settings = {"max_insert_threads": 2, "min_insert_block_size_rows": 500_000, "min_insert_block_size_bytes": 0}
        client.command(_RUNS, parameters=parameters | place, settings=settings)
        sys.stderr.write(f"  {(first + count) * RUN_EVENTS:,} of {events:,} events\n")
    _fill_beside(client, runs)
    client.command(_BUDGETS)
    client.command(_BATCHES, parameters={"count": events // 50})


def _fill_beside(client: Any, runs: int) -> None:
    """One alert for each 2,000 runs, of which all but some are over; a hold for each 50; 144 checkpoints a day."""
    alerts, holds = max(runs // 2_000, 20), max(runs // 50, 100)
    for kind, count, late_us, condition, others in (
        ("AlertRaised", alerts, 0, "true", {}),
        ("AlertResolved", alerts, 3_600_000_000, "number >= 12", {}),
        ("HoldRequested", holds, 0, "true", {}),
        ("HoldDecided", holds, 5_000, "true", {"verdict": "granted"}),
        ("HoldReported", holds, 4_000_000, "number >= 7", {"action": "settle"}),
        ("CheckpointSigned", DAYS * 144, 0, "true", {"tenant": "agentledger"}),
    ):
        facts = {"tenant": TENANT, "verdict": "", "action": "", "subject": "number", "topic": f"agentledger.{kind}",
                 "partition": 2, "ledger": LEDGER, "span_us": _SPAN_US, "late_us": late_us} | others  # fmt: skip
        sql = _BESIDE.format(kind=kind, count=count, condition=condition, **facts)
        client.command(sql.replace("{end_us}", str(END_US)))
