"""POST /v1/traces: the real OTLP exporter, both encodings, partial success, refusals, resends."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from agentledger.producers.otel.otlp import JSON, PROTOBUF
from agentledger.schemas.events import ModelCallCompleted, RunStarted
from tests.gateway_rig import GatewayRig
from tests.otlp_requests import as_json, request_of
from tests.span_builder import chat, execute_tool, invoke_agent
from tests.unit.test_otlp import otlp_span

ROUTE = "/v1/traces"
REQUEST = request_of([(otlp_span(), {"service.name": "shop"})])
BODIES = {PROTOBUF: REQUEST.SerializeToString(), JSON: as_json(REQUEST)}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[GatewayRig, str]]:
    """A gateway that listens, and its address."""
    rig = GatewayRig()
    server = uvicorn.Server(uvicorn.Config(rig.app, port=0, log_config=None, lifespan="off", ws="none"))
    started = threading.Event()
    thread = threading.Thread(target=serve, args=(server, started))
    thread.start()
    assert started.wait(30)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield rig, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def serve(server: uvicorn.Server, started: threading.Event) -> None:
    startup = server.startup

    async def start(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = start  # type: ignore[method-assign]
    server.run()


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_the_real_exporter_is_understood(served: tuple[GatewayRig, str], compression: Compression) -> None:
    rig, url = served
    before = len(rig.events)
    exporter = OTLPSpanExporter(
        f"{url}{ROUTE}", headers={"Authorization": f"Bearer {rig.key}"}, compression=compression
    )
    provider = TracerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_export_batch_size=2))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("run", attributes=invoke_agent("scribe")):
        for _ in range(3):
            with tracer.start_as_current_span("chat", attributes=chat(input_tokens=7)):
                pass
        with tracer.start_as_current_span("tool", attributes=execute_tool("weather")):
            pass
    assert provider.force_flush()
    provider.shutdown()
    events = rig.events[before:]
    kinds = sorted(type(event).__name__ for event in events)
    assert kinds == [*["ModelCallCompleted"] * 3, "RunFinished", "RunStarted", "ToolCallCompleted"]
    assert len({event.run_id for event in events}) == 1
    assert {event.tenant_id for event in events} == {"acme"}
    [start] = [event for event in events if isinstance(event, RunStarted)]
    assert (start.source, start.agent_id, start.workflow) == ("otlp", "scribe", "shop")


@pytest.mark.parametrize("media_type", BODIES)
@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_both_encodings_are_taken_and_answered_in_kind(media_type: str, encoding: str) -> None:
    rig = GatewayRig()
    body = gzip.compress(BODIES[media_type]) if encoding else BODIES[media_type]
    headers = {"Content-Type": f"{media_type}; charset=utf-8"} | ({"Content-Encoding": encoding} if encoding else {})
    answer = rig.client.post(ROUTE, content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, media_type)
    assert answer.content == (b"{}" if media_type == JSON else b"")
    [_, call, _] = rig.events
    assert isinstance(call, ModelCallCompleted)
    assert call.input_tokens == 7


def test_a_resend_gives_the_same_bytes() -> None:
    rig = GatewayRig()
    for _ in range(2):
        assert post(rig, BODIES[PROTOBUF]).status_code == 200
    values = [record.value for record in rig.producer.records]
    assert values[:3] == values[3:]


def test_single_spans_are_refused_as_the_specification_says() -> None:
    rig = GatewayRig()
    request = request_of([(otlp_span(span_id=b""), {}), (otlp_span(), {})])
    answer = ExportTraceServiceResponse.FromString(post(rig, request.SerializeToString()).content)
    assert answer.partial_success.rejected_spans == 1
    assert "span id" in answer.partial_success.error_message
    assert len(rig.events) == 3
    metrics = rig.client.get("/metrics").text
    assert 'agentledger_gateway_spans_total{result="told"} 1.0' in metrics
    assert 'agentledger_gateway_spans_total{result="refused"} 1.0' in metrics
    told = rig.client.post(ROUTE, content=as_json(request), headers={"Content-Type": JSON}).json()
    assert told["partialSuccess"]["rejectedSpans"] == "1"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"\xff\xff", {"Content-Type": PROTOBUF}, 400),
        (b"{", {"Content-Type": JSON}, 400),
        (b"", {"Content-Type": "text/plain"}, 415),
        (BODIES[PROTOBUF], {"Content-Type": PROTOBUF, "Content-Encoding": "br"}, 415),
        (BODIES[PROTOBUF], {"Content-Type": PROTOBUF, "Authorization": "Bearer alk_no"}, 401),
        (bytes(1000), {"Content-Type": PROTOBUF}, 413),
    ],
)
def test_a_whole_request_is_refused_with_a_status_message(body: bytes, headers: dict[str, str], status: int) -> None:
    rig = GatewayRig(body_bytes_max=900)
    answer = rig.client.post(ROUTE, content=body, headers=headers)
    assert answer.status_code == status
    if headers["Content-Type"] == PROTOBUF:
        assert Status.FromString(answer.content).message
    else:
        assert json.loads(answer.content)["message"]
    assert rig.events == []


def test_a_broker_that_is_away_is_a_503_to_send_again() -> None:
    rig = GatewayRig(up=False, ack_wait_s_max=0.05)
    answer = post(rig, BODIES[PROTOBUF])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    rig.producer.come_back()
    assert post(rig, BODIES[PROTOBUF]).status_code == 200
    values = [record.value for record in rig.producer.records]
    assert values[:3] == values[3:]


FUZZED = GatewayRig(events_per_s_max=10**9)


@given(st.data())
def test_no_body_makes_it_fail(data: st.DataObject) -> None:
    media_type = data.draw(st.sampled_from(sorted(BODIES)))
    body = bytearray(BODIES[media_type])
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    answer = post(FUZZED, bytes(body), media_type)
    assert answer.status_code in {200, 400}


def post(rig: GatewayRig, body: bytes, media_type: str = PROTOBUF) -> Any:
    return rig.client.post(ROUTE, content=body, headers={"Content-Type": media_type})
