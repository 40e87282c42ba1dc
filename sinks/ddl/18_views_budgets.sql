-- Declared budgets, and holds on them. Money is nano-dollars, times are UTC.

CREATE OR REPLACE VIEW agentledger.budgets
(
    budget_id String COMMENT 'The budget: with the metric it names one limit',
    metric LowCardinality(String) COMMENT 'cost_nanousd, tokens, model_calls, tool_calls or wall_clock_ms: the unit of the limit',
    limit_amount Int64 COMMENT 'The limit',
    scope LowCardinality(String) COMMENT 'tenant, team, agent, workflow, user, run or label:NAME',
    scope_value String COMMENT 'Which one of that scope, empty: each one has this budget for itself',
    window LowCardinality(String) COMMENT 'run, hour, day, month, sliding or total: over what usage is summed',
    window_ms Nullable(Int64) COMMENT 'Length of a sliding window, milliseconds',
    time_zone LowCardinality(String) COMMENT 'IANA name of the time zone in which days and months begin, empty is UTC',
    thresholds_percent Array(String) COMMENT 'Soft thresholds in percent of the limit',
    on_exceeded LowCardinality(String) COMMENT 'What it asks for at its limit: warn, ask_human, halt or escalate',
    enforcement LowCardinality(String) COMMENT 'hold: a call needs a hold beforehand, watch: usage is summed afterwards',
    when_unreachable LowCardinality(String) COMMENT 'allow or refuse: what a client does with a call when no decision can be had',
    budget_version Int64 COMMENT '1 for the first declaration of this budget and metric, then one more for each change',
    is_current Bool COMMENT 'True for the last declaration of this budget and metric by ledger order',
    retired Bool COMMENT 'True where the budget ended with this declaration',
    declared_by String COMMENT 'A person, or the file it came from',
    tenant_id LowCardinality(String) COMMENT 'Whose ledger this is',
    ledger_time DateTime64(6, 'UTC') COMMENT 'The broker''s append time, UTC: it counts from then on',
    log_index UInt64 COMMENT 'Place in the log of its topic and partition, dense from 0',
    event_id UUID COMMENT 'Identity of this event everywhere'
)
AS SELECT
    budget_id,
    metric,
    limit_amount,
    scope,
    scope_value,
    window,
    window_ms,
    time_zone,
    thresholds_percent,
    on_exceeded,
    enforcement,
    when_unreachable,
    budget_version,
    toBool(row_number() OVER (PARTITION BY tenant_id, budget_id, metric ORDER BY ledger_time DESC, log_index DESC) = 1) AS is_current,
    retired,
    declared_by,
    tenant_id,
    ledger_time,
    log_index,
    event_id
FROM agentledger.ledger
WHERE occurrence = 'first' AND event_type = 'BudgetDeclared'
COMMENT 'One row per declaration of a budget''s limit: every version that ever was';

CREATE OR REPLACE VIEW agentledger.holds
(
    hold_id String COMMENT 'The hold',
    tenant_id LowCardinality(String) COMMENT 'Whose ledger this is',
    run_id String COMMENT 'The run that asked for it',
    status String COMMENT 'refused, settled, expired, released, held, or requested where no decision is in the ledger (yet)',
    reason String COMMENT 'Why it was refused or released',
    budget_id String COMMENT 'The budget that refused',
    ask_cost_nanousd Nullable(Int64) COMMENT 'Dollars asked for, nano-dollars, NULL where the request is not in the ledger',
    ask_tokens Int64 COMMENT 'Tokens asked for',
    ask_model_calls Int64 COMMENT 'Model calls asked for',
    ask_tool_calls Int64 COMMENT 'Tool calls asked for',
    actual_cost_nanousd Nullable(Int64) COMMENT 'Dollars spent, nano-dollars, NULL where it was not settled',
    actual_tokens Nullable(Int64) COMMENT 'Tokens used',
    actual_model_calls Nullable(Int64) COMMENT 'Model calls made',
    actual_tool_calls Nullable(Int64) COMMENT 'Tool calls made',
    call_event_id Nullable(UUID) COMMENT 'The call that was made under it',
    requested_at Nullable(DateTime64(6, 'UTC')) COMMENT 'Ledger time of the request',
    decided_at Nullable(DateTime64(6, 'UTC')) COMMENT 'Ledger time of the decision',
    ended_at Nullable(DateTime64(6, 'UTC')) COMMENT 'Ledger time of the settlement, the release or the expiry',
    decision_ms Nullable(Int64) COMMENT 'From request to decision by ledger time, milliseconds',
    agent_id String COMMENT 'Which agent asked',
    workflow String COMMENT 'The kind of task'
)
AS WITH
    CAST(request_values AS Tuple(cost Int64, tokens Int64, model_calls Int64, tool_calls Int64, ledger_time DateTime64(6, 'UTC'))) AS request,
    CAST(decision_values AS Tuple(verdict String, reason String, budget_id String, ledger_time DateTime64(6, 'UTC'))) AS decision,
    CAST(report_values AS Tuple(
        action String, cost Int64, tokens Int64, model_calls Int64, tool_calls Int64, call_event_id Nullable(UUID), reason String,
        ledger_time DateTime64(6, 'UTC')
    )) AS report,
    reports > 0 AND report.action = 'settle' AS is_settled
