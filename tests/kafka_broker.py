"""A fresh Kafka with the ledger's topics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka.admin import NewTopic

from agentledger.infra.stack.jars import default_cache_dir, kafka_classpath
from agentledger.infra.stack.kafka import KafkaService
from agentledger.infra.stack.ports import free_port
from agentledger.infra.topic_admin import create_topics
from agentledger.processors import worker_topics

PARTITIONS = 4


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
