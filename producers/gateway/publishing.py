"""Events to Kafka, with an answer for each: a request is answered only when all of its events have one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from agentledger.schemas.ports import RecordProducer

QUEUE_FULL = "the queue to Kafka is full"
NO_ANSWER = "Kafka has not acknowledged it in time"


class OutgoingRecord(NamedTuple):
    """One encoded event on its way."""

    topic: str
    key: bytes
    value: bytes


class _Batch:
    """The records of one request. Reports come from the thread that serves Kafka's client."""

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self.failures: list[str | None] = [NO_ANSWER] * count
        self.done = loop.create_future()
        self._loop = loop
        self._left = count
        self._lock = threading.Lock()

    def report(self, index: int, error: str | None, _value: bytes = b"") -> None:
        """Take the answer for one record."""
        with self._lock:
            self.failures[index] = error
            self._left -= 1
            is_last = self._left == 0
        if is_last and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class AcknowledgedPublisher:
    """Sends records and waits for their acknowledgements, for `ack_wait_s_max` at the most."""

    def __init__(self, producer: RecordProducer, *, queue_records_max: int, ack_wait_s_max: float) -> None:
        self._producer = producer
        self._queue_records_max = queue_records_max
        self._ack_wait_s_max = ack_wait_s_max

    def has_room(self) -> bool:
        """Whether another request can be taken."""
        return self._producer.waiting() < self._queue_records_max

    async def publish(self, records: Sequence[OutgoingRecord]) -> list[str | None]:
        """Per record None when Kafka has it, or why it may not have it: it may still arrive, and may be sent again."""
        if not records:
            return []
        batch = _Batch(len(records), asyncio.get_running_loop())
        for index, (topic, key, value) in enumerate(records):
            if not self._producer.send(topic, key, value, partial(batch.report, index)):
                batch.report(index, QUEUE_FULL)
        try:
            async with asyncio.timeout(self._ack_wait_s_max):
                await batch.done
        except TimeoutError:
            pass
        return list(batch.failures)
