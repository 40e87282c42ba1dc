"""POST /v1/events: facts as JSON or CloudEvents, answered per event when Kafka has them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from agentledger.producers.gateway.admission import Admission, Gateway
from agentledger.producers.gateway.callers import Caller
from agentledger.producers.gateway.cloudevents import cloud_event, is_cloud_event
from agentledger.producers.gateway.intake import take_in
from agentledger.producers.gateway.json_bodies import parse_json
from agentledger.producers.gateway.json_events import plain_event
from agentledger.producers.gateway.json_schemas import JsonSchema
from agentledger.producers.gateway.openapi import answers, ref, request_body
from agentledger.producers.gateway.refusals import RefusedEventError, RefusedRequestError
from agentledger.schemas.codec import Codec
from agentledger.schemas.events import Event

JSON, JSON_LINES = "application/json", ("application/x-ndjson", "application/jsonl")
CLOUD_EVENT, CLOUD_EVENTS = "application/cloudevents+json", "application/cloudevents-batch+json"
ReadItem = Callable[[Any, Caller, Codec], Event]


def router(gateway: Gateway) -> APIRouter:
    """The route for events."""
    routes = APIRouter(tags=["events"])

    def several(name: str) -> JsonSchema:
        return {"type": "array", "items": ref(name), "description": f"At most {gateway.limits.events_max:,}."}

    bodies: dict[str, JsonSchema] = {
        JSON: {"oneOf": [ref("Event"), several("Event")]},
        JSON_LINES[0]: {"type": "string", "description": "One event a line."},
        CLOUD_EVENT: ref("CloudEvent"),
        CLOUD_EVENTS: several("CloudEvent"),
    }

    @routes.post(
        "/v1/events", summary="Record events", responses=answers(partial=True), openapi_extra=request_body(bodies)
    )
    async def post_events(request: Request) -> JSONResponse:
        with gateway.admit(request, "ingest") as admission:
            media_type = media_type_of(request)
            items, read = items_of(media_type, await _body(admission), gateway.limits.depth_max)
            if len(items) > gateway.limits.events_max:
                raise RefusedRequestError(
                    413, "too_many_events", f"{len(items):,} events are more than {gateway.limits.events_max:,}",
                    next_step="send them in several requests",
                )  # fmt: skip
            intake = await take_in(admission, items, lambda item: read(item, admission.caller, gateway.codec))
            return JSONResponse(intake.body(), intake.http_status(), intake.headers())

    return routes


def media_type_of(request: Request) -> str:
    """The request's media type without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def items_of(media_type: str, body: bytes, depth_max: int) -> tuple[list[Any], ReadItem]:
    """The items of a body, and what reads each. Raises RefusedRequestError."""
    if media_type in JSON_LINES:
        return [line for line in body.split(b"\n") if line.strip()], partial(line_event, depth_max)
    if media_type not in {JSON, CLOUD_EVENT, CLOUD_EVENTS}:
        raise RefusedRequestError(
            415, "unknown_media_type", f"the content type {media_type[:60]!a} is not understood",
            next_step=f"send {JSON}, {JSON_LINES[0]}, {CLOUD_EVENT} or {CLOUD_EVENTS}",
        )  # fmt: skip
    value = parse_json(body, depth_max + 1)
    if media_type == CLOUD_EVENTS and not isinstance(value, list):
        raise RefusedRequestError(400, "not_a_batch", "a batch of CloudEvents is a JSON array")
    if media_type == CLOUD_EVENT:
        return [value], cloud_event
    return (value if isinstance(value, list) else [value]), cloud_event if media_type == CLOUD_EVENTS else any_event


def line_event(depth_max: int, line: bytes, caller: Caller, codec: Codec) -> Event:
    """The event in one line of JSON: a line that is none spoils no other. Raises RefusedEventError."""
    try:
        item = parse_json(line, depth_max)
    except RefusedRequestError as error:
        raise RefusedEventError(error.reason, "", error.what) from None
    return any_event(item, caller, codec)


def any_event(item: Any, caller: Caller, codec: Codec) -> Event:
    """A plain event or a CloudEvent. Raises RefusedEventError."""
    return (cloud_event if is_cloud_event(item) else plain_event)(item, caller, codec)


async def _body(admission: Admission) -> bytes:
    body = await admission.body()
    if not body.strip():
        raise RefusedRequestError(400, "empty_body", "the body is empty")
    return body
