"""What is kept of a run: it survives being written, and stays small."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.processors.budgets import NEVER, NO_LIMITS
from agentledger.processors.run_places import is_of_run
from agentledger.processors.run_state import (
    PRODUCERS_MAX,
    DeclaredLimit,
    RunState,
    SeenEvents,
    deadline_of,
    decode_state,
    encode_state,
    folded_up_to,
)
from agentledger.schemas.errors import CodecError
from tests.run_logs import folded, interleaved, some_run


def id_hash(number: int) -> str:
    return f"0000-{number:012x}"


@given(st.integers(0, 2**32))
def test_state_comes_back_as_it_was_written(seed: int) -> None:
    rng = random.Random(seed)
    states = folded(interleaved([some_run(number, rng) for number in range(3)], rng)).states
    for key, value in states.items():
        if not is_of_run(key):
            continue
        state = decode_state(value)
        assert encode_state(state, deadline_of(value)) == value
        assert folded_up_to(value) == state.last_offset


@pytest.mark.parametrize(
    ("workflow", "limit", "line"),
    [("refunds", 7, 8), ("r\u00fcckgabe \ud83d", 7, 8), ("refunds", 2**70, 8), ("refunds", 7, NEVER)],
)
def test_a_state_with_names_and_numbers_that_are_wrong_comes_back_too(workflow: str, limit: int, line: int) -> None:
    state = RunState("t", "r", base_event_id="", last_offset=3, last_time_us=5)
    state.workflow, state.limits = workflow, [limit, *NO_LIMITS[1:]]
    state.declared = [DeclaredLimit("b", 1, "d", limit, [50], "halt", 0, line, False)]
    found = decode_state(encode_state(state, 9))
    assert (found.workflow, found.limits, found.declared) == (workflow, state.limits, state.declared)


@pytest.mark.parametrize("value", [b"", b"\x00", b"\x01" + b"\x00" * 20])
def test_state_of_another_version_is_refused(value: bytes) -> None:
    with pytest.raises(CodecError, match="state version"):
        decode_state(value)


@given(st.lists(st.integers(0, 30), max_size=60))
def test_recent_ids_are_known_exactly(numbers: list[int]) -> None:
    seen = SeenEvents(recent=100)
    first: set[int] = set()
    for number in numbers:
        assert seen.add(id_hash(number), "p", 100 - number) == (number not in first)
        first.add(number)


def test_old_ids_are_known_by_the_sequence_of_their_producer() -> None:
    seen = SeenEvents(recent=4)
    assert all(seen.add(id_hash(number), "p", number) for number in range(20))
    assert not any(seen.add(id_hash(number), "p", number) for number in range(20))
    assert seen.add(id_hash(20), "p", 20)
    assert seen.add(id_hash(21), "another", 0)


def test_the_documented_error_is_the_only_one() -> None:
    """An event of a producer's past that comes for the first time after two full generations is taken for known."""
    seen = SeenEvents(recent=4)
    for number in (0, 1, 3, 4, 5, 6):
        seen.add(id_hash(number), "p", number)
    assert seen.add(id_hash(2), "p", 2)
    for number in range(7, 17):
        seen.add(id_hash(number), "p", number)
    assert not seen.add(id_hash(99), "p", 2)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 150)), max_size=300))
def test_the_memory_of_ids_is_bounded_and_survives_being_written(adds: list[tuple[int, int]]) -> None:
    seen = SeenEvents(recent=8)
    for number, producer in adds:
        seen.add(id_hash(number), f"p{producer}", number)
        head, ids = seen.dump()
        assert len(ids) <= 2 * 8 * 8
        assert all(len(marks) <= PRODUCERS_MAX for marks in head[:3])
        seen = SeenEvents.load(head, ids, recent=8)
        assert seen.dump() == (head, ids)
