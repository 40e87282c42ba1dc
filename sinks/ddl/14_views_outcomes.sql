-- Outcomes, money, budgets and alerts. Money is nano-dollars, times are UTC.

CREATE OR REPLACE VIEW agentledger.outcomes
(
    run_id String COMMENT 'The run: one attempt of an agent at one task',
    success Nullable(Bool) COMMENT 'Whether the task was achieved, NULL where that can''t be said',
    score Nullable(Float64) COMMENT 'A graded result where there is one',
    value_nanousd Nullable(Int64) COMMENT 'What the result is worth, nano-dollars',
    verified_by String COMMENT 'Who or what checked it',
    reason String COMMENT 'Why, in the words of whoever checked',
    is_latest Bool COMMENT 'True for the one outcome of its run that counts: the last by ledger order',
    replaces_event_id Nullable(UUID) COMMENT 'The outcome that this one says it replaces',
    step Int64 COMMENT 'Place of the event in its run as the producer saw it, from 0',
    tenant_id LowCardinality(String) COMMENT 'Whose ledger this is',
    workflow LowCardinality(String) COMMENT 'The kind of task: what runs are grouped by',
    agent_id LowCardinality(String) COMMENT 'Which agent acted',
    agent_version LowCardinality(String) COMMENT 'Version of the agent',
    environment LowCardinality(String) COMMENT 'Where it ran, such as production',
    actor String COMMENT 'On whose behalf the agent acted',
    labels Map(String, String) COMMENT 'Free key-value pairs',
    parent_event_id Nullable(UUID) COMMENT 'The event that caused this one, NULL where nothing in the ledger did',
    trace_id String COMMENT 'W3C trace id, 32 hex digits, empty where there is none',
    span_id String COMMENT 'W3C span id, 16 hex digits, empty where there is none',
    occurred_at DateTime64(6, 'UTC') COMMENT 'The agent''s clock, UTC: data, never an order',
    ledger_time DateTime64(6, 'UTC') COMMENT 'The broker''s append time, UTC, never decreasing within a partition',
    log_index UInt64 COMMENT 'Place in the log of its topic and partition, dense from 0',
    event_id UUID COMMENT 'Identity of this event everywhere'
)
AS SELECT
    run_id,
    success,
    score,
    value_nanousd,
    verified_by,
    reason,
    toBool(row_number() OVER (PARTITION BY tenant_id, run_id ORDER BY ledger_time DESC, log_index DESC) = 1) AS is_latest,
    replaces_event_id,
    step,
    tenant_id,
    workflow,
    agent_id,
    agent_version,
    environment,
    actor,
    labels,
    parent_event_id,
    trace_id,
    span_id,
    occurred_at,
    ledger_time,
    log_index,
    event_id
FROM agentledger.ledger
WHERE occurrence = 'first' AND event_type = 'OutcomeRecorded'
COMMENT 'One row per recorded outcome: the latest of a run is the one that counts';

