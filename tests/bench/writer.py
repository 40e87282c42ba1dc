"""The writer, from the broker into the table; against decoding in Python, and against rows that are encoded already."""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import clickhouse_connect
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from agentledger.infra.ledger_setup import prepare_clickhouse, prepare_kafka
from agentledger.infra.settings import load_settings
from agentledger.infra.stack import Endpoints, Stack, StackConfig
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.events import Event
from agentledger.schemas.hashing import EMPTY_SHA256, LeafHasher
from agentledger.schemas.topics import EVENTS
from agentledger.sinks.tables import typed_columns
from tests.bench.report import Figure
from tests.bench.sample import sample_records
from tests.bench.worker import cpu_seconds

EVENTS_WRITTEN = 400_000
EVENTS_COMPARED = 200_000
BATCH = 50_000  # as many rows at a time as the writer takes
PARTITIONS = 4
NATIVE_RUNS = 5  # each takes little more than a second, so one alone says little
WAIT_S_MAX = 240
EVIDENCE_COLUMNS = [
    "topic", "partition", "offset", "log_index", "ledger_time", "batch_time", "event_type",
    "key", "key_sha256", "headers_sha256", "value_sha256", "leaf_hash", "raw",
]  # fmt: skip


def measure(folder: Path) -> list[Figure]:
    """Throughput of the writer process, its Python time, and its two ratios, on one broker and one ClickHouse."""
    stack = Stack(StackConfig(data_dir=folder))
    endpoints = stack.up()
    try:
        kafka = {"bootstrap.servers": endpoints.kafka_bootstrap_servers}
        prepare_kafka(kafka, partitions=PARTITIONS, replication_factor=1)
        prepare_clickhouse(endpoints.clickhouse_url, load_settings(data_dir=folder))
        fill(kafka)
        client = clickhouse_connect.get_client(dsn=endpoints.clickhouse_url, autogenerate_session_id=False)
        rate, cpu_s = writer(endpoints, folder, client)
        decoded = decode_and_insert(kafka, client)
        native = insert_native(client)
    finally:
        stack.down()
    return [
        Figure("writer_events_per_s", rate, "events/s", ""),
        Figure("writer_python_cpu_s_per_million", cpu_s / EVENTS_WRITTEN * 1e6, "CPU-s", ""),
        Figure("writer_vs_decode", rate / decoded, "ratio", "at least 4"),
        Figure("writer_vs_native", rate / native, "ratio", "at least 0.4"),
    ]


def fill(kafka: dict[str, str]) -> None:
    """Put the events on their topic."""
    producer = Producer({**kafka, "linger.ms": 50, "queue.buffering.max.messages": 500_000})
    for key, value in sample_records(EVENTS_WRITTEN):
        producer.produce(EVENTS.name, value, key)
        producer.poll(0)
    producer.flush(WAIT_S_MAX)


def writer(endpoints: Endpoints, folder: Path, client: Any) -> tuple[float, float]:
    """Events per second between the first flush and the last, and CPU seconds of the whole process for all of them."""
    env = {**os.environ, **endpoints.env(), "AGENTLEDGER_DATA_DIR": str(folder), "AGENTLEDGER_LOG_LEVEL": "WARNING"}
    ready = folder / "writer.ready"
    env["AGENTLEDGER_READY_FILE"] = str(ready)
    with subprocess.Popen([sys.executable, "-m", "agentledger.infra.cli", "writer"], env=env) as process:
        try:
            while not ready.exists():
                if process.poll() is not None:
                    raise RuntimeError("the writer did not start")
                time.sleep(0.01)
            before_s = cpu_seconds(process)
            deadline = time.monotonic() + WAIT_S_MAX
            while client.query("SELECT sum(rows) FROM agentledger.ledger_batches").result_rows[0][0] < EVENTS_WRITTEN:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the writer did not get through its input")
                time.sleep(0.5)  # seldom: asking takes the server's time
            cpu_s = cpu_seconds(process) - before_s
        finally:
            process.terminate()
            process.wait(WAIT_S_MAX)
    flushes = client.query(
        "SELECT toUnixTimestamp64Micro(written_at), sum(rows) FROM agentledger.ledger_batches GROUP BY 1 ORDER BY 1"
    ).result_rows
    rows = sum(count for _, count in flushes[1:])
    return rows / ((flushes[-1][0] - flushes[0][0]) / 1e6), cpu_s


