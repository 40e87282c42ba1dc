"""OTLP over HTTP (OpenTelemetry Protocol 1.x): the body of an export request to spans, and the answer to it.

A JSON body is turned into the same protobuf message first, so that there is one way to read both.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToJson, ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from agentledger.producers.otel.spans import ERROR, OK, UNSET, Span, SpanEvent
from agentledger.schemas.errors import AgentledgerError

PROTOBUF, JSON = "application/x-protobuf", "application/json"
SPANS_MAX = 10_000  # of one request, two seconds' work; the SDK's batches have 512, a collector's 8,192
ATTRIBUTES_MAX = 1_024  # of a span, a resource or an event: the SDK's own limit is 128
EVENTS_MAX = 256  # of a span: the SDK's own limit is 128
DEPTH_MAX = 32  # of values within values; deeper ones are left out
TIME_US_MAX = 7_258_118_400_000_000  # the year 2200: what lies behind it is no time, and no column could hold it
REASONS_MAX = 5  # told in one answer
_KINDS = {
    trace_pb2.Span.SPAN_KIND_INTERNAL: "internal",
    trace_pb2.Span.SPAN_KIND_SERVER: "server",
    trace_pb2.Span.SPAN_KIND_CLIENT: "client",
    trace_pb2.Span.SPAN_KIND_PRODUCER: "producer",
    trace_pb2.Span.SPAN_KIND_CONSUMER: "consumer",
}
_STATUSES = {trace_pb2.Status.STATUS_CODE_OK: OK, trace_pb2.Status.STATUS_CODE_ERROR: ERROR}
_PARENT_IS_KNOWN, _PARENT_IS_REMOTE = 0x100, 0x200  # Span.flags, bits 8 and 9
_ID_NAMES = ("traceId", "spanId", "parentSpanId")


class OtlpBodyError(AgentledgerError):
    """A body is no ExportTraceServiceRequest: nothing of it was taken."""


class RefusedSpan(NamedTuple):
    """A span that was not taken, and why."""

    name: str
    reason: str


class Spans(NamedTuple):
    """What a request holds: spans, and those that can't be taken."""

    taken: list[Span]
    refused: list[RefusedSpan]


def read_request(body: bytes, media_type: str) -> Spans:
    """The spans of a request. Raises OtlpBodyError where the body isn't one."""
    return _spans(_read_json(body) if media_type == JSON else _read_protobuf(body))


def write_response(refused: Iterable[RefusedSpan], media_type: str) -> bytes:
    """The body of a 200: empty where all was taken, else how many spans were not, and why (partial success)."""
    response = ExportTraceServiceResponse()
    told = [f"{item.name or 'a span'}: {item.reason}" for item in refused]
    if told:
        response.partial_success.rejected_spans = len(told)
        more = f"; and {len(told) - REASONS_MAX} more" if len(told) > REASONS_MAX else ""
        response.partial_success.error_message = "; ".join(told[:REASONS_MAX]) + more
    return MessageToJson(response, indent=None).encode() if media_type == JSON else response.SerializeToString()


def _read_protobuf(body: bytes) -> ExportTraceServiceRequest:
    try:
        return ExportTraceServiceRequest.FromString(body)
    except (DecodeError, RecursionError) as error:
        raise _not_a_request(str(error)) from None


