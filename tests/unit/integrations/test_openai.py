"""OpenAI's own client against answers of the shape that its API gives: whole, streamed, raw, retried, refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest

from agentledger.producers import RunBudget, RunBudgetExceededError
from agentledger.producers.integrations.openai import instrument
from agentledger.schemas.events import ModelCallCompleted, RunFinished, RunStarted
from tests.framework_rig import SECRET, RecordingLedger, event_stream

USAGE = {
    "prompt_tokens": 1000, "completion_tokens": 300, "total_tokens": 1300,
    "prompt_tokens_details": {"cached_tokens": 600}, "completion_tokens_details": {"reasoning_tokens": 200},
}  # fmt: skip
TOOL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q": "x"}'}}
CHAT = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4.1-2026-01-01", "usage": USAGE,
    "service_tier": "priority",
    "choices": [
        {"index": 0, "finish_reason": "tool_calls",
         "message": {"role": "assistant", "content": "hello", "tool_calls": [TOOL]}},
    ],
}  # fmt: skip


def _chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4.1-2026-01-01",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "service_tier": "priority",
    }  # fmt: skip


CHUNKS = [
    _chunk({"role": "assistant", "content": ""}), _chunk({"content": "hel"}), _chunk({"content": "lo"}),
    _chunk({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "find", "arguments": '{"q":'}}]}),
    _chunk({"tool_calls": [{"index": 0, "function": {"arguments": ' "x"}'}}]}),
    _chunk({}, "tool_calls"),
]  # fmt: skip
LAST_CHUNK = {**_chunk({}), "choices": [], "usage": USAGE}
RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1, "model": "o4-mini", "status": "completed", "error": None,
    "incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True, "temperature": 1.0,
    "tool_choice": "auto", "tools": [], "top_p": 1.0, "service_tier": "default",
    "output": [
        {"type": "message", "id": "m", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "hello", "annotations": []}]},
    ],
    "usage": {
        "input_tokens": 100, "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 10},
        "output_tokens": 30, "output_tokens_details": {"reasoning_tokens": 20}, "total_tokens": 130,
    },
}  # fmt: skip
TOOLS: Any = [{"type": "function", "function": {"name": "find", "description": SECRET, "parameters": {}}}]
Answering = Callable[[httpx2.Request], httpx2.Response]


def answering(request: httpx2.Request) -> httpx2.Response:
    """What the API answers, by path and by what was asked."""
    body = json.loads(request.content or b"{}")
    if request.url.path == "/v1/chat/completions":
        if body.get("stream"):
            asked = bool((body.get("stream_options") or {}).get("include_usage"))
            return httpx2.Response(200, content=event_stream([*CHUNKS, *([LAST_CHUNK] if asked else [])], end="[DONE]"))
        return httpx2.Response(200, json=CHAT)
    if request.url.path == "/v1/responses":
        if body.get("stream"):
            events = [
                {"type": "response.created", "sequence_number": 0, "response": {**RESPONSE, "status": "in_progress"}},
                {"type": "response.output_text.delta", "sequence_number": 1, "delta": "hello", "item_id": "m",
                 "output_index": 0, "content_index": 0, "logprobs": []},
                {"type": "response.completed", "sequence_number": 2, "response": RESPONSE},
            ]  # fmt: skip
            return httpx2.Response(200, content=event_stream(events, lambda event: str(event["type"])))
        return httpx2.Response(200, json=RESPONSE)
    if request.url.path == "/v1/embeddings":
        vector = {"object": "embedding", "index": 0, "embedding": [0.1]}
        usage = {"prompt_tokens": 8, "total_tokens": 8}
        return httpx2.Response(200, json={"object": "list", "model": "e-3", "data": [vector], "usage": usage})
    return httpx2.Response(200, json={"object": "list", "data": []})


def client_of(ledger: RecordingLedger, answer: Answering = answering, **settings: Any) -> openai.OpenAI:
    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return instrument(openai.OpenAI(api_key=SECRET, http_client=http, **settings), ledger)


def async_client_of(ledger: RecordingLedger, answer: Answering = answering) -> openai.AsyncOpenAI:
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    return instrument(openai.AsyncOpenAI(api_key=SECRET, http_client=http), ledger)


MESSAGES: Any = [{"role": "user", "content": SECRET}]


def check_chat(call: ModelCallCompleted) -> None:
    assert (call.provider, call.requested_model, call.answered_model) == ("openai", "gpt-4.1", "gpt-4.1-2026-01-01")
    assert (call.input_tokens, call.cache_read_tokens, call.output_tokens, call.reasoning_tokens) == (
        400,
        600,
        100,
        200,
    )
    assert (call.status, call.finish_reason, call.response_id) == ("ok", "tool_calls", "chatcmpl-1")
    assert (call.service_tier, call.attempt) == ("priority", 1)
    assert call.latency_ms is not None
    assert call.input_digest
    assert call.output_digest


def test_a_whole_answer_and_a_streamed_one_are_the_same_call(ledger: RecordingLedger) -> None:
    client = client_of(ledger)
    with ledger.run("w"):
        assert client.chat.completions.create(model="gpt-4.1", messages=MESSAGES).choices[0].message.content == "hello"
        seen = list(
            client.chat.completions.create(
                model="gpt-4.1", messages=MESSAGES, stream=True, metadata={"label": SECRET}, user=SECRET,
                extra_headers={"x-key": SECRET}, extra_body={"more": SECRET}, tools=TOOLS,
            )
        )  # fmt: skip
    whole, streamed = ledger.every(ModelCallCompleted)
    check_chat(whole)
    check_chat(streamed)
    assert whole.time_to_first_token_ms is None
    assert streamed.time_to_first_token_ms is not None
    assert (whole.input_digest, whole.output_digest) == (streamed.input_digest, streamed.output_digest)
    assert [len(chunk.choices) for chunk in seen] == [1] * len(CHUNKS), "the piece that the integration asked for"
    assert SECRET.encode() not in ledger.emitted


def test_who_asks_for_the_usage_sees_it(ledger: RecordingLedger) -> None:
    options: Any = {"include_usage": True}
    client = client_of(ledger)
    seen = list(client.chat.completions.create(model="gpt-4.1", messages=MESSAGES, stream=True, stream_options=options))
    assert seen[-1].usage is not None
    check_chat(ledger.only(ModelCallCompleted))


def test_async_calls_in_parallel_and_streams(ledger: RecordingLedger) -> None:
    async def main() -> None:
        client = async_client_of(ledger)
        async with ledger.run("w"):
            await asyncio.gather(
                *(client.chat.completions.create(model="gpt-4.1", messages=MESSAGES) for _ in range(5))
            )
            async with await client.chat.completions.create(model="gpt-4.1", messages=MESSAGES, stream=True) as stream:
                assert [chunk.choices[0].delta.content async for chunk in stream][1] == "hel"

    asyncio.run(main())
    calls = ledger.every(ModelCallCompleted)
    assert len(calls) == 6
    started = ledger.only(RunStarted)
    for call in calls:
        check_chat(call)
        assert call.parent_event_id == started.event_id


def test_responses_whole_and_streamed_and_embeddings(ledger: RecordingLedger) -> None:
    client = client_of(ledger)
    with ledger.run("w"):
        client.responses.create(model="o4-mini", input=SECRET)
        with client.responses.stream(model="o4-mini", input=SECRET) as stream:
            assert [event.type for event in stream][-1] == "response.completed"
        client.embeddings.create(model="e-3", input=SECRET)
        client.models.list()
    whole, streamed, embedded = ledger.every(ModelCallCompleted)
    for call in (whole, streamed):
        assert (call.input_tokens, call.cache_read_tokens, call.cache_write_tokens) == (50, 40, 10)
        assert (call.output_tokens, call.reasoning_tokens, call.finish_reason) == (10, 20, "completed")
        assert (call.status, call.service_tier) == ("ok", "")
    assert whole.output_digest == streamed.output_digest != ""
    assert (embedded.input_tokens, embedded.output_tokens) == (8, 0)
    assert SECRET.encode() not in ledger.emitted


def test_helpers_and_raw_responses_are_recorded_once(ledger: RecordingLedger) -> None:
    client = client_of(ledger)
    raw = client.chat.completions.with_raw_response.create(model="gpt-4.1", messages=MESSAGES)
    assert raw.parse().id == raw.parse().id == "chatcmpl-1"
    copied = client.with_options(max_retries=0)
    assert instrument(copied, ledger) is copied
    with copied.chat.completions.stream(model="gpt-4.1", messages=MESSAGES) as stream:
        stream.until_done()
    calls = ledger.every(ModelCallCompleted)
    assert len(calls) == 2
    for call in calls:
        check_chat(call)


def test_a_call_outside_of_any_run_is_a_run_of_its_own(ledger: RecordingLedger) -> None:
    client_of(ledger).chat.completions.create(model="gpt-4.1", messages=MESSAGES)
    assert ledger.names() == ["RunStarted", "ModelCallCompleted", "RunFinished"]
    assert ledger.only(RunStarted).workflow == "openai"
    assert ledger.only(RunFinished).status == "succeeded"


def test_a_call_inside_of_a_recorded_model_call_is_not_counted_twice(ledger: RecordingLedger) -> None:
    client = client_of(ledger)
    with ledger.run("w") as run, run.model_call(model="gpt-4.1") as call:
        client.chat.completions.create(model="gpt-4.1", messages=MESSAGES)
        call.usage(input_tokens=1)
    assert ledger.only(ModelCallCompleted).input_tokens == 1


def test_retries_are_counted(ledger: RecordingLedger) -> None:
    answers = iter([429, 503])

    def failing(request: httpx2.Request) -> httpx2.Response:
        status = next(answers, None)
        if status is not None:
            return httpx2.Response(status, headers={"retry-after-ms": "1"}, json={"error": {"message": SECRET}})
        return answering(request)

    client_of(ledger, failing).chat.completions.create(model="gpt-4.1", messages=MESSAGES)
    assert ledger.only(ModelCallCompleted).attempt == 3


def test_an_error_is_passed_on_and_its_words_stay_here(ledger: RecordingLedger) -> None:
    def refusing(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(400, json={"error": {"message": f"bad prompt {SECRET}", "code": "invalid"}})

    client = client_of(ledger, refusing)
    with pytest.raises(openai.BadRequestError, match=SECRET), ledger.run("w"):
        client.chat.completions.create(model="gpt-4.1", messages=MESSAGES, stream=True)
    call, finished = ledger.only(ModelCallCompleted), ledger.only(RunFinished)
    assert (call.status, call.error_type) == ("error", "BadRequestError")
    assert call.error_message.startswith("HTTP 400, ")
    assert (finished.status, finished.error_type) == ("failed", "BadRequestError")
    assert SECRET.encode() not in ledger.emitted


def test_a_stream_that_breaks_and_one_that_is_left(ledger: RecordingLedger) -> None:
    def breaking(request: httpx2.Request) -> httpx2.Response:
        def pieces() -> Iterator[bytes]:
            yield event_stream(CHUNKS[:2])
            raise httpx2.ReadError(SECRET)

        return httpx2.Response(200, content=pieces())

    with pytest.raises((httpx2.ReadError, openai.APIConnectionError)):
        list(client_of(ledger, breaking).chat.completions.create(model="gpt-4.1", messages=MESSAGES, stream=True))
    client = client_of(ledger)
    with client.chat.completions.create(model="gpt-4.1", messages=MESSAGES, stream=True) as stream:
        next(iter(stream))
    stream = client.chat.completions.create(model="gpt-4.1", messages=MESSAGES, stream=True)
    assert isinstance(stream, openai.Stream)
    del stream
    broken, left, forgotten = ledger.every(ModelCallCompleted)
    assert broken.status == "error"
    assert broken.output_digest
    assert (left.status, left.input_tokens) == (forgotten.status, forgotten.input_tokens) == ("cancelled", None)
    assert SECRET.encode() not in ledger.emitted


def test_a_budget_stops_the_call_before_it_is_sent(ledger: RecordingLedger) -> None:
    sent: list[str] = []

    def counting(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.url.path)
        return answering(request)

    ask = client_of(ledger, counting).chat.completions.create
    with pytest.raises(RunBudgetExceededError), ledger.run("w", budget=RunBudget(model_calls=1)):
        [ask(model="gpt-4.1", messages=MESSAGES) for _ in range(3)]
    assert len(sent) == 1
    assert ledger.only(RunFinished).status == "halted"


def test_a_ledger_that_fails_breaks_nothing(ledger: RecordingLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(ledger)

    def failing(*args: object, **kwargs: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(ledger, "run", failing)
    assert client.chat.completions.create(model="gpt-4.1", messages=MESSAGES).id == "chatcmpl-1"
    assert ledger.events == []
    assert SECRET.encode() not in ledger.emitted
    assert [ledger.problems.pop().reason] == ["integration"]


@pytest.mark.parametrize(
    ("base_url", "provider"),
    [("https://api.openai.com/v1", "openai"), ("https://openrouter.ai/api/v1", "openrouter"),
     ("http://localhost:8000/v1", "localhost")],
)  # fmt: skip
def test_the_host_says_who_bills(ledger: RecordingLedger, base_url: str, provider: str) -> None:
    def anywhere(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json=CHAT)

    client_of(ledger, anywhere, base_url=base_url).chat.completions.create(model="gpt-4.1", messages=MESSAGES)
    assert ledger.only(ModelCallCompleted).provider == provider
