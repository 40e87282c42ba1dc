-- The scoreboard. Money is nano-dollars, times are UTC.

CREATE OR REPLACE VIEW agentledger.scoreboard
(
    workflow String COMMENT 'The kind of task: what runs are grouped by',
    tenant_id LowCardinality(String) COMMENT 'Whose ledger this is',
    runs UInt64 COMMENT 'Runs',
    finished UInt64 COMMENT 'Runs with a recorded end',
    successes UInt64 COMMENT 'Runs whose latest outcome is a success',
    failures UInt64 COMMENT 'Runs whose latest outcome is a failure',
    unaccounted Int64 COMMENT 'Runs without a known outcome',
    success_rate Nullable(Float64) COMMENT 'successes / (successes + failures), NULL where no outcome is known',
    cost_nanousd Nullable(Int64) COMMENT 'Cost of all runs, failed ones included, nano-dollars, NULL where nothing is priced',
    cost_per_successful_outcome_nanousd Nullable(Int64) COMMENT 'Cost of all runs over successes, nano-dollars, rounded down, NULL without a success',
    reported_cost_nanousd Nullable(Int64) COMMENT 'Sum of what providers and frameworks reported, nano-dollars, NULL where none did',
    reported_cost_per_successful_outcome_nanousd Nullable(Int64) COMMENT 'Reported cost of all runs over successes, nano-dollars, rounded down',
    unpriced_model_calls Int64 COMMENT 'Model calls without a price: cost_nanousd leaves them out, so it is a lower bound where this is not 0',
    model_calls UInt64 COMMENT 'Model calls of the agents',
    tool_calls UInt64 COMMENT 'Tool calls',
    tool_calls_per_run Float64 COMMENT 'Tool calls over runs',
    tool_errors UInt64 COMMENT 'Tool calls with status error, timeout or denied',
    repeated_tool_calls Int64 COMMENT 'Tool calls that repeat an earlier one of their run',
    escalations UInt64 COMMENT 'Runs that ended escalated to a person',
    denials UInt64 COMMENT 'Policy decisions with verdict deny',
    budgets_broken UInt64 COMMENT 'Runs in which a budget went over its limit',
    alerts UInt64 COMMENT 'Alerts raised in these runs, repetitions counted once',
    value_nanousd Nullable(Int64) COMMENT 'What the latest outcomes are worth, nano-dollars, NULL where none says',
    first_started_at DateTime64(6, 'UTC') COMMENT 'Start of the first run',
    last_started_at DateTime64(6, 'UTC') COMMENT 'Start of the latest run'
)
AS SELECT
    workflow,
    tenant_id,
    runs,
    finished,
    successes,
    failures,
    runs - successes - failures AS unaccounted,
    if(successes + failures = 0, NULL, successes / (successes + failures)) AS success_rate,
    cost_nanousd,
    if(successes = 0, NULL, intDiv(cost_nanousd, successes)) AS cost_per_successful_outcome_nanousd,
    reported_cost_nanousd,
    if(successes = 0, NULL, intDiv(reported_cost_nanousd, successes)) AS reported_cost_per_successful_outcome_nanousd,
    unpriced_model_calls,
    model_calls,
    tool_calls,
    tool_calls / runs AS tool_calls_per_run,
    tool_errors,
    repeated_tool_calls,
    escalations,
    denials,
    budgets_broken,
    alerts,
    value_nanousd,
    first_started_at,
    last_started_at
FROM
(
    SELECT
        tenant_id,
        workflow,
        count() AS runs,
        countIf(ended_at IS NOT NULL) AS finished,
        countIf(outcome_success = true) AS successes,
        countIf(outcome_success = false) AS failures,
        sum(run.cost_nanousd) AS cost_nanousd,
        sum(run.reported_cost_nanousd) AS reported_cost_nanousd,
        sum(run.unpriced_model_calls) AS unpriced_model_calls,
        sum(run.model_calls) AS model_calls,
        sum(run.tool_calls) AS tool_calls,
        sum(run.tool_errors) AS tool_errors,
        sum(run.repeated_tool_calls) AS repeated_tool_calls,
        countIf(status = 'escalated') AS escalations,
        sum(run.denials) AS denials,
        countIf(budgets_exceeded > 0) AS budgets_broken,
        length(groupUniqArrayArray(alert_ids)) AS alerts,
        sum(outcome_value_nanousd) AS value_nanousd,
        min(started_at) AS first_started_at,
        max(started_at) AS last_started_at
    FROM agentledger.runs AS run
    GROUP BY tenant_id, workflow
)
COMMENT 'One row per tenant and workflow: what it did, what it cost, what a success cost';
