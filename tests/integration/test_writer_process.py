"""The writer as a process of its own on a real Kafka and a real ClickHouse, killed, stopped and overtaken."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from agentledger.infra.stack import StackConfig, kafka_classpath
from agentledger.infra.stack.clickhouse import ClickHouseService
from agentledger.infra.stack.kafka import KafkaService
from agentledger.infra.stack.ports import free_port
from agentledger.infra.topic_admin import create_topics
from agentledger.schemas import Codec, open_registry, uuid7
from agentledger.schemas.events import EVENT_TYPES, Event, ModelCallCompleted, ToolCallCompleted
from agentledger.schemas.topics import EVENTS
from agentledger.sinks import migrate
from agentledger.sinks.tables import trail_schemas, typed_columns
from tests.strategies import events_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
CODEC = Codec(open_registry())
NOW_US = 1_790_000_000_000_000
PARTITIONS = 3


class Rig:
    """A broker, a ClickHouse, and writers that come and go. Each test has keys of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kafka = KafkaService(folder, free_port(), free_port(), kafka_classpath(StackConfig(folder).cache_dir))
        self.clickhouse = ClickHouseService(folder, free_port(), free_port())
        self.writers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for service in (self.kafka, self.clickhouse):
            service.start()
        for service in (self.kafka, self.clickhouse):
            service.wait_ready(time.monotonic() + 60)
        create_topics({"bootstrap.servers": self.kafka.endpoint}, partitions=PARTITIONS, replication_factor=1)
        migrate(clickhouse_connect.get_client(dsn=self.clickhouse.endpoint, autogenerate_session_id=False))

    def stop(self) -> None:
        for writer in self.writers:
            if writer.poll() is None:
                writer.kill()
            writer.wait()
        for service in (self.clickhouse, self.kafka):
            service.stop()

    def writer(self) -> subprocess.Popen[bytes]:
        """Start a writer, and wait until it has logs to write."""
        number = len(self.writers)
        ready = self.folder / f"writer-{number}.ready"
        env = {
            **os.environ,
            "AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS": self.kafka.endpoint,
            "AGENTLEDGER_CLICKHOUSE_URL": self.clickhouse.endpoint,
            "AGENTLEDGER_WRITER_BATCH_ROWS_MAX": "700",  # many flushes, so that many are there to be hit
            "AGENTLEDGER_READY_FILE": str(ready),
        }
        with (self.folder / f"writer-{number}.log").open("wb") as log:
            command = [sys.executable, "-m", "agentledger.infra.cli", "writer"]
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        self.writers.append(process)
        eventually(ready.exists, f"writer {number} is ready", wait_s_max=90)
        return process

    def log_of(self, writer: subprocess.Popen[bytes]) -> str:
        return (self.folder / f"writer-{self.writers.index(writer)}.log").read_text()

    def send(self, values: list[tuple[str, bytes]]) -> None:
        producer = Producer({"bootstrap.servers": self.kafka.endpoint, "message.max.bytes": 8_000_000, "linger.ms": 5})
        for key, value in values:
            producer.produce(EVENTS.name, value, key)
            producer.poll(0)
        assert producer.flush(60) == 0

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        client = clickhouse_connect.get_client(dsn=self.clickhouse.endpoint, autogenerate_session_id=False)
        try:
            return [tuple(row) for row in client.query(sql).result_rows]
        finally:
            client.close()

    def written(self, run_prefix: str) -> int:
        return int(self.query(f"SELECT count() FROM agentledger.ledger WHERE startsWith(key, '{run_prefix}')")[0][0])

    def check_logs(self) -> None:
        """Every log dense from 0, nothing there twice, and as much as the commit records say."""
        logs = self.query(
            "SELECT topic, partition, count(), uniqExact(log_index), max(log_index) + 1, uniqExact(offset) "
            "FROM agentledger.ledger GROUP BY topic, topic_id, partition"
        )
        assert logs
        for topic, partition, rows, indexes, end, offsets in logs:
            assert rows == indexes == end == offsets, f"{topic}/{partition}: {rows}, {indexes}, {end}, {offsets}"
        committed = self.query("SELECT sum(rows) FROM agentledger.ledger_batches")
        assert committed == [(sum(log[2] for log in logs),)]


