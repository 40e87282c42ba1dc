"""The tables of the trail: `agentledger.ledger`, whose typed columns come from the catalogue, and the writer's own two.

A field of a record is a column of its own name; the same name means the same type in every record. Tables are only
ever expanded: a new field is a new column.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from agentledger.schemas.catalogue import Schema, current_schemas
from agentledger.schemas.errors import SchemaError
from agentledger.schemas.topics import topic_of

DATABASE = "agentledger"
LEDGER = f"{DATABASE}.ledger"
BATCHES = f"{DATABASE}.ledger_batches"
TRIAL = f"{DATABASE}.ledger_trial"
CLAIMS = f"{DATABASE}.ledger_claims"
PURGED = f"{DATABASE}.ledger_purged"
PAYLOADS = f"{DATABASE}.payloads"

# Names with few values: kept as LowCardinality. A wrong guess costs space, never correctness.
_FEW_VALUES = frozenset(
    [
        "tenant_id",
        "agent_id",
        "agent_version",
        "workflow",
        "environment",
        "source",
        "tool",
        "tool_version",
        "requestor",
        "provider",
        "requested_model",
        "answered_model",
        "model",
        "status",
        "verdict",
        "enforced",
        "rule",
        "policy",
        "policy_version",
        "engine",
        "severity",
        "scope",
        "metric",
        "kind",
        "price_source",
        "price_version",
        "unpriced_reason",
        "effect",
        "risk_tier",
        "run_status",
        "on_exceeded",
        "on_budget_exceeded",
        "command",
        "service_tier",
        "error_type",
        "finish_reason",
        "prompt_version",
        "toolset_version",
        "reversible",
        "window",
        "time_zone",
        "enforcement",
        "when_unreachable",
        "action",
        "rule_version",
        "undo",
        "data_class",
    ]
)
_PLAIN = {"string": "String", "long": "Int64", "double": "Float64", "boolean": "Bool"}
_LOGICAL = {"uuid": "UUID", "timestamp-micros": "DateTime64(6, 'UTC')"}

# Where the rows of an event, of a run, of a kind stand: as a part of each part, they can't disagree with it. A table of
# an earlier release gets them in what is written from then on.
FINDERS = (
    "by_event_id (SELECT _part_offset ORDER BY UUIDToNum(event_id))",
    "by_run_id (SELECT _part_offset ORDER BY run_id)",
    "by_type (SELECT _part_offset ORDER BY event_type, tenant_id, ledger_time)",
)


class Column(NamedTuple):
    """One typed column. `input_type` is what an INSERT declares: parsing straight into LowCardinality is slow."""

    name: str
    type: str
    input_type: str


EVIDENCE: tuple[tuple[str, str], ...] = (
    ("topic", "LowCardinality(String)"),
    ("topic_id", "UUID"),
    ("partition", "UInt32"),
    ("offset", "Int64 CODEC(Delta, ZSTD)"),
    ("log_index", "UInt64 CODEC(Delta, ZSTD)"),
    ("ledger_time", "DateTime64(6, 'UTC') CODEC(Delta, ZSTD)"),
    ("batch_time", "DateTime64(6, 'UTC')"),
    ("event_type", "LowCardinality(String)"),
    ("poison_reason", "LowCardinality(String)"),
    ("occurrence", "Enum8('first' = 0, 'duplicate' = 1, 'conflict' = 2)"),
    ("schema_id", "UInt32"),
    ("schema_sha256", "FixedString(32)"),
    ("key", "String"),
    ("key_sha256", "FixedString(32)"),
    ("headers", "String"),
    ("headers_sha256", "FixedString(32)"),
    ("value_sha256", "FixedString(32) CODEC(NONE)"),
    ("leaf_hash", "FixedString(32) CODEC(NONE)"),
    ("raw", "String CODEC(ZSTD(1))"),
)


def column_of(field: dict[str, Any]) -> Column:
    """The column of one Avro field. Raises SchemaError where the type has no column type."""
    name, kind = field["name"], field["type"]
    nullable = isinstance(kind, list)
    if nullable:
        others = [item for item in kind if item != "null"]
        if len(others) != 1 or kind[0] != "null":
            raise SchemaError(f"field {name} is a union of more than null and one type")
        kind = others[0]
    base = _base_type(name, kind)
    if nullable:
        if "(" in base and not base.startswith("DateTime64"):
            raise SchemaError(f"field {name} is a nullable {base}, which ClickHouse doesn't have")
        return Column(name, f"Nullable({base})", f"Nullable({base})")
    return Column(name, f"LowCardinality({base})" if name in _FEW_VALUES and base == "String" else base, base)


def _base_type(name: str, kind: Any) -> str:
    if isinstance(kind, dict):
        if kind.get("logicalType") in _LOGICAL:
            return _LOGICAL[kind["logicalType"]]
        if kind["type"] == "map" and kind["values"] == "string":
            return "Map(String, String)"
        if kind["type"] == "array" and kind["items"] == "string":
            return "Array(String)"
        kind = kind["type"]
    if not isinstance(kind, str) or kind not in _PLAIN:
        raise SchemaError(f"field {name} has a type without a column: {kind}", next_step="add it to sinks/tables.py")
    return _PLAIN[kind]


@cache
def trail_schemas() -> dict[str, Schema]:
    """Record name to schema, of the records that the trail keeps."""
    return {name: schema for name, schema in current_schemas().items() if topic_of(name).in_ledger}


@cache
def typed_columns() -> dict[str, Column]:
    """Column name to column, over all records of the trail, envelope first. Raises SchemaError on a collision."""
    columns: dict[str, Column] = {}
    for record, schema in trail_schemas().items():
        for field in schema["fields"]:
            column = column_of(field)
            if columns.setdefault(column.name, column) != column:
                raise SchemaError(f"field {column.name} of {record} has another type than in other records")
    return columns


def table_statements() -> list[str]:
    """The statements that make the tables, or bring older ones up to date. Each can be repeated."""
    typed = typed_columns().values()
    columns = [f"`{name}` {kind}" for name, kind in EVIDENCE] + [f"`{column.name}` {column.type}" for column in typed]
    return [
        f"CREATE DATABASE IF NOT EXISTS {DATABASE}",
        _create_ledger(columns),
        f"ALTER TABLE {LEDGER} " + ", ".join(f"ADD COLUMN IF NOT EXISTS {column}" for column in columns),
        *(f"ALTER TABLE {LEDGER} ADD PROJECTION IF NOT EXISTS {projection}" for projection in FINDERS),
        f"""CREATE TABLE IF NOT EXISTS {BATCHES} (
    topic LowCardinality(String), topic_id UUID, partition UInt32,
    first_offset Int64, last_offset Int64, first_index UInt64, last_index UInt64, rows UInt64,
    last_ledger_time DateTime64(6, 'UTC'), skipped_offsets Int64,
    batch_time DateTime64(6, 'UTC'), written_at DateTime64(6, 'UTC'), tree String
) ENGINE = MergeTree ORDER BY (topic_id, partition, last_index)
COMMENT 'One row per log and flush: what it says is written, is written. The last is where the writer stands: its tree
is the compact range of the log so far'""",
        f"ALTER TABLE {BATCHES} ADD COLUMN IF NOT EXISTS tree String",
        f"""CREATE TABLE IF NOT EXISTS {CLAIMS} (
    topic LowCardinality(String), topic_id UUID, partition UInt32, epoch UInt64, claim_id UUID,
    claimed_at DateTime64(6, 'UTC')
) ENGINE = MergeTree ORDER BY (topic_id, partition, epoch, claim_id)
COMMENT 'Which writer may write which log: the one of the highest epoch. An INSERT of an earlier one is refused'""",
        f"""CREATE TABLE IF NOT EXISTS {PURGED} (
    topic_id UUID, partition UInt32, log_index UInt64, ledger_time DateTime64(6, 'UTC'),
    leaf_hash FixedString(32) CODEC(NONE)
) ENGINE = ReplacingMergeTree ORDER BY (topic_id, partition, log_index)
COMMENT 'The leaves of rows that a purge took away: what proofs about other rows are made of'""",
        f"""CREATE TABLE IF NOT EXISTS {PAYLOADS} (
    tenant_id LowCardinality(String), run_id String, payload_event_id UUID, part LowCardinality(String),
    payload_digest String, payload_bytes Int64, chunk Int64, chunks Int64, content String CODEC(ZSTD(3)),
    ledger_time DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(ledger_time) ORDER BY (tenant_id, payload_event_id, part, payload_digest, chunk)
COMMENT 'Content that was asked to be kept, by the event whose it is; no part of the trail, kept for a short time'""",
        f"CREATE OR REPLACE TABLE {TRIAL} AS {LEDGER} ENGINE = Null "
        "COMMENT 'Reads rows and keeps none: finds the record that can''t be read without writing its neighbours'",
    ]


def _create_ledger(columns: list[str]) -> str:
    body = ",\n    ".join(
        [
            *columns,
            "INDEX by_run run_id TYPE bloom_filter(0.01) GRANULARITY 1",
            *(f"PROJECTION {projection}" for projection in FINDERS),
            "INDEX by_log_index log_index TYPE minmax GRANULARITY 1",
            "INDEX by_ledger_time ledger_time TYPE minmax GRANULARITY 1",
        ]
    )
    return f"""CREATE TABLE IF NOT EXISTS {LEDGER} (
    {body}
) ENGINE = MergeTree
PARTITION BY toYYYYMM(batch_time)
ORDER BY (tenant_id, agent_id, ledger_time)
SETTINGS merge_selector_base = 10
COMMENT 'The trail: every record of every log, with its exact bytes and its leaf; read the views, not this'"""
