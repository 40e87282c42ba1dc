"""Which call a span tells of, in each convention, and what of it is which field."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.producers.otel import SpanEvent
from agentledger.producers.otel.calls import labels_of, model_call_fields, tool_call_fields
from agentledger.producers.otel.roles import role_of
from agentledger.producers.otel.usage import disjoint_usage
from tests.otel_names_table import PAGE, page_with_tables
from tests.span_builder import span

# Per name: attributes of a model call, and the provider, requested and answered model, and tokens (input, cache read,
# cache write, output, reasoning) that they mean.
MODEL_CALLS: dict[str, tuple[dict[str, Any], tuple[str, str, str], tuple[int | None, ...]]] = {
    "GenAI, now": (
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "anthropic",
            "gen_ai.request.model": "claude-sonnet-4-5",
            "gen_ai.response.model": "claude-sonnet-4-5-20250929",
            "gen_ai.usage.input_tokens": 1000,
            "gen_ai.usage.cache_read.input_tokens": 600,
            "gen_ai.usage.cache_creation.input_tokens": 300,
            "gen_ai.usage.output_tokens": 50,
            "gen_ai.usage.reasoning.output_tokens": 20,
        },
        ("anthropic", "claude-sonnet-4-5", "claude-sonnet-4-5-20250929"),
        (100, 600, 300, 30, 20),
    ),
    "GenAI, before 1.27": (
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.system": "openai",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.usage.prompt_tokens": 10,
            "gen_ai.usage.completion_tokens": 2,
        },
        ("openai", "gpt-4o", ""),
        (10, None, None, 2, None),
    ),
    "OpenInference": (
        {
            "openinference.span.kind": "LLM",
            "llm.provider": "openai",
            "llm.request.model_name": "o4-mini",
            "llm.response.model_name": "o4-mini-2025-04-16",
            "llm.token_count.prompt": 100,
            "llm.token_count.prompt_details.cache_read": 40,
            "llm.token_count.prompt_details.cache_write": 10,
            "llm.token_count.completion": 30,
            "llm.token_count.completion_details.reasoning": 12,
            "llm.token_count.total": 130,
        },
        ("openai", "o4-mini", "o4-mini-2025-04-16"),
        (50, 40, 10, 18, 12),
    ),
    "OpenLLMetry, before it joined GenAI": (
        {
            "llm.request.type": "chat",
            "gen_ai.system": "Langchain",
            "gen_ai.request.model": "openai/gpt-4o",
            "gen_ai.usage.prompt_tokens": 9,
            "gen_ai.usage.completion_tokens": 4,
            "gen_ai.usage.cache_read_input_tokens": 5,
            "llm.usage.total_tokens": 13,
        },
        ("openai", "openai/gpt-4o", ""),
        (4, 5, None, 4, None),
    ),
    "Strands on Bedrock, which counts the cache beside the input": (
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.system": "aws.bedrock",
            "gen_ai.request.model": "anthropic.claude-sonnet-4-5",
            "gen_ai.usage.input_tokens": 10,
            "gen_ai.usage.output_tokens": 5,
            "gen_ai.usage.cache_read_input_tokens": 7,
            "gen_ai.usage.cache_write_input_tokens": 2,
            "gen_ai.usage.total_tokens": 24,
        },
        ("aws.bedrock", "anthropic.claude-sonnet-4-5", ""),
        (10, 7, 2, 5, None),
    ),
    "Semantic Kernel": (
        {
            "gen_ai.operation.name": "chat.completions",
            "gen_ai.system": "openai",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.response.finish_reason": "stop",
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.usage.output_tokens": 1,
        },
        ("openai", "gpt-4o", ""),
        (3, None, None, 1, None),
    ),
    "CrewAI, whose own name stands for the provider's": (
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "crewai",
            "gen_ai.request.model": "anthropic/claude-haiku-4-5",
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.usage.output_tokens": 1,
        },
        ("anthropic", "anthropic/claude-haiku-4-5", ""),
        (3, None, None, 1, None),
    ),
    "AI SDK 5 on Anthropic, which hands on the provider's counts": (
        {
            "ai.operationId": "ai.generateText.doGenerate",
            "ai.model.provider": "anthropic.messages",
            "ai.model.id": "claude-sonnet-4-5",
            "ai.response.model": "claude-sonnet-4-5-20250929",
            "ai.usage.inputTokens": 100,
            "ai.usage.cachedInputTokens": 80,
            "ai.usage.outputTokens": 5,
        },
        ("anthropic.messages", "claude-sonnet-4-5", "claude-sonnet-4-5-20250929"),
        (100, 80, None, 5, None),
    ),
    "AI SDK 6": (
        {
            "ai.operationId": "ai.streamText.doStream",
            "ai.model.provider": "anthropic.messages",
            "ai.model.id": "claude-sonnet-4-5",
            "gen_ai.request.model": "claude-sonnet-4-5",
            "ai.usage.inputTokens": 100,
            "ai.usage.inputTokenDetails.noCacheTokens": 15,
            "ai.usage.inputTokenDetails.cacheReadTokens": 80,
            "ai.usage.inputTokenDetails.cacheWriteTokens": 5,
            "ai.usage.cachedInputTokens": 80,
            "ai.usage.outputTokens": 9,
            "ai.usage.outputTokenDetails.textTokens": 6,
            "ai.usage.outputTokenDetails.reasoningTokens": 3,
            "ai.usage.totalTokens": 109,
        },
        ("anthropic.messages", "claude-sonnet-4-5", ""),
        (15, 80, 5, 6, 3),
    ),
    "AI SDK 7": (
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-5",
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.cache_read.input_tokens": 90,
            "gen_ai.usage.output_tokens": 5,
        },
        ("openai", "gpt-5", ""),
        (10, 90, None, 5, None),
    ),
    "Sentry's names": (
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.system": "openai",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.usage.input_tokens": 10,
            "gen_ai.usage.input_tokens.cached": 4,
            "gen_ai.usage.input_tokens.cache_write": 1,
            "gen_ai.usage.output_tokens": 5,
            "gen_ai.usage.output_tokens.reasoning": 2,
        },
        ("openai", "gpt-4o", ""),
        (5, 4, 1, 3, 2),
    ),
    "thoughts beside the answer, as Gemini counts them": (
        {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": "gcp.gen_ai",
            "gen_ai.request.model": "gemini-2.5-flash",
            "gen_ai.usage.input_tokens": 10,
            "gen_ai.usage.output_tokens": 50,
            "gen_ai.usage.reasoning_tokens": 30,
            "gen_ai.usage.total_tokens": 90,
        },
        ("google", "gemini-2.5-flash", ""),
        (10, None, None, 50, 30),
    ),
    "an embedding": (
        {"ai.operationId": "ai.embed.doEmbed", "ai.model.id": "text-embedding-3-small", "ai.usage.tokens": 8},
        ("", "text-embedding-3-small", ""),
        (8, None, None, None, None),
    ),
    "no operation, but a model and its tokens": (
        {"gen_ai.system": "openai", "gen_ai.request.model": "gpt-4o", "gen_ai.usage.input_tokens": 8},
        ("openai", "gpt-4o", ""),
        (8, None, None, None, None),
    ),
}
USED = {"gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 5}
TOKENS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


@pytest.mark.parametrize("name", MODEL_CALLS)
def test_a_model_call_is_read_in_every_convention(name: str) -> None:
    attributes, models, tokens = MODEL_CALLS[name]
    told = span(1, None, attributes)
    assert role_of(told) == "model"
    fields = model_call_fields(told)
    assert (fields["provider"], fields["requested_model"], fields["answered_model"]) == models
    assert tuple(fields[field] for field in TOKENS) == tokens
    assert labels_of(told) == {}


@pytest.mark.parametrize(
    ("attributes", "tool", "call_id"),
    [
        ({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "t", "gen_ai.tool.call.id": "c"}, "t", "c"),
        ({"openinference.span.kind": "TOOL", "tool.name": "t", "tool.id": "c"}, "t", "c"),
        ({"ai.operationId": "ai.toolCall", "ai.toolCall.name": "t", "ai.toolCall.id": "c"}, "t", "c"),
        ({"traceloop.span.kind": "tool", "traceloop.entity.name": "t"}, "t", ""),
        ({"mcp.method.name": "tools/call", "gen_ai.tool.name": "t"}, "t", ""),
        ({"gen_ai.tool.name": "t", "gen_ai.tool.call.id": "c", "tool_arguments": "{}"}, "t", "c"),
    ],
)
def test_a_tool_call_is_read_in_every_convention(attributes: dict[str, Any], tool: str, call_id: str) -> None:
    told = span(1, None, attributes)
    assert role_of(told) == "tool"
    fields = tool_call_fields(told)
    assert (fields["tool"], fields["call_id"], fields["status"]) == (tool, call_id, "ok")


@pytest.mark.parametrize(
    "name",
    ["gen_ai.tool.call.arguments", "gen_ai.tool.args", "ai.toolCall.args", "tool_arguments", "traceloop.entity.input"],
)
def test_equal_arguments_have_equal_digests_under_every_name(name: str) -> None:
    def digest(value: Any) -> str:
        return str(tool_call_fields(span(1, None, {"gen_ai.tool.name": "t", name: value}))["arguments_digest"])

    assert digest('{"city": "Rome", "days": 2}') == digest('{"days":2,"city":"Rome"}')
    assert (
        digest({"city": "Rome", "days": 2})
        == digest("{'city': 'Rome', 'days': 2}")
        == digest('{"days":2,"city":"Rome"}')
    )


@pytest.mark.parametrize(
    ("attributes", "role"),
    [
        ({"gen_ai.operation.name": "invoke_agent", **USED}, "agent"),
        ({"gen_ai.operation.name": "agent_step", **USED}, "step"),
        ({"gen_ai.operation.name": "unheard_of", **USED}, ""),
        ({"ai.operationId": "ai.generateText", "ai.model.id": "m", "ai.usage.inputTokens": 5}, "agent"),
        ({"openinference.span.kind": "CHAIN", "llm.model_name": "m", "llm.token_count.prompt": 5}, "step"),
        ({"traceloop.span.kind": "workflow"}, "agent"),
        ({"agent_name": "a", "model_name": "m", **USED}, "agent"),
        ({"http.request.method": "GET"}, ""),
    ],
)
def test_what_only_repeats_the_tokens_of_others_is_no_call(attributes: dict[str, Any], role: str) -> None:
    assert role_of(span(1, None, attributes)) == role


def test_the_span_of_an_mcp_server_is_no_call_of_the_agent() -> None:
    attributes = {"mcp.method.name": "tools/call", "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "t"}
    assert role_of(span(1, None, attributes, kind="server")) == ""
    assert role_of(span(1, None, attributes, kind="client")) == "tool"


@pytest.mark.parametrize(
    ("attributes", "nanousd"),
    [
        ({"gen_ai.usage.input_cost": Decimal("0.0000042"), "gen_ai.usage.output_cost": Decimal("0.0001")}, 104_200),
        ({"llm.cost.total": Decimal("0.5"), "llm.cost.prompt": 1}, 500_000_000),
        ({"gen_ai.usage.cost": 0}, 0),
        ({}, None),
    ],
)
def test_a_reported_cost_is_kept_to_the_nano_dollar(attributes: dict[str, Any], nanousd: int | None) -> None:
    assert model_call_fields(span(1, None, attributes))["reported_cost_nanousd"] == nanousd


def test_what_went_wrong_is_found_in_status_attribute_or_exception() -> None:
    thrown = SpanEvent("exception", {"exception.type": "TimeoutError", "exception.message": "in /home/jane/x"})
    by_status = tool_call_fields(span(1, None, {"gen_ai.tool.name": "t"}, status="error", events=(thrown,)))
    assert (by_status["status"], by_status["error_type"], by_status["error_message"]) == (
        "timeout",
        "TimeoutError",
        "in /home/jane/x",
    )
    by_attribute = model_call_fields(span(1, None, {"error.type": "429"}))
    assert (by_attribute["status"], by_attribute["error_type"]) == ("error", "429")
    assert model_call_fields(span(1, None, {}, status="error"))["error_type"] == "span_error"


def test_messages_are_digested_wherever_they_stand() -> None:
    event = SpanEvent("gen_ai.user.message", {"content": "hi"})
    details = SpanEvent("gen_ai.client.inference.operation.details", {"gen_ai.input.messages": "[1]"})
    for told in (
        span(1, None, {"gen_ai.input.messages": '[{"role": "user"}]'}),
        span(1, None, {"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": "hi"}),
        span(1, None, {"llm.input_messages.0.message.content": "hi"}),
        span(1, None, {}, events=(event,)),
        span(1, None, {}, events=(details,)),
    ):
        fields = model_call_fields(told)
        assert fields["input_digest"].startswith("sha256:")
        assert "output_digest" not in fields
        assert "hi" not in str(fields)


def test_usage_that_nobody_understands_is_named() -> None:
    told = span(1, None, {"gen_ai.usage.audio_seconds": 7, "llm.token_count.prompt": 1, "gen_ai.usage.zero_tokens": 0})
    assert labels_of(told) == {"usage_not_read": "gen_ai.usage.audio_seconds"}
    assert labels_of(span(1, None, {"session.id": "s", "gen_ai.request.temperature": Decimal("0.2")})) == {
        "conversation_id": "s",
        "temperature": "0.2",
    }


@given(*[st.integers(0, 10**6)] * 5)
def test_tokens_that_are_contained_add_up_to_what_was_given(
    plain: int, read: int, written: int, answered: int, thought: int
) -> None:
    usage = disjoint_usage(
        {
            "gen_ai.usage.input_tokens": plain + read + written,
            "gen_ai.usage.cache_read.input_tokens": read,
            "gen_ai.usage.cache_write.input_tokens": written,
            "gen_ai.usage.output_tokens": answered + thought,
            "gen_ai.usage.reasoning_tokens": thought,
            "gen_ai.usage.total_tokens": plain + read + written + answered + thought,
        }
    )
    assert tuple(usage.values()) == (plain, read, written, answered, thought)


def test_the_page_shows_the_tables() -> None:
    page = PAGE.read_text("utf-8")
    assert page == page_with_tables(page), "run: python -m tests.otel_names_table --write"
