"""Faust's Kafka transport with five changes: its fetches wait as told, no commits over what it didn't deliver, nothing
from before a rebalance comes after it, nothing is taken while the flow is stopped, and a message is less work.

Faust asks the broker to hold a fetch for 1.5 s when there is nothing to read, and has no setting for that. Kafka
answers as soon as a record comes, but librdkafka's mock cluster only when the wait is over.

Faust takes offsets that it hasn't seen for holes in the log and commits over them. The packed topic has no holes: what
wasn't seen was dropped on the way (see `input_order`), and must be read again after a crash.

Faust empties its queues in a rebalance, and reads the changelog again from what it took out of them. A record for which
there was no room yet came after that all the same, before those that were dropped: recovery took it for the furthest
that it had seen, skipped what it read again, and went on without those states.

Faust throws away what comes while the flow is stopped, and a fetch that began before a quick rebalance waits on in it.
Where such a fetch took records of a changelog after recovery had moved to them, nobody read those again, and recovery
waited for them: for a later rebalance, or until the watchdog ended the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import faust
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from mode.services import WaitResults
from mode.utils.queues import ThrowableQueue


@dataclass(frozen=True)
class FetchWait:
    """How long the broker may keep a fetch, and how many bytes end that before."""

    ms_max: int
    bytes_min: int = 1  # more where a read for each record would cost more than the records


class WhileFlowing:
    """The partitions that a fetch may take from, as aiokafka asks for them: none while the consumer's flow is stopped.

    Faust's own set of them is empty in a rebalance, which aiokafka takes for all of them.
    """

    def __init__(self, consumer: Any, active_partitions: Any) -> None:
        self._consumer = consumer
        self._active_partitions = active_partitions
        self._stops = consumer.stops

    def __contains__(self, partition: object) -> bool:
        stops = self._consumer.stops  # read first: another thread may stop the flow meanwhile
        if not self._consumer.flow_active or partition not in self._active_partitions:
            return False
        self._stops = stops
        return True

    @property
    def is_stale(self) -> bool:
        """True where the flow was stopped after records were taken: what comes next may be from before them."""
        return bool(self._stops != self._consumer.stops)


class _PromptThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Both are read when the consumer starts.
        consumer._fetch_max_wait_ms = transport.fetch_wait.ms_max
        consumer._fetch_min_bytes = transport.fetch_wait.bytes_min
        return consumer

    async def getmany(self, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's signature
        """Fetched records. They are asked for in the thread's loop at once: the queue of calls to it costs five tasks
        a call, and where records come one by one there is a call for each."""
        consumer = self._ensure_consumer()
        fetched = self._fetch_records(
            consumer, active_partitions, timeout=timeout, max_records=consumer._max_poll_records
        )
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(fetched, self.thread_loop))


class FirstAtOnce:
    """For a service of Faust's: what is done at once is waited for with one task instead of four.

    The consumer waits so for every message: until its stream has it, which mostly has room, or is told to stop.
    """

    async def wait_first(self, *waited: Any, **limits: Any) -> Any:
        """The first of these coroutines and events that is done; the others are cancelled. Raises what it raised."""
        first, *others = waited
        task = asyncio.ensure_future(first if isinstance(first, Awaitable) else first.wait())
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            task.cancel()
            _close(others)
            raise
        if not task.done() or self.should_stop:  # type: ignore[attr-defined]
            return await super().wait_first(task, *others, **limits)  # type: ignore[misc]
        _close(others)
        return WaitResults([first], [task.result()], stopped=False)


def _close(waited: list[Any]) -> None:
    for item in waited:
        if asyncio.iscoroutine(item):
            item.close()


class _PromptConsumer(FirstAtOnce, Consumer):  # type: ignore[misc]
    stops = 0  # of the flow

    def stop_flow(self) -> None:
        """Let no message through, until the flow is resumed."""
        self.stops += 1
        super().stop_flow()

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's signature
        wanted = WhileFlowing(self, active_partitions)
        records = await super()._getmany(wanted, timeout)
        return {} if wanted.is_stale else records

    def _new_consumer_thread(self) -> Any:
        return _PromptThread(self, loop=self.loop, beacon=self.beacon)

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Take nothing for acknowledged that no one acknowledged."""

    async def sleep(self, n: Any) -> None:
        """Sleep, or until the service is stopped; only give way where the time is 0, as before each fetch."""
        await (super().sleep(n) if n else asyncio.sleep(0))


class PromptTransport(Transport):  # type: ignore[misc]
    """Give it to an app as its `transport`, before the app starts."""

    Consumer = _PromptConsumer
    fetch_wait = FetchWait(1500)  # Faust's own


class PromptQueue(ThrowableQueue):  # type: ignore[misc]
    """A queue that takes nothing while the flow is suspended: it is emptied when that is over."""

    async def put(self, value: Any) -> None:
        """Wait for room and take the value; dropped where that begins while the flow is suspended."""
        if self._flow_control.is_active():
            await super().put(value)


class PromptApp(faust.App):  # type: ignore[misc]
    """A Faust app with such queues, for changelogs and topics."""

    def FlowControlQueue(self, maxsize: int | None = None, *, clear_on_resume: bool = False) -> PromptQueue:  # noqa: N802
        """As Faust calls it."""
        return PromptQueue(maxsize=maxsize or 0, flow_control=self.flow_control, clear_on_resume=clear_on_resume)
