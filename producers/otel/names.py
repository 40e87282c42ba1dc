"""The attribute names that are understood, in all their generations: tables, the preferred name first.

GenAI is OpenTelemetry's convention (`gen_ai.*`), with the names it had before; OpenInference is Arize's (`llm.*`,
`openinference.*`); OpenLLMetry is Traceloop's, before and after it joined GenAI; `ai.*` is Vercel's AI SDK up to
version 6, and version 7 with its older telemetry. Semantic Kernel, CrewAI and any-agent write GenAI's names with values
or additions of their own. `infra/docs/OPENTELEMETRY.md` shows these tables.
"""

from __future__ import annotations

MODEL, TOOL, AGENT, STEP = "model", "tool", "agent", "step"
# What a span is, by the first of these attributes that is there and says it.
ROLES: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "openinference.span.kind",
        {"LLM": MODEL, "EMBEDDING": MODEL, "TOOL": TOOL, "AGENT": AGENT, "CHAIN": STEP, "RETRIEVER": STEP}
        | {"RERANKER": STEP, "GUARDRAIL": STEP, "EVALUATOR": STEP, "PROMPT": STEP},
    ),
    (
        "gen_ai.operation.name",
        {
            "chat": MODEL,
            "text_completion": MODEL,
            "generate_content": MODEL,
            "embeddings": MODEL,
            "rerank": MODEL,
            "execute_tool": TOOL,
            "create_agent": AGENT,
            "invoke_agent": AGENT,
            "invoke_workflow": AGENT,
            "agent_step": STEP,  # AI SDK 7: one round of the loop
            "call_llm": MODEL,  # any-agent
            "chat.completions": MODEL,  # Semantic Kernel, this and the three below
            "chat.streaming_completions": MODEL,
            "text.completions": MODEL,
            "text.streaming_completions": MODEL,
            "completion": MODEL,  # OpenLLMetry, this and the one below
            "embedding": MODEL,
        },
    ),
    (
        "ai.operationId",
        {
            "ai.generateText": AGENT,  # the whole call with all its rounds: repeats the tokens of those below
            "ai.streamText": AGENT,
            "ai.generateObject": AGENT,
            "ai.streamObject": AGENT,
            "ai.embed": AGENT,
            "ai.embedMany": AGENT,
            "ai.rerank": AGENT,
            "ai.generateText.doGenerate": MODEL,
            "ai.streamText.doStream": MODEL,
            "ai.generateObject.doGenerate": MODEL,
            "ai.streamObject.doStream": MODEL,
            "ai.embed.doEmbed": MODEL,
            "ai.embedMany.doEmbed": MODEL,
            "ai.rerank.doRerank": MODEL,
            "ai.toolCall": TOOL,
        },
    ),
    ("mcp.method.name", {"tools/call": TOOL}),
    ("traceloop.span.kind", {"tool": TOOL, "agent": AGENT, "workflow": AGENT, "task": STEP}),
    ("llm.request.type", {"chat": MODEL, "completion": MODEL, "embedding": MODEL, "rerank": MODEL}),
)
# What a span is that none of these tells of, by an attribute that is there at all (Pydantic AI's first conventions).
ROLES_BY_PRESENCE = (("gen_ai.tool.name", TOOL), ("agent_name", AGENT))
MCP_METHOD, MCP_TOOL_CALL = "mcp.method.name", "tools/call"

# Which convention a span speaks, by an attribute that only it has; else it is GenAI's.
OPEN_INFERENCE, VERCEL, OPEN_LLMETRY, GEN_AI = "openinference", "vercel_ai", "openllmetry", "gen_ai"
CONVENTIONS = (
    ("openinference.span.kind", OPEN_INFERENCE),
    ("ai.operationId", VERCEL),
    ("traceloop.span.kind", OPEN_LLMETRY),
    ("llm.request.type", OPEN_LLMETRY),
)

PROVIDER = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system", "ai.model.provider")
# Names of providers that the price book doesn't know under these spellings.
PROVIDER_SPELLINGS = {
    "az.ai.inference": "azure",
    "azure.ai.inference": "azure",
    "gcp.gen_ai": "google",
    "x_ai": "x-ai",
    "xai.chat": "x-ai",
    "xai.responses": "x-ai",
}
# Frameworks that put their own name where the provider's belongs: it says nothing about who sells the model.
FRAMEWORKS = frozenset(
    {"agno", "autogen", "crewai", "haystack", "langchain", "langgraph", "llamaindex", "semantic_kernel"}
)

