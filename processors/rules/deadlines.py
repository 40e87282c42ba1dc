"""When something is due in a run without any event of it, per source partition. Rebuilt from the runs' states."""

from __future__ import annotations

from heapq import heappop, heappush

RUNS_MAX = 1_000_000  # some 200 MB; runs beyond that are noted again with their next event


class Deadlines:
    """Runs by the time at which they are to be looked at, in microseconds of ledger time.

    A run may be looked at too early, never too late: what is noted is a lower bound of its deadline, so that most
    events of a run need not touch it.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, bytes]] = []
        self._known: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def has(self, key: bytes) -> bool:
        """True where the run will be looked at."""
        return key in self._known

    def note(self, key: bytes, at_us: int | None) -> None:
        """Look at the run at this time, or before. None: nothing is due (what was noted before stays)."""
        if at_us is None:
            return
        known = self._known.get(key)
        if known is not None and known <= at_us:
            return
        if known is None and len(self._known) >= RUNS_MAX:
            return
        self._known[key] = at_us
        heappush(self._heap, (at_us, key))

    def first_us(self) -> int | None:
        """When a look at `take_due` is worth it; None: never."""
        return self._heap[0][0] if self._heap else None

    def is_due(self, now_us: int) -> bool:
        """True where a look at `take_due` is worth it."""
        return bool(self._heap) and self._heap[0][0] <= now_us

    def take_due(self, now_us: int) -> list[bytes]:
        """The runs to look at now, in the order of their keys: a restart doesn't change it. They are forgotten."""
        due: list[bytes] = []
        while self._heap and self._heap[0][0] <= now_us:
            at_us, key = heappop(self._heap)
            if self._known.get(key) == at_us:
                del self._known[key]
                due.append(key)
        return sorted(due)

    def clear(self) -> None:
        """Forget all of them."""
        self._heap.clear()
        self._known.clear()
