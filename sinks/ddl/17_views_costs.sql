-- Cost per outcome: runs with their sub-runs. Money is nano-dollars, times are UTC.

-- The way up from a sub-run to its top-level run, step by step: only runs that name a parent take part, so a ledger
-- without sub-runs pays for one pass over the starts. A run that is among its own ancestors counts as top-level, so
-- that every run is in one tree and the trees' costs add up to the runs' costs. So does one that is deeper than 100.
CREATE OR REPLACE VIEW agentledger.run_ancestors
(
    tenant_id LowCardinality(String) COMMENT 'Whose ledger this is',
    run_id String COMMENT 'A run that names a parent',
    top_run_id String COMMENT 'The run at the top: it names no parent, or is not in the ledger',
    depth UInt16 COMMENT 'Steps up to it, 0 for a run that is among its own ancestors'
)
AS WITH RECURSIVE
    above AS
    (
        SELECT tenant_id, run_id, parent_run_id, toUInt16(1) AS depth
        FROM
        (
            SELECT tenant_id, run_id, argMin(ledger.parent_run_id, (ledger_time, log_index)) AS parent_run_id
            FROM agentledger.ledger
            WHERE occurrence = 'first' AND event_type = 'RunStarted'
            GROUP BY tenant_id, run_id
            HAVING parent_run_id NOT IN ('', run_id)
        )
        UNION ALL
        SELECT above.tenant_id, above.run_id, next.parent_run_id, toUInt16(above.depth + 1) AS depth
        FROM above
        INNER JOIN
        (
            SELECT tenant_id, run_id, argMin(ledger.parent_run_id, (ledger_time, log_index)) AS parent_run_id
            FROM agentledger.ledger
            WHERE occurrence = 'first' AND event_type = 'RunStarted'
            GROUP BY tenant_id, run_id
            HAVING parent_run_id NOT IN ('', run_id)
        ) AS next ON next.tenant_id = above.tenant_id AND next.run_id = above.parent_run_id
        WHERE above.depth < 100 AND above.parent_run_id != above.run_id
    )
SELECT
    tenant_id,
    run_id,
    if(countIf(parent_run_id = run_id) > 0, run_id, argMax(above.parent_run_id, above.depth)) AS top_run_id,
    if(countIf(parent_run_id = run_id) > 0, toUInt16(0), max(above.depth)) AS depth
FROM above
GROUP BY tenant_id, run_id
COMMENT 'One row per run that names a parent: the top-level run that it is part of';

