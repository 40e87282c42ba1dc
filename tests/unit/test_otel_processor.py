"""The span processor, in the real OpenTelemetry SDK."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags

from agentledger.producers import Ledger
from agentledger.producers.integrations.opentelemetry import LedgerSpanProcessor
from agentledger.schemas.events import Event, ModelCallCompleted, RunFinished, RunStarted, ToolCallCompleted
from agentledger.schemas.testing.record_producer import FakeRecordProducer
from tests.span_builder import chat, execute_tool, invoke_agent

SECRET = "sk-live-4f9a"
CONTENT = (
    "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.tool.call.arguments", "gen_ai.tool.call.result",
    "gen_ai.prompt.0.content", "input.value", "output.value", "http.request.header.authorization", "url.full",
)  # fmt: skip
MCP = {"mcp.method.name": "tools/call", "gen_ai.tool.name": "weather"}
REMOTE = SpanContext(trace_id=7 << 64, span_id=9, is_remote=True, trace_flags=TraceFlags(1))


class Traced:
    """A program with a tracer, and what its ledger has recorded."""

    def __init__(self, sampler: Sampler = ALWAYS_ON, **settings: Any) -> None:
        self.ledger = Ledger.for_testing(**settings)
        resource = Resource({"service.name": "shop"})
        self.provider = TracerProvider(resource=resource, shutdown_on_exit=False, sampler=sampler)
        self.provider.add_span_processor(LedgerSpanProcessor(self.ledger))
        self.tracer = self.provider.get_tracer("test")

    def span(self, name: str, attributes: dict[str, Any] | None = None, **facts: Any) -> Any:
        return self.tracer.start_as_current_span(name, attributes=attributes, **facts)

    @property
    def events(self) -> list[Event]:
        return self.ledger.events

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


@pytest.fixture
def traced() -> Iterator[Traced]:
    program = Traced()
    yield program
    program.provider.shutdown()
    program.ledger.close()


def test_an_agent_is_recorded_while_it_runs(traced: Traced) -> None:
    with traced.span("invoke_agent scribe", invoke_agent("scribe")) as agent:
        assert traced.kinds() == ["RunStarted"]
        with traced.span("chat gpt-4o", chat()) as call:
            call.set_attribute("gen_ai.usage.input_tokens", 100)
            call.set_attribute("gen_ai.usage.output_tokens", 10)
        with traced.span("execute_tool weather", execute_tool("weather")), traced.span("tools/call weather", MCP):
            pass
        agent.set_attribute("gen_ai.usage.input_tokens", 100)
    start, call_event, tool, end = traced.events
    assert isinstance(start, RunStarted)
    assert isinstance(call_event, ModelCallCompleted)
    assert isinstance(tool, ToolCallCompleted)
    assert isinstance(end, RunFinished)
    assert start.run_id == start.trace_id == f"{agent.get_span_context().trace_id:032x}"
    assert (start.source, start.agent_id, start.workflow) == ("sdk", "scribe", "shop")
    assert (call_event.input_tokens, call_event.output_tokens, call_event.provider) == (100, 10, "openai")
    assert call_event.parent_event_id == tool.parent_event_id == end.parent_event_id == start.event_id
    assert [event.producer_seq for event in traced.events] == [event.step for event in traced.events] == [0, 1, 2, 3]
    assert (end.status, end.labels["spans_without_event"]) == ("succeeded", "tool 1")


def test_what_goes_wrong_is_seen_and_its_words_stay_here(traced: Traced) -> None:
    with pytest.raises(RuntimeError), traced.span("run"), traced.span("chat", chat()):
        raise RuntimeError(f"refused: {SECRET}")
    _, call, end = traced.events
    assert isinstance(call, ModelCallCompleted)
    assert isinstance(end, RunFinished)
    assert (call.status, call.error_type, end.status) == ("error", "RuntimeError", "failed")
    assert "bytes, sha256:" in call.error_message


def test_content_goes_as_far_as_the_ledgers_rules_let_it() -> None:
    program = Traced(redact=lambda value: {"city": value["city"]})
    with program.span("run", execute_tool("weather", **{"gen_ai.tool.call.arguments": '{"city":"Rome","key":"k"}'})):
        pass
    [call] = [event for event in program.events if isinstance(event, ToolCallCompleted)]
    assert (call.arguments_redacted, call.arguments_bytes) == ('{"city":"Rome"}', 25)
    program.ledger.close()


def test_a_secret_in_content_and_errors_is_in_no_byte_that_leaves(traced: Traced) -> None:
    planted = dict.fromkeys(CONTENT, SECRET)
    for attributes in (chat(input_tokens=1), execute_tool("weather"), invoke_agent("scribe"), {}):
        with traced.span("work", attributes | planted) as span:
            span.add_event("gen_ai.user.message", {"content": SECRET})
            span.record_exception(ValueError(SECRET))
            span.set_status(Status(StatusCode.ERROR, SECRET))
    producer = traced.ledger._producer
    assert isinstance(producer, FakeRecordProducer)
    assert len(producer.records) == 10
    assert not [record for record in producer.records if SECRET.encode() in record.value + record.key]


def test_what_another_process_called_is_a_run_of_its_own_under_the_traces(traced: Traced) -> None:
    context = trace.set_span_in_context(NonRecordingSpan(REMOTE))
    with traced.span("POST /tool", context=context) as root, traced.span("chat", chat(input_tokens=1)):
        pass
    start = traced.events[0]
    assert isinstance(start, RunStarted)
    trace_id = f"{REMOTE.trace_id:032x}"
    assert start.parent_run_id == trace_id
    assert {event.run_id for event in traced.events} == {f"{trace_id}-{root.get_span_context().span_id:016x}"}
    assert traced.kinds() == ["RunStarted", "ModelCallCompleted", "RunFinished"]


def test_spans_in_other_threads_and_after_the_root_belong_to_the_run(traced: Traced) -> None:
    with traced.span("run") as root:
        context = trace.set_span_in_context(root)
    late = traced.tracer.start_span("chat", context=context, attributes=chat(input_tokens=1))
    thread = threading.Thread(target=late.end)
    thread.start()
    thread.join()
    assert traced.kinds() == ["RunStarted", "RunFinished", "ModelCallCompleted"]
    assert len({event.run_id for event in traced.events}) == 1


def test_two_traces_at_once_are_two_runs(traced: Traced) -> None:
    first = traced.tracer.start_span("one", context=trace.set_span_in_context(trace.INVALID_SPAN))
    second = traced.tracer.start_span("two", context=trace.set_span_in_context(trace.INVALID_SPAN))
    first.end()
    second.end()
    assert len({event.run_id for event in traced.events}) == 2
    assert traced.kinds() == ["RunStarted", "RunStarted", "RunFinished", "RunFinished"]


def test_sampled_out_traces_are_not_recorded() -> None:
    program = Traced(ALWAYS_OFF)
    with program.span("run"):
        pass
    assert program.events == []
    program.ledger.close()


def test_a_ledger_that_fails_does_not_fail_the_program(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    problems: list[str] = []
    monkeypatch.setattr(traced.ledger, "tell", lambda reason, what: problems.append(reason))
    monkeypatch.setattr("agentledger.producers.integrations.opentelemetry.read_spans", lambda *_, **__: 1 // 0)
    with traced.span("run"):
        pass
    assert problems == ["span_not_read"]
    assert traced.provider.force_flush()
