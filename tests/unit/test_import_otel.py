"""The `otel-json` importer: two conventions, ids beyond 64 bits, JSON within JSON, tiny costs."""

from __future__ import annotations

from typing import Any

import pytest

from agentledger.producers.content import digest_words
from agentledger.producers.importers import ImportedRun, ImportOptions, Rejected, Unmapped
from agentledger.producers.importers.otel_json import parse, read_span
from agentledger.producers.json_values import parse_json
from agentledger.schemas.errors import ImportFormatError
from agentledger.schemas.events import ModelCallCompleted, RunFinished, RunStarted, ToolCallCompleted

TRACE = 181173846854566416410198575114694940022
ROOT, CALL, TOOL = 18446744073709551615, 2517577436233593677, 7


def span(name: str, span_id: int, parent: int | None, start: int, end: int | None, **attributes: Any) -> dict[str, Any]:
    base = 1_747_703_769_000_000_000
    return {
        "name": name,
        "kind": "internal",
        "context": {"trace_id": TRACE, "span_id": span_id},
        "parent": {"trace_id": TRACE, "span_id": parent},
        "start_time": base + start * 1_000_000,
        "end_time": None if end is None else base + end * 1_000_000,
        "status": {"status_code": "ok" if parent else "unset", "description": None},
        "attributes": attributes,
        "resource": {"attributes": {"service.name": "unknown_service"}},
    }


def call_llm(span_id: int, start: int, end: int | None, **attributes: Any) -> dict[str, Any]:
    facts = {
        "gen_ai.operation.name": "call_llm",
        "gen_ai.request.model": "mistral/mistral-small-latest",
        "gen_ai.usage.input_tokens": 278,
        "gen_ai.usage.output_tokens": 21,
        "gen_ai.output": "[]",
    }
    return span("call_llm mistral", span_id, ROOT, start, end, **(facts | attributes))


def execute_tool(span_id: int, args: str | None, end: int | None = 30) -> dict[str, Any]:
    facts: dict[str, Any] = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "write_file"}
    return span("execute_tool", span_id, ROOT, 20, end, **facts, **({} if args is None else {"gen_ai.tool.args": args}))


ROOT_SPAN = span("invoke_agent [a]", ROOT, None, 0, 50) | {
    "attributes": {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "scribe", "any_agent.version": "1.9"}
}


def items_of(*spans: dict[str, Any]) -> tuple[ImportedRun, list[str]]:
    items = list(parse({"spans": list(spans), "final_output": None}, ImportOptions(source="s"), "x"))
    runs = [item for item in items if isinstance(item, ImportedRun)]
    assert len(runs) == 1
    return runs[0], [item.kind for item in items if isinstance(item, Unmapped)]


def test_a_trace_is_a_run_and_keeps_its_ids() -> None:
    run, kinds = items_of(call_llm(CALL, 1, 10), execute_tool(TOOL, '{"text": "2025"}'), ROOT_SPAN)
    assert [type(event).__name__ for event in run.events] == [
        "RunStarted",
        "ModelCallCompleted",
        "ToolCallCompleted",
        "RunFinished",
    ]
    start, call, tool, end = run.events
    assert isinstance(start, RunStarted)
    assert isinstance(end, RunFinished)
    assert run.run_id == start.trace_id == f"{TRACE:032x}"
    assert (start.span_id, call.span_id, tool.span_id) == ("f" * 16, f"{CALL:016x}", "0000000000000007")
    assert call.parent_event_id == tool.parent_event_id == start.event_id
    assert (start.agent_id, start.agent_version, start.source) == ("scribe", "1.9", "s")
    assert (end.status, end.duration_ms) == ("succeeded", 50)
    assert kinds == ["model call without a cost"]


def test_costs_below_a_cent_keep_every_digit() -> None:
    text = '{"gen_ai.usage.input_cost": 0.00011519999999999999, "gen_ai.usage.output_cost": 4.2e-06}'
    run, _ = items_of(call_llm(CALL, 1, 10, **parse_json(text)), ROOT_SPAN)
    call = run.events[1]
    assert isinstance(call, ModelCallCompleted)
    assert call.reported_cost_nanousd == 115_200 + 4_200
    assert (call.provider, call.input_tokens, call.output_tokens, call.latency_ms) == ("mistral", 278, 21, 9.0)


