"""Faust's Kafka transport with a short wait for new records.

Faust asks the broker to hold a fetch for 1.5 s when there is nothing to read, and has no setting for that. Kafka
answers as soon as a record comes, but librdkafka's mock cluster only when the wait is over.
"""

from __future__ import annotations

from typing import Any

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport

FETCH_WAIT_MS = 50


class _PromptThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # read when the consumer starts
        return consumer


class _PromptConsumer(Consumer):  # type: ignore[misc]
    def _new_consumer_thread(self) -> Any:
        return _PromptThread(self, loop=self.loop, beacon=self.beacon)


class PromptTransport(Transport):  # type: ignore[misc]
    """Give it to an app as its `transport`, before the app starts."""

    Consumer = _PromptConsumer
