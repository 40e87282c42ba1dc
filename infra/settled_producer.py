"""A producer that waits: for room in its queue, and in the end for every acknowledgement."""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from agentledger.schemas.errors import BrokerError
from agentledger.schemas.topics import ALL_TOPICS

DELIVERY_S = 120  # an election of a new leader takes seconds
QUEUE_KBYTES_MAX = 65_536
NEXT_STEP = "check the broker and start it again"


class SettledProducer:
    """Writes each record once and in order, or raises BrokerError."""

    def __init__(self, kafka: dict[str, Any]) -> None:
        self._failure = ""
        self._producer = Producer(
            {  # not compressed: aiokafka, with which Faust reads states, has no lz4
                "linger.ms": 20,
                "message.max.bytes": max(known.bytes_max for known in ALL_TOPICS) + 65_536,
                "queue.buffering.max.kbytes": QUEUE_KBYTES_MAX,
                "delivery.timeout.ms": DELIVERY_S * 1000,
                **kafka,
                "enable.idempotence": True,
                "acks": "all",
            }
        )

    def send(self, topic: str, partition: int | None, key: bytes | None, value: bytes | None, **more: Any) -> None:
        """Queue one record, waiting for room. Without a partition it goes where its key belongs."""
        if partition is not None:
            more["partition"] = partition
        deadline = time.monotonic() + DELIVERY_S
        while True:
            self._raise_failure()
            try:
                self._producer.produce(topic, value, key, on_delivery=self._delivered, **more)
                self._producer.poll(0)
                return
            except BufferError:
                if time.monotonic() > deadline:
                    raise BrokerError("the broker takes no records", where=topic, next_step=NEXT_STEP) from None
                self._producer.poll(0.1)

    def settle(self) -> None:
        """Wait until every record is acknowledged."""
        waiting = self._producer.flush(DELIVERY_S + 10)
        self._raise_failure()
        if waiting:
            raise BrokerError(f"{waiting} records got no answer from the broker", next_step=NEXT_STEP)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and not self._failure:
            self._failure = f"{message.topic()}, partition {message.partition()}: {error.str()}"

    def _raise_failure(self) -> None:
        if self._failure:
            raise BrokerError(f"the broker did not take a record: {self._failure}", next_step=NEXT_STEP)
