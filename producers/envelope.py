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
from agentledger.schemas.codec import HEADER_BYTES, MAGIC
from agentledger.schemas.decoding import read_long
from agentledger.schemas.encoding import (
    LONG,
    FramedEncoder,
    compile_framed_encoder,
    encode_text,
    long_source,
    time_source,
)
from agentledger.schemas.ports import SchemaRegistry
from agentledger.schemas.topics import topic_of

_ID_LENGTH = LONG[36]
_SPAN_LENGTH = LONG[16]
_BEFORE_IDENTITY_BYTES = HEADER_BYTES + 37  # an event id with its length
_HAS_PARENT = b"\x02" + _ID_LENGTH
# What differs from event to event, in the order of the envelope's fields. `identity` is tenant and producer, encoded.
_PLACE = (
    "identity: bytes, seq: int, envelope: Any, step: int, event_id: str, parent_event_id: str | None, "
    "span_id: str | None, occurred_at: int"
)
_STATEMENTS = (
    "own = event_id.encode()",
    f"span_length, span, span_rest = {_SPAN_LENGTH!r}, own[19:23], own[24:]",
    "if span_id is not None:",
    f"    span_length, span, span_rest = {_SPAN_LENGTH!r} if span_id else b'\\x00', span_id.encode(), b''",
)
_BEHIND_EVENT_ID = (
    "identity",
    long_source("seq"),
    "envelope.run",
    long_source("step"),
    f"b'\\x00' if parent_event_id is None else {_HAS_PARENT!r} + parent_event_id.encode()",
    "envelope.origin",
    "span_length",
    "span",
    "span_rest",
    "envelope.who",
    time_source("occurred_at"),
    "envelope.labels",
)


class RecordKind(NamedTuple):
    """One record of the catalogue as the emitter needs it.

    `encode(event, identity, seq, envelope, step, event_id, parent_event_id, span_id, occurred_at)` gives the whole
    event in the wire format, with the span that belongs to the id where `span_id` is None. It raises what encoders
    raise for a field of the wrong type.
    """

    name: str
    topic: str
    encode: FramedEncoder


def record_kind(name: str, registry: SchemaRegistry) -> RecordKind:
    """A record with the id that the registry gives it. Raises SchemaError."""
    head = MAGIC + registry.id_of(name).to_bytes(4, "big") + _ID_LENGTH
    frame = (repr(head), "own", *_BEHIND_EVENT_ID)
    encode = compile_framed_encoder(current_schemas()[name], ENVELOPE_FIELDS, _PLACE, _STATEMENTS, frame)
    return RecordKind(name, topic_of(name).name, encode)


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


def seq_and_run_of(value: bytes, identity_bytes: int) -> tuple[int, str]:
    """`producer_seq`, below 2**62, and `run_id` of an event whose encoded identity is that long."""
    seq, at = read_long(value, _BEFORE_IDENTITY_BYTES + identity_bytes)
    length, at = read_long(value, at)
    return seq, value[at : at + length].decode()
