"""What every LedgerStore does: the fake, and a real ClickHouse."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator

import clickhouse_connect
import pytest

from agentledger.infra.stack.clickhouse import ClickHouseService
from agentledger.infra.stack.ports import free_port
from agentledger.schemas import Codec, open_registry, uuid7
from agentledger.schemas.errors import LedgerConflictError
from agentledger.schemas.events import Event, ModelCallCompleted, RunStarted
from agentledger.sinks import migrate
from agentledger.sinks.batching import Batch, Batcher, Schemas, SourceRecord
from agentledger.sinks.clickhouse_store import ClickHouseLedgerStore
from agentledger.sinks.rows import Load, LogPlace
from agentledger.sinks.store import LedgerStore, LogPosition, RowsRefusedError
from agentledger.sinks.testing import FakeLedger, FakeLedgerStore

REGISTRY = open_registry()
CODEC = Codec(REGISTRY)
NOW_US = 1_790_000_000_000_000
OpenStore = Callable[[], LedgerStore]


@pytest.fixture(scope="module")
def clickhouse_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A ClickHouse of its own, with the tables."""
    service = ClickHouseService(tmp_path_factory.mktemp("store"), free_port(), free_port())
    service.start()
    try:
        service.wait_ready(time.monotonic() + 60)
        client = clickhouse_connect.get_client(dsn=service.endpoint, autogenerate_session_id=False)
        migrate(client)
        migrate(client)  # a second time changes nothing and breaks nothing
        yield service.endpoint
    finally:
        service.stop()


@pytest.fixture(params=["fake", pytest.param("clickhouse", marks=pytest.mark.integration)])
def open_store(request: pytest.FixtureRequest) -> OpenStore:
    """Makes stores on one and the same ledger."""
    if request.param == "fake":
        ledger = FakeLedger()
        return lambda: FakeLedgerStore(ledger)
    url = request.getfixturevalue("clickhouse_url")
    return lambda: ClickHouseLedgerStore(url)


@pytest.fixture
def place() -> LogPlace:
    """A log that no other test writes."""
    return LogPlace("agentledger.events.v1", str(uuid.uuid4()), 3)


def event(seq: int, kind: type[Event] = ModelCallCompleted, **changes: object) -> Event:
    fields: dict[str, object] = {
        "event_id": uuid7(NOW_US + seq * 1000), "tenant_id": "t", "producer_id": "p", "producer_seq": seq,
        "run_id": "r", "occurred_at": NOW_US, "labels": {"ключ": "значение"},
    }  # fmt: skip
    return kind(**(fields | changes))  # type: ignore[arg-type]


