"""Model clients that their makers generate from one template, OpenAI's and Anthropic's: every call of theirs, whole or
streamed, sync or async, goes through the client's `request`, where it is recorded.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from agentledger.producers.calls import ModelCall
from agentledger.producers.integrations.answers import Answer
from agentledger.producers.integrations.recording import Recorded, is_inside, run_here, unbroken
from agentledger.producers.integrations.streams import RecordedAsyncStream, RecordedStream

if TYPE_CHECKING:
    from agentledger.producers.recorder import Ledger

_T = TypeVar("_T")
RETRY_HEADER = "x-stainless-retry-count"  # the clients count their own retries in it, from 0
_MARK = "_agentledger_instrumented"
_under_way: ContextVar[ModelCall | None] = ContextVar("agentledger_request", default=None)


class Reader(Protocol):
    """Reads one answer of one endpoint, whole or in pieces, into the call."""

    def whole(self, call: ModelCall, answer: Answer, body: Any) -> None:
        """One whole answer."""

    def piece(self, call: ModelCall, answer: Answer, event: Any) -> bool:
        """One piece of a stream; whether it brought a part of the answer."""


@dataclass(frozen=True)
class Watched:
    """One client's way of being watched. `readers` are by the end of the path."""

    ledger: Ledger
    provider: str
    workflow: str
    readers: Mapping[str, Callable[[], Reader]]
    prepare: Callable[[str, Any], tuple[Any, bool]]  # the request as it is sent, and whether a stream hides its usage

    def reader_of(self, options: Any) -> Reader | None:
        """Who reads the answer to this request; None where it asks no model."""
        if str(options.method).lower() != "post":
            return None
        reader = self.readers.get(path_of(options))
        return None if reader is None else reader()

    def call_of(self, options: Any) -> Recorded[ModelCall]:
        """The call that this request stands for, not begun yet."""
        body = options.json_data if isinstance(options.json_data, dict) else {}
        run, own = run_here(self.ledger, self.workflow)
        limit = next((body[name] for name in _LIMITS if isinstance(body.get(name), int)), None)
        asked = next((body[name] for name in _INPUTS if body.get(name) is not None), None)
        call = run.model_call(
            model=str(body.get("model") or ""), provider=self.provider, input=asked, max_tokens=limit,
            service_tier=_tier(body.get("service_tier")),
        )  # fmt: skip
        return Recorded(call, own)


_LIMITS = "max_completion_tokens", "max_output_tokens", "max_tokens"
_INPUTS = "messages", "input", "prompt"


def path_of(options: Any) -> str:
    """The path of a request, without its query."""
    return "/" + str(options.url).partition("?")[0].strip("/")


def watch(client: _T, watched: Watched) -> _T:
    """Record the calls of this client from now on, also of copies that `with_options` makes. The same client.

    A client that is watched already stays as it is.
    """
    target: Any = client
    if getattr(target, _MARK, False):
        return client
    is_async = inspect.iscoroutinefunction(target.request)
    target.request = _watched_async(target.request, watched) if is_async else _watched(target.request, watched)
    _count_attempts(target, is_async)
    for name in ("copy", "with_options"):
        setattr(target, name, _watched_copy(getattr(target, name), watched))
    setattr(target, _MARK, True)
    return client


def _watched(request: Callable[..., Any], watched: Watched) -> Callable[..., Any]:
    def recorded_request(cast_to: Any, options: Any, **rest: Any) -> Any:
        asked = _Request(watched, options)
        with unbroken(watched.ledger, "a model call is not recorded"):
            if asked.prepare():
                asked.recorded.begin()
                asked.is_open = True
        if not asked.is_open:
            return request(cast_to, options, **rest)
        token = _under_way.set(asked.recorded.call)
        try:
            return asked.answered(request(cast_to, asked.options, **rest))
        except BaseException as error:
            asked.end(error)
            raise
        finally:
            _under_way.reset(token)

    return recorded_request


def _watched_async(request: Callable[..., Any], watched: Watched) -> Callable[..., Any]:
    async def recorded_request(cast_to: Any, options: Any, **rest: Any) -> Any:
        asked = _Request(watched, options)
        with unbroken(watched.ledger, "a model call is not recorded"):
            if asked.prepare():
                await asked.recorded.begin_async()
                asked.is_open = True
        if not asked.is_open:
            return await request(cast_to, options, **rest)
        token = _under_way.set(asked.recorded.call)
        try:
            return asked.answered(await request(cast_to, asked.options, **rest))
        except BaseException as error:
            asked.end(error)
            raise
        finally:
            _under_way.reset(token)

    return recorded_request


