"""Ends a worker that stopped making progress: Faust can stall in silence, and only a restart helps then."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from agentledger.processors.programs import die
from agentledger.schemas.errors import BrokerError

CHECK_SECONDS = 5.0
QUERY_SECONDS = 5.0

log = logging.getLogger(__name__)


class Stall:
    """Decides from positions and ends of partitions whether progress has stopped. Times are monotonic seconds."""

    def __init__(self, stalled_after_s: float) -> None:
        self._stalled_after_s = stalled_after_s
        self._seen: dict[int, tuple[int, float]] = {}

    def check(self, partition: int, position: int | None, end: int, now_s: float) -> str | None:
        """What is wrong with this partition, or None. `position` is None before the first message of it."""
        known = self._seen.get(partition)
        at = -1 if position is None else position
        if known is None or known[0] != at or (position is not None and position >= end) or end == 0:
            self._seen[partition] = at, now_s
            return None
        if now_s - known[1] < self._stalled_after_s:
            return None
        return f"no progress for {now_s - known[1]:.0f} s at offset {at} of {end}"

    def forget(self) -> None:
        """Start anew after a change of assignment."""
        self._seen.clear()


class Watchdog(threading.Thread):
    """Compares what the worker has done with what the broker has, in a thread and over a connection of its own."""

    def __init__(self, kafka: dict[str, Any], topic: str, stalled_after_s: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._kafka = kafka
        self._topic = topic
        self._stall = Stall(stalled_after_s)
        self._positions: dict[int, int | None] = {}
        self._lock = threading.Lock()

    def assigned(self, partitions: set[int]) -> None:
        """These partitions are the worker's from now on."""
        with self._lock:
            self._positions = dict.fromkeys(partitions)
            self._stall.forget()

    def position(self, partition: int, offset: int) -> None:
        """Everything before this offset is done."""
        with self._lock:
            if partition in self._positions:
                self._positions[partition] = offset

    def run(self) -> None:
        consumer = Consumer({**self._kafka, "group.id": "agentledger-watchdog", "enable.auto.commit": False})
        while True:
            time.sleep(CHECK_SECONDS)
            with self._lock:
                positions = dict(self._positions)
            for partition, position in positions.items():
                try:
                    low, end = consumer.get_watermark_offsets(TopicPartition(self._topic, partition), QUERY_SECONDS)
                except KafkaException as error:
                    log.warning("watchdog: %s", error.args[0].str())
                    continue
                with self._lock:
                    wrong = self._stall.check(partition, position, end if end > low else 0, time.monotonic())
                if wrong:
                    die(BrokerError(wrong, where=f"{self._topic}, partition {partition}"))
