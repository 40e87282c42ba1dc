"""Publishes events and waits until the broker has them: for what is said once, such as that an export was made."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from agentledger.schemas import Codec
from agentledger.schemas.errors import BrokerError
from agentledger.schemas.events import Event

DELIVERY_S_MAX = 20.0
POLL_S = 0.1


class Announcer:
    """Connects when it is made, so that what is done meanwhile costs no waiting. `codec` is for one event at a time.

    After a failure the next event goes over a new connection: so each is told at once whether a broker is there.
    """

    def __init__(self, kafka: dict[str, Any], codec: Codec, wait_s_max: float = DELIVERY_S_MAX) -> None:
        self._codec = codec
        self._wait_s_max = wait_s_max
        self._is_away = False
        # Not idempotent: that takes half a second to begin with, and an event that arrives twice counts once by its id.
        self._config = {
            "linger.ms": 0, "log_level": 0, **kafka, "acks": "all",
            "delivery.timeout.ms": round(wait_s_max * 1000), "error_cb": self._broker_failed,
        }  # fmt: skip
        self._producer: Producer | None = Producer(self._config)

    def announce(self, event: Event, topic: str, key: str = "") -> None:
        """Publish the event, keyed by `key`, or else its producer; returns when the broker has it.

        Raises BrokerError, at once where no broker can be reached.
        """
        self.announce_all([(event, key)], topic)

    def announce_all(self, events: Sequence[tuple[Event, str]], topic: str) -> None:
        """The same for events with their keys, which wait for the broker together. Raises BrokerError where it hasn't
        all of them."""
        if self._producer is None:
            self._is_away = False
            self._producer = Producer(self._config)
        producer = self._producer
        failures: list[str] = []  # of each that was answered; empty: the broker has it

        def delivered(error: KafkaError | None, _message: Message) -> None:
            failures.append("" if error is None else error.str())

        for event, key in events:
            value = self._codec.encode(event)
            producer.produce(topic, value, (key or event.producer_id).encode(), on_delivery=delivered)
        deadline = time.monotonic() + self._wait_s_max
        while len(failures) < len(events) and not self._is_away and time.monotonic() < deadline:
            producer.poll(POLL_S)
        if any(failures) or len(failures) < len(events):
            self._producer = None  # librdkafka says only once that all brokers are away
            raise BrokerError(
                next(filter(None, failures), "no broker can be reached" if self._is_away else "no answer"), where=topic,
                next_step="check the broker",
            )  # fmt: skip

    def _broker_failed(self, error: KafkaError) -> None:
        self._is_away = error.code() == KafkaError._ALL_BROKERS_DOWN
