"""What the fold over runs holds of one source partition in memory, and under which keys it is stored."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final, NamedTuple

from agentledger.processors.conclusions import RunEnvelope
from agentledger.processors.partial_records import group_of
from agentledger.processors.rules.deadlines import Deadlines
from agentledger.processors.rules.normals import EPOCH_US
from agentledger.processors.run_reading import memo_of_run
from agentledger.processors.run_state import RunState
from agentledger.processors.runs import Basis
from agentledger.schemas.decoding import Memo
from agentledger.schemas.encoding import encode_map, encode_text

NEVER_US: Final = 2**63 - 1
CONTEXTS_KEPT = 1024  # mostly 1 kB each; 40 kB where names and labels are as long as they may be
SECOND_US: Final = 1_000_000
_OWN = b"\x01"  # no tenant's name begins with this size: what belongs to the partition and no run
CLOCK_KEY, PARTIALS_KEY, NORMALS_KEY = _OWN + b"clock", _OWN + b"partials", _OWN + b"normals"
_BUDGETS_KEY = _OWN + b"budgets:"
_CLOCK_VERSION = b"\x02"
_FOLDED, _MARK = struct.Struct(">q"), struct.Struct(">qq")
_PARTITION_BYTES = 4


def stored_key(partition: int, place: bytes) -> bytes:
    """The key of a state. With the partition: a run whose events were keyed wrongly has a part in each."""
    return partition.to_bytes(_PARTITION_BYTES, "big") + place


def budgets_key(partition: int, tenant_id: str) -> bytes:
    """The key of what a tenant declared for each run, as this partition knows it."""
    return stored_key(partition, _BUDGETS_KEY + tenant_id.encode("utf-8", "surrogatepass"))


def partition_and_place(key: bytes) -> tuple[int, bytes]:
    """The inverse of `stored_key`."""
    return int.from_bytes(key[:_PARTITION_BYTES], "big"), key[_PARTITION_BYTES:]


def is_of_run(key: bytes) -> bool:
    """False for what belongs to a partition as a whole."""
    return key[_PARTITION_BYTES : _PARTITION_BYTES + 1] != _OWN


class RunContext(NamedTuple):
    """What many runs have in common, as it is written: names and labels in the envelope, and the group of usage."""

    names: bytes
    labels: bytes
    group: str


class LiveRun:
    """A run's state, decoded, with what follows from it and would cost to make anew for each event."""

    __slots__ = ("context", "envelope", "is_noted", "is_touched", "memo", "partitions", "state")

    def __init__(self, state: RunState, memo: Memo | None = None, partitions: int | None = None) -> None:
        self.state = state
        self.partitions = partitions
        self.memo = memo_of_run() if memo is None else memo
        self.is_noted = False  # among the partition's deadlines
        self.is_touched = False  # among the runs that are to be stored
        self.context = context_of(state)
        self.envelope = RunEnvelope(state, self.context.names, self.context.labels, partitions)

    def refresh(self) -> None:
        """After the state's context may have changed."""
        context = context_of(self.state)
        if context is not self.context:
            self.context = context
            self.envelope = RunEnvelope(self.state, context.names, context.labels, self.partitions)


def context_of(state: RunState) -> RunContext:
    """The run's context. Kept for the next run: most are alike."""
    names = state.agent_id, state.agent_version, state.workflow, state.environment, state.actor
    return _context(names, tuple(state.labels.items()))


@lru_cache(maxsize=CONTEXTS_KEPT)
def _context(names: tuple[str, str, str, str, str], labels: tuple[tuple[str, str], ...]) -> RunContext:
    agent_id, _, workflow, environment, actor = names
    found = dict(labels)
    group = group_of(agent_id, workflow, actor, found, environment)
    return RunContext(b"".join(map(encode_text, names)), encode_map(found), group)


