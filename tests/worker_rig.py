"""Packer and workers as processes of their own on a broker, and what the pure fold says of the same log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from agentledger.processors.packing import PackedRecord
from agentledger.processors.programs import EXIT_FAILED
from agentledger.processors.rules.loading import default_rules
from agentledger.processors.run_places import is_of_run
from agentledger.processors.run_state import folded_up_to
from agentledger.processors.topics import CHANGELOG, PACKER_GROUP, WORKER_GROUP
from agentledger.schemas.events import Event
from agentledger.schemas.prices import GenaiPriceBook
from agentledger.schemas.topics import ALERTS, BUDGETS, CONTROL, EVENTS, PACKED, PARTIALS, SPEND
from tests.kafka_broker import PARTITIONS
from tests.run_logs import CODEC, Folded

# Ends the program in its first batch that something follows from: that is safe then, and the states are not.
DIES_HALFWAY = """
import os, signal
from agentledger.processors.acknowledged import AcknowledgedProducer

class Dying(AcknowledgedProducer):
    has_sent = False  # not by what is under way: all of it may have arrived before someone waits for it

    def send(self, *record):
        self.has_sent = True
        super().send(*record)

    async def settled(self):
        await super().settled()
        if self.has_sent:
            os.kill(os.getpid(), signal.SIGKILL)

import agentledger.processors.shell
agentledger.processors.shell.AcknowledgedProducer = Dying
"""
# Lets records of a changelog come between the moment that its recovery has moved to them and the one that it reads on.
SLOW_RECOVERY = """
import asyncio
from aiokafka.consumer.fetcher import Fetcher
from faust.tables.recovery import Recovery

def paused(function, before_s, after_s):
    async def call(*arguments):
        await asyncio.sleep(before_s)
        result = await function(*arguments)
        await asyncio.sleep(after_s)
        return result
    return call

