"""One agent for each integration, with a secret in everything that nobody asks to keep: prompts, answers, arguments,
results, headers, keys, metadata, tags and the words of errors. What it leaves behind must not have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable
from typing import Any, TypedDict

import httpx2
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import Status, StatusCode

from agentledger.producers import Ledger

WAIT_S_MAX = 20  # for what LiteLLM tells of in a thread of its own


def _refusing(secret: str) -> httpx2.MockTransport:
    """An API that refuses, in the words that it was asked with."""
    error = {"type": "invalid_request_error", "message": f"bad prompt: {secret}", "code": "invalid"}
    return httpx2.MockTransport(lambda _: httpx2.Response(400, json={"type": "error", "error": error}))


def use_sdk(ledger: Ledger, secret: str) -> None:
    """The SDK itself, everything that takes content."""
    with contextlib.suppress(ValueError), ledger.run("sdk") as run:
        with run.model_call(model="m", input=[{"role": "user", "content": secret}]) as model:
            model.output(secret)
        with contextlib.suppress(RuntimeError), run.tool_call("t", arguments={"a": [secret]}) as tool:
            tool.result({"x": secret})
            raise RuntimeError(f"no: {secret}")
        run.policy_decision(policy="p", verdict="deny", input={"q": secret})
        run.approval_requested(approval_id="1", action="a", change={"to": secret})
        run.evidence(source="s", query=secret)
        run.state_changed(resource="r", before={"v": secret}, after=secret)
        raise ValueError(secret)


def use_openai(ledger: Ledger, secret: str) -> None:
    """OpenAI's client, refused."""
    import openai

    from agentledger.producers.integrations.openai import instrument

    client = instrument(openai.OpenAI(api_key=secret, http_client=httpx2.Client(transport=_refusing(secret))), ledger)
    with contextlib.suppress(openai.BadRequestError):
        client.chat.completions.create(
            model="gpt-4.1", messages=[{"role": "user", "content": secret}], user=secret, metadata={"m": secret},
            extra_headers={"x-key": secret},
        )  # fmt: skip


def use_anthropic(ledger: Ledger, secret: str) -> None:
    """Anthropic's client, refused."""
    import anthropic

    from agentledger.producers.integrations.anthropic import instrument

    http = httpx2.Client(transport=_refusing(secret))
    client = instrument(anthropic.Anthropic(api_key=secret, http_client=http), ledger)
    with contextlib.suppress(anthropic.BadRequestError):
        client.messages.create(
            model="claude", max_tokens=9, messages=[{"role": "user", "content": secret}], system=secret,
            metadata={"user_id": secret}, extra_headers={"x-key": secret}, stop_sequences=[secret],
        )  # fmt: skip


