"""The ports: what a stage needs from outside. Each has a shipped fake in `agentledger.schemas.testing`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Clock = Callable[[], int]  # microseconds since 1970, UTC

DeliveryReport = Callable[[str | None], None]  # called once per record with None, or what went wrong


class SchemaRegistry(Protocol):
    """Gives ids to schemas and schemas to ids."""

    def id_of(self, record_name: str) -> int:
        """The id of the record's current schema. Raises SchemaError."""

    def schema_of(self, schema_id: int) -> dict[str, Any]:
        """The schema with this id. Raises UnknownSchemaError."""


class RecordProducer(Protocol):
    """Puts records on topics without ever waiting for the network."""

    def send(self, topic: str, key: bytes, value: bytes, on_delivery: DeliveryReport) -> bool:
        """True when the record was queued; False when the queue is full (then on_delivery is never called)."""

    def flush(self, timeout_s: float) -> int:
        """Wait until all that is queued was delivered or given up; the count still waiting at the time-out."""

    def waiting(self) -> int:
        """How many records are queued and not yet delivered or given up."""
