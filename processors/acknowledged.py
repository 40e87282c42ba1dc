"""Writes to Kafka that are waited for: nothing counts as done before the broker has acknowledged it."""

from __future__ import annotations

import asyncio
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from agentledger.schemas.errors import BrokerError
from agentledger.schemas.topics import ALL_TOPICS

DELIVERY_TIMEOUT_S = 60  # longer than an election of a new leader takes; after that a restart is the better retry
QUEUE_MESSAGES_MAX = 100_000  # several batches of the worker; more would only hide a broker that is too slow
QUEUE_KBYTES_MAX = 262_144
# Whoever waits until all is acknowledged flushes, and that sends at once: until then it is cheaper to send seldom.
LINGER_MS = 100
# An answer usually takes 2 ms: to wait for it in a thread costs more than what the event loop could do meanwhile.
ANSWER_USUAL_S = 0.005


def producer_settings(kafka: dict[str, Any]) -> dict[str, Any]:
    """librdkafka's settings for writes that keep their order and are written once: idempotent, acks of all replicas."""
    return {
        "linger.ms": 2,
        "delivery.timeout.ms": DELIVERY_TIMEOUT_S * 1000,
        "message.max.bytes": max(topic.bytes_max for topic in ALL_TOPICS) + 65_536,
        "queue.buffering.max.messages": QUEUE_MESSAGES_MAX,
        "queue.buffering.max.kbytes": QUEUE_KBYTES_MAX,
        **kafka,
        "enable.idempotence": True,
        "acks": "all",
    }


class AcknowledgedProducer:
    """Sends records and tells when all of them are safe."""

    def __init__(self, kafka: dict[str, Any]) -> None:
        self._failure: str | None = None
        # Reports of what was delivered would say nothing that the length of the queue doesn't say for less.
        reports = {"on_delivery": self._delivered, "delivery.report.only.error": True}
        self._producer = Producer(producer_settings({"linger.ms": LINGER_MS, **kafka}) | reports)

    def send(self, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
        """Queue a record. Waits for room when the queue is full; raises BrokerError where there is none to come."""
        while True:
            try:
                self._producer.produce(topic, value, key, partition)
                return
            except BufferError:
                self._producer.poll(0.1)  # delivery reports make room, failed ones too
                self._raise_failure()

    async def settled(self) -> None:
        """Wait until every record sent so far is acknowledged. Raises BrokerError where one isn't."""
        # A flush sends at once, whatever the linger time.
        if len(self._producer) and self._producer.flush(ANSWER_USUAL_S):
            # In a thread, so that the event loop goes on.
            await asyncio.get_running_loop().run_in_executor(None, self._producer.flush, DELIVERY_TIMEOUT_S + 5)
        self._raise_failure()
        if len(self._producer):
            raise BrokerError(f"{len(self._producer)} records got no answer in {DELIVERY_TIMEOUT_S} s")

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failure is None:
            where = f"{message.topic()}, partition {message.partition()}"
            self._failure = f"a record for {where} was refused: {error.str()}"

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise BrokerError(self._failure, next_step="the worker starts again from what was acknowledged")
