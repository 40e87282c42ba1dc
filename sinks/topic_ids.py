"""The id that Kafka gives a topic: what tells it from another of the same name."""

from __future__ import annotations

import uuid
from typing import Any

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from agentledger.schemas.errors import BrokerError

ADMIN_S_MAX = 20.0


def topic_id(kafka: dict[str, Any], topic: str, instance: str = "") -> str:
    """The topic's id as UUID text: a topic that was deleted and made again is another log.

    Brokers before Kafka 2.8 and librdkafka's mock cluster have no ids: then a hash of the name and `instance`.
    """
    if instance:  # said only where there are none: a mock cluster never answers the question
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"agentledger:{instance}:{topic}"))
    admin = AdminClient(kafka)  # held until the answer is there: a client that is gone never answers
    try:
        described = admin.describe_topics(TopicCollection([topic]), request_timeout=ADMIN_S_MAX)
        found = described[topic].result(ADMIN_S_MAX + 5).topic_id
    except TimeoutError:
        raise BrokerError(f"Kafka did not describe the topic in {ADMIN_S_MAX:.0f} s", where=topic) from None
    except (KafkaException, KeyError):
        found = None
    if found is not None:
        high, low = found.get_most_significant_bits(), found.get_least_significant_bits()
        number = ((high & (2**64 - 1)) << 64) | (low & (2**64 - 1))
        if number:
            return str(uuid.UUID(int=number))
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"agentledger::{topic}"))
