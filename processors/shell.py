"""The shell around a fold: Faust gives group, assignment and changelog recovery; folding and writing are ours.

In this order: derived events acknowledged, per batch of records; then the states that follow from as many batches as
the plan says, acknowledged by the changelog; then the input acknowledged. Whatever goes wrong ends the process at once
with EXIT_FAILED, because Faust would acknowledge a message whose handler raised; the next start goes on from what was
acknowledged, and the same input gives the same bytes again.

States are kept for good unless the fold writes None for one. Plan memory and recovery time (some 10,000 states a
second) by the states in the changelog.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from faust.types import TP

from agentledger.processors.acknowledged import AcknowledgedProducer
from agentledger.processors.faust_app import ShellPlan, build_app
from agentledger.processors.input_order import SEEK_PAUSE_S, InputOrder, Place
from agentledger.processors.offsets import GroupOffsets
from agentledger.processors.programs import die
from agentledger.processors.run_fold import DerivedRecord, StateRecord
from agentledger.processors.run_table import RunTable
from agentledger.processors.watchdog import Watchdog
from agentledger.processors.worker import WorkerConfig
from agentledger.schemas.errors import BrokerError
from agentledger.schemas.partitioning import partition_of
from agentledger.schemas.ready import say_ready

WAITING_MESSAGES_MAX = 256  # taken from Faust and not yet folded
WAITING_MESSAGES_ENOUGH = 16  # for a batch without a pause: the round trips weigh little then
TURN_S = 0.005  # folding goes on for so long before Faust's own tasks get their turn
NUDGE_SECONDS = 2.0  # how long waiting records may stay unread before they are asked for again

Result = TypeVar("Result")
# (partition, offset, broker's append time in ms, value) -> what follows from the record, in order.
Take = Callable[[int, int, int, bytes | None], list[DerivedRecord]]
log = logging.getLogger(__name__)


class Fold(Protocol):
    """A pure fold over the records of one or more topics, partition by partition.

    A state's value holds, in bytes 1 to 8 (big-endian), up to where it is folded: on recovery the furthest counts.
    """

    def inputs(self) -> Mapping[str, Take]:
        """Topic to the function that folds one of its records in. Same partition count everywhere."""

    def take_changed(self) -> list[StateRecord]:
        """Each state touched since the last call, also where a replay left it as it was."""

    def forget(self) -> None:
        """Drop what is kept in memory: another worker may have gone on with these states."""


class Shell:
    """One Faust app with its table and its loop over the records of its inputs."""

    def __init__(self, plan: ShellPlan, config: WorkerConfig, build: Callable[[RunTable], Fold]) -> None:
        self._plan = plan
        self._partitions = config.partitions
        self.app = build_app(plan, config)
        self._table: RunTable = self._build_table()
        self._fold = build(self._table)
        self._inputs = dict(self._fold.inputs())
        # A fold may ask for what it has to be stored before it is given a record (partition, value).
        self._must_settle: Callable[[int, bytes | None], bool] = getattr(self._fold, "must_settle", _never)
        # It may also say of a record that nobody waits for what follows from it (value).
        self._can_wait: Callable[[bytes | None], bool] = getattr(self._fold, "can_wait", _never)
        self._orders = {topic: InputOrder() for topic in self._inputs}
        self._watchdogs = {
            topic: Watchdog(GroupOffsets(config.kafka, plan.group, topic), config.stalled_after_s)
            for topic in self._inputs
        }
        self._offsets = {topic: GroupOffsets(config.kafka, plan.group, topic) for topic in self._inputs}
        self._output = AcknowledgedProducer(config.kafka)
        self._waiting: asyncio.Queue[Any] = asyncio.Queue(WAITING_MESSAGES_MAX)
        self._folded: list[Any] = []  # and not yet acknowledged: their states aren't written
        self._folded_bytes = 0
        self._settle_at: float | None = None  # when those have to be, time.monotonic()
        self._metrics = config.metrics
        self._metrics.watch(self._waiting.qsize, lambda: len(self._table.data))
        self._missed = asyncio.Event()  # something was, that is to be read again
        self._folding = asyncio.Lock()  # nothing is forgotten in the middle of a batch
        for topic in self._inputs:
            channel = self.app.topic(topic, value_serializer="raw", value_type=bytes, allow_empty=True)
            self.app.agent(channel, name=f"{plan.table}-{topic}", concurrency=1)(or_die(self._receive))
        self.app.task(or_die(self._work))
        self.app.task(or_die(self._insist))
        self.app.task(or_die(self._nudge))
        self._table.on_recover(or_die(self._recovered))
        self._table.on_batch = self._alive
        self.app.on_partitions_revoked.connect(or_die(self._revoked), weak=False)
        self.app.on_partitions_assigned.connect(or_die(self._assigned), weak=False)

    async def start(self) -> None:
        """Join the group; records are folded from then on."""
        await self.app.start()
        for watchdog in self._watchdogs.values():
            watchdog.start()

    async def stop(self) -> None:
        """Finish what is in hand, commit and leave the group."""
        await self.app.stop()

    def raise_crash(self) -> None:
        """Raise what made Faust crash, if it has."""
        if self.app.crashed:
            raise self.app.crash_reason or BrokerError("Faust crashed without a reason")

    def _build_table(self) -> RunTable:
        changelog = self.app.topic(
            self._plan.changelog,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            partitions=self._partitions,
            internal=True,
            compacting=True,
            deleting=False,
            allow_empty=True,
        )
        table: RunTable = self.app.Table(
            self._plan.table, key_type=bytes, value_type=bytes, partitions=self._partitions, changelog_topic=changelog
        )
        return table

    async def _receive(self, stream: Any) -> None:
        """Hand messages over without acknowledging them, so that several can be folded at a time."""
        async for event in stream.noack().events():
            await self._waiting.put(event)

    async def _work(self, *_: Any) -> None:
        pause_ends = 0.0
        while True:
            first = await self._next(self._settle_at)
            if first is None:
                async with self._folding:
                    await self._settle()
                continue
            batch = [first]
            if self._plan.gather_s:
                await self._gather(batch)
            if self._waiting.qsize() < WAITING_MESSAGES_ENOUGH:
                await asyncio.sleep(max(0.0, pause_ends - time.monotonic()))
            size = sum(len(event.message.value or b"") for event in batch)
            while size < self._plan.batch_bytes_max and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
                size += len(batch[-1].message.value or b"")
            async with self._folding:
                began = time.monotonic()
                await self._fold_batch(batch)
                self._metrics.note_batch(len(batch), time.monotonic() - began)
                pause_ends = time.monotonic() + self._plan.pause_s

    async def _next(self, until: float | None) -> Any:
        """What waits next; None where nothing has come until then (time.monotonic())."""
        try:
            async with asyncio.timeout_at(until):
                return await self._waiting.get()
        except TimeoutError:
            return None

    async def _gather(self, batch: list[Any]) -> None:
        """Wait for a record that somebody waits for, while there is none."""
        until = time.monotonic() + self._plan.gather_s
        while self._can_wait(batch[-1].message.value) and len(batch) < WAITING_MESSAGES_ENOUGH:
            event = await self._next(until)
            if event is None:
                return
            batch.append(event)

    async def _fold_batch(self, batch: list[Any]) -> None:
        turn_ends = time.monotonic() + TURN_S
        for event in batch:
            message = event.message
            place = self._orders[message.topic].place(message.partition, message.offset)
            if place is Place.NEXT:
                if self._folded and self._must_settle(message.partition, message.value):
                    await self._settle()
                self._folded.append(event)
                self._folded_bytes += len(message.value or b"")
                self._fold_message(message)
                if time.monotonic() >= turn_ends:
                    await asyncio.sleep(0)
                    turn_ends = time.monotonic() + TURN_S
            else:
                # Nobody is going to acknowledge it, and Faust waits for that before it gives a partition away or stops.
                self.app.consumer.unacked.discard(message)
                if place is Place.AHEAD:
                    self._missed.set()
        if self._settle_at is None:
            self._settle_at = time.monotonic() + self._plan.state_wait_s
        if time.monotonic() >= self._settle_at or self._folded_bytes >= self._plan.batch_bytes_max:
            await self._settle()
        else:
            await self._output.settled()

    async def _settle(self) -> None:
        """What follows from all that is folded acknowledged, then the states, then the records."""
        await self._output.settled()
        changed = self._fold.take_changed()
        for partition, key, value in changed:
            self._output.send(self._plan.changelog, partition, key, value)
        await self._output.settled()
        for partition, key, value in changed:
            self._table.put(partition, key, value)
        for event in self._folded:
            event.ack()
        if self._folded:
            self._metrics.note_settled(len(self._folded), len(changed), self._folded[-1].message.timestamp)
        self._drop_folded()

    def _drop_folded(self) -> None:
        self._folded = []
        self._folded_bytes = 0
        self._settle_at = None

    def _fold_message(self, message: Any) -> None:
        take = self._inputs[message.topic]
        records = take(message.partition, message.offset, round(message.timestamp * 1000), message.value)
        for topic, key, value, partition in records:
            to = partition_of(key, self._partitions) if partition is None else partition
            self._output.send(topic, to, key, value)

    async def _insist(self, *_: Any) -> None:
        """Have what was missed read again, and again where that brings nothing: Faust may drop what comes too early.

        Apart from folding: a seek in a rebalance waits for its end, and that for all that is in hand.
        """
        while True:
            is_missing = any(order.missing() for order in self._orders.values())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SEEK_PAUSE_S if is_missing else None):
                    await self._missed.wait()
            self._missed.clear()
            await self._read_again()

    async def _read_again(self) -> None:
        """Make Faust read what is missing. A program that stops reads nothing more."""
        if self.app.should_stop:
            return
        seeks = {}
        for topic, order in self._orders.items():
            for partition in order.missing():
                if order.may_seek(partition, time.monotonic()):
                    seeks[TP(topic, partition)] = order.positions()[partition]
        if not seeks:
            return
        log.info("reading again from %s", {f"{tp.topic} {tp.partition}": offset for tp, offset in seeks.items()})
        try:
            await self.app.consumer.seek_wait(seeks)
        except Exception as error:  # noqa: BLE001 - such as: not assigned any more. If it stays so, the watchdog acts
            log.warning("could not read again: %s", error)

    async def _nudge(self, *_: Any) -> None:
        """Look for partitions where records wait that Faust doesn't bring, and have those read again."""
        before: dict[str, dict[int, int]] = {}
        while True:
            await asyncio.sleep(NUDGE_SECONDS)
            for topic, order in self._orders.items():
                positions, known = order.positions(), before.get(topic, {})
                idle = [partition for partition, offset in positions.items() if known.get(partition) == offset]
                before[topic] = positions
                if not idle or not self._waiting.empty():
                    continue
                for partition, end in (await in_thread(self._offsets[topic].ends, idle)).items():
                    if order.positions().get(partition) == positions[partition] < end:
                        order.miss(partition)
                        self._missed.set()

    async def _revoked(self, *_: Any, **__: Any) -> None:
        """Faust has waited for what was in hand: whatever still comes is left over."""
        async with self._folding:
            await self._settle()
            for topic, order in self._orders.items():
                order.disown()
                self._watchdogs[topic].assigned([])

    async def _assigned(self, *_: Any, **__: Any) -> None:
        for topic, watchdog in self._watchdogs.items():
            watchdog.assigned(self._owned(topic))

    async def _recovered(self) -> None:
        standings = {
            topic: await in_thread(self._offsets[topic].standing, self._owned(topic)) for topic in self._inputs
        }
        async with self._folding:
            self._fold.forget()
            self._drop_folded()
            for topic, found in standings.items():
                self._orders[topic].own({partition: standing.done for partition, standing in found.items()})
        for topic, found in standings.items():
            self._watchdogs[topic].assigned(found)
        partitions = {partition for found in standings.values() for partition in found}
        log.info("ready: %d partitions, %d %s", len(partitions), len(self._table.data), self._plan.table)
        say_ready()

    def _alive(self) -> None:
        for watchdog in self._watchdogs.values():
            watchdog.alive()

    def _owned(self, topic: str) -> set[int]:
        return {tp.partition for tp in self.app.consumer.assignment() if tp.topic == topic}


def _never(*_: object) -> bool:
    return False


async def in_thread(ask: Callable[[Iterable[int]], Result], partitions: Iterable[int]) -> Result:
    """The broker's answer, without holding up the event loop."""
    return await asyncio.get_running_loop().run_in_executor(None, ask, partitions)


def or_die(handler: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """The handler, with every exception ending the process: nothing may reach Faust, which would go on."""

    async def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            await handler(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the one place where everything is caught, to stop
            die(error)

    return guarded
