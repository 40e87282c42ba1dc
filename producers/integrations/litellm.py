"""LiteLLM: `install(ledger)` records every model call of this process: completions, streams, embeddings, retries.

A refused call raises before it is sent. LiteLLM tells of an answer in a thread of its own, after it was given: the next
call may be asked for before the last one's tokens and dollars count, so a budget can be passed by the calls under way.
No holds are taken.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from agentledger.producers.calls import ModelCall
from agentledger.producers.integrations.recording import OPEN_MAX, Recorded, is_inside, run_here, unbroken
from agentledger.producers.runs import current_run
from agentledger.producers.usage import tokens_of_totals
from agentledger.schemas.errors import MissingLibraryError

if TYPE_CHECKING:
    from agentledger.producers.recorder import Ledger

try:
    import litellm
    from litellm.integrations.custom_logger import CustomLogger
except ImportError as error:
    raise MissingLibraryError("litellm", "litellm") from error


# Where LiteLLM copies what stands in `callbacks`.
_LISTS = (
    "callbacks", "input_callback", "success_callback", "failure_callback", "_async_success_callback",
    "_async_failure_callback", "_async_input_callback",
)  # fmt: skip


def install(ledger: Ledger, *, workflow: str = "litellm") -> LedgerLogger:
    """Record all calls from now on, until `stop` of the logger. `workflow` is that of a call outside of any run."""
    logger = LedgerLogger(ledger, workflow=workflow)
    litellm.callbacks.append(logger)
    litellm.pre_call_rules.append(logger.ask_leave)
    return logger


class LedgerLogger(CustomLogger):
    """Turns LiteLLM's callbacks into model calls. Safe for threads; sync and async."""

    def __init__(self, ledger: Ledger, *, workflow: str = "litellm") -> None:
        super().__init__()
        self.name = f"agentledger-{id(self)}"  # LiteLLM takes two loggers with the same public attributes for one
        self._ledger = ledger
        self._workflow = workflow
        self._open: OrderedDict[str, Recorded[ModelCall]] = OrderedDict()
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Record nothing that begins from now on."""
        for callbacks in (*(getattr(litellm, name, []) for name in _LISTS), litellm.pre_call_rules):
            callbacks[:] = [callback for callback in callbacks if callback is not self and callback != self.ask_leave]

    def ask_leave(self, input: str) -> bool:  # noqa: A002 - LiteLLM's name
        """LiteLLM asks before each call whether it may be made. Raises a refusal."""
        with unbroken(self._ledger, "leave for a model call"):
            run = current_run()
            if run is not None and not is_inside(ModelCall):
                run.ask_leave("model", may_wait=not _is_in_loop())
        return True

    def log_pre_api_call(self, model: str, messages: Any, kwargs: dict[str, Any]) -> None:
        """A model is asked, or asked again."""
        with unbroken(self._ledger, "a model call"):
            call_id = str(kwargs.get("litellm_call_id"))
            known = self._open.get(call_id)
            if known is not None:
                known.call.attempt += 1
            elif not is_inside(ModelCall):
                self._begin(call_id, model, messages, kwargs)

    def log_success_event(self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any) -> None:
        """The model has answered; of a stream, all of it."""
        self._answered(kwargs, response_obj, start_time, end_time)

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """As `log_success_event`, of an asynchronous call."""
        self._answered(kwargs, response_obj, start_time, end_time)

    def log_failure_event(self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any) -> None:
        """The model has failed, and isn't asked again."""
        self._failed(kwargs, start_time, end_time)

    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """As `log_failure_event`, of an asynchronous call."""
        self._failed(kwargs, start_time, end_time)

    def _begin(self, call_id: str, model: str, messages: Any, kwargs: dict[str, Any]) -> None:
        run, own = run_here(self._ledger, self._workflow)
        asked_for = kwargs.get("optional_params") or {}
        limit = asked_for.get("max_completion_tokens") or asked_for.get("max_tokens")
        call = run.model_call(
            model=model, provider=str(kwargs.get("custom_llm_provider") or ""), input=messages,
            max_tokens=limit if isinstance(limit, int) else None,
        )  # fmt: skip
        call.begin_unasked()
        with self._lock:
            self._open[call_id] = Recorded(call, own)
            oldest = self._open.popitem(last=False)[1] if len(self._open) > OPEN_MAX else None
        if oldest is not None:
            oldest.cancel()

    def _take(self, kwargs: dict[str, Any]) -> Recorded[ModelCall] | None:
        with self._lock:
            return self._open.pop(str(kwargs.get("litellm_call_id")), None)

    def _answered(self, kwargs: dict[str, Any], answer: Any, started: Any, ended: Any) -> None:
        with unbroken(self._ledger, "the end of a model call"):
            recorded = self._take(kwargs)
            if recorded is not None:
                with unbroken(self._ledger, "an answer"):
                    _take_times(recorded.call, kwargs, started, ended)
                    _take_answer(recorded.call, kwargs, answer)
                recorded.end()

    def _failed(self, kwargs: dict[str, Any], started: Any, ended: Any) -> None:
        with unbroken(self._ledger, "the end of a model call"):
            recorded, failure = self._take(kwargs), kwargs.get("exception")
            if recorded is not None:
                _take_times(recorded.call, kwargs, started, ended)
                if not isinstance(failure, BaseException):
                    recorded.call.status = "error"
                recorded.end(failure if isinstance(failure, BaseException) else None)


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _take_times(call: ModelCall, kwargs: dict[str, Any], started: Any, ended: Any) -> None:
    """LiteLLM's times: by the time of this callback the answer was given long ago."""
    call.latency_ms = (ended - started).total_seconds() * 1000
    first = kwargs.get("completion_start_time")
    if kwargs.get("stream") and first is not None:
        call.time_to_first_token_ms = (first - started).total_seconds() * 1000


def _take_answer(call: ModelCall, kwargs: dict[str, Any], answer: Any) -> None:
    call.answered_model = str(getattr(answer, "model", None) or "")
    call.response_id = str(getattr(answer, "id", None) or "")
    choices = getattr(answer, "choices", None) or ()
    if choices:
        call.finish_reason = str(choices[0].finish_reason or "")
        call.output([choice.message.model_dump() for choice in choices])
    cost = kwargs.get("response_cost")
    if cost:  # it says 0 for what it knows no price of
        call.reported_cost_usd(cost)
    usage = getattr(answer, "usage", None)
    if usage is not None:
        within = getattr(usage, "prompt_tokens_details", None)
        spent = getattr(usage, "completion_tokens_details", None)
        tokens = tokens_of_totals(
            input_total=usage.prompt_tokens, output_total=usage.completion_tokens or 0,
            cache_read=getattr(within, "cached_tokens", None),
            cache_write=getattr(usage, "cache_creation_input_tokens", None),
            reasoning=getattr(spent, "reasoning_tokens", None),
        )  # fmt: skip
        call.usage(**tokens)
