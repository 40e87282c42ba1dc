"""That records were looked at is an event of the ledger, too: who asked what, and how much the server read for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from agentledger.schemas.events import EvidenceRetrieved
from agentledger.schemas.hashing import canonical_json, digest_bytes
from agentledger.sinks.queries import Client

TEXT_CHARS_MAX = 4_000  # of what was asked, and of an error: the digest is over all of it
WORKFLOW = "read"


class CountedReads:
    """A client that counts what its answers took: rows and bytes that the server read, rows that it gave back.

    It may be asked by several threads.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self.rows_returned = 0
        self.rows_read = 0
        self.bytes_read = 0

    def query(self, query: str, *, parameters: dict[str, Any] | None, settings: dict[str, Any]) -> Any:
        """Run a query and return clickhouse-connect's result."""
        result = self._client.query(query, parameters=parameters, settings=settings)
        summary = result.summary or {}
        with self._lock:
            self.rows_returned += len(result.result_rows)
            self.rows_read += int(summary.get("read_rows", 0))
            self.bytes_read += int(summary.get("read_bytes", 0))
        return result


class ReadFacts(NamedTuple):
    """What is told of one look at the ledger. `asked` is the command with all that was given to it."""

    asked: Mapping[str, Any]
    tenant_id: str
    actor: str  # the operating system's user, and the host
    clickhouse_user: str
    began_us: int
    duration_ms: float
    reads: CountedReads | None  # None: something else than queries, such as the rows of one proof
    error: str = ""  # empty where there was an answer


def read_event(facts: ReadFacts, event_id: str, *, with_text: bool) -> EvidenceRetrieved:
    """The event of a look at the ledger. Without `with_text` it holds of what was asked the command and the digest."""
    labels = {
        "command": str(facts.asked["command"]), "clickhouse_user": facts.clickhouse_user,
        "result": "error" if facts.error else "ok",
    }  # fmt: skip
    if facts.reads is not None:
        labels |= {
            "rows_returned": str(facts.reads.rows_returned), "rows_read": str(facts.reads.rows_read),
            "bytes_read": str(facts.reads.bytes_read),
        }  # fmt: skip
    if with_text:
        text = json.dumps(facts.asked, ensure_ascii=False, sort_keys=True)
        labels |= {"query": text[:TEXT_CHARS_MAX], "error": facts.error[:TEXT_CHARS_MAX]}
    return EvidenceRetrieved(
        event_id=event_id,
        tenant_id=facts.tenant_id,
        producer_id=f"read:{event_id}",
        producer_seq=0,
        run_id="",  # it is no run of an agent, and shows up among none
        workflow=WORKFLOW,
        actor=facts.actor,
        occurred_at=facts.began_us,
        labels=labels,
        source="agentledger",
        query_digest=digest_bytes(canonical_json(facts.asked)),
        latency_ms=facts.duration_ms,
    )
