"""What every request that brings events goes through: key, rate, room, body, Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.requests import Request

from agentledger.producers.gateway.bodies import read_body
from agentledger.producers.gateway.callers import Caller, recognise, require
from agentledger.producers.gateway.limits import GatewayLimits
from agentledger.producers.gateway.metrics import GatewayMetrics
from agentledger.producers.gateway.publishing import AcknowledgedPublisher, OutgoingRecord
from agentledger.producers.gateway.rate_limits import RateLimits
from agentledger.producers.gateway.refusals import RefusedRequestError
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import CodecError
from agentledger.schemas.events import Event
from agentledger.schemas.http_server import LOOPBACK_NAMES
from agentledger.schemas.ports import ApiKeys, Clock
from agentledger.schemas.topics import EVENT_BYTES_MAX, topic_of

ACCEPTED = None  # the failure of an event that Kafka has
RETRY_SOON_S = 1
RETRY_BROKER_S = 5


@dataclass
class Gateway:
    """What the routes share. `local` is who sends without a key: only where that is allowed, on loopback.
    `has_bundled_ids`: schema ids are those of the bundled registry. `keep_error_texts`: of spans."""

    publisher: AcknowledgedPublisher
    codec: Codec
    keys: ApiKeys
    clock: Clock
    local: Caller | None = None
    has_bundled_ids: bool = True
    keep_error_texts: bool = False
    is_broker_up: Callable[[], bool] = field(default=lambda: True)
    limits: GatewayLimits = field(default_factory=GatewayLimits)
    metrics: GatewayMetrics = field(default_factory=GatewayMetrics)

    def __post_init__(self) -> None:
        self._rates = RateLimits()
        self._requests = 0
        self._held_bytes = 0

    def is_ready(self) -> bool:
        """Whether a request that brings events would be let in now, whoever sends it."""
        return self._requests < self.limits.requests_max and self.is_broker_up() and self.publisher.has_room()

    @contextmanager
    def admit(self, request: Request, scope: str) -> Iterator[Admission]:
        """Let a request in, and give its place back at the end. Raises RefusedRequestError where it must wait or go."""
        caller = self._caller_of(request)
        require(caller, scope)
        wait_s = self._rates.wait_s(caller.key_id, self._events_per_s_max(caller), self.clock())
        if wait_s:
            raise RefusedRequestError(
                429, "rate_exceeded", f"this key may send {self._events_per_s_max(caller):,} events a second",
                next_step=f"send on after {wait_s} s", retry_after_s=wait_s,
            )  # fmt: skip
        if self._requests >= self.limits.requests_max:
            raise _busy("too many requests are under way")
        if not self.is_broker_up():
            raise _busy("Kafka can't be reached", RETRY_BROKER_S)
        if not self.publisher.has_room():
            raise _busy("more events wait for Kafka than it takes", RETRY_BROKER_S)
        self._requests += 1
        admission = Admission(self, request, caller)
        try:
            yield admission
        finally:
            self._requests -= 1
            self._held_bytes -= admission.held_bytes

    def hold_bytes(self, count: int) -> None:
        """Count bytes of a body that stays in memory. Raises RefusedRequestError where there is no room for them."""
        if self._held_bytes + count > self.limits.held_bytes_max:
            raise _busy("the bodies of the requests under way need too much memory")
        self._held_bytes += count

    def pay(self, caller: Caller, events: int) -> None:
        """Take events off the caller's rate."""
        self._rates.pay(caller.key_id, self._events_per_s_max(caller), events, self.clock())

    def _events_per_s_max(self, caller: Caller) -> int:
        return caller.events_per_s_max or self.limits.events_per_s_max

    def _caller_of(self, request: Request) -> Caller:
        local = self.local
        if local is not None and request.url.hostname not in LOOPBACK_NAMES:
            local = None  # a web page that had its own name point to this machine must not write as the local caller
        return recognise(request.headers.get("authorization"), self.keys, local, self.clock())


class Admission:
    """One request that was let in."""

    def __init__(self, gateway: Gateway, request: Request, caller: Caller) -> None:
        self.caller = caller
        self.held_bytes = 0
        self._gateway = gateway
        self._request = request

    async def body(self) -> bytes:
        """The request's body, inflated. Raises RefusedRequestError."""
        headers = self._request.headers
        body = await read_body(
            self._request.stream(),
            content_length=headers.get("content-length"),
            content_encoding=headers.get("content-encoding", ""),
            limits=self._gateway.limits,
        )
        self._gateway.hold_bytes(len(body))
        self.held_bytes += len(body)
        return body

    def encode(self, event: Event) -> OutgoingRecord:
        """The event as it goes to its topic. Raises CodecError where it doesn't fit its schema or the broker."""
        value = self._gateway.codec.encode(event)
        if len(value) > EVENT_BYTES_MAX:
            raise CodecError(f"the event has {len(value):,} bytes, more than the {EVENT_BYTES_MAX:,} that Kafka takes")
        return OutgoingRecord(topic_of(type(event).__name__).name, event.run_id.encode(), value)

    async def publish(self, records: Sequence[OutgoingRecord]) -> list[str | None]:
        """Per record None when Kafka has acknowledged it, else why not: then the request may be sent again."""
        self._gateway.pay(self.caller, len(records))
        failures = await self._gateway.publisher.publish(records)
        acknowledged = failures.count(ACCEPTED)
        self.count_events("accepted", acknowledged)
        self.count_events("unanswered", len(failures) - acknowledged)
        return failures

    def count_events(self, result: str, count: int) -> None:
        """Count what became of events: accepted, duplicate, rejected or unanswered."""
        self._gateway.metrics.count_events(result, count)


def _busy(what: str, retry_after_s: int = RETRY_SOON_S) -> RefusedRequestError:
    return RefusedRequestError(503, "busy", what, next_step="send the same again later", retry_after_s=retry_after_s)
