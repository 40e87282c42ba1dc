"""The order in which stage 2 folds what comes from many source partitions: by second of ledger time, whoever was first.

Each source says by watermarks how far it is: everything before a bucket has been said. A bucket is complete when every
source is past it; then, and not before, what it holds is given out, sorted. So any interleaving of the sources gives
the same order. A source where nothing happens is moved on by the ticks on its partition.

A source that says nothing (its worker is down, or no ticker runs) holds back everything: waiting is the price of one
order, and nothing is lost by it. The ticker program, which stands outside, raises the alert `stage_lag` then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

NOTHING_YET = -1


class Waiting(NamedTuple):
    """A record that waits for its bucket to be complete. Fields are in the order by which records are sorted.

    `source` is the number of the source partition, or DECLARATIONS; `part` tells records of one source apart.
    """

    bucket: int
    tenant_id: str
    source: int
    part: int


DECLARATIONS = -1  # as a source: sorted first, so that a budget counts from the second in which it was declared


class Watermarks:
    """How far each source is. `sources` are 0 to count - 1, and the partition's own declarations."""

    def __init__(self, sources: int, marks: Iterable[int] = ()) -> None:
        self.marks = list(marks) or [NOTHING_YET] * (sources + 1)
        if len(self.marks) < sources + 1:  # cannot happen: partition counts are fixed for good
            self.marks += [NOTHING_YET] * (sources + 1 - len(self.marks))

    def raise_to(self, source: int, bucket: int) -> bool:
        """The source has said all of every bucket before this one. True where that is news."""
        if bucket <= self.marks[source]:
            return False
        self.marks[source] = bucket
        return True

    def is_late(self, source: int, bucket: int) -> bool:
        """True for a record of a bucket that its source has said to be past: a repetition."""
        return bucket < self.marks[source]

    def complete_before(self) -> int:
        """Every bucket before this one is complete."""
        return min(self.marks)


class WaitingRoom:
    """What waits for its bucket to be complete: small values, by bucket."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[Waiting, bytes]] = {}
        self.count = 0

    def add(self, place: Waiting, value: bytes) -> bool:
        """Let it wait; False where it waits already."""
        waiting = self._buckets.setdefault(place.bucket, {})
        if place in waiting:
            return False
        waiting[place] = value
        self.count += 1
        return True

    def take_before(self, bucket: int) -> Iterator[tuple[Waiting, bytes]]:
        """Give out what lies before this bucket, in order: by bucket, tenant, source and part."""
        for ready in sorted(number for number in self._buckets if number < bucket):
            waiting = self._buckets.pop(ready)
            self.count -= len(waiting)
            for place in sorted(waiting):
                yield place, waiting[place]