@pytest.mark.parametrize("args", ['{"text":"2025"}', '{ "text" : "2025" }', '"{\\"text\\": \\"2025\\"}"'])
def test_equal_arguments_have_equal_digests_however_they_are_wrapped(args: str) -> None:
    plain, _ = items_of(execute_tool(TOOL, '{"text": "2025"}'), ROOT_SPAN)
    wrapped, _ = items_of(execute_tool(TOOL, args), ROOT_SPAN)
    assert plain == wrapped


def test_spans_without_end_or_arguments_are_kept() -> None:
    run, kinds = items_of(execute_tool(TOOL, None, end=None), ROOT_SPAN)
    tool = run.events[1]
    assert isinstance(tool, ToolCallCompleted)
    assert (tool.status, tool.latency_ms, tool.arguments_digest, tool.arguments_bytes) == ("ok", None, "", None)
    assert kinds == ["span without end, taken without latency"]


def test_an_error_status_is_an_error() -> None:
    failed = call_llm(CALL, 1, 10) | {"status": {"status_code": "error", "description": "at /home/jane/x"}}
    run, _ = items_of(failed, ROOT_SPAN | {"status": {"status_code": "error", "description": "down"}})
    call, end = run.events[1], run.events[2]
    assert isinstance(call, ModelCallCompleted)
    assert isinstance(end, RunFinished)
    assert (call.status, call.error_message) == ("error", digest_words("at /home/jane/x"))
    assert (end.status, end.error_message) == ("failed", digest_words("down"))


def test_the_older_convention_counts_the_innermost_call_once() -> None:
    def old(kind: str, name: str, span_id: int, parent: int | None, **more: Any) -> dict[str, Any]:
        return span(name, span_id, parent, span_id, 100 - span_id, **({"openinference.span.kind": kind} | more))

    facts = {
        "llm.model_name": "gpt-4.1-mini",
        "llm.token_count.prompt": 288,
        "llm.token_count.completion": 18,
        "llm.token_count.prompt_details.cache_read": 200,
        "llm.token_count.completion_details.reasoning": 8,
        "cost_prompt": 0.25,
        "cost_completion": 0,
    }
    document = parse_json('{"cost_prompt": 0.0001152}')
    run, kinds = items_of(
        old("CHAIN", "RunnableSequence", 3, 2),
        old("LLM", "wrapper", 4, 3, **facts),
        old("LLM", "ChatLiteLLM", 5, 4, **(facts | document)),
        old("TOOL", "write_file", 6, 2, **{"tool.name": "write_file", "input.value": "{'text': '2025'}"}),
        old("AGENT", "any_agent", 2, 1),
        span("agent_run", 1, None, 1, 99),
    )
    calls = [event for event in run.events if isinstance(event, ModelCallCompleted)]
    tools = [event for event in run.events if isinstance(event, ToolCallCompleted)]
    assert [
        (c.input_tokens, c.cache_read_tokens, c.output_tokens, c.reasoning_tokens, c.reported_cost_nanousd)
        for c in calls
    ] == [(88, 200, 10, 8, 115_200)]
    newer, _ = items_of(execute_tool(TOOL, '{"text": "2025"}'), ROOT_SPAN)
    assert isinstance(newer.events[1], ToolCallCompleted)
    assert [t.arguments_digest for t in tools] == [newer.events[1].arguments_digest]
    assert sorted(kinds) == ["wrapper span AGENT", "wrapper span CHAIN", "wrapper span LLM"]
    assert run.events[0].labels["convention"] == "openinference"
    assert run.events[0].agent_id == "any_agent"


@pytest.mark.parametrize("value", [None, "", "xyz", True, -1, 2**64, 1.5])
def test_a_span_needs_an_id(value: Any) -> None:
    with pytest.raises(ImportFormatError, match="span id"):
        read_span(call_llm(CALL, 1, 2) | {"context": {"trace_id": TRACE, "span_id": value}})


def test_hexadecimal_ids_are_read_too() -> None:
    read = read_span(call_llm(CALL, 1, 2) | {"context": {"trace_id": f"0x{TRACE:032x}", "span_id": f"{CALL:016x}"}})
    assert (read.trace_id, read.span_id) == (f"{TRACE:032x}", f"{CALL:016x}")


def test_a_broken_span_is_rejected_and_the_others_go_on() -> None:
    items = list(parse({"spans": [7, call_llm(CALL, 1, 2), ROOT_SPAN]}, ImportOptions(), "x"))
    assert [item.where for item in items if isinstance(item, Rejected)] == ["x: spans[0]"]
    assert sum(isinstance(item, ImportedRun) for item in items) == 1


def test_another_document_is_refused() -> None:
    with pytest.raises(ImportFormatError, match="spans"):
        list(parse([], ImportOptions(), "x"))
