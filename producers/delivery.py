"""What became of each event: counts that always add up, and the gaps that lost ones leave."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

GAPS_MAX = 1000  # holes remembered until they can be announced; beyond that they are only counted
TRIES_MAX = 3  # a broker that refuses the announcement of a gap three times will refuse the fourth


@dataclass(frozen=True, slots=True)
class DeliveryCounters:
    """A moment's count: `emitted == delivered + failed + sum(dropped.values()) + waiting`, always.

    `failed` were queued and then given up; `dropped` never got that far, by reason: queue_full, too_large, rejected.
    `gaps_unannounced` are holes in producer_seq that no GapDetected could be sent for.
    """

    emitted: int
    delivered: int
    failed: int
    dropped: Mapping[str, int]
    waiting: int
    gaps_announced: int
    gaps_unannounced: int


class EmitProblem(NamedTuple):
    """Something that did not stop the agent but that somebody should know: what kind, and what happened."""

    reason: str
    what: str


@dataclass(slots=True)
class Gap:
    """Consecutive events that were lost for one reason, from one run."""

    first_seq: int
    last_seq: int
    reason: str
    run_id: str
    tries: int = 0


class GapList:
    """The gaps still to be announced; neighbours of one run and reason are joined. Bounded; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gaps: deque[Gap] = deque()
        self.lost_count = 0  # gaps that were forgotten because the list was full or no announcement got through

    def __len__(self) -> int:
        return len(self._gaps)

    def add(self, seq: int, reason: str, run_id: str) -> None:
        """Note that this event was lost."""
        with self._lock:
            last = self._gaps[-1] if self._gaps else None
            if last is not None and last.reason == reason and last.run_id == run_id and last.tries == 0:
                if seq == last.last_seq + 1:
                    last.last_seq = seq
                    return
                if seq == last.first_seq - 1:
                    last.first_seq = seq
                    return
            self._append(Gap(seq, seq, reason, run_id))

    def take(self) -> Gap | None:
        """The oldest gap, which leaves the list."""
        with self._lock:
            return self._gaps.popleft() if self._gaps else None

    def put_back(self, gap: Gap, *, failed: bool) -> None:
        """It could not be announced: try again later, at most three times where the broker refused it."""
        with self._lock:
            gap.tries += failed
            if gap.tries >= TRIES_MAX:
                self.lost_count += 1
            elif failed:
                self._append(gap)
            else:
                self._gaps.appendleft(gap)

    def _append(self, gap: Gap) -> None:
        if len(self._gaps) >= GAPS_MAX:
            self.lost_count += 1
        else:
            self._gaps.append(gap)