def decode_and_insert(kafka: dict[str, str], client: Any) -> float:
    """Events per second of the plain way to the same rows: consume, decode with fastavro, hash, `client.insert`."""
    client.command("CREATE TABLE agentledger.bench_decoded AS agentledger.ledger")
    typed = list(typed_columns())
    codec, hashers = Codec(open_registry()), [LeafHasher(bytes(16), partition) for partition in range(PARTITIONS)]
    consumer = Consumer({**kafka, "group.id": "bench", "enable.auto.commit": False})
    consumer.assign([TopicPartition(EVENTS.name, partition, 0) for partition in range(PARTITIONS)])
    count, began = 0, 0.0
    while count < EVENTS_COMPARED:
        messages = consumer.consume(BATCH, 1.0)
        began = began or time.perf_counter()
        by_type: dict[str, list[dict[str, Any]]] = {}
        for message in messages:
            event = codec.decode(message.value())
            row = _fields(event) | _evidence(message, event, hashers[message.partition()])
            by_type.setdefault(type(event).__name__, []).append(row)
        for rows in by_type.values():
            names = [name for name in [*EVIDENCE_COLUMNS, *typed] if name in rows[0]]
            client.insert("agentledger.bench_decoded", [[row[name] for name in names] for row in rows], names)
        count += len(messages)
    consumer.close()
    return count / (time.perf_counter() - began)


def _fields(event: Any) -> dict[str, Any]:
    """All fields of an event, with times as ClickHouse's driver takes them."""
    fields = {name: getattr(event, name) for name in event.__dataclass_fields__}
    fields["occurred_at"] = datetime.fromtimestamp(event.occurred_at / 1e6, UTC)
    return fields


def _evidence(message: Message, event: Event, hasher: LeafHasher) -> dict[str, Any]:
    """Place, hashes and exact bytes of a record. It looks for no duplicates, which the writer does."""
    value, key, offset = message.value() or b"", message.key() or b"", message.offset() or 0
    time_us = message.timestamp()[1] * 1000
    value_hash, key_hash = hashlib.sha256(value).digest(), hashlib.sha256(key).digest()
    leaf = hasher.leaf(offset, offset, time_us, event.event_id.encode(), bytes(32), key_hash, EMPTY_SHA256, value_hash)
    moment = datetime.fromtimestamp(time_us / 1e6, UTC)
    hashes = key_hash, EMPTY_SHA256, value_hash, leaf
    place = message.topic(), message.partition(), offset, offset, moment, moment, type(event).__name__
    return dict(zip(EVIDENCE_COLUMNS, (*place, key, *hashes, value), strict=True))


def insert_native(client: Any) -> float:
    """Events per second of inserting the same rows, encoded by ClickHouse itself: the median of some runs."""
    client.command("CREATE TABLE agentledger.bench_native AS agentledger.ledger")
    blocks = [
        client.raw_query(
            f"SELECT * FROM agentledger.ledger ORDER BY topic, partition, log_index LIMIT {BATCH} OFFSET {start}",
            fmt="Native",
        )
        for start in range(0, EVENTS_COMPARED, BATCH)
    ]
    client.command("DROP TABLE agentledger.bench_decoded SYNC")  # merging its parts would slow this baseline
    wait_for_merges(client)
    rates = []
    for _ in range(NATIVE_RUNS):
        client.command("TRUNCATE TABLE agentledger.bench_native")
        began = time.perf_counter()
        for block in blocks:
            client.raw_insert(
                "agentledger.bench_native", insert_block=block, fmt="Native", settings={"async_insert": 0}
            )
        rates.append(EVENTS_COMPARED / (time.perf_counter() - began))
    return statistics.median(rates)


def wait_for_merges(client: Any) -> None:
    """Wait until the server merges nothing: what was measured before must not slow what is measured next."""
    deadline = time.monotonic() + WAIT_S_MAX
    while client.query("SELECT count() FROM system.merges").result_rows[0][0]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"ClickHouse still merges after {WAIT_S_MAX} s")
        time.sleep(0.2)
