"""Where consumer groups stand, and setting them back: asked of the broker and said to it from outside the group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import (
    OFFSET_END,
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from agentledger.schemas.errors import BrokerError, UsageError

REQUEST_S = 30.0
READ_S_MAX = 30.0  # without a record that should be there
_IDLE = frozenset({ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD})


class GroupPositions:
    """Groups and their topics. Every call raises BrokerError where the broker doesn't answer."""

    def __init__(self, kafka: dict[str, Any]) -> None:
        self._kafka = {**kafka, "enable.auto.commit": False}
        self._admin = AdminClient(kafka)

    def check_idle(self, group: str) -> None:
        """Raises UsageError where the group has members."""
        try:
            found = self._admin.describe_consumer_groups([group], request_timeout=REQUEST_S)[group].result(REQUEST_S)
        except KafkaException as error:
            raise _no_answer(error, group) from error
        if found.state not in _IDLE or found.members:
            raise UsageError(
                f"{len(found.members)} programs of the group {group} are running",
                next_step="stop them first: they would go on from the states that they have",
            )

    def ends(self, topic: str) -> dict[int, tuple[int, int]]:
        """Per partition the first offset that is there, and the one that comes next."""
        consumer = Consumer({**self._kafka, "group.id": "agentledger-rebuild"})
        try:
            found = consumer.list_topics(topic, timeout=REQUEST_S).topics[topic]
            return {
                partition: consumer.get_watermark_offsets(TopicPartition(topic, partition), REQUEST_S)
                for partition in found.partitions
            }
        except KafkaException as error:
            raise _no_answer(error, topic) from error
        finally:
            consumer.close()

    def first_at(self, topic: str, times_ms: Mapping[int, int]) -> dict[int, int]:
        """Per partition the first offset whose record was appended then or later; the end where there is none."""
        if not times_ms:
            return {}
        ends = self.ends(topic)
        consumer = Consumer({**self._kafka, "group.id": "agentledger-rebuild"})
        try:
            places = [TopicPartition(topic, partition, time_ms) for partition, time_ms in times_ms.items()]
            found = consumer.offsets_for_times(places, REQUEST_S)
        except KafkaException as error:
            raise _no_answer(error, topic) from error
        finally:
            consumer.close()
        return {
            place.partition: ends[place.partition][1] if place.offset in (OFFSET_END, -1) else place.offset
            for place in found
        }

    def move_back(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Make the group go on at these offsets where it would go on later; one that has none begins at the start."""
        consumer = Consumer({**self._kafka, "group.id": group})
        try:
            places = [TopicPartition(topic, partition) for partition in offsets]
            committed = consumer.committed(places, REQUEST_S) if places else []
        except KafkaException as error:
            raise _no_answer(error, group) from error
        finally:
            consumer.close()
        back = [
            TopicPartition(topic, place.partition, offsets[place.partition])
            for place in committed
            if place.offset > offsets[place.partition]
        ]
        if not back:
            return
        try:
            asked = [ConsumerGroupTopicPartitions(group, back)]
            self._admin.alter_consumer_group_offsets(asked, request_timeout=REQUEST_S)[group].result(REQUEST_S)
        except KafkaException as error:
            raise _no_answer(error, group) from error

    def age_s(self, topic: str, partition: int, done: int, end: int) -> float:
        """How long ago the record at `done` was appended, seconds; 0 where there is none before `end`."""
        for message in self.read(topic, partition, done, min(end, done + 1)):
            return max(0.0, time.time() - message.timestamp()[1] / 1000)
        return 0.0

    def read(self, topic: str, partition: int, first: int, behind: int) -> Iterator[Message]:
        """The records of one partition from an offset up to, not including, another."""
        if first >= behind:
            return
        consumer = Consumer({**self._kafka, "group.id": "agentledger-rebuild", "enable.partition.eof": True})
        try:
            consumer.assign([TopicPartition(topic, partition, first)])
            while True:
                message = consumer.poll(READ_S_MAX)
                if message is None:
                    raise BrokerError("no record came", where=f"{topic}, partition {partition}")
                error, offset = message.error(), message.offset()
                if error is not None or offset is None:
                    if error is not None and error.name() == "_PARTITION_EOF":
                        return  # what was compacted away may have been the last
                    raise BrokerError(f"it can't be read: {error}", where=f"{topic}, partition {partition}")
                if offset >= behind:
                    return
                yield message
                if offset == behind - 1:
                    return
        finally:
            consumer.close()


def _no_answer(error: KafkaException, where: str) -> BrokerError:
    return BrokerError(f"Kafka refused: {error.args[0].str()}", where=where, next_step="check that Kafka is up")
