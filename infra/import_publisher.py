"""Publishes imported events: waits for room, and for every acknowledgement, because an import has all the time."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError, Message, Producer

from agentledger.schemas import Codec, Event
from agentledger.schemas.errors import BrokerError
from agentledger.schemas.topics import topic_of

DELIVERY_TIMEOUT_S = 300  # an import outlives a broker's restart, not its loss
FLUSH_TIMEOUT_S = 330.0
NEXT_STEP = "check the broker and import again: what arrived is not counted twice"


class ImportPublisher:
    """Sends events to their topics, keyed by run, at the speed of the broker."""

    def __init__(self, kafka: dict[str, Any], codec: Codec) -> None:
        self._codec = codec
        self._failure = ""
        self._producer = Producer(
            {
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 20,
                "compression.type": "lz4",
                "delivery.timeout.ms": DELIVERY_TIMEOUT_S * 1000,
                **kafka,
            }
        )

    def publish(self, event: Event) -> None:
        """Queue one event, waiting for room where the queue is full. Raises BrokerError where one was given up."""
        topic = topic_of(type(event).__name__).name
        value = self._codec.encode(event)
        deadline = time.monotonic() + FLUSH_TIMEOUT_S
        while True:
            self._raise_failure()
            try:
                self._producer.produce(topic, value, event.run_id.encode(), on_delivery=self._delivered)
                self._producer.poll(0)
                return
            except BufferError:
                if time.monotonic() > deadline:
                    raise BrokerError("the broker takes no events", next_step=NEXT_STEP) from None
                self._producer.poll(0.1)

    def flush(self) -> None:
        """Wait until every event is acknowledged. Raises BrokerError where one was given up."""
        waiting = self._producer.flush(FLUSH_TIMEOUT_S)
        self._raise_failure()
        if waiting:
            raise BrokerError(f"{waiting} events got no answer from the broker", next_step=NEXT_STEP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._producer.flush(FLUSH_TIMEOUT_S if kind is None else 5.0)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None and not self._failure:
            self._failure = error.str()

    def _raise_failure(self) -> None:
        if self._failure:
            raise BrokerError(f"the broker did not take an event: {self._failure}", next_step=NEXT_STEP)
