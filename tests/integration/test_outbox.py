"""Agents that are killed while the broker is away, and eight forked workers: what `emit` acknowledged arrives, once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentledger.infra.stack.jars import default_cache_dir, kafka_classpath
from agentledger.infra.stack.kafka import KafkaService
from agentledger.infra.stack.ports import free_port
from agentledger.infra.topic_admin import create_topics
from agentledger.schemas.topics import EVENTS, INTEGRITY
from tests.kafka_broker import events_on
from tests.outbox_agents import flush_outbox, said_until_killed, start_agent

pytestmark = pytest.mark.integration

WORKERS = 8
PREFORK = """
import os, sys
from agentledger.producers import Ledger
ledger = Ledger(bootstrap_servers=sys.argv[1], control="off", outbox=sys.argv[2], flush_wait_ms_max=20_000)
with ledger.run("parent") as run:
    children = []
    for number in range(int(sys.argv[3])):
        child = os.fork()
        if child == 0:
            with ledger.run("w", run_id=f"worker-{number}") as mine:
                for _ in range(200):
                    event_id = mine.policy_decision(policy="p", verdict="allow")
                    os.write(1, f"{event_id}\\n".encode())
            os._exit(0)  # as multiprocessing does: nothing of atexit
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
print(run.event_id)
"""


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaService]:
    """A broker that is not started yet."""
    port = free_port()
    service = KafkaService(
        tmp_path_factory.mktemp("kafka"), port, free_port({port}), kafka_classpath(default_cache_dir())
    )
    yield service
    service.stop()


def start(kafka: KafkaService) -> None:
    kafka.start()
    kafka.wait_ready(time.monotonic() + 90)
    create_topics({"bootstrap.servers": kafka.endpoint}, partitions=4, replication_factor=1)


def test_what_killed_agents_acknowledged_arrives_once_when_the_broker_is_back(
    kafka: KafkaService, tmp_path: Path
) -> None:
    outbox = tmp_path / "outbox"
    said = said_until_killed(start_agent(kafka.endpoint, outbox, 100_000), 2000)
    second = start_agent(kafka.endpoint, outbox, 100_000, 0.001)
    said += said_until_killed(second, 200)
    start(kafka)
    flush_outbox(kafka.endpoint, outbox)
    times = Counter(event.event_id for event in events_on(kafka.endpoint, EVENTS.name))
    assert set(said) <= set(times)
    assert set(times.values()) == {1}  # nobody died while sending it
    out, _ = start_agent(kafka.endpoint, outbox, 100).communicate(timeout=60)
    flush_outbox(kafka.endpoint, outbox)  # what that one has not waited for, perhaps again
    assert not any(path.is_dir() for path in outbox.iterdir())
    found = events_on(kafka.endpoint, EVENTS.name)
    assert {*said, *out.split()} <= {event.event_id for event in found}
    by_producer: dict[str, dict[int, None]] = {}
    for event in found:
        by_producer.setdefault(event.producer_id, {})[event.producer_seq] = None
    assert len(by_producer) == 3
    assert all(list(seqs) == list(range(len(seqs))) for seqs in by_producer.values())  # nothing missing, in order
    assert events_on(kafka.endpoint, INTEGRITY.name) == []


def test_eight_forked_workers_share_an_outbox_folder(kafka: KafkaService, tmp_path: Path) -> None:
    if not kafka.is_ready():  # where this test is run alone
        start(kafka)
    outbox = tmp_path / "outbox"
    command = [sys.executable, "-c", PREFORK, kafka.endpoint, str(outbox), str(WORKERS)]
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    out, _ = done.communicate(timeout=90)
    assert done.returncode == 0
    said = set(out.split())
    assert len(said) == WORKERS * 200 + 1
    if any(path.is_dir() for path in outbox.iterdir()):
        flush_outbox(kafka.endpoint, outbox)
    found = [event for event in events_on(kafka.endpoint, EVENTS.name) if event.run_id.startswith("worker-")]
    assert said - {event.event_id for event in found} == {out.split()[-1]}  # all but the parent's
    assert {event.run_id for event in found} == {f"worker-{number}" for number in range(WORKERS)}
    assert len({event.producer_id for event in found}) == WORKERS
