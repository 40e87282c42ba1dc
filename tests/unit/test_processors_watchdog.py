"""The watchdog's judgement: only input that waits, without any progress for long enough, is a stall."""

from __future__ import annotations

import pytest

from agentledger.processors.offsets import Standing
from agentledger.processors.watchdog import Stall


@pytest.mark.parametrize(
    ("looks", "stalled"),
    [
        ([(5, 9, 0), (5, 9, 14), (5, 9, 15)], True),
        ([(5, 9, 0), (5, 9, 14.9)], False),
        ([(5, 9, 0), (6, 9, 14), (6, 9, 28)], False),
        ([(5, 5, 0), (5, 5, 1000)], False),
        ([(5, 5, 0), (5, 9, 1000), (5, 9, 1014)], False),
        ([(5, 5, 0), (5, 9, 1000), (5, 9, 1015)], True),
        ([(0, 0, 0), (0, 3, 50), (0, 3, 65)], True),
    ],
)
def test_a_stall_is_waiting_input_without_a_commit(looks: list[tuple[int, int, float]], stalled: bool) -> None:
    stall = Stall(15)
    verdicts = [stall.check(0, Standing(done, end), 0, now_s) for done, end, now_s in looks]
    assert verdicts[:-1] == [None] * (len(looks) - 1)
    assert (verdicts[-1] is not None) == stalled


def test_signs_of_life_hold_it_off() -> None:
    stall = Stall(15)
    assert stall.check(0, Standing(5, 9), 0, 0) is None
    assert stall.check(0, Standing(5, 9), 30, 40) is None
    assert stall.check(0, Standing(5, 9), 30, 45) is not None


def test_partitions_are_judged_one_by_one() -> None:
    stall = Stall(15)
    for now_s in (0, 10, 20):
        stall.check(0, Standing(now_s, 99), 0, now_s)
        verdict = stall.check(1, Standing(5, 9), 0, now_s)
    assert verdict is not None
