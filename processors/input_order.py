"""Which message comes next in each partition: the guard that makes Faust's delivery safe around rebalances.

Seen with faust-streaming 0.15.3: records fetched before recovery is over are dropped, and not fetched again where
nothing or only offset 0 was committed (its seek to the committed offset then does nothing), or where a rebalance falls
in between. A commit may then pass over them.
"""

from __future__ import annotations

from enum import Enum

from agentledger.schemas.errors import BrokerError

SEEK_PAUSE_S = 0.25  # what was fetched before a seek still arrives for a moment; twice as long each time
SEEK_PAUSE_S_MAX = 2.0  # so that a slow broker can answer
SEEKS_MAX = 10  # without any progress in between, 14 s: after that only a restart can help


class Place(Enum):
    """What to do with a message."""

    NEXT = "fold it in"
    LEFT_OVER = "drop it: the partition isn't ours, or not any more"
    AHEAD = "drop it, and read again from what is missing"


class InputOrder:
    """Per owned partition, the offset that has to come next at the latest. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._next: dict[int, int] = {}
        self._seeks: dict[int, tuple[int, float]] = {}

    def own(self, starts: dict[int, int]) -> None:
        """These partitions are ours and their states recovered; each goes on at its committed offset."""
        self._next = dict(starts)
        self._seeks = {}

    def disown(self) -> None:
        """No partition is ours."""
        self.own({})

    def place(self, partition: int, offset: int) -> Place:
        """Where a message stands. One from before what comes next is a redelivery: the fold knows what it has seen."""
        expected = self._next.get(partition)
        if expected is None:
            return Place.LEFT_OVER
        if offset > expected:
            self.miss(partition)
            return Place.AHEAD
        if offset == expected:
            self._next[partition] = offset + 1
            self._seeks.pop(partition, None)
        return Place.NEXT

    def positions(self) -> dict[int, int]:
        """Partition to the offset that comes next."""
        return dict(self._next)

    def miss(self, partition: int) -> None:
        """What comes next in this partition is there, and was not brought."""
        if partition in self._next:
            self._seeks.setdefault(partition, (0, 0.0))

    def missing(self) -> list[int]:
        """Partitions of which what comes next was missed, and has not come since."""
        return list(self._seeks)

    def may_seek(self, partition: int, now_s: float) -> bool:
        """True where it is time to read again from what is missing. BrokerError where that failed for good."""
        count, at_s = self._seeks.get(partition, (0, 0.0))
        if count and now_s - at_s < min(SEEK_PAUSE_S * 2 ** (count - 1), SEEK_PAUSE_S_MAX):
            return False
        if count >= SEEKS_MAX:
            raise BrokerError(
                f"Faust does not bring offset {self._next[partition]}",
                where=f"partition {partition}",
                next_step="the worker starts again from the last commit",
            )
        self._seeks[partition] = count + 1, now_s
        return True
