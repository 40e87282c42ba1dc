"""The append-only lock of schema ids: a changed schema becomes a new line, if it is FULL_TRANSITIVE compatible."""

from __future__ import annotations

import json
from pathlib import Path

import agentledger.schemas.avro
from agentledger.schemas.catalogue import current_schemas, schema_sha256, schema_text, subject_of
from agentledger.schemas.errors import ConfigurationError, SchemaError
from agentledger.schemas.registry import LOCK_FILE, LockEntry, parse_lock

FIRST_ID = 1


def lock_path() -> Path:
    """Where the lock file is in this checkout."""
    return Path(next(iter(agentledger.schemas.avro.__path__))) / LOCK_FILE


def read_lock() -> list[LockEntry]:
    """The lock file's entries; none where it doesn't exist yet. Raises SchemaError where a line was edited."""
    path = lock_path()
    return parse_lock(path.read_text("utf-8")) if path.exists() else []


def missing_entries(locked: list[LockEntry]) -> list[LockEntry]:
    """A new entry for each current schema that the lock lacks. Raises SchemaError where one is incompatible."""
    known = {(entry.subject, entry.sha256) for entry in locked}
    next_id = max((entry.id for entry in locked), default=FIRST_ID - 1) + 1
    new: list[LockEntry] = []
    for name, schema in current_schemas().items():
        subject, digest = subject_of(name), schema_sha256(schema).hex()
        if (subject, digest) in known:
            continue
        versions = [entry for entry in locked if entry.subject == subject]
        check_compatible(subject, [json.dumps(entry.schema) for entry in versions], schema_text(schema))
        new.append(LockEntry(next_id + len(new), subject, len(versions) + 1, digest, schema))
    return new


def check_compatible(subject: str, versions: list[str], candidate: str) -> None:
    """Refuse a schema that can't read all earlier versions, or that one of them can't read (FULL_TRANSITIVE).

    The rules are the Avro specification's, "Schema Resolution", by the reference implementation.
    Raises SchemaError naming the version and the reason, ConfigurationError where that implementation isn't installed.
    """
    try:
        from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType  # noqa: PLC0415
        from avro.schema import parse  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError(
            "the avro package is not installed", next_step="pip install 'agentledger[dev]'"
        ) from None
    new = parse(candidate)
    for number, text in enumerate(versions, start=1):
        old = parse(text)
        for reader, writer, direction in ((new, old, "read"), (old, new, "be read by")):
            result = ReaderWriterCompatibilityChecker().get_compatibility(reader, writer)
            if result.compatibility is not SchemaCompatibilityType.compatible:
                raise SchemaError(
                    f"the changed schema can't {direction} version {number}: {', '.join(result.messages)}",
                    where=subject,
                    next_step="give new fields a default, and remove only fields that have one",
                )


def append_missing() -> list[LockEntry]:
    """Append what is missing to the lock file; the new entries."""
    new = missing_entries(read_lock())
    with lock_path().open("a", encoding="utf-8") as file:
        file.writelines(entry.line() + "\n" for entry in new)
    return new


def check_lock() -> int:
    """How many versions are locked, all of them compatible with the current schemas. Raises SchemaError otherwise."""
    locked = read_lock()
    for name, schema in current_schemas().items():
        versions = [entry for entry in locked if entry.subject == subject_of(name)]
        if schema_sha256(schema).hex() not in {entry.sha256 for entry in versions}:
            raise SchemaError(f"{name} has changed since it was locked", next_step="run: agentledger schemas lock")
        check_compatible(subject_of(name), [json.dumps(entry.schema) for entry in versions], schema_text(schema))
    return len(locked)