REQUESTED_MODEL = (
    "gen_ai.request.model",
    "llm.request.model_name",
    "llm.request.model",
    "llm.model_name",
    "embedding.model_name",
    "ai.model.id",
)
ANSWERED_MODEL = ("gen_ai.response.model", "llm.response.model_name", "llm.response.model", "ai.response.model")
RESPONSE_ID = ("gen_ai.response.id", "ai.response.id")
FINISH_REASON = (
    "gen_ai.response.finish_reasons",
    "gen_ai.response.finish_reason",
    "gen_ai.response.stop_reason",
    "llm.finish_reason",
    "llm.response.finish_reason",
    "llm.response.stop_reason",
    "ai.response.finishReason",
)
SERVICE_TIER = (
    "openai.response.service_tier",
    "gen_ai.openai.response.service_tier",
    "openai.request.service_tier",
    "gen_ai.openai.request.service_tier",
)
# With the milliseconds in one unit of each.
TIME_TO_FIRST_TOKEN = (
    ("gen_ai.response.time_to_first_chunk", 1000),
    ("gen_ai.server.time_to_first_token", 1000),
    ("ai.response.msToFirstChunk", 1),
    ("ai.stream.msToFirstChunk", 1),
)

INPUT_TOKENS = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.prompt_tokens",
    "llm.token_count.prompt",
    "llm.usage.prompt_tokens",
    "ai.usage.inputTokens",
    "ai.usage.promptTokens",
    "ai.usage.tokens",
)
UNCACHED_INPUT_TOKENS = ("ai.usage.inputTokenDetails.noCacheTokens",)
CACHE_READ_TOKENS = (
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_read_input_tokens",
    "gen_ai.usage.input_tokens.cached",
    "gen_ai.usage.details.cache_read_tokens",
    "gen_ai.usage.details.cache_read_input_tokens",
    "gen_ai.usage.details.cached_tokens",
    "llm.token_count.prompt_details.cache_read",
    "llm.token_count.prompt_details.cache_input",
    "llm.usage.cache_read_input_tokens",
    "ai.usage.inputTokenDetails.cacheReadTokens",
    "ai.usage.cachedInputTokens",
)
CACHE_WRITE_TOKENS = (
    "gen_ai.usage.cache_creation.input_tokens",
    "gen_ai.usage.cache_write.input_tokens",
    "gen_ai.usage.cache_creation_input_tokens",
    "gen_ai.usage.cache_write_input_tokens",
    "gen_ai.usage.input_tokens.cache_write",
    "gen_ai.usage.details.cache_write_tokens",
    "gen_ai.usage.details.cache_creation_input_tokens",
    "llm.token_count.prompt_details.cache_write",
    "llm.usage.cache_creation_input_tokens",
    "ai.usage.inputTokenDetails.cacheWriteTokens",
)
OUTPUT_TOKENS = (
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.completion_tokens",
    "llm.token_count.completion",
    "llm.usage.completion_tokens",
    "ai.usage.outputTokens",
    "ai.usage.completionTokens",
)
REASONING_TOKENS = (
    "gen_ai.usage.reasoning.output_tokens",
    "gen_ai.usage.reasoning_tokens",
    "gen_ai.usage.output_tokens.reasoning",
    "gen_ai.usage.details.reasoning_tokens",
    "llm.token_count.completion_details.reasoning",
    "llm.usage.reasoning_tokens",
    "ai.usage.outputTokenDetails.reasoningTokens",
    "ai.usage.reasoningTokens",
)
TOTAL_TOKENS = ("gen_ai.usage.total_tokens", "llm.token_count.total", "llm.usage.total_tokens", "ai.usage.totalTokens")
# The names under which cached tokens are counted beside the input where the model is Anthropic's: Vercel's AI SDK
# handed on what the provider said until version 6, which has `inputTokenDetails`.
CACHE_BESIDE_INPUT = frozenset({"ai.usage.cachedInputTokens"})
# Usage that is part of a count above, or the same in other words.
USAGE_CONTAINED = frozenset(
    {
        "ai.usage.outputTokenDetails.textTokens",
        "llm.token_count.completion_details.audio",
        "llm.token_count.prompt_details",
        "llm.token_count.prompt_details.audio",
    }
)
USAGE_PREFIXES = ("gen_ai.usage.", "llm.token_count.", "llm.usage.", "ai.usage.")

