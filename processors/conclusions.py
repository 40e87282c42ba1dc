"""What follows from a run's events, and how it is written: all conclusions of a run begin alike, so that is kept."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from agentledger.processors.run_state import RunState
from agentledger.schemas.catalogue import current_schemas
from agentledger.schemas.codec import Codec
from agentledger.schemas.control import RUN_BUDGETS, control_key
from agentledger.schemas.encoding import LONG, TailEncoder, compile_tail_encoder, encode_map, encode_text
from agentledger.schemas.events import (
    AlertRaised,
    AlertResolved,
    AlertUpdated,
    ApprovalDecided,
    ApprovalRequested,
    BudgetExceeded,
    BudgetThresholdCrossed,
    ControlIssued,
    CostRated,
    Event,
    OutcomeCosted,
)
from agentledger.schemas.partitioning import partition_of
from agentledger.schemas.topics import derived_topic_of

# What is concluded of a run.
CONCLUDED: tuple[type[Event], ...] = (
    AlertRaised,
    AlertResolved,
    AlertUpdated,
    ApprovalDecided,
    ApprovalRequested,
    BudgetExceeded,
    BudgetThresholdCrossed,
    ControlIssued,
    CostRated,
    OutcomeCosted,
)
ENVELOPE_FIELDS = 16
NAME_CHARS_MAX: Final = 1024  # what is copied into each derived event is cut here, so that those always fit their topic
_ID = b"\x48"  # the size of an id
_NO_CAUSE: Final = b"\x00\x00\x00\x00"  # step 0, no parent, no trace and no span


class Conclusion(NamedTuple):
    """What follows, without its envelope: that is the run's, with the next number and the triggering event's place."""

    kind: type[Event]
    event_id: str
    fields: dict[str, Any]


class DerivedRecord(NamedTuple):
    """One derived event, ready for its topic. A `partition` of None: where the key belongs.

    Without a value it takes away what a compacted topic has under the key.
    """

    topic: str
    key: bytes
    value: bytes | None
    partition: int | None = None


class RunEnvelope:
    """The parts of an envelope that are the same in all conclusions of a run, as bytes."""

    __slots__ = ("context", "head", "key", "labels", "partition", "run", "run_id", "tenant_id")

    def __init__(self, state: RunState, partitions: int | None = None) -> None:
        self.tenant_id = state.tenant_id
        self.run_id = state.run_id
        self.key = state.run_id.encode()
        self.partition = None if partitions is None else partition_of(self.key, partitions)
        self.head = encode_text(state.tenant_id) + encode_text(f"processor:{state.run_id}")
        self.run = encode_text(state.run_id)
        names = (state.agent_id, state.agent_version, state.workflow, state.environment, state.actor)
        self.context = b"".join(map(encode_text, names))
        self.labels = encode_map(state.labels)


class ConclusionWriter:
    """Writes conclusions as `Codec.encode` would write the events that they are."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._kinds: dict[type[Event], tuple[str, bytes, TailEncoder]] = {}
        self._time_us, self._time = 0, b"\x00"

    def write(
        self, conclusions: list[Conclusion], first_seq: int, envelope: RunEnvelope, cause: Event | None, time_us: int
    ) -> list[DerivedRecord]:
        """The records of what follows from one event, or from time alone, numbered from `first_seq`, in order."""
        if time_us != self._time_us:
            self._time_us, self._time = time_us, LONG[time_us]
        place = _NO_CAUSE
        if cause is not None:
            trace, span = cause.trace_id[:NAME_CHARS_MAX].encode(), cause.span_id[:NAME_CHARS_MAX].encode()
            step, parent = LONG[cause.step], cause.event_id.encode()
            place = b"".join((step, b"\x02\x48", parent, LONG[len(trace)], trace, LONG[len(span)], span))
        begin, middle = envelope.head, b"".join((envelope.run, place, envelope.context, self._time, envelope.labels))
        records = []
        kinds = self._kinds
        for seq, (kind, event_id, fields) in enumerate(conclusions, first_seq):
            topic, header, tail = kinds.get(kind) or self._kind(kind)
            value = b"".join((header, event_id.encode(), begin, LONG[seq], middle, tail(**fields)))
            if kind is ControlIssued:
                key = control_key(envelope.tenant_id, "run", envelope.run_id, RUN_BUDGETS)
                records.append(DerivedRecord(topic, key, value))
            else:
                records.append(tuple.__new__(DerivedRecord, (topic, envelope.key, value, envelope.partition)))
        return records

    def _kind(self, kind: type[Event]) -> tuple[str, bytes, TailEncoder]:
        name = kind.__name__
        tail = compile_tail_encoder(current_schemas()[name], ENVELOPE_FIELDS)
        found = self._kinds[kind] = derived_topic_of(name).name, self._codec.header_of(kind) + _ID, tail
        return found
