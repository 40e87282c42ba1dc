"""Anthropic's client: `instrument(Anthropic(), ledger)` records messages, whole and streamed, also of the beta API.

A refused call raises before anything is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from agentledger.producers.calls import ModelCall
from agentledger.producers.integrations.answers import Answer
from agentledger.producers.integrations.clients import Watched, watch
from agentledger.producers.usage import disjoint_tokens
from agentledger.schemas.errors import MissingLibraryError

if TYPE_CHECKING:
    from agentledger.producers.recorder import Ledger

try:
    import anthropic
except ImportError as error:
    raise MissingLibraryError("anthropic", "anthropic") from error

_T = TypeVar("_T", anthropic.Anthropic, anthropic.AsyncAnthropic)


def instrument(client: _T, ledger: Ledger, *, provider: str = "anthropic", workflow: str = "anthropic") -> _T:
    """Record what this client asks models; the same client. `workflow` is that of a call outside of any run.

    `provider` is who bills: `aws` or `google` where the models of Bedrock or Vertex are asked.
    """
    return watch(client, Watched(ledger, provider, workflow, _READERS, lambda _, options: (options, False)))


class _Messages:
    """The Messages API. A stream begins with the input's counts and ends with all counts."""

    def __init__(self) -> None:
        self._first_usage: dict[str, Any] = {}

    def whole(self, call: ModelCall, answer: Answer, body: Any) -> None:
        self._take_head(call, body)
        call.finish_reason = body.stop_reason or ""
        for place, block in enumerate(body.content):
            self._take_block(answer, place, block)
        call.usage(**disjoint_tokens(body.usage.model_dump()))
        call.service_tier = _tier(body.usage)

    def piece(self, call: ModelCall, answer: Answer, event: Any) -> bool:
        if event.type == "message_start":
            self._take_head(call, event.message)
            call.service_tier = _tier(event.message.usage)
            # Kept, not told yet: the counts of a stream that is left early would be too low.
            self._first_usage = event.message.usage.model_dump(exclude_none=True)
        elif event.type == "message_delta":
            call.finish_reason = event.delta.stop_reason or ""
            call.usage(**disjoint_tokens({**self._first_usage, **event.usage.model_dump(exclude_none=True)}))
        elif event.type == "content_block_start":
            return self._take_block(answer, event.index, event.content_block)
        elif event.type == "content_block_delta":
            delta = event.delta
            is_text = answer.add_text(getattr(delta, "text", None))
            return answer.add_tool(event.index, "", getattr(delta, "partial_json", None)) or is_text
        return False

    def _take_head(self, call: ModelCall, message: Any) -> None:
        call.answered_model, call.response_id = message.model or "", message.id or ""

    def _take_block(self, answer: Answer, place: int, block: Any) -> bool:
        if block.type == "tool_use":
            return answer.add_tool(place, block.name, block.input)
        return answer.add_text(getattr(block, "text", None))


def _tier(usage: Any) -> str:
    tier = getattr(usage, "service_tier", None)
    return "" if tier in {None, "standard"} else str(tier)


_READERS = {"/v1/messages": _Messages}
