"""The Agents SDK itself over OpenAI's client with scripted answers: tools, sub-agents, guardrails, approvals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import agents
import httpx2
import openai
import pytest
from agents import Agent, GuardrailFunctionOutput, InputGuardrail, OpenAIResponsesModel, RunConfig, Runner
from agents.exceptions import InputGuardrailTripwireTriggered, UserError

from agentledger.producers import RunBudget, RunBudgetExceededError
from agentledger.producers.integrations.openai_agents import ENGINE, LedgerHooks, install
from agentledger.schemas.events import (
    ApprovalDecided,
    ApprovalRequested,
    ModelCallCompleted,
    PolicyDecided,
    RunFinished,
    RunStarted,
    ToolCallCompleted,
)
from tests.framework_rig import SECRET, RecordingLedger

USAGE = {
    "input_tokens": 1000, "input_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 50},
    "output_tokens": 300, "output_tokens_details": {"reasoning_tokens": 200}, "total_tokens": 1300,
}  # fmt: skip


@pytest.fixture(autouse=True)
def hooks(ledger: RecordingLedger) -> Iterator[LedgerHooks]:
    """The hooks of the only trace processor: nothing is exported to anybody."""
    agents.set_trace_processors([])
    yield install(ledger)
    agents.set_trace_processors([])


def model_of(*answers: Any) -> OpenAIResponsesModel:
    """Gives its answers in order: text, tool calls as (name, arguments) pairs, or an HTTP status."""
    left = list(answers)

    def answer(request: httpx2.Request) -> httpx2.Response:
        said = left.pop(0)
        if isinstance(said, int):
            return httpx2.Response(said, json={"error": {"message": f"{SECRET} is wrong"}})
        text = [{"type": "output_text", "text": said, "annotations": []}] if isinstance(said, str) else []
        items: list[dict[str, Any]] = [
            {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": text}
        ]
        if not isinstance(said, str):
            items = [
                {"type": "function_call", "id": f"f{place}", "call_id": f"c{len(left)}{place}", "name": name,
                 "arguments": json.dumps(arguments), "status": "completed"}
                for place, (name, arguments) in enumerate(said)
            ]  # fmt: skip
        body = {
            "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-4.1-2026", "status": "completed",
            "output": items, "usage": USAGE, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        }  # fmt: skip
        if json.loads(request.content).get("stream"):
            event = {"type": "response.completed", "sequence_number": 0, "response": body}
            return httpx2.Response(200, content=f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        return httpx2.Response(200, json=body)

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    return OpenAIResponsesModel("gpt-4.1", openai.AsyncOpenAI(api_key=SECRET, http_client=http, max_retries=0))


@agents.function_tool
def find(q: str) -> str:
    """Find an order."""
    return f"found {q}"


@agents.function_tool
def broken(q: str) -> str:
    """Fail."""
    raise ValueError(SECRET)


def run(agent: Agent[Any], asked: Any = SECRET, **settings: Any) -> Any:
    return asyncio.run(Runner.run(agent, asked, **settings))


def check(call: ModelCallCompleted) -> None:
    assert (call.provider, call.requested_model) == ("openai", call.requested_model)
    assert (call.answered_model, call.response_id) == ("gpt-4.1-2026", "resp_1")
    assert (call.input_tokens, call.cache_read_tokens, call.cache_write_tokens) == (350, 600, 50)
    assert (call.output_tokens, call.reasoning_tokens) == (100, 200)
    assert (call.status, call.finish_reason) == ("ok", "completed")


@pytest.mark.parametrize("with_hooks", [True, False])
def test_a_trace_is_a_run_with_its_model_and_tool_calls(
    ledger: RecordingLedger, hooks: LedgerHooks, with_hooks: bool
) -> None:
    model = model_of([("find", {"q": SECRET}), ("broken", {"q": "x"})], "done")
    agent: Agent[Any] = Agent("support", instructions=SECRET, model=model, tools=[find, broken])
    config = RunConfig(workflow_name="refunds", trace_metadata={"label": SECRET})
    run(agent, run_config=config, hooks=hooks if with_hooks else None)
    started, finished = ledger.only(RunStarted), ledger.only(RunFinished)
    assert (started.workflow, finished.status) == ("refunds", "succeeded")
    for call in ledger.every(ModelCallCompleted):
        check(call)
        assert call.parent_event_id == started.event_id
        assert call.requested_model == ("gpt-4.1" if with_hooks else "gpt-4.1-2026")
    tools = {tool.tool: tool for tool in ledger.every(ToolCallCompleted)}
    assert (tools["find"].status, tools["broken"].status, tools["broken"].error_type) == ("ok", "error", "ToolError")
    assert tools["find"].arguments_digest
    assert tools["find"].result_digest
    assert len(ledger.events) == 6
    assert SECRET.encode() not in ledger.emitted


@pytest.mark.parametrize("with_hooks", [True, False])
def test_traces_without_content(ledger: RecordingLedger, hooks: LedgerHooks, with_hooks: bool) -> None:
    model = model_of([("find", {"q": "x"})], "done")
    config = RunConfig(trace_include_sensitive_data=False)
    run(Agent("support", model=model, tools=[find]), run_config=config, hooks=hooks if with_hooks else None)
    tool = ledger.only(ToolCallCompleted)
    assert (tool.status, tool.result_digest) == ("ok", "")
    assert [call.input_tokens for call in ledger.every(ModelCallCompleted)] == [350, 350]
    assert ledger.only(RunFinished).status == "succeeded"


def test_an_open_run_and_streams(ledger: RecordingLedger, hooks: LedgerHooks) -> None:
    async def main() -> None:
        async with ledger.run("mine"):
            streamed = Runner.run_streamed(Agent("support", model=model_of("done")), SECRET, hooks=hooks)
            async for _ in streamed.stream_events():
                pass

    asyncio.run(main())
    assert ledger.names() == ["RunStarted", "ModelCallCompleted", "RunFinished"]
    check(ledger.only(ModelCallCompleted))


def test_an_agent_used_as_a_tool_is_a_sub_run(ledger: RecordingLedger, hooks: LedgerHooks) -> None:
    inner: Agent[Any] = Agent("researcher", model=model_of("inner"))
    tool = inner.as_tool("research", "ask", hooks=hooks)
    run(Agent("boss", model=model_of([("research", {"input": "x"})], "done"), tools=[tool]), hooks=hooks)
    outer, sub = ledger.every(RunStarted)
    called = ledger.only(ToolCallCompleted)
    assert (sub.workflow, sub.parent_run_id, sub.parent_event_id) == ("researcher", outer.run_id, called.event_id)
    assert [call.run_id for call in ledger.every(ModelCallCompleted)] == [outer.run_id, sub.run_id, outer.run_id]
    assert [done.status for done in ledger.every(RunFinished)] == ["succeeded", "succeeded"]


def test_an_error_fails_the_run_without_its_words(ledger: RecordingLedger, hooks: LedgerHooks) -> None:
    with pytest.raises(openai.BadRequestError, match=SECRET):
        run(Agent("support", model=model_of(400)), hooks=hooks)
    call = ledger.only(ModelCallCompleted)
    assert (call.status, call.error_type, call.input_tokens) == ("error", "ModelError", None)
    assert "sha256:" in call.error_message
    assert ledger.only(RunFinished).status == "failed"
    assert SECRET.encode() not in ledger.emitted


def test_a_budget_stops_the_model_call(ledger: RecordingLedger, hooks: LedgerHooks) -> None:
    model = model_of([("find", {"q": "a"})], [("find", {"q": "b"})], "never")
    agent: Agent[Any] = Agent("support", model=model, tools=[find])

    async def main() -> None:
        async with ledger.run("w", budget=RunBudget(model_calls=1)):
            await Runner.run(agent, "?", hooks=hooks)

    with pytest.raises(RunBudgetExceededError):
        asyncio.run(main())
    assert len(ledger.every(ModelCallCompleted)) == 1
    assert ledger.only(RunFinished).status == "halted"


def test_a_budget_stops_the_tool_call(ledger: RecordingLedger, hooks: LedgerHooks) -> None:
    called: list[str] = []

    @agents.function_tool
    def act(q: str) -> str:
        called.append(q)
        return q

    model = model_of([("act", {"q": "a"})], [("act", {"q": "b"})], "never")

    async def main() -> None:
        async with ledger.run("w", budget=RunBudget(tool_calls=1)):
            await Runner.run(Agent("support", model=model, tools=[act]), "?", hooks=hooks)

    with pytest.raises(UserError) as raised:
        asyncio.run(main())
    assert isinstance(raised.value.__cause__, RunBudgetExceededError)
    assert called == ["a"]
    assert [tool.status for tool in ledger.every(ToolCallCompleted)] == ["ok", "denied"]


@pytest.mark.parametrize("is_bad", [True, False])
def test_guardrails_are_policy_decisions(ledger: RecordingLedger, hooks: LedgerHooks, is_bad: bool) -> None:
    async def check_input(context: Any, agent: Any, asked: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=SECRET, tripwire_triggered=is_bad)

    guardrail: InputGuardrail[Any] = InputGuardrail(check_input, name="no_secrets", run_in_parallel=False)
    agent: Agent[Any] = Agent("support", model=model_of("done"), input_guardrails=[guardrail])
    if is_bad:
        with pytest.raises(InputGuardrailTripwireTriggered):
            run(agent, hooks=hooks)
    else:
        run(agent, hooks=hooks)
    decided = ledger.only(PolicyDecided)
    assert (decided.engine, decided.policy) == (ENGINE, "no_secrets")
    assert (decided.verdict, decided.enforced) == (("deny", "blocked") if is_bad else ("allow", "allowed"))
    assert ledger.only(RunFinished).status == ("halted" if is_bad else "succeeded")
    assert len(ledger.every(ModelCallCompleted)) == (0 if is_bad else 1)
    assert SECRET.encode() not in ledger.emitted


@pytest.mark.parametrize("is_approved", [True, False])
def test_tools_that_need_approval(ledger: RecordingLedger, hooks: LedgerHooks, is_approved: bool) -> None:
    @agents.function_tool(needs_approval=True)
    def refund(amount: int) -> str:
        return f"paid {amount}"

    agent: Agent[Any] = Agent("support", model=model_of([("refund", {"amount": 5})], "done"), tools=[refund])
    result = run(agent, hooks=hooks)
    hooks.record_interruptions(result)
    asked = ledger.only(ApprovalRequested)
    assert (asked.approval_id, asked.action, asked.change_digest[:7]) == ("c10", "refund", "sha256:")
    assert ledger.only(RunFinished).status == "escalated"
    state = result.to_state()
    (state.approve if is_approved else state.reject)(result.interruptions[0])
    run(agent, state, hooks=hooks)
    decided = ledger.only(ApprovalDecided)
    assert (decided.approval_id, decided.run_id) == ("c10", asked.run_id)
    assert decided.verdict == ("approved" if is_approved else "rejected")
    assert [tool.status for tool in ledger.every(ToolCallCompleted)] == ["denied", *(["ok"] if is_approved else [])]


def test_a_ledger_that_fails_breaks_nothing(
    ledger: RecordingLedger, hooks: LedgerHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object, **kwargs: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(ledger, "run", failing)
    agent: Agent[Any] = Agent("support", model=model_of([("find", {"q": "x"})], "done"), tools=[find])
    assert run(agent, hooks=hooks).final_output == "done"
    assert ledger.events == []
    assert SECRET.encode() not in ledger.emitted
    assert {problem.reason for problem in ledger.problems} == {"integration"}
    ledger.problems.clear()