CREATE OR REPLACE VIEW agentledger.run_trees
(
    run_id String COMMENT 'The top-level run: what was attempted',
    tenant_id LowCardinality(String) COMMENT 'Whose ledger this is',
    workflow String COMMENT 'The kind of task: what runs are grouped by',
    agent_id String COMMENT 'Which agent acted in the top-level run',
    model String COMMENT 'The model that handled most of its tokens, without any that of its busiest sub-run',
    prompt_version String COMMENT 'Version or digest of the prompt of the top-level run',
    policy_version String COMMENT 'Version or digest of the policy of the top-level run',
    toolset_version String COMMENT 'Version or digest of its set of tools',
    agent_version String COMMENT 'Version of the agent',
    environment String COMMENT 'Where it ran, such as production',
    actor String COMMENT 'On whose behalf the agent acted',
    labels Map(String, String) COMMENT 'Free key-value pairs of the start',
    task String COMMENT 'What was attempted',
    recorded Bool COMMENT 'False where only sub-runs of it are in the ledger',
    status String COMMENT 'How the top-level run ended as the agent says, running where no end is recorded',
    outcome String COMMENT 'success, failure, unknown (recorded, but it can''t be said) or none (unaccounted for, so far)',
    outcome_success Nullable(Bool) COMMENT 'The latest outcome of the top-level run, NULL where unknown or none',
    outcome_value_nanousd Nullable(Int64) COMMENT 'What it is worth, nano-dollars',
    outcomes UInt64 COMMENT 'Outcomes recorded for the top-level run',
    outcome_reversed Bool COMMENT 'True where an earlier outcome said the contrary of the latest',
    outcome_delay_ms Nullable(Int64) COMMENT 'From its end to its latest outcome by ledger time, milliseconds',
    silent_failure Bool COMMENT 'True where the run says succeeded and its latest outcome says failure',
    contained Bool COMMENT 'True where it ended and no person took part: not escalated, no approval asked or given, no human time, sub-runs included',
    started_at DateTime64(6, 'UTC') COMMENT 'Start by the agent''s clock',
    ended_at Nullable(DateTime64(6, 'UTC')) COMMENT 'End of the top-level run by the agent''s clock, NULL while running',
    duration_ms Nullable(Int64) COMMENT 'From start to end of the top-level run, milliseconds, NULL while running',
    resolution_ms Nullable(Int64) COMMENT 'From its start to its success: the later of its end and its latest outcome, milliseconds, NULL without a success',
    sub_runs Int64 COMMENT 'Runs below the top-level run, at any depth',
    depth UInt16 COMMENT 'Levels of sub-runs',
    model_calls UInt64 COMMENT 'Model calls of the agents',
    tool_calls UInt64 COMMENT 'Tool calls',
    tool_errors UInt64 COMMENT 'Tool calls with status error, timeout or denied',
    repeated_tool_calls Int64 COMMENT 'Tool calls that repeat an earlier one of their run',
    denials UInt64 COMMENT 'Policy decisions with verdict deny',
    approvals UInt64 COMMENT 'Times that a person was asked to approve',
    total_tokens Nullable(Int64) COMMENT 'All tokens of the agents'' model calls, NULL where no usage is known',
    cost_nanousd Nullable(Int64) COMMENT 'Cost of the run and all its sub-runs, nano-dollars, NULL where nothing is priced',
    own_cost_nanousd Nullable(Int64) COMMENT 'Of it: the top-level run alone',
    model_cost_nanousd Nullable(Int64) COMMENT 'Of it: model calls',
    tool_cost_nanousd Nullable(Int64) COMMENT 'Of it: tools with a price of their own',
    human_cost_nanousd Nullable(Int64) COMMENT 'Of it: people''s time at the configured rate',
    wasted_cost_nanousd Nullable(Int64) COMMENT 'Of it: calls that failed, were rejected, denied or cancelled',
    retry_cost_nanousd Nullable(Int64) COMMENT 'Of it: attempts after the first',
    validation_cost_nanousd Nullable(Int64) COMMENT 'Of it: calls made to validate others',
    human_ms Nullable(Int64) COMMENT 'Time that people spent on decisions, milliseconds, NULL where nobody said',
    reported_cost_nanousd Nullable(Int64) COMMENT 'What providers and frameworks reported, nano-dollars, NULL where none did',
    unpriced_model_calls Int64 COMMENT 'Model calls without a price: cost_nanousd leaves them out, so it is a lower bound where this is not 0'
)
AS WITH
    CAST(top_values AS Tuple(
        workflow String, agent_id String, prompt_version String, policy_version String, toolset_version String,
        agent_version String, environment String, actor String, labels Map(String, String), task String, status String,
        outcome_success Nullable(Bool), outcome_value_nanousd Nullable(Int64), outcomes UInt64, outcome_reversed Bool,
        outcome_delay_ms Nullable(Int64), outcome_at Nullable(DateTime64(6, 'UTC')), started_at DateTime64(6, 'UTC'),
        ended_at Nullable(DateTime64(6, 'UTC')), duration_ms Nullable(Int64), own_cost_nanousd Nullable(Int64)
    )) AS top
SELECT
    top_id AS run_id,
    tenant_id,
    top.workflow AS workflow,
    top.agent_id AS agent_id,
    model,
    top.prompt_version AS prompt_version,
    top.policy_version AS policy_version,
    top.toolset_version AS toolset_version,
    top.agent_version AS agent_version,
    top.environment AS environment,
    top.actor AS actor,
    top.labels AS labels,
    top.task AS task,
    toBool(tops > 0) AS recorded,
    if(tops > 0, top.status, 'running') AS status,
    multiIf(tops = 0 OR top.outcomes = 0, 'none', top.outcome_success IS NULL, 'unknown', assumeNotNull(top.outcome_success), 'success', 'failure') AS outcome,
    if(tops > 0, top.outcome_success, NULL) AS outcome_success,
    if(tops > 0, top.outcome_value_nanousd, NULL) AS outcome_value_nanousd,
    if(tops > 0, top.outcomes, 0) AS outcomes,
    toBool(tops > 0 AND top.outcome_reversed) AS outcome_reversed,
    if(tops > 0, top.outcome_delay_ms, NULL) AS outcome_delay_ms,
    toBool(tops > 0 AND top.status = 'succeeded' AND ifNull(NOT top.outcome_success, false)) AS silent_failure,
    toBool(tops > 0 AND top.ended_at IS NOT NULL AND escalated = 0 AND approvals = 0 AND approvals_decided = 0 AND ifNull(human_ms, 0) = 0) AS contained,
    top.started_at AS started_at,
    if(tops > 0, top.ended_at, NULL) AS ended_at,
    if(tops > 0, top.duration_ms, NULL) AS duration_ms,
    if(tops > 0 AND ifNull(top.outcome_success, false), dateDiff('millisecond', top.started_at, greatest(assumeNotNull(top.outcome_at), ifNull(top.ended_at, assumeNotNull(top.outcome_at)))), NULL) AS resolution_ms,
    runs - tops AS sub_runs,
    depth,
    model_calls,
    tool_calls,
    tool_errors,
    repeated_tool_calls,
    denials,
    approvals,
    total_tokens,
    cost_nanousd,
    if(tops > 0, top.own_cost_nanousd, NULL) AS own_cost_nanousd,
    model_cost_nanousd,
    tool_cost_nanousd,
    human_cost_nanousd,
    wasted_cost_nanousd,
    retry_cost_nanousd,
    validation_cost_nanousd,
    human_ms,
    reported_cost_nanousd,
    unpriced_model_calls