Fetcher._update_fetch_positions = paused(Fetcher._update_fetch_positions, 0.15, 0)
Recovery._seek_offsets = paused(Recovery._seek_offsets, 0, 0.5)
"""
WORKER = """
import logging, sys
from pathlib import Path
from agentledger.processors import WorkerConfig, run_worker
logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
kafka = {"bootstrap.servers": sys.argv[1]}
run_worker(WorkerConfig(kafka, Path(sys.argv[2]), int(sys.argv[3]), session_timeout_s=float(sys.argv[4])))
"""
PACKER = """
import logging, sys
from agentledger.processors import PackerConfig, run_packer
logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
run_packer(PackerConfig({"bootstrap.servers": sys.argv[1]}, session_timeout_s=float(sys.argv[2])))
"""


@dataclass
class Rig:
    """One broker's packer and workers. Leaving it kills what still runs."""

    servers: str
    folder: Path
    session_timeout_s: float = 2.0
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    starts: int = 0
    failures: int = 0

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def packer(self) -> subprocess.Popen[bytes]:
        """Start a packer."""
        return self._start("packer", [PACKER, self.servers, str(self.session_timeout_s)])

    def worker(self, name: str = "worker", *, changed_by: str = "") -> subprocess.Popen[bytes]:
        """Start a worker, changed by one of the programs above."""
        data_dir, timeout = str(self.folder / name), str(self.session_timeout_s)
        return self._start(name, [changed_by + WORKER, self.servers, data_dir, str(PARTITIONS), timeout])

    def _start(self, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        self.starts += 1
        ready = self.folder / f"{name}-{self.starts}.ready"
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", *arguments],
                stderr=log,
                env={**os.environ, "AGENTLEDGER_READY_FILE": str(ready)},
            )
        process.ready_file, process.name = ready, name  # type: ignore[attr-defined]
        self.processes.append(process)
        return process

    def restart_failed(self) -> None:
        """What a supervisor does: start again what ended by itself. What a test has killed stays dead."""
        for process in list(self.processes):
            if process.poll() == EXIT_FAILED:
                self.processes.remove(process)
                self.failures += 1
                name: str = process.name  # type: ignore[attr-defined]
                _ = self.packer() if name == "packer" else self.worker(name)

    def wait_for(self, done: Callable[[], bool], wait_s_max: float = 90) -> None:
        """Wait until `done`, starting again what ended by itself. Fails after `wait_s_max`."""

        def is_done() -> bool:
            self.restart_failed()
            return done()

        wait_for(is_done, wait_s_max)

    def is_all_folded(self) -> bool:
        """Whether everything that was sent is packed, and everything that is packed acknowledged by the workers."""
        return self._is_acknowledged(PACKER_GROUP, EVENTS.name) and self._is_acknowledged(WORKER_GROUP, PACKED.name)

    def _is_acknowledged(self, group: str, topic: str) -> bool:
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": group, "enable.auto.commit": False})
        try:
            places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
            return all(
                place.offset >= consumer.get_watermark_offsets(TopicPartition(topic, place.partition), 10)[1]
                for place in consumer.committed(places, 10)
            )
        finally:
            consumer.close()

    def shares(self, names: list[str]) -> list[int]:
        """How many partitions each worker says that it has, by its last word."""
        said = [re.findall(r"ready: (\d+) partitions", self.log_of(name)) for name in names]
        return [int(counts[-1]) if counts else 0 for counts in said]

    def log_of(self, name: str) -> str:
        """What a program has logged so far."""
        return (self.folder / f"{name}.log").read_text()

    def produce(self, events: list[Event], pause_s: float = 0.0) -> None:
        """Send the events keyed by run, with a pause after every hundred."""
        producer = Producer({"bootstrap.servers": self.servers, "linger.ms": 2})
        for number, event in enumerate(events):
            producer.produce(EVENTS.name, CODEC.encode(event), event.run_id.encode())
            if number % 100 == 99 and pause_s:
                producer.flush(10)
                time.sleep(pause_s)
        assert producer.flush(30) == 0

    def read(self, topic: str) -> dict[int, list[tuple[int, int, bytes, bytes | None]]]:
        """Everything on a topic: partition to (offset, time in ms, key, value)."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "reader", "enable.auto.commit": False})
        found: dict[int, list[tuple[int, int, bytes, bytes | None]]] = defaultdict(list)
        ends = {}
        for partition in range(PARTITIONS):
            low, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), 10)
            if end > low:
                ends[partition] = end
        consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
        while ends:
            message = consumer.poll(10)
            assert message is not None, f"{topic} can't be read to its end"
            assert message.error() is None, message.error()
            partition, offset = message.partition(), message.offset()
            found[partition].append((offset, message.timestamp()[1], message.key() or b"", message.value()))
            if offset + 1 >= ends.get(partition, 2**63):
                del ends[partition]
        consumer.close()
        return found

    def expected(self) -> Folded:
        """The pure fold over the log as it is on the broker."""
        result = Folded(GenaiPriceBook(), rules=default_rules(), partitions=PARTITIONS)
        for partition, records in sorted(self.read(EVENTS.name).items()):
            result.take([PackedRecord(offset, ms, value) for offset, ms, _, value in records], partition)
        return result

    def derived(self) -> tuple[dict[str, set[bytes]], int]:
        """Event id to the contents under it, on all topics of derived events; and how many records there are."""
        contents: dict[str, set[bytes]] = defaultdict(set)
        count = 0
        for topic in (SPEND.name, BUDGETS.name, ALERTS.name, CONTROL.name):
            for records in self.read(topic).values():
                for _, _, _, value in records:
                    assert value is not None
                    contents[value[6:42].decode()].add(value)
                    count += 1
        return contents, count

    def partials(self) -> set[tuple[int | None, bytes, bytes]]:
        """What was published for stage 2: partition, key and value."""
        found = self.read(PARTIALS.name).items()
        return {(partition, key, value or b"") for partition, records in found for _, _, key, value in records}

    def states(self) -> dict[bytes, bytes]:
        """The state of each run in the changelog that is folded furthest: what a recovery gives."""
        states: dict[bytes, bytes] = {}
        for records in self.read(CHANGELOG).values():
            for _, _, key, value in records:
                assert value is not None
                if not is_of_run(key):
                    continue  # of the partition as a whole: what it holds depends on batches
                if key not in states or folded_up_to(value) >= folded_up_to(states[key]):
                    states[key] = value
        return states

    def settle(self, wait_s_max: float = 90) -> tuple[Folded, int]:
        """Wait until derived events and states are those of the pure fold, byte for byte. Fails where they are not.

        Returns the pure fold, and how many derived records were written more than once.
        """
        expected = self.expected()
        wanted = {event_id: {value} for event_id, value in expected.by_id().items()}
        deadline = time.monotonic() + wait_s_max
        while True:
            derived, count = self.derived()
            states = self.states()
            if (derived == wanted and states == expected.run_states()) or time.monotonic() > deadline:
                break
            self.restart_failed()
            time.sleep(0.5)
        doubted = [CODEC.decode(value) for values in derived.values() if len(values) > 1 for value in values]
        assert doubted == []
        assert derived.keys() - wanted.keys() == set()
        assert wanted.keys() - derived.keys() == set()
        assert derived == wanted
        assert states == expected.run_states()
        assert self.partials() == {(item.partition, item.key, item.value) for item in expected.partials()}
        return expected, count - len(wanted)


def wait_ready(process: subprocess.Popen[bytes], wait_s_max: float = 60) -> None:
    """Wait until the program has written its ready file. Fails where it ends before that."""
    ready: Path = process.ready_file  # type: ignore[attr-defined]
    wait_for(lambda: ready.exists() or process.poll() is not None, wait_s_max)
    assert ready.exists(), f"ended with {process.returncode} before it was ready"


def wait_for(done: Callable[[], bool], wait_s_max: float = 60) -> None:
    """Wait until `done`. Fails after `wait_s_max`."""
    deadline = time.monotonic() + wait_s_max
    while not done():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def stop_cleanly(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and exit code 0."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0
