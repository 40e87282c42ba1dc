"""The worker: Faust with our processors, against a bare aiokafka loop that decodes, and the folds without Faust."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as Place

from agentledger.infra.ledger_setup import prepare_kafka
from agentledger.infra.stack import Endpoints, Stack, StackConfig
from agentledger.processors.packing import PackedRecord, pack, unpack
from agentledger.processors.run_fold import RunFold
from agentledger.processors.topics import WORKER_GROUP
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.prices import GenaiPriceBook
from agentledger.schemas.topics import PACKED
from tests.bench.report import Figure
from tests.bench.sample import START_US, sample_events

EVENTS = 60_000
PARTITIONS = 4
EVENTS_PER_MESSAGE = 100
WAIT_S_MAX = 120


def measure(folder: Path) -> list[Figure]:
    """Events per second and core of the worker, and its two ratios."""
    messages = packed_messages()
    stack = Stack(StackConfig(data_dir=folder))
    endpoints = stack.up()
    try:
        kafka = {"bootstrap.servers": endpoints.kafka_bootstrap_servers}
        prepare_kafka(kafka, partitions=PARTITIONS, replication_factor=1)
        fill(kafka, messages)
        bare = asyncio.run(bare_loop(endpoints.kafka_bootstrap_servers))
        worker = faust_worker(endpoints, folder)
    finally:
        stack.down()
    pure = pure_fold(messages)
    return [
        Figure("worker_events_per_s", worker, "events/s per core", "at least 10,000"),
        Figure("worker_vs_aiokafka", worker / bare, "ratio", ""),
        Figure("worker_vs_pure", worker / pure, "ratio", ""),
    ]


def packed_messages() -> list[tuple[int, bytes]]:
    """Partition and value of packed messages, a run's events always in one partition.

    By the broker's clock a thousand events a second come to each partition; the agents' clocks are right.
    """
    codec = Codec(open_registry())
    places: dict[int, list[PackedRecord]] = {partition: [] for partition in range(PARTITIONS)}
    for event in sample_events(EVENTS):
        records = places[sum(event.run_id.encode()) % PARTITIONS]
        time_ms = START_US // 1000 + len(records)
        event.occurred_at = (time_ms - 20) * 1000
        records.append(PackedRecord(len(records), time_ms, codec.encode(event)))
    return [
        (partition, pack(records[start : start + EVENTS_PER_MESSAGE]))
        for partition, records in places.items()
        for start in range(0, len(records), EVENTS_PER_MESSAGE)
    ]


def fill(kafka: dict[str, str], messages: list[tuple[int, bytes]]) -> None:
    """Put the messages on the packed topic."""
    producer = Producer(kafka)
    for partition, value in messages:
        producer.produce(PACKED.name, value, partition=partition)
        producer.poll(0)
    producer.flush(WAIT_S_MAX)


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


def faust_worker(endpoints: Endpoints, folder: Path) -> float:
    """Events per CPU second of the real worker process, from its first commit to its last."""
    env = {**os.environ, **endpoints.env(), "AGENTLEDGER_DATA_DIR": str(folder), "AGENTLEDGER_LOG_LEVEL": "WARNING"}
    ready = folder / "worker.ready"
    env["AGENTLEDGER_READY_FILE"] = str(ready)
    command = [sys.executable, "-m", "agentledger.infra.cli", "worker"]
    consumer = Consumer({"bootstrap.servers": endpoints.kafka_bootstrap_servers, "group.id": WORKER_GROUP})
    places = [Place(PACKED.name, partition) for partition in range(PARTITIONS)]
    ends = [consumer.get_watermark_offsets(place)[1] for place in places]
    with subprocess.Popen(command, env=env) as process:
        try:
            while not ready.exists():
                if process.poll() is not None:
                    raise RuntimeError("the worker did not start")
                time.sleep(0.01)
            began = cpu_seconds(process.pid)
            deadline = time.monotonic() + WAIT_S_MAX
            while [place.offset for place in consumer.committed(places)] != ends:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the worker did not get through its input")
                time.sleep(0.05)
            return EVENTS / (cpu_seconds(process.pid) - began)
        finally:
            process.terminate()
            process.wait(WAIT_S_MAX)
            consumer.close()


def cpu_seconds(pid: int) -> float:
    """User and system time of a running process, all its threads, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pure_fold(messages: list[tuple[int, bytes]]) -> float:
    """Events per CPU second of the same folds in a plain loop, states kept in a dict."""
    states: dict[bytes, bytes] = {}
    fold = RunFold(Codec(open_registry()), GenaiPriceBook(), states.get)
    began = time.process_time()
    for partition, value in messages:
        for record in unpack(value):
            fold.take(partition, record)
        states.update((key, state) for _, key, state in fold.take_changed())
    return EVENTS / (time.process_time() - began)
