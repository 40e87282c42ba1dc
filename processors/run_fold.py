"""The fold over packed records: finds each event's run, folds it in, and knows which states have changed.

Works on bytes in and bytes out and does no input or output of its own, so the worker and the tests run the same code.

Time is that of the ledger: the highest append time of the partition so far. A run is looked at (for what follows from
silence, and for being forgotten) in the first record of its partition whose second lies at or after the run's deadline,
whatever that record is. So it follows from the log alone, and a redelivered record asks again only of runs whose state
isn't stored yet.

What belongs to a partition as a whole (its open bucket of partials, what is normal for its workflows, what was declared
for each run) is written before the states of its runs: see `partials`, `rules.normals` and `run_budget_book`.
"""

from __future__ import annotations

import logging
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from agentledger.processors.conclusions import NO_CAUSE, ConclusionWriter, DerivedRecord, origin_of
from agentledger.processors.packing import Entries, PackedRecord
from agentledger.processors.partials import Partials
from agentledger.processors.rules.normals import EPOCH_US, Normals
from agentledger.processors.rules.run_rules import RunRules
from agentledger.processors.run_budget_book import RunBudgetBook
from agentledger.processors.run_budgets import clock_deadline_us
from agentledger.processors.run_places import (
    CLOCK_KEY,
    NORMALS_KEY,
    PARTIALS_KEY,
    SECOND_US,
    LiveRun,
    PlaceClock,
    SourcePlace,
    budgets_key,
    is_of_run,
    partition_and_place,
    stored_key,
)
from agentledger.processors.run_reading import READS_TICKS, RunReading, memo_of_run, place_of
from agentledger.processors.run_state import (
    FORGOTTEN_KEPT_US,
    RUN_KEPT_US,
    RunState,
    deadline_of,
    decode_state,
    encode_forgotten,
    encode_state,
    is_forgotten,
)
from agentledger.processors.runs import Basis, Entry, fold, is_foldable, is_over, may_be_halted, new_state, pass_time
from agentledger.schemas.codec import Codec
from agentledger.schemas.control import RUN_OWNERS, control_key
from agentledger.schemas.decoding import Memo
from agentledger.schemas.errors import CodecError, UnknownSchemaError
from agentledger.schemas.events import ApprovalDecided, Event, RunBudgetDeclared, RunStarted
from agentledger.schemas.ports import PriceBook
from agentledger.schemas.topics import CONTROL

LIVE_RUNS_MAX = 20_000  # runs kept decoded between batches: 3 to 8 kB each, so at most some 150 MB
SKIPS_LOGGED = 10  # skipped records logged one by one; after that each power of ten
_FIRST_TIME: Final = struct.Struct(">q").unpack_from  # of a packed message, at 9: see `packing`

log = logging.getLogger(__name__)

__all__ = ["DerivedRecord", "RunFold", "StateRecord"]


def microseconds(time_ms: int) -> int:
    """A time in milliseconds in microseconds. In halves: compiled code computes products of small numbers quickly."""
    return (((time_ms >> 20) * 1000) << 20) + (time_ms & 0xFFFFF) * 1000


class StateRecord(NamedTuple):
    """One new state, ready for the changelog; None removes it. A run's key names partition, tenant and run."""

    partition: int
    key: bytes
    value: bytes | None


class _Moment(NamedTuple):
    """A record that brings a new second, and the run whose event it is, if any."""

    offset: int
    now_us: int
    own: bytes


def _nothing_stored() -> Iterable[tuple[bytes, bytes]]:
    return ()


