"""Readers of a few fields: they say what the codec says, or nothing at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentledger.processors.conclusions import origin_of
from agentledger.processors.run_places import LiveRun
from agentledger.processors.run_reading import FIRST_FIELD, READ, READS_TICKS, REPEATED, RunReading, memo_of_run
from agentledger.processors.run_state import id_tail
from agentledger.processors.runs import Entry, new_state
from agentledger.schemas.catalogue import current_schemas
from agentledger.schemas.codec import HEADER_BYTES, Codec
from agentledger.schemas.decoding import compile_reader, new_memo, read_long
from agentledger.schemas.encoding import LONG
from agentledger.schemas.errors import CodecError, SchemaError
from agentledger.schemas.events import Event, RunFinished
from agentledger.schemas.identity import uuid7
from agentledger.schemas.registry import open_registry
from tests.bench.sample import sample_events
from tests.strategies import any_event, events_of

CODEC = Codec(open_registry())
KINDS = sorted(READ, key=lambda kind: kind.__name__)
HEAD_FIELDS = ("event_id", "tenant_id", "producer_id", "producer_seq", "run_id")


def read(reading: RunReading, value: bytes) -> Event | None:
    reader = reading.reader(value)
    assert reader is not READS_TICKS
    return None if reader is None or not reading.head(value) else reading.rest(reader, value, memo_of_run(), None)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=60)
@given(data=st.data())
def test_what_is_read_is_what_the_codec_reads(kind: type[Event], data: st.DataObject) -> None:
    reading = RunReading(CODEC)
    for event in data.draw(st.lists(events_of(kind.__name__), min_size=1, max_size=3)):
        found = read(reading, CODEC.encode(event))
        if found is not None:
            for name in (*HEAD_FIELDS, *READ[kind]):
                assert getattr(found, name) == getattr(event, name), name
            assert reading.origin(CODEC.encode(event)) == origin_of(event)
            assert reading.tail in ("", id_tail(event.event_id))


def test_what_is_ordinary_is_read_without_the_codec_and_repeated_parts_are_kept() -> None:
    reading, runs = RunReading(CODEC), {}
    for event in sample_events(400):
        value = CODEC.encode(event)
        reader = reading.reader(value)
        assert reader is not None
        assert reading.head(value)
        live = runs.setdefault(reading.place, LiveRun(new_state(Entry(0, 0, event))))
        found = reading.rest(reader, value, live.memo, live.state)
        assert type(found) is type(event)
        for name in (*HEAD_FIELDS, *READ[type(event)]):
            assert getattr(found, name) == getattr(event, name), name


@pytest.mark.parametrize(
    ("plain", "longer"), [(b"run-1\x06", b"run-1\x86\x00"), (b"\x06ttt", b"\x86\x00ttt"), (b"\x06sss", b"\x86\x00sss")]
)
def test_an_origin_that_is_written_too_long_is_read_by_the_codec_and_not_copied(plain: bytes, longer: bytes) -> None:
    event = RunFinished(
        event_id=uuid7(1), tenant_id="t", producer_id="p", producer_seq=0, run_id="run-1", step=3, trace_id="ttt",
        span_id="sss", occurred_at=1,
    )  # fmt: skip
    value = CODEC.encode(event)
    assert read(RunReading(CODEC), value) is not None
    assert value.count(plain) == 1
    too_long = value.replace(plain, longer)
    assert CODEC.decode(too_long) == event
    assert read(RunReading(CODEC), too_long) is None


@given(any_event(), st.data())
def test_a_cut_body_is_never_read(event: Event, data: st.DataObject) -> None:
    value = CODEC.encode(event)
    reading = RunReading(CODEC)
    if reading.reader(value) is not READS_TICKS:
        assert read(reading, value[: data.draw(st.integers(0, len(value) - 1))]) is None
        assert read(reading, value + b"\x00") is None


@settings(max_examples=400)
@given(st.sampled_from(KINDS).flatmap(lambda kind: events_of(kind.__name__)), st.data())
def test_changed_bytes_give_what_the_codec_gives_or_nothing(event: Event, data: st.DataObject) -> None:
    """But for text that nobody reads, which isn't looked into."""
    value = bytearray(CODEC.encode(event))
    value[data.draw(st.integers(HEADER_BYTES, len(value) - 1))] = data.draw(st.integers(0, 255))
    found = read(RunReading(CODEC), bytes(value))
    if found is None:
        return
    expected: Event | None
    try:
        expected = CODEC.decode(bytes(value))
    except CodecError as refused:
        error = str(refused)
        expected = None
    if expected is None:
        assert "UnicodeDecodeError" in error
        return
    for name in (*HEAD_FIELDS, *READ[type(event)]):
        assert getattr(found, name) == getattr(expected, name), name


@given(st.integers(-(2**62), 2**62 - 1))
def test_numbers_of_up_to_nine_bytes_are_read(number: int) -> None:
    assert read_long(LONG[number] + b"\x01", 0) == (number, len(LONG[number]))


def test_a_number_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="nine bytes"):
        read_long(b"\xff" * 20, 0)


def test_a_reader_of_a_field_that_is_not_there_is_refused() -> None:
    with pytest.raises(SchemaError, match="no field colour"):
        compile_reader(current_schemas()["RunFinished"], RunFinished, FIRST_FIELD, ["colour"], REPEATED)
    assert new_memo(REPEATED) == memo_of_run()
