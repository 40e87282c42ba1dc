"""What the writer tells others: records that can't be read, to the dead letters, and ids that came with other content.

Everything is acknowledged by the broker before the flush that found it is finished, so that a crash repeats it rather
than losing it; its key and its id are the same again.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, Message, Producer

from agentledger.schemas import Codec, derived_id
from agentledger.schemas.errors import BrokerError, CodecError, UnknownSchemaError
from agentledger.schemas.events import ConflictDetected
from agentledger.schemas.topics import ALL_TOPICS, DEAD_LETTERS, topic_of
from agentledger.sinks.batching import Batch, Conflict
from agentledger.sinks.rows import LedgerRow

DELIVERY_S_MAX = 60.0
VALUE_BYTES_MAX = 900_000  # the dead-letter topic takes records as large as the others; headers need room too


_COMPACTED = frozenset(topic.name for topic in ALL_TOPICS if topic.compacted)


class Announcement(NamedTuple):
    """One record that tells others what a batch found."""

    topic: str
    key: bytes
    value: bytes | None
    headers: list[tuple[str, str | bytes | None]]


def announcements(batch: Batch, codec: Codec) -> list[Announcement]:
    """What is to be told of a batch: the same bytes under the same keys whenever the same records are written."""
    letters = [_dead_letter(row, reason) for row, reason in batch.unreadable if not _takes_away(row)]
    return letters + [found for conflict in batch.conflicts if (found := _conflict(conflict, codec)) is not None]


def _takes_away(row: LedgerRow) -> bool:
    """Whether the record is meant to have no value: on a compacted topic it takes away what its key had."""
    return row.value is None and row.place.topic in _COMPACTED


def _dead_letter(row: LedgerRow, reason: str) -> Announcement:
    place = row.place
    headers: list[tuple[str, str | bytes | None]] = [
        ("__connect.errors.topic", place.topic),
        ("__connect.errors.partition", str(place.partition)),
        ("__connect.errors.offset", str(row.offset)),
        ("__connect.errors.connector.name", "agentledger-writer"),
        ("__connect.errors.stage", "VALUE_CONVERTER"),
        ("__connect.errors.exception.class.name", "agentledger.schemas.errors.CodecError"),
        ("__connect.errors.exception.message", reason),
    ]
    value = row.value
    if value is not None and len(value) > VALUE_BYTES_MAX:
        headers.append(("agentledger.cut.from.bytes", str(len(value))))  # all of it is in the ledger's row
        value = value[:VALUE_BYTES_MAX]
    return Announcement(DEAD_LETTERS.name, f"{place.topic}/{place.partition}/{row.offset}".encode(), value, headers)


def _conflict(conflict: Conflict, codec: Codec) -> Announcement | None:
    row = conflict.row
    place = f"{row.place.topic}/{row.place.partition}/{row.offset}"
    try:
        other = codec.decode(row.value)
    except (CodecError, UnknownSchemaError):
        return None  # it can't be read: the insert will find that out, and it becomes a dead letter
    event = ConflictDetected(
        event_id=derived_id(row.event_id, "ConflictDetected", row.place.topic_id, place),
        tenant_id=other.tenant_id,
        producer_id=f"writer:{row.place.topic_id}/{place}",
        producer_seq=0,
        run_id=other.run_id,
        agent_id=other.agent_id,
        workflow=other.workflow,
        occurred_at=row.ledger_time_us,
        conflicting_event_id=row.event_id,
        first_body_sha256=conflict.first_value_sha256.hex(),
        other_body_sha256=row.hashes[64:96].hex(),
        place=place,
    )
    # Among the run's own events, so that the rules on runs see it in an order that replays the same.
    return Announcement(topic_of("ConflictDetected").name, other.run_id.encode(), codec.encode(event), [])


class Announcer:
    """Publishes what a batch found."""

    def __init__(self, kafka: dict[str, Any], codec: Codec) -> None:
        self._codec = codec
        self._failure = ""
        self._producer = Producer(
            {"linger.ms": 5, **kafka, "enable.idempotence": True, "acks": "all", "delivery.timeout.ms": 50_000}
        )

    def announce(self, batch: Batch) -> None:
        """Send all of it and wait for the broker. Raises BrokerError."""
        for announcement in announcements(batch, self._codec):
            self._send(announcement)
        if len(self._producer) and self._producer.flush(DELIVERY_S_MAX):
            raise BrokerError(f"dead letters were not acknowledged in {DELIVERY_S_MAX:.0f} s")
        if self._failure:
            raise BrokerError(f"a dead letter was refused: {self._failure}", where=DEAD_LETTERS.name)

    def _send(self, announcement: Announcement) -> None:
        topic, key, value, headers = announcement
        deadline = time.monotonic() + DELIVERY_S_MAX
        while True:
            try:
                self._producer.produce(topic, value, key, headers=headers, on_delivery=self._delivered)
                return
            except BufferError:
                if time.monotonic() > deadline:
                    raise BrokerError("the broker takes no dead letters", where=topic) from None
                self._producer.poll(0.1)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None and not self._failure:
            self._failure = error.str()