CREATE OR REPLACE VIEW agentledger.charges
(
    run_id String COMMENT 'The run: one attempt of an agent at one task',
    rated_event_id UUID COMMENT 'The call that was rated',
    kind LowCardinality(String) COMMENT 'model, tool or human',
    provider LowCardinality(String) COMMENT 'Provider by the price book''s name',
    model LowCardinality(String) COMMENT 'Model by the price book''s name, the asked-for name where unpriced',
    priced Bool COMMENT 'False where the price book has no price: cost_nanousd is then NULL, never 0',
    cost_nanousd Nullable(Int64) COMMENT 'The whole charge, nano-dollars',
    input_cost_nanousd Nullable(Int64) COMMENT 'Share of all input, caches included',
    output_cost_nanousd Nullable(Int64) COMMENT 'Share of all output, reasoning included',
    cache_read_cost_nanousd Nullable(Int64) COMMENT 'Of the input share: tokens read from the provider''s cache, NULL in charges of older releases',
    cache_write_cost_nanousd Nullable(Int64) COMMENT 'Of the input share: tokens written to the provider''s cache',
    reasoning_cost_nanousd Nullable(Int64) COMMENT 'Of the output share: reasoning tokens',
    service_tier LowCardinality(String) COMMENT 'Price-relevant tier, empty is standard',
    reported_cost_nanousd Nullable(Int64) COMMENT 'What the provider reported for the same call',
    price_source LowCardinality(String) COMMENT 'Name of the price book',
    price_version LowCardinality(String) COMMENT 'Version of the price book',
    unpriced_reason LowCardinality(String) COMMENT 'Why there is no price',
    tenant_id LowCardinality(String) COMMENT 'Whose ledger this is',
    workflow LowCardinality(String) COMMENT 'The kind of task: what runs are grouped by',
    agent_id LowCardinality(String) COMMENT 'Which agent acted',
    agent_version LowCardinality(String) COMMENT 'Version of the agent',
    environment LowCardinality(String) COMMENT 'Where it ran, such as production',
    actor String COMMENT 'On whose behalf the agent acted',
    labels Map(String, String) COMMENT 'Free key-value pairs',
    parent_event_id Nullable(UUID) COMMENT 'The event that caused this one, NULL where nothing in the ledger did',
    trace_id String COMMENT 'W3C trace id, 32 hex digits, empty where there is none',
    span_id String COMMENT 'W3C span id, 16 hex digits, empty where there is none',
    occurred_at DateTime64(6, 'UTC') COMMENT 'The agent''s clock, UTC: data, never an order',
    ledger_time DateTime64(6, 'UTC') COMMENT 'The broker''s append time, UTC, never decreasing within a partition',
    log_index UInt64 COMMENT 'Place in the log of its topic and partition, dense from 0',
    event_id UUID COMMENT 'Identity of this event everywhere'
)
AS SELECT
    run_id,
    rated_event_id,
    kind,
    provider,
    model,
    priced,
    cost_nanousd,
    input_cost_nanousd,
    output_cost_nanousd,
    cache_read_cost_nanousd,
    cache_write_cost_nanousd,
    reasoning_cost_nanousd,
    service_tier,
    reported_cost_nanousd,
    price_source,
    price_version,
    unpriced_reason,
    tenant_id,
    workflow,
    agent_id,
    agent_version,
    environment,
    actor,
    labels,
    parent_event_id,
    trace_id,
    span_id,
    occurred_at,
    ledger_time,
    log_index,
    event_id
FROM agentledger.ledger
WHERE occurrence = 'first' AND event_type = 'CostRated'
COMMENT 'One row per charge: what one call, or a person''s time, cost by a named version of a price book';

CREATE OR REPLACE VIEW agentledger.outcome_costs
(
    run_id String COMMENT 'The run: one attempt of an agent at one task',
    tenant_id LowCardinality(String) COMMENT 'Whose ledger this is',
    success Nullable(Bool) COMMENT 'The outcome, NULL where it can''t be said',
    run_status String COMMENT 'How the run said it ended, empty while it has not',
    revision Int64 COMMENT 'How often it was stated: the highest counts',
    cost_nanousd Nullable(Int64) COMMENT 'Sum of all charges of the run, nano-dollars, NULL where no call has a price',
    reported_cost_nanousd Nullable(Int64) COMMENT 'Sum of what providers reported, NULL where none did',
    model_calls Int64 COMMENT 'Model calls of the run',
    unpriced_model_calls Int64 COMMENT 'Model calls without a price',
    tool_calls Int64 COMMENT 'Tool calls of the run',
    tool_errors Int64 COMMENT 'Tool calls that failed',
    model_cost_nanousd Nullable(Int64) COMMENT 'Of the cost: model calls, NULL in statements of older releases',
    tool_cost_nanousd Nullable(Int64) COMMENT 'Of the cost: tools with a price of their own',
    human_cost_nanousd Nullable(Int64) COMMENT 'Of the cost: people''s time at the configured rate',
    wasted_cost_nanousd Nullable(Int64) COMMENT 'Of the cost: calls that failed, were rejected or cancelled',
    retry_cost_nanousd Nullable(Int64) COMMENT 'Of the cost: attempts after the first',
    human_ms Nullable(Int64) COMMENT 'Time that people spent on the run, milliseconds',
    parent_run_id String COMMENT 'The run that started this one, empty for a top-level run and in statements of older releases',
    prompt_version String COMMENT 'Version or digest of the prompt',
    policy_version String COMMENT 'Version or digest of the policy',
    outcome_event_id Nullable(UUID) COMMENT 'The outcome that counted',
    workflow String COMMENT 'The kind of task: what runs are grouped by',
    agent_id String COMMENT 'Which agent acted',
    ledger_time DateTime64(6, 'UTC') COMMENT 'Ledger time of this statement',
    event_id UUID COMMENT 'Id of this statement'
)
AS WITH
    CAST(latest_values AS Tuple(
        success Nullable(Bool), run_status String, revision Int64, cost_nanousd Nullable(Int64),
        reported_cost_nanousd Nullable(Int64), model_calls Int64, unpriced_model_calls Int64, tool_calls Int64,
        tool_errors Int64, outcome_event_id Nullable(UUID), workflow String, agent_id String,
        ledger_time DateTime64(6, 'UTC'), event_id UUID, model_cost_nanousd Nullable(Int64),
        tool_cost_nanousd Nullable(Int64), human_cost_nanousd Nullable(Int64), wasted_cost_nanousd Nullable(Int64),
        retry_cost_nanousd Nullable(Int64), human_ms Nullable(Int64), parent_run_id String, prompt_version String,
        policy_version String
    )) AS latest
