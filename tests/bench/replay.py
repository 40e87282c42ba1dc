"""A replay from ClickHouse, all processes, against one live worker that drains the same events from Kafka."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import clickhouse_connect
from confluent_kafka import Consumer, Producer, TopicPartition

from agentledger.infra.ledger_setup import prepare_clickhouse, prepare_kafka
from agentledger.infra.replay import replay
from agentledger.infra.replay_crew import Crew
from agentledger.infra.replay_wanted import Wanted
from agentledger.infra.replay_wiring import LedgerWiring
from agentledger.infra.settings import load_settings
from agentledger.infra.stack import Endpoints, Stack, StackConfig
from agentledger.processors.topics import PACKER_GROUP, WORKER_GROUP
from agentledger.schemas.codec import Codec
from agentledger.schemas.events import Event
from agentledger.schemas.registry import open_registry
from agentledger.schemas.topics import EVENTS, PACKED
from tests.bench.report import ROUNDS, Figure
from tests.bench.sample import sample_events

EVENTS_FOLDED = 300_000  # by a live worker at a time
PARTITIONS = 4
WAIT_S_MAX = 300
CALM_S = 2  # without a merge: the next one is looked for at once, when one has ended


def measure(folder: Path) -> list[Figure]:
    """Events per second of both, wall clock, and their ratio."""
    stack = Stack(StackConfig(data_dir=folder))
    endpoints = stack.up()
    try:
        kafka = {"bootstrap.servers": endpoints.kafka_bootstrap_servers}
        prepare_kafka(kafka, partitions=PARTITIONS, replication_factor=1)
        prepare_clickhouse(endpoints.clickhouse_url, load_settings(data_dir=folder))
        worker, events = 0.0, sample_events(ROUNDS * EVENTS_FOLDED)
        for _ in range(ROUNDS):
            fill(kafka, islice(events, EVENTS_FOLDED))
            with program("packer", endpoints, folder):
                wait(lambda: positions(kafka, PACKER_GROUP, EVENTS.name) == ends(kafka, EVENTS.name))
            worker = max(worker, live_worker(kafka, endpoints, folder))
        with program("writer", endpoints, folder):
            wait(lambda: is_written(kafka, endpoints))
        wait_for_merges(endpoints)
        wiring = LedgerWiring(endpoints.clickhouse_url, PARTITIONS)
        with ProcessPoolExecutor(1, get_context("spawn")) as command:  # a process with nothing in it, as the command is
            rate, checked_rate = (
                max(command.submit(replay_rate, wiring, with_columns=checked).result() for _ in range(ROUNDS))
                for checked in (False, True)
            )
    finally:
        stack.down()
    return [
        Figure("replay_events_per_s", rate, "events/s", ""),
        Figure("replay_vs_worker", rate / worker, "ratio", "at least 3"),
        Figure("replay_with_columns_events_per_s", checked_rate, "events/s", ""),
    ]


def replay_rate(wiring: LedgerWiring, *, with_columns: bool) -> float:
    """Events per second of a replay with a process per core, wall clock, from before those start."""
    began = time.perf_counter()
    with Crew(os.cpu_count() or 1) as crew:
        found = replay(wiring, Wanted(), crew, with_columns=with_columns)
    seconds = time.perf_counter() - began
    if not found.is_equal or not found.expected or found.equal.total() != found.expected:
        raise RuntimeError(f"{found.different} of {found.expected} conclusions differ, {found.not_yet} are not there")
    return ROUNDS * EVENTS_FOLDED / seconds


def fill(kafka: dict[str, str], events: Iterable[Event]) -> None:
    """Put the events on their topic. The agents' clocks are right: else an alert follows from every few events."""
    codec = Codec(open_registry())
    producer = Producer({**kafka, "linger.ms": 50, "queue.buffering.max.messages": 500_000})
    for event in events:
        event.occurred_at = time.time_ns() // 1000
        producer.produce(EVENTS.name, codec.encode(event), event.run_id.encode())
        producer.poll(0)
    producer.flush(WAIT_S_MAX)


def live_worker(kafka: dict[str, str], endpoints: Endpoints, folder: Path) -> float:
    """Events per second of one worker that finds all of them waiting: from its first commit to its last."""
    last = ends(kafka, PACKED.name)
    with program("worker", endpoints, folder):
        began = time.monotonic()
        wait(lambda: positions(kafka, WORKER_GROUP, PACKED.name) == last)
        return EVENTS_FOLDED / (time.monotonic() - began)


@contextmanager
def program(name: str, endpoints: Endpoints, folder: Path) -> Iterator[None]:
    """`agentledger NAME` while it is needed, from when it is ready."""
    ready = folder / f"{name}.ready"
    env = {**os.environ, **endpoints.env(), "AGENTLEDGER_DATA_DIR": str(folder), "AGENTLEDGER_LOG_LEVEL": "WARNING"}
    env["AGENTLEDGER_READY_FILE"] = str(ready)
    with subprocess.Popen([sys.executable, "-m", "agentledger.infra.cli", name], env=env) as process:
        try:
            wait(ready.exists)
            yield
        finally:
            process.terminate()
            process.wait(WAIT_S_MAX)


def positions(kafka: dict[str, str], group: str, topic: str) -> list[int]:
    """Where a group stands in each partition."""
    consumer = Consumer({**kafka, "group.id": group, "enable.auto.commit": False})
    try:
        return [place.offset for place in consumer.committed(_places(topic))]
    finally:
        consumer.close()


def ends(kafka: dict[str, str], topic: str) -> list[int]:
    """The offset that comes next in each partition."""
    consumer = Consumer({**kafka, "group.id": "bench", "enable.auto.commit": False})
    try:
        return [consumer.get_watermark_offsets(place)[1] for place in _places(topic)]
    finally:
        consumer.close()


def is_written(kafka: dict[str, str], endpoints: Endpoints) -> bool:
    """True where the ledger holds every record of the events and of what the worker concluded."""
    client: Any = clickhouse_connect.get_client(dsn=endpoints.clickhouse_url, autogenerate_session_id=False)
    rows = client.query("SELECT topic, sum(rows) FROM agentledger.ledger_batches GROUP BY topic").result_rows
    client.close()
    written = dict(rows)
    topics = (EVENTS.name, "agentledger.spend.v1", "agentledger.budgets.v1", "agentledger.alerts.v1")
    return all(written.get(topic, 0) == sum(ends(kafka, topic)) for topic in topics)


def wait_for_merges(endpoints: Endpoints) -> None:
    """Wait until ClickHouse has merged the parts that the writer made: it takes as many cores as there are, and is the
    writing's cost. The live worker, too, is measured with nothing beside it but the broker."""
    client: Any = clickhouse_connect.get_client(dsn=endpoints.clickhouse_url, autogenerate_session_id=False)
    calm_since = time.monotonic()

    def is_calm() -> bool:
        nonlocal calm_since
        [[merges]] = client.query("SELECT count() FROM system.merges").result_rows
        if merges:
            calm_since = time.monotonic()
        return time.monotonic() - calm_since >= CALM_S

    wait(is_calm)
    client.close()


def wait(is_done: Callable[[], bool]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + WAIT_S_MAX
    while not is_done():
        if time.monotonic() > deadline:
            raise RuntimeError("it took too long")
        time.sleep(0.05)


def _places(topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
