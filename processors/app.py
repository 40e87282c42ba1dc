"""The worker: Faust gives group, assignment and changelog recovery; folding and writing are ours.

Per batch of packed messages, in this order: derived events acknowledged, then the states they follow from acknowledged
by the changelog, then the input acknowledged. Whatever goes wrong ends the process at once with EXIT_FAILED, because
Faust would acknowledge a message whose handler raised; the next start goes on from what was acknowledged, and the
same input gives the same bytes again.

A run's state is kept for good: some 1 kB per run, up to 70 kB for one of thousands of events. Plan memory and
recovery time (some 10,000 runs a second) by the runs in the changelog.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

import faust
from faust.types import TP

from agentledger.processors.acknowledged import AcknowledgedProducer
from agentledger.processors.input_order import InputOrder, Place
from agentledger.processors.offsets import GroupOffsets
from agentledger.processors.packing import unpack
from agentledger.processors.programs import die, say_ready
from agentledger.processors.run_fold import RunFold
from agentledger.processors.run_table import RunTable
from agentledger.processors.topics import CHANGELOG, WORKER_GROUP
from agentledger.processors.transport import PromptTransport
from agentledger.processors.watchdog import Watchdog
from agentledger.processors.worker import WorkerConfig
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import BrokerError
from agentledger.schemas.ports import PriceBook
from agentledger.schemas.prices import GenaiPriceBook
from agentledger.schemas.registry import open_registry
from agentledger.schemas.topics import PACKED

# A batch takes what waits: the more load, the more events share its two round trips. By bytes, as messages are small
# when there is little to pack and large in a backlog. 1 MiB is some 3,500 events and 0.3 s from first to last.
BATCH_BYTES_MAX = 1024 * 1024
WAITING_MESSAGES_MAX = 256  # taken from Faust and not yet folded; packed ones have 0.5 MiB at most
STREAM_BUFFER_MESSAGES = 64  # within Faust
NUDGE_SECONDS = 2.0  # how long waiting records may stay unread before they are asked for again

Result = TypeVar("Result")
log = logging.getLogger(__name__)


class Worker:
    """One Faust app with its table and its loop over packed messages."""

    def __init__(self, config: WorkerConfig, prices: PriceBook | None = None) -> None:
        self.app = build_app(config)
        changelog = self.app.topic(
            CHANGELOG,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            partitions=config.partitions,
            internal=True,
            compacting=True,
            deleting=False,
            allow_empty=True,
        )
        self._table: RunTable = self.app.Table(
            "runs", key_type=bytes, value_type=bytes, partitions=config.partitions, changelog_topic=changelog
        )
        codec = Codec(open_registry(config.schema_registry_url, basic_auth=config.schema_registry_auth))
        self._fold = RunFold(codec, prices or GenaiPriceBook(), self._table.stored)
        self._watchdog = Watchdog(GroupOffsets(config.kafka, WORKER_GROUP, PACKED.name), config.stalled_after_s)
        self._offsets = GroupOffsets(config.kafka, WORKER_GROUP, PACKED.name)
        self._output = AcknowledgedProducer(config.kafka)
        self._waiting: asyncio.Queue[Any] = asyncio.Queue(WAITING_MESSAGES_MAX)
        self._order = InputOrder()
        self._folding = asyncio.Lock()  # nothing is forgotten in the middle of a batch
        packed = self.app.topic(PACKED.name, value_serializer="raw", value_type=bytes, allow_empty=True)
        self.app.agent(packed, name="runs", concurrency=1)(or_die(self._receive))
        self.app.task(or_die(self._work))
        self.app.task(or_die(self._nudge))
        self._table.on_recover(or_die(self._recovered))
        self._table.on_batch = self._watchdog.alive
        self.app.on_partitions_revoked.connect(or_die(self._revoked), weak=False)
        self.app.on_partitions_assigned.connect(or_die(self._assigned), weak=False)

    async def start(self) -> None:
        """Join the group; messages are folded from then on."""
        await self.app.start()
        self._watchdog.start()

    async def stop(self) -> None:
        """Finish what is in hand, commit and leave the group."""
        await self.app.stop()

    def raise_crash(self) -> None:
        """Raise what made Faust crash, if it has."""
        if self.app.crashed:
            raise self.app.crash_reason or BrokerError("Faust crashed without a reason")

    async def _receive(self, stream: Any) -> None:
        """Hand messages over without acknowledging them, so that several can be folded at a time."""
        async for event in stream.noack().events():
            await self._waiting.put(event)

    async def _work(self, *_: Any) -> None:
        while True:
            batch = [await self._waiting.get()]
            size = len(batch[0].message.value)
            while size < BATCH_BYTES_MAX and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
                size += len(batch[-1].message.value)
            async with self._folding:
                await self._fold_batch(batch)

    async def _fold_batch(self, batch: list[Any]) -> None:
        ours, missed = [], set()
        for event in batch:
            place = self._order.place(event.message.partition, event.message.offset)
            if place is Place.NEXT:
                ours.append(event)
                self._fold_message(event.message.partition, event.message.value)
                await asyncio.sleep(0)  # Faust's own tasks get their turn
            elif place is Place.AHEAD:
                missed.add(event.message.partition)
        await self._output.settled()
        changed = self._fold.take_changed()
        for partition, key, value in changed:
            self._output.send(CHANGELOG, partition, key, value)
        await self._output.settled()
        for partition, key, value in changed:
            self._table.put(partition, key, value)
        for event in ours:
            event.ack()
        await self._read_again(missed)

    async def _read_again(self, partitions: Iterable[int]) -> None:
        """Make Faust read these partitions from what has to come next."""
        positions, now_s = self._order.positions(), time.monotonic()
        seeks = {
            TP(PACKED.name, partition): positions[partition]
            for partition in partitions
            if partition in positions and self._order.may_seek(partition, now_s)
        }
        if not seeks:
            return
        log.info("reading again from %s", {tp.partition: offset for tp, offset in seeks.items()})
        try:
            await self.app.consumer.seek_wait(seeks)
        except Exception as error:  # noqa: BLE001 - such as: not assigned any more. If it stays so, the watchdog acts
            log.warning("could not read again: %s", error)

    async def _nudge(self, *_: Any) -> None:
        """Look for partitions where records wait that Faust doesn't bring, and read those again."""
        before: dict[int, int] = {}
        while True:
            await asyncio.sleep(NUDGE_SECONDS)
            positions = self._order.positions()
            idle = [partition for partition, offset in positions.items() if before.get(partition) == offset]
            before = positions
            if not idle or not self._waiting.empty():
                continue
            ends = await in_thread(self._offsets.ends, idle)
            async with self._folding:
                still = self._order.positions()
                await self._read_again(p for p, end in ends.items() if still.get(p) == positions[p] < end)

    def _fold_message(self, partition: int, value: bytes) -> None:
        for record in unpack(value):
            for topic, key, derived in self._fold.take(partition, record):
                self._output.send(topic, partition, key, derived)

    async def _revoked(self, *_: Any, **__: Any) -> None:
        """Faust has waited for what was in hand: whatever still comes is left over."""
        async with self._folding:
            self._order.disown()
            self._watchdog.assigned([])

    async def _assigned(self, *_: Any, **__: Any) -> None:
        self._watchdog.assigned(self._packed_partitions())

    async def _recovered(self) -> None:
        partitions = self._packed_partitions()
        standings = await in_thread(self._offsets.standing, partitions)
        async with self._folding:
            self._fold.forget()
            self._order.own({partition: standing.done for partition, standing in standings.items()})
        self._watchdog.assigned(partitions)
        log.info("ready: %d partitions, %d runs", len(partitions), len(self._table.data))
        say_ready()

    def _packed_partitions(self) -> set[int]:
        return {tp.partition for tp in self.app.consumer.assignment() if tp.topic == PACKED.name}