SELECT
    run_id,
    tenant_id,
    latest.success AS success,
    latest.run_status AS run_status,
    latest.revision AS revision,
    latest.cost_nanousd AS cost_nanousd,
    latest.reported_cost_nanousd AS reported_cost_nanousd,
    latest.model_calls AS model_calls,
    latest.unpriced_model_calls AS unpriced_model_calls,
    latest.tool_calls AS tool_calls,
    latest.tool_errors AS tool_errors,
    latest.model_cost_nanousd AS model_cost_nanousd,
    latest.tool_cost_nanousd AS tool_cost_nanousd,
    latest.human_cost_nanousd AS human_cost_nanousd,
    latest.wasted_cost_nanousd AS wasted_cost_nanousd,
    latest.retry_cost_nanousd AS retry_cost_nanousd,
    latest.human_ms AS human_ms,
    latest.parent_run_id AS parent_run_id,
    latest.prompt_version AS prompt_version,
    latest.policy_version AS policy_version,
    latest.outcome_event_id AS outcome_event_id,
    latest.workflow AS workflow,
    latest.agent_id AS agent_id,
    latest.ledger_time AS ledger_time,
    latest.event_id AS event_id
FROM
(
    SELECT
        tenant_id,
        run_id,
        argMax(
            (success, run_status, revision, cost_nanousd, reported_cost_nanousd, model_calls, unpriced_model_calls,
             tool_calls, tool_errors, outcome_event_id, workflow, agent_id, ledger_time, event_id, model_cost_nanousd,
             tool_cost_nanousd, human_cost_nanousd, wasted_cost_nanousd, retry_cost_nanousd, human_ms, parent_run_id,
             prompt_version, policy_version),
            (revision, ledger_time, log_index)
        ) AS latest_values
    FROM agentledger.ledger
    WHERE occurrence = 'first' AND event_type = 'OutcomeCosted'
    GROUP BY tenant_id, run_id
)
COMMENT 'One row per run that has a stated cost of its outcome: the highest revision';

