"""From a record's bytes to an event and the place of its run, reading no more than the fold over runs needs."""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from agentledger.processors.conclusions import NAME_CHARS_MAX, PARENT
from agentledger.processors.run_state import RunState
from agentledger.schemas.catalogue import current_schemas
from agentledger.schemas.codec import HEADER_BYTES, Codec
from agentledger.schemas.decoding import Memo, Reader, UnusualError, compile_reader, new_memo, read_long, text_end
from agentledger.schemas.encoding import encode_text
from agentledger.schemas.events import (
    ApprovalDecided,
    ApprovalRequested,
    Event,
    EvidenceRetrieved,
    ModelCallCompleted,
    OutcomeRecorded,
    PolicyDecided,
    RunFinished,
    RunStarted,
    StateChanged,
    Ticked,
    ToolCallCompleted,
    ValidationCompleted,
)

# After what begins every record: event_id, tenant_id, producer_id, producer_seq, run_id (its head), and step,
# parent_event_id, trace_id, span_id (its origin, of which what follows from the event gets a copy).
FIRST_FIELD = 9
PRODUCERS_KEPT = 50_000  # names of producers that are kept as text; each run may have one of its own
_ENVELOPE = "agent_id agent_version workflow environment actor occurred_at labels"
# What runs, rules and partials read of each record. Records that aren't named here are read whole.
READ: dict[type[Event], list[str]] = {
    kind: f"{_ENVELOPE} {names}".split()
    for kind, names in {
        ApprovalDecided: "approval_id verdict human_ms",
        ApprovalRequested: "approval_id",
        EvidenceRetrieved: "",
        ModelCallCompleted: "provider requested_model answered_model requestor service_tier input_tokens "
        "cache_read_tokens cache_write_tokens output_tokens reasoning_tokens latency_ms attempt status error_type "
        "reported_cost_nanousd",
        OutcomeRecorded: "success",
        PolicyDecided: "engine policy policy_version rule verdict risk_tier action",
        RunFinished: "status",
        RunStarted: "source parent_run_id budget_cost_nanousd budget_tokens budget_model_calls budget_tool_calls "
        "budget_wall_clock_ms budget_tool_retries on_budget_exceeded prompt_version policy_version thresholds_percent",
        StateChanged: "",
        ToolCallCompleted: "tool requestor arguments_digest result_digest effect dry_run attempt status error_type "
        "latency_ms policy_decision_id reported_cost_nanousd",
        ValidationCompleted: "",
    }.items()
}
# What is mostly the same from one event of a run to the next.
REPEATED = (
    ("agent_id", "agent_version", "workflow", "environment", "actor"),
    ("labels",),
    ("provider", "requested_model", "answered_model", "requestor", "service_tier"),
    ("tool", "tool_version", "requestor"),
    ("engine", "policy", "policy_version", "rule", "verdict", "enforced", "risk_tier"),
)
_ID_END: Final = HEADER_BYTES + 37
_ID_SIZE: Final = 0x48
# What each byte of an id stands for, and what then stands for a canonical id.
_SHAPE: Final = bytes(48 if chr(byte) in "0123456789abcdef" else 45 if byte == 45 else 0 for byte in range(256))
_ID_SHAPE: Final = b"00000000-0000-0000-0000-000000000000"
_RANDOM_4: Final = ord("4")
_RANDOM_7: Final = ord("7")


class KindReader:
    """What reads records of one kind. They are all read into the same event: it holds until the next one is read."""

    __slots__ = ("event", "read")

    def __init__(self, read: Reader, event: Event) -> None:
        self.read = read
        self.event = event


def _read_nothing(_value: bytes, _at: int, _memo: Memo, _event: Event) -> None:
    """Of a tick nothing is read: its time is the broker's."""


READS_TICKS: Final = KindReader(_read_nothing, Event.__new__(Event))


def place_of(tenant_id: str, run_id: str) -> bytes:
    """A run's place among those of a source partition."""
    return encode_text(tenant_id) + run_id.encode()