FROM
(
    SELECT
        run.tenant_id AS tenant_id,
        if(ancestors.top_run_id = '', run.run_id, ancestors.top_run_id) AS top_id,
        argMin(
            (run.workflow, run.agent_id, run.prompt_version, run.policy_version, run.toolset_version, run.agent_version,
             run.environment, run.actor, run.labels, run.task, run.status, run.outcome_success,
             run.outcome_value_nanousd, run.outcomes, run.outcome_reversed, run.outcome_delay_ms, run.outcome_at,
             run.started_at, run.ended_at, run.duration_ms, run.cost_nanousd),
            (run.run_id != top_id, run.started_at, run.run_id)
        ) AS top_values,
        argMaxIf(run.model, (run.run_id = top_id, ifNull(run.total_tokens, 0), run.model_calls, run.run_id), run.model != '') AS model,
        count() AS runs,
        countIf(run.run_id = top_id) AS tops,
        max(ancestors.depth) AS depth,
        countIf(run.status = 'escalated') AS escalated,
        sum(run.model_calls) AS model_calls,
        sum(run.tool_calls) AS tool_calls,
        sum(run.tool_errors) AS tool_errors,
        sum(run.repeated_tool_calls) AS repeated_tool_calls,
        sum(run.denials) AS denials,
        sum(run.approvals_requested) AS approvals,
        sum(run.approvals_decided) AS approvals_decided,
        sum(run.total_tokens) AS total_tokens,
        sum(run.cost_nanousd) AS cost_nanousd,
        sum(run.model_cost_nanousd) AS model_cost_nanousd,
        sum(run.tool_cost_nanousd) AS tool_cost_nanousd,
        sum(run.human_cost_nanousd) AS human_cost_nanousd,
        sum(run.wasted_cost_nanousd) AS wasted_cost_nanousd,
        sum(run.retry_cost_nanousd) AS retry_cost_nanousd,
        sum(run.validation_cost_nanousd) AS validation_cost_nanousd,
        sum(run.human_ms) AS human_ms,
        sum(run.reported_cost_nanousd) AS reported_cost_nanousd,
        sum(run.unpriced_model_calls) AS unpriced_model_calls
    FROM agentledger.runs AS run
    LEFT JOIN agentledger.run_ancestors AS ancestors ON ancestors.tenant_id = run.tenant_id AND ancestors.run_id = run.run_id
    GROUP BY tenant_id, top_id
)
COMMENT 'One row per top-level run with all its sub-runs: one attempt, what came of it, and its full cost';

