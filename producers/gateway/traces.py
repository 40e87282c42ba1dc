"""POST /v1/traces: OTLP over HTTP, protobuf and JSON, answered when Kafka has what the spans tell of.

Answers are those of the OTLP specification 1.x: 200 with `partial_success` where single spans were refused, a
google.rpc.Status where the whole request was; 429 and 503 are to be sent again, nothing else is.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from fastapi import APIRouter
from google.protobuf.json_format import MessageToJson
from google.rpc.status_pb2 import Status
from starlette.requests import Request
from starlette.responses import Response

from agentledger.producers.gateway.admission import ACCEPTED, Admission, Gateway
from agentledger.producers.gateway.events_route import media_type_of
from agentledger.producers.gateway.intake import RETRY_AFTER_S
from agentledger.producers.gateway.json_schemas import JsonSchema
from agentledger.producers.gateway.openapi import REFUSALS, request_body
from agentledger.producers.gateway.publishing import OutgoingRecord
from agentledger.producers.gateway.refusals import RefusedRequestError
from agentledger.producers.otel import SpanReader
from agentledger.producers.otel.otlp import (
    JSON,
    PROTOBUF,
    OtlpBodyError,
    RefusedSpan,
    read_request,
    write_response,
)
from agentledger.schemas.errors import CodecError

# Only JSON is described to programs: no tool that reads descriptions can make up a protobuf message.
_BODIES: dict[str, JsonSchema] = {
    JSON: {
        "type": "object",
        "description": f"An ExportTraceServiceRequest in OTLP's JSON; or in protobuf, as {PROTOBUF}.",
    }
}
_ANSWERS = {JSON: {"schema": {"type": "object"}}, PROTOBUF: {"schema": {"type": "string", "format": "binary"}}}


def router(gateway: Gateway) -> APIRouter:
    """The route for spans. What it remembers of traces lasts as long as this gateway."""
    routes = APIRouter(tags=["events"])
    reader = SpanReader(keep_error_texts=gateway.keep_error_texts)
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": _ANSWERS} for status, text in REFUSALS.items()
    }

    @routes.post(
        "/v1/traces",
        summary="Record what OpenTelemetry spans tell of",
        response_class=Response,
        responses={200: {"description": "Kafka has what the spans tell of", "content": _ANSWERS}, **refusals},
        openapi_extra=request_body(_BODIES),
    )
    async def post_traces(request: Request) -> Response:
        media_type = media_type_of(request)
        try:
            with gateway.admit(request, "ingest") as admission:
                return await _take_in(gateway, admission, reader, media_type)
        except RefusedRequestError as error:
            return _refused(error, media_type)

    return routes


async def _take_in(gateway: Gateway, admission: Admission, reader: SpanReader, media_type: str) -> Response:
    if media_type not in {JSON, PROTOBUF}:
        raise RefusedRequestError(
            415, "unknown_media_type", f"the content type {media_type[:60]!a} is not understood",
            next_step=f"send {PROTOBUF} or {JSON}",
        )  # fmt: skip
    body = await admission.body()
    # A large batch takes a second or two: in a thread of its own, so that others are answered meanwhile.
    taken = await asyncio.to_thread(_read, admission, reader, body, media_type)
    failures = await admission.publish(taken.records)
    unanswered = [failure for failure in failures if failure is not ACCEPTED]
    if unanswered:
        raise RefusedRequestError(
            503, "no_acknowledgement", f"{len(unanswered):,} events: {unanswered[0]}",
            next_step="send the same again: what has arrived counts once", retry_after_s=RETRY_AFTER_S,
        )  # fmt: skip
    gateway.metrics.count_spans("told", taken.told)
    gateway.metrics.count_spans("silent", taken.silent)
    gateway.metrics.count_spans("refused", len(taken.refused))
    return Response(write_response(taken.refused, media_type), media_type=media_type)


class _Taken(NamedTuple):
    """What a request gave: records for Kafka; how many spans they tell of, how many none tells of; those refused."""

    records: list[OutgoingRecord]
    told: int
    silent: int
    refused: list[RefusedSpan]


def _read(admission: Admission, reader: SpanReader, body: bytes, media_type: str) -> _Taken:
    """Raises RefusedRequestError."""
    try:
        spans = read_request(body, media_type)
    except OtlpBodyError as error:
        raise RefusedRequestError(400, "not_otlp", error.what, next_step=error.next_step) from None
    found = reader.read(admission.caller.tenant_id, spans.taken)
    refused = [*spans.refused, *(RefusedSpan(bad.span.name, bad.reason) for bad in found.bad)]
    records = []
    for event in found.events:
        try:
            records.append(admission.encode(event))
        except CodecError as error:
            refused.append(RefusedSpan(f"span {event.span_id}", error.what))
    return _Taken(records, found.told, len(spans.taken) - found.told - len(found.bad), refused)


def _refused(error: RefusedRequestError, media_type: str) -> Response:
    """The refusal as a google.rpc.Status in the request's own encoding; JSON where that isn't known."""
    status = Status(message=f"{error.reason}: {error}")
    if media_type == PROTOBUF:
        return Response(status.SerializeToString(), error.status, error.headers(), PROTOBUF)
    return Response(MessageToJson(status, indent=None), error.status, error.headers(), JSON)