class RunReading:
    """Reads events for the fold. Bytes that are unusual, or wrong, go to the codec, which decides.

    `place`, `tail` and so on are those of the record whose `head` was read last. The place is the same bytes for all
    events of a run, and for no other run's; the tail is the `id_tail`, empty where that isn't part of the id.
    """

    __slots__ = (
        "_at", "_codec", "_producers", "_readers", "_run", "_step_at", "_tenant_end", "_trace_at", "event_id", "place",
        "producer_id", "producer_seq", "tail",
    )  # fmt: skip

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._readers: dict[int, KindReader | None] = {}
        self._producers: dict[bytes, str] = {}
        self.place = b""
        self.event_id = ""
        self.tail = ""
        self.producer_id = ""
        self.producer_seq = 0
        self._tenant_end = 0
        self._run = b""
        self._step_at = 0
        self._trace_at = 0
        self._at = 0

    def reader(self, value: bytes) -> KindReader | None:
        """What reads records of this schema; READS_TICKS for a Ticked, None where the codec has to: see `whole`."""
        if len(value) < HEADER_BYTES:
            return None
        schema_id = value[1] << 24 | value[2] << 16 | value[3] << 8 | value[4]
        found = self._readers.get(schema_id)
        if found is None and schema_id not in self._readers:
            return self._learn(schema_id)
        return found

    def head(self, value: bytes) -> bool:
        """Read how the record begins. False where the codec has to read it: see `whole`."""
        raw_id = value[6:_ID_END]
        if raw_id.translate(_SHAPE) != _ID_SHAPE or value[HEADER_BYTES] != _ID_SIZE:
            return False
        try:
            return self._read_head(value, raw_id)
        except (IndexError, ValueError):
            return False

    def rest(self, reader: KindReader, value: bytes, memo: Memo, run: RunState | None) -> Event | None:
        """The event after its `head`; None where the codec has to read it. `run` is its run's state, where known.

        It holds until the next event of its kind is read, and has no step, parent, trace and span: see `origin`.
        """
        event = reader.event
        try:
            reader.read(value, self._at, memo, event)
            if run is not None:
                event.tenant_id, event.run_id = run.tenant_id, run.run_id
            else:
                event.tenant_id = value[_ID_END + 1 : self._tenant_end].decode()
                event.run_id = self._run.decode()
        except Exception:  # noqa: BLE001 - whatever reading met: the codec says what is wrong, if anything
            return None
        event.event_id, event.producer_id, event.producer_seq = self.event_id, self.producer_id, self.producer_seq
        return event

    def origin(self, value: bytes) -> bytes:
        """As `origin_of` the event, of the record whose head was read last."""
        step_end = self._step_at + (1 if value[self._step_at] < 128 else 2)
        parts = (value[self._step_at : step_end], PARENT, value[6:_ID_END], value[self._trace_at : self._at])
        return b"".join(parts)

    def whole(self, value: bytes) -> Event:
        """The event, read by the codec. Raises CodecError, UnknownSchemaError."""
        return self._codec.decode(value)

    def _read_head(self, value: bytes, raw_id: bytes) -> bool:
        at: i64 = value[_ID_END]
        if at > 127 or at & 1:
            return False
        tenant_end: i64 = _ID_END + 1 + (at >> 1)
        start, at = _text(value, tenant_end)
        raw = value[start:at]
        producer_id = self._producers.get(raw)
        self.producer_id = self._new_producer(raw) if producer_id is None else producer_id
        seq: i64 = value[at]
        if seq < 128:
            seq = (seq >> 1) ^ -(seq & 1)
            at += 1
        else:
            seq, at = read_long(value, at)
        start, at = _text(value, at)
        run = value[start:at]
        if len(run) > NAME_CHARS_MAX or not self._read_origin(value, at):
            return False
        self._run = run
        self.place = value[_ID_END:tenant_end] + run
        self._tenant_end = tenant_end
        self.event_id = raw_id.decode()
        self.tail = self.event_id[19:] if raw_id[14] in (_RANDOM_4, _RANDOM_7) else ""
        self.producer_seq = seq
        return True

    def _read_origin(self, value: bytes, at: i64) -> bool:
        """Where the origin's parts are. False where they can't be copied as they are."""
        self._step_at = at
        if value[at] > 127:
            at += 1
            more: i64 = value[at]
            if not 0 < more < 128:  # of more than two bytes, or written too long
                return False
        at += 1
        has_parent: i64 = value[at]
        at += 1
        if has_parent == 2:
            at = _text(value, at)[1]
        elif has_parent:
            return False
        self._trace_at = at
        self._at = at = _text(value, _text(value, at)[1])[1]
        # Both texts are ASCII, and so are their sizes: of one byte, so none is written too long or would be cut.
        return value[self._trace_at : at].isascii()

    def _new_producer(self, raw: bytes) -> str:
        if len(self._producers) >= PRODUCERS_KEPT:
            self._producers.clear()
        found = self._producers[raw] = raw.decode()
        return found

    def _learn(self, schema_id: int) -> KindReader | None:
        kind = self._codec.current_kind(schema_id)
        if len(self._readers) >= PRODUCERS_KEPT:
            self._readers.clear()
        wanted = None if kind is None else READ.get(kind)
        reader: KindReader | None = READS_TICKS if kind is Ticked else None
        if kind is not None and wanted is not None:
            read = compile_reader(current_schemas()[kind.__name__], kind, FIRST_FIELD, wanted, REPEATED)
            reader = KindReader(read, kind.__new__(kind))
        self._readers[schema_id] = reader
        return reader


def _text(value: bytes, at: i64) -> tuple[i64, i64]:
    """As `text_end`, at once where the size has one byte."""
    size: i64 = value[at]
    if size < 128:
        if size & 1:
            raise UnusualError("a text of less than nothing")
        return at + 1, at + 1 + (size >> 1)
    return text_end(value, at)


def memo_of_run() -> Memo:
    """What readers remember between the events of one run."""
    return new_memo(REPEATED)
