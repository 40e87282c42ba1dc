"""The guard of the input's order: whatever is dropped, left over or delivered twice, each record is folded in order."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.processors.input_order import SEEK_PAUSE_S, SEEK_PAUSE_S_MAX, SEEKS_MAX, InputOrder, Place
from agentledger.schemas.errors import BrokerError


def test_messages_of_partitions_that_are_not_owned_are_left_over() -> None:
    order = InputOrder()
    assert order.place(0, 0) is Place.LEFT_OVER
    order.own({0: 5})
    assert order.place(1, 5) is Place.LEFT_OVER
    assert order.place(0, 5) is Place.NEXT
    order.disown()
    assert order.place(0, 6) is Place.LEFT_OVER


def test_going_back_is_a_redelivery_and_jumping_ahead_a_loss() -> None:
    order = InputOrder()
    order.own({0: 5})
    places = [order.place(0, offset) for offset in (3, 6, 5, 7, 6, 2, 7)]
    ahead, is_next = Place.AHEAD, Place.NEXT
    assert places == [is_next, ahead, is_next, ahead, is_next, is_next, is_next]
    assert order.positions() == {0: 8}


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), max_size=80))
def test_law_nothing_is_folded_before_everything_ahead_of_it(arrivals: list[tuple[int, int]]) -> None:
    order = InputOrder()
    order.own({0: 0, 1: 3})
    folded: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for partition, offset in arrivals:
        if order.place(partition, offset) is Place.NEXT:
            folded[partition].append(offset)
    assert folded[2] == []
    for partition, start in ((0, 0), (1, 3)):
        first_times = [offset for offset in dict.fromkeys(folded[partition]) if offset >= start]
        assert first_times == list(range(start, order.positions()[partition]))


def test_seeks_come_further_and_further_apart_and_end_when_they_do_not_help() -> None:
    order = InputOrder()
    order.own({0: 5})
    now_s, sought_s = 100.0, []
    while len(sought_s) < SEEKS_MAX:
        if order.may_seek(0, now_s):
            sought_s.append(now_s)
        now_s += SEEK_PAUSE_S / 2
    with pytest.raises(BrokerError, match="offset 5"):
        order.may_seek(0, now_s + SEEK_PAUSE_S_MAX)
    pauses = [later - before for before, later in pairwise(sought_s)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (SEEK_PAUSE_S, SEEK_PAUSE_S_MAX)
    assert order.missing() == [0]
    assert order.place(0, 5) is Place.NEXT  # progress starts the count anew
    assert order.missing() == []
    assert order.may_seek(0, now_s)
