"""Partials: what stage 1 says is the same from any restart, and reads back as it was written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.processors.partial_records import (
    PARTIAL,
    WATERMARK,
    Partial,
    decode_partial,
    encode_partial,
    encode_watermark,
    group_fields,
    group_of,
    json_of,
    read_head,
)
from agentledger.processors.partial_sums import SeqSum, TenantSums
from agentledger.processors.partials import EVENTS_PER_PART_MAX, Partials
from agentledger.processors.scopes import joined
from agentledger.processors.watermarks import Waiting, WaitingRoom, Watermarks
from agentledger.schemas.errors import CodecError
from agentledger.schemas.events import ModelCallCompleted, ToolCallCompleted
from tests.run_logs import T0_US
from tests.scope_rig import Happened, happened, stage1, tick

names = st.text(max_size=8)


@given(names, names, names, st.dictionaries(names, names, max_size=3), names)
def test_a_group_says_what_it_was_made_of(
    agent: str, workflow: str, user: str, labels: dict[str, str], environment: str
) -> None:
    group = group_of(agent, workflow, user, labels, environment)
    assert group_fields(group) == (agent, workflow, user, labels, environment)
    assert group == group_of(agent, workflow, user, dict(reversed(labels.items())), environment)


def test_heads_and_watermarks_read_back() -> None:
    assert read_head(encode_watermark(3, 17)) == (WATERMARK, 3, 17, 0)
    value = encode_partial(2, 18, 1, TenantSums(Partial("acme", 5)).listed())
    assert read_head(value) == (PARTIAL, 2, 18, 1)
    assert decode_partial(value) == Partial("acme", 5)


@pytest.mark.parametrize("value", [b"", b"\x00" * 30, b"\x02" + b"\x00" * 30])
def test_other_bytes_are_refused(value: bytes) -> None:
    with pytest.raises(CodecError):
        read_head(value)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b"[1,2,3,4,5,6,7,8,9]"])
def test_a_broken_body_is_refused(body: bytes) -> None:
    with pytest.raises(CodecError):
        decode_partial(encode_watermark(0, 0) + body)


def test_a_state_of_another_release_is_refused() -> None:
    partials = Partials(1)
    with pytest.raises(CodecError, match="version"):
        partials.load(0, b"\x07whatever")


def wide(count: int) -> list[Happened]:
    """Many calls within one second, each of a tool of its own with a long name."""
    return [
        happened(number % 900, kind=ToolCallCompleted, tool=f"{number}" * 60, producer_seq=number, latency_ms=1.0)
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [2000, EVENTS_PER_PART_MAX + 5])
def test_a_full_second_is_told_in_parts_that_add_up(count: int) -> None:
    same = [happened(5, 7, producer_seq=number) for number in range(count)]
    for log in (sorted(wide(count), key=lambda record: record.time_us), same):
        sent = [record.value for record in stage1([*log, tick(2000)], 0, partitions=1)]
        parts = [value for value in sent if read_head(value).kind == PARTIAL]
        assert [read_head(value).part for value in parts] == list(range(len(parts)))
        assert all(len(value) < 1_000_000 for value in sent)
        total = joined([decode_partial(value) for value in parts])
        assert total.events == count
        assert sum(calls[0] for calls in (*total.tools.values(), *total.models.values())) == count


def test_events_up_to_the_dumped_offset_are_counted_once() -> None:
    call = happened(0, 5).event
    partials = Partials(1)
    partials.load(0, None)
    partials.pass_time(0, T0_US)
    for offset in (0, 1, 2):
        partials.count(0, offset, call, "g", cost_nanousd=5)
    state = partials.dump(0, 2)
    again = Partials(1)
    again.load(0, state)
    again.pass_time(0, T0_US)
    for offset in (0, 1, 2, 3):
        again.count(0, offset, call, "g", cost_nanousd=5)
    again.pass_time(0, T0_US + 1_000_000)
    told = [decode_partial(record.value) for record in again.take_closed() if record.key == b"acme"]
    assert [partial.usage["g"][0] for partial in told] == [20]
    assert isinstance(call, ModelCallCompleted)


def test_what_waits_is_given_out_by_second_tenant_and_source() -> None:
    room, marks = WaitingRoom(), Watermarks(2)
    places = [Waiting(5, "b", 0, 0), Waiting(5, "a", 1, 0), Waiting(4, "b", 1, 0), Waiting(5, "a", 0, 0)]
    for place in [*places, Waiting(6, "a", 0, 0)]:
        assert room.add(place, b"")
    assert not room.add(places[0], b"")
    for source, bucket in ((0, 6), (1, 7)):
        marks.raise_to(source, bucket)
    assert marks.complete_before() == -1  # the declarations are not there yet
    marks.raise_to(-1, 6)
    assert [place for place, _ in room.take_before(marks.complete_before())] == sorted(places)
    assert room.count == 1


@given(st.lists(st.integers(-200, 400)))
def test_numbers_of_a_producer_are_noted_in_the_blocks_in_which_they_come(numbers: list[int]) -> None:
    blocks: dict[int, int] = {}
    seqs = SeqSum({})
    for number in numbers:
        block = number // 64
        assert seqs.count(number) == (block not in blocks)
        blocks[block] = blocks.get(block, 0) | 1 << number % 64
    assert list(seqs.listed().items()) == list(blocks.items())
    again = SeqSum(dict(blocks))
    assert not any(again.count(number) for number in numbers)
    assert again.listed() == blocks


anything = st.text(st.characters(exclude_categories=()), max_size=8)


@given(
    st.dictionaries(anything, st.integers(-(2**70), 2**70), max_size=3), st.dictionaries(st.integers(), st.integers())
)
def test_sums_are_written_as_the_json_of_the_standard_library(amounts: dict[str, int], slots: dict[int, int]) -> None:
    plain = json.dumps([amounts, slots], separators=(",", ":"), ensure_ascii=False)
    assert json_of([amounts, slots]) == plain.encode("utf-8", "surrogatepass")
