"""What a fetch takes while the flow is stopped: nothing, by aiokafka's own code."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import Fetcher, FetchResult

from agentledger.processors.transport import PromptTransport, WhileFlowing

CHANGELOG = TopicPartition("changelog", 0)
EVENTS = TopicPartition("events", 0)


class Records:
    """What came for one partition."""

    next_fetch_offset = 0

    def __iter__(self) -> Iterator[str]:
        return iter(["first"])


class Fetching:
    """As much of aiokafka's fetcher as taking needs, with records of two partitions that wait to be taken."""

    def __init__(self) -> None:
        self._closed = False
        self._subscriptions: Any = SimpleNamespace(reassignment_in_progress=False, is_assigned=lambda _: True)
        self._wait_consume_future = None
        self._waiters: list[asyncio.Future[None]] = []
        self._records: dict[TopicPartition, FetchResult] = {}
        self.come(CHANGELOG, EVENTS)

    def come(self, *partitions: TopicPartition) -> None:
        """Records of these have come: who waits looks again."""
        place = SimpleNamespace(paused=False, position=0, consumed_to=lambda _: None)
        assignment = SimpleNamespace(active=True, state_value=lambda _: place)
        for tp in partitions:
            self._records[tp] = FetchResult(tp, assignment=assignment, partition_records=Records(), backoff=0)
        for waiter in self._waiters:
            waiter.set_result(None)
        self._waiters.clear()

    async def take(self, partitions: Any, timeout_s: float = 0) -> set[TopicPartition]:
        return set(await Fetcher.fetched_records(self, partitions, timeout_s))

    def _notify(self, future: Any) -> None:
        pass

    def _create_fetch_waiter(self) -> asyncio.Future[None]:
        self._waiters.append(asyncio.get_running_loop().create_future())
        return self._waiters[-1]


def consumer() -> Any:
    """Faust's consumer with our changes, as far as the flow is concerned."""
    made: Any = object.__new__(PromptTransport.Consumer)
    made.can_resume_flow, made.suspend_flow = asyncio.Event(), asyncio.Event()
    made.resume_flow()
    return made


def test_aiokafka_takes_no_partition_for_all_of_them() -> None:
    """Why an empty set won't do: if this fails, one will."""
    assert asyncio.run(Fetching().take(set())) == {CHANGELOG, EVENTS}


def test_nothing_is_taken_while_the_flow_is_stopped() -> None:
    faust, fetching = consumer(), Fetching()
    active = {CHANGELOG}
    wanted = WhileFlowing(faust, active)
    faust.stop_flow()
    active.clear()
    assert asyncio.run(fetching.take(wanted)) == set()
    active.add(CHANGELOG)
    assert asyncio.run(fetching.take(wanted)) == set()
    faust.resume_flow()
    assert asyncio.run(fetching.take(wanted)) == {CHANGELOG}
    assert not wanted.is_stale


def test_a_fetch_that_waited_through_a_rebalance_leaves_what_came_in_it() -> None:
    faust, fetching = consumer(), Fetching()
    active = {EVENTS}

    async def fetch() -> set[TopicPartition]:
        fetching._records.clear()
        waiting = asyncio.create_task(fetching.take(WhileFlowing(faust, active), 5.0))
        await asyncio.sleep(0)
        faust.stop_flow()
        active.clear()
        fetching.come(CHANGELOG)
        await asyncio.sleep(0)
        active.add(CHANGELOG)
        faust.resume_flow()
        fetching.come(EVENTS)
        return await waiting

    assert asyncio.run(fetch()) == {CHANGELOG}


@pytest.mark.parametrize("stops", [0, 1])
def test_what_was_taken_before_the_flow_was_stopped_is_dropped(stops: int) -> None:
    """Its partition may have been given away and come back since, and be read from elsewhere."""
    faust = consumer()

    class Thread:
        async def getmany(self, partitions: WhileFlowing, _timeout: float) -> dict[TopicPartition, list[str]]:
            assert EVENTS in partitions
            for _ in range(stops):
                faust.stop_flow()
                faust.resume_flow()
            return {EVENTS: ["first"]}

    faust._thread = Thread()
    assert asyncio.run(faust._getmany({EVENTS}, 1.0)) == ({} if stops else {EVENTS: ["first"]})
