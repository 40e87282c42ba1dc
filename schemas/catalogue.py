"""The event catalogue as it is on disk: every record's Avro schema, read from `avro/*.avsc`."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any

NAMESPACE = "agentledger.v1"
Schema = dict[str, Any]


@cache
def current_schemas() -> dict[str, Schema]:
    """Record name to schema, for each record of the catalogue, in the order of their names."""
    folder = resources.files("agentledger.schemas.avro")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".avsc")), key=lambda entry: entry.name)
    return {entry.name.removesuffix(".avsc"): json.loads(entry.read_text("utf-8")) for entry in files}


def subject_of(record_name: str) -> str:
    """The registry subject of a record: its full name (RecordNameStrategy)."""
    return f"{NAMESPACE}.{record_name}"


def schema_text(schema: Schema) -> str:
    """The one spelling of a schema that is registered and hashed: compact JSON in the order of the file."""
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)


def schema_sha256(schema: Schema) -> bytes:
    """SHA-256 of `schema_text`, 32 bytes: what a leaf names as its writer schema."""
    return hashlib.sha256(schema_text(schema).encode()).digest()
