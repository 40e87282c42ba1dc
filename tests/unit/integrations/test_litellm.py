"""LiteLLM itself over OpenAI's client with answers of the shape that its API gives."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import httpx2
import litellm
import openai
import pytest
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

from agentledger.producers import RunBudget, RunBudgetExceededError
from agentledger.producers.integrations.litellm import LedgerLogger, install
from agentledger.schemas.events import ModelCallCompleted, RunFinished
from tests.framework_rig import SECRET, RecordingLedger, event_stream

# For each stream that isn't async LiteLLM makes an event loop and leaves it open.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
USAGE = {
    "prompt_tokens": 1000, "completion_tokens": 300, "total_tokens": 1300,
    "prompt_tokens_details": {"cached_tokens": 600}, "completion_tokens_details": {"reasoning_tokens": 200},
}  # fmt: skip
HEAD = {"id": "chatcmpl-1", "created": 1, "model": "gpt-4.1-2026-01-01"}
MESSAGES: Any = [{"role": "user", "content": SECRET}]


@pytest.fixture(autouse=True)
def logger(ledger: RecordingLedger) -> Iterator[LedgerLogger]:
    """The ledger's logger, and no other."""
    installed = install(ledger)
    yield installed
    installed.stop()
    assert installed not in litellm.callbacks
    assert litellm.pre_call_rules == []
    gc.collect()  # what LiteLLM left open is thrown away here, and not in somebody else's test


def answering(request: httpx2.Request) -> httpx2.Response:
    """What the API answers: the last part of a stream has the usage."""
    if b'"stream":true' not in request.content.replace(b" ", b""):
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}
        return httpx2.Response(200, json={**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE})
    chunk = {**HEAD, "object": "chat.completion.chunk"}
    deltas: list[tuple[dict[str, str], str | None]] = [
        ({"content": "hel"}, None),
        ({"content": "lo"}, None),
        ({}, "stop"),
    ]
    parts: list[dict[str, Any]] = [
        {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} for delta, finish in deltas
    ]
    return httpx2.Response(200, content=event_stream([*parts, {**chunk, "choices": [], "usage": USAGE}], end="[DONE]"))


def client_of(answer: Any = answering) -> openai.OpenAI:
    return openai.OpenAI(
        api_key=SECRET, http_client=httpx2.Client(transport=httpx2.MockTransport(answer)), max_retries=0
    )


def check(call: ModelCallCompleted) -> None:
    assert (call.provider, call.requested_model) == ("openai", "gpt-4.1")
    assert call.answered_model in {"gpt-4.1", "gpt-4.1-2026-01-01"}  # of a stream it repeats what was asked for
    assert (call.input_tokens, call.cache_read_tokens) == (400, 600)
    assert (call.output_tokens, call.reasoning_tokens) == (100, 200)
    assert (call.status, call.finish_reason, call.response_id) == ("ok", "stop", "chatcmpl-1")
    assert call.reported_cost_nanousd is not None
    assert call.reported_cost_nanousd > 0


def test_whole_and_streamed(ledger: RecordingLedger) -> None:
    client = client_of()
    with ledger.run("w") as run:
        litellm.completion("openai/gpt-4.1", MESSAGES, client=client, metadata={"label": SECRET}, user=SECRET)
        options = {"include_usage": True}
        assert (
            len(list(litellm.completion("gpt-4.1", MESSAGES, client=client, stream=True, stream_options=options))) > 2
        )
    calls = ledger.wait_for(ModelCallCompleted, 2)
    assert len(calls) == 2
    for call in calls:
        check(call)
        assert call.run_id == run.run_id
    assert sorted(call.time_to_first_token_ms is not None for call in calls) == [False, True]
    assert SECRET.encode() not in ledger.emitted


def test_async_whole_and_streamed_in_parallel(ledger: RecordingLedger) -> None:
    async def main() -> None:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(answering))
        client = openai.AsyncOpenAI(api_key=SECRET, http_client=http)
        async with ledger.run("w"):
            asks = [litellm.acompletion("gpt-4.1", MESSAGES, client=client) for _ in range(3)]
            await asyncio.gather(*asks)
            stream = await litellm.acompletion("gpt-4.1", MESSAGES, client=client, stream=True)
            assert "".join([part.choices[0].delta.content or "" async for part in stream]) == "hello"
            await GLOBAL_LOGGING_WORKER.flush()

    asyncio.run(main())
    calls = ledger.wait_for(ModelCallCompleted, 4)
    assert len(calls) == 4
    for call in calls:
        check(call)


def test_a_call_outside_of_any_run_is_a_run_of_its_own(ledger: RecordingLedger) -> None:
    litellm.completion("gpt-4.1", MESSAGES, client=client_of())
    check(ledger.wait_for(ModelCallCompleted)[0])
    assert ledger.names() == ["RunStarted", "ModelCallCompleted", "RunFinished"]


def test_errors_keep_their_words(ledger: RecordingLedger) -> None:
    def refusing(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(400, json={"error": {"message": f"bad prompt {SECRET}"}})

    with pytest.raises(litellm.BadRequestError, match=SECRET):
        litellm.completion("gpt-4.1", MESSAGES, client=client_of(refusing))
    call = ledger.wait_for(ModelCallCompleted)[0]
    assert (call.status, call.error_type, call.error_message[:9]) == ("error", "BadRequestError", "HTTP 400,")
    assert SECRET.encode() not in ledger.emitted


def test_a_budget_stops_the_call_before_it_is_sent(ledger: RecordingLedger) -> None:
    sent: list[int] = []

    def counting(request: httpx2.Request) -> httpx2.Response:
        sent.append(1)
        return answering(request)

    client = client_of(counting)
    with pytest.raises(RunBudgetExceededError), ledger.run("w", budget=RunBudget(model_calls=2)):
        [litellm.completion("gpt-4.1", MESSAGES, client=client) for _ in range(3)]
    assert len(sent) == 2
    assert ledger.only(RunFinished).status == "halted"


def test_a_ledger_that_fails_breaks_nothing(ledger: RecordingLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: object, **kwargs: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(ledger, "run", failing)
    assert litellm.completion("gpt-4.1", MESSAGES, client=client_of()).id == "chatcmpl-1"
    assert SECRET.encode() not in ledger.emitted
    assert {problem.reason for problem in ledger.problems} == {"integration"}
    ledger.problems.clear()