# What a call cost in US dollars: in one, else in parts that are added up.
TOTAL_COST = ("gen_ai.usage.cost", "gen_ai.usage.total_cost", "llm.cost.total")
COST_PARTS = (
    ("gen_ai.usage.input_cost", "gen_ai.usage.output_cost"),
    ("llm.cost.prompt", "llm.cost.completion"),
    ("cost_prompt", "cost_completion"),
)

MODEL_INPUT = (
    "gen_ai.input.messages",
    "gen_ai.prompt",
    "input.value",
    "ai.prompt.messages",
    "ai.prompt",
    "ai.values",
    "ai.value",
    "llm.prompts",
    "traceloop.entity.input",
)
MODEL_OUTPUT = (
    "gen_ai.output.messages",
    "gen_ai.output",
    "gen_ai.completion",
    "output.value",
    "ai.response.text",
    "ai.response.object",
    "ai.response.toolCalls",
    "traceloop.entity.output",
)
# Messages that came as one attribute per field (`gen_ai.prompt.0.content`).
MODEL_INPUT_PREFIXES = ("gen_ai.prompt.", "llm.input_messages.", "llm.prompts.")
MODEL_OUTPUT_PREFIXES = ("gen_ai.completion.", "llm.output_messages.")
# Messages that came as events of the span.
MODEL_INPUT_EVENTS = frozenset(
    {
        "gen_ai.content.prompt",
        "gen_ai.system.message",
        "gen_ai.user.message",
        "gen_ai.assistant.message",
        "gen_ai.tool.message",
    }
)
MODEL_OUTPUT_EVENTS = frozenset({"gen_ai.content.completion", "gen_ai.choice"})
DETAILS_EVENT = "gen_ai.client.inference.operation.details"  # has the messages as attributes, by GenAI's names

TOOL_NAME = ("gen_ai.tool.name", "tool.name", "ai.toolCall.name", "mcp.tool.name", "traceloop.entity.name")
TOOL_CALL_ID = ("gen_ai.tool.call.id", "ai.toolCall.id", "tool_call.id", "tool.id")
TOOL_ARGUMENTS = (
    "gen_ai.tool.args",
    "gen_ai.tool.call.arguments",
    "ai.toolCall.args",
    "tool_arguments",
    "input.value",
    "traceloop.entity.input",
)
TOOL_RESULT = (
    "gen_ai.tool.call.result",
    "gen_ai.output",
    "ai.toolCall.result",
    "tool_response",
    "output.value",
    "traceloop.entity.output",
)

AGENT_NAME = ("gen_ai.agent.name", "agent.name", "agent_name")
AGENT_VERSION = ("gen_ai.agent.version", "any_agent.version")
WORKFLOW = ("gen_ai.workflow.name", "traceloop.workflow.name", "ai.telemetry.functionId")
ACTOR = ("enduser.id", "user.id", "ai.telemetry.metadata.userId", "traceloop.association.properties.user_id")
RUN_ID = ("agentledger.run_id",)
ENVIRONMENT = ("deployment.environment.name", "deployment.environment")
SERVICE, UNKNOWN_SERVICE = "service.name", "unknown_service"

# Facts without a field of their own that are worth keeping, and the label each becomes. None of them is content.
LABELS = {
    "gen_ai.conversation.id": "conversation_id",
    "session.id": "conversation_id",
    "traceloop.association.properties.session_id": "conversation_id",
    "gen_ai.agent.id": "agent_instance_id",
    "gen_ai.request.max_tokens": "max_tokens",
    "gen_ai.request.seed": "seed",
    "gen_ai.request.temperature": "temperature",
    "gen_ai.request.top_p": "top_p",
    "gen_ai.tool.type": "tool_type",
    "mcp.session.id": "mcp_session_id",
    "server.address": "server_address",
}
EXCEPTION_EVENT, EXCEPTION_TYPE, EXCEPTION_MESSAGE = "exception", "exception.type", "exception.message"
ERROR_TYPE = "error.type"
