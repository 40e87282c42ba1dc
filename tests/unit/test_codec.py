"""The codec: what it writes is what fastavro writes, what it reads is what was written, and nothing else passes."""

from __future__ import annotations

import io

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentledger.schemas.catalogue import current_schemas
from agentledger.schemas.codec import HEADER_BYTES, Codec, without_logical_types
from agentledger.schemas.encoding import LONG, encode_long
from agentledger.schemas.errors import CodecError, UnknownSchemaError
from agentledger.schemas.events import EVENT_TYPES, Event, RunFinished
from agentledger.schemas.registry import LockEntry, LockFileRegistry, bundled_lock
from tests.strategies import any_event, as_fields, events_of

CODEC = Codec(LockFileRegistry())
PARSED = {name: fastavro.parse_schema(without_logical_types(schema)) for name, schema in current_schemas().items()}


@pytest.mark.parametrize("name", sorted(EVENT_TYPES))
@settings(max_examples=30)
@given(data=st.data())
def test_every_record_is_byte_for_byte_what_fastavro_writes(name: str, data: st.DataObject) -> None:
    event = data.draw(events_of(name))
    expected = io.BytesIO()
    fastavro.schemaless_writer(expected, PARSED[name], as_fields(event))
    assert CODEC.encode(event)[HEADER_BYTES:] == expected.getvalue()


@given(any_event())
def test_what_is_written_is_read_again(event: Event) -> None:
    assert CODEC.decode_strictly(CODEC.encode(event)) == event


@given(any_event(), st.data())
def test_a_cut_or_lengthened_body_is_refused(event: Event, data: st.DataObject) -> None:
    value = CODEC.encode(event)
    with pytest.raises(CodecError):
        CODEC.decode_strictly(value[: data.draw(st.integers(0, len(value) - 1))])
    with pytest.raises(CodecError):
        CODEC.decode_strictly(value + b"\x00")


@given(st.binary(max_size=200))
def test_random_bodies_never_do_anything_but_decode_or_be_refused(body: bytes) -> None:
    for schema_id in (1, 9, 20):
        try:
            CODEC.decode_strictly(b"\x00" + schema_id.to_bytes(4, "big") + body)
        except CodecError:
            continue


@given(st.integers(0, 63).flatmap(lambda bits: st.integers(-(2**bits), 2**bits - 1)))
def test_varints_are_those_of_the_avro_specification(number: int) -> None:
    expected = io.BytesIO()
    fastavro.schemaless_writer(expected, {"type": "long"}, number)
    assert LONG[number] == encode_long(number) == expected.getvalue()


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_numbers_beyond_64_bits_are_refused(number: int) -> None:
    with pytest.raises(OverflowError):
        encode_long(number)


def finished(**changes: object) -> RunFinished:
    fields: dict[str, object] = {
        "event_id": "018bcfe5-6800-7000-8000-000000000000",
        "tenant_id": "t",
        "producer_id": "p",
        "producer_seq": 0,
        "run_id": "r",
        "occurred_at": 1,
    }
    return RunFinished(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [{"run_id": None}, {"step": "1"}, {"duration_ms": 2**63}, {"labels": {"a": 1}}, {"status": "\ud800"}],
    ids=str,
)
def test_an_event_that_does_not_fit_its_schema_is_refused_with_its_id(changes: dict[str, object]) -> None:
    with pytest.raises(CodecError, match="018bcfe5"):
        CODEC.encode(finished(**changes))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, "tombstone"),
        (b"", "Confluent header"),
        (b"\x00\x00\x00", "Confluent header"),
        (b"\x01\x00\x00\x00\x01x", "Confluent header"),
        (b"\x00\x7f\xff\xff\xff", "no schema has the id"),
        (b"\x00\x00\x00\x00\x01\x80\x80\x80\x80\x80\x80", "not a"),  # an over-long varint that never ends
        (b"\x00\x00\x00\x00\x01\xfe\xff\xff\xff\x7f", "not a"),  # a string of 17 billion bytes
    ],
)
def test_what_is_not_an_event_is_refused(value: bytes | None, error: str) -> None:
    with pytest.raises((CodecError, UnknownSchemaError), match=error):
        CODEC.decode(value)


def test_an_over_long_varint_is_refused_strictly() -> None:
    value = CODEC.encode(finished())
    place = value.index(b"\x02t")  # the tenant's length, 1, in one byte
    padded = value[:place] + b"\x82\x00" + value[place + 1 :]
    assert CODEC.decode(padded) == finished()
    with pytest.raises(CodecError, match="shortest form"):
        CODEC.decode_strictly(padded)


def test_a_record_of_an_older_schema_is_brought_to_the_current_one() -> None:
    schema = current_schemas()["RunFinished"]
    old = {**schema, "fields": [field for field in schema["fields"] if field["name"] != "error_message"]}
    entry = LockEntry(900, "agentledger.v1.RunFinished", 0, "", old)
    codec = Codec(LockFileRegistry([*bundled_lock(), entry]))
    body = io.BytesIO()
    fields = as_fields(finished(status="failed"))
    fastavro.schemaless_writer(body, fastavro.parse_schema(without_logical_types(old)), fields)
    value = b"\x00" + (900).to_bytes(4, "big") + body.getvalue()
    assert codec.decode_strictly(value) == finished(status="failed")