def eventually(check: Callable[[], bool], what: str, wait_s_max: float = 60) -> None:
    end = time.monotonic() + wait_s_max
    while not check():
        assert time.monotonic() < end, f"not within {wait_s_max} s: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("writer"))
    try:
        rig.start()
        yield rig
    finally:
        rig.stop()


@pytest.fixture
def writer(rig: Rig) -> Iterator[subprocess.Popen[bytes]]:
    """A running writer, ended well after the test."""
    process = rig.writer()
    yield process
    process.terminate()
    assert process.wait(60) == 0, rig.log_of(process)


def model_calls(run: str, count: int) -> list[tuple[str, bytes]]:
    """Keys and values of model calls, and of a tool call in each third place, over 50 runs."""
    found = []
    for seq in range(count):
        kind = ModelCallCompleted if seq % 3 else ToolCallCompleted
        run_id = f"{run}-{seq % 50}"
        event = kind(
            event_id=uuid7(NOW_US + seq), tenant_id="t", producer_id=run, producer_seq=seq, run_id=run_id,
            occurred_at=NOW_US + seq, attempt=seq,
        )  # fmt: skip
        found.append((run_id, CODEC.encode(event)))
    return found


def any_events(count: int) -> list[Event]:
    """Events of all types of the trail, with whatever the schemas allow in their fields."""
    found: list[Event] = []
    kinds = sorted(trail_schemas())

    @seed(7)
    @settings(max_examples=count, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
    @given(st.tuples(*(events_of(kind) for kind in kinds)))
    def collect(events: tuple[Event, ...]) -> None:
        found.extend(events)

    collect()
    return found


def test_every_field_of_every_type_arrives_as_it_was_sent(rig: Rig, writer: subprocess.Popen[bytes]) -> None:
    events = [dataclasses.replace(event, event_id=uuid7(NOW_US)) for event in any_events(210)]
    assert {type(event).__name__ for event in events} == set(trail_schemas())
    assert len(events) >= 5000
    rig.send([("mixed", CODEC.encode(event)) for event in events])
    eventually(lambda: rig.written("mixed") == len(events), "all events are written")
    assert rig.query("SELECT count() FROM agentledger.ledger WHERE event_type = ''") == [(0,)]
    by_type: dict[str, dict[str, Event]] = {}
    for event in events:
        by_type.setdefault(type(event).__name__, {})[event.event_id] = event
    for kind, sent in by_type.items():
        names = [field.name for field in dataclasses.fields(EVENT_TYPES[kind])]
        columns = ", ".join(map(shown, names))
        rows = rig.query(f"SELECT {columns} FROM agentledger.ledger WHERE event_type = '{kind}' AND key = 'mixed'")
        assert len(rows) == len(sent)
        for row in rows:
            stored = dict(zip(names, row, strict=True))
            event = sent[stored["event_id"]]
            for name in names:
                assert stored[name] == getattr(event, name), (kind, name)


def shown(name: str) -> str:
    kind = typed_columns()[name].type
    if "DateTime64" in kind:
        return f"toUnixTimestamp64Micro(`{name}`)"
    return f"toString(`{name}`)" if "UUID" in kind else f"`{name}`"


def test_an_event_of_five_megabytes_is_kept_where_the_topic_takes_it(rig: Rig, writer: subprocess.Popen[bytes]) -> None:
    admin = AdminClient({"bootstrap.servers": rig.kafka.endpoint})
    entry = ConfigEntry("max.message.bytes", "8000000", incremental_operation=AlterConfigOpType.SET)
    for future in admin.incremental_alter_configs(
        [ConfigResource(ResourceType.TOPIC, EVENTS.name, incremental_configs=[entry])]
    ).values():
        future.result(20)
    event = ToolCallCompleted(
        event_id=uuid7(NOW_US), tenant_id="t", producer_id="five", producer_seq=0, run_id="five", occurred_at=NOW_US,
        result_redacted="x" * 5_000_000,
    )  # fmt: skip
    rig.send([("five", CODEC.encode(event)), ("five", CODEC.encode(event)[:-1])])
    eventually(lambda: rig.written("five") == 2, "both are written")
    rows = rig.query(
        "SELECT length(result_redacted), length(raw), event_type, poison_reason != '' "
        "FROM agentledger.ledger WHERE key = 'five' ORDER BY log_index"
    )
    size = len(CODEC.encode(event))
    assert rows == [(5_000_000, size, "ToolCallCompleted", 0), (None, size - 1, "", 1)]


def test_a_flood_of_unreadable_records_of_every_kind_does_not_hold_up_the_others(
    rig: Rig, writer: subprocess.Popen[bytes]
) -> None:
    good = model_calls("flood-good", 2_000)
    bad = []
    for number, (_, value) in enumerate(model_calls("flood-bad", 4_000)):
        other_schema = b"\x00" + (1 + value[4] % 24).to_bytes(4, "big") + value[5:]
        spoilt = (value[:-1], value + b"\x00", other_schema, value.replace(b"flood", b"\xc3\x28ood"))
        bad.append(("flood-bad", spoilt[number % 4]))
    mixed = good + bad
    random.Random(3).shuffle(mixed)
    rig.send(mixed)
    eventually(lambda: rig.written("flood-") == len(mixed), "all are written", wait_s_max=120)
    answer = rig.query("SELECT countIf(event_type != ''), count() FROM agentledger.ledger WHERE key LIKE 'flood-good%'")
    assert answer == [(2_000, 2_000)]
    assert rig.query("SELECT count() FROM agentledger.ledger WHERE key = 'flood-bad' AND event_type != ''") == [(0,)]
    rig.check_logs()


def test_killed_at_random_moments_it_writes_everything_once(rig: Rig) -> None:
    number = random.randrange(10**6)
    print(f"seed {number}")  # noqa: T201 (shown where the test fails)
    rng = random.Random(number)
    values = model_calls("killed", 20_000)
    resent = rng.sample(values, 500)
    rig.send(values)
    for _ in range(5):
        process = rig.writer()
        time.sleep(rng.uniform(0, 1.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = rig.writer()
    rig.send(resent)
    eventually(lambda: rig.written("killed") >= 20_500, "all are written", wait_s_max=120)
    process.terminate()
    assert process.wait(60) == 0, rig.log_of(process)
    counts = rig.query(
        "SELECT countIf(occurrence = 'first'), countIf(occurrence = 'duplicate'), countIf(occurrence = 'conflict'), "
        "uniqExact(event_id) FROM agentledger.ledger WHERE startsWith(key, 'killed')"
    )
    assert counts == [(20_000, 500, 0, 20_000)]
    rig.check_logs()


def test_clickhouse_killed_in_the_middle_loses_nothing_and_doubles_nothing(
    rig: Rig, writer: subprocess.Popen[bytes]
) -> None:
    rig.send(model_calls("lost-server", 20_000))
    eventually(lambda: rig.written("lost-server") > 2_000, "some are written")
    pid = rig.clickhouse.pid
    assert pid is not None
    os.killpg(pid, signal.SIGKILL)
    time.sleep(2)
    rig.clickhouse.restart()
    rig.clickhouse.wait_ready(time.monotonic() + 60)
    eventually(lambda: rig.written("lost-server") == 20_000, "all are written", wait_s_max=120)
    eventually(lambda: "waiting: ClickHouse" in rig.log_of(writer), "it said why it waited")
    rig.check_logs()


def test_a_writer_that_was_stopped_and_overtaken_writes_nothing_when_it_wakes_up(rig: Rig) -> None:
    old = rig.writer()
    rig.send(model_calls("overtaken-a", 12_000))
    eventually(lambda: rig.written("overtaken-a") > 1_000, "the old one writes")
    old.send_signal(signal.SIGSTOP)
    new = rig.writer()
    rig.send(model_calls("overtaken-b", 3_000))
    eventually(lambda: rig.written("overtaken-") == 15_000, "the new one has written all", wait_s_max=90)
    old.send_signal(signal.SIGCONT)
    rig.send(model_calls("overtaken-c", 3_000))
    eventually(lambda: rig.written("overtaken-") >= 18_000, "whoever has the logs writes on", wait_s_max=90)
    time.sleep(2)  # for what must not come
    rig.check_logs()
    for process in (old, new):
        process.terminate()
        process.wait(60)
    assert new.returncode == 0, rig.log_of(new)
    assert old.returncode in {0, 1}
    if old.returncode:
        assert "another writer has taken over" in rig.log_of(old)
    rig.check_logs()
