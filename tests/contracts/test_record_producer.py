"""What every RecordProducer does: the fake, and librdkafka on its own mock cluster and on a real Kafka."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from agentledger.infra.stack import StackConfig, kafka_classpath
from agentledger.infra.stack.kafka import KafkaService
from agentledger.infra.stack.ports import free_port
from agentledger.producers import KafkaRecordProducer
from agentledger.schemas.ports import RecordProducer
from agentledger.schemas.testing.record_producer import FakeRecordProducer

TOPIC = "record-producer-contract"
VALUE_BYTES_TOO_MANY = 2_000_000


class Subject(NamedTuple):
    """A producer with its broker up, one whose broker is away, and a look at what arrived."""

    producer: RecordProducer
    lonely: RecordProducer
    arrived: Callable[[int], list[tuple[bytes, bytes]]]


def read_back(servers: str, count: int) -> list[tuple[bytes, bytes]]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "contract", "auto.offset.reset": "earliest"})
    try:
        partitions = consumer.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions
        consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in partitions])
        found: list[tuple[bytes, bytes]] = []
        end = time.monotonic() + 20
        while len(found) < count and time.monotonic() < end:
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                found.append((message.key() or b"", message.value() or b""))
        return found
    finally:
        consumer.close()


def fake_subject() -> Iterator[Subject]:
    fake = FakeRecordProducer()
    yield Subject(
        fake,
        FakeRecordProducer(up=False, records_max=10),
        lambda count: [(record.key, record.value) for record in fake.records],
    )


def kafka_subject(servers: str) -> Iterator[Subject]:
    producer = KafkaRecordProducer({"bootstrap.servers": servers})
    lonely = KafkaRecordProducer({"bootstrap.servers": "127.0.0.1:1", "queue.buffering.max.messages": 10})
    yield Subject(producer, lonely, lambda count: read_back(servers, count))
    producer.close()
    lonely.close()


def mock_subject() -> Iterator[Subject]:
    host = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    brokers = host.list_topics(timeout=10).brokers.values()
    yield from kafka_subject(",".join(f"{broker.host}:{broker.port}" for broker in brokers))
    host.flush(0)


def real_subject(folder: Path) -> Iterator[Subject]:
    config = StackConfig(folder)
    service = KafkaService(folder, free_port(), free_port(), kafka_classpath(config.cache_dir))
    service.start()
    try:
        service.wait_ready(time.monotonic() + 60)
        admin = AdminClient({"bootstrap.servers": service.endpoint})
        (created,) = admin.create_topics([NewTopic(TOPIC, 3, 1)]).values()
        created.result(20)
        yield from kafka_subject(service.endpoint)
    finally:
        service.stop()


@pytest.fixture(params=["fake", "mock", pytest.param("kafka", marks=pytest.mark.integration)])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    if request.param == "fake":
        yield from fake_subject()
    elif request.param == "mock":
        yield from mock_subject()
    else:
        yield from real_subject(tmp_path)


def test_what_is_sent_arrives_once_and_is_reported_once(subject: Subject) -> None:
    reports: list[tuple[str | None, bytes]] = []
    sent = [(f"k{number % 7}".encode(), b"v%d" % number) for number in range(500)]
    for key, value in sent:
        assert subject.producer.send(TOPIC, key, value, lambda *told: reports.append(told))
    assert subject.producer.flush(20) == 0
    assert subject.producer.waiting() == 0
    assert sorted(reports) == sorted((None, value) for _, value in sent)
    found = subject.arrived(500)
    assert sorted(found) == sorted(sent)
    for key in {key for key, _ in sent}:
        assert [pair for pair in found if pair[0] == key] == [pair for pair in sent if pair[0] == key]


def test_threads_may_send_at_once(subject: Subject) -> None:
    reports: list[tuple[str | None, bytes]] = []

    def send(name: int) -> None:
        for number in range(100):
            subject.producer.send(TOPIC, b"k", b"%d-%d" % (name, number), lambda *told: reports.append(told))

    threads = [threading.Thread(target=send, args=[name]) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert subject.producer.flush(20) == 0
    assert {error for error, _ in reports} == {None}
    assert len(reports) == len({value for _, value in reports}) == 400
    assert len(set(subject.arrived(400))) == 400


def test_a_value_that_is_too_large_is_refused_with_a_reason(subject: Subject) -> None:
    reports: list[tuple[str | None, bytes]] = []
    assert subject.producer.send(TOPIC, b"k", b"x" * VALUE_BYTES_TOO_MANY, lambda *told: reports.append(told))
    assert subject.producer.flush(20) == 0
    ((error, value),) = reports
    assert "TOO_LARGE" in (error or "")
    assert len(value) == VALUE_BYTES_TOO_MANY


def test_without_a_broker_records_wait_and_a_full_queue_says_so(subject: Subject) -> None:
    reports: list[tuple[str | None, bytes]] = []
    taken = [subject.lonely.send(TOPIC, b"k", b"v", lambda *told: reports.append(told)) for _ in range(15)]
    assert taken == [True] * 10 + [False] * 5
    assert subject.lonely.flush(0.1) >= 10
    assert reports == []
    end = time.monotonic() + 20
    while subject.lonely.waiting() != 10:  # librdkafka counts its own unread log lines in for a moment
        assert time.monotonic() < end
