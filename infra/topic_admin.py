"""Creates the topics, with the partitions and settings that the rest counts on."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # its stubs leave NewTopic out

from agentledger.schemas.errors import BrokerError, ConfigurationError
from agentledger.schemas.topics import ALL_TOPICS, Topic

REQUEST_TIMEOUT_S = 30.0  # a cluster that can't answer an admin request in this time is down for our purposes


def topic_settings(topic: Topic) -> dict[str, str]:
    """The broker's settings of a topic. Its append time is the ledger's time, so the broker stamps it."""
    return {
        "message.timestamp.type": "LogAppendTime",
        "cleanup.policy": "compact" if topic.compacted else "delete",
        "retention.ms": str(topic.retention_ms),
        "max.message.bytes": str(topic.bytes_max),
        "compression.type": topic.compression,
    }


def create_topics(
    kafka: dict[str, Any], *, partitions: int, replication_factor: int, extra: list[NewTopic] | None = None
) -> list[str]:
    """Create what is missing; the names created. Existing topics are left alone, but must have `partitions`.

    Raises BrokerError where the cluster refuses, ConfigurationError where a topic has another partition count: a run's
    events would change partition, and the processors' state with them.
    """
    admin = AdminClient(kafka)
    existing = _partition_counts(admin)
    ours = [topic.name for topic in ALL_TOPICS]
    for name in ours:
        if existing.get(name, partitions) != partitions:
            raise ConfigurationError(
                f"topic {name} has {existing[name]} partitions, not {partitions}",
                next_step=f"set AGENTLEDGER_KAFKA_PARTITIONS={existing[name]}: the count is fixed for good",
            )
    wanted = [
        NewTopic(topic.name, partitions, replication_factor, config=topic_settings(topic)) for topic in ALL_TOPICS
    ] + (extra or [])
    missing = [topic for topic in wanted if topic.topic not in existing]
    if not missing:
        return []
    for name, future in admin.create_topics(missing, operation_timeout=REQUEST_TIMEOUT_S).items():
        try:
            future.result(REQUEST_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another program was faster
                raise BrokerError(f"topic {name} could not be created: {error.args[0].str()}") from error
    return [topic.topic for topic in missing]


def touch_topics(kafka: dict[str, Any], names: list[str]) -> None:
    """Make librdkafka's mock cluster create topics: it has no CreateTopics, but does so when it is asked about one."""
    admin = AdminClient(kafka)
    for name in names:
        try:
            admin.list_topics(name, timeout=REQUEST_TIMEOUT_S)
        except KafkaException as error:
            raise BrokerError(f"topic {name} could not be created: {error.args[0].str()}") from error


def _partition_counts(admin: AdminClient) -> dict[str, int]:
    try:
        metadata = admin.list_topics(timeout=REQUEST_TIMEOUT_S)
    except KafkaException as error:
        raise BrokerError(
            f"Kafka does not answer: {error.args[0].str()}",
            next_step="check AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS, or start a local stack: agentledger up",
        ) from error
    return {name: len(topic.partitions) for name, topic in metadata.topics.items()}
