"""Pydantic AI itself with scripted models: agents, tools, streams, parallel calls, sub-agents, approvals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults, ModelRetry, RunContext, ToolDenied
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.usage import RequestUsage

from agentledger.producers import RunBudget, RunBudgetExceededError
from agentledger.producers.integrations.pydantic_ai import LedgerCapability
from agentledger.schemas.events import (
    ApprovalDecided,
    ApprovalRequested,
    ModelCallCompleted,
    RunFinished,
    RunStarted,
    ToolCallCompleted,
)
from tests.framework_rig import SECRET, RecordingLedger


def usage() -> RequestUsage:
    return RequestUsage(
        input_tokens=1000, cache_read_tokens=600, cache_write_tokens=50, output_tokens=300, output_reasoning_tokens=200
    )


def scripted(*answers: Any) -> FunctionModel:
    """Gives its answers in order: text, tool calls as (name, arguments) pairs, or an exception to raise."""
    left = list(answers)

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        said = left.pop(0)
        if isinstance(said, Exception):
            raise said
        if isinstance(said, str):
            return ModelResponse(parts=[TextPart(said)], usage=usage(), finish_reason="stop", provider_response_id="r")
        calls = [ToolCallPart(name, args, tool_call_id=f"c{place}") for place, (name, args) in enumerate(said)]
        return ModelResponse(parts=calls, usage=usage())

    return FunctionModel(answer, model_name="gpt-4.1")


def agent_of(ledger: RecordingLedger, model: FunctionModel, **settings: Any) -> Agent[Any, Any]:
    return Agent(model, capabilities=[LedgerCapability(ledger)], name=settings.pop("name", "support"), **settings)


def run(agent: Agent[Any, Any], prompt: str | None = "?", **settings: Any) -> Any:
    """Run the agent in a loop of its own, which `run_sync` would leave open."""
    return asyncio.run(agent.run(prompt, **settings))


def check(call: ModelCallCompleted) -> None:
    assert (call.requested_model, call.status) == ("gpt-4.1", "ok")
    assert (call.input_tokens, call.cache_read_tokens, call.cache_write_tokens) == (350, 600, 50)
    assert (call.output_tokens, call.reasoning_tokens) == (100, 200)


def test_an_agent_is_a_run_with_its_model_and_tool_calls(ledger: RecordingLedger) -> None:
    agent = agent_of(ledger, scripted([("find", {"q": SECRET}), ("find", {"q": "y"})], "done"), instructions=SECRET)

    @agent.tool_plain
    def find(q: str) -> str:
        return f"found {q}"

    assert run(agent, SECRET, metadata={"label": SECRET}).output == "done"
    started, finished = ledger.only(RunStarted), ledger.only(RunFinished)
    assert (started.workflow, finished.status) == ("support", "succeeded")
    for call in ledger.every(ModelCallCompleted):
        check(call)
        assert call.parent_event_id == started.event_id
    assert ledger.every(ModelCallCompleted)[-1].finish_reason == "stop"
    tools = ledger.every(ToolCallCompleted)
    assert sorted((tool.tool, tool.call_id, tool.status) for tool in tools) == [
        ("find", "c0", "ok"), ("find", "c1", "ok"),
    ]  # fmt: skip
    assert SECRET.encode() not in ledger.emitted


def test_an_open_run_takes_the_events_and_a_sub_agent_is_a_sub_run(ledger: RecordingLedger) -> None:
    inner = agent_of(ledger, scripted("inner"), name="researcher")
    outer = agent_of(ledger, scripted([("research", {"q": "x"})], "done"), name="boss")

    @outer.tool_plain
    async def research(q: str) -> str:
        return str((await inner.run(q)).output)

    with ledger.run("mine", run_id="mine"):
        run(outer)
    mine, researcher = ledger.every(RunStarted)
    assert (mine.workflow, researcher.workflow, researcher.parent_run_id) == ("mine", "researcher", "mine")
    tool = ledger.only(ToolCallCompleted)
    assert (tool.run_id, researcher.parent_event_id) == ("mine", tool.event_id)
    assert [call.run_id for call in ledger.every(ModelCallCompleted)] == ["mine", researcher.run_id, "mine"]


def test_streams(ledger: RecordingLedger) -> None:
    async def pieces(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        if len(messages) == 1:
            yield {0: DeltaToolCall("find", '{"q": "x"}', tool_call_id="c0")}
        else:
            yield "hel"
            yield "lo"

    agent = agent_of(ledger, FunctionModel(stream_function=pieces, model_name="gpt-4.1"))

    @agent.tool_plain
    def find(q: str) -> str:
        return q

    async def main() -> str:
        async with agent.run_stream(SECRET) as streamed:
            return "".join([text async for text in streamed.stream_text(delta=True)])

    assert asyncio.run(main()) == "hello"
    asked, answered = ledger.every(ModelCallCompleted)
    for call in (asked, answered):
        assert (call.status, call.time_to_first_token_ms is not None) == ("ok", True)
        assert call.output_tokens
    assert ledger.only(RunFinished).status == "succeeded"
    assert SECRET.encode() not in ledger.emitted


def test_retries_and_errors(ledger: RecordingLedger) -> None:
    agent = agent_of(ledger, scripted([("find", {"q": "a"})], [("find", {"q": "b"})], RuntimeError(SECRET)))

    @agent.tool(retries=2)
    def find(ctx: RunContext[Any], q: str) -> str:
        if ctx.retry == 0:
            raise ModelRetry(SECRET)
        return q

    with pytest.raises(RuntimeError, match=SECRET):
        run(agent)
    assert [(tool.status, tool.attempt) for tool in ledger.every(ToolCallCompleted)] == [("error", 1), ("ok", 2)]
    failed = ledger.every(ModelCallCompleted)[-1]
    assert (failed.status, failed.error_type, failed.input_tokens) == ("error", "RuntimeError", None)
    assert ledger.only(RunFinished).status == "failed"
    assert SECRET.encode() not in ledger.emitted


def test_a_budget_stops_the_agent_before_the_call(ledger: RecordingLedger) -> None:
    calls: list[str] = []
    agent = agent_of(ledger, scripted([("find", {"q": "a"})], [("find", {"q": "b"})], "done"))

    @agent.tool_plain
    def find(q: str) -> str:
        calls.append(q)
        return q

    with pytest.raises(RunBudgetExceededError), ledger.run("w", budget=RunBudget(tool_calls=1)):
        run(agent)
    assert calls == ["a"]
    assert ledger.only(RunFinished).status == "halted"


@pytest.mark.parametrize(
    ("answer", "verdict", "statuses"), [(True, "approved", ["ok"]), (ToolDenied(SECRET), "rejected", [])]
)
def test_tools_that_need_approval(ledger: RecordingLedger, answer: Any, verdict: str, statuses: list[str]) -> None:
    model = scripted([("refund", {"amount": 5, "why": SECRET})], "done")
    agent = agent_of(ledger, model, output_type=[str, DeferredToolRequests])

    @agent.tool_plain(requires_approval=True)
    def refund(amount: int, why: str) -> str:
        return f"paid {amount}"

    first = run(agent)
    asked = ledger.only(ApprovalRequested)
    assert (asked.approval_id, asked.action, asked.change_digest[:7]) == ("c0", "refund", "sha256:")
    assert ledger.only(RunFinished).status == "escalated"
    run(
        agent,
        None,
        message_history=first.all_messages(),
        deferred_tool_results=DeferredToolResults(approvals={"c0": answer}),
    )
    decided = ledger.only(ApprovalDecided)
    assert (decided.approval_id, decided.verdict, decided.run_id) == ("c0", verdict, asked.run_id)
    assert [tool.status for tool in ledger.every(ToolCallCompleted)] == statuses
    assert SECRET.encode() not in ledger.emitted


def test_a_ledger_that_fails_breaks_nothing(ledger: RecordingLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: object, **kwargs: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(ledger, "run", failing)
    agent = agent_of(ledger, scripted([("find", {"q": "a"})], "done"))
    agent.tool_plain(name="find")(lambda q: "x")
    assert run(agent).output == "done"
    assert ledger.events == []
    assert SECRET.encode() not in ledger.emitted
    assert {problem.reason for problem in ledger.problems} == {"integration"}
    ledger.problems.clear()
