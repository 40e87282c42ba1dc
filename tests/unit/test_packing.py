"""Packed messages: what goes in comes out, and damage is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.processors.packing import PackedRecord, pack, unpack
from agentledger.schemas.errors import CodecError

records = st.one_of(
    st.builds(
        PackedRecord,
        st.integers(0, 2**63 - 1),
        st.integers(-1, 2**62),
        st.none() | st.binary(max_size=300),
        st.just(False),
    ),
    st.builds(PackedRecord, st.integers(0, 2**63 - 1), st.integers(-1, 2**62), st.none(), st.just(True)),
)


@given(st.lists(records, max_size=30))
def test_packing_keeps_every_record_in_order(packed: list[PackedRecord]) -> None:
    assert unpack(pack(packed)) == packed


@given(st.lists(records, min_size=1, max_size=5), st.data())
def test_a_cut_message_is_refused_or_ends_between_two_records(packed: list[PackedRecord], data: st.DataObject) -> None:
    message = pack(packed)
    cut = message[: data.draw(st.integers(0, len(message) - 1))]
    try:
        assert unpack(cut) == packed[: len(unpack(cut))]
    except CodecError:
        return
    assert any(pack(packed[:count]) == cut for count in range(len(packed)))


@pytest.mark.parametrize("message", [b"", b"\x02", b"\x01\x00", pack([]) + b"\xff" * 19 + b"\xfd"])
def test_what_is_no_packed_message_is_refused(message: bytes) -> None:
    with pytest.raises(CodecError):
        unpack(message)


def test_the_bytes_are_those_of_the_documented_format() -> None:
    message = pack([PackedRecord(7, 1000, b"ab"), PackedRecord(8, 1001, None), PackedRecord(9, 1002, None, True)])
    assert message.hex() == (
        "01"
        "0000000000000007" "00000000000003e8" "00000002" "6162"
        "0000000000000008" "00000000000003e9" "ffffffff"
        "0000000000000009" "00000000000003ea" "fffffffe"
    )  # fmt: skip
