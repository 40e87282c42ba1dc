"""Schemas for other programs: JSON Schemas of the events, and the Avro schemas as a registry gives them.

The second is the read half of Confluent's Schema Registry API: what `kcat -r` and deserializers ask for. Schemas are no
secret, so these routes ask for no key.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter
from fastapi import Path as PathParameter
from starlette.responses import JSONResponse

from agentledger.producers.gateway.admission import Gateway
from agentledger.producers.gateway.json_schemas import DIALECT, event_schema, event_schemas
from agentledger.producers.gateway.refusals import RefusedRequestError
from agentledger.schemas.catalogue import schema_text
from agentledger.schemas.registry import LockEntry, bundled_lock

ID_MAX = 2**31 - 1
# Confluent's error codes.
NO_SUBJECT, NO_VERSION, NO_SCHEMA, BAD_VERSION = 40401, 40402, 40403, 42202
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"description": "There is none"}}


class SchemaAnswer(JSONResponse):
    """A JSON Schema."""

    media_type = "application/schema+json"


class RegistryAnswer(JSONResponse):
    """JSON as a registry of Confluent's kind names it."""

    media_type = "application/vnd.schemaregistry.v1+json"


def router(gateway: Gateway) -> APIRouter:
    """The routes for schemas; those of a registry only where ids are the bundled ones: others mean other schemas."""
    routes = APIRouter()
    _add_json_schemas(routes)
    if gateway.has_bundled_ids:
        registry = APIRouter(tags=["registry"], default_response_class=RegistryAnswer)
        _add_registry(registry, SchemaIndex(bundled_lock()))
        routes.include_router(registry)
    return routes


class SchemaIndex:
    """The locked schemas by id, and by subject and version."""

    def __init__(self, entries: Iterable[LockEntry]) -> None:
        self.by_id: dict[int, LockEntry] = {}
        self.subjects: dict[str, dict[int, LockEntry]] = {}
        for entry in entries:
            self.by_id[entry.id] = entry
            self.subjects.setdefault(entry.subject, {})[entry.version] = entry

    def version(self, subject: str, version: str) -> LockEntry | RegistryAnswer:
        """A subject's version, a number or `latest`; or the answer that there is none."""
        versions = self.subjects.get(subject)
        if versions is None:
            return _registry_error(404, NO_SUBJECT, "Subject not found.")
        if version in {"latest", "-1"}:
            return versions[max(versions)]
        if not version.isascii() or not version.isdigit() or not 0 < int(version[:10]) <= ID_MAX:
            return _registry_error(422, BAD_VERSION, "The specified version is neither a positive number nor latest.")
        return versions.get(int(version[:10])) or _registry_error(404, NO_VERSION, "Version not found.")


def _add_json_schemas(routes: APIRouter) -> None:
    @routes.get("/v1/schemas", tags=["schemas"], summary="The events that can be recorded")
    async def list_schemas() -> dict[str, list[str]]:
        return {"events": list(event_schemas())}

    @routes.get(
        "/v1/schemas/{event}",
        tags=["schemas"],
        summary="The JSON Schema of an event",
        responses=_UNKNOWN,
        response_class=SchemaAnswer,
    )
    async def get_schema(event: str) -> SchemaAnswer:
        name = event.removesuffix(".json")
        if name not in event_schemas():
            raise RefusedRequestError(404, "unknown_type", "there is no such event", next_step="see /v1/schemas")
        return SchemaAnswer({"$schema": DIALECT, **event_schema(name)})


def _add_registry(routes: APIRouter, index: SchemaIndex) -> None:
    @routes.get("/schemas/ids/{schema_id}", summary="An Avro schema by its id", responses=_UNKNOWN)
    async def schema_by_id(schema_id: int = PathParameter(ge=0, le=ID_MAX)) -> RegistryAnswer:
        entry = index.by_id.get(schema_id)
        if entry is None:
            return _registry_error(404, NO_SCHEMA, "Schema not found.")
        return RegistryAnswer({"schema": schema_text(entry.schema)})

    @routes.get("/schemas/ids/{schema_id}/versions", summary="Subject and version of an id", responses=_UNKNOWN)
    async def versions_of_id(schema_id: int = PathParameter(ge=0, le=ID_MAX)) -> RegistryAnswer:
        entry = index.by_id.get(schema_id)
        if entry is None:
            return _registry_error(404, NO_SCHEMA, "Schema not found.")
        return RegistryAnswer([{"subject": entry.subject, "version": entry.version}])

    @routes.get("/schemas/types", summary="The kinds of schemas here")
    async def types() -> RegistryAnswer:
        return RegistryAnswer(["AVRO"])

    @routes.get("/subjects", summary="Every subject: the full name of each record")
    async def subjects() -> RegistryAnswer:
        return RegistryAnswer(sorted(index.subjects))

    @routes.get("/subjects/{subject}/versions", summary="The versions of a subject", responses=_UNKNOWN)
    async def versions(subject: str) -> RegistryAnswer:
        if subject not in index.subjects:
            return _registry_error(404, NO_SUBJECT, "Subject not found.")
        return RegistryAnswer(sorted(index.subjects[subject]))

    @routes.get(
        "/subjects/{subject}/versions/{version}",
        summary="A version of a subject, by its number or as latest",
        responses={**_UNKNOWN, 422: {"description": "It is no version"}},
    )
    async def version_of(subject: str, version: str) -> RegistryAnswer:
        found = index.version(subject, version)
        return found if isinstance(found, RegistryAnswer) else RegistryAnswer(_described(found))

    @routes.get("/config", summary="How schemas may change")
    async def config() -> RegistryAnswer:
        return RegistryAnswer({"compatibilityLevel": "FULL_TRANSITIVE"})


def _described(entry: LockEntry) -> dict[str, Any]:
    return {
        "subject": entry.subject, "version": entry.version, "id": entry.id, "schemaType": "AVRO",
        "schema": schema_text(entry.schema),
    }  # fmt: skip


def _registry_error(status: int, code: int, message: str) -> RegistryAnswer:
    return RegistryAnswer({"error_code": code, "message": message}, status)
