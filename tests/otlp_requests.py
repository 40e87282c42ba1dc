"""OTLP export requests for tests: spans, and the recorded ones, as the protobuf message that an exporter would send."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

_STATUSES = {"ok": Status.STATUS_CODE_OK, "error": Status.STATUS_CODE_ERROR}


def recorded_request(path: Path) -> ExportTraceServiceRequest:
    """The spans of one recording of otel-any-agent as one request."""
    recorded = json.loads(gzip.decompress(path.read_bytes()))["spans"]
    return request_of((recorded_span(raw), raw["resource"]["attributes"]) for raw in recorded)


def recorded_span(raw: dict[str, Any]) -> Span:
    """One recorded span as OTLP has it."""
    status = raw["status"]
    return Span(
        name=raw["name"],
        trace_id=raw["context"]["trace_id"].to_bytes(16, "big"),
        span_id=raw["context"]["span_id"].to_bytes(8, "big"),
        parent_span_id=(raw["parent"]["span_id"] or 0).to_bytes(8, "big") if raw["parent"]["span_id"] else b"",
        start_time_unix_nano=raw["start_time"],
        end_time_unix_nano=raw["end_time"] or 0,
        kind=Span.SPAN_KIND_INTERNAL,
        status=Status(code=_STATUSES.get(status["status_code"], Status.STATUS_CODE_UNSET)),
        attributes=key_values(raw["attributes"]),
    )


def request_of(spans: Iterable[tuple[Span, dict[str, Any]]]) -> ExportTraceServiceRequest:
    """A request of spans, each with its resource's attributes."""
    request = ExportTraceServiceRequest()
    for span, resource in spans:
        of_resource = ResourceSpans(scope_spans=[ScopeSpans(spans=[span])])
        of_resource.resource.attributes.extend(key_values(resource))
        request.resource_spans.append(of_resource)
    return request


def key_values(attributes: dict[str, Any]) -> list[KeyValue]:
    """Attributes as OTLP has them."""
    return [KeyValue(key=name, value=any_value(value)) for name, value in attributes.items()]


def any_value(value: Any) -> AnyValue:
    """A text, boolean or number as OTLP has it."""
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(double_value=value) if isinstance(value, float) else AnyValue(string_value=value)


def as_json(request: ExportTraceServiceRequest) -> bytes:
    """The request in OTLP's JSON: protobuf's, with ids in hexadecimal."""
    document = MessageToDict(request)
    pairs = zip(document.get("resourceSpans", []), request.resource_spans, strict=True)
    for of_resource, original in pairs:
        for scope, original_scope in zip(of_resource["scopeSpans"], original.scope_spans, strict=True):
            for span, original_span in zip(scope["spans"], original_scope.spans, strict=True):
                span["traceId"] = original_span.trace_id.hex()
                span["spanId"] = original_span.span_id.hex()
                if "parentSpanId" in span:
                    span["parentSpanId"] = original_span.parent_span_id.hex()
    return json.dumps(document).encode()
