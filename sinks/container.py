"""Rows for ClickHouse made by joining bytes: the Avro bodies of one schema, in an object container file, undecoded.

An Avro record is the plain concatenation of its fields, so a row is what the writer knows about a record (position,
hashes, exact bytes), then the body as it came, then an end mark. Nobody has validated the bodies at this point: one
that is cut short, or too long, makes ClickHouse read on into its neighbour. The mark that begins and ends each row
(random per file, and the row's number) turns that into an error of the whole INSERT.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from agentledger.schemas.catalogue import Schema
from agentledger.schemas.codec import HEADER_BYTES, without_logical_types
from agentledger.schemas.encoding import LONG, encode_text
from agentledger.schemas.errors import SchemaError
from agentledger.schemas.ports import LedgerRow, LogId
from agentledger.sinks.tables import LEDGER, column_of, typed_columns

MARK_BYTES = 16
_OCCURRENCES = {"first": b"\x00", "duplicate": b"\x01", "conflict": b"\x02"}
_NUMBERS = struct.Struct("<qqq")


class _Front(NamedTuple):
    """A field that stands before the body: its Avro type, its type in INSERT, the column and how it is made of it."""

    name: str
    avro: object
    input_type: str
    column: str
    expression: str


def _fixed(name: str, size: int) -> dict[str, object]:
    return {"type": "fixed", "name": f"t_{name}", "size": size}


def _int(name: str, cast: str) -> _Front:
    return _Front(f"r_{name}", _fixed(name, 8), "FixedString(8)", name, cast.format(f"reinterpretAsInt64(r_{name})"))


def _hash(name: str) -> _Front:
    return _Front(f"r_{name}", _fixed(name, 32), "FixedString(32)", name, f"r_{name}")


def _text(name: str, avro: str = "string", input_type: str = "String") -> _Front:
    return _Front(f"r_{name}", avro, input_type, name, f"r_{name}")


_FRONT = (
    _text("topic"),
    _text("topic_id", input_type="UUID"),
    _text("partition", "long", "UInt32"),
    _int("offset", "{}"),
    _int("log_index", "toUInt64({})"),
    _int("ledger_time", "fromUnixTimestamp64Micro({}, 'UTC')"),
    _Front("r_occurrence", _fixed("occurrence", 1), "FixedString(1)", "occurrence", "reinterpretAsInt8(r_occurrence)"),
    _hash("key_sha256"),
    _hash("headers_sha256"),
    _hash("value_sha256"),
    _hash("leaf_hash"),
    _text("key", "bytes"),
    _text("headers", "bytes"),
    _text("raw", "bytes"),
)
_POISON_FIELDS = ("event_id", "poison_reason")


class Shape(NamedTuple):
    """How rows of one writer schema are sent: the file's header and the INSERT that reads it."""

    schema_id: int
    record: str
    header: bytes  # of the container file, without its sync marker
    insert: str


def shape_of(schema_id: int, schema: Schema, sha256: bytes) -> Shape:
    """The shape for a writer schema. Raises SchemaError where a field doesn't fit the column of its name."""
    known = typed_columns()
    fields = schema["fields"]
    columns = [column_of(field) for field in fields]
    for column in columns:
        if known.get(column.name, column) != column:
            raise SchemaError(f"field {column.name} of schema {schema_id} doesn't fit its column")
    kept = [column for column in columns if column.name in known]
    texts = [_checked_text(column.name, column.input_type) for column in kept if "String" in column.input_type]
    constants = {
        "event_type": _quoted(schema["name"]),
        "poison_reason": "''",
        "schema_id": str(schema_id),
        "schema_sha256": f"unhex('{sha256.hex()}')",
    }
    inputs = [f"`{column.name}` {column.input_type}" for column in kept]
    select = [f"`{column.name}`" for column in kept]
    checks = [f"isValidUTF8(concatWithSeparator('\\n', '', {', '.join(texts)}))"]
    insert = _insert_of(select, select, inputs, constants, checks)
    return Shape(schema_id, schema["name"], _container_header(without_logical_types(fields)), insert)