class _Request:
    """One request on its way: from what was asked to what became of it."""

    recorded: Recorded[ModelCall]

    def __init__(self, watched: Watched, options: Any) -> None:
        self.options = options
        self.is_open = False
        self._watched = watched
        self._reader: Reader | None = None
        self._answer = Answer()
        self._hides_usage = False
        self._parsed: Any = None

    def prepare(self) -> bool:
        """Make the call where there is one to record."""
        self._reader = self._watched.reader_of(self.options)
        # Inside of a recorded model call it is what that is made of: the outer one counts.
        if self._reader is None or is_inside(ModelCall):
            return False
        self.recorded = self._watched.call_of(self.options)
        self.options, self._hides_usage = self._watched.prepare(path_of(self.options), self.options)
        return True

    def answered(self, response: Any) -> Any:
        """What the caller gets: the answer itself, or a stream that is recorded while it is read."""
        with unbroken(self._watched.ledger, "an answer is not recorded"):
            if hasattr(response, "parse") and hasattr(response, "http_response"):
                return self._raw(response)
            if hasattr(response, "__anext__"):
                return RecordedAsyncStream(response, self)
            if hasattr(response, "__next__"):
                return RecordedStream(response, self)
            if self._reader is not None:
                self._reader.whole(self.recorded.call, self._answer, response)
        self.end()
        return response

    def _raw(self, response: Any) -> Any:
        """A raw response is read by its `parse`. Where that is never called, its call ends when it is thrown away."""
        parse = response.parse

        def recorded_parse(*args: Any, **kwargs: Any) -> Any:
            parsed = parse(*args, **kwargs)
            return self._parsed_later(parsed) if inspect.isawaitable(parsed) else self._once(parsed)

        response.parse = recorded_parse
        weakref.finalize(response, self.cancel).atexit = False
        return response

    async def _parsed_later(self, parsed: Any) -> Any:
        return self._once(await parsed)

    def _once(self, parsed: Any) -> Any:
        if self._parsed is None:
            self._parsed = self.answered(parsed)
        return self._parsed

    def saw(self, event: Any) -> bool:
        """Take in a piece of a stream; whether the caller is to see it."""
        call = self.recorded.call
        with unbroken(self._watched.ledger, "a piece of an answer is not recorded"):
            if self._reader is not None and self._reader.piece(call, self._answer, event):
                call.first_token()
            return not (self._hides_usage and getattr(event, "choices", None) == [] and event.usage is not None)
        return True

    def end(self, error: BaseException | None = None) -> None:
        """The answer is complete, or `error` ended it."""
        with unbroken(self._watched.ledger, "the end of a model call is not recorded"):
            content = self._answer.content
            if content is not None and not self.recorded.is_over:
                self.recorded.call.output(content)
            self.recorded.end(error)

    def cancel(self) -> None:
        """The stream was left before its end."""
        with unbroken(self._watched.ledger, "the end of a model call is not recorded"):
            self.recorded.cancel()


def _watched_copy(copy: Callable[..., Any], watched: Watched) -> Callable[..., Any]:
    def watched_copy(*args: Any, **kwargs: Any) -> Any:
        return watch(copy(*args, **kwargs), watched)

    return watched_copy


def _note_attempt(request: Any) -> None:
    call = _under_way.get()
    count = request.headers.get(RETRY_HEADER, "")
    if call is not None and count.isdecimal():
        call.attempt = int(count[:9]) + 1


async def _note_attempt_async(request: Any) -> None:
    _note_attempt(request)


def _count_attempts(client: Any, is_async: bool) -> None:
    """Look at each request that is sent: the client says there which try it is."""
    http = getattr(client, "_client", None)
    hooks = getattr(http, "event_hooks", None)
    if not isinstance(hooks, dict):
        return  # another HTTP client: each call counts as the first try
    note = _note_attempt_async if is_async else _note_attempt
    sent = hooks.setdefault("request", [])
    if note not in sent:
        sent.append(note)
        http.event_hooks = hooks  # type: ignore[union-attr]  # the one that the hooks came from


def _tier(tier: object) -> str:
    return "" if tier in {None, "auto", "default", "standard_only"} else str(tier)
