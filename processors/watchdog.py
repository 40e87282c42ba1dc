"""Ends a worker that stopped making progress: Faust can stall in silence around rebalances, and a restart helps."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from agentledger.processors.offsets import GroupOffsets, Standing
from agentledger.processors.programs import die
from agentledger.schemas.errors import BrokerError

CHECK_SECONDS = 2.0

log = logging.getLogger(__name__)


class Stall:
    """Decides whether progress has stopped. Times are monotonic seconds.

    Progress of a partition is a commit; a sign of life (recovery goes on, partitions were assigned) counts for all.
    """

    def __init__(self, stalled_after_s: float) -> None:
        self._stalled_after_s = stalled_after_s
        self._seen: dict[int, tuple[int | None, float]] = {}  # None: nothing was waiting

    def check(self, partition: int, standing: Standing, alive_s: float, now_s: float) -> str | None:
        """What is wrong with this partition, or None. `alive_s` is when there was last a sign of life."""
        waiting_at = standing.done if standing.done < standing.end else None
        known = self._seen.get(partition)
        if known is None or known[0] != waiting_at or waiting_at is None:
            self._seen[partition] = waiting_at, now_s
            return None
        idle_s = now_s - max(known[1], alive_s)
        if idle_s < self._stalled_after_s:
            return None
        return f"no progress for {idle_s:.0f} s at offset {standing.done} of {standing.end}"


class Watchdog(threading.Thread):
    """Compares what the worker has committed with what the broker has, in a thread and over a connection of its own."""

    def __init__(self, offsets: GroupOffsets, stalled_after_s: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._offsets = offsets
        self._stall = Stall(stalled_after_s)
        self._partitions: frozenset[int] = frozenset()
        self._alive_s = time.monotonic()

    def assigned(self, partitions: Iterable[int]) -> None:
        """These partitions are the worker's from now on, recovered or not yet."""
        self._partitions = frozenset(partitions)
        self.alive()

    def alive(self) -> None:
        """Something went on that no commit shows."""
        self._alive_s = time.monotonic()

    def run(self) -> None:
        """Look every CHECK_SECONDS; ends the process when a partition has stalled."""
        while True:
            time.sleep(CHECK_SECONDS)
            try:
                standings = self._offsets.standing(self._partitions)
            except BrokerError as error:
                self.alive()  # nothing can go on without a broker
                log.warning("watchdog: %s", error)
                continue
            for partition, standing in standings.items():
                wrong = self._stall.check(partition, standing, self._alive_s, time.monotonic())
                if wrong and partition in self._partitions:
                    die(BrokerError(wrong, where=self._offsets.where(partition), next_step="the program starts again"))
