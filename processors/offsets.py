"""Where a consumer group stands, asked of the broker over a connection of its own, without joining the group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaException, TopicPartition

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
        wanted = list(partitions)
        places = [TopicPartition(self._topic, partition) for partition in wanted]
        try:
            committed = self._consumer.committed(places, QUERY_SECONDS) if places else []
            lows, ends = self._limits(wanted, OFFSET_BEGINNING), self._limits(wanted, OFFSET_END)
        except KafkaException as error:
            raise self._no_answer(error) from error
        # An offset below 0: none committed.
        return {
            place.partition: Standing(max(place.offset, lows[place.partition]), ends[place.partition])
            for place in committed
        }

    def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """The offset that comes next in each of these partitions. Raises BrokerError."""
        try:
            return self._limits(list(partitions), OFFSET_END)
        except KafkaException as error:
            raise self._no_answer(error) from error

    def where(self, partition: int) -> str:
        """The place, as messages name it."""
        return f"{self._topic}, partition {partition}"

    def _limits(self, partitions: list[int], limit: int) -> dict[int, int]:
        """The first or the next offset of each partition, in one request: the protocol's ListOffsets takes them as
        times of their own (-2 and -1). `get_watermark_offsets` sends two requests for each partition."""
        if not partitions:
            return {}
        places = [TopicPartition(self._topic, partition, limit) for partition in partitions]
        found = self._consumer.offsets_for_times(places, QUERY_SECONDS)
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
        return {place.partition: place.offset for place in found}

    def _no_answer(self, error: KafkaException) -> BrokerError:
        what = f"the group's offsets can't be read: {error.args[0].str()}"
        return BrokerError(what, where=self._topic, next_step="check that Kafka is up")
