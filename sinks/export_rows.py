"""The records of an export as their bytes say: read with the schemas in the manifest, for what is derived from them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import fastavro

from agentledger.schemas.codec import HEADER_BYTES, without_logical_types
from agentledger.sinks.ocsf import ocsf_event
from agentledger.sinks.verify_export import NO_SCHEMA, BadExportError, Fields, Record

Place = Callable[[int], tuple[str, int]]  # number of a log to topic and partition


class ReadRecord(NamedTuple):
    """A record and its fields."""

    record: Record
    name: str
    fields: dict[str, Any]


class RecordReader:
    """Reads records by their writer schemas: SHA-256 to text, as the manifest has them."""

    def __init__(self, schemas: dict[str, str]) -> None:
        self._schemas = {}
        for digest, text in schemas.items():
            schema = json.loads(text)
            self._schemas[bytes.fromhex(digest)] = (
                schema["name"], fastavro.parse_schema(without_logical_types(schema))
            )  # fmt: skip

    def read(self, records: Iterable[Fields]) -> Iterator[ReadRecord]:
        """Each readable record with its fields; times are microseconds. Raises BadExportError."""
        for record in map(Record._make, records):
            if record.schema == NO_SCHEMA:
                continue
            name, schema = self._schemas[record.schema]
            try:
                fields: Any = fastavro.schemaless_reader(
                    io.BytesIO(record.value[HEADER_BYTES:]), schema, handle_unicode_errors="replace"
                )
            except Exception as error:  # noqa: BLE001 (fastavro raises whatever its reading met)
                raise BadExportError(f"index {record.log_index} of log {record.log} can't be read: {error}") from None
            yield ReadRecord(record, name, fields)


def ocsf_lines(reader: RecordReader, records: Iterable[Fields], place: Place) -> Iterator[bytes]:
    """A line of JSON for each readable record."""
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
    for record, name, fields in reader.read(records):
        topic, partition = place(record.log)
        event = ocsf_event(
            name, fields, log=f"{topic}/{partition}", log_index=record.log_index, ledger_time_us=record.time_us,
            value_sha256=hashlib.sha256(record.value).hexdigest(),
        )  # fmt: skip
        yield encode(event).encode() + b"\n"