class RunFold:
    """Folds records into runs. `load` gives the stored state of a key, or None; `stored` every key with its state.

    `partitions` is the partition count of the topics; None: no partials are made. `rules` may hold any anomaly rules:
    those on a run are used.
    """

    def __init__(
        self,
        codec: Codec,
        prices: PriceBook,
        load: Callable[[bytes], bytes | None],
        *,
        partitions: int | None = None,
        rules: Iterable[object] = (),
        stored: Callable[[], Iterable[tuple[bytes, bytes]]] = _nothing_stored,
    ) -> None:
        self._reading = RunReading(codec)
        self._writer = ConclusionWriter(codec)
        self._prices = prices
        self._rules = RunRules(rules)
        self._load = load
        self._stored = stored
        self._partitions = partitions
        self._partials = None if partitions is None else Partials(partitions)
        self._places: dict[int, SourcePlace] = {}
        self._due: dict[int, list[tuple[bytes, int]]] | None = None
        self.folded = 0
        self.skipped: Counter[str] = Counter()

    def take_packed(self, partition: int, message: bytes) -> list[DerivedRecord]:
        """Fold the records of a packed message in; what follows from them, encoded, in order."""
        derived: list[DerivedRecord] = []
        place = self._places.get(partition) or self._open(partition)
        entries = Entries(message)
        while entries.take_next():
            self._take(place, entries.offset, entries.timestamp_ms, entries.value, derived, oversized=entries.oversized)
        if self._partials is not None:
            derived += self._partials.take_closed()
        return derived

    def take(self, partition: int, record: PackedRecord) -> list[DerivedRecord]:
        """Fold one record in; what follows from it, encoded, in order. A record that can't be read is skipped."""
        derived: list[DerivedRecord] = []
        place = self._places.get(partition) or self._open(partition)
        offset, timestamp_ms, value, oversized = record
        self._take(place, offset, timestamp_ms, value, derived, oversized=oversized)
        if self._partials is not None:
            derived += self._partials.take_closed()
        return derived

    def must_settle(self, partition: int, message: bytes | None) -> bool:
        """True where what was folded must be stored before this packed message is.

        What is normal for workflows is stored for each epoch in which the batch asks for it, so that the batch can be
        folded again: no more than two fit into a record. The packer's messages don't reach over epochs themselves.
        """
        place = self._places.get(partition)
        if place is None or not place.is_touched or message is None or len(message) < 17:
            return False
        return bool(_FIRST_TIME(message, 9)[0] * 1000 // EPOCH_US > place.batch_epoch + 1)

    def take_changed(self) -> list[StateRecord]:
        """The state of each run touched since the last call, also where a replay left it as it was."""
        changed: list[StateRecord] = []
        for place in self._places.values():
            if place.is_touched:
                self._store(place, changed)
        return changed

    def forget(self) -> None:
        """Drop what is kept in memory: another worker may have gone on with these runs."""
        self._places.clear()
        self._due = None
        if self._partials is not None:
            self._partials.forget()

    def _take(
        self,
        place: SourcePlace,
        offset: int,
        timestamp_ms: int,
        value: bytes | None,
        derived: list[DerivedRecord],
        *,
        oversized: bool,
    ) -> None:
        reading, append_us = self._reading, microseconds(timestamp_ms)
        if not place.is_touched:
            place.begin(offset, append_us)
        time_us = place.clock.pass_time(offset, append_us)
        if offset > place.last_offset:  # noqa: PLR1730 - max() takes five times as long
            place.last_offset = offset
        event: Event | None = None
        own, tail = b"", ""
        live: LiveRun | None = None
        memo: Memo | None = None
        if value is None:
            self._skip(place, offset, "oversized" if oversized else "tombstone")
        elif (reader := reading.reader(value)) is not READS_TICKS:
            if reader is not None and reading.head(value):
                own, tail = reading.place, reading.tail
                live = place.live.get(own)
                if live is None:
                    memo = memo_of_run()
                    event = reading.rest(reader, value, memo, None)
                else:
                    event = reading.rest(reader, value, live.memo, live.state)
            if event is None:
                event, own = self._read_whole(place, offset, value)
                live, tail, value = place.live.get(own), "", None
        if time_us >= place.time_due_us:
            self._pass_time(place, offset, time_us, own, derived)
            live = place.live.get(own)
        if event is None:
            return
        entry = Entry(offset, time_us, event, tail, value)
        if live is None:
            live = self._load_run(place, own, entry, memo)
            if live is None:
                self._skip(place, offset, "forgotten run")
                return
        self._fold(place, own, live, entry, derived)

    def _fold(self, place: SourcePlace, own: bytes, live: LiveRun, entry: Entry, derived: list[DerivedRecord]) -> None:
        state, event = live.state, entry.event
        used, first_seq = state.used, state.derived_seq
        cost, tokens, clock_ms = used.cost_nanousd, used.tokens, used.wall_clock_ms
        declared_at = state.declared_at
        place.touch(own, live)
        self.folded += 1
        out = fold(state, entry, place.basis)
        if out is None:
            if not live.is_noted:
                self._note(place, own, live)
            return
        is_start = type(event) is RunStarted
        if is_start:
            live.refresh()
        if self._partials is not None:
            self._partials.count(
                place.partition,
                entry.offset,
                event,
                live.context.group,
                cost_nanousd=used.cost_nanousd - cost,
                tokens=used.tokens - tokens,
                wall_clock_ms=used.wall_clock_ms - clock_ms,
                unpriced_model=entry.unpriced_model,
            )
        if out:
            origin = origin_of(event) if entry.value is None else self._reading.origin(entry.value)
            derived += self._writer.write(out, first_seq, live.envelope, origin, state.last_time_us)
        memory = state.memory
        # A run may have to be looked at earlier than before. Usage never brings that: a line of wall-clock time that is
        # crossed gives way to a later one. Nor does an alert that was raised before: seen again, it rests later.
        hurries = is_start or type(event) is ApprovalDecided or state.declared_at != declared_at
        if not live.is_noted or hurries or (out and memory.alerts) or memory.approvals or memory.awaited:
            self._note(place, own, live)

    def _read_whole(self, place: SourcePlace, offset: int, value: bytes) -> tuple[Event | None, bytes]:
        """The event and its run's place; a declaration is no run's event, and taken in at once."""
        try:
            event = self._reading.whole(value)
        except UnknownSchemaError as error:
            self._skip(place, offset, f"unknown schema: {error}")
        except CodecError as error:
            self._skip(place, offset, f"unreadable: {error}")
        else:
            if type(event) is RunBudgetDeclared:
                place.basis.budgets.declare(offset, event)
                return None, b""
            if is_foldable(event):
                return event, place_of(event.tenant_id, event.run_id)
            self._skip(place, offset, "unusable id")
        return None, b""

    def _load_run(self, place: SourcePlace, own: bytes, entry: Entry, memo: Memo | None) -> LiveRun | None:
        """The run's state, or a new one; None where the run was forgotten."""
        stored = place.replaced[own] if own in place.replaced else self._load(stored_key(place.partition, own))
        if stored is not None and is_forgotten(stored):
            return None
        place.replaced.pop(own, None)  # a mark that has run out
        place.basis.budgets.know(entry.event.tenant_id)
        state = new_state(entry) if stored is None else decode_state(stored)
        live = place.live[own] = LiveRun(state, memo, self._partitions)
        live.is_noted = place.deadlines.has(own)
        return live

    def _deadline_us(self, state: RunState) -> int:
        """When the run has to be looked at, at the latest."""
        at_us = state.last_time_us + RUN_KEPT_US
        for due_us in (self._rules.deadline_us(state, state.memory), clock_deadline_us(state)):
            if due_us is not None and due_us < at_us:
                at_us = due_us
        return at_us

    def _note(self, place: SourcePlace, own: bytes, live: LiveRun) -> None:
        place.note(own, self._deadline_us(live.state))
        live.is_noted = place.deadlines.has(own)

    def _pass_time(
        self, place: SourcePlace, offset: int, time_us: int, own: bytes, derived: list[DerivedRecord]
    ) -> None:
        if time_us >= place.closes_at_us and self._partials is not None:
            self._partials.pass_time(place.partition, time_us)
            place.closes_at_us = self._partials.closes_at_us[place.partition]
        if time_us >= place.look_at_us:
            now_us = time_us // SECOND_US * SECOND_US
            moment = _Moment(offset, now_us, own)
            for due in place.deadlines.take_due(now_us):
                self._look(place, due, moment, derived)
        place.schedule()

    def _look(self, place: SourcePlace, own: bytes, moment: _Moment, derived: list[DerivedRecord]) -> None:
        """Look at a run because it is due, or may be."""
        offset, now_us, folded_next = moment
        live = place.live.get(own)
        if live is None:
            stored = place.replaced[own] if own in place.replaced else self._load(stored_key(place.partition, own))
            if stored is None:
                return
            if is_forgotten(stored):
                self._look_at_mark(place, own, stored, now_us)
                return
            live = place.live[own] = LiveRun(decode_state(stored), None, self._partitions)
        state = live.state
        deadline_us = self._deadline_us(state)
        live.is_noted = True
        if offset <= state.last_offset or deadline_us > now_us:  # redelivered, or looked at too early
            place.deadlines.note(own, deadline_us)
            return
        if now_us >= state.last_time_us + RUN_KEPT_US:
            del place.live[own]
            place.touched.pop(own, None)
            until_us = now_us + FORGOTTEN_KEPT_US
            place.replaced[own] = encode_forgotten(offset, until_us)
            place.deadlines.note(own, until_us)
            if may_be_halted(state):  # the topic keeps the newest command of each key for good, unless it is taken away
                keys = [control_key(state.tenant_id, "run", state.run_id, owner) for owner in RUN_OWNERS]
                derived += [DerivedRecord(CONTROL.name, key, None) for key in keys]
            return
        first_seq = state.derived_seq
        conclusions = pass_time(state, self._rules, now_us)
        if conclusions:
            derived += self._writer.write(conclusions, first_seq, live.envelope, NO_CAUSE, now_us)
            place.touch(own, live)
            if own != folded_next:  # else its event is still to be folded, which says so
                state.last_offset = offset
        # Later than now also where a rule has nothing more to say: else each record would look again.
        place.deadlines.note(own, max(self._deadline_us(state), now_us + SECOND_US))

    def _look_at_mark(self, place: SourcePlace, own: bytes, mark: bytes, now_us: int) -> None:
        until_us = deadline_of(mark)
        if now_us >= until_us:
            place.replaced[own] = None
        else:
            place.deadlines.note(own, until_us)

    def _open(self, partition: int) -> SourcePlace:
        """Take a partition up from what is stored."""
        stored = self._load(stored_key(partition, NORMALS_KEY))
        normals = Normals() if stored is None else Normals.load(stored)
        clock = PlaceClock(self._load(stored_key(partition, CLOCK_KEY)))
        budgets = RunBudgetBook(lambda tenant_id: self._load(budgets_key(partition, tenant_id)))
        place = SourcePlace(partition, Basis(self._prices, self._rules, normals, budgets), clock)
        if self._partials is not None:
            self._partials.load(partition, self._load(stored_key(partition, PARTIALS_KEY)))
            place.closes_at_us = self._partials.closes_at_us[partition]
        if self._due is None:
            self._due = {}
            for key, value in self._stored():
                if is_of_run(key):
                    number, own = partition_and_place(key)
                    self._due.setdefault(number, []).append((own, deadline_of(value)))
        for own, at_us in self._due.pop(partition, ()):
            place.deadlines.note(own, at_us)
        place.schedule()
        self._places[partition] = place
        return place

    def _store(self, place: SourcePlace, changed: list[StateRecord]) -> None:
        number = place.partition
        changed.append(StateRecord(number, stored_key(number, CLOCK_KEY), place.clock.dump(place.last_offset)))
        if self._partials is not None:
            value = self._partials.dump(number, place.last_offset)
            changed.append(StateRecord(number, stored_key(number, PARTIALS_KEY), value))
        if place.normals.folded_up_to != place.normals_stored:
            place.normals_stored = place.normals.folded_up_to
            changed.append(StateRecord(number, stored_key(number, NORMALS_KEY), place.normals.dump()))
        for tenant_id, value in place.basis.budgets.take_changed():
            changed.append(StateRecord(number, budgets_key(number, tenant_id), value))
        for own, live in place.touched.items():
            state = live.state
            value = encode_state(state, self._deadline_us(state))
            changed.append(StateRecord(number, stored_key(number, own), value))
        for own, mark in place.replaced.items():
            changed.append(StateRecord(number, stored_key(number, own), mark))
        live_runs = place.live
        for own, live in place.touched.items():
            live.is_touched = False
            del live_runs[own]
            if not is_over(live.state):
                live_runs[own] = live  # at the end, so that those untouched for longest are dropped first
        kept = max(1, LIVE_RUNS_MAX // len(self._places))
        while len(live_runs) > kept:
            del live_runs[next(iter(live_runs))]
        place.touched.clear()
        place.replaced.clear()
        place.is_touched = False

    def _skip(self, place: SourcePlace, offset: int, reason: str) -> None:
        self.skipped[reason.partition(":")[0]] += 1
        count = self.skipped.total()
        if count <= SKIPS_LOGGED or str(count).strip("0") == "1":
            log.warning("skipped partition %d offset %d (%d so far): %s", place.partition, offset, count, reason[:200])
