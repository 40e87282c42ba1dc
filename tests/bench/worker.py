"""The worker: Faust with all processors on, against a bare aiokafka loop that decodes, and the folds without Faust."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as Place

from agentledger.infra.ledger_setup import prepare_kafka
from agentledger.infra.stack import Stack, StackConfig
from agentledger.processors.packing import PackedRecord, pack, unpack
from agentledger.processors.rules.loading import default_rules
from agentledger.processors.run_fold import RunFold
from agentledger.processors.run_places import is_of_run, stored_key
from agentledger.processors.run_reading import place_of
from agentledger.processors.topics import CHANGELOG, WORKER_GROUP
from agentledger.schemas import Codec, Event, open_registry
from agentledger.schemas.prices import GenaiPriceBook
from agentledger.schemas.topics import PACKED
from tests.bench.recorded import recorded_events
from tests.bench.report import ROUNDS, Figure
from tests.bench.sample import START_US, sample_events

EVENTS = 150_000  # of one measurement: what happens only once, such as finding a model's price, weighs little then
PARTITIONS = 4
EVENTS_PER_MESSAGE = 100
BATCH_MESSAGES = 20  # about as many as the worker takes at a time
RECOVERED_KEYS = 100_000
WAIT_S_MAX = 180
WORKER = """
import sys
from pathlib import Path
from agentledger.processors import WorkerConfig, run_worker
kafka = {"bootstrap.servers": sys.argv[1]}
run_worker(WorkerConfig(kafka, Path(sys.argv[2]), int(sys.argv[3]), commit_interval_s=0.2, session_timeout_s=30))
"""
Messages = list[tuple[int, bytes]]  # partition and value


def measure(folder: Path) -> list[Figure]:
    """How fast the worker is, alone, by comparison and in pairs; how it recovers, and what a run takes."""
    parts = packed_messages(sample_events(2 * ROUNDS * EVENTS), 2 * ROUNDS)
    pures, sizes = zip(*(pure_fold(parts[0]) for _ in range(ROUNDS)), strict=True)
    recorded = recorded_vs(max(pures))
    stack = Stack(StackConfig(data_dir=folder / "stack"))
    servers = stack.up().kafka_bootstrap_servers
    try:
        prepare_kafka({"bootstrap.servers": servers}, partitions=PARTITIONS, replication_factor=1)
        rig = WorkerRig(servers, folder)
        alone = [rig.run(part, workers=1) for part in parts[:ROUNDS]]
        bare = max(asyncio.run(bare_loop(servers)) for _ in range(ROUNDS))
        in_pairs = [rig.run(part, workers=2) for part in parts[ROUNDS:]]
        recovery_s = rig.recover()
    finally:
        stack.down()
    one_s, cpu_s = (min(found) for found in zip(*alone, strict=True))
    two_s, two_cpu_s = (min(found) for found in zip(*in_pairs, strict=True))
    worker = EVENTS / cpu_s
    return [
        Figure("worker_events_per_s", worker, "events/s per core", "at least 80,000"),
        Figure("worker_vs_aiokafka", worker / bare, "ratio", "at least 0.4"),
        Figure("worker_vs_pure", worker / max(pures), "ratio", ""),
        recorded,
        Figure("workers_two_vs_one", cpu_s / two_cpu_s, "ratio, a core each", "at least 1.8"),
        Figure("workers_two_vs_one_here", one_s / two_s, "ratio", "with the broker beside them on these cores"),
        Figure("recovery_s_per_million_keys", recovery_s, "s", ""),
        Figure("state_bytes_per_run", sizes[0], "bytes", ""),
    ]


def recorded_vs(pure: float) -> Figure:
    """How many times the CPU time of an event of the sample one of the recorded runs takes, in the folds alone."""
    name, unit = "recorded_event_vs_sample", "ratio of CPU time, folds alone"
    try:
        [messages] = packed_messages(recorded_events(EVENTS), 1)
    except pytest.skip.Exception as error:
        return Figure(name, None, unit, not_measured=str(error))
    return Figure(name, pure / max(pure_fold(messages)[0] for _ in range(ROUNDS)), unit)


def packed_messages(events: Iterable[Event], parts: int) -> list[Messages]:
    """The log in parts of EVENTS each, packed; a run's events are always in one partition.

    By the broker's clock a thousand events a second come to each partition; the agents' clocks are right.
    """
    codec = Codec(open_registry())
    packed: list[Messages] = [[] for _ in range(parts)]
    waiting: dict[int, list[PackedRecord]] = {partition: [] for partition in range(PARTITIONS)}
    offsets = dict.fromkeys(waiting, 0)
    for number, event in enumerate(events, 1):
        partition = sum(event.run_id.encode()) % PARTITIONS
        offset, records = offsets[partition], waiting[partition]
        offsets[partition] += 1
        time_ms = START_US // 1000 + offset
        event.occurred_at = (time_ms - 20) * 1000
        records.append(PackedRecord(offset, time_ms, codec.encode(event)))
        if len(records) == EVENTS_PER_MESSAGE or number % EVENTS == 0:
            full = waiting if number % EVENTS == 0 else {partition: records}
            for place, found in full.items():
                packed[(number - 1) // EVENTS].append((place, pack(found)))
                waiting[place] = []
    return packed


class WorkerRig:
    """Real worker processes on a real broker."""

    def __init__(self, servers: str, folder: Path) -> None:
        self._servers = servers
        self._folder = folder
        self._starts = 0

    def run(self, messages: Messages, *, workers: int) -> tuple[float, float]:
        """Seconds to the last commit, and CPU seconds of the busiest worker meanwhile.

        Workers are held while the topic is filled: after that only they and the broker take time.
        """
        processes = [self.start()[0] for _ in range(workers)]
        try:
            self._wait_until_spread(processes)
            for process in processes:
                process.send_signal(signal.SIGSTOP)
            self.fill(PACKED.name, [(partition, None, value) for partition, value in messages])
            before_s, began = [cpu_seconds(process) for process in processes], time.monotonic()
            for process in processes:
                process.send_signal(signal.SIGCONT)
            self._wait_until_done(processes)
            took_s = time.monotonic() - began
            return took_s, max(cpu_seconds(process) - s for process, s in zip(processes, before_s, strict=True))
        finally:
            self.stop(processes)

    def recover(self) -> float:
        """Seconds that a start takes longer for each million of states in the changelog."""
        process, before_s = self.start()
        self.stop([process])
        state = next(value for key, value in self._states() if is_of_run(key))
        records = [
            (number % PARTITIONS, stored_key(number % PARTITIONS, place_of("acme", f"recovered-{number}")), state)
            for number in range(RECOVERED_KEYS)
        ]
        self.fill(CHANGELOG, records)
        process, after_s = self.start()
        self.stop([process])
        return (after_s - before_s) * 1e6 / RECOVERED_KEYS

    def start(self) -> tuple[subprocess.Popen[bytes], float]:
        """A worker that is ready, and how long that took in seconds."""
        self._starts += 1
        ready = self._folder / f"worker-{self._starts}.ready"
        data_dir = self._folder / f"worker-{self._starts}"
        command = [sys.executable, "-c", WORKER, self._servers, str(data_dir), str(PARTITIONS)]
        began = time.monotonic()
        process = subprocess.Popen(command, env={**os.environ, "AGENTLEDGER_READY_FILE": str(ready)})
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > began + WAIT_S_MAX:
                process.kill()
                raise RuntimeError("the worker did not start")
            time.sleep(0.01)
        return process, time.monotonic() - began

    def stop(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        """Stop them, and wait until they have left the group."""
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(WAIT_S_MAX)

    def fill(self, topic: str, records: list[tuple[int, bytes | None, bytes]]) -> None:
        """Put these on a topic: partition, key, value."""
        producer = Producer({"bootstrap.servers": self._servers, "linger.ms": 5})
        for partition, key, value in records:
            producer.produce(topic, value, key, partition)
            producer.poll(0)
            while len(producer) > 50_000:
                producer.poll(0.1)
        producer.flush(WAIT_S_MAX)

    def _wait_until_spread(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        """A worker that joined later makes the others give up partitions: give that its time."""
        if len(processes) > 1:
            time.sleep(10)

    def _wait_until_done(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        consumer = Consumer({"bootstrap.servers": self._servers, "group.id": WORKER_GROUP, "enable.auto.commit": False})
        places = [Place(PACKED.name, partition) for partition in range(PARTITIONS)]
        ends = [consumer.get_watermark_offsets(place)[1] for place in places]
        deadline = time.monotonic() + WAIT_S_MAX
        while [place.offset for place in consumer.committed(places)] != ends:
            if any(process.poll() is not None for process in processes) or time.monotonic() > deadline:
                raise RuntimeError("the workers did not get through their input")
            time.sleep(0.02)
        consumer.close()

    def _states(self) -> list[tuple[bytes, bytes]]:
        """Some key and value of the changelog."""
        consumer = Consumer({"bootstrap.servers": self._servers, "group.id": "bench", "enable.auto.commit": False})
        consumer.assign([Place(CHANGELOG, partition, 0) for partition in range(PARTITIONS)])
        found = [(message.key() or b"", message.value() or b"") for message in consumer.consume(1000, 10)]
        consumer.close()
        return found


async def bare_loop(servers: str) -> float:
    """Events per CPU second of an aiokafka consumer that unpacks and decodes, and does nothing else."""
    codec = Codec(open_registry())
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(PACKED.name, partition) for partition in range(PARTITIONS)])
        count, began = 0, time.process_time()
        while count < EVENTS:
            for batch in (await consumer.getmany(timeout_ms=1000)).values():
                for message in batch:
                    for record in unpack(message.value):
                        codec.decode(record.value)
                        count += 1
        return count / (time.process_time() - began)
    finally:
        await consumer.stop()


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """User and system time of a running process, all its threads, seconds."""
    fields = Path(f"/proc/{process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def batches(messages: Messages) -> Iterator[Messages]:
    """The messages, as many at a time as the worker takes."""
    for first in range(0, len(messages), BATCH_MESSAGES):
        yield messages[first : first + BATCH_MESSAGES]


def fold_batch(fold: RunFold, batch: Messages, states: dict[bytes, bytes | None]) -> None:
    """Fold a batch as the worker does, and keep its states."""
    for partition, value in batch:
        fold.take_packed(partition, value)
    states.update((key, state) for _, key, state in fold.take_changed())


def pure_fold(messages: Messages) -> tuple[float, float]:
    """Events per CPU second of the same folds in a plain loop, states kept in a dict; and bytes of a run's state."""
    states: dict[bytes, bytes | None] = {}
    fold = RunFold(Codec(open_registry()), GenaiPriceBook(), states.get, partitions=PARTITIONS, rules=default_rules())
    began = time.process_time()
    for batch in batches(messages):
        fold_batch(fold, batch, states)
    speed = EVENTS / (time.process_time() - began)
    sizes = [len(key) + len(value or b"") for key, value in states.items() if is_of_run(key)]
    return speed, sum(sizes) / len(sizes)
