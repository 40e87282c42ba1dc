"""An agent and a real broker that comes late, dies and comes back: the agent goes on, and every event arrives once."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from agentledger.infra.stack import StackConfig, kafka_classpath
from agentledger.infra.stack.kafka import KafkaService
from agentledger.infra.stack.ports import free_port
from agentledger.producers import Ledger
from agentledger.schemas.topics import EVENTS, INTEGRITY
from tests.kafka_broker import events_on

pytestmark = pytest.mark.integration

OUTAGE_SECONDS = 30
BATCHES = 100
CALLS_PER_BATCH = 100


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[KafkaService]:
    """A broker that is not started yet."""
    classpath = kafka_classpath(StackConfig(tmp_path).cache_dir)
    service = KafkaService(tmp_path, free_port(), free_port(), classpath)
    yield service
    service.stop()


def start(kafka: KafkaService) -> None:
    kafka.start()
    kafka.wait_ready(time.monotonic() + 90)


def make_topics(servers: str) -> None:
    topics = [NewTopic(topic.name, 4, 1) for topic in (EVENTS, INTEGRITY)]
    admin = AdminClient({"bootstrap.servers": servers})
    for made in admin.create_topics(topics).values():
        made.result(30)


def act(ledger: Ledger, calls: int) -> None:
    with ledger.run("w") as run:
        for _ in range(calls):
            with run.tool_call("lookup_order", arguments={"order_id": "A-1"}, effect="read") as call:
                call.result({"ok": True})


def check_all_arrived_once(ledger: Ledger, servers: str) -> None:
    counters = ledger.counters
    assert (counters.delivered, counters.waiting, counters.failed, counters.dropped) == (counters.emitted, 0, 0, {})
    seqs = Counter(event.producer_seq for event in events_on(servers, EVENTS.name))
    assert seqs == Counter(range(counters.emitted))
    assert events_on(servers, INTEGRITY.name) == []


def test_a_broker_that_is_away_for_half_a_minute_costs_the_agent_nothing(kafka: KafkaService) -> None:
    start(kafka)
    make_topics(kafka.endpoint)
    with Ledger(agent_id="a", bootstrap_servers=kafka.endpoint) as ledger:
        act(ledger, 100)
        assert kafka.pid is not None
        os.killpg(kafka.pid, signal.SIGKILL)
        kafka.stop()
        end = time.monotonic() + OUTAGE_SECONDS
        for batch in range(BATCHES):
            act(ledger, CALLS_PER_BATCH)
            time.sleep(max(0.0, (end - time.monotonic()) / (BATCHES - batch)))
        assert ledger.counters.emitted == 102 + BATCHES * (CALLS_PER_BATCH + 2)
        assert ledger.counters.waiting >= BATCHES * (CALLS_PER_BATCH + 2)
        start(kafka)
        assert ledger.flush(60) == 0
        check_all_arrived_once(ledger, kafka.endpoint)


def test_an_agent_may_start_before_its_broker_and_its_topics(kafka: KafkaService) -> None:
    with Ledger(agent_id="a", bootstrap_servers=kafka.endpoint) as ledger:
        act(ledger, 500)
        start(kafka)
        act(ledger, 500)
        assert ledger.flush(2) == 1004  # the broker is there, its topics are not
        make_topics(kafka.endpoint)
        assert ledger.flush(60) == 0
        check_all_arrived_once(ledger, kafka.endpoint)
