"""Records come back from a real ClickHouse as they were written: whole, in order, in windows, by filter."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

import pytest

from agentledger.infra.replay_wiring import LedgerWiring
from agentledger.schemas.errors import LedgerConflictError, StoreError, UsageError
from agentledger.schemas.events import Ticked
from agentledger.schemas.topics import EVENTS, SPEND
from agentledger.sinks.record_filter import RecordFilter
from agentledger.sinks.replay_source import ALL_TIME, LedgerRecord, LogSpan, ReplaySource, Window, split_headers
from agentledger.sinks.rows import DUPLICATE
from agentledger.sinks.tables import BATCHES, LEDGER, PURGED
from tests.evidence_rig import CODEC, NOW_US, EvidenceRig, event

pytestmark = pytest.mark.integration

FLUSHES = 9


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EvidenceRig]:
    """One ClickHouse for all tests; each empties it."""
    rig = EvidenceRig(tmp_path_factory.mktemp("clickhouse"))
    rig.start()
    try:
        yield rig
    finally:
        rig.stop()


@pytest.fixture
def rig(running: EvidenceRig) -> EvidenceRig:
    """The ClickHouse, empty."""
    for table in (LEDGER, BATCHES, PURGED):
        running.command(f"TRUNCATE TABLE {table}")
    running.places.clear()
    return running


def source_of(rig: EvidenceRig) -> ReplaySource:
    return LedgerWiring(rig.url, partitions=2).source()


def filled(rig: EvidenceRig, rng: random.Random) -> dict[tuple[str, int], list[bytes | None]]:
    """Three logs with tombstones, poison and repetitions, written in several flushes; what each holds."""
    places = [rig.place(EVENTS.name, 0), rig.place(EVENTS.name, 1), rig.place(SPEND.name, 0)]
    written: dict[tuple[str, int], list[bytes | None]] = {(place.topic, place.partition): [] for place in places}
    for _ in range(FLUSHES):
        flush: dict[object, list[bytes | None]] = {}
        for place in places:
            values: list[bytes | None] = [*rig.events(rng.randint(1, 12)), None, b"no record", b""]
            values.append(values[0])
            rng.shuffle(values)
            written[place.topic, place.partition] += values
            flush[place] = values
        rig.write_all(flush)  # type: ignore[arg-type]
    return written


def read(source: ReplaySource, spans: list[LogSpan], wanted: RecordFilter = RecordFilter()) -> list[LedgerRecord]:  # noqa: B008 - frozen
    return [record for block in source.read(spans, wanted) for record in block]


@pytest.mark.parametrize("slice_rows", [7, 200_000])
def test_every_record_comes_back_whole_and_in_the_order_of_its_log(
    rig: EvidenceRig, monkeypatch: pytest.MonkeyPatch, slice_rows: int
) -> None:
    monkeypatch.setattr("agentledger.sinks.replay_source.SLICE_ROWS", slice_rows)
    written = filled(rig, random.Random(1))
    source = source_of(rig)
    spans = source.spans()
    found: dict[tuple[str, int], list[LedgerRecord]] = {}
    for record in read(source, spans):
        found.setdefault((record.topic, record.partition), []).append(record)
    assert found.keys() == written.keys()
    for place, records in found.items():
        assert [record.value for record in records] == written[place]
        assert [record.log_index for record in records] == list(range(len(records)))
        assert [record.offset for record in records] == sorted(record.offset for record in records)
        assert DUPLICATE in {record.occurrence for record in records}
    assert source.count(spans) == sum(len(values) for values in written.values())
    sent = [one for block in source.read_sent(spans) for one in block]
    assert [one.record for one in sent] == read(source, spans)
    assert {one.key for one in sent} == {b"run"}
    assert split_headers(sent[0].headers) == [("h", b"\x00")]


def test_a_range_of_time_is_one_part_of_each_log(rig: EvidenceRig) -> None:
    filled(rig, random.Random(2))
    source = source_of(rig)
    everything = read(source, source.spans([EVENTS.name]))
    from_us, to_us = NOW_US + 20_000, NOW_US + 60_000
    inside = [record for record in everything if from_us <= record.ledger_time_us < to_us]
    assert 0 < len(inside) < len(everything)
    spans = source.spans([EVENTS.name], from_us=from_us, to_us=to_us)
    assert read(source, spans) == sorted(inside, key=lambda record: (record.partition, record.log_index))
    assert source.spans([EVENTS.name], from_us=NOW_US + 10**12) == []


def test_filters_leave_out_what_is_not_wanted(rig: EvidenceRig) -> None:
    place = rig.place(EVENTS.name, 0)
    ours = [replace(event(number), tenant_id="ours", run_id=f"r{number % 2}") for number in range(6)]
    tick = Ticked(event_id=event(50).event_id, tenant_id="", producer_id="ticker", producer_seq=0, run_id="tick",
                  occurred_at=NOW_US)  # fmt: skip
    rig.write(place, [CODEC.encode(one) for one in (*ours, event(60), tick)])
    source = source_of(rig)
    spans = source.spans()

    def ids(wanted: RecordFilter) -> list[str]:
        assert source.count(spans, wanted) == len(read(source, spans, wanted))
        return [CODEC.decode(record.value).event_id for record in read(source, spans, wanted)]

    assert ids(RecordFilter(tenant_id="ours")) == [one.event_id for one in ours]
    assert ids(RecordFilter(tenant_id="ours", with_ticks=True)) == [*(one.event_id for one in ours), tick.event_id]
    assert ids(RecordFilter(tenant_id="ours", run_id="r1")) == [one.event_id for one in ours[1::2]]
    assert ids(RecordFilter(event_types=("Ticked",))) == [tick.event_id]
    assert ids(RecordFilter(producer_prefixes=("tick", "x"))) == [tick.event_id]
    assert ids(RecordFilter(occurred_from_us=NOW_US + 1)) == []
    assert len(ids(RecordFilter(occurred_before_us=NOW_US + 1))) == 8
    assert source.partitions(spans, RecordFilter(run_id="r1")) == {0}
    assert source.partitions(spans, RecordFilter(run_id="none")) == set()
    assert source.first_us([EVENTS.name]) == NOW_US


@pytest.mark.parametrize("what", ["removed", "removed at the end", "doubled"])
def test_a_log_with_a_hole_is_refused(rig: EvidenceRig, what: str) -> None:
    rig.write(rig.place(EVENTS.name, 0), list(rig.events(20)))
    index = 19 if what == "removed at the end" else 7
    if what == "doubled":
        rig.command(f"INSERT INTO {LEDGER} SELECT * FROM {LEDGER} WHERE log_index = {index}")
    else:
        rig.command(f"ALTER TABLE {LEDGER} DELETE WHERE log_index = {index}")
    source = source_of(rig)
    spans = [LogSpan(rig.place(EVENTS.name, 0), 0, 20)]
    with pytest.raises(LedgerConflictError, match="partition 0"):
        read(source, spans)
    with pytest.raises(LedgerConflictError, match="partition 0"):
        source.check_complete(spans)


def test_a_purged_range_is_said_and_what_is_behind_it_can_be_read(rig: EvidenceRig) -> None:
    filled(rig, random.Random(3))
    [[last_us]] = rig.rows(
        f"SELECT toUnixTimestamp64Micro(max(ledger_time)) FROM {LEDGER} WHERE topic = '{EVENTS.name}' "
        "AND partition = 0 AND log_index < 3"
    )
    gone = f"topic = '{EVENTS.name}' AND partition = 0 AND log_index < 3"
    rig.command(
        f"INSERT INTO {PURGED} SELECT topic_id, partition, log_index, ledger_time, leaf_hash FROM {LEDGER} WHERE {gone}"
    )
    rig.command(f"ALTER TABLE {LEDGER} DELETE WHERE {gone} SETTINGS mutations_sync = 2")
    source = source_of(rig)
    with pytest.raises(UsageError, match="3 records of this range were purged") as failed:
        source.spans([EVENTS.name])
    said = datetime.fromisoformat(str(failed.value).rpartition("--from ")[2])
    from_us = round(said.timestamp() * 1e6)
    assert last_us < from_us <= last_us + 1_000_000
    assert read(source, source.spans([EVENTS.name], from_us=from_us)) is not None
    assert source.spans([SPEND.name])


def test_bytes_that_have_expired_are_said(rig: EvidenceRig) -> None:
    rig.write(rig.place(EVENTS.name, 0), list(rig.events(4)))
    rig.command(f"ALTER TABLE {LEDGER} UPDATE raw = '' WHERE log_index = 2")
    source = source_of(rig)
    with pytest.raises(StoreError, match="index 2"):
        read(source, source.spans())


def test_a_wrong_column_is_found_and_no_right_one(rig: EvidenceRig) -> None:
    filled(rig, random.Random(4))
    wiring = LedgerWiring(rig.url, partitions=2)
    spans = wiring.source().spans()
    assert wiring.wrong_columns(spans, ALL_TIME) == []
    assert wiring.wrong_columns([], ALL_TIME) == []
    [[index]] = rig.rows(f"SELECT max(log_index) FROM {LEDGER} WHERE topic = '{SPEND.name}' AND event_type != ''")
    one = f"topic = '{SPEND.name}' AND log_index = {index}"
    for column in ("workflow", "rule_version"):  # one that its record has, and one that only others have
        rig.command(f"ALTER TABLE {LEDGER} UPDATE {column} = 'other' WHERE {one}")
        [wrong] = wiring.wrong_columns(spans, ALL_TIME)
        assert (wrong.place, wrong.log_index) == (spans[-1].place, index)
        assert ("column workflow" in wrong.text) == (column == "workflow")
        rig.command(f"ALTER TABLE {LEDGER} UPDATE {column} = '' WHERE {one}")
    [[time_us]] = rig.rows(f"SELECT toUnixTimestamp64Micro(ledger_time) FROM {LEDGER} WHERE {one}")
    rig.command(f"ALTER TABLE {LEDGER} UPDATE step = 77 WHERE {one}")
    assert wiring.wrong_columns(spans, Window(0, time_us - 1)) == []
    assert [wrong.log_index for wrong in wiring.wrong_columns(spans, Window(time_us - 1, time_us))] == [index]