def poison_shape() -> Shape:
    """The shape of rows without an event: only their place, their hashes, their bytes and the reason."""
    fields = [{"name": "event_id", "type": "string"}, {"name": "poison_reason", "type": "string"}]
    fields += [{"name": "schema_id", "type": "long"}, {"name": "schema_sha256", "type": _fixed("schema_sha256", 32)}]
    inputs = ["event_id UUID", "poison_reason String", "schema_id UInt32", "schema_sha256 FixedString(32)"]
    names = [field["name"] for field in fields]
    return Shape(0, "", _container_header(fields), _insert_of(names, names, inputs, {"event_type": "''"}, []))


def poison_body(row: LedgerRow) -> bytes:
    """What stands in the place of the body in a row of `poison_shape`."""
    return encode_text(row.event_id or NO_EVENT_ID) + encode_text(row.poison_reason) + LONG[row.schema_id] + row.schema_sha256


NO_EVENT_ID = "00000000-0000-0000-0000-000000000000"


def _checked_text(name: str, kind: str) -> str:
    if kind.startswith("Map"):
        return f"arrayStringConcat(arrayConcat(mapKeys(`{name}`), mapValues(`{name}`)), '\\n')"
    if kind.startswith("Array"):
        return f"arrayStringConcat(`{name}`, '\\n')"
    return f"ifNull(`{name}`, '')" if kind.startswith("Nullable") else f"`{name}`"


def _insert_of(
    columns: list[str], expressions: list[str], inputs: list[str], constants: dict[str, str], checks: list[str]
) -> str:
    names = [front.column for front in _FRONT] + list(constants) + ["batch_time"] + columns
    values = [front.expression for front in _FRONT] + list(constants.values())
    values += ["fromUnixTimestamp64Micro({batch_time_us:Int64}, 'UTC')", *expressions]
    structure = ["r_start FixedString(16)", *(f"{front.name} {front.input_type}" for front in _FRONT), *inputs]
    structure.append("r_end FixedString(16)")
    checks = ["r_start = r_end", *checks]
    quoted = ", ".join(structure).replace("\\", "\\\\").replace("'", "\\'")
    return (
        f"INSERT INTO {LEDGER} ({', '.join(names)}) SELECT {', '.join(values)} FROM input('{quoted}')"
        f" WHERE throwIf(NOT ({' AND '.join(checks)}), 'agentledger: a body is not what its schema says') = 0"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _container_header(fields: Sequence[object]) -> bytes:
    front = [{"name": item.name, "type": item.avro} for item in _FRONT]
    start = {"name": "r_start", "type": _fixed("mark", MARK_BYTES)}
    schema = {
        "type": "record",
        "name": "row",
        "fields": [start, *front, *fields, {"name": "r_end", "type": "t_mark"}],
    }
    meta = encode_text("avro.schema") + encode_text(json.dumps(schema)) + encode_text("avro.codec") + encode_text("null")
    return b"Obj\x01" + LONG[2] + meta + b"\x00"


def log_front(topic: str, log: LogId) -> bytes:
    """What every row of a log begins with, after the mark."""
    return encode_text(topic) + encode_text(_uuid_text(log.topic_id)) + LONG[log.partition]


def _uuid_text(raw: bytes) -> str:
    hexed = raw.hex()
    return f"{hexed[:8]}-{hexed[8:12]}-{hexed[12:16]}-{hexed[16:20]}-{hexed[20:]}"


def container_file(shape: Shape, rows: Sequence[LedgerRow], fronts: dict[LogId, bytes]) -> bytes:
    """The rows as an Avro object container file of one block."""
    nonce, sync = os.urandom(8), os.urandom(16)
    parts: list[bytes] = []
    add = parts.extend
    pack, long, is_poison = _NUMBERS.pack, LONG, not shape.record
    for number, row in enumerate(rows):
        mark = nonce + number.to_bytes(8, "little")
        value = row.value
        add(
            (
                mark,
                fronts[row.log],
                pack(row.offset, row.log_index, row.ledger_time_us),
                _OCCURRENCES[row.occurrence],
                row.key_sha256,
                row.headers_sha256,
                row.value_sha256,
                row.leaf_hash,
                long[len(row.key)],
                row.key,
                long[len(row.headers)],
                row.headers,
                long[len(value)],
                value,
                poison_body(row) if is_poison else value[HEADER_BYTES:],
                mark,
            )
        )
    block = b"".join(parts)
    return b"".join((shape.header, sync, LONG[len(rows)], LONG[len(block)], block, sync))
