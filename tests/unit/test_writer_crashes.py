"""The writer's law: however often it dies, and whatever is sent, the ledger is the one of an undisturbed run."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentledger.schemas import Codec, open_registry
from agentledger.schemas.errors import StoreError
from agentledger.schemas.events import Event, ModelCallCompleted, RunStarted
from agentledger.schemas.hashing import headers_digest
from agentledger.schemas.merkle import EMPTY_ROOT, hash_children, split_point
from agentledger.schemas.topics import CONTROL, EVENTS
from agentledger.sinks.batching import Batch, SourceRecord
from agentledger.sinks.dead_letters import announcements
from agentledger.sinks.flushing import GROUPS_PER_INSERT_MAX, Flusher
from agentledger.sinks.rows import CONFLICT, DUPLICATE, FIRST, LedgerRow, Load, LogPlace
from agentledger.sinks.testing import FakeLedger, FakeLedgerStore

REGISTRY = open_registry()
CODEC = Codec(REGISTRY)
NOW_US = 1_790_000_000_000_000
PLACES = [LogPlace("agentledger.events.v1", "00010203-0405-0607-0809-0a0b0c0d0e0f", partition) for partition in (0, 1)]


class CrashError(Exception):
    """The process is gone."""


class Outcome(NamedTuple):
    """What must not depend on crashes: rows by place, and what was announced."""

    rows: dict[tuple[LogPlace, int], tuple[object, ...]]
    dead_letters: set[tuple[LogPlace, int]]
    conflicts: set[tuple[LogPlace, int]]
    announced: set[tuple[object, ...]]
    batches: list[tuple[LogPlace, int]]


def event(number: int, kind: type[Event] = ModelCallCompleted, **changes: object) -> Event:
    fields: dict[str, object] = {
        "event_id": f"01a0c450-6c00-7000-8000-{number:012d}", "tenant_id": "t", "producer_id": "p",
        "producer_seq": number, "run_id": "r", "occurred_at": NOW_US,
    }  # fmt: skip
    return kind(**(fields | changes))  # type: ignore[arg-type]


def under_another_schema(value: bytes, kind: type[Event]) -> bytes:
    return b"\x00" + REGISTRY.id_of(kind.__name__).to_bytes(4, "big") + value[5:]


@st.composite
def values(draw: st.DrawFn, first_id: int) -> bytes | None:
    """A record's value: often an id that others have too, sometimes nothing that can be read."""
    ids = st.integers(first_id, first_id + 5)
    good = CODEC.encode(event(draw(ids), draw(st.sampled_from([ModelCallCompleted, RunStarted]))))
    return draw(
        st.sampled_from(
            [
                good,
                good,
                CODEC.encode(event(draw(ids), step=draw(st.integers(0, 1)))),
                good[:-1],
                good + b"\x00",
                under_another_schema(good, RunStarted),
                under_another_schema(good, ModelCallCompleted),
                CODEC.encode(event(draw(ids), parent_event_id="nobody")),
                b"\x00\x00\x00\xff\xff" + good[5:],
                b"not avro",
                None,
            ]
        )
    )


@st.composite
def logs(draw: st.DrawFn, *, share_ids: bool) -> dict[LogPlace, list[SourceRecord]]:
    """Two partitions; offsets may have holes, and the broker's clock may step back."""
    made = {}
    for place in PLACES:
        offset, records = 0, []
        for value in draw(st.lists(values(0 if share_ids else 100 * place.partition), max_size=14)):
            offset += draw(st.sampled_from([0, 0, 0, 2]))
            stamp_ms = NOW_US // 1000 + draw(st.integers(-5, 5))
            records.append(SourceRecord(place, offset, stamp_ms, b"r", None, value))
            offset += 1
        made[place] = records
    return made


def take(records: list[SourceRecord], count: int) -> tuple[list[SourceRecord], list[SourceRecord]]:
    return records[:count], records[count:]


def root_of(leaves: list[bytes]) -> bytes:
    """The root of RFC 6962, section 2.1, as it is defined there."""
    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY_ROOT
    split = split_point(len(leaves))
    return hash_children(root_of(leaves[:split]), root_of(leaves[split:]))