def build_app(config: WorkerConfig) -> faust.App:
    """The Faust app, without a web server and without any topic of its own making."""
    servers = str(config.kafka["bootstrap.servers"]).split(",")
    app = faust.App(
        WORKER_GROUP,
        broker=[f"kafka://{server.strip()}" for server in servers],
        broker_credentials=credentials(config.kafka),
        broker_session_timeout=config.session_timeout_s,
        broker_heartbeat_interval=config.session_timeout_s / 4,
        broker_rebalance_timeout=60.0,
        broker_commit_interval=config.commit_interval_s,
        datadir=config.data_dir,
        store="memory://",
        Table=RunTable,
        table_standby_replicas=0,
        topic_partitions=config.partitions,
        topic_allow_declare=False,
        topic_disable_leader=True,
        processing_guarantee="at_least_once",
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=PACKED.bytes_max,
        stream_buffer_maxsize=STREAM_BUFFER_MESSAGES,
        web_enabled=False,
        loghandlers=[],
    )
    app.transport = PromptTransport(app.conf.broker_consumer, app)
    app.finalize()
    return app


def credentials(kafka: dict[str, Any]) -> Any:
    """librdkafka's security settings as Faust takes them; None for plain text."""
    protocol = str(kafka.get("security.protocol", "PLAINTEXT")).upper()
    context = ssl.create_default_context(cafile=kafka.get("ssl.ca.location")) if protocol.endswith("SSL") else None
    if context is not None and "ssl.certificate.location" in kafka:
        context.load_cert_chain(kafka["ssl.certificate.location"], kafka.get("ssl.key.location"))
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=kafka.get("sasl.username"),
            password=kafka.get("sasl.password"),
            mechanism=kafka.get("sasl.mechanism", "PLAIN"),
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None


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
