"""That an export was made is an event of the ledger, too: out on Kafka before the export is signed."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from agentledger.schemas import content_id
from agentledger.schemas.events import EvidenceRetrieved
from agentledger.schemas.hashing import canonical_json, digest_bytes


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
