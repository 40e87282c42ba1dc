"""OpenTelemetry spans to events: one mapping for recordings, for OTLP over HTTP, and for a running SDK."""

from agentledger.producers.otel.calls import Part
from agentledger.producers.otel.events import SpanEvents, SpanReader, root_of, run_id_of
from agentledger.producers.otel.memory import Memory, TraceMemory
from agentledger.producers.otel.reading import BadSpan, Draft, Note, Reading, read_spans, run_started, service_of
from agentledger.producers.otel.spans import Span, SpanEvent, hex_id

__all__ = [
    "BadSpan",
    "Draft",
    "Memory",
    "Note",
    "Part",
    "Reading",
    "Span",
    "SpanEvent",
    "SpanEvents",
    "SpanReader",
    "TraceMemory",
    "hex_id",
    "read_spans",
    "root_of",
    "run_id_of",
    "run_started",
    "service_of",
]
