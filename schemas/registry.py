"""Schema registries: the bundled lock file, or any that speaks Confluent's REST API."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from agentledger.schemas.catalogue import Schema, current_schemas, schema_sha256, schema_text, subject_of
from agentledger.schemas.errors import SchemaError, UnknownSchemaError
from agentledger.schemas.ports import SchemaRegistry

LOCK_FILE = "registry.jsonl"


@dataclass(frozen=True)
class LockEntry:
    """One committed version of one schema; its id never changes."""

    id: int
    subject: str
    version: int
    sha256: str
    schema: Schema

    def line(self) -> str:
        """The entry as its line in the lock file."""
        return json.dumps(self.__dict__, separators=(",", ":"), ensure_ascii=False)


def parse_lock(text: str) -> list[LockEntry]:
    """The entries of a lock file, oldest first. Raises SchemaError where a line isn't what its hash says."""
    entries = [LockEntry(**json.loads(line)) for line in text.splitlines() if line]
    for entry in entries:
        if schema_sha256(entry.schema).hex() != entry.sha256:
            raise SchemaError(
                f"schema {entry.id} was edited after it was locked",
                where=f"{LOCK_FILE}, {entry.subject} version {entry.version}",
                next_step="restore the line; a change of a schema is a new line",
            )
    return entries


def bundled_lock() -> list[LockEntry]:
    """The entries of the lock file that this installation ships."""
    return parse_lock(resources.files("agentledger.schemas.avro").joinpath(LOCK_FILE).read_text("utf-8"))


class LockFileRegistry:
    """The bundled registry: ids from the append-only lock file. Needs no network and no service."""

    def __init__(self, entries: Iterable[LockEntry] | None = None) -> None:
        locked = list(bundled_lock() if entries is None else entries)
        self._by_id = {entry.id: entry.schema for entry in locked}
        self._ids = {(entry.subject, entry.sha256): entry.id for entry in locked}

    def id_of(self, record_name: str) -> int:
        """The id of the record's current schema. Raises UnknownSchemaError where it isn't locked yet."""
        schema = current_schemas()[record_name]
        try:
            return self._ids[subject_of(record_name), schema_sha256(schema).hex()]
        except KeyError:
            raise UnknownSchemaError(
                f"the schema of {record_name} has changed since it was locked",
                where=LOCK_FILE,
                next_step="run: agentledger schemas lock",
            ) from None

    def schema_of(self, schema_id: int) -> Schema:
        """The writer schema with this id. Raises UnknownSchemaError."""
        try:
            return self._by_id[schema_id]
        except KeyError:
            raise UnknownSchemaError(
                f"no schema has the id {schema_id}",
                where=f"bundled registry, {len(self._by_id)} schemas",
                next_step="upgrade agentledger, or point AGENTLEDGER_SCHEMA_REGISTRY_URL to the registry that gave it",
            ) from None


class ConfluentRegistry:
    """Any registry with Confluent's REST API, through confluent-kafka's client, which caches ids and schemas."""

    def __init__(self, url: str, *, basic_auth: str = "", timeout_s: float = 10.0) -> None:
        # Imported here: the client pulls in an HTTP stack that the bundled registry does without.
        from confluent_kafka.schema_registry import SchemaRegistryClient  # noqa: PLC0415

        self._url = url
        settings: dict[str, Any] = {"url": url, "timeout": timeout_s}
        if basic_auth:
            settings["basic.auth.user.info"] = basic_auth
        self._client: Any = SchemaRegistryClient(settings)

    def id_of(self, record_name: str) -> int:
        """The id of the record's current schema, registered if the registry doesn't have it. Raises SchemaError."""
        from confluent_kafka.schema_registry import Schema as RegistrySchema  # noqa: PLC0415

        text = schema_text(current_schemas()[record_name])
        subject = subject_of(record_name)
        try:
            return int(self._client.register_schema(subject, RegistrySchema(text, "AVRO")))
        except Exception as error:
            raise SchemaError(
                f"the registry did not take {subject}: {error}",
                where=self._url,
                next_step="check AGENTLEDGER_SCHEMA_REGISTRY_URL and the subject's compatibility level",
            ) from error

    def schema_of(self, schema_id: int) -> Schema:
        """The writer schema with this id. Raises UnknownSchemaError where there is none, SchemaError otherwise."""
        try:
            schema: Schema = json.loads(self._client.get_schema(schema_id).schema_str)
        except Exception as error:
            if getattr(error, "http_status_code", None) == 404:
                raise UnknownSchemaError(f"no schema has the id {schema_id}", where=self._url) from None
            raise SchemaError(
                f"the registry did not give schema {schema_id}: {error}",
                where=self._url,
                next_step="check AGENTLEDGER_SCHEMA_REGISTRY_URL",
            ) from error
        return schema


def open_registry(url: str = "", *, basic_auth: str = "") -> SchemaRegistry:
    """The registry at `url`, or the bundled one where no URL is given."""
    return ConfluentRegistry(url, basic_auth=basic_auth) if url else LockFileRegistry()
