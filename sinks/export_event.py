"""That an export was made is an event of the ledger, too: out on Kafka before the export is signed."""

from __future__ import annotations

import getpass
import json
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, Message, Producer

from agentledger.schemas import Codec, content_id
from agentledger.schemas.errors import BrokerError
from agentledger.schemas.events import EvidenceRetrieved
from agentledger.schemas.hashing import canonical_json, digest_bytes
from agentledger.schemas.topics import INTEGRITY

DELIVERY_S_MAX = 20.0


class ExportFacts(NamedTuple):
    """What is told of an export: whose ledger, SHA-256 of its manifest (hex), when, and what `verify_export` finds."""

    origin: str
    manifest_sha256: str
    created_us: int
    found: dict[str, Any]


def export_event(facts: ExportFacts, actor: str) -> EvidenceRetrieved:
    """The event of an export. Its id follows from the manifest: published twice, it counts once."""
    query = facts.found["query"]
    name = f"export:{facts.origin}:{facts.manifest_sha256[:16]}"
    return EvidenceRetrieved(
        event_id=content_id(facts.created_us, "Export", facts.origin, facts.manifest_sha256),
        tenant_id=query["tenant_id"],
        producer_id=name,
        producer_seq=0,
        run_id="",  # it is no run of an agent, and shows up among none
        workflow="export",
        actor=actor,
        occurred_at=facts.created_us,
        labels={
            "query": json.dumps(query, ensure_ascii=False, sort_keys=True), "records": str(facts.found["records"]),
            "hidden": str(facts.found["hidden"]), "checkpoint_size": str(facts.found["checkpoint_size"]),
        },
        source=f"export of {facts.origin}",
        query_digest=digest_bytes(canonical_json(query)),
        evidence_ids=[f"sha256:{facts.manifest_sha256}"],
    )  # fmt: skip


class ExportEvents:
    """Publishes the events of exports."""

    def __init__(self, kafka: dict[str, Any], codec: Codec) -> None:
        self._codec = codec
        self._kafka = kafka

    def announce(self, facts: ExportFacts) -> None:
        """Publish the event, and return when the broker has it. Raises BrokerError."""
        event = export_event(facts, _user())
        failures: list[str] = ["no answer"]

        def delivered(error: KafkaError | None, _message: Message) -> None:
            failures[:] = [error.str()] if error is not None else []

        producer = Producer(
            {"linger.ms": 0, **self._kafka, "enable.idempotence": True, "acks": "all", "delivery.timeout.ms": 15_000}
        )
        producer.produce(
            INTEGRITY.name, self._codec.encode(event), event.producer_id.encode(), on_delivery=delivered
        )  # fmt: skip
        if producer.flush(DELIVERY_S_MAX) or failures:
            raise BrokerError(
                f"that an export is made could not be recorded: {failures[0] if failures else 'no answer'}",
                where=INTEGRITY.name, next_step="ask for the same export again when Kafka is there",
            )  # fmt: skip


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user entry
        return "unknown"
