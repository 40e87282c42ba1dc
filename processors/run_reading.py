"""From a record's bytes to an event and the place of its run, reading no more than the fold over runs needs."""

from __future__ import annotations

from typing import Final

from agentledger.processors.conclusions import NAME_CHARS_MAX
from agentledger.processors.run_state import RunState
from agentledger.schemas.catalogue import current_schemas
from agentledger.schemas.codec import HEADER_BYTES, Codec
from agentledger.schemas.decoding import Memo, Reader, compile_reader, new_memo, read_long, text_end
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

FIRST_FIELD = 5  # after event_id, tenant_id, producer_id, producer_seq and run_id, which begin every record
PRODUCERS_KEPT = 50_000  # names of producers that are kept as text; each run may have one of its own
_ENVELOPE = "step trace_id span_id agent_id agent_version workflow environment actor occurred_at labels"
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
_HEX: Final = b"0123456789abcdef"


# How a record begins: the run's place (the same bytes for all its events, and for no other run's), event_id,
# producer_id and producer_seq, where the other fields begin, the bytes of tenant and run. A plain tuple: one per event.
Head = tuple[bytes, str, str, int, int, bytes, bytes]


def _read_nothing(_value: bytes, _at: int, _memo: Memo) -> None:
    """Of a tick nothing is read: its time is the broker's."""


READS_TICKS: Final[Reader] = _read_nothing


def place_of(tenant_id: str, run_id: str) -> bytes:
    """A run's place among those of a source partition."""
    return encode_text(tenant_id) + run_id.encode()


class RunReading:
    """Reads events for the fold. Bytes that are unusual, or wrong, go to the codec, which decides."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._readers: dict[bytes, Reader | None] = {}
        self._producers: dict[bytes, str] = {}

    def reader(self, value: bytes) -> Reader | None:
        """What reads records of this schema; READS_TICKS for a Ticked, None where the codec has to: see `whole`."""
        schema_id = value[1:HEADER_BYTES]
        return self._readers[schema_id] if schema_id in self._readers else self._learn(schema_id)

    def head(self, value: bytes) -> Head | None:
        """How the record begins; None where the codec has to read it: see `whole`."""
        raw_id = value[6:_ID_END]
        if raw_id.translate(None, _HEX) != b"----" or raw_id[8:24:5] != b"----" or value[HEADER_BYTES] != _ID_SIZE:
            return None
        try:
            at = value[_ID_END]
            if at > 127 or at & 1:
                return None
            tenant_end = _ID_END + 1 + (at >> 1)
            size = value[tenant_end]
            if size < 128:
                start = tenant_end + 1
                at = start + (size >> 1)
            else:
                start, at = text_end(value, tenant_end)
            raw = value[start:at]
            producer_id = self._producers.get(raw) or self._new_producer(raw)
            seq = value[at]
            if seq < 128:
                seq = (seq >> 1) ^ -(seq & 1)
                at += 1
            else:
                seq, at = read_long(value, at)
            size = value[at]
            if size < 128:
                start = at + 1
                at = start + (size >> 1)
            else:
                start, at = text_end(value, at)
        except (IndexError, ValueError):
            return None
        run = value[start:at]
        if len(run) > NAME_CHARS_MAX:
            return None
        tenant = value[_ID_END + 1 : tenant_end]
        return value[_ID_END:tenant_end] + run, raw_id.decode(), producer_id, seq, at, tenant, run

    @staticmethod
    def rest(reader: Reader, value: bytes, head: Head, memo: Memo, run: RunState | None) -> Event | None:
        """The event after its `head`; None where the codec has to read it. `run` is its run's state, where known."""
        _, event_id, producer_id, seq, at, tenant, run_id = head
        try:
            event: Event = reader(value, at, memo)
            if run is not None:
                event.tenant_id, event.run_id = run.tenant_id, run.run_id
            else:
                event.tenant_id, event.run_id = tenant.decode(), run_id.decode()
        except Exception:  # noqa: BLE001 - whatever reading met: the codec says what is wrong, if anything
            return None
        event.event_id, event.producer_id, event.producer_seq = event_id, producer_id, seq
        return event

    def whole(self, value: bytes) -> Event:
        """The event, read by the codec. Raises CodecError, UnknownSchemaError."""
        return self._codec.decode(value)

    def _new_producer(self, raw: bytes) -> str:
        if len(self._producers) >= PRODUCERS_KEPT:
            self._producers.clear()
        found = self._producers[raw] = raw.decode()
        return found

    def _learn(self, schema_id: bytes) -> Reader | None:
        kind = self._codec.current_kind(int.from_bytes(schema_id, "big"))
        if len(self._readers) >= PRODUCERS_KEPT:
            self._readers.clear()
        wanted = None if kind is None else READ.get(kind)
        reader: Reader | None = READS_TICKS if kind is Ticked else None
        if kind is not None and wanted is not None:
            reader = compile_reader(current_schemas()[kind.__name__], kind, FIRST_FIELD, wanted, REPEATED)
        self._readers[schema_id] = reader
        return reader


def memo_of_run() -> Memo:
    """What readers remember between the events of one run."""
    return new_memo(REPEATED)
