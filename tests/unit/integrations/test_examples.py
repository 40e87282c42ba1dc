"""The examples of INTEGRATIONS.md do what they say; a module whose library is missing says which extra to install."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import agents
import anthropic
import httpx2
import litellm
import openai
import pytest
from langchain_core.language_models import FakeListLLM
from mcp.client import Client
from mcp.server import MCPServer
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

import agentledger.producers
from agentledger.schemas.errors import MissingLibraryError
from agentledger.schemas.events import ModelCallCompleted, ToolCallCompleted
from tests.framework_rig import RecordingLedger

DOCUMENT = Path(__file__).parents[3] / "infra/docs/INTEGRATIONS.md"
EXAMPLES = dict(re.findall(r"<!-- tested: ([\w-]+) -->\n```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.S))
# Module and library of each integration.
LIBRARIES = {
    "anthropic": "anthropic", "langchain": "langchain_core", "litellm": "litellm", "mcp": "mcp", "openai": "openai",
    "openai_agents": "agents", "pydantic_ai": "pydantic_ai",
}  # fmt: skip
MESSAGES: Any = [{"role": "user", "content": "?"}]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[RecordingLedger]:
    """The ledgers that an example makes: in memory."""
    ledgers: list[RecordingLedger] = []

    def make(agent_id: str) -> RecordingLedger:
        assert agent_id == "support-bot"
        ledgers.append(RecordingLedger())
        return ledgers[-1]

    monkeypatch.setattr(agentledger.producers, "Ledger", make)
    return ledgers


def run(name: str, **given: Any) -> dict[str, Any]:
    """Execute an example of three lines; the names that it leaves."""
    assert len([line for line in EXAMPLES[name].splitlines() if line]) == 3
    names = dict(given)
    exec(compile(EXAMPLES[name], name, "exec"), names)
    return names


def http_of(body: dict[str, Any]) -> httpx2.MockTransport:
    return httpx2.MockTransport(lambda request: httpx2.Response(200, json=body))


CHAT = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4.1",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}  # fmt: skip


def openai_client() -> openai.OpenAI:
    return openai.OpenAI(api_key="k", http_client=httpx2.Client(transport=http_of(CHAT)))


def test_every_integration_has_an_example() -> None:
    assert sorted(EXAMPLES) == sorted(
        "langgraph" if name == "langchain" else name.replace("_", "-") for name in LIBRARIES
    )


def test_openai(made: list[RecordingLedger]) -> None:
    client = run("openai", OpenAI=openai_client)["client"]
    client.chat.completions.create(model="gpt-4.1", messages=MESSAGES)
    assert made[0].only(ModelCallCompleted).status == "ok"


def test_anthropic(made: list[RecordingLedger]) -> None:
    message = {
        "id": "m", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
        "stop_sequence": None, "content": [], "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip
    http = httpx2.Client(transport=http_of(message))
    client = run("anthropic", Anthropic=lambda: anthropic.Anthropic(api_key="k", http_client=http))["client"]
    client.messages.create(model="claude", max_tokens=9, messages=MESSAGES)
    assert made[0].only(ModelCallCompleted).status == "ok"


def test_langgraph(made: list[RecordingLedger], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langchain_core.tracers.context._configure_hooks", [])
    run("langgraph")
    FakeListLLM(responses=["hi"]).invoke("?")
    assert made[0].only(ModelCallCompleted).status == "ok"
    monkeypatch.undo()


def test_openai_agents(made: list[RecordingLedger]) -> None:
    agents.set_trace_processors([])
    hooks = run("openai-agents")["hooks"]
    client = openai.AsyncOpenAI(api_key="k", http_client=httpx2.AsyncClient(transport=http_of(CHAT)))
    model = agents.OpenAIChatCompletionsModel("gpt-4.1", client)
    asyncio.run(agents.Runner.run(agents.Agent("support", model=model), "?", hooks=hooks))
    agents.set_trace_processors([])
    call = made[0].only(ModelCallCompleted)
    assert (call.requested_model, call.input_tokens, call.output_tokens) == ("gpt-4.1", 1, 1)


def test_pydantic_ai(made: list[RecordingLedger]) -> None:
    agent = run("pydantic-ai", Agent=Agent, model=TestModel())["agent"]
    asyncio.run(agent.run("?"))
    assert made[0].only(ModelCallCompleted).status == "ok"


def test_litellm(made: list[RecordingLedger]) -> None:
    run("litellm")
    litellm.completion("gpt-4.1", MESSAGES, client=openai_client())
    [call] = made[0].wait_for(ModelCallCompleted)
    litellm.callbacks[-1].stop()
    assert (call.status, call.input_tokens) == ("ok", 1)


def test_mcp(made: list[RecordingLedger]) -> None:
    server = MCPServer("orders")
    server.tool(name="find")(lambda: "found")

    async def main() -> None:
        async with Client(server) as client:
            run("mcp", client=client)
            await client.call_tool("find", {})

    asyncio.run(main())
    assert made[0].only(ToolCallCompleted).status == "ok"


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_library_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"agentledger.producers.integrations.{name}"
    for loaded in [known for known in sys.modules if known.split(".")[0] == LIBRARIES[name]]:
        monkeypatch.setitem(sys.modules, loaded, None)
    monkeypatch.setitem(sys.modules, LIBRARIES[name], None)
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(MissingLibraryError, match=rf"pip install 'agentledger\[{name.replace('_', '-')}\]'") as raised:
        importlib.import_module(module)
    assert isinstance(raised.value, ImportError)
    assert raised.value.exit_code == 2
