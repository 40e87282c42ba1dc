"""Asks for holds over Kafka and waits for the decisions: the shell around `holds`.

Requests and reports go to the holds topic under the tenant's key, where one writer decides. Decisions come back on the
tenant's partition of the budgets topic, which one thread of each ledger reads from where it ended when the ledger began
to listen, before the first request: no answer is missed.

What is bounded: a call waits at most `answer_s_max`. Once a request stayed unanswered, the following calls wait only
`PROBE_S` each until an answer comes again, so that an outage doesn't cost each call the full wait.

The thread also renews the holds of calls under way: see `renewals`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from confluent_kafka import Message

from agentledger.producers.emitter import BLANK_ENVELOPE, Emitter
from agentledger.producers.event_ids import new_event_id
from agentledger.producers.holds import Amounts, Hold, HoldSettings, Report, no_answer, refusal_of
from agentledger.producers.renewals import Renewals
from agentledger.producers.topic_tail import TopicTail
from agentledger.schemas.codec import Codec, read_schema_id
from agentledger.schemas.errors import AgentledgerError
from agentledger.schemas.events import HoldDecided, HoldReported, HoldRequested
from agentledger.schemas.partitioning import partition_of
from agentledger.schemas.topics import BUDGETS

Scopes = Iterable[tuple[str, str]]

if TYPE_CHECKING:
    from agentledger.producers.control import Control
    from agentledger.producers.envelope import RunEnvelope
    from agentledger.producers.unheld_orders import WhenUnreachable

HOLD_RECORDS = ("GapDetected", "HoldReported", "HoldRequested")
SUFFIX = ":holds"
PROBE_S = 0.1
# Calls of one process that may wait for a decision at a time; one more is as good as unanswered.
WAITING_MAX = 10_000


@runtime_checkable
class DecisionFeed(Protocol):
    """Where decisions come from without a broker: a fake that is producer and decider in one."""

    def subscribe(self, take: Callable[[bytes], None]) -> None:
        """Give each decision's bytes to `take`, from now on."""


class _Waiting(NamedTuple):
    hold: Hold
    wake: Callable[[], None]