SELECT
    hold_id,
    tenant_id,
    run_id,
    multiIf(
        decision.verdict = 'refused', 'refused', is_settled, 'settled', expiries > 0, 'expired', reports > 0, 'released',
        decision.verdict = 'granted', 'held', 'requested'
    ) AS status,
    if(decision.verdict = 'refused', decision.reason, report.reason) AS reason,
    decision.budget_id AS budget_id,
    if(requests > 0, toNullable(request.cost), NULL) AS ask_cost_nanousd,
    request.tokens AS ask_tokens,
    request.model_calls AS ask_model_calls,
    request.tool_calls AS ask_tool_calls,
    if(is_settled, toNullable(report.cost), NULL) AS actual_cost_nanousd,
    if(is_settled, toNullable(report.tokens), NULL) AS actual_tokens,
    if(is_settled, toNullable(report.model_calls), NULL) AS actual_model_calls,
    if(is_settled, toNullable(report.tool_calls), NULL) AS actual_tool_calls,
    if(is_settled, report.call_event_id, NULL) AS call_event_id,
    if(requests > 0, toNullable(request.ledger_time), NULL) AS requested_at,
    if(decisions > 0, toNullable(decision.ledger_time), NULL) AS decided_at,
    multiIf(is_settled, toNullable(report.ledger_time), expiries > 0, toNullable(expired_at), reports > 0, toNullable(report.ledger_time), NULL) AS ended_at,
    if(requests > 0 AND decisions > 0, toNullable(dateDiff('millisecond', request.ledger_time, decision.ledger_time)), NULL) AS decision_ms,
    agent_id,
    workflow
FROM
(
    SELECT
        tenant_id,
        hold_id,
        argMinIf(ledger.run_id, (ledger_time, log_index), ledger.run_id != '') AS run_id,
        argMinIf(toString(ledger.agent_id), (ledger_time, log_index), ledger.agent_id != '') AS agent_id,
        argMinIf(toString(ledger.workflow), (ledger_time, log_index), ledger.workflow != '') AS workflow,
        argMinIf(
            (ask_cost_nanousd, ask_tokens, ask_model_calls, ask_tool_calls, ledger_time), (ledger_time, log_index),
            event_type = 'HoldRequested'
        ) AS request_values,
        argMinIf((verdict, reason, budget_id, ledger_time), (ledger_time, log_index), event_type = 'HoldDecided') AS decision_values,
        argMaxIf(
            (action, actual_cost_nanousd, actual_tokens, actual_model_calls, actual_tool_calls, call_event_id, reason, ledger_time),
            (action = 'settle', ledger_time, log_index), event_type = 'HoldReported'
        ) AS report_values,
        countIf(event_type = 'HoldRequested') AS requests,
        countIf(event_type = 'HoldDecided') AS decisions,
        countIf(event_type = 'HoldReported') AS reports,
        countIf(event_type = 'BudgetReleased' AND ledger.reason = 'expired') AS expiries,
        minIf(ledger_time, event_type = 'BudgetReleased' AND ledger.reason = 'expired') AS expired_at
    FROM agentledger.ledger
    WHERE occurrence = 'first' AND event_type IN ('HoldRequested', 'HoldDecided', 'HoldReported', 'BudgetReleased')
    GROUP BY tenant_id, hold_id
    HAVING requests + decisions > 0
)
COMMENT 'One row per hold: what was asked for, what was decided, what it came to';
