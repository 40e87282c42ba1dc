"""What the SDK is compared with: a bare loop of fastavro and produce, and a span of the OpenTelemetry SDK."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Sequence

import fastavro
from confluent_kafka import Producer
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from agentledger.schemas import uuid7
from agentledger.schemas.catalogue import current_schemas
from agentledger.schemas.codec import without_logical_types
from agentledger.schemas.events import ModelCallCompleted
from agentledger.schemas.topics import EVENTS

USAGE = {"input_tokens": 1420, "cache_read_tokens": 900, "output_tokens": 310}
SPANS_WAITING_MAX = 20_000  # more than a round: none is dropped, as that would be cheaper

Emit = Callable[[int], None]
EXAMPLE = ModelCallCompleted(
    event_id="", tenant_id="acme", producer_id="bench-host", producer_seq=0, run_id="bench", occurred_at=0,
    agent_id="bench", agent_version="1", workflow="bench", environment="bench", provider="openai",
    requested_model="gpt-4.1", requestor="assistant", status="ok", trace_id="a" * 32, span_id="b" * 16, **USAGE,
)  # fmt: skip


def bare_loop(servers: str) -> tuple[Emit, Callable[[], object]]:
    """What anybody would write: a dict of the same fields, fastavro, produce, poll; and its flush."""
    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "linger.ms": 10})
    schema = fastavro.parse_schema(without_logical_types(current_schemas()["ModelCallCompleted"]))
    constant = dataclasses.asdict(EXAMPLE)

    def emit(number: int) -> None:
        now_us = time.time_ns() // 1000
        fields = {**constant, "event_id": uuid7(now_us), "producer_seq": number, "step": number, "occurred_at": now_us}
        body = io.BytesIO()
        body.write(b"\x00\x00\x00\x00\x0f")
        fastavro.schemaless_writer(body, schema, fields)
        producer.produce(EVENTS.name, body.getvalue(), b"bench")
        producer.poll(0)

    return emit, lambda: producer.flush(60)


def otel_span() -> tuple[Emit, Callable[[], object]]:
    """A span with what the event says as attributes, through a batch processor to an exporter that does nothing."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(NoExporter(), max_queue_size=SPANS_WAITING_MAX))
    tracer = provider.get_tracer("bench")
    attributes = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": EXAMPLE.provider,
        "gen_ai.request.model": EXAMPLE.requested_model, "gen_ai.agent.id": EXAMPLE.agent_id,
        "gen_ai.agent.version": EXAMPLE.agent_version, "gen_ai.conversation.id": EXAMPLE.run_id,
        "tenant_id": EXAMPLE.tenant_id, "producer_id": EXAMPLE.producer_id, "workflow": EXAMPLE.workflow,
        "environment": EXAMPLE.environment, "requestor": EXAMPLE.requestor, "status": EXAMPLE.status, "attempt": 1,
        "gen_ai.usage.input_tokens": USAGE["input_tokens"], "gen_ai.usage.output_tokens": USAGE["output_tokens"],
        "gen_ai.usage.cache_read.input_tokens": USAGE["cache_read_tokens"],
    }  # fmt: skip

    def emit(number: int) -> None:
        with tracer.start_as_current_span("chat gpt-4.1") as span:
            for name, value in attributes.items():
                span.set_attribute(name, value)
            span.set_attribute("producer_seq", number)
            span.set_attribute("step", number)

    return emit, lambda: provider.force_flush(60_000)


class NoExporter(SpanExporter):
    """Takes spans and does nothing with them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Done."""
        return SpanExportResult.SUCCESS