class HoldClient:
    """The holds of one ledger. Safe for threads, for tasks, and after a fork."""

    def __init__(
        self,
        settings: HoldSettings,
        *,
        emitter: Emitter,
        codec: Codec,
        kafka: Mapping[str, Any] | None,
        feed: DecisionFeed | None = None,
        declared: Control | None = None,
        warm_up: Callable[[], None] = lambda: None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.emitter = emitter
        self._codec = codec
        self._declared = declared
        self._on_close = on_close
        self._is_decision: dict[int, bool] = {}  # by schema id, so that what isn't one needs no decoding
        self._key = emitter.tenant_id.encode()
        self._tail: TopicTail | None = None
        if kafka is not None:
            self._tail = TopicTail(
                kafka,
                BUDGETS.name,
                choose=lambda partitions: [partition_of(self._key, partitions)],
                from_end=True,
                on_start=warm_up,
                on_record=self._on_record,
                on_idle=lambda: self.renew_due(time.monotonic()),
            )
        self._begin()
        if feed is not None:
            feed.subscribe(self.take)
        _clients.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, _Waiting] = {}
        self._renewals = Renewals(self.settings)
        self._is_answering = True

    def start(self) -> None:
        """Begin to listen, if that hasn't happened yet. Never waits."""
        if self._tail is not None:
            self._tail.start()
        if self._declared is not None:
            self._declared.start()

    def close(self) -> None:
        """Stop listening. Holds of calls under way lapse by themselves."""
        if self._tail is not None:
            self._tail.close()
        if self._declared is not None:
            self._declared.close()
        self._on_close()

    def envelope_of(self, run: RunEnvelope) -> RunEnvelope:
        """A run's envelope for requests and reports: under the tenant's key."""
        return run.keyed_by(self._key)

    def obtain(self, envelope: RunEnvelope, asked: Amounts, scopes: Scopes = ()) -> Hold:
        """Ask for a hold and wait for the decision; the hold, granted or, where that is allowed, unanswered.

        `scopes` are those that the call falls under: their budgets, or else the settings, say whether it is made
        without a decision. Raises HoldRefusedError, and HoldUnansweredError where it isn't.
        """
        began = time.monotonic()
        answered = threading.Event()
        hold = self._new(asked, scopes)
        try:
            is_listening = self._is_listening(began)
            if self._ask(hold, envelope, answered.set, is_listening) and is_listening:
                answered.wait(self._wait_s(began))
        except BaseException:
            self._abandon(hold, envelope)
            raise
        return self._conclude(hold, envelope, scopes, began)

    async def obtain_async(self, envelope: RunEnvelope, asked: Amounts, scopes: Scopes = ()) -> Hold:
        """Like `obtain`, without blocking the event loop."""
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        answered = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(answered.set)

        hold = self._new(asked, scopes)
        try:
            if self._tail is not None and not self._tail.settled.is_set():
                await asyncio.to_thread(self._is_listening, began)
            is_listening = self._is_listening(began)
            if self._ask(hold, envelope, wake, is_listening) and is_listening:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(answered.wait(), self._wait_s(began))
        except BaseException:
            self._abandon(hold, envelope)
            raise
        return self._conclude(hold, envelope, scopes, began)

    def settle(
        self, hold: Hold, envelope: RunEnvelope, used: Amounts, call_event_id: str, tool_failures: int = 0
    ) -> None:
        """Report what the call used, and how often it has failed in a row now. Never raises, never waits."""
        if hold.owner == os.getpid():
            self._renewals.end(hold)
            self._report(hold, envelope, hold.settle(used), call_event_id, tool_failures)

    def release(self, hold: Hold, envelope: RunEnvelope, reason: str) -> None:
        """Report that the call was not made. Never raises, never waits."""
        if hold.owner == os.getpid():
            self._renewals.end(hold)
            self._report(hold, envelope, hold.release(reason))

    def renew_due(self, now_s: float) -> None:
        """Renew the holds of calls under way whose time for it has come; `now_s` is monotonic. Never raises."""
        for hold, envelope in self._renewals.due(now_s):
            self._report(hold, envelope, hold.renew())

    def take(self, value: bytes) -> None:
        """A record of the budgets topic: where it decides on a hold of ours, wake who waits. Never raises."""
        try:
            schema_id = read_schema_id(value)
            if not self._is_decision.get(schema_id, True):
                return
            decision = self._codec.decode(value)
            self._is_decision[schema_id] = isinstance(decision, HoldDecided)
        except AgentledgerError as error:
            self.emitter.tell("holds", f"a decision could not be read: {error}")
            return
        if isinstance(decision, HoldDecided):
            self._decide(decision)

    def _decide(self, decision: HoldDecided) -> None:
        with self._lock:
            waiting = self._waiting.get(decision.hold_id)
            if waiting is None:
                return
            self._is_answering = True
            if waiting.hold.state != "asked":  # given up on, but kept so that a late answer is noticed
                del self._waiting[decision.hold_id]
            is_waited_for = waiting.hold.decide(decision)
        if is_waited_for:
            waiting.wake()

    def _new(self, asked: Amounts, scopes: Scopes) -> Hold:
        return Hold(new_event_id(self.emitter.now_us()), asked, os.getpid(), self._when_unheld(scopes))

    def _when_unheld(self, scopes: Scopes) -> WhenUnreachable:
        when = self.settings.when_unreachable
        return when if self._declared is None else self._declared.when_unheld(scopes, when)

    def _is_listening(self, began: float) -> bool:
        """Whether an answer would be heard; waits until the thread stands at the end of the topic, within the bound."""
        tail = self._tail
        if tail is None:
            return True
        tail.start()
        if not tail.caught_up.is_set():
            tail.settled.wait(self._wait_s(began))
        return tail.caught_up.is_set()

    def _wait_s(self, began: float) -> float:
        wait_s = self.settings.answer_s_max if self._is_answering else PROBE_S
        return max(0.0, began + wait_s - time.monotonic())

    def _ask(self, hold: Hold, envelope: RunEnvelope, wake: Callable[[], None], is_listening: bool) -> bool:
        """Send the request; whether that was possible.

        Where no answer would be heard, only a call that is made all the same asks: so that its cost is counted.
        """
        if not is_listening and hold.when_unreachable == "refuse":
            return False
        with self._lock:
            if len(self._waiting) >= WAITING_MAX:
                self._forget_unanswered()
            if len(self._waiting) >= WAITING_MAX:
                return False
            self._waiting[hold.hold_id] = _Waiting(hold, wake)
        asked = hold.asked
        body = HoldRequested(
            **BLANK_ENVELOPE, hold_id=hold.hold_id, ask_cost_nanousd=asked.cost_nanousd, ask_tokens=asked.tokens,
            ask_model_calls=asked.model_calls, ask_tool_calls=asked.tool_calls,
            ttl_ms=round(self.settings.ttl_s * 1000),
        )  # fmt: skip
        return self._emit(body, envelope, hold.hold_id)

    def _forget_unanswered(self) -> None:
        for hold_id in [key for key, waiting in self._waiting.items() if waiting.hold.state != "asked"]:
            del self._waiting[hold_id]

    def _conclude(self, hold: Hold, envelope: RunEnvelope, scopes: Scopes, began: float) -> Hold:
        with self._lock:
            was_asked = hold.hold_id in self._waiting
            if was_asked:  # what was read meanwhile counts, too
                hold.when_unreachable = self._when_unheld(scopes)
            report = hold.give_up()
            if hold.state in {"granted", "refused"}:
                self._waiting.pop(hold.hold_id, None)
            else:
                self._is_answering = False
        if hold.state == "granted":
            self._renewals.begin(hold, envelope, time.monotonic())
            return hold
        if hold.state == "refused":
            raise refusal_of(hold, envelope.run_id)
        error = no_answer(hold, envelope.run_id, time.monotonic() - began)
        self.emitter.tell("hold_unanswered", str(error))
        if hold.state == "unanswered":
            self._renewals.begin(hold, envelope, time.monotonic())
            return hold
        if was_asked:
            self._report(hold, envelope, report)
        raise error

    def _abandon(self, hold: Hold, envelope: RunEnvelope) -> None:
        """Whoever waited was called off: a grant that comes later must not stay held."""
        with self._lock:
            was_asked = self._waiting.pop(hold.hold_id, None) is not None
            report = hold.release("cancelled")
        if was_asked:
            self._report(hold, envelope, report)

    def _report(
        self, hold: Hold, envelope: RunEnvelope, report: Report | None, call_event_id: str | None = None,
        tool_failures: int = 0,
    ) -> None:  # fmt: skip
        if report is None:
            return
        used = report.used
        body = HoldReported(
            **BLANK_ENVELOPE, hold_id=hold.hold_id, action=report.action, actual_cost_nanousd=used.cost_nanousd,
            actual_tokens=used.tokens, actual_model_calls=used.model_calls, actual_tool_calls=used.tool_calls,
            call_event_id=call_event_id, reason=report.reason, tool_failures=tool_failures,
        )  # fmt: skip
        self._emit(body, envelope, new_event_id(self.emitter.now_us()))

    def _emit(self, body: HoldRequested | HoldReported, envelope: RunEnvelope, event_id: str) -> bool:
        kind = self.emitter.kinds[type(body).__name__]
        return self.emitter.emit(
            kind,
            envelope,
            body,
            event_id=event_id,
            parent_event_id=None,
            span_id=None,
            occurred_at=self.emitter.now_us(),
        )

    def _on_record(self, message: Message) -> None:
        value = message.value()
        if value is not None:
            self.take(value)
        self.renew_due(time.monotonic())


_clients: weakref.WeakSet[HoldClient] = weakref.WeakSet()


def _begin_in_child() -> None:
    for client in list(_clients):
        client._begin()


os.register_at_fork(after_in_child=_begin_in_child)
