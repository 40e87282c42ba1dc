-- Runs. Money is nano-dollars, times are UTC.

-- One pass over the ledger without joins: every fact of a run carries its run_id, and a filter on run_id or tenant_id
-- reaches the table, as both are keys of the GROUP BY. The first start and the latest end and outcome count.
-- Charges name the call they rate: those of calls of a simulated user are told apart by the ids of these calls.
CREATE OR REPLACE VIEW agentledger.runs
(
    run_id String COMMENT 'The run: one attempt of an agent at one task',
    tenant_id LowCardinality(String) COMMENT 'Whose ledger this is',
    workflow String COMMENT 'The kind of task: what runs are grouped by',
    agent_id String COMMENT 'Which agent acted',
    source String COMMENT 'Where the record came from: sdk, or the name of an import. Empty where the start was not recorded',
    status String COMMENT 'succeeded, failed, escalated, halted or cancelled as the agent says, running where no end is recorded',
    started_at DateTime64(6, 'UTC') COMMENT 'Start by the agent''s clock, that of the first event where the start was not recorded',
    ended_at Nullable(DateTime64(6, 'UTC')) COMMENT 'End by the agent''s clock, NULL while running',
    duration_ms Nullable(Int64) COMMENT 'From start to end, milliseconds, NULL while running',
    model_calls UInt64 COMMENT 'Model calls of the agent, failed and rejected ones included',
    tool_calls UInt64 COMMENT 'Tool calls, those of a simulated user included',
    tool_errors UInt64 COMMENT 'Tool calls with status error, timeout or denied',
    repeated_tool_calls Int64 COMMENT 'Tool calls whose tool, arguments and requestor occurred earlier in the run',
    input_tokens Nullable(Int64) COMMENT 'Uncached input tokens of the agent''s model calls, NULL where no usage is known',
    cache_read_tokens Nullable(Int64) COMMENT 'Input tokens read from a cache',
    cache_write_tokens Nullable(Int64) COMMENT 'Input tokens written to a cache',
    output_tokens Nullable(Int64) COMMENT 'Output tokens without reasoning',
    reasoning_tokens Nullable(Int64) COMMENT 'Output tokens spent on reasoning',
    total_tokens Nullable(Int64) COMMENT 'All tokens of the agent''s model calls, NULL where no usage is known',
    cost_nanousd Nullable(Int64) COMMENT 'Sum of the charges for the agent''s calls, nano-dollars, NULL where none is priced (never 0 for unpriced)',
    reported_cost_nanousd Nullable(Int64) COMMENT 'Sum of what providers reported for the agent''s calls, or what the run reported as a whole, nano-dollars',
    unpriced_model_calls Int64 COMMENT 'Model calls of the agent without a price: cost_nanousd leaves them out',
    user_cost_nanousd Nullable(Int64) COMMENT 'Sum of the charges for a simulated user''s calls, nano-dollars, NULL where there is none. Not part of cost_nanousd',
    outcome_success Nullable(Bool) COMMENT 'Whether the task was achieved by the latest outcome, NULL where unknown or not recorded (yet)',
    outcome_score Nullable(Float64) COMMENT 'Graded result of the latest outcome',
    outcome_value_nanousd Nullable(Int64) COMMENT 'What the latest outcome is worth, nano-dollars',
    outcome_verified_by String COMMENT 'Who or what checked the latest outcome',
    outcomes UInt64 COMMENT 'Outcomes recorded: more than one where a later one replaced an earlier',
    policy_decisions UInt64 COMMENT 'Decisions of policy engines',
    denials UInt64 COMMENT 'Policy decisions with verdict deny',
    approvals_requested UInt64 COMMENT 'Times that a person was asked to approve',
    budget_thresholds_crossed UInt64 COMMENT 'Soft thresholds of budgets reached in this run',
    budgets_exceeded UInt64 COMMENT 'Budgets that went over their limit in this run',
    alerts UInt64 COMMENT 'Alerts raised in this run, repetitions counted once',
    alert_ids Array(UUID) COMMENT 'Ids of these alerts',
    task String COMMENT 'What was attempted',
    parent_run_id String COMMENT 'The run that started this one, empty for a top-level run',
    agent_version String COMMENT 'Version of the agent',
    environment String COMMENT 'Where it ran, such as production',
    actor String COMMENT 'On whose behalf the agent acted',
    labels Map(String, String) COMMENT 'Free key-value pairs of the start',
    prompt_version String COMMENT 'Version or digest of the prompt',
    policy_version String COMMENT 'Version or digest of the policy',
    toolset_version String COMMENT 'Version or digest of the set of tools',
    budget_cost_nanousd Nullable(Int64) COMMENT 'The run''s own limit on cost, nano-dollars, NULL where none was declared',
    budget_tokens Nullable(Int64) COMMENT 'The run''s own limit on tokens',
    budget_model_calls Nullable(Int64) COMMENT 'The run''s own limit on model calls',
    budget_tool_calls Nullable(Int64) COMMENT 'The run''s own limit on tool calls',
    budget_wall_clock_ms Nullable(Int64) COMMENT 'The run''s own limit on time, milliseconds',
    on_budget_exceeded String COMMENT 'What the run''s own budget asks for at its limit',
    status_reason String COMMENT 'Why the run ended so',
    error_type String COMMENT 'Class of the error that ended the run',
    error_message String COMMENT 'Message of the error that ended the run',
    model_errors UInt64 COMMENT 'Model calls of the agent with a status other than ok',
    user_model_calls UInt64 COMMENT 'Model calls of a simulated user, not part of model_calls',
    user_tool_calls UInt64 COMMENT 'Tool calls of a simulated user, part of tool_calls',
    start_recorded Bool COMMENT 'False where no RunStarted is in the ledger',
    last_event_at DateTime64(6, 'UTC') COMMENT 'Latest event by the agent''s clock, outcomes left out',
    first_ledger_time DateTime64(6, 'UTC') COMMENT 'Ledger time of the run''s first event',
    events UInt64 COMMENT 'Events that agents recorded, conclusions of processors left out'
)
AS WITH
    CAST(start_values AS Tuple(
        source String, task String, parent_run_id String, workflow String,
        agent_id String, agent_version String, environment String, actor String,
        labels Map(String, String), budget_cost_nanousd Nullable(Int64), budget_tokens Nullable(Int64), budget_model_calls Nullable(Int64),
        budget_tool_calls Nullable(Int64), budget_wall_clock_ms Nullable(Int64), on_budget_exceeded String, prompt_version String,
        policy_version String, toolset_version String, occurred_at DateTime64(6, 'UTC')
    )) AS start,
    CAST(finish_values AS Tuple(
        status String, reason String, occurred_at DateTime64(6, 'UTC'), duration_ms Nullable(Int64),
        reported_cost_nanousd Nullable(Int64), error_type String, error_message String
    )) AS finish,
    CAST(outcome_values AS Tuple(
        success Nullable(Bool), score Nullable(Float64), value_nanousd Nullable(Int64), verified_by String
    )) AS outcome,
    CAST(identity_values AS Tuple(
        workflow String, agent_id String, agent_version String, environment String,
        actor String
    )) AS identity,
    arrayFilter(charge -> NOT has(user_call_ids, charge.1), charges) AS agent_charges
