"""A fresh Kafka with the ledger's topics, and what is on them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewTopic

from agentledger.infra.stack.jars import default_cache_dir, kafka_classpath
from agentledger.infra.stack.kafka import KafkaService
from agentledger.infra.stack.ports import free_port
from agentledger.infra.topic_admin import create_topics
from agentledger.processors import worker_topics
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.events import Event

PARTITIONS = 4


def events_on(servers: str, topic: str) -> list[Event]:
    """Everything on a topic of `PARTITIONS` partitions, up to its end now."""
    codec = Codec(open_registry())
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "t", "enable.partition.eof": True})
    with contextlib.closing(consumer):
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
        found: list[Event] = []
        ends = 0
        while ends < PARTITIONS:
            message = consumer.poll(20)
            assert message is not None, "the broker has stopped answering"
            if message.error() is None:
                found.append(codec.decode(message.value()))
            else:
                ends += 1
        return found


@contextlib.contextmanager
def kafka_broker(folder: Path) -> Iterator[KafkaService]:
    """A broker with every topic of events, states and changelogs in `PARTITIONS` partitions, as `agentledger init`
    makes them; stopped at the end."""
    port = free_port()
    kafka = KafkaService(folder, port, free_port({port}), kafka_classpath(default_cache_dir()))
    kafka.start()
    try:
        kafka.wait_ready(time.monotonic() + 90)
        extra = [NewTopic(topic.name, topic.partitions, 1, config=topic.config) for topic in worker_topics(PARTITIONS)]
        create_topics({"bootstrap.servers": kafka.endpoint}, partitions=PARTITIONS, replication_factor=1, extra=extra)
        yield kafka
    finally:
        kafka.stop()