class Run:
    """One ledger, and writers that come and go."""

    def __init__(self, source: dict[LogPlace, list[SourceRecord]]) -> None:
        self.source = source
        self.ledger = FakeLedger()
        self.dead_letters: set[tuple[LogPlace, int]] = set()
        self.conflicts: set[tuple[LogPlace, int]] = set()
        self.announced: set[tuple[object, ...]] = set()  # a repetition has the same key and bytes
        self.steps_left: list[tuple[int, type[Exception]]] = []
        self.refused: set[bytes] = set()  # values that decode and that the store can't read all the same

    def fault(self, step: str) -> None:
        """Raise when the next planned fault is due. Also called around announcing."""
        if self.steps_left:
            count, kind = self.steps_left[0]
            if count == 0:
                self.steps_left.pop(0)
                raise kind(step)
            self.steps_left[0] = count - 1, kind

    def announce(self, batch: Batch) -> None:
        self.fault("before announcing")
        self.dead_letters |= {(row.place, row.offset) for row, _ in batch.unreadable}
        self.conflicts |= {(conflict.row.place, conflict.row.offset) for conflict in batch.conflicts}
        self.announced |= {(topic, key, value, *headers) for topic, key, value, headers in announcements(batch, CODEC)}
        self.fault("after announcing")

    def live(self, sizes: list[int]) -> None:
        """A writer's life: from where the ledger stands to the end of the logs, in flushes of these sizes."""
        store = FakeLedgerStore(self.ledger, self.fault, self.refused.__contains__)
        store.claim(PLACES, NOW_US)
        flusher = Flusher(store, REGISTRY, self.announce, lambda: NOW_US)
        waiting: list[SourceRecord] = []
        for place in PLACES:
            position = flusher.open(place)
            waiting += [record for record in self.source[place] if record.offset >= position.next_offset]
        size = itertools.cycle(sizes)
        expected = None
        records, waiting = take(waiting, next(size))
        while records:
            following, waiting = take(waiting, next(size))
            if expected is None:
                expected = flusher.prepare(records)
            prepared = flusher.prepare(following, expected) if following else None  # as the writer does meanwhile
            written = self.flush(flusher, records, expected)
            expected = prepared if written is expected else None
            records = following

    def live_on(self, faults: list[tuple[int, type[Exception]]], lives: list[list[int]]) -> None:
        """Lives one after the other until one comes to its end."""
        self.steps_left = list(faults)
        for sizes in lives:
            with contextlib.suppress(CrashError):
                self.live(sizes)
                return
        raise AssertionError("more crashes than lives")

    def flush(self, flusher: Flusher, records: list[SourceRecord], prepared: Batch | None) -> Batch:
        while True:
            try:
                return flusher.flush(records, prepared)
            except StoreError:
                prepared = None
                flusher.reopen()

    def outcome(self) -> Outcome:
        rows = {
            (item.row.place, item.row.log_index): (
                item.row.offset, item.row.ledger_time_us, item.row.occurrence, item.row.hashes, item.row.value,
                item.event_type, item.poison_reason, item.schema_id,
            )
            for item in self.ledger.rows
        }  # fmt: skip
        assert len(rows) == len(self.ledger.rows), "a place of the log is there twice"
        last = {entry.place: entry.after.next_index for entry in self.ledger.batches}
        for place in last:  # the tree that is kept is that of the rows, as each later life needs it
            leaves = sorted((index, row[3][96:]) for (row_place, index), row in rows.items() if row_place == place)
            tree = [entry.after.tree for entry in self.ledger.batches if entry.place == place][-1]
            assert tree.root() == root_of([leaf for _, leaf in leaves])
        return Outcome(rows, self.dead_letters, self.conflicts, self.announced, sorted(last.items()))


FLUSH_SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=4)
FAULTS = st.lists(st.tuples(st.integers(0, 12), st.sampled_from([CrashError, StoreError])), max_size=5)
LIVES = st.lists(FLUSH_SIZES, min_size=6, max_size=6)  # one more than there are faults


@settings(max_examples=300)
@given(logs(share_ids=False), FLUSH_SIZES, FAULTS, LIVES)
def test_crashes_at_any_step_change_nothing(
    source: dict[LogPlace, list[SourceRecord]],
    sizes: list[int],
    faults: list[tuple[int, type[Exception]]],
    later_sizes: list[list[int]],
) -> None:
    undisturbed = Run(source)
    undisturbed.live(sizes)
    disturbed = Run(source)
    disturbed.live_on(faults, later_sizes)
    assert disturbed.outcome() == undisturbed.outcome()


@given(logs(share_ids=True), FAULTS, LIVES)
def test_every_record_has_its_place_and_an_id_counts_once_over_all_logs(
    source: dict[LogPlace, list[SourceRecord]], faults: list[tuple[int, type[Exception]]], lives: list[list[int]]
) -> None:
    run = Run(source)
    run.live_on(faults, lives)
    for place, records in source.items():
        stored = sorted(
            (item for item in run.ledger.rows if item.row.place == place), key=lambda item: item.row.log_index
        )
        assert [item.row.log_index for item in stored] == list(range(len(records)))
        assert [(item.row.offset, item.row.value) for item in stored] == [(r.offset, r.value) for r in records]
        times = [item.row.ledger_time_us for item in stored]
        assert times == sorted(times)
        assert times[:1] == [record.timestamp_ms * 1000 for record in records][:1]
    readable = [item.row for item in run.ledger.rows if item.event_type]
    firsts = {row.event_id: row.value for row in readable if row.occurrence == FIRST}
    assert sorted(row.event_id for row in readable if row.occurrence == FIRST) == sorted(firsts)
    for row in readable:
        assert row.occurrence in {FIRST, DUPLICATE if row.value == firsts[row.event_id] else CONFLICT}
    assert {(row.place, row.offset) for row in readable if row.occurrence == CONFLICT} == run.conflicts
    assert {(item.row.place, item.row.offset) for item in run.ledger.rows if not item.event_type} == run.dead_letters


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.none() | st.binary()), max_size=4))
def test_the_stored_headers_are_what_was_hashed(headers: list[tuple[str, bytes | None]]) -> None:
    run = Run({place: [] for place in PLACES})
    run.source[PLACES[0]] = [SourceRecord(PLACES[0], 0, 1, b"k", headers, CODEC.encode(event(0)))]
    run.live([1])
    [item] = run.ledger.rows
    assert hashlib.sha256(item.row.headers).digest() == item.row.hashes[32:64] == headers_digest(headers)