SELECT
    run_id,
    tenant_id,
    if(start.workflow != '', start.workflow, identity.workflow) AS workflow,
    if(start.agent_id != '', start.agent_id, identity.agent_id) AS agent_id,
    start.source AS source,
    if(finishes > 0, finish.status, 'running') AS status,
    if(starts > 0, start.occurred_at, first_activity_at) AS started_at,
    if(finishes > 0, toNullable(finish.occurred_at), NULL) AS ended_at,
    if(finishes = 0, NULL, coalesce(finish.duration_ms, dateDiff('millisecond', started_at, finish.occurred_at))) AS duration_ms,
    model_calls,
    tool_calls,
    tool_errors,
    comparable_tool_calls - different_tool_calls AS repeated_tool_calls,
    input_tokens,
    cache_read_tokens,
    cache_write_tokens,
    output_tokens,
    reasoning_tokens,
    if(coalesce(input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens) IS NULL, NULL,
        ifNull(input_tokens, 0) + ifNull(cache_read_tokens, 0) + ifNull(cache_write_tokens, 0) + ifNull(output_tokens, 0) + ifNull(reasoning_tokens, 0)) AS total_tokens,
    if(empty(agent_charges), NULL, arraySum(agent_charges.3)) AS cost_nanousd,
    coalesce(reported_by_calls, finish.reported_cost_nanousd) AS reported_cost_nanousd,
    model_calls - countEqual(agent_charges.2, 'model') AS unpriced_model_calls,
    if(length(agent_charges) = length(charges), NULL, arraySum(charges.3) - arraySum(agent_charges.3)) AS user_cost_nanousd,
    outcome.success AS outcome_success,
    outcome.score AS outcome_score,
    outcome.value_nanousd AS outcome_value_nanousd,
    outcome.verified_by AS outcome_verified_by,
    outcomes,
    policy_decisions,
    denials,
    approvals_requested,
    budget_thresholds_crossed,
    budgets_exceeded,
    length(alert_ids) AS alerts,
    arraySort(alert_ids) AS alert_ids,
    start.task AS task,
    start.parent_run_id AS parent_run_id,
    if(start.agent_version != '', start.agent_version, identity.agent_version) AS agent_version,
    if(start.environment != '', start.environment, identity.environment) AS environment,
    if(start.actor != '', start.actor, identity.actor) AS actor,
    start.labels AS labels,
    start.prompt_version AS prompt_version,
    start.policy_version AS policy_version,
    start.toolset_version AS toolset_version,
    start.budget_cost_nanousd AS budget_cost_nanousd,
    start.budget_tokens AS budget_tokens,
    start.budget_model_calls AS budget_model_calls,
    start.budget_tool_calls AS budget_tool_calls,
    start.budget_wall_clock_ms AS budget_wall_clock_ms,
    start.on_budget_exceeded AS on_budget_exceeded,
    finish.reason AS status_reason,
    finish.error_type AS error_type,
    finish.error_message AS error_message,
    model_errors,
    user_model_calls,
    user_tool_calls,
    toBool(starts > 0) AS start_recorded,
    last_activity_at AS last_event_at,
    first_ledger_time,
    facts AS events
