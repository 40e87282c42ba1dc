-- Model calls and tool calls. Money is nano-dollars, times are UTC.

-- ANY: one charge per call by the rule of the processor, so a call stays one row whatever is in the ledger.
-- tenant_id and run_id are in the join so that a filter on them reaches both sides.
CREATE OR REPLACE VIEW agentledger.model_calls
(
    run_id String COMMENT 'The run: one attempt of an agent at one task',
    step Int64 COMMENT 'Place of the event in its run as the producer saw it, from 0',
    model String COMMENT 'The model that answered, or the one asked for where none did',
    requested_model LowCardinality(String) COMMENT 'The model that was asked for',
    provider LowCardinality(String) COMMENT 'Who answered or bills',
    requestor LowCardinality(String) COMMENT 'Who asked: assistant (the agent, also when empty) or user (a simulated user)',
    status LowCardinality(String) COMMENT 'ok, error, rejected (answered, but refused by a rule of the harness) or cancelled',
    attempt Int64 COMMENT '1 for the first try, 2 for its first retry and so on',
    input_tokens Nullable(Int64) COMMENT 'Input tokens neither read from nor written to a cache, NULL where the provider gave no usage',
    cache_read_tokens Nullable(Int64) COMMENT 'Input tokens read from the provider''s cache',
    cache_write_tokens Nullable(Int64) COMMENT 'Input tokens written to the provider''s cache',
    output_tokens Nullable(Int64) COMMENT 'Output tokens without reasoning',
    reasoning_tokens Nullable(Int64) COMMENT 'Output tokens spent on reasoning',
    total_tokens Nullable(Int64) COMMENT 'All tokens of the call, NULL where the provider gave no usage',
    cost_nanousd Nullable(Int64) COMMENT 'What the call cost by our price book, nano-dollars, NULL where it is not priced',
    reported_cost_nanousd Nullable(Int64) COMMENT 'What the provider said it cost, nano-dollars, NULL where it said nothing (0 is a report of zero)',
    priced Bool COMMENT 'True where a charge with a price exists',
    unpriced_reason String COMMENT 'Why there is no price: unknown_model, no_usage, or not_rated where no charge has arrived (yet)',
    price_source LowCardinality(String) COMMENT 'Name of the price book',
    price_version LowCardinality(String) COMMENT 'Version of the price book',
    latency_ms Nullable(Float64) COMMENT 'From request to last token, milliseconds',
    time_to_first_token_ms Nullable(Float64) COMMENT 'From request to first token, milliseconds',
    finish_reason LowCardinality(String) COMMENT 'Why the model stopped, as the provider says it',
    error_type LowCardinality(String) COMMENT 'Class of the error',
    error_message String COMMENT 'Message of the error',
    service_tier LowCardinality(String) COMMENT 'Price-relevant tier, empty is standard',
    response_id String COMMENT 'The provider''s id of the answer',
    input_digest String COMMENT 'sha256: and hex of the canonical JSON of the request''s messages',
    output_digest String COMMENT 'sha256: and hex of the canonical JSON of the answer',
    payload_digests Map(String, String) COMMENT 'By part: sha256: and hex of the content in the table payloads',
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
    calls.run_id AS run_id,
    calls.step AS step,
    if(calls.answered_model != '', calls.answered_model, calls.requested_model) AS model,
    calls.requested_model AS requested_model,
    calls.provider AS provider,
    calls.requestor AS requestor,
    calls.status AS status,
    calls.attempt AS attempt,
    calls.input_tokens AS input_tokens,
    calls.cache_read_tokens AS cache_read_tokens,
    calls.cache_write_tokens AS cache_write_tokens,
    calls.output_tokens AS output_tokens,
    calls.reasoning_tokens AS reasoning_tokens,
    if(
        coalesce(calls.input_tokens, calls.cache_read_tokens, calls.cache_write_tokens, calls.output_tokens, calls.reasoning_tokens) IS NULL,
        NULL,
        ifNull(calls.input_tokens, 0) + ifNull(calls.cache_read_tokens, 0) + ifNull(calls.cache_write_tokens, 0)
            + ifNull(calls.output_tokens, 0) + ifNull(calls.reasoning_tokens, 0)
    ) AS total_tokens,
    charges.cost_nanousd AS cost_nanousd,
    calls.reported_cost_nanousd AS reported_cost_nanousd,
    toBool(charges.cost_nanousd IS NOT NULL) AS priced,
    multiIf(charges.cost_nanousd IS NOT NULL, '', charges.price_source = '' AND charges.unpriced_reason = '', 'not_rated', toString(charges.unpriced_reason)) AS unpriced_reason,
    charges.price_source AS price_source,
    charges.price_version AS price_version,
    calls.latency_ms AS latency_ms,
    calls.time_to_first_token_ms AS time_to_first_token_ms,
    calls.finish_reason AS finish_reason,
    calls.error_type AS error_type,
    calls.error_message AS error_message,
    calls.service_tier AS service_tier,
    calls.response_id AS response_id,
    calls.input_digest AS input_digest,
    calls.output_digest AS output_digest,
    calls.payload_digests AS payload_digests,
    calls.tenant_id AS tenant_id,
    calls.workflow AS workflow,
    calls.agent_id AS agent_id,
    calls.agent_version AS agent_version,
    calls.environment AS environment,
    calls.actor AS actor,
    calls.labels AS labels,
    calls.parent_event_id AS parent_event_id,
    calls.trace_id AS trace_id,
    calls.span_id AS span_id,
    calls.occurred_at AS occurred_at,
    calls.ledger_time AS ledger_time,
    calls.log_index AS log_index,
    calls.event_id AS event_id
FROM
(
    SELECT *
    FROM agentledger.ledger
    WHERE occurrence = 'first' AND event_type = 'ModelCallCompleted'
) AS calls
ANY LEFT JOIN
(
    SELECT tenant_id, run_id, rated_event_id, cost_nanousd, price_source, price_version, unpriced_reason
    FROM agentledger.ledger
    WHERE occurrence = 'first' AND event_type = 'CostRated'
) AS charges
    ON charges.tenant_id = calls.tenant_id AND charges.run_id = calls.run_id AND charges.rated_event_id = calls.event_id
COMMENT 'One row per model call, with its charge where there is one';

-- The partition of the window holds tenant_id and run_id, so a filter on them is applied before the sort.
CREATE OR REPLACE VIEW agentledger.tool_calls
(
    run_id String COMMENT 'The run: one attempt of an agent at one task',
    step Int64 COMMENT 'Place of the event in its run as the producer saw it, from 0',
    tool LowCardinality(String) COMMENT 'Name of the tool',
    requestor LowCardinality(String) COMMENT 'Who asked: assistant (the agent, also when empty) or user (a simulated user)',
    status LowCardinality(String) COMMENT 'ok, error, timeout or denied',
    attempt Int64 COMMENT '1 for the first try, 2 for its first retry and so on',
    arguments_digest String COMMENT 'sha256: and hex of the arguments in canonical JSON (RFC 8785)',
    repeated Bool COMMENT 'True where the same requestor called the same tool with the same arguments earlier in the run',
    effect LowCardinality(String) COMMENT 'read, write or irreversible, empty where unknown',
    target String COMMENT 'What was acted on, such as order:A-10492',
    dry_run Bool COMMENT 'True where the call only tried what it would do',
    latency_ms Nullable(Float64) COMMENT 'From call to result, milliseconds',
    error_type LowCardinality(String) COMMENT 'Class of the error',
    error_message String COMMENT 'Message of the error',
    reported_cost_nanousd Nullable(Int64) COMMENT 'What the call cost by itself, nano-dollars, NULL where nobody said',
    tool_version LowCardinality(String) COMMENT 'Version of the tool',
    call_id String COMMENT 'The id that the model gave the call, not unique beyond its run',
    idempotency_key String COMMENT 'The key under which a repeated call has no second effect',
    arguments_bytes Nullable(Int64) COMMENT 'Size of the arguments in canonical JSON, bytes',
    arguments_redacted Nullable(String) COMMENT 'The arguments as far as redaction lets them through',
    result_digest String COMMENT 'sha256: and hex of the result in canonical JSON',
    result_bytes Nullable(Int64) COMMENT 'Size of the result in canonical JSON, bytes',
    result_redacted Nullable(String) COMMENT 'The result as far as redaction lets it through',
    payload_digests Map(String, String) COMMENT 'By part: sha256: and hex of the content in the table payloads',
    policy_decision_id Nullable(UUID) COMMENT 'The policy decision that allowed or denied the call',
    evidence_ids Array(String) COMMENT 'Ids of the evidence that the call rests on',
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
    step,
    tool,
    requestor,
    status,
    attempt,
    arguments_digest,
    toBool(arguments_digest != '' AND row_number() OVER (
        PARTITION BY tenant_id, run_id, tool, arguments_digest, if(requestor = '', 'assistant', requestor)
        ORDER BY step, ledger_time, log_index
    ) > 1) AS repeated,
    effect,
    target,
    dry_run,
    latency_ms,
    error_type,
    error_message,
    reported_cost_nanousd,
    tool_version,
    call_id,
    idempotency_key,
    arguments_bytes,
    arguments_redacted,
    result_digest,
    result_bytes,
    result_redacted,
    payload_digests,
    policy_decision_id,
    evidence_ids,
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
WHERE occurrence = 'first' AND event_type = 'ToolCallCompleted'
COMMENT 'One row per tool call';
