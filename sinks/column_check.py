"""Finds rows whose typed columns don't say what their bytes say: views read columns. Many logs at once, and no hashes.

ClickHouse writes the columns of a row in Avro again, in the order of the writer's schema, beside the bytes that they
were taken from, as for `verify_rows`, which checks one log whole.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from agentledger.schemas.catalogue import Schema
from agentledger.schemas.codec import HEADER_BYTES
from agentledger.schemas.encoding import LONG
from agentledger.schemas.errors import AgentledgerError
from agentledger.schemas.ports import SchemaRegistry
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.rows import LogPlace
from agentledger.sinks.span_reader import (
    IN_WINDOW,
    TOPIC_NUMBER,
    LogSpan,
    Window,
    by_topic,
    places_by_number,
    spans_condition,
)
from agentledger.sinks.tables import LEDGER, typed_columns
from agentledger.sinks.verify_columns import blocks_of, comparer, fields_of, is_default

_PREFIX = struct.Struct("<IIQII")
_NUMBERS = (
    f"reinterpretAsFixedString(toUInt32({TOPIC_NUMBER})), "
    "reinterpretAsFixedString(partition), reinterpretAsFixedString(log_index), "
    "reinterpretAsFixedString(toUInt32(#)), reinterpretAsFixedString(toUInt32(length(raw)))"
)
_KIND = ("schema_id", "schema_sha256", "event_type", "poison_reason != ''")
_OF_KIND = (
    "schema_id = {schema_id:UInt32} AND schema_sha256 = unhex({schema_sha256:String}) "
    "AND event_type = {event_type:String} AND (poison_reason != '') = {is_poison:Bool}"
)


class _Kind(NamedTuple):
    """Rows of one kind, and the typed columns that hold something in any of them."""

    schema_id: int
    schema_sha256: bytes
    event_type: str
    is_poison: bool
    filled: frozenset[str]


class WrongColumn(NamedTuple):
    """One row whose columns say something else than its bytes, and what that is."""

    place: LogPlace
    log_index: int
    text: str


class ColumnCheck:
    """Checks rows of these logs."""

    def __init__(self, reader: ClickHouseLeafReader, registry: SchemaRegistry, spans: Sequence[LogSpan]) -> None:
        self._reader = reader
        self._registry = registry
        where, parameters = spans_condition(spans)
        self._where = f"({where}) AND {IN_WINDOW}"
        self._parameters = parameters | {"topic_ids": list(by_topic(spans))}
        self._places = places_by_number(spans)

    def wrong(self, window: Window) -> Iterator[WrongColumn]:
        """The wrong rows of one window of ledger time. Raises StoreError."""
        if not self._places:
            return
        parameters = self._parameters | window._asdict()
        for kind in self._kinds(parameters):
            schema = self._schema(kind)
            for block in self._blocks(kind, schema, parameters):
                yield from self._wrong_in(block, schema)

    def _kinds(self, parameters: dict[str, Any]) -> list[_Kind]:
        columns = list(typed_columns().values())
        filled = ", ".join(f"max(NOT ({is_default(column)}))" for column in columns)
        rows = self._reader.query(
            f"SELECT {', '.join(_KIND)}, {filled} FROM {LEDGER} WHERE {self._where} GROUP BY 1, 2, 3, 4", parameters
        )
        return [
            _Kind(
                schema_id, bytes(digest), event_type, bool(is_poison),
                frozenset(column.name for column, flag in zip(columns, flags, strict=True) if flag),
            )
            for schema_id, digest, event_type, is_poison, *flags in rows
        ]  # fmt: skip

    def _schema(self, kind: _Kind) -> Schema | None:
        """The writer's schema; None where the bytes can't be read, so that no column may hold anything."""
        if kind.is_poison and not kind.event_type:
            return None
        try:
            schema: Schema = self._registry.schema_of(kind.schema_id)
        except AgentledgerError:
            return None
        return schema

    def _blocks(self, kind: _Kind, schema: Schema | None, parameters: dict[str, Any]) -> Iterator[bytes]:
        fields = fields_of(schema)
        strange = [is_default(typed_columns()[name]) for name in sorted(kind.filled.difference(fields))]
        numbers = _NUMBERS.replace("#", " AND ".join(strange) or "1")
        columns = "".join(f", `{name}`" for name in fields)
        raw = self._reader.raw_query(
            f"SELECT toFixedString(concat({numbers}), {_PREFIX.size}) AS p, raw{columns} FROM {LEDGER} "
            f"WHERE {self._where} AND {_OF_KIND} "
            "SETTINGS output_format_avro_codec = 'null', output_format_avro_rows_in_file = 0",
            parameters | kind._asdict() | {"schema_sha256": kind.schema_sha256.hex()},
            "Avro",
        )
        return blocks_of(raw)

    def _wrong_in(self, block: bytes, schema: Schema | None) -> Iterator[WrongColumn]:
        """What is wrong in a block. This loop is what the check costs here: everything in it has a local name."""
        unpack, size, long, startswith = _PREFIX.unpack_from, _PREFIX.size, LONG, block.startswith
        place, end = 0, len(block)
        compare = None
        while place < end:
            topic, partition, index, is_plain, raw_size = unpack(block, place)
            raw_from = place + size + len(long[raw_size])
            place = raw_from + raw_size
            text = "" if is_plain else "a column that this type of record doesn't have holds something"
            if schema is not None:
                body = block[raw_from + HEADER_BYTES : place]
                if startswith(body, place):
                    place += len(body)
                else:
                    compare = compare or comparer(schema)
                    place, differs = compare(block, place, body)
                    text = differs or text
            if text:
                yield WrongColumn(self._places[topic, partition], index, text)
