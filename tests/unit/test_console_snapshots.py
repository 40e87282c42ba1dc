"""Answers that are kept: fresh where they come quickly, otherwise of a stated age, and never of another key."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from agentledger.schemas.errors import StoreError
from agentledger.sinks.console.snapshots import ANSWERS_MAX, FRESH_US, REST_FACTOR, Snapshots, oldest

START_US = 10**15


class Work:
    """Counts how often it was asked; each takes `took_us` by its clock, and waits where it is told to."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.took_us = 0
        self.asked = 0
        self.go_on = threading.Event()
        self.go_on.set()
        self.ended = threading.Semaphore(0)
        self.error: StoreError | None = None

    def clock_ns(self) -> int:
        return self.now_ns

    def __call__(self) -> int:
        assert self.go_on.wait(30)
        self.now_ns += self.took_us * 1000
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.asked


@pytest.fixture
def work() -> Iterator[Work]:
    one = Work()
    yield one
    one.go_on.set()


def settled(snapshots: Snapshots, is_there: Callable[[], bool]) -> None:
    """Wait until what is under way has ended."""
    ended = threading.Event()
    for _ in range(3000):
        if is_there():
            return
        ended.wait(0.01)
    raise AssertionError("it does not end")


def test_what_comes_quickly_is_always_fresh(work: Work) -> None:
    snapshots = Snapshots(work.clock_ns)
    for number in range(1, 4):
        found = snapshots.of(("acme", "spent"), work, START_US + number * FRESH_US)
        settled(snapshots, lambda number=number: work.asked == number)  # type: ignore[misc]
        assert found.value is not None
    assert snapshots.of(("acme", "spent"), work, START_US + 3 * FRESH_US + 1).value == 3
    assert work.asked == 3  # within a second nobody asks again


def test_what_takes_long_is_shown_with_its_age_and_renewed_seldom(work: Work) -> None:
    snapshots, key = Snapshots(work.clock_ns), ("acme", "month")
    work.took_us = 2_000_000
    first = snapshots.of(key, work, START_US)
    assert (first.value, first.as_of_us, first.is_latest) == (1, START_US, True)
    later = START_US + REST_FACTOR * work.took_us - 1
    found = snapshots.of(key, work, later)
    assert (found.value, found.as_of_us, found.is_latest, work.asked) == (1, START_US, False, 1)
    assert oldest([found]) == found
    work.go_on.clear()
    assert snapshots.of(key, work, later + 1).value == 1  # under way; nobody waits for it
    assert snapshots.of(key, work, later + 2).value == 1
    work.go_on.set()
    settled(snapshots, lambda: snapshots.of(key, work, later + 3).value == 2)
    assert snapshots.of(key, work, later + 3).as_of_us == later + 1
    assert work.asked == 2


def test_several_are_asked_at_the_same_time_and_waited_for_together() -> None:
    snapshots = Snapshots(lambda: 0)
    asks = {("acme", name): lambda: -1 for name in "abc"}
    settled(snapshots, lambda: all(one.value == -1 for one in snapshots.together(asks, START_US).values()))
    all_asked = threading.Barrier(3)

    def ask() -> int:
        return all_asked.wait(30)  # comes back only when all three are asked

    later = START_US + FRESH_US
    asks = dict.fromkeys(asks, ask)
    settled(snapshots, lambda: all(one.value != -1 for one in snapshots.together(asks, later).values()))
    found = snapshots.together(asks, later)
    assert list(found) == list(asks)
    assert sorted(one.value for one in found.values()) == [0, 1, 2]


def test_a_page_shows_what_is_there_while_a_first_sum_takes_long(work: Work) -> None:
    snapshots = Snapshots(work.clock_ns)
    work.go_on.clear()
    asks = {("acme", "hour"): lambda: 7, ("acme", "month"): work}
    settled(snapshots, lambda: snapshots.together(asks, START_US)["acme", "hour"].value == 7)
    found = snapshots.together(asks, START_US)
    assert found["acme", "month"].value is None
    assert oldest([*found.values()]) == found["acme", "month"]  # the page says that it is being counted
    work.go_on.set()
    settled(snapshots, lambda: snapshots.of(("acme", "month"), work, START_US + 1).value == 1)
    assert work.asked == 1


def test_a_failure_keeps_the_last_answer_and_says_so(work: Work) -> None:
    snapshots, key = Snapshots(work.clock_ns), ("acme", "month")
    work.error = StoreError("ClickHouse is away", next_step="look")
    first = snapshots.of(key, work, START_US)
    assert (first.value, first.as_of_us) == (None, 0)
    assert "ClickHouse is away" in first.error
    work.error = None
    settled(snapshots, lambda: snapshots.of(key, work, START_US + FRESH_US).value == 2)
    work.error = StoreError("away again", next_step="look")
    settled(snapshots, lambda: "away again" in snapshots.of(key, work, START_US + 2 * FRESH_US).error)
    found = snapshots.of(key, work, START_US + 2 * FRESH_US)
    assert (found.value, found.as_of_us) == (2, START_US + FRESH_US)


def test_each_key_has_its_own_and_the_oldest_goes(work: Work) -> None:
    snapshots = Snapshots(work.clock_ns)
    snapshots.of(("acme", "spent"), lambda: "acme's", START_US)
    assert snapshots.of(("zeta", "spent"), lambda: "zeta's", START_US).value == "zeta's"
    assert snapshots.of(("acme", "spent"), lambda: "other", START_US).value == "acme's"
    for number in range(ANSWERS_MAX):
        snapshots.of(("acme", str(number)), lambda: 0, START_US)
    assert snapshots.of(("acme", "spent"), lambda: "anew", START_US).value == "anew"