def batch_of(store: LedgerStore, place: LogPlace, values: list[bytes | None]) -> Batch:
    batcher = Batcher(Schemas(REGISTRY.schema_of), store.lookup)
    position = store.position(place)
    batcher.open_log(place, position, {})
    return batcher.batch(
        SourceRecord(place, position.next_offset + number, NOW_US // 1000, b"key", [("trace", b"\xff\x00")], value)
        for number, value in enumerate(values)
    )


def write(store: LedgerStore, batch: Batch) -> None:
    store.insert(Load.of(batch.groups), NOW_US)
    store.commit(batch.entries, NOW_US, NOW_US + 1)


def test_a_new_log_stands_at_its_beginning(open_store: OpenStore, place: LogPlace) -> None:
    store = open_store()
    assert store.position(place) == LogPosition()
    assert store.unfinished(place, LogPosition()) == {}


def test_a_committed_flush_moves_the_position_and_leaves_nothing_unfinished(
    open_store: OpenStore, place: LogPlace
) -> None:
    store = open_store()
    store.claim([place], NOW_US)
    events = [event(0), event(1, RunStarted), event(2)]
    batch = batch_of(store, place, [CODEC.encode(item) for item in events] + [None])
    write(store, batch)
    position = open_store().position(place)
    assert position == batch.entries[0].after
    assert position.tree.behind == 4
    assert (position.next_offset, position.next_index) == (4, 4)
    assert store.unfinished(place, position) == {}


@pytest.mark.integration
def test_the_tree_of_a_log_is_made_of_its_rows_where_it_was_not_kept(clickhouse_url: str, place: LogPlace) -> None:
    store = ClickHouseLedgerStore(clickhouse_url)
    store.claim([place], NOW_US)
    write(store, batch_of(store, place, [CODEC.encode(event(number)) for number in range(5)]))
    kept = store.position(place)
    client = clickhouse_connect.get_client(dsn=clickhouse_url, autogenerate_session_id=False)
    there, sync = f"topic_id = '{place.topic_id}'", "SETTINGS mutations_sync = 2"
    client.command(f"ALTER TABLE agentledger.ledger_batches UPDATE tree = '' WHERE {there} {sync}")
    assert store.position(place) == kept
    client.command(f"ALTER TABLE agentledger.ledger DELETE WHERE {there} AND log_index = 2 {sync}")
    with pytest.raises(LedgerConflictError, match="rows are missing"):
        store.position(place)


def test_rows_of_an_unfinished_flush_are_found_with_what_was_known_of_them(
    open_store: OpenStore, place: LogPlace
) -> None:
    store = open_store()
    store.claim([place], NOW_US)
    batch = batch_of(store, place, [CODEC.encode(event(0)), b"poison", CODEC.encode(event(1, RunStarted))])
    store.insert(Load.of(batch.groups), NOW_US)
    found = store.unfinished(place, store.position(place))
    expected = {
        row.log_index: (row.hashes[96:], group.schema_sha256, group.poison_reason)
        for group in batch.groups
        for row in group.rows
    }
    assert {index: tuple(row) for index, row in found.items()} == expected
    assert len(found) == 3


def test_a_look_up_finds_the_first_of_an_id_and_no_unreadable_record(open_store: OpenStore, place: LogPlace) -> None:
    store = open_store()
    store.claim([place], NOW_US)
    known, unknown, cut = event(0), event(1), event(2)
    value = CODEC.encode(known)
    batcher = Batcher(Schemas(REGISTRY.schema_of), store.lookup)
    batcher.open_log(place, LogPosition(), {})
    records = [
        SourceRecord(place, n, NOW_US // 1000, b"", None, v) for n, v in enumerate((value, value, CODEC.encode(cut)))
    ]
    batcher.refuse(batcher.batch(records).groups[0].rows[2], "unreadable")
    write(store, batcher.batch(records))
    ids = [known.event_id, unknown.event_id, cut.event_id]
    [found] = store.lookup(ids)
    assert (found.event_id, found.place, found.log_index) == (known.event_id, place, 0)
    assert store.lookup([]) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value[:-1],
        lambda value: value + b"\x00",
        lambda value: value.replace("значение".encode(), b"\xc3\x28" * 8),
        lambda value: value[:42] + b"\x80\x80\x80\x80\x40" + value[43:],
        lambda value: value[:42] + b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + value[43:],
    ],
    ids=["cut", "too long", "not UTF-8", "a text of 8 GiB", "a negative length"],
)
def test_a_group_with_an_unreadable_row_is_refused_whole(
    open_store: OpenStore, place: LogPlace, spoil: Callable[[bytes], bytes]
) -> None:
    store = open_store()
    store.claim([place], NOW_US)
    values: list[bytes | None] = [CODEC.encode(event(seq)) for seq in range(200)]
    values[100] = spoil(CODEC.encode(event(100)))
    [group] = batch_of(store, place, values).groups
    for trial in (True, False):
        with pytest.raises(RowsRefusedError):
            store.insert(Load.of([group]), NOW_US, trial=trial)
    assert store.unfinished(place, LogPosition()) == {}


def test_a_reference_that_is_no_uuid_is_refused(open_store: OpenStore, place: LogPlace) -> None:
    store = open_store()
    store.claim([place], NOW_US)
    [group] = batch_of(store, place, [CODEC.encode(event(0, parent_event_id="nobody"))]).groups
    with pytest.raises(RowsRefusedError):
        store.insert(Load.of([group]), NOW_US)


def test_a_trial_writes_nothing(open_store: OpenStore, place: LogPlace) -> None:
    store = open_store()
    store.claim([place], NOW_US)
    [group] = batch_of(store, place, [CODEC.encode(event(0))]).groups
    store.insert(Load.of([group]), NOW_US, trial=True)
    assert store.unfinished(place, LogPosition()) == {}


def test_a_writer_that_was_overtaken_can_write_nothing_any_more(open_store: OpenStore, place: LogPlace) -> None:
    old, new = open_store(), open_store()
    old.claim([place], NOW_US)
    batch = batch_of(old, place, [CODEC.encode(event(0))])
    new.claim([place], NOW_US - 5)  # its clock may be behind
    with pytest.raises(LedgerConflictError):
        old.insert(Load.of(batch.groups), NOW_US)
    with pytest.raises(LedgerConflictError):
        old.commit(batch.entries, NOW_US, NOW_US)
    assert new.unfinished(place, LogPosition()) == {}
    assert new.position(place) == LogPosition()
    write(new, batch)
    assert old.position(place).next_index == 1
    old.claim([place], NOW_US)
    write(old, batch_of(old, place, [CODEC.encode(event(1))]))
    assert new.position(place).next_index == 2


def test_a_writer_that_claimed_nothing_can_write_nothing(open_store: OpenStore, place: LogPlace) -> None:
    store = open_store()
    batch = batch_of(store, place, [CODEC.encode(event(0))])
    with pytest.raises(LedgerConflictError):
        store.insert(Load.of(batch.groups), NOW_US)


def test_an_empty_commit_changes_nothing(open_store: OpenStore, place: LogPlace) -> None:
    store = open_store()
    store.commit([], NOW_US, NOW_US)
    assert store.position(place) == LogPosition()
