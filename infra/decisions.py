"""Publishes what people decided on retention and erasure, each as one event of the ledger."""

from __future__ import annotations

import hashlib
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from agentledger.schemas import Codec, content_id, open_registry
from agentledger.schemas.errors import BrokerError
from agentledger.schemas.events import RetentionRecorded
from agentledger.schemas.topics import INTEGRITY

DELIVERY_S_MAX = 20.0  # a person waits for it


def retention_event(
    kind: str, tenant_id: str, statement: str, *, at_us: int, data_class: str = "", days: int | None = None,
    reason: str = "", issued_by: str = "",
) -> RetentionRecorded:  # fmt: skip
    """The event of a decision. Its id follows from tenant and statement: published twice, it counts once."""
    producer_id = f"retention:{hashlib.sha256(statement.encode()).hexdigest()[:32]}"
    return RetentionRecorded(
        event_id=content_id(at_us, "RetentionRecorded", tenant_id, kind, statement), tenant_id=tenant_id,
        producer_id=producer_id, producer_seq=0, run_id="", occurred_at=at_us, kind=kind, data_class=data_class,
        days=days, reason=reason, issued_by=issued_by, statement=statement,
    )  # fmt: skip


def publish(kafka: dict[str, Any], event: RetentionRecorded, registry_url: str = "", registry_auth: str = "") -> None:
    """Send one event and wait until the broker has it. Raises BrokerError."""
    failures: list[str] = []

    def delivered(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            failures.append(error.str())

    producer = Producer({"acks": "all", "enable.idempotence": True, "delivery.timeout.ms": 15_000, **kafka})
    value = Codec(open_registry(registry_url, basic_auth=registry_auth)).encode(event)
    producer.produce(INTEGRITY.name, value, event.producer_id.encode(), on_delivery=delivered)
    if producer.flush(DELIVERY_S_MAX) or failures:
        raise BrokerError(
            f"the broker has not confirmed the event: {failures[0] if failures else 'no answer'}",
            where=INTEGRITY.name, next_step="check the broker and give the command again: it counts once",
        )  # fmt: skip
