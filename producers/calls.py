"""One call of a model or a tool while it runs: a context manager, sync and async, that becomes one event at its end.

The fields of the record are attributes under their own names, with the record's defaults on the class, so that the
encoder reads the call itself and no second object is built.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from agentledger.producers.billing import was_not_billed
from agentledger.producers.bounds import PAYLOAD_BYTES_MAX, clean_text
from agentledger.producers.content import Content
from agentledger.producers.event_ids import as_event_id, new_event_id, span_id_of
from agentledger.producers.holds import NO_ESTIMATE, Estimate, Hold
from agentledger.schemas.errors import MoneyError
from agentledger.schemas.hashing import digest_bytes
from agentledger.schemas.money import usd_to_nanousd

if TYPE_CHECKING:
    from decimal import Decimal

    from agentledger.producers.budget_guard import CallKind
    from agentledger.producers.redaction import Part
    from agentledger.producers.run_calls import RunCalls
    from agentledger.producers.runs import Run

_CANCELLATIONS = (CancelledError, KeyboardInterrupt, GeneratorExit)

# The innermost run or call that is open in this thread or task: what an event follows from.
enclosing: ContextVar[Run | Call | None] = ContextVar("agentledger_enclosing", default=None)


def is_cancellation(error: BaseException) -> bool:
    """Whether the work was called off rather than failed."""
    return isinstance(error, _CANCELLATIONS)


def is_timeout(error: BaseException) -> bool:
    """Whether the error is a time-out: Python's own, or one that calls itself so, as HTTP clients' do."""
    return isinstance(error, TimeoutError) or any("Timeout" in kind.__name__ for kind in type(error).__mro__)


class Call(ABC):
    """What model calls and tool calls have in common."""

    kind: ClassVar[CallKind]
    record_name: ClassVar[str]

    run: RunCalls
    event_id: str = ""
    parent_event_id: str | None = None
    requestor: str = ""
    attempt: int = 1
    status: str = ""  # set at the end, unless it was set before
    error_type: str = ""
    error_message: str = ""
    latency_ms: float | None = None
    reported_cost_nanousd: int | None = None
    hold: Hold | None = None
    is_admitted: bool = False  # asked for leave before it begins
    wants_hold: bool | None = None  # None: as the ledger's settings say
    estimate: Estimate = NO_ESTIMATE
    payloads: Mapping[str, bytes] = MappingProxyType({})  # what goes beside the event, by part
    payload_digests: Mapping[str, str] = MappingProxyType({})
    _began_us: int = 0
    _outer: Token[Run | Call | None] | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """What is called: the model or the tool."""

    @property
    def estimated_cost_nanousd(self) -> int | None:
        """What was held for it, or said beforehand that it may cost at most; None where nothing was."""
        held = self.hold.asked.cost_nanousd if self.hold is not None else 0
        return held or self.estimate.cost_nanousd  # a hold of no dollars says nothing of what a call costs

    @property
    def estimated_tokens(self) -> int | None:
        """The tokens held for it, or said beforehand; None where nothing was."""
        return self.hold.asked.tokens if self.hold is not None else self.estimate.tokens

    @property
    def span_id(self) -> str:
        """The W3C span id of the call, once it has begun."""
        return span_id_of(self.event_id) if self.event_id else ""

    @property
    def traceparent(self) -> str:
        """The W3C `traceparent` header for what is called, such as the model's or the tool's HTTP request."""
        return f"00-{self.run.trace_id}-{self.span_id}-01"

    def reported_cost_usd(self, amount_usd: Decimal | float | str) -> None:
        """What the provider says that this call cost, in US dollars. What is no amount is told about and left out."""
        try:
            self.reported_cost_nanousd = usd_to_nanousd(amount_usd)
        except MoneyError as error:
            self.run.ledger.tell("invalid_cost", str(error))

    def begin(self) -> Self:
        """Begin without becoming what this thread's events follow from: for a call whose end is seen elsewhere, such as
        in a callback. Raises what entering raises; `end` must follow.
        """
        if not self.is_admitted:
            self.run.admit(self)
        self._begin()
        return self

    def begin_unasked(self) -> Self:
        """Begin a call that is made whatever the budgets say: it is counted, and never refused."""
        self.run.meter.count(self.kind)
        self._begin()
        return self

    async def admit_async(self) -> None:
        """Ask for leave now, for a `begin` that follows later. Raises what entering raises."""
        await self.run.admit_async(self)
        self.is_admitted = True

    async def ask_after_all(self) -> None:
        """Ask for leave for a call that has begun unasked. Raises what entering raises; then the call doesn't count."""
        self.run.meter.withdraw(self.kind, None)
        await self.run.admit_async(self)

    async def begin_async(self) -> Self:
        """Like `begin`, without blocking the event loop."""
        await self.run.admit_async(self)
        self._begin()
        return self

    def __enter__(self) -> Self:
        self.run.admit(self)
        return self._entered()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._outer is not None:
            leave(self._outer)
            self._outer = None
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """The call is over; `error` is what ended it. Never raises."""
        if self.latency_ms is None:
            self.latency_ms = max(0, self.run.ledger.timer() - self._began_us) / 1000
        if error is not None:
            self.note_error(error)
        elif not self.status:
            self.status = "ok"
        self.run.record_call(self)

    async def __aenter__(self) -> Self:
        await self.run.admit_async(self)
        return self._entered()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _entered(self) -> Self:
        self._begin()
        self._outer = enclosing.set(self)
        return self

    def _begin(self) -> None:
        run = self.run
        self._began_us = run.ledger.timer()
        self.event_id = new_event_id(run.ledger.clock())
        if self.parent_event_id is None:
            self.parent_event_id = run.enclosing_event_id()

    def _described(self, part: Part, value: object) -> Content:
        """What the event says of a part; what goes beside it is kept until the event is emitted."""
        found = self.run.content(value, part, self.name)
        if found.payload is not None and len(found.payload) > PAYLOAD_BYTES_MAX:
            self.run.ledger.tell("payload_too_large", f"{len(found.payload)} bytes of {part} were not kept")
        elif found.payload is not None:
            self.payloads = {**self.payloads, part: found.payload}
            self.payload_digests = {**self.payload_digests, part: digest_bytes(found.payload)}
        return found

    def note_error(self, error: BaseException) -> None:
        """Take down what ended the call: class, message as far as redaction lets it through, and the status."""
        self.error_type = type(error).__name__
        self.error_message = self.run.ledger.content.error_text(error)
        if not self.status:
            self.status = self._status_after(error)

    @abstractmethod
    def _status_after(self, error: BaseException) -> str:
        """The call's status where this error ended it."""


