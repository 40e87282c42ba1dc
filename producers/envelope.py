"""The envelope, encoded once per run: only what differs from event to event is encoded on the hot path.

An Avro record is the plain concatenation of its fields, so the parts that are constant in a process and in a run are
kept as bytes and joined. A test holds the result to what the codec writes for the same event.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from agentledger.producers.bounds import ENVELOPE_FIELDS, NAME_BYTES_MAX, clean_labels, clean_run_id, clean_text
from agentledger.schemas.catalogue import current_schemas
from agentledger.schemas.codec import MAGIC
from agentledger.schemas.encoding import LONG, Encoder, compile_encoder, encode_text
from agentledger.schemas.ports import SchemaRegistry
from agentledger.schemas.topics import topic_of

NO_PARENT = b"\x00"
_ID_LENGTH = LONG[36]
HAS_PARENT = b"\x02" + _ID_LENGTH
_SPAN_LENGTH = LONG[16]

# What differs from event to event: tenant_id and producer_id (encoded), producer_seq, step, event_id, parent_event_id,
# span_id, occurred_at. A plain tuple, as one is made for each event.
Place = tuple[bytes, int, int, str, str | None, str, int]


class RecordKind(NamedTuple):
    """One record of the catalogue as the emitter needs it."""

    name: str
    topic: str
    header: bytes
    encode_body: Encoder


def record_kind(name: str, registry: SchemaRegistry) -> RecordKind:
    """The wire header and the encoder of the fields after the envelope. Raises SchemaError."""
    schema = current_schemas()[name]
    body = {**schema, "fields": schema["fields"][ENVELOPE_FIELDS:]}
    header = MAGIC + registry.id_of(name).to_bytes(4, "big")
    return RecordKind(name, topic_of(name).name, header + _ID_LENGTH, compile_encoder(body))


class RunEnvelope:
    """The constants of one run, encoded, and its step counter."""

    __slots__ = ("actor", "key", "labels", "next_step", "origin", "run", "run_id", "trace_id", "who")

    def __init__(
        self,
        run_id: object,
        *,
        trace_id: str = "",
        agent_id: object = "",
        agent_version: object = "",
        workflow: object = "",
        environment: object = "",
        actor: object = "",
        labels: Mapping[Any, Any] | None = None,
    ) -> None:
        self.run_id = clean_run_id(run_id)
        self.actor = clean_text(actor, NAME_BYTES_MAX)
        self.trace_id = trace_id
        self.key = self.run_id.encode()
        self.run = encode_text(self.run_id)
        self.origin = encode_text(trace_id)
        who = agent_id, agent_version, workflow, environment, actor
        self.who = b"".join(encode_text(clean_text(text, NAME_BYTES_MAX)) for text in who)
        bounded = clean_labels(labels)
        entries = b"".join(encode_text(name) + encode_text(value) for name, value in bounded.items())
        self.labels = LONG[len(bounded)] + entries + b"\x00" if bounded else b"\x00"
        self.next_step = 0

    def keyed_by(self, key: bytes) -> RunEnvelope:
        """The same envelope under another Kafka key, with steps counted by themselves."""
        other = copy.copy(self)
        other.key = key
        other.next_step = 0
        return other


def encode_event(kind: RecordKind, envelope: RunEnvelope, place: Place, body: Any) -> bytes:
    """One event in the wire format. Raises what encoders raise for a field of the wrong type."""
    identity, seq, step, event_id, parent_event_id, span_id, occurred_at = place
    return b"".join(
        (
            kind.header,
            event_id.encode(),
            identity,
            LONG[seq],
            envelope.run,
            LONG[step],
            NO_PARENT if parent_event_id is None else HAS_PARENT + parent_event_id.encode(),
            envelope.origin,
            _SPAN_LENGTH + span_id.encode() if span_id else b"\x00",
            envelope.who,
            LONG[occurred_at],
            envelope.labels,
            kind.encode_body(body),
        )
    )
