"""LangChain and LangGraph themselves with scripted models: agents, tools, streams, parallel calls, pauses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel, FakeListLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

from agentledger.producers import RunBudget, RunBudgetExceededError
from agentledger.producers.integrations.langchain import LedgerHandler, install
from agentledger.schemas.events import (
    ApprovalDecided,
    ApprovalRequested,
    EvidenceRetrieved,
    ModelCallCompleted,
    RunFinished,
    RunStarted,
    ToolCallCompleted,
)
from tests.framework_rig import SECRET, RecordingLedger

USAGE = {
    "input_tokens": 1000, "output_tokens": 300, "total_tokens": 1300,
    "input_token_details": {"cache_read": 600, "cache_creation": 50}, "output_token_details": {"reasoning": 200},
}  # fmt: skip
SAID = {"model_name": "gpt-4.1-2026", "finish_reason": "stop", "model_provider": "openai", "id": "r1"}


class ScriptedModel(BaseChatModel):
    """Gives its answers in order; an exception among them is raised."""

    answers: list[Any]
    asked: int = 0

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return {"ls_provider": "openai", "ls_model_name": "gpt-4.1", "ls_model_type": "chat", "ls_max_tokens": 64}

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> ChatResult:  # fmt: skip
        answer = self.answers[self.asked % len(self.answers)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return ChatResult(generations=[ChatGeneration(message=answer.model_copy())])


class StreamingModel(ScriptedModel):
    """Gives each answer in pieces."""

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:  # fmt: skip
        for piece in ("hel", "lo"):
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=piece))
            if run_manager is not None:
                run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk
        yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=USAGE, response_metadata=SAID))


def said(text: str = "done", *tool_calls: tuple[str, dict[str, Any]]) -> AIMessage:
    calls: Any = [{"name": name, "args": args, "id": f"c{place}"} for place, (name, args) in enumerate(tool_calls)]
    return AIMessage(content=text, tool_calls=calls, usage_metadata=USAGE, response_metadata=SAID)


class Talk(TypedDict):
    """What the graphs below carry."""

    messages: Annotated[list[Any], add_messages]


def agent_of(model: BaseChatModel, tools: list[Any], **compiled: Any) -> Any:
    """A graph that asks the model, calls the tools that it wants, and asks again."""

    def ask(state: Talk) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    def where(state: Talk) -> str:
        return "tools" if state["messages"][-1].tool_calls else END

    graph = StateGraph(Talk)
    graph.add_node("ask", ask)
    graph.add_node("tools", ToolNode(tools, handle_tool_errors=True))
    graph.add_edge(START, "ask")
    graph.add_conditional_edges("ask", where)
    graph.add_edge("tools", "ask")
    return graph.compile(**compiled)


@tool
def find(q: str) -> str:
    """Find an order."""
    return f"found {q}"


@tool
def broken(q: str) -> str:
    """Fail."""
    raise ValueError(SECRET)


QUESTION: Any = {"messages": [HumanMessage(SECRET)]}


def config_of(ledger: RecordingLedger, thread: str = "") -> Any:
    return {
        "callbacks": [LedgerHandler(ledger)], "configurable": {"thread_id": thread, "key": SECRET}, "tags": [SECRET],
        "metadata": {"label": SECRET},
    }  # fmt: skip


def check(call: ModelCallCompleted) -> None:
    assert (call.provider, call.requested_model, call.answered_model) == ("openai", "gpt-4.1", "gpt-4.1-2026")
    assert (call.input_tokens, call.cache_read_tokens, call.cache_write_tokens) == (350, 600, 50)
    assert (call.output_tokens, call.reasoning_tokens) == (100, 200)
    assert (call.status, call.attempt, call.finish_reason, call.response_id) == ("ok", 1, "stop", "r1")


def call_sync(graph: Any, question: Any, config: Any) -> Any:
    return graph.invoke(question, config)


def call_async(graph: Any, question: Any, config: Any) -> Any:
    return asyncio.run(graph.ainvoke(question, config))


@pytest.mark.parametrize("call", [call_sync, call_async])
def test_an_agent_is_a_run_with_its_model_and_tool_calls(ledger: RecordingLedger, call: Callable[..., Any]) -> None:
    model = ScriptedModel(answers=[said("", ("find", {"q": SECRET}), ("broken", {"q": "x"})), said()])
    call(agent_of(model, [find, broken], name="support"), QUESTION, config_of(ledger))
    started, finished = ledger.only(RunStarted), ledger.only(RunFinished)
    assert (started.workflow, started.source, finished.status) == ("support", "sdk", "succeeded")
    for answered in ledger.every(ModelCallCompleted):
        check(answered)
        assert answered.parent_event_id == started.event_id
    tools = {done.tool: done for done in ledger.every(ToolCallCompleted)}
    assert (tools["find"].status, tools["find"].call_id, tools["find"].result_bytes) == ("ok", "c0", 8 + len(SECRET))
    assert (tools["broken"].status, tools["broken"].error_type) == ("error", "ValueError")
    assert len(ledger.events) == 6
    assert SECRET.encode() not in ledger.emitted


def test_an_open_run_takes_the_events(ledger: RecordingLedger) -> None:
    with ledger.run("mine", run_id="r"):
        agent_of(ScriptedModel(answers=[said()]), []).invoke(QUESTION, config_of(ledger))
        ScriptedModel(answers=[said()]).invoke(SECRET, config_of(ledger))
    assert ledger.names() == ["RunStarted", "ModelCallCompleted", "ModelCallCompleted", "RunFinished"]


def test_streams(ledger: RecordingLedger) -> None:
    config = config_of(ledger)
    assert "".join(str(piece.content) for piece in StreamingModel(answers=[]).stream(SECRET, config)) == "hello"

    async def main() -> str:
        return "".join([str(piece.content) async for piece in StreamingModel(answers=[]).astream(SECRET, config)])

    assert asyncio.run(main()) == "hello"
    for call in ledger.every(ModelCallCompleted):
        check(call)
        assert call.time_to_first_token_ms is not None
    assert ledger.names() == ["RunStarted", "ModelCallCompleted", "RunFinished"] * 2
    assert SECRET.encode() not in ledger.emitted


def test_parallel_calls_and_sub_agents(ledger: RecordingLedger) -> None:
    inner = agent_of(ScriptedModel(answers=[said("inner")]), [], name="researcher")

    @tool
    def research(q: str) -> str:
        """Ask another agent."""
        return str(inner.invoke({"messages": [HumanMessage(q)]})["messages"][-1].content)

    outer = agent_of(ScriptedModel(answers=[said("", ("research", {"q": "x"})), said()]), [research], name="boss")
    outer.invoke(QUESTION, config_of(ledger))
    started, called = ledger.only(RunStarted), ledger.only(ToolCallCompleted)
    assert [call.parent_event_id for call in ledger.every(ModelCallCompleted)] == [
        started.event_id, called.event_id, started.event_id,
    ]  # fmt: skip
    steps = {str(place): ScriptedModel(answers=[said()]) for place in range(8)}
    RunnableParallel(steps).invoke(SECRET, config_of(ledger))
    fanned = ledger.every(ModelCallCompleted)[3:]
    assert len(fanned) == 8
    assert {call.parent_event_id for call in fanned} == {ledger.every(RunStarted)[1].event_id}


def test_retries_and_errors(ledger: RecordingLedger) -> None:
    flaky = ScriptedModel(answers=[ValueError(SECRET), said()])
    flaky.with_retry(wait_exponential_jitter=False).invoke(SECRET, config_of(ledger))
    failed, served = ledger.every(ModelCallCompleted)
    assert (failed.status, failed.attempt, failed.error_type) == ("error", 1, "ValueError")
    assert (served.status, served.attempt) == ("ok", 2)
    with pytest.raises(ValueError, match=SECRET):
        agent_of(ScriptedModel(answers=[ValueError(SECRET)]), []).invoke(QUESTION, config_of(ledger))
    last = ledger.every(RunFinished)[-1]
    assert (last.status, last.error_type) == ("failed", "ValueError")
    assert SECRET.encode() not in ledger.emitted


@pytest.mark.parametrize("call", [call_sync, call_async])
def test_a_budget_stops_the_agent_before_the_call(ledger: RecordingLedger, call: Callable[..., Any]) -> None:
    model = ScriptedModel(answers=[said("", ("find", {"q": "x"}))])
    with pytest.raises(RunBudgetExceededError), ledger.run("w", budget=RunBudget(model_calls=2)):
        call(agent_of(model, [find]), QUESTION, config_of(ledger))
    assert model.asked == 2
    assert len(ledger.every(ModelCallCompleted)) == 2
    assert ledger.only(RunFinished).status == "halted"


@pytest.mark.parametrize(("answer", "verdict"), [(True, "approved"), ("no", "rejected"), ({"x": 1}, "")])
def test_an_interrupt_is_an_approval(ledger: RecordingLedger, answer: Any, verdict: str) -> None:
    @tool
    def refund(amount: int) -> str:
        """Pay back."""
        return f"answered {interrupt({'refund': amount, 'why': SECRET})}"

    model = ScriptedModel(answers=[said("", ("refund", {"amount": 5})), said()])
    graph = agent_of(model, [refund], checkpointer=InMemorySaver())
    config = config_of(ledger, "thread-1")
    assert "__interrupt__" in graph.invoke(QUESTION, config)
    asked = ledger.only(ApprovalRequested)
    assert (asked.change_digest[:7], asked.approval_id != "") == ("sha256:", True)
    assert ledger.only(RunFinished).status == "escalated"
    assert ledger.every(ApprovalDecided) == []
    graph.invoke(Command(resume=answer), config)
    decided = ledger.only(ApprovalDecided)
    assert (decided.approval_id, decided.run_id, decided.verdict) == (asked.approval_id, asked.run_id, verdict)
    assert [run.status for run in ledger.every(RunFinished)] == ["escalated", "succeeded"]
    assert [call.status for call in ledger.every(ToolCallCompleted)] == ["denied", "ok"]
    assert SECRET.encode() not in ledger.emitted


def test_retrievals_are_evidence(ledger: RecordingLedger) -> None:
    class Shelf(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            return [Document(SECRET, id="d1"), Document(SECRET)]

    chain = RunnableLambda(lambda question: question) | Shelf()
    chain.invoke(SECRET, config_of(ledger))
    found = ledger.only(EvidenceRetrieved)
    assert (found.source, found.evidence_ids) == ("Shelf", ["d1"])
    assert SECRET.encode() not in ledger.emitted


def test_models_that_complete_texts(ledger: RecordingLedger) -> None:
    FakeListLLM(responses=["hi"]).invoke(SECRET, config_of(ledger))
    call = ledger.only(ModelCallCompleted)
    assert (call.status, call.input_tokens) == ("ok", None)


def test_the_global_hook(ledger: RecordingLedger) -> None:
    handler = install(ledger, workflow="everywhere")
    try:
        graph = agent_of(ScriptedModel(answers=[said("", ("find", {"q": "x"})), said()]), [find])
        graph.invoke(QUESTION)
        asyncio.run(graph.ainvoke(QUESTION))
    finally:
        handler.stop()
    graph.invoke(QUESTION)
    assert [run.workflow for run in ledger.every(RunStarted)] == ["everywhere", "everywhere"]
    assert len(ledger.every(ModelCallCompleted)) == 4
    assert handler._steps == {}


def test_a_ledger_that_fails_breaks_nothing(ledger: RecordingLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: object, **kwargs: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(ledger, "run", failing)
    graph = agent_of(ScriptedModel(answers=[said("", ("find", {"q": "x"})), said()]), [find])
    assert graph.invoke(QUESTION, config_of(ledger))["messages"][-1].content == "done"
    assert ledger.events == []
    assert SECRET.encode() not in ledger.emitted
    assert {problem.reason for problem in ledger.problems} == {"integration"}
    ledger.problems.clear()
