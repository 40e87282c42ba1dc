"""A producer that keeps its records in memory: with a bounded queue, and a broker that can be away or refuse."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import NamedTuple

from agentledger.schemas.ports import DeliveryReport

QUEUE_RECORDS_MAX = 100_000
VALUE_BYTES_MAX = 1_048_588  # as a broker's default message.max.bytes
_WAIT_SECONDS = 0.001


class SentRecord(NamedTuple):
    """One record that the fake broker has taken."""

    topic: str
    key: bytes
    value: bytes


class FakeRecordProducer:
    """`RecordProducer` without a broker. `records` is what arrived, in order.

    `up=False` is a broker that is away: records wait until `come_back()`. `refuse(why)` makes it refuse what comes.
    A full queue (`records_max` waiting) takes nothing more; a value over 1 MiB is refused at once.
    """

    def __init__(self, *, up: bool = True, records_max: int = QUEUE_RECORDS_MAX) -> None:
        self.records: list[SentRecord] = []
        self._up = up
        self._records_max = records_max
        self._refusal: str | None = None
        self._queue: deque[tuple[SentRecord, DeliveryReport]] = deque()
        self._lock = threading.RLock()  # a report may send again, in the same thread

    def send(self, topic: str, key: bytes, value: bytes, on_delivery: DeliveryReport) -> bool:
        """True when queued, or refused for good (then on_delivery was told why); False when the queue is full."""
        if len(value) > VALUE_BYTES_MAX:
            on_delivery("MSG_SIZE_TOO_LARGE: Broker: Message size too large", value)
            return True
        with self._lock:
            if len(self._queue) >= self._records_max:
                return False
            self._queue.append((SentRecord(topic, key, value), on_delivery))
        if self._up:
            self.deliver()
        return True

    def flush(self, timeout_s: float) -> int:
        """Wait until the queue is empty; the count still waiting at the time-out."""
        end = time.monotonic() + timeout_s
        while self._queue and time.monotonic() < end:
            if self._up:
                self.deliver()
            else:
                time.sleep(_WAIT_SECONDS)
        return len(self._queue)

    def waiting(self) -> int:
        """How many records are queued and not yet delivered or given up."""
        return len(self._queue)

    def deliver(self, count: int | None = None) -> None:
        """Take the oldest `count` records of the queue, or all, and report them."""
        while count is None or count > 0:
            with self._lock:
                if not self._queue:
                    return
                record, on_delivery = self._queue.popleft()
                if self._refusal is None:
                    self.records.append(record)
                refusal = self._refusal
            on_delivery(refusal, record.value)
            count = None if count is None else count - 1

    def go_away(self) -> None:
        """From now on records wait."""
        self._up = False

    def come_back(self) -> None:
        """Deliver what waits, and what comes."""
        self._up = True
        self.deliver()

    def refuse(self, why: str | None) -> None:
        """Refuse every record from now on, for this reason; None takes them again."""
        self._refusal = why
