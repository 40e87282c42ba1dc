"""Whether Kafka answers, asked now and then: so that a request is refused at once while it doesn't."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from agentledger.producers.quiet_log import quiet_logger

EVERY_S = 2.0
ANSWER_S_MAX = 2.0
MISSES_MAX = 2  # answers that may fail to come before it counts as away: one slow answer refuses nobody

_log = quiet_logger("agentledger.producers.gateway.kafka")


class BrokerWatch:
    """Asks in a thread of its own. Until the first answer the broker is taken to be there."""

    def __init__(self, kafka: Mapping[str, Any]) -> None:
        self._client = AdminClient({**kafka, "reconnect.backoff.max.ms": 1000}, logger=_log)
        self._misses = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="agentledger-broker-watch", daemon=True)

    def is_up(self) -> bool:
        """Whether it answered lately."""
        return self._misses < MISSES_MAX

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(ANSWER_S_MAX + EVERY_S)

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                self._client.list_topics(timeout=ANSWER_S_MAX)
                self._misses = 0
            except KafkaException:
                self._misses += 1
            self._client.poll(0)
            self._stop.wait(EVERY_S)