def _read_json(body: bytes) -> ExportTraceServiceRequest:
    """OTLP's JSON is protobuf's, but ids are hexadecimal where protobuf has base64, and names are in lowerCamelCase."""
    try:
        document = json.loads(body, object_pairs_hook=_without_extensions)
        _mend_ids(document)
        return ParseDict(document, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    except RecursionError:
        raise _not_a_request("it is nested too deeply") from None
    except (ParseError, ValueError, TypeError, AttributeError, OverflowError, SystemError) as error:
        raise _not_a_request(str(error)) from None  # protobuf's C code gives SystemError for names it can't hold


def _without_extensions(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """What receivers don't know they must ignore; protobuf's parser refuses names in brackets, those of extensions."""
    return {name: value for name, value in fields if not name.startswith("[")}


def _mend_ids(document: Any) -> None:
    if not isinstance(document, dict):
        raise _not_a_request("it is no JSON object")
    for of_resource in _objects(document, "resourceSpans"):
        for of_scope in _objects(of_resource, "scopeSpans"):
            for span in _objects(of_scope, "spans"):
                for item in (span, *_objects(span, "links")):
                    _mend_ids_of(item)


def _mend_ids_of(item: dict[str, Any]) -> None:
    for name in _ID_NAMES:
        if name not in item:
            continue
        try:
            raw = bytes.fromhex(item[name] or "")
        except (ValueError, TypeError):
            raw = b""  # the span is refused for it, not the whole request
        item[name] = base64.b64encode(raw).decode()


def _objects(parent: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    items = parent.get(name)
    return (item for item in (items if isinstance(items, list) else ()) if isinstance(item, dict))


def _spans(request: ExportTraceServiceRequest) -> Spans:
    taken: list[Span] = []
    refused: list[RefusedSpan] = []
    for of_resource in request.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                reason = _fault(span) if len(taken) < SPANS_MAX else f"a request may have {SPANS_MAX:,} spans"
                if reason:
                    refused.append(RefusedSpan(span.name[:100], reason))
                else:
                    taken.append(_span(span, resource))
    return Spans(taken, refused)


def _fault(span: trace_pb2.Span) -> str:
    """Why a span can't be taken; empty where it can."""
    if len(span.trace_id) != 16 or not any(span.trace_id):
        return "its trace id is not 16 bytes, or all zero"
    if len(span.span_id) != 8 or not any(span.span_id):
        return "its span id is not 8 bytes, or all zero"
    if not 0 < span.start_time_unix_nano // 1000 < TIME_US_MAX or span.end_time_unix_nano // 1000 >= TIME_US_MAX:
        return "its times are missing, or beyond the year 2200"
    return ""


def _span(span: trace_pb2.Span, resource: dict[str, Any]) -> Span:
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() if any(span.parent_span_id) else "",
        started_us=span.start_time_unix_nano // 1000,
        ended_us=span.end_time_unix_nano // 1000 or None,
        status=_STATUSES.get(span.status.code, UNSET),
        status_text=span.status.message,
        attributes=_attributes(span.attributes),
        resource=resource,
        kind=_KINDS.get(span.kind, ""),
        parent_is_remote=span.flags & _PARENT_IS_KNOWN != 0 and span.flags & _PARENT_IS_REMOTE != 0,
        events=tuple(SpanEvent(event.name, _attributes(event.attributes)) for event in span.events[:EVENTS_MAX]),
    )


def _attributes(items: Iterable[KeyValue]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        if len(found) >= ATTRIBUTES_MAX:
            break
        found[item.key] = _value(item.value, 0)
    return found


def _value(value: AnyValue, depth: int) -> Any:
    """The value as JSON has it; numbers with fractions as decimals, as their shortest digits say them."""
    kind = value.WhichOneof("value")
    if kind == "double_value":
        number = value.double_value
        return Decimal(repr(number)) if math.isfinite(number) else str(number)
    if kind == "array_value":
        return [_value(item, depth + 1) for item in value.array_value.values] if depth < DEPTH_MAX else None
    if kind == "kvlist_value":
        items = value.kvlist_value.values
        return {item.key: _value(item.value, depth + 1) for item in items} if depth < DEPTH_MAX else None
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return None if kind is None else getattr(value, kind)


def _not_a_request(why: str) -> OtlpBodyError:
    return OtlpBodyError(
        f"the body is no OTLP export request of traces: {why[:200]}",
        next_step="send protobuf as application/x-protobuf, or OTLP's JSON as application/json",
    )
