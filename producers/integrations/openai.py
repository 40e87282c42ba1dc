"""OpenAI's client: `instrument(OpenAI(), ledger)` records chat completions, responses, completions and embeddings.

A refused call raises before anything is sent. Tokens of a streamed chat completion come only when asked for, so the
integration asks (`stream_options`) and keeps the extra piece to itself; `stream_usage=False` leaves that out, for
servers that don't know the option: such calls have unknown tokens then.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from agentledger.producers.calls import ModelCall
from agentledger.producers.integrations.answers import Answer
from agentledger.producers.integrations.clients import Reader, Watched, watch
from agentledger.producers.usage import disjoint_tokens
from agentledger.schemas.errors import MissingLibraryError

if TYPE_CHECKING:
    from agentledger.producers.recorder import Ledger

try:
    import openai
except ImportError as error:
    raise MissingLibraryError("openai", "openai") from error

_T = TypeVar("_T", openai.OpenAI, openai.AsyncOpenAI)
# Others speak this protocol, too; who bills is seen by the host.
_PROVIDERS = {
    "api.openai.com": "openai",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.together.xyz": "together",
    "api.x.ai": "x-ai",
    "generativelanguage.googleapis.com": "google",
    "openrouter.ai": "openrouter",
}
_CHAT = "/chat/completions"


def instrument(
    client: _T, ledger: Ledger, *, provider: str = "", workflow: str = "openai", stream_usage: bool = True
) -> _T:
    """Record what this client asks models; the same client. `workflow` is that of a call outside of any run.

    `provider` is who bills, where the host doesn't tell: `openai`, `azure`, or the host's name by default.
    """

    def prepare(path: str, options: Any) -> tuple[Any, bool]:
        body = options.json_data
        asks = path == _CHAT and isinstance(body, dict) and body.get("stream") and not body.get("stream_options")
        if not (stream_usage and asks):
            return options, False
        options = copy.copy(options)
        options.json_data = {**body, "stream_options": {"include_usage": True}}
        return options, True

    return watch(client, Watched(ledger, provider or _provider_of(client), workflow, _READERS, prepare))


def _provider_of(client: Any) -> str:
    if isinstance(client, openai.AzureOpenAI | openai.AsyncAzureOpenAI):
        return "azure"
    host = str(client.base_url.host)
    return _PROVIDERS.get(host, host)


class _Chat:
    """Chat completions, and the older completions, which have `text` in place of a message."""

    def whole(self, call: ModelCall, answer: Answer, body: Any) -> None:
        self._take(call, answer, body, "message")

    def piece(self, call: ModelCall, answer: Answer, event: Any) -> bool:
        return self._take(call, answer, event, "delta")

    def _take(self, call: ModelCall, answer: Answer, body: Any, part: str) -> bool:
        call.answered_model = body.model or call.answered_model
        call.response_id = body.id or call.response_id
        tier = getattr(body, "service_tier", None)
        call.service_tier = call.service_tier if tier is None else "" if tier == "default" else tier
        said = False
        for choice in body.choices:
            call.finish_reason = call.finish_reason or choice.finish_reason or ""
            message = getattr(choice, part, None)
            said |= answer.add_text(getattr(choice, "text", None))
            said |= answer.add_text(getattr(message, "refusal", None))
            said |= answer.add_text(getattr(message, "content", None))
            for tool in getattr(message, "tool_calls", None) or ():
                function = getattr(tool, "function", None)
                place = choice.index, getattr(tool, "index", tool.id)
                said |= answer.add_tool(place, getattr(function, "name", ""), getattr(function, "arguments", ""))
        _usage(call, body)
        return said


class _Responses:
    """The Responses API: the last event of a stream holds the whole answer."""

    _LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})

    def whole(self, call: ModelCall, answer: Answer, body: Any) -> None:
        call.answered_model, call.response_id = body.model or "", body.id or ""
        incomplete = getattr(body.incomplete_details, "reason", None)
        call.finish_reason = incomplete or body.status or ""
        call.service_tier = "" if body.service_tier in {None, "auto", "default"} else body.service_tier
        if body.status == "failed":
            call.status = "error"
            call.error_type = str(getattr(body.error, "code", "") or "failed")
        for item in body.output:
            answer.add_tool(getattr(item, "call_id", ""), getattr(item, "name", ""), getattr(item, "arguments", ""))
            for part in getattr(item, "content", None) or ():
                answer.add_text(getattr(part, "text", None) or getattr(part, "refusal", None))
        _usage(call, body)

    def piece(self, call: ModelCall, answer: Answer, event: Any) -> bool:
        if event.type in self._LAST:
            self.whole(call, answer, event.response)
            return False
        if event.type == "error":
            call.status, call.error_type = "error", str(event.code or "error")
        return str(event.type).endswith(".delta")


class _Embeddings:
    """Embeddings: only input is billed."""

    def whole(self, call: ModelCall, answer: Answer, body: Any) -> None:
        call.answered_model = body.model or ""
        call.usage(input_tokens=body.usage.prompt_tokens)

    def piece(self, call: ModelCall, answer: Answer, event: Any) -> bool:
        return False


def _usage(call: ModelCall, body: Any) -> None:
    if body.usage is not None:
        call.usage(**disjoint_tokens(body.usage.model_dump()))


_READERS: dict[str, Callable[[], Reader]] = {
    _CHAT: _Chat,
    "/completions": _Chat,
    "/responses": _Responses,
    "/embeddings": _Embeddings,
}