class ModelCall(Call):
    """A call of a model. Set what the answer says; what is not set stays unknown, which is not zero."""

    kind = "model"
    record_name = "ModelCallCompleted"

    provider: str = ""
    requested_model: str = ""
    answered_model: str = ""
    service_tier: str = ""
    input_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    time_to_first_token_ms: float | None = None
    finish_reason: str = ""
    response_id: str = ""
    input_digest: str = ""
    input_bytes: int | None = None
    output_digest: str = ""
    output_bytes: int | None = None
    max_tokens: int | None = None
    _was_refused: bool = False

    def __init__(self, run: RunCalls, model: str, provider: str) -> None:
        self.run = run
        self.requested_model = model
        self.provider = provider

    @property
    def name(self) -> str:
        """The model."""
        return self.requested_model

    def usage(
        self,
        *,
        input_tokens: int | None = 0,
        cache_read_tokens: int | None = 0,
        cache_write_tokens: int | None = 0,
        output_tokens: int | None = 0,
        reasoning_tokens: int | None = 0,
    ) -> None:
        """The call's tokens, disjoint: input without cache reads and writes, output without reasoning.

        Each call of this replaces the last, as a stream's running totals do.
        """
        self.input_tokens = input_tokens
        self.cache_read_tokens = cache_read_tokens
        self.cache_write_tokens = cache_write_tokens
        self.output_tokens = output_tokens
        self.reasoning_tokens = reasoning_tokens

    def first_token(self) -> None:
        """The first token has arrived, now. Only the first call of this counts."""
        if self.time_to_first_token_ms is None:
            self.time_to_first_token_ms = max(0, self.run.ledger.timer() - self._began_us) / 1000

    def input(self, messages: object) -> None:
        """The request's messages: kept as digest and size; as a payload where redaction lets them through."""
        self.input_digest, self.input_bytes, *_ = self._described("input", messages)

    def output(self, answer: object) -> None:
        """The answer: kept as digest and size; as a payload where redaction lets it through."""
        self.output_digest, self.output_bytes, *_ = self._described("output", answer)

    def reject(self, reason: str = "") -> None:
        """The model answered, but the harness refuses the answer."""
        self.status = "rejected"
        self.error_message = clean_text(reason)

    @property
    def is_unbilled(self) -> bool:
        """Whether the call failed in a way that costs nothing: the provider refused it, or was never reached."""
        return self._was_refused and self.time_to_first_token_ms is None and not self.output_digest

    def note_error(self, error: BaseException) -> None:
        """Take down what ended the call, as for any call, and whether it can have cost anything."""
        super().note_error(error)
        self._was_refused = was_not_billed(error)

    def _status_after(self, error: BaseException) -> str:
        return "cancelled" if is_cancellation(error) else "error"