CREATE OR REPLACE VIEW agentledger.budget_events
(
    run_id String COMMENT 'The run: one attempt of an agent at one task',
    event_type LowCardinality(String) COMMENT 'Name of the record',
    budget_id String COMMENT 'The budget, run for a run''s own',
    scope LowCardinality(String) COMMENT 'tenant, team, agent, workflow, user, run or label:NAME',
    scope_value String COMMENT 'Which one of that scope',
    metric LowCardinality(String) COMMENT 'cost_nanousd, tokens, model_calls, tool_calls or wall_clock_ms: the unit of the amounts',
    amount Int64 COMMENT 'Held, settled or released by this event',
    held_amount Int64 COMMENT 'Held and not yet settled after this event',
    used_amount Int64 COMMENT 'Used after this event',
    limit_amount Int64 COMMENT 'The limit, in threshold and limit events',
    threshold_percent Int64 COMMENT 'The threshold in percent of the limit, in threshold events',
    on_exceeded LowCardinality(String) COMMENT 'What the budget asks for at its limit',
    hold_id String COMMENT 'Ties hold, settlement and release',
    reason String COMMENT 'Why a hold was released',
    trigger_event_id Nullable(UUID) COMMENT 'The event whose usage crossed the line',
    window_start Nullable(DateTime64(6, 'UTC')) COMMENT 'Start of the budget''s window by ledger time',
    window_end Nullable(DateTime64(6, 'UTC')) COMMENT 'End of the budget''s window by ledger time',
    expires_at Nullable(DateTime64(6, 'UTC')) COMMENT 'When a hold lapses by ledger time',
    step Int64 COMMENT 'Place of the event in its run as the producer saw it, from 0',
    tenant_id LowCardinality(String) COMMENT 'Whose ledger this is',
    workflow LowCardinality(String) COMMENT 'The kind of task: what runs are grouped by',
    agent_id LowCardinality(String) COMMENT 'Which agent acted',
    agent_version LowCardinality(String) COMMENT 'Version of the agent',
    environment LowCardinality(String) COMMENT 'Where it ran, such as production',
    actor String COMMENT 'On whose behalf the agent acted',
    labels Map(String, String) COMMENT 'Free key-value pairs',
    parent_event_id Nullable(UUID) COMMENT 'The event that caused this one, NULL where nothing in the ledger did',
    trace_id String COMMENT 'W3C trace id, 32 hex digits, empty where there is none',
    span_id String COMMENT 'W3C span id, 16 hex digits, empty where there is none',
    occurred_at DateTime64(6, 'UTC') COMMENT 'The agent''s clock, UTC: data, never an order',
    ledger_time DateTime64(6, 'UTC') COMMENT 'The broker''s append time, UTC, never decreasing within a partition',
    log_index UInt64 COMMENT 'Place in the log of its topic and partition, dense from 0',
    event_id UUID COMMENT 'Identity of this event everywhere'
)
AS SELECT
    run_id,
    event_type,
    budget_id,
    scope,
    scope_value,
    metric,
    amount,
    held_amount,
    used_amount,
    limit_amount,
    threshold_percent,
    on_exceeded,
    hold_id,
    reason,
    trigger_event_id,
    window_start,
    window_end,
    expires_at,
    step,
    tenant_id,
    workflow,
    agent_id,
    agent_version,
    environment,
    actor,
    labels,
    parent_event_id,
    trace_id,
    span_id,
    occurred_at,
    ledger_time,
    log_index,
    event_id
FROM agentledger.ledger
WHERE occurrence = 'first'
    AND event_type IN ('BudgetHeld', 'BudgetSettled', 'BudgetReleased', 'BudgetThresholdCrossed', 'BudgetExceeded')
COMMENT 'One row per hold, settlement, release, threshold crossed and limit exceeded';

CREATE OR REPLACE VIEW agentledger.alerts
(
    alert_id UUID COMMENT 'Ties raises and resolutions of one condition',
    status String COMMENT 'open, or resolved where the last word is a resolution',
    rule String COMMENT 'The rule that fired',
    severity String COMMENT 'info, warning or critical',
    summary String COMMENT 'One line of the latest raise or update: what, where, how much',
    scope String COMMENT 'tenant, agent, workflow, run, …',
    scope_value String COMMENT 'Which one of that scope',
    runbook_url String COMMENT 'What to do',
    trigger_event_ids Array(String) COMMENT 'Ids of the events that the first raise follows from',
    run_id String COMMENT 'The run in which it was first raised',
    workflow String COMMENT 'The kind of task: what runs are grouped by',
    agent_id String COMMENT 'Which agent acted',
    raised_at Nullable(DateTime64(6, 'UTC')) COMMENT 'Ledger time of the first raise, NULL where only a resolution is in the ledger',
    last_raised_at Nullable(DateTime64(6, 'UTC')) COMMENT 'Ledger time of the last raise',
    resolved_at Nullable(DateTime64(6, 'UTC')) COMMENT 'Ledger time of the resolution, NULL while open',
    resolve_reason String COMMENT 'Why it is over',
    resolved_by String COMMENT 'A person, or the rule itself',
    acknowledged_at Nullable(DateTime64(6, 'UTC')) COMMENT 'Ledger time at which a person took it on, NULL where nobody has since it was last resolved',
    acknowledged_by String COMMENT 'Who took it on',
    raises UInt64 COMMENT 'How often it was raised',
    updates UInt64 COMMENT 'How often it was stated that it had grown',
    seen Int64 COMMENT 'How often the condition was seen, as far as the latest raise or update says',
    observed Nullable(Float64) COMMENT 'What was measured last, in the rule''s unit',
    expected Nullable(Float64) COMMENT 'What the rule holds for the limit, in the same unit',
    rule_version String COMMENT 'Digest of the rule as it was at the first raise',
    last_ledger_time DateTime64(6, 'UTC') COMMENT 'Ledger time of the last word on it',
    tenant_id LowCardinality(String) COMMENT 'Whose ledger this is'
)
AS WITH
    CAST(first_values AS Tuple(
        rule String, severity String, summary String, scope String,
        scope_value String, runbook_url String, trigger_event_ids Array(String), run_id String,
        workflow String, agent_id String, rule_version String
    )) AS first,
    CAST(last_values AS Tuple(
        event_type String, ledger_time DateTime64(6, 'UTC'), reason String, resolved_by String
    )) AS last,
    CAST(grown_values AS Tuple(
        severity String, summary String, seen Int64, observed Nullable(Float64), expected Nullable(Float64)
    )) AS grown,
    acknowledgements > 0 AND (last.event_type = 'AlertResolved' OR taken_on_at > latest_resolved_at) AS is_acknowledged
