"""Anthropic's own client against answers of the shape that its API gives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import pytest

from agentledger.producers import RunBudget, RunBudgetExceededError
from agentledger.producers.integrations.anthropic import instrument
from agentledger.schemas.events import ModelCallCompleted, RunFinished
from tests.framework_rig import SECRET, RecordingLedger, event_stream

MODEL = "claude-sonnet-5"
USAGE = {
    "input_tokens": 100, "cache_read_input_tokens": 600, "cache_creation_input_tokens": 50, "output_tokens": 300,
    "output_tokens_details": {"thinking_tokens": 200}, "service_tier": "priority",
}  # fmt: skip
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5-20260901",
    "stop_reason": "tool_use", "stop_sequence": None, "usage": USAGE,
    "content": [
        {"type": "text", "text": "hello"},
        {"type": "tool_use", "id": "t1", "name": "find", "input": {"q": "x"}},
    ],
}  # fmt: skip
EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {
        **MESSAGE, "content": [], "stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hel"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1,
     "content_block": {"type": "tool_use", "id": "t1", "name": "find", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"q": "x"}'}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None},
     "usage": {"output_tokens": 300, "output_tokens_details": {"thinking_tokens": 200}}},
    {"type": "message_stop"},
]  # fmt: skip
MESSAGES: Any = [{"role": "user", "content": SECRET}]
Answering = Callable[[httpx2.Request], httpx2.Response]


def answering(request: httpx2.Request) -> httpx2.Response:
    """What the API answers."""
    if json.loads(request.content).get("stream"):
        content = event_stream(EVENTS, lambda event: str(event["type"]))
        return httpx2.Response(200, content=content, headers={"content-type": "text/event-stream"})
    return httpx2.Response(200, json=MESSAGE)


def client_of(ledger: RecordingLedger, answer: Answering = answering) -> anthropic.Anthropic:
    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return instrument(anthropic.Anthropic(api_key=SECRET, http_client=http), ledger)


def check(call: ModelCallCompleted) -> None:
    assert (call.provider, call.requested_model) == ("anthropic", MODEL)
    assert (call.answered_model, call.response_id) == ("claude-sonnet-5-20260901", "msg_1")
    assert (call.input_tokens, call.cache_read_tokens, call.cache_write_tokens) == (100, 600, 50)
    assert (call.output_tokens, call.reasoning_tokens) == (100, 200)
    assert (call.status, call.finish_reason, call.service_tier) == ("ok", "tool_use", "priority")


def test_whole_and_streamed_in_both_ways(ledger: RecordingLedger) -> None:
    client = client_of(ledger)
    with ledger.run("w"):
        client.messages.create(
            model=MODEL, max_tokens=9, messages=MESSAGES, system=SECRET, metadata={"user_id": SECRET},
            extra_headers={"x-key": SECRET}, stop_sequences=[SECRET],
        )  # fmt: skip
        assert len(list(client.messages.create(model=MODEL, max_tokens=9, messages=MESSAGES, stream=True))) > 5
        with client.messages.stream(model=MODEL, max_tokens=9, messages=MESSAGES) as stream:
            assert "".join(stream.text_stream) == "hello"
        client.beta.messages.create(model=MODEL, max_tokens=9, messages=MESSAGES)
        assert client.messages.with_raw_response.create(model=MODEL, max_tokens=9, messages=MESSAGES).parse().id
    calls = ledger.every(ModelCallCompleted)
    assert len(calls) == 5
    for call in calls:
        check(call)
    assert [call.time_to_first_token_ms is not None for call in calls] == [False, True, True, False, False]
    assert len({call.output_digest for call in calls}) == 1
    assert SECRET.encode() not in ledger.emitted


def test_async_whole_and_streamed(ledger: RecordingLedger) -> None:
    async def main() -> None:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(answering))
        client = instrument(anthropic.AsyncAnthropic(api_key=SECRET, http_client=http), ledger)
        await client.messages.create(model=MODEL, max_tokens=9, messages=MESSAGES)
        async with client.messages.stream(model=MODEL, max_tokens=9, messages=MESSAGES) as stream:
            assert (await stream.get_final_message()).id == "msg_1"

    asyncio.run(main())
    for call in ledger.every(ModelCallCompleted):
        check(call)
    assert ledger.names() == ["RunStarted", "ModelCallCompleted", "RunFinished"] * 2


def test_a_stream_that_is_left_early_has_no_token_counts(ledger: RecordingLedger) -> None:
    with client_of(ledger).messages.stream(model=MODEL, max_tokens=9, messages=MESSAGES) as stream:
        next(iter(stream.text_stream))
    call = ledger.only(ModelCallCompleted)
    assert (call.status, call.input_tokens, call.output_tokens) == ("cancelled", None, None)
    assert call.time_to_first_token_ms is not None


def test_retries_errors_and_refusals(ledger: RecordingLedger) -> None:
    statuses = iter([529, 200, 400])

    def failing(request: httpx2.Request) -> httpx2.Response:
        status = next(statuses)
        if status == 200:
            return answering(request)
        error = {"type": "error", "error": {"type": "invalid_request_error", "message": f"no: {SECRET}"}}
        return httpx2.Response(status, json=error, headers={"retry-after-ms": "1"})

    ask = client_of(ledger, failing).messages.create
    ask(model=MODEL, max_tokens=9, messages=MESSAGES)
    with pytest.raises(anthropic.BadRequestError, match=SECRET):
        ask(model=MODEL, max_tokens=9, messages=MESSAGES)
    with pytest.raises(RunBudgetExceededError), ledger.run("w", budget=RunBudget(model_calls=0)):
        ask(model=MODEL, max_tokens=9, messages=MESSAGES)
    served, failed = ledger.every(ModelCallCompleted)
    assert (served.attempt, served.status) == (2, "ok")
    assert (failed.attempt, failed.status, failed.error_type) == (1, "error", "BadRequestError")
    assert failed.error_message.startswith("HTTP 400, ")
    assert [run.status for run in ledger.every(RunFinished)] == ["succeeded", "failed", "halted"]
    assert SECRET.encode() not in ledger.emitted