class ToolCall(Call):
    """A call of a tool."""

    kind = "tool"
    record_name = "ToolCallCompleted"

    tool: str = ""
    tool_version: str = ""
    call_id: str = ""
    arguments_digest: str = ""
    arguments_bytes: int | None = None
    arguments_redacted: str | None = None
    result_digest: str = ""
    result_bytes: int | None = None
    result_redacted: str | None = None
    effect: str = ""
    target: str = ""
    idempotency_key: str = ""
    dry_run: bool = False
    policy_decision_id: str | None = None
    evidence_ids: Sequence[str] = ()

    def __init__(self, run: RunCalls, tool: str) -> None:
        self.run = run
        self.tool = tool

    @property
    def name(self) -> str:
        """The tool."""
        return self.tool

    def arguments(self, value: object) -> None:
        """The arguments: kept as digest and size, and as far as the ledger's redaction lets them through."""
        found = self._described("arguments", value)
        self.arguments_digest, self.arguments_bytes, self.arguments_redacted = found.digest, found.size, found.kept

    def result(self, value: object) -> None:
        """The result: kept as digest and size, and as far as the ledger's redaction lets it through."""
        found = self._described("result", value)
        self.result_digest, self.result_bytes, self.result_redacted = found.digest, found.size, found.kept

    def deny(self, policy_decision_id: str | None = None, reason: str = "") -> None:
        """The tool was not called: a policy, or a person, said no."""
        self.status = "denied"
        self.error_message = clean_text(reason)
        if policy_decision_id is not None:
            self.policy_decision_id = as_event_id(policy_decision_id)

    def _status_after(self, error: BaseException) -> str:
        return "timeout" if is_timeout(error) else "error"  # the record has no word for a cancelled tool call


def leave(outer: Token[Run | Call | None]) -> None:
    """Make what was open before the current run or call the innermost again."""
    # An async generator may be closed by another task than began it: there the token's context is gone anyway.
    with contextlib.suppress(ValueError):
        enclosing.reset(outer)


def set_facts(target: Call, facts: Mapping[str, Any]) -> None:
    """Set the given record fields; those that are None keep their default."""
    for name, value in facts.items():
        if value is not None:
            setattr(target, name, value)