SELECT
    alert_id,
    if(last.event_type = 'AlertResolved', 'resolved', 'open') AS status,
    first.rule AS rule,
    if(grown.severity != '', grown.severity, first.severity) AS severity,
    grown.summary AS summary,
    first.scope AS scope,
    first.scope_value AS scope_value,
    first.runbook_url AS runbook_url,
    first.trigger_event_ids AS trigger_event_ids,
    first.run_id AS run_id,
    first.workflow AS workflow,
    first.agent_id AS agent_id,
    if(raises > 0, toNullable(first_raised_at), NULL) AS raised_at,
    if(raises > 0, toNullable(latest_raised_at), NULL) AS last_raised_at,
    if(last.event_type = 'AlertResolved', toNullable(last.ledger_time), NULL) AS resolved_at,
    if(last.event_type = 'AlertResolved', last.reason, '') AS resolve_reason,
    if(last.event_type = 'AlertResolved', last.resolved_by, '') AS resolved_by,
    if(is_acknowledged, toNullable(taken_on_at), NULL) AS acknowledged_at,
    if(is_acknowledged, taken_on_by, '') AS acknowledged_by,
    raises,
    updates,
    grown.seen AS seen,
    grown.observed AS observed,
    grown.expected AS expected,
    first.rule_version AS rule_version,
    last.ledger_time AS last_ledger_time,
    tenant_id
FROM
(
    SELECT
        tenant_id,
        alert_id,
        argMinIf(
            (rule, severity, summary, scope, scope_value, runbook_url, trigger_event_ids, run_id, workflow, agent_id, rule_version),
            (ledger_time, log_index), event_type = 'AlertRaised'
        ) AS first_values,
        argMaxIf(
            (severity, summary, count, observed, expected),
            (ledger_time, log_index), event_type IN ('AlertRaised', 'AlertUpdated')
        ) AS grown_values,
        argMaxIf(
            (event_type, ledger_time, reason, resolved_by), (ledger_time, log_index), event_type != 'AlertAcknowledged'
        ) AS last_values,
        minIf(ledger_time, event_type = 'AlertRaised') AS first_raised_at,
        maxIf(ledger_time, event_type = 'AlertRaised') AS latest_raised_at,
        countIf(event_type = 'AlertRaised') AS raises,
        countIf(event_type = 'AlertUpdated') AS updates,
        countIf(event_type = 'AlertAcknowledged') AS acknowledgements,
        argMaxIf(ledger.acknowledged_by, (ledger_time, log_index), event_type = 'AlertAcknowledged') AS taken_on_by,
        maxIf(ledger_time, event_type = 'AlertAcknowledged') AS taken_on_at,
        maxIf(ledger_time, event_type = 'AlertResolved') AS latest_resolved_at
    FROM agentledger.ledger
    WHERE occurrence = 'first' AND event_type IN ('AlertRaised', 'AlertUpdated', 'AlertResolved', 'AlertAcknowledged')
    GROUP BY tenant_id, alert_id
    HAVING acknowledgements < count() -- one that was only taken on is known to nobody
)
COMMENT 'One row per alert, however often it was raised';
