"""What the signer tells the ledger: each checkpoint, and alerts. Ids follow from the content."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from agentledger.schemas import Codec, content_id
from agentledger.schemas.checkpoints import Checkpoint
from agentledger.schemas.errors import BrokerError, IntegrityError
from agentledger.schemas.events import AlertRaised, AlertResolved, CheckpointSigned, Event
from agentledger.schemas.heads import Bundle, parse_leaf
from agentledger.schemas.notes import Note, encode_base64
from agentledger.schemas.topics import ALERTS, INTEGRITY

INTEGRITY_RULE = "ledger_integrity"
AWAY_RULE = "checkpoints_not_followed"
DELIVERY_S_MAX = 20.0


class SignerEvents:
    """Publishes what the signer did. Ids follow from the content: published twice, it counts once."""

    def __init__(self, kafka: dict[str, Any], codec: Codec) -> None:
        self._codec = codec
        self._failure = ""
        self._producer = Producer(
            {"linger.ms": 5, **kafka, "enable.idempotence": True, "acks": "all", "delivery.timeout.ms": 15_000}
        )

    def announce(self, bundle: Bundle, number: int) -> None:
        """Publish the event of a checkpoint, the `number`th of its origin. Raises BrokerError."""
        self._send(checkpoint_event(bundle, number), INTEGRITY.name)

    def alarm(self, origin: str, error: IntegrityError, at_us: int) -> None:
        """Publish the alert that nothing is signed, once for each reason. Raises BrokerError."""
        self._send(alert_event(origin, error, at_us), ALERTS.name)

    def tell_of_follower(self, origin: str, name: str, what: str, since_us: int, now_us: int, *, is_back: bool) -> None:
        """Publish the alert that a bucket or a witness is away, or that it is back. Raises BrokerError."""
        told = back_event if is_back else away_event
        self._send(told(origin, name, what, since_us, now_us), ALERTS.name)

    def _send(self, event: Event, topic: str) -> None:
        self._failure = ""
        key = event.producer_id if topic == INTEGRITY.name else event.run_id
        self._producer.produce(topic, self._codec.encode(event), key.encode(), on_delivery=self._delivered)
        if self._producer.flush(DELIVERY_S_MAX) or self._failure:
            raise BrokerError(f"the event was not acknowledged: {self._failure or 'no answer'}", where=topic)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failure = error.str()


def checkpoint_event(bundle: Bundle, number: int) -> CheckpointSigned:
    """The event of a published bundle, the `number`th of its origin, from 0. Holds all of the bundle."""
    note = Note.parse(bundle.note)
    found = Checkpoint.parse(note.text)
    at_us = parse_leaf(bundle.lines[-1]).at_us
    return CheckpointSigned(
        event_id=content_id(at_us, "CheckpointSigned", found.origin, str(found.size), found.root.hex()),
        tenant_id="",
        producer_id=f"signer:{found.origin}",
        producer_seq=number,
        run_id=f"signer:{found.origin}",
        occurred_at=at_us,
        labels={"first_leaf": str(bundle.first), "leaves": "\n".join(bundle.lines)},
        origin=found.origin,
        tree_size=found.size,
        root_hash=encode_base64(found.root),
        checkpoint=bundle.note,
        key_id=note.signatures[-1].key_id.hex(),
    )


def alert_event(origin: str, error: IntegrityError, at_us: int) -> AlertRaised:
    """The alert that the ledger of this origin isn't what was signed; `at_us` is when it was last found in order."""
    return AlertRaised(
        event_id=content_id(at_us, "AlertRaised", INTEGRITY_RULE, origin, str(error)),
        tenant_id="",
        producer_id=f"signer-alerts:{origin}:{at_us}:{content_id(0, str(error))}",
        producer_seq=0,
        run_id=f"signer:{origin}",
        occurred_at=at_us,
        alert_id=content_id(0, INTEGRITY_RULE, "", "ledger", origin),
        rule=INTEGRITY_RULE,
        severity="critical",
        summary=str(error)[:1000],
        scope="ledger",
        scope_value=origin,
    )


def away_event(origin: str, name: str, what: str, since_us: int, now_us: int) -> AlertRaised:
    """The alert that a bucket or a witness has been away since then."""
    return AlertRaised(
        **_of_follower("AlertRaised", origin, name, since_us, now_us),
        severity="warning",
        summary=what[:1000],
        scope="ledger",
        scope_value=origin,
    )


def back_event(origin: str, name: str, what: str, since_us: int, now_us: int) -> AlertResolved:
    """That the alert of `away_event` is over."""
    return AlertResolved(
        **_of_follower("AlertResolved", origin, name, since_us, now_us),
        reason=what[:1000],
        resolved_by=AWAY_RULE,
    )


def _of_follower(kind: str, origin: str, name: str, since_us: int, now_us: int) -> dict[str, Any]:
    event_id = content_id(since_us, kind, AWAY_RULE, origin, name)
    return {
        "event_id": event_id,
        "tenant_id": "",
        "producer_id": f"signer-alerts:{event_id}",
        "producer_seq": 0,
        "run_id": f"signer:{origin}",
        "occurred_at": now_us,
        "alert_id": content_id(since_us, AWAY_RULE, origin, name),
        "rule": AWAY_RULE,
    }
