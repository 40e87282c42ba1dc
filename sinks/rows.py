"""Rows of the ledger and the Avro container that carries them: bytes joined in Python, decoded by ClickHouse.

A record's Avro body is the plain concatenation of its fields. Behind a prefix of our own columns and before an end
marker it is one row of an object container file (Avro specification, "Object Container Files"), which ClickHouse reads.
The bodies were never validated, so a cut one would silently swallow its neighbour: each row therefore ends with a
random number of this container and the row's own ordinal, and the INSERT throws where they aren't what they must be.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

from agentledger.schemas.catalogue import Schema
from agentledger.schemas.codec import HEADER_BYTES, without_logical_types
from agentledger.schemas.encoding import LONG, encode_text
from agentledger.sinks.tables import typed_columns

FIRST, DUPLICATE, CONFLICT = 0, 1, 2
NONCE_BYTES = 8
_NUMBERS = struct.Struct("<qqqqB")
_ORDINAL = struct.Struct("<q")


class LogPlace(NamedTuple):
    """One log: topic, topic id (canonical text) and partition."""

    topic: str
    topic_id: str
    partition: int


class LedgerRow(NamedTuple):
    """One record of a log, ready to be written; times in microseconds, hashes of 32 bytes."""

    place: LogPlace
    offset: int
    log_index: int
    ledger_time_us: int
    occurrence: int
    key: bytes
    headers: bytes
    hashes: bytes  # SHA-256 of key, headers and value, then the leaf: 128 bytes
    value: bytes | None
    event_id: str  # empty where the record has none


class RowGroup(NamedTuple):
    """Rows in one container: all of one writer schema, or (schema None) all unreadable for one reason."""

    schema_id: int
    schema: Schema | None
    schema_sha256: bytes
    poison_reason: str
    rows: list[LedgerRow]


class Load(NamedTuple):
    """The groups of one INSERT, and the container of each; `nonce` is in all of them."""

    groups: tuple[RowGroup, ...]
    nonce: bytes
    containers: tuple[bytes, ...]

    @staticmethod
    def of(groups: Iterable[RowGroup]) -> Load:
        """The groups, encoded: what can be done before the INSERT."""
        taken, nonce = tuple(groups), os.urandom(NONCE_BYTES)
        return Load(taken, nonce, tuple(container(group, nonce) for group in taken))


_FIXED = {"p_numbers": 33, "p_hashes": 128, "p_end": 16}
_PREFIX: list[dict[str, Any]] = [
    {"name": "p_numbers", "type": {"type": "fixed", "name": "p_numbers", "size": 33}},
    {"name": "p_topic", "type": "string"},
    {"name": "p_topic_id", "type": "string"},
    {"name": "p_partition", "type": "long"},
    {"name": "p_key", "type": "bytes"},
    {"name": "p_headers", "type": "bytes"},
    {"name": "p_hashes", "type": {"type": "fixed", "name": "p_hashes", "size": 128}},
    {"name": "p_raw", "type": "bytes"},
]
_END = {"name": "p_end", "type": {"type": "fixed", "name": "p_end", "size": 16}}
_INPUT = (
    "p_numbers FixedString(33), p_topic String, p_topic_id String, p_partition Int64, p_key String, "
    "p_headers String, p_hashes FixedString(128), p_raw String"
)
_NUMBER = "reinterpretAsInt64(substring(p_numbers, {}, 8))"
_COLUMNS = {
    "topic": "p_topic",
    "topic_id": "toUUID(p_topic_id)",
    "partition": "toUInt32(p_partition)",
    "offset": _NUMBER.format(9),
    "log_index": f"toUInt64({_NUMBER.format(17)})",
    "ledger_time": f"fromUnixTimestamp64Micro({_NUMBER.format(25)}, 'UTC')",
    "occurrence": "CAST(reinterpretAsUInt8(substring(p_numbers, 33, 1)), "
    "'Enum8(\\'first\\' = 0, \\'duplicate\\' = 1, \\'conflict\\' = 2)')",
    "batch_time": "fromUnixTimestamp64Micro({batch_time_us:Int64}, 'UTC')",
    "event_type": "{group_event_type:String}",
    "poison_reason": "{group_poison_reason:String}",
    "schema_id": "{group_schema_id:UInt32}",
    "schema_sha256": "unhex({group_schema_sha256:String})",
    "key": "p_key",
    "headers": "p_headers",
    "key_sha256": "toFixedString(substring(p_hashes, 1, 32), 32)",
    "headers_sha256": "toFixedString(substring(p_hashes, 33, 32), 32)",
    "value_sha256": "toFixedString(substring(p_hashes, 65, 32), 32)",
    "leaf_hash": "toFixedString(substring(p_hashes, 97, 32), 32)",
    "raw": "p_raw",
}
SHIFTED = "a body is not of the length that its schema says"
NOT_TEXT = "a text is not UTF-8"


@cache
def _place_bytes(place: LogPlace) -> bytes:
    return encode_text(place.topic) + encode_text(place.topic_id) + LONG[place.partition]


def body_fields(group: RowGroup) -> list[Schema]:
    """The fields of the bodies in this group; none for unreadable records."""
    return [] if group.schema is None else list(group.schema["fields"])


def insert_statement(groups: Sequence[RowGroup], table: str, fence: str = "1") -> str:
    """One INSERT of all groups into a table, which makes one part of them: parts that need not be merged cost nothing.

    Group N comes as the external table `gN` (`input_structure`, `container`); parameters are `insert_parameters`.
    `fence` is a condition that is worked out once per INSERT.
    """
    present = {name for group in groups for name in _typed_names(group)}
    names = [name for name in typed_columns() if name in present]
    columns = ", ".join(f"`{name}`" for name in (*_COLUMNS, *names))
    selects = [
        _select(number, group, names, fence if number == 0 else "1") for number, group in enumerate(groups)
    ]  # fmt: skip
    return f"INSERT INTO {table} ({columns}) " + " UNION ALL ".join(selects)


def _select(number: int, group: RowGroup, names: list[str], fence: str) -> str:
    own = _typed_names(group)
    values = [value.replace("{group_", f"{{g{number}_") for value in _COLUMNS.values()]
    values += [f"`{name}`" if name in own else _nothing(name) for name in names]
    # Names of their own: columns of one name must have one type, and nothing is a value of many types.
    named = ", ".join(f"{value} AS _{place}" for place, value in enumerate(values))
    return (
        f"SELECT {named} FROM g{number} WHERE {fence} "
        f"AND throwIf(p_end != concat(unhex({{nonce:String}}), substring(p_numbers, 1, 8)), '{SHIFTED}') = 0 "
        f"AND throwIf(NOT isValidUTF8({_all_texts(own)}), '{NOT_TEXT}') = 0"
    )


def _typed_names(group: RowGroup) -> list[str]:
    typed = typed_columns()
    return [field["name"] for field in body_fields(group) if field["name"] in typed]


def _nothing(name: str) -> str:
    """What a column holds in rows whose record has no such field. Short: ClickHouse bounds the statement to 128 KiB."""
    kind = typed_columns()[name].input_type
    if kind.startswith("Nullable"):
        return "NULL"
    return "''" if kind == "String" else f"defaultValueOfTypeName('{_escaped(kind)}')"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def input_structure(group: RowGroup) -> str:
    """The columns of a group's container, as ClickHouse is told them."""
    typed = typed_columns()
    fields = (f"`{name}` {typed[name].input_type}" for name in _typed_names(group))
    return ", ".join([_INPUT, *fields, "p_end FixedString(16)"])


