-- What is not a fact of a run: unreadable records, conflicts, losses. Money is nano-dollars, times are UTC.

CREATE OR REPLACE VIEW agentledger.dead_letters
(
    topic LowCardinality(String) COMMENT 'Kafka topic',
    partition UInt32 COMMENT 'Partition of the topic',
    offset Int64 COMMENT 'Offset in the partition',
    log_index UInt64 COMMENT 'Place in the log of its topic and partition, dense from 0',
    ledger_time DateTime64(6, 'UTC') COMMENT 'The broker''s append time, UTC, never decreasing within a partition',
    poison_reason LowCardinality(String) COMMENT 'Why it could not be read as an event',
    schema_id UInt32 COMMENT 'Schema id in its header, 0 where there is none',
    value_bytes UInt64 COMMENT 'Size of the value, bytes',
    value_sha256 String COMMENT 'SHA-256 of the exact value bytes, hex',
    leaf_hash String COMMENT 'Leaf of the log that commits to this record, hex',
    value_hex String COMMENT 'The exact value bytes, hex'
)
AS SELECT
    topic,
    partition,
    offset,
    log_index,
    ledger_time,
    poison_reason,
    schema_id,
    length(raw) AS value_bytes,
    lower(hex(value_sha256)) AS value_sha256,
    lower(hex(leaf_hash)) AS leaf_hash,
    lower(hex(raw)) AS value_hex
FROM agentledger.ledger
-- On the control topic, which is compacted, a record without a value takes a command away: nothing is wrong with it.
WHERE event_type = '' AND NOT (topic = 'agentledger.control.v1' AND startsWith(poison_reason, 'tombstone'))
COMMENT 'One row per record that should be an event and is none: kept, hashed, and told why';

CREATE OR REPLACE VIEW agentledger.conflicts
(
    event_id UUID COMMENT 'Identity of this event everywhere',
    event_type LowCardinality(String) COMMENT 'Name of the record',
    tenant_id LowCardinality(String) COMMENT 'Whose ledger this is',
    run_id String COMMENT 'The run: one attempt of an agent at one task',
    producer_id String COMMENT 'The emitting process or source',
    producer_seq Int64 COMMENT 'Dense count per producer_id, from 0: a hole is a lost event. Where nobody counts: -1',
    occurred_at DateTime64(6, 'UTC') COMMENT 'The agent''s clock, UTC: data, never an order',
    ledger_time DateTime64(6, 'UTC') COMMENT 'The broker''s append time, UTC, never decreasing within a partition',
    topic LowCardinality(String) COMMENT 'Kafka topic',
    partition UInt32 COMMENT 'Partition of the topic',
    offset Int64 COMMENT 'Offset in the partition',
    log_index UInt64 COMMENT 'Place in the log of its topic and partition, dense from 0',
    value_sha256 String COMMENT 'SHA-256 of the exact value bytes, hex',
    value_hex String COMMENT 'The exact value bytes, hex'
)
AS SELECT
    event_id,
    event_type,
    tenant_id,
    run_id,
    producer_id,
    producer_seq,
    occurred_at,
    ledger_time,
    topic,
    partition,
    offset,
    log_index,
    lower(hex(value_sha256)) AS value_sha256,
    lower(hex(raw)) AS value_hex
FROM agentledger.ledger
WHERE occurrence = 'conflict'
COMMENT 'One row per record that came with the id of an earlier event and other content: it counts nowhere';

-- Conflicting records count as arrived: what they carry is wrong, but they are not lost.
CREATE OR REPLACE VIEW agentledger.gaps
(
    tenant_id LowCardinality(String) COMMENT 'Whose ledger this is',
    producer_id String COMMENT 'The producer',
    events UInt64 COMMENT 'Sequence numbers that are in the ledger',
    first_seq Nullable(Int64) COMMENT 'Lowest sequence number in the ledger',
    last_seq Nullable(Int64) COMMENT 'Highest sequence number in the ledger',
    missing Int64 COMMENT 'Sequence numbers from 0 to last_seq that are not in the ledger',
    missing_ranges Array(Tuple(Int64, Int64)) COMMENT 'First and last number of each hole, at most 100 holes',
    announced UInt64 COMMENT 'GapDetected events about this producer',
    last_ledger_time DateTime64(6, 'UTC') COMMENT 'Ledger time of the producer''s latest event, 1970 where none is left'
)
AS SELECT
    tenant_id,
    producer_id,
    length(seqs) AS events,
    if(empty(seqs), NULL, seqs[1]) AS first_seq,
    if(empty(seqs), NULL, seqs[-1]) AS last_seq,
    if(empty(seqs), 0, seqs[-1] + 1 - length(seqs)) AS missing,
    arraySlice(arrayFilter(hole -> hole.2 >= hole.1, arrayMap((before, after) -> (before + 1, after - 1), arrayPushFront(arrayPopBack(seqs), -1), seqs)), 1, 100) AS missing_ranges,
    announced,
    last_ledger_time
FROM
(
    SELECT
        tenant_id,
        producer_id,
        arraySort(groupUniqArrayIf(producer_seq, NOT is_announcement)) AS seqs,
        countIf(is_announcement) AS announced,
        maxIf(ledger_time, NOT is_announcement) AS last_ledger_time
    FROM
    (
        SELECT tenant_id, producer_id, producer_seq, ledger_time, false AS is_announcement
        FROM agentledger.ledger
        WHERE event_type NOT IN ('', 'Ticked') AND producer_seq >= 0
        UNION ALL
        SELECT tenant_id, gap_producer_id AS producer_id, 0 AS producer_seq, ledger_time, true AS is_announcement
        FROM agentledger.ledger
        WHERE occurrence = 'first' AND event_type = 'GapDetected'
    )
    GROUP BY tenant_id, producer_id
)
WHERE missing > 0 OR announced > 0
COMMENT 'One row per producer with missing events, or that a GapDetected event speaks of';