def use_litellm(ledger: Ledger, secret: str) -> None:
    """LiteLLM, refused; it tells of its calls from another thread."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or importing it asks the network for prices
    import litellm
    import openai

    from agentledger.producers.integrations.litellm import install

    logger = install(ledger)
    before = ledger.counters.emitted
    http = httpx2.Client(transport=_refusing(secret))
    client = openai.OpenAI(api_key=secret, http_client=http, max_retries=0)
    with contextlib.suppress(litellm.BadRequestError):
        litellm.completion(
            "openai/gpt-4.1", [{"role": "user", "content": secret}], client=client, metadata={"label": secret},
            user=secret, extra_headers={"x-key": secret},
        )  # fmt: skip
    end = time.monotonic() + WAIT_S_MAX
    while ledger.counters.emitted < before + 3 and time.monotonic() < end:
        time.sleep(0.01)
    logger.stop()


def use_langgraph(ledger: Ledger, secret: str) -> None:
    """A graph of LangGraph with a model of LangChain, and a tool that fails."""
    from langchain_core.language_models import FakeListChatModel
    from langchain_core.tools import tool
    from langgraph.graph import END, START, StateGraph

    from agentledger.producers.integrations.langchain import LedgerHandler

    class Talk(TypedDict):
        text: str

    @tool
    def broken(q: str) -> str:
        """Fail."""
        raise ValueError(f"no {q}")

    def ask(state: Talk) -> Talk:
        answer = FakeListChatModel(responses=[secret]).invoke(state["text"])
        return {"text": str(broken.invoke({"q": answer.content}))}

    graph: Any = StateGraph(Talk)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    config = {
        "callbacks": [LedgerHandler(ledger)], "tags": [secret], "metadata": {"label": secret},
        "configurable": {"key": secret},
    }  # fmt: skip
    with contextlib.suppress(ValueError):
        graph.compile().invoke({"text": secret}, config)


def use_openai_agents(ledger: Ledger, secret: str) -> None:
    """An agent of the OpenAI Agents SDK with a tool that fails, then refused."""
    import agents
    import openai
    from agents.models.openai_responses import OpenAIResponsesModel

    from agentledger.producers.integrations.openai_agents import install

    call = {"type": "function_call", "id": "f", "call_id": "c", "name": "broken", "status": "completed"}
    body = {
        "id": "r", "object": "response", "created_at": 1, "model": "gpt-4.1", "status": "completed", "tools": [],
        "output": [{**call, "arguments": json.dumps({"q": secret})}], "parallel_tool_calls": True,
        "tool_choice": "auto", "metadata": {"m": secret},
    }  # fmt: skip
    refusal = {"error": {"message": f"bad prompt: {secret}"}}
    answers = [httpx2.Response(200, json=body), httpx2.Response(400, json=refusal)]

    @agents.function_tool
    def broken(q: str) -> str:
        """Fail."""
        raise ValueError(f"no {q}")

    agents.set_trace_processors([])  # nothing is exported to anybody else
    hooks = install(ledger)
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: answers.pop(0)))
    model = OpenAIResponsesModel("gpt-4.1", openai.AsyncOpenAI(api_key=secret, http_client=http, max_retries=0))
    agent: Any = agents.Agent("support", instructions=secret, model=model, tools=[broken])
    config = agents.RunConfig(trace_metadata={"label": secret})
    with contextlib.suppress(openai.BadRequestError):
        asyncio.run(agents.Runner.run(agent, secret, run_config=config, hooks=hooks))
    agents.set_trace_processors([])


def use_pydantic_ai(ledger: Ledger, secret: str) -> None:
    """An agent of Pydantic AI whose tool fails."""
    from pydantic_ai import Agent
    from pydantic_ai.models.test import TestModel

    from agentledger.producers.integrations.pydantic_ai import LedgerCapability

    model = TestModel(custom_output_text=secret)
    agent: Any = Agent(model, capabilities=[LedgerCapability(ledger)], instructions=secret, name="support")

    @agent.tool_plain
    def broken(q: str) -> str:
        raise RuntimeError(f"no {q}, {secret}")

    with contextlib.suppress(RuntimeError):
        asyncio.run(agent.run(secret, metadata={"label": secret}))


def use_mcp(ledger: Ledger, secret: str) -> None:
    """A tool over MCP that answers, and one that fails."""
    from mcp.client import Client
    from mcp.server import MCPServer

    from agentledger.producers.integrations.mcp import instrument

    server = MCPServer("orders")

    @server.tool()
    async def find(q: str) -> str:
        return f"found {q}"

    @server.tool()
    async def broken() -> str:
        raise ValueError(secret)

    async def main() -> None:
        async with Client(server) as client:
            caller: Any = instrument(client, ledger)
            await caller.call_tool("find", {"q": secret}, meta={"label": secret})
            await caller.call_tool("broken")

    asyncio.run(main())


def use_opentelemetry(ledger: Ledger, secret: str) -> None:
    """A program of OpenTelemetry with our span processor."""
    from agentledger.producers.integrations.opentelemetry import LedgerSpanProcessor

    trace_to(LedgerSpanProcessor(ledger), secret)


def trace_to(processor: SpanProcessor, secret: str) -> None:
    """A program of OpenTelemetry with content in its spans, and errors in them."""
    provider = TracerProvider(resource=Resource({"service.name": "planted"}), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("planted")
    with tracer.start_as_current_span("run", set_status_on_exception=False) as root:
        for operation in ("chat", "execute_tool"):
            with tracer.start_as_current_span(operation, attributes=span_attributes(operation, secret)) as span:
                span.record_exception(ValueError(secret))
                span.set_status(Status(StatusCode.ERROR, secret))
        root.set_status(Status(StatusCode.ERROR, secret))
    provider.shutdown()


def span_attributes(operation: str, secret: str) -> dict[str, str]:
    """A span's attributes with the secret wherever instrumentations put content."""
    content = (
        "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.tool.call.arguments", "gen_ai.tool.call.result",
        "gen_ai.prompt.0.content", "input.value", "output.value", "http.request.header.authorization", "url.full",
        "exception.message",
    )  # fmt: skip
    named = {"gen_ai.operation.name": operation, "gen_ai.request.model": "m", "gen_ai.tool.name": "t"}
    return {**dict.fromkeys(content, secret), **named}


# By the name of the integration; each leaves at least three events: a run's start, something in it, its end.
PLANTED: dict[str, Callable[[Ledger, str], None]] = {
    "sdk": use_sdk, "openai": use_openai, "anthropic": use_anthropic, "litellm": use_litellm,
    "langchain": use_langgraph, "openai_agents": use_openai_agents, "pydantic_ai": use_pydantic_ai, "mcp": use_mcp,
    "opentelemetry": use_opentelemetry,
}  # fmt: skip