def _all_texts(names: list[str]) -> str:
    """One expression with all texts of a row. Line feeds between them keep two broken ones from making one whole."""
    typed = typed_columns()
    parts = ["''", "''"]  # concatWithSeparator wants two at least
    for name in names:
        kind = typed[name].input_type
        if kind == "String":
            parts.append(f"`{name}`")
        elif kind == "Nullable(String)":
            parts.append(f"ifNull(`{name}`, '')")
        elif kind.startswith("Map"):
            parts += [f"arrayStringConcat(mapKeys(`{name}`), '\\n')", f"arrayStringConcat(mapValues(`{name}`), '\\n')"]
        elif kind.startswith("Array"):
            parts.append(f"arrayStringConcat(`{name}`, '\\n')")
    return f"concatWithSeparator('\\n', {', '.join(parts)})"


def insert_parameters(load: Load, batch_time_us: int) -> dict[str, Any]:
    """The server-side parameters of `insert_statement`."""
    parameters: dict[str, Any] = {"nonce": load.nonce.hex(), "batch_time_us": batch_time_us}
    for number, group in enumerate(load.groups):
        parameters |= {
            f"g{number}_event_type": group.schema["name"] if group.schema else "",
            f"g{number}_poison_reason": group.poison_reason,
            f"g{number}_schema_id": group.schema_id,
            f"g{number}_schema_sha256": group.schema_sha256.hex(),
        }
    return parameters


def container(group: RowGroup, nonce: bytes) -> bytes:
    """The rows as an Avro object container file with one block."""
    body_from = HEADER_BYTES if group.schema is not None else None
    parts: list[bytes] = []
    last_place, place_bytes = None, b""
    for ordinal, row in enumerate(group.rows):
        place, offset, log_index, ledger_time_us, occurrence, key, headers, hashes, maybe_value, _ = row
        value = maybe_value or b""
        if place is not last_place:
            last_place, place_bytes = place, _place_bytes(place)
        parts += (
            _NUMBERS.pack(ordinal, offset, log_index, ledger_time_us, occurrence),
            place_bytes,
            LONG[len(key)],
            key,
            LONG[len(headers)],
            headers,
            hashes,
            LONG[len(value)],
            value,
            value[body_from:] if body_from else b"",
            nonce,
            _ORDINAL.pack(ordinal),
        )
    block = b"".join(parts)
    sync = os.urandom(16)
    return b"".join((_header(group), sync, LONG[len(group.rows)], LONG[len(block)], block, sync))


def _header(group: RowGroup) -> bytes:
    fields = [*_PREFIX, *without_logical_types(body_fields(group)), _END]
    schema = json.dumps({"type": "record", "name": "row", "fields": fields})
    metadata = encode_text("avro.schema") + encode_text(schema) + encode_text("avro.codec") + encode_text("null")
    return b"Obj\x01" + LONG[2] + metadata + b"\x00"
