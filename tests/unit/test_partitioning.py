"""The partition function against the producer that it speaks for."""

from __future__ import annotations

from confluent_kafka import Message, Producer

from agentledger.processors.acknowledged import producer_settings
from agentledger.producers.publisher import PRODUCER_CONFIG
from agentledger.schemas.partitioning import partition_of

KEYS = [
    b"default",
    b"acme",
    "Zürich-ÄÖ".encode(),
    b"\x00\xff",
    b"a\x00tenant\x00b",
    *(b"tenant-%d" % n for n in range(200)),
]


def placed_by(settings: dict[str, object]) -> tuple[dict[bytes, int], int]:
    """Key to partition as librdkafka with these settings places it, and the topic's partition count."""
    producer = Producer({**settings, "test.mock.num.brokers": 1})
    found: dict[bytes, int] = {}

    def delivered(error: object, message: Message) -> None:
        assert error is None
        found[message.key() or b""] = message.partition() or 0

    for key in KEYS:
        producer.produce("topic", b"value", key, on_delivery=delivered)
    assert producer.flush(30) == 0
    return found, len(producer.list_topics("topic", timeout=10).topics["topic"].partitions)


def test_keys_lie_where_the_sdk_puts_them() -> None:
    found, partitions = placed_by(PRODUCER_CONFIG)
    assert partitions > 1
    assert found == {key: partition_of(key, partitions) for key in KEYS}


def test_keys_lie_where_the_processors_put_them() -> None:
    found, partitions = placed_by(producer_settings({}))
    assert found == {key: partition_of(key, partitions) for key in KEYS}


def test_an_empty_key_has_a_fixed_place() -> None:
    assert partition_of(b"", 7) == 0