class PlaceClock:
    """Ledger time of one partition: the highest append time so far, as the trail has it, in microseconds.

    It has to be the same when records are folded again. So stored is what it was before the batch that is being folded,
    after it, and where batches ended that reached further before a crash: folding may go on from each of these. What
    lies before the first is settled, and whatever its records are told again changes nothing.
    """

    __slots__ = ("_ahead", "_from", "now_us")

    def __init__(self, stored: bytes | None) -> None:
        self.now_us = -NEVER_US
        self._from = (-1, -NEVER_US)  # where the batch begins, and the time before it
        self._ahead: list[tuple[int, int]] = []  # offsets still to come, and what time it is by then at least
        if stored is not None:
            self._ahead = list(_MARK.iter_unpack(stored[1 + _FOLDED.size :]))

    def begin(self, offset: int) -> None:
        """A batch begins with this record."""
        is_settled = bool(self._ahead) and offset < self._ahead[0][0]
        self._meet(offset)
        self._from = self._ahead[0] if is_settled else (offset, self.now_us)

    def pass_time(self, offset: int, time_us: int) -> int:
        """The ledger time of a record with this append time."""
        if self._ahead:
            self._meet(offset)
        if time_us > self.now_us:  # noqa: PLR1730 - max() takes five times as long
            self.now_us = time_us
        return self.now_us

    def dump(self, folded_up_to: int) -> bytes:
        """The partition's clock, for the changelog. Everything up to this offset was folded in."""
        now = (folded_up_to + 1, self.now_us)
        marks = sorted({self._from, *([now] if now[0] > self._from[0] else []), *self._ahead})
        return _CLOCK_VERSION + _FOLDED.pack(marks[-1][0] - 1) + b"".join(_MARK.pack(*mark) for mark in marks)

    def _meet(self, offset: int) -> None:
        while self._ahead and offset >= self._ahead[0][0]:
            self.now_us = max(self.now_us, self._ahead.pop(0)[1])


class SourcePlace:
    """One source partition."""

    __slots__ = (
        "basis",
        "batch_epoch",
        "clock",
        "closes_at_us",
        "deadlines",
        "is_touched",
        "last_offset",
        "live",
        "look_at_us",
        "normals",
        "normals_stored",
        "partition",
        "replaced",
        "time_due_us",
        "touched",
    )

    def __init__(self, partition: int, basis: Basis, clock: PlaceClock) -> None:
        self.partition = partition
        self.clock = clock
        self.basis = basis
        self.normals = basis.normals
        self.normals_stored = basis.normals.folded_up_to
        self.live: dict[bytes, LiveRun] = {}  # those used last come last
        self.touched: dict[bytes, LiveRun] = {}
        self.replaced: dict[bytes, bytes | None] = {}  # by a mark, or by nothing
        self.deadlines = Deadlines()
        self.last_offset = -1
        self.is_touched = False
        self.batch_epoch = -1
        self.closes_at_us = NEVER_US  # when the open bucket of the partials closes
        self.look_at_us = NEVER_US  # when a run is due
        self.time_due_us = NEVER_US  # the earlier of the two

    def touch(self, place: bytes, live: LiveRun) -> None:
        """Have the run stored with the batch."""
        if not live.is_touched:
            live.is_touched = True
            self.touched[place] = live

    def note(self, place: bytes, at_us: int) -> None:
        """Look at this run at that time, in the first record of the second after, or before."""
        self.deadlines.note(place, at_us)
        whole_us = -(-at_us // SECOND_US) * SECOND_US
        if whole_us < self.look_at_us:
            self.look_at_us = whole_us
            self.time_due_us = min(self.time_due_us, whole_us)

    def schedule(self) -> None:
        """Find out anew when something is due."""
        first_us = self.deadlines.first_us()
        self.look_at_us = NEVER_US if first_us is None else -(-first_us // SECOND_US) * SECOND_US
        self.time_due_us = min(self.closes_at_us, self.look_at_us)

    def begin(self, offset: int, time_us: int) -> None:
        """The first record of a batch."""
        self.is_touched = True
        self.batch_epoch = time_us // EPOCH_US
        self.clock.begin(max(offset, self.last_offset + 1))