def test_more_unreadable_records_than_one_can_count_do_not_stop_the_log() -> None:
    run = Run({place: [] for place in PLACES})
    value = CODEC.encode(event(0))[:-1]
    run.source[PLACES[0]] = [SourceRecord(PLACES[0], offset, 1, b"", None, value) for offset in range(12_000)]
    run.live([12_000])
    assert len(run.ledger.rows) == len(run.dead_letters) == 12_000


@pytest.mark.parametrize(("topic", "letters"), [(CONTROL.name, 0), (EVENTS.name, 1)])
def test_a_record_that_takes_a_command_away_is_no_dead_letter(topic: str, letters: int) -> None:
    place = PLACES[0]._replace(topic=topic)
    row = LedgerRow(place, 0, 0, 1, FIRST, b"acme\x00run\x00r", b"", b"", None, "")
    batch = Batch([], [], [], [(row, "tombstone: the record has no value")], [], {}, 1)
    assert len(announcements(batch, CODEC)) == letters


def test_a_schema_that_becomes_known_while_the_writer_is_down_is_no_conflict() -> None:
    """A flush wrote an unknown schema's record and died; its successor knows the schema, and leaves the record be."""
    first = SourceRecord(PLACES[0], 0, 1, b"", None, b"\x00\x00\x00\xff\xff" + CODEC.encode(event(0))[5:])
    run = Run({PLACES[0]: [first], PLACES[1]: []})
    run.steps_left = [(2, CrashError)]  # behind the insert, before the commit
    with contextlib.suppress(CrashError):
        run.live([1])
    assert len(run.ledger.rows) == 1
    assert not run.ledger.batches

    class Learned:
        def id_of(self, record_name: str) -> int:
            return REGISTRY.id_of(record_name)

        def schema_of(self, schema_id: int) -> dict[str, object]:
            return REGISTRY.schema_of(1 if schema_id == 0xFFFF else schema_id)

    store = FakeLedgerStore(run.ledger)
    store.claim(PLACES, NOW_US)
    flusher = Flusher(store, Learned(), run.announce, lambda: NOW_US)
    flusher.open(PLACES[0])
    flusher.flush([first])
    assert len(run.ledger.rows) == 1
    assert run.ledger.batches[-1].after.next_index == 1
    assert run.dead_letters == {(PLACES[0], 0)}


@given(st.lists(st.integers(0, 30), unique=True, max_size=4), FLUSH_SIZES, FAULTS, LIVES)
def test_a_record_that_only_clickhouse_cannot_read_is_found_alone(
    refused: list[int], sizes: list[int], faults: list[tuple[int, type[Exception]]], lives: list[list[int]]
) -> None:
    def run() -> Run:
        kinds = itertools.cycle([ModelCallCompleted, RunStarted, ModelCallCompleted])
        values = [CODEC.encode(event(number, kind)) for number, kind in zip(range(31), kinds, strict=False)]
        made = Run({place: [] for place in PLACES})
        made.source[PLACES[0]] = [SourceRecord(PLACES[0], n, 1, b"", None, value) for n, value in enumerate(values)]
        made.refused = {values[number] for number in refused}
        return made

    undisturbed, disturbed = run(), run()
    undisturbed.live(sizes)
    disturbed.live_on(faults, lives)
    assert undisturbed.dead_letters == {(PLACES[0], number) for number in refused}
    assert len(undisturbed.ledger.rows) == 31
    assert disturbed.outcome() == undisturbed.outcome()


class CountingStore(FakeLedgerStore):
    """Remembers how many groups each INSERT had."""

    def __init__(self, ledger: FakeLedger) -> None:
        super().__init__(ledger)
        self.counts: list[int] = []

    def insert(self, load: Load, batch_time_us: int, *, trial: bool = False) -> None:
        self.counts.append(len(load.groups))
        super().insert(load, batch_time_us, trial=trial)


def test_a_flush_of_many_schemas_takes_several_inserts() -> None:
    unknown = [b"\x00" + (1_000_000 + number).to_bytes(4, "big") for number in range(2 * GROUPS_PER_INSERT_MAX + 1)]
    store = CountingStore(FakeLedger())
    store.claim(PLACES, NOW_US)
    flusher = Flusher(store, REGISTRY, lambda _: None, lambda: NOW_US)
    flusher.open(PLACES[0])
    flusher.flush([SourceRecord(PLACES[0], offset, 1, b"", None, value) for offset, value in enumerate(unknown)])
    assert store.counts == [GROUPS_PER_INSERT_MAX, GROUPS_PER_INSERT_MAX, 1]
    assert len(store.ledger.rows) == len(unknown)
