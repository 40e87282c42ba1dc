"""What follows from a run's events, and how it is written: all conclusions of a run begin alike, so that is kept."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from librt.strings import BytesWriter

from agentledger.processors.run_state import RunState
from agentledger.schemas.catalogue import current_schemas
from agentledger.schemas.codec import Codec
from agentledger.schemas.control import RUN_BUDGETS, control_key
from agentledger.schemas.encoding import encode_long, encode_text
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
from agentledger.schemas.writing import NamedWriter, TupleWriter, compile_tail_writers, put_long

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
PARENT: Final = b"\x02\x48"  # there is one, and the size of its id
NO_CAUSE: Final = b"\x00\x00\x00\x00"  # step 0, no parent, no trace and no span
_made: Final = tuple.__new__  # a named tuple in half the time


# A record's own fields: by name, or all of them in its order.
Fields = dict[str, Any] | tuple[Any, ...]


class Conclusion:
    """What follows, without its envelope: that is the run's, with the next number and the triggering event's place."""

    __slots__ = ("event_id", "fields", "kind")

    def __init__(self, kind: type[Event], event_id: str, fields: Fields) -> None:
        self.kind = kind
        self.event_id = event_id
        self.fields = fields


class DerivedRecord(NamedTuple):
    """One derived event, ready for its topic. A `partition` of None: where the key belongs.

    Without a value it takes away what a compacted topic has under the key.
    """

    topic: str
    key: bytes
    value: bytes | None
    partition: int | None = None


class RunEnvelope:
    """The parts of an envelope that are the same in all conclusions of a run, as bytes.

    `names` are those from agent to actor.
    """

    __slots__ = ("head", "key", "labels", "names", "partition", "run", "run_id", "tenant_id")

    def __init__(self, state: RunState, names: bytes, labels: bytes, partitions: int | None = None) -> None:
        self.tenant_id = state.tenant_id
        self.run_id = state.run_id
        self.key = state.run_id.encode()
        self.partition = None if partitions is None else partition_of(self.key, partitions)
        self.head = encode_text(state.tenant_id) + encode_text(f"processor:{state.run_id}")
        self.run = encode_text(state.run_id)
        self.names = names
        self.labels = labels


class _Kind:
    """How records of one kind are written."""

    __slots__ = ("header", "topic", "write", "write_all")

    def __init__(self, topic: str, header: bytes, write_all: TupleWriter, write: NamedWriter) -> None:
        self.topic = topic
        self.header = header
        self.write_all = write_all
        self.write = write


class ConclusionWriter:
    """Writes conclusions as `Codec.encode` would write the events that they are."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._kinds: dict[type[Event], _Kind] = {}

    def write(
        self, conclusions: list[Conclusion], first_seq: int, envelope: RunEnvelope, origin: bytes, time_us: int
    ) -> list[DerivedRecord]:
        """The records of what follows from one event, or from time alone, numbered from `first_seq`, in order.

        `origin` is that of the event (`origin_of`), or NO_CAUSE.
        """
        head, run, names, labels = envelope.head, envelope.run, envelope.names, envelope.labels
        records = []
        seq = first_seq
        for conclusion in conclusions:
            kind, fields = conclusion.kind, conclusion.fields
            how = self._kinds.get(kind) or self._kind(kind)
            to = BytesWriter()
            to.write(how.header)
            to.write(conclusion.event_id.encode())
            to.write(head)
            put_long(to, seq)
            to.write(run)
            to.write(origin)
            to.write(names)
            put_long(to, time_us)
            to.write(labels)
            if isinstance(fields, tuple):
                how.write_all(to, fields)
            else:
                how.write(to, **fields)
            value = to.getvalue()
            seq += 1
            if kind is ControlIssued:
                key = control_key(envelope.tenant_id, "run", envelope.run_id, RUN_BUDGETS)
                records.append(DerivedRecord(how.topic, key, value))
            else:
                records.append(_made(DerivedRecord, (how.topic, envelope.key, value, envelope.partition)))
        return records

    def _kind(self, kind: type[Event]) -> _Kind:
        name = kind.__name__
        write_all, write = compile_tail_writers(current_schemas()[name], ENVELOPE_FIELDS)
        found = _Kind(derived_topic_of(name).name, self._codec.header_of(kind) + _ID, write_all, write)
        self._kinds[kind] = found
        return found


def origin_of(cause: Event) -> bytes:
    """Step, parent, trace and span of what follows from an event, as Avro writes them."""
    parts = (
        encode_long(cause.step),
        PARENT,
        cause.event_id.encode(),
        encode_text(_cut(cause.trace_id)),
        encode_text(_cut(cause.span_id)),
    )
    return b"".join(parts)


def _cut(text: str) -> str:
    return text if len(text) <= NAME_CHARS_MAX else text[:NAME_CHARS_MAX]
