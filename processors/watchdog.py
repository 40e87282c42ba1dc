"""Ends a worker that stopped making progress: Faust can stall in silence, and only a restart helps then."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from agentledger.processors.programs import die
from agentledger.schemas.errors import BrokerError

CHECK_SECONDS = 5.0
QUERY_SECONDS = 5.0

log = logging.getLogger(__name__)


class Stall:
    """Decides from commits and ends of partitions whether progress has stopped. Times are monotonic seconds."""

    def __init__(self, stalled_after_s: float) -> None:
        self._stalled_after_s = stalled_after_s
        self._seen: dict[int, tuple[int, float]] = {}

    def check(self, partition: int, committed: int, end: int, now_s: float) -> str | None:
        """What is wrong with this partition, or None. Everything before `committed` is done, `end` comes next."""
        known = self._seen.get(partition)
        if known is None or known[0] != committed or committed >= end:
            self._seen[partition] = committed, now_s
            return None
        if now_s - known[1] < self._stalled_after_s:
            return None
        return f"no progress for {now_s - known[1]:.0f} s at offset {committed} of {end}"

    def forget(self) -> None:
        """Start anew after a change of assignment."""
        self._seen.clear()


class Watchdog(threading.Thread):
    """Compares what the worker has committed with what the broker has, over a connection of its own."""

    def __init__(self, kafka: dict[str, Any], group: str, topic: str, stalled_after_s: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._settings = {**kafka, "group.id": group, "enable.auto.commit": False}
        self._topic = topic
        self._stall = Stall(stalled_after_s)
        self._partitions: frozenset[int] = frozenset()
        self._lock = threading.Lock()

    def assigned(self, partitions: Iterable[int]) -> None:
        """These partitions are the worker's from now on."""
        with self._lock:
            self._partitions = frozenset(partitions)
            self._stall.forget()

    def run(self) -> None:
        """Look every CHECK_SECONDS; ends the process when a partition has stalled."""
        consumer = Consumer(self._settings)  # asks for offsets only: it never joins the group
        while True:
            time.sleep(CHECK_SECONDS)
            try:
                self._look(consumer)
            except KafkaException as error:
                log.warning("the watchdog got no answer: %s", error.args[0].str())

    def _look(self, consumer: Consumer) -> None:
        places = [TopicPartition(self._topic, partition) for partition in self._partitions]
        for place in consumer.committed(places, QUERY_SECONDS) if places else []:
            low, end = consumer.get_watermark_offsets(TopicPartition(self._topic, place.partition), QUERY_SECONDS)
            with self._lock:
                if place.partition not in self._partitions:
                    return  # assigned anew meanwhile
                wrong = self._stall.check(place.partition, max(place.offset, low), end, time.monotonic())
            if wrong:
                die(BrokerError(wrong, where=f"{self._topic}, partition {place.partition}"))