FROM
(
    SELECT
        tenant_id,
        run_id,
        argMinIf(
            (source, task, parent_run_id, workflow, agent_id, agent_version, environment, actor, labels,
             budget_cost_nanousd, budget_tokens, budget_model_calls, budget_tool_calls, budget_wall_clock_ms,
             on_budget_exceeded, prompt_version, policy_version, toolset_version, occurred_at),
            (ledger_time, log_index), event_type = 'RunStarted'
        ) AS start_values,
        argMaxIf(
            (status, reason, occurred_at, duration_ms, reported_cost_nanousd, error_type, error_message),
            (ledger_time, log_index), event_type = 'RunFinished'
        ) AS finish_values,
        argMaxIf(
            (success, score, value_nanousd, verified_by),
            (ledger_time, log_index), event_type = 'OutcomeRecorded'
        ) AS outcome_values,
        argMinIf(
            (workflow, agent_id, agent_version, environment, actor),
            (ledger_time, log_index), is_fact AND (agent_id != '' OR workflow != '')
        ) AS identity_values,
        countIf(is_fact) AS facts,
        countIf(event_type = 'RunStarted') AS starts,
        countIf(event_type = 'RunFinished') AS finishes,
        minIf(occurred_at, is_activity) AS first_activity_at,
        maxIf(occurred_at, is_activity) AS last_activity_at,
        minIf(ledger_time, is_fact) AS first_ledger_time,
        countIf(is_agent_model_call) AS model_calls,
        countIf(is_agent_model_call AND status != 'ok') AS model_errors,
        countIf(event_type = 'ModelCallCompleted' AND NOT is_agent_model_call) AS user_model_calls,
        countIf(event_type = 'ToolCallCompleted') AS tool_calls,
        countIf(event_type = 'ToolCallCompleted' AND NOT is_agent) AS user_tool_calls,
        countIf(event_type = 'ToolCallCompleted' AND status IN ('error', 'timeout', 'denied')) AS tool_errors,
        countIf(event_type = 'ToolCallCompleted' AND arguments_digest != '') AS comparable_tool_calls,
        uniqExactIf((tool, arguments_digest, if(is_agent, '', requestor)), event_type = 'ToolCallCompleted' AND arguments_digest != '') AS different_tool_calls,
        sumIf(input_tokens, is_agent_model_call) AS input_tokens,
        sumIf(cache_read_tokens, is_agent_model_call) AS cache_read_tokens,
        sumIf(cache_write_tokens, is_agent_model_call) AS cache_write_tokens,
        sumIf(output_tokens, is_agent_model_call) AS output_tokens,
        sumIf(reasoning_tokens, is_agent_model_call) AS reasoning_tokens,
        sumIf(reported_cost_nanousd, is_agent AND event_type IN ('ModelCallCompleted', 'ToolCallCompleted')) AS reported_by_calls,
        groupArrayIf((rated_event_id, kind, assumeNotNull(cost_nanousd)), event_type = 'CostRated' AND cost_nanousd IS NOT NULL) AS charges,
        groupArrayIf(event_id, event_type IN ('ModelCallCompleted', 'ToolCallCompleted') AND NOT is_agent) AS user_call_ids,
        countIf(event_type = 'PolicyDecided') AS policy_decisions,
        countIf(event_type = 'PolicyDecided' AND verdict = 'deny') AS denials,
        countIf(event_type = 'ApprovalRequested') AS approvals_requested,
        countIf(event_type = 'OutcomeRecorded') AS outcomes,
        countIf(event_type = 'BudgetThresholdCrossed') AS budget_thresholds_crossed,
        countIf(event_type = 'BudgetExceeded') AS budgets_exceeded,
        groupUniqArrayIf(alert_id, event_type = 'AlertRaised') AS alert_ids
    FROM
    (
        SELECT
            *,
            event_type NOT IN (
                'CostRated', 'OutcomeCosted', 'BudgetHeld', 'BudgetSettled', 'BudgetReleased', 'BudgetThresholdCrossed',
                'BudgetExceeded', 'AlertRaised', 'AlertResolved', 'ControlIssued', 'CheckpointSigned', 'GapDetected',
                'ConflictDetected'
            ) AS is_fact,
            is_fact AND event_type != 'OutcomeRecorded' AS is_activity,
            requestor IN ('', 'assistant') AS is_agent,
            is_agent AND event_type = 'ModelCallCompleted' AS is_agent_model_call
        FROM agentledger.ledger
        WHERE occurrence = 'first' AND event_type != '' AND run_id != ''
    )
    GROUP BY tenant_id, run_id
    HAVING facts > 0
)
COMMENT 'One row per run that any event tells of';
