"""What a trace says as a whole: what counts, once, in whichever order and pieces its spans come."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.producers.content import digest_words
from agentledger.producers.otel import Memory, Span, SpanEvent, SpanReader
from agentledger.schemas.events import Event, ModelCallCompleted, RunFinished, RunStarted, ToolCallCompleted
from agentledger.schemas.identity import UNCOUNTED
from tests.span_builder import TRACE_ID, chat, execute_tool, invoke_agent, read, span

MCP = {"mcp.method.name": "tools/call", "gen_ai.tool.name": "weather", "mcp.session.id": "m-1"}
# A root that is no agent, an agent that repeats all tokens, a framework's span around the client's, an MCP tool.
TRACE = [
    span(1, None, {"http.request.method": "POST"}, name="POST /chat", kind="server"),
    span(2, 1, {**invoke_agent("scribe"), "gen_ai.usage.input_tokens": 30, "gen_ai.usage.output_tokens": 3}),
    span(3, 2, chat(input_tokens=10, output_tokens=1)),
    span(4, 3, chat(input_tokens=10, output_tokens=1)),
    span(5, 2, chat(input_tokens=20, output_tokens=2)),
    span(6, 2, execute_tool("server_weather", **{"gen_ai.tool.call.id": "c-1", "gen_ai.tool.args": "{}"})),
    span(7, 6, MCP, kind="client"),
    span(8, 7, MCP, kind="server", parent_is_remote=True),
]


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def calls(events: list[Event]) -> list[ModelCallCompleted]:
    return [event for event in events if isinstance(event, ModelCallCompleted)]


def tools(events: list[Event]) -> list[ToolCallCompleted]:
    return [event for event in events if isinstance(event, ToolCallCompleted)]


def test_a_whole_trace_is_one_run_with_each_call_once() -> None:
    events = read(TRACE).events
    assert kinds(events) == ["RunStarted", "ToolCallCompleted", *["ModelCallCompleted"] * 2, "RunFinished"]
    start, end = events[0], events[-1]
    assert isinstance(start, RunStarted)
    assert isinstance(end, RunFinished)
    assert {event.run_id for event in events} == {event.trace_id for event in events} == {TRACE_ID}
    assert [call.span_id[-1] for call in calls(events)] == ["5", "4"]
    assert sum(call.input_tokens or 0 for call in calls(events)) == 30
    assert {event.agent_id for event in events} == {"scribe"}
    assert (start.source, start.workflow, end.status, end.duration_ms) == ("otlp", "shop", "succeeded", 998)
    assert end.labels["spans_without_event"] == "agent 1, model 1, server 1, tool 1"
    assert [event.parent_event_id for event in events] == [None, *[start.event_id] * 4]
    assert [event.step for event in events] == [0, 1, 2, 3, 4]


def test_an_mcp_call_and_the_tool_call_around_it_are_one() -> None:
    [call] = tools(read(TRACE).events)
    assert (call.tool, call.call_id, call.arguments_bytes, call.span_id[-1]) == ("weather", "c-1", 2, "7")
    assert call.labels["mcp_session_id"] == "m-1"
    failed = span(6, 2, execute_tool("weather"), status="error", status_text="late")
    [call] = tools(read([span(2, None), failed, span(7, 6, MCP)]).events)
    assert (call.status, call.error_message) == ("error", digest_words("late"))


def test_the_text_of_an_error_stays_out_unless_it_is_asked_for() -> None:
    text = "no, at /home/jane/x: " + "y" * 4000
    thrown = SpanEvent("exception", {"exception.type": "ValueError", "exception.message": text})
    failed = [
        span(2, None, chat(), status="error", status_text=text),
        span(7, 2, chat(), status="error", events=(thrown,)),
    ]
    said = {event.error_message for event in read(failed).events if hasattr(event, "error_message")}
    assert said == {digest_words(text)}
    kept = SpanReader(keep_error_texts=True).read("acme", failed).events
    said = {event.error_message for event in kept if hasattr(event, "error_message")}
    (message,) = said
    assert message.startswith("no, at /home/…/x: yyy")
    assert len(message) == 300


def test_another_tool_under_a_tool_is_another_call() -> None:
    inner_agent = span(4, 3, invoke_agent("searcher"))
    events = read([span(2, None), span(3, 2, execute_tool("weather")), inner_agent, span(7, 4, MCP)]).events
    assert len(tools(events)) == 2
    assert tools(events)[0].agent_id == "searcher"
    other = read([span(2, None), span(3, 2, execute_tool("forecast")), span(7, 3, MCP)]).events
    assert len(tools(other)) == 2


@pytest.mark.parametrize("seed", range(20))
def test_spans_in_pieces_give_the_same_as_at_once(seed: int) -> None:
    """As exporters send them: what ended first comes first, cut anywhere."""
    by_end = sorted(TRACE, key=lambda item: item.completed_us)
    cuts = sorted(random.Random(seed).sample(range(1, len(by_end)), 3))
    pieces = [by_end[start:end] for start, end in zip([0, *cuts], [*cuts, len(by_end)], strict=True)]
    whole, parts = read(TRACE).events, read(*pieces).events
    assert Counter(event.event_id for event in parts) == Counter(event.event_id for event in whole)
    assert kinds(parts)[-1] == "RunFinished"
    assert sorted(event.step for event in parts) == [0, 1, 2, 3, 4]
    assert [event.step for event in parts if isinstance(event, RunStarted)] == [0]


@given(st.permutations(TRACE[1:]))
def test_in_any_order_no_token_and_no_tool_call_counts_twice(order: list[Span]) -> None:
    events = read(*[[item] for item in order]).events
    assert sum(call.input_tokens or 0 for call in calls(events)) == 30
    assert len(tools(events)) == 1


def test_the_same_spans_again_give_the_same_bytes() -> None:
    reader = SpanReader(Memory())
    first, second = reader.read("acme", TRACE[4:]).events, reader.read("acme", TRACE[4:]).events
    assert first == second
    assert reader.read("acme", TRACE).events == reader.read("acme", TRACE).events
    assert {event.event_id for event in first} <= {event.event_id for event in reader.read("acme", TRACE).events}
    assert not {event.event_id for event in first} & {event.event_id for event in reader.read("other", TRACE).events}


def test_another_span_under_the_same_id_is_still_the_first_one() -> None:
    call, other = span(2, 1, chat(input_tokens=1)), span(2, 1, {"http.request.method": "GET"})
    events = read([call], [other]).events
    assert kinds(events) == ["ModelCallCompleted"] * 2
    assert events[0].event_id == events[1].event_id


def test_nobody_counts_the_events_of_spans() -> None:
    events = read([span(1, None, chat(input_tokens=1))]).events
    assert {(event.producer_id, event.producer_seq) for event in events} == {("otlp:shop", UNCOUNTED)}
    assert kinds(events) == ["RunStarted", "ModelCallCompleted", "RunFinished"]


def test_a_root_that_never_comes_leaves_the_calls() -> None:
    events = read(TRACE[1:]).events
    assert kinds(events) == ["ToolCallCompleted", "ModelCallCompleted", "ModelCallCompleted"]
    assert {event.parent_event_id for event in events} == {None}


def test_an_agent_called_from_another_process_stands_in_for_a_root_that_may_never_come() -> None:
    called = span(2, 1, invoke_agent("scribe"), parent_is_remote=True)
    assert kinds(read([called]).events) == ["RunStarted", "RunFinished"]
    assert kinds(read([span(1, None)], [called]).events) == ["RunStarted", "RunFinished"]
    both = read([called], [span(1, None)]).events
    assert [event.span_id[-1] for event in both] == ["2", "2", "1", "1"]


def test_a_run_may_have_a_name_of_its_own() -> None:
    named = span(1, None, {"agentledger.run_id": "order-7"})
    by_resource = span(2, None, resource={"agentledger.run_id": "order-8"})
    assert {event.run_id for event in read([named]).events} == {"order-7"}
    assert {event.run_id for event in read([by_resource]).events} == {"order-8"}


def test_a_cost_that_is_no_money_refuses_its_span_alone() -> None:
    found = read([span(1, None), span(2, 1, {**chat(input_tokens=1), "gen_ai.usage.cost": 10**30})])
    assert kinds(found.events) == ["RunStarted", "RunFinished"]
    assert [bad.span.span_id[-1] for bad in found.bad] == ["2"]
    assert all(bad.reason for bad in found.bad)


def test_memory_is_bounded_and_forgets_the_oldest_traces() -> None:
    memory = Memory(spans_max=10)
    reader = SpanReader(memory)
    for number in range(50):
        reader.read("acme", [span(1, None, trace_id=f"{number + 1:032x}")])
    assert len(memory) == 10
    assert memory.trace("acme", f"{50:032x}").spans
    assert not memory.trace("acme", f"{1:032x}").spans
