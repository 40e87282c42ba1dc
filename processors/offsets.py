"""Where a consumer group stands, asked of the broker over a connection of its own, without joining the group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from agentledger.schemas.errors import BrokerError

QUERY_SECONDS = 10.0


class Standing(NamedTuple):
    """One partition: everything before `done` is committed (or gone), `end` is the offset that comes next."""

    done: int
    end: int


class GroupOffsets:
    """One group on one topic. Not to be shared between threads."""

    def __init__(self, kafka: dict[str, Any], group: str, topic: str) -> None:
        self._consumer = Consumer({**kafka, "group.id": group, "enable.auto.commit": False})
        self._topic = topic

    def standing(self, partitions: Iterable[int]) -> dict[int, Standing]:
        """Where the group stands in each of these partitions. Raises BrokerError where the broker doesn't answer."""
        places = [TopicPartition(self._topic, partition) for partition in partitions]
        found = {}
        try:
            for place in self._consumer.committed(places, QUERY_SECONDS) if places else []:
                low, end = self._watermarks(place.partition)
                found[place.partition] = Standing(max(place.offset, low), end)  # an offset below 0: none committed
        except KafkaException as error:
            raise self._no_answer(error) from error
        return found

    def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """The offset that comes next in each of these partitions. Raises BrokerError."""
        try:
            return {partition: self._watermarks(partition)[1] for partition in partitions}
        except KafkaException as error:
            raise self._no_answer(error) from error

    def where(self, partition: int) -> str:
        """The place, as messages name it."""
        return f"{self._topic}, partition {partition}"

    def _watermarks(self, partition: int) -> tuple[int, int]:
        return self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), QUERY_SECONDS)

    def _no_answer(self, error: KafkaException) -> BrokerError:
        what = f"the group's offsets can't be read: {error.args[0].str()}"
        return BrokerError(what, where=self._topic, next_step="check that Kafka is up")
