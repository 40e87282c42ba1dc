"""An agent and a real broker that comes late, dies and comes back: the agent goes on, and every event arrives once."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from agentledger.infra.stack import StackConfig, kafka_classpath
from agentledger.infra.stack.kafka import KafkaService
from agentledger.infra.stack.ports import free_port
from agentledger.producers import Ledger
from agentledger.schemas.codec import Codec
from agentledger.schemas.events import Event
from agentledger.schemas.registry import open_registry
from agentledger.schemas.topics import EVENTS, INTEGRITY

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


def read_events(servers: str, topic: str) -> list[Event]:
    """Everything on the topic, up to its end now."""
    codec = Codec(open_registry())
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "t", "enable.partition.eof": True})
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(4)])
        found: list[Event] = []
        ends = 0
        while ends < 4:
            message = consumer.poll(20)
            assert message is not None, "the broker has stopped answering"
            if message.error() is None:
                found.append(codec.decode(message.value()))
            else:
                ends += 1
        return found
    finally:
        consumer.close()


def act(ledger: Ledger, calls: int) -> None:
    with ledger.run("w") as run:
        for _ in range(calls):
            with run.tool_call("lookup_order", arguments={"order_id": "A-1"}, effect="read") as call:
                call.result({"ok": True})


def check_all_arrived_once(ledger: Ledger, servers: str) -> None:
    counters = ledger.counters
    assert (counters.delivered, counters.waiting, counters.failed, counters.dropped) == (counters.emitted, 0, 0, {})
    seqs = Counter(event.producer_seq for event in read_events(servers, EVENTS.name))
    assert seqs == Counter(range(counters.emitted))
    assert read_events(servers, INTEGRITY.name) == []


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
