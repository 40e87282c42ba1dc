"""Typed columns as ClickHouse spells them in Avro, for comparing them with the bytes that they were taken from."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import fastavro

from agentledger.schemas.catalogue import Schema
from agentledger.schemas.codec import without_logical_types
from agentledger.schemas.errors import StoreError
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.tables import LEDGER, Column, typed_columns

SYNC_BYTES = 16

Filled = Mapping[tuple[str, bytes], frozenset[str]]


def filled_columns(reader: ClickHouseLeafReader) -> Filled:
    """By event type and schema, the typed columns that hold something in any row of the ledger.

    Asked for once: reading every column of the table is most of what a query over a few rows costs.
    """
    columns = list(typed_columns().values())
    filled = ", ".join(f"max(NOT ({is_default(column)}))" for column in columns)
    rows = reader.query(f"SELECT event_type, schema_sha256, {filled} FROM {LEDGER} GROUP BY event_type, schema_sha256")
    found: dict[tuple[str, bytes], frozenset[str]] = defaultdict(frozenset)  # rows that come meanwhile have none
    for event_type, digest, *flags in rows:
        names = (column.name for column, flag in zip(columns, flags, strict=True) if flag)
        found[event_type, bytes(digest)] = frozenset(names)
    return found


def is_default(column: Column) -> str:
    """Whether a column holds nothing."""
    if "Null" in column.type:
        return f"isNull(`{column.name}`)"
    return f"`{column.name}` = defaultValueOfTypeName('{_escaped(column.type)}')"


def fields_of(schema: Schema | None) -> list[str]:
    """The typed columns that a schema fills, in its order."""
    if schema is None:
        return []
    known = typed_columns()
    return [field["name"] for field in schema["fields"] if field["name"] in known]


def comparer(schema: Schema) -> Callable[[bytes, int, bytes], tuple[int, str]]:
    """Decodes columns that aren't byte for byte the body: the place behind them, and what differs."""
    known = typed_columns()
    fields = [field for field in schema["fields"] if field["name"] in known]
    all_fields = fastavro.parse_schema(without_logical_types(schema))
    columns = fastavro.parse_schema({"type": "record", "name": "columns", "fields": without_logical_types(fields)})
    ids = {name for name, column in known.items() if "UUID" in column.type}

    def compare(block: bytes, place: int, body: bytes) -> tuple[int, str]:
        stream = io.BytesIO(block)
        stream.seek(place)
        stored: Any = fastavro.schemaless_reader(stream, columns)
        try:
            sent: Any = fastavro.schemaless_reader(io.BytesIO(body), all_fields)
        except Exception as error:  # noqa: BLE001 (fastavro raises whatever its reading met)
            return stream.tell(), f"the bytes can't be read: {error}"
        for name, value in stored.items():
            expected = sent[name]
            same = str(value).lower() == str(expected).lower() if name in ids else value == expected
            if not same and not (value != value and expected != expected):  # noqa: PLR0124 (not a number: equals nothing)
                return stream.tell(), f"column {name} is {_short(value)}, expected {_short(expected)} as in the bytes"
        return stream.tell(), ""

    return compare


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def blocks_of(raw: bytes) -> Iterator[bytes]:
    """The blocks of an Avro object container file, without their frames."""
    if not raw:
        return
    if raw[:4] != b"Obj\x01":
        raise StoreError(f"ClickHouse did not answer in Avro: {raw[:80]!r}")
    place = 4
    count, place = _long(raw, place)
    while count:
        for _ in range(2 * abs(count)):
            length, place = _long(raw, place)
            place += length
        count, place = _long(raw, place)
    place += SYNC_BYTES
    while place < len(raw):
        _, place = _long(raw, place)
        length, place = _long(raw, place)
        yield raw[place : place + length]
        place += length + SYNC_BYTES


def _long(raw: bytes, place: int) -> tuple[int, int]:
    shift = number = 0
    while True:
        byte = raw[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), place
        shift += 7