CREATE OR REPLACE VIEW agentledger.cost_per_outcome
(
    day Date COMMENT 'Day on which the runs started by the agents'' clocks, UTC',
    tenant_id LowCardinality(String) COMMENT 'Whose ledger this is',
    workflow String COMMENT 'The kind of task: what runs are grouped by',
    agent_id String COMMENT 'Which agent acted',
    model String COMMENT 'The model that handled most of the tokens',
    prompt_version String COMMENT 'Version or digest of the prompt',
    policy_version String COMMENT 'Version or digest of the policy',
    attempts UInt64 COMMENT 'Top-level runs',
    sub_runs Int64 COMMENT 'Runs below them',
    ended UInt64 COMMENT 'Attempts with a recorded end',
    completed UInt64 COMMENT 'Attempts that say they succeeded',
    successes UInt64 COMMENT 'Attempts whose latest outcome is a success',
    failures UInt64 COMMENT 'Attempts whose latest outcome is a failure',
    unaccounted UInt64 COMMENT 'Attempts without a known outcome',
    repeated_outcomes UInt64 COMMENT 'Attempts with more than one outcome',
    reversed_outcomes UInt64 COMMENT 'Attempts of which an earlier outcome said the contrary of the latest',
    late_outcomes UInt64 COMMENT 'Attempts whose latest outcome came more than a day after their end, by ledger time',
    silent_failures UInt64 COMMENT 'Attempts that say succeeded and whose outcome says failure',
    escalations UInt64 COMMENT 'Attempts that ended escalated to a person',
    contained UInt64 COMMENT 'Attempts that ended without any person',
    denials UInt64 COMMENT 'Policy decisions with verdict deny',
    model_calls UInt64 COMMENT 'Model calls of the agents',
    tool_calls UInt64 COMMENT 'Tool calls',
    completion_rate Float64 COMMENT 'completed / attempts',
    success_rate Nullable(Float64) COMMENT 'successes / (successes + failures), NULL where no outcome is known',
    escalation_rate Float64 COMMENT 'escalations / attempts',
    containment_rate Nullable(Float64) COMMENT 'contained / ended, NULL where none ended',
    tool_calls_per_run Float64 COMMENT 'tool_calls / attempts',
    resolution_ms_median Nullable(Int64) COMMENT 'Median time from start to success, milliseconds, NULL without a success',
    cost_nanousd Nullable(Int64) COMMENT 'Full cost of all attempts, failed ones and sub-runs included, nano-dollars, NULL where nothing is priced',
    cost_per_attempt_nanousd Nullable(Int64) COMMENT 'cost_nanousd / attempts, rounded down',
    cost_per_success_nanousd Nullable(Int64) COMMENT 'cost_nanousd / successes, rounded down, NULL without a success',
    model_cost_nanousd Nullable(Int64) COMMENT 'Of the cost: model calls',
    tool_cost_nanousd Nullable(Int64) COMMENT 'Of the cost: tools with a price of their own',
    human_cost_nanousd Nullable(Int64) COMMENT 'Of the cost: people''s time at the configured rate',
    wasted_cost_nanousd Nullable(Int64) COMMENT 'Of the cost: calls that failed, were rejected, denied or cancelled',
    retry_cost_nanousd Nullable(Int64) COMMENT 'Of the cost: attempts of calls after the first',
    validation_cost_nanousd Nullable(Int64) COMMENT 'Of the cost: calls made to validate others',
    reported_cost_nanousd Nullable(Int64) COMMENT 'What providers and frameworks reported, nano-dollars',
    value_nanousd Nullable(Int64) COMMENT 'What the latest outcomes are worth, nano-dollars, NULL where none says',
    unpriced_model_calls Int64 COMMENT 'Model calls without a price: costs are lower bounds where this is not 0'
)
AS SELECT
    toDate(tree.started_at) AS day,
    tenant_id,
    workflow,
    agent_id,
    model,
    prompt_version,
    policy_version,
    count() AS attempts,
    sum(tree.sub_runs) AS sub_runs,
    countIf(ended_at IS NOT NULL) AS ended,
    countIf(status = 'succeeded') AS completed,
    countIf(outcome = 'success') AS successes,
    countIf(outcome = 'failure') AS failures,
    countIf(outcome IN ('unknown', 'none')) AS unaccounted,
    countIf(outcomes > 1) AS repeated_outcomes,
    countIf(outcome_reversed) AS reversed_outcomes,
    countIf(outcome_delay_ms > 86400000) AS late_outcomes,
    countIf(silent_failure) AS silent_failures,
    countIf(status = 'escalated') AS escalations,
    countIf(tree.contained) AS contained,
    sum(tree.denials) AS denials,
    sum(tree.model_calls) AS model_calls,
    sum(tree.tool_calls) AS tool_calls,
    completed / attempts AS completion_rate,
    if(successes + failures = 0, NULL, successes / (successes + failures)) AS success_rate,
    escalations / attempts AS escalation_rate,
    if(ended = 0, NULL, contained / ended) AS containment_rate,
    tool_calls / attempts AS tool_calls_per_run,
    medianExact(resolution_ms) AS resolution_ms_median,
    sum(tree.cost_nanousd) AS cost_nanousd,
    intDiv(cost_nanousd, attempts) AS cost_per_attempt_nanousd,
    if(successes = 0, NULL, intDiv(cost_nanousd, successes)) AS cost_per_success_nanousd,
    sum(tree.model_cost_nanousd) AS model_cost_nanousd,
    sum(tree.tool_cost_nanousd) AS tool_cost_nanousd,
    sum(tree.human_cost_nanousd) AS human_cost_nanousd,
    sum(tree.wasted_cost_nanousd) AS wasted_cost_nanousd,
    sum(tree.retry_cost_nanousd) AS retry_cost_nanousd,
    sum(tree.validation_cost_nanousd) AS validation_cost_nanousd,
    sum(tree.reported_cost_nanousd) AS reported_cost_nanousd,
    sum(outcome_value_nanousd) AS value_nanousd,
    sum(tree.unpriced_model_calls) AS unpriced_model_calls
FROM agentledger.run_trees AS tree
GROUP BY day, tenant_id, workflow, agent_id, model, prompt_version, policy_version
COMMENT 'One row per day, tenant, workflow, agent, model, prompt and policy version: attempts with their sub-runs, what came of them, and what that cost';
