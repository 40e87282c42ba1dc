"""Events to bytes and back, in the Confluent wire format: 0x00, schema id (4 bytes, big-endian), Avro body."""

from __future__ import annotations

import io
from typing import Any, Final

import fastavro

from agentledger.schemas.catalogue import Schema, current_schemas
from agentledger.schemas.encoding import Encoder, compile_encoder
from agentledger.schemas.errors import CodecError, SchemaError, UnknownSchemaError
from agentledger.schemas.events import EVENT_TYPES, Event
from agentledger.schemas.ports import SchemaRegistry

MAGIC = b"\x00"
HEADER_BYTES: Final = 5
UNKNOWN_SCHEMAS_MAX = 1024  # ids remembered as unknown, so that a flood of them does not ask a registry each time


class Codec:
    """Encodes and decodes events against one registry. Safe to share between threads once warm."""

    def __init__(self, registry: SchemaRegistry) -> None:
        self._registry = registry
        self._encoders: dict[type[Event], tuple[bytes, Encoder]] = {}
        self._readers: dict[int, tuple[type[Event], Any, Any]] = {}
        self._unknown: set[int] = set()

    def encode(self, event: Event) -> bytes:
        """The event's bytes. Raises CodecError where a field doesn't fit its schema."""
        kind = type(event)
        header, encoder = self._encoders.get(kind) or self._encoder(kind)
        try:
            return header + encoder(event)
        except (TypeError, ValueError, AttributeError, OverflowError, ArithmeticError) as error:
            raise CodecError(
                f"a {kind.__name__} does not fit its schema: {error}",
                where=f"event {getattr(event, 'event_id', '?')}",
                next_step="check the types of its fields",
            ) from error

    def header_of(self, kind: type[Event]) -> bytes:
        """What `encode` writes before the body of such an event."""
        return (self._encoders.get(kind) or self._encoder(kind))[0]

    def current_kind(self, schema_id: int) -> type[Event] | None:
        """The record whose current schema has this id; None for any other id."""
        try:
            kind, _, reader = self._readers.get(schema_id) or self._reader(schema_id)
        except SchemaError:
            return None
        return kind if reader is None else None

    def decode(self, value: bytes | None) -> Event:
        """The event in these bytes, brought to the current schema. Raises CodecError, UnknownSchemaError."""
        schema_id = read_schema_id(value)
        kind, writer, reader = self._readers.get(schema_id) or self._reader(schema_id)
        stream = io.BytesIO(value or b"")  # read_schema_id has refused None
        stream.seek(HEADER_BYTES)
        try:
            fields: Any = fastavro.schemaless_reader(stream, writer, reader)
            event = kind(**fields)
        except Exception as error:  # fastavro raises whatever its reading met
            raise CodecError(f"the body is not a {kind.__name__}: {type(error).__name__} {error}") from error
        rest = len(stream.read())
        if rest:
            raise CodecError(f"{rest} bytes follow the body of a {kind.__name__}")
        return event

    def decode_strictly(self, value: bytes | None) -> Event:
        """Like `decode`, but also refuses over-long varints: what decodes must encode to the same bytes again.

        Records of an older schema are only decoded: the encoders know the current one.
        """
        event = self.decode(value)
        if value and self._readers[read_schema_id(value)][2] is None:
            _, encoder = self._encoders.get(type(event)) or self._encoder(type(event))
            if encoder(event) != value[HEADER_BYTES:]:
                raise CodecError(f"the body of this {type(event).__name__} is not in Avro's shortest form")
        return event

    def _encoder(self, kind: type[Event]) -> tuple[bytes, Encoder]:
        name = kind.__name__
        header = MAGIC + self._registry.id_of(name).to_bytes(4, "big")
        entry = header, compile_encoder(current_schemas()[name])
        self._encoders[kind] = entry
        return entry

    def _reader(self, schema_id: int) -> tuple[type[Event], Any, Any]:
        if schema_id in self._unknown:
            raise UnknownSchemaError(f"no schema has the id {schema_id}")
        try:
            schema = self._registry.schema_of(schema_id)
        except UnknownSchemaError:
            if len(self._unknown) < UNKNOWN_SCHEMAS_MAX:
                self._unknown.add(schema_id)
            raise
        name = schema.get("name", "") if isinstance(schema, dict) else ""
        if name not in EVENT_TYPES:
            raise UnknownSchemaError(f"schema {schema_id} is {name or 'no record'}, not an event of the catalogue")
        current = current_schemas()[name]
        reader = None if schema["fields"] == current["fields"] else _parsed(current)
        entry = EVENT_TYPES[name], _parsed(schema), reader
        self._readers[schema_id] = entry
        return entry


def read_schema_id(value: bytes | None) -> int:
    """The schema id in the wire format's header. Raises CodecError where there is no such header."""
    if value is None:
        raise CodecError("a tombstone holds no event")
    if len(value) < HEADER_BYTES or value[:1] != MAGIC:
        raise CodecError(
            "the bytes do not start with the Confluent header", next_step="send 0x00 and a schema id first"
        )
    return int.from_bytes(value[1:HEADER_BYTES], "big")


def _parsed(schema: Schema) -> Any:
    """The schema for fastavro, without logical types: ids stay text and times stay microseconds."""
    return fastavro.parse_schema(without_logical_types(schema))


def without_logical_types(schema: Any) -> Any:
    """The same schema with plain types underneath; docs are dropped too."""
    if isinstance(schema, list):
        return [without_logical_types(item) for item in schema]
    if isinstance(schema, dict):
        kept = {key: without_logical_types(item) for key, item in schema.items() if key not in {"logicalType", "doc"}}
        return kept["type"] if kept.keys() == {"type"} else kept
    return schema
