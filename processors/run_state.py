"""What is kept of one run between its events, and how that is written to the changelog."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field, fields
from typing import Any

from agentledger.processors.budgets import METRICS, Limits
from agentledger.schemas.errors import CodecError

STATE_VERSION = b"\x01"
RECENT_IDS = 4096  # a run's last so many event ids are known exactly: 32 to 64 KiB of state in the longest runs
ID_BYTES = 8  # of a hash of the id: among 8,192 ids, two are alike once in 500 billion runs
_HEAD = struct.Struct(">qi")
PRODUCERS_MAX = 64  # producers with a high-water mark each; those that a run hears first are kept


class SeenEvents:
    """Which event ids of a run were counted, in bounded space.

    Ids are held in two generations of up to RECENT_IDS: so at least the last RECENT_IDS are known exactly. Of an older
    event only its producer's highest `producer_seq` is kept: an id that isn't among the recent ones and whose
    `producer_seq` isn't above that mark counts as seen. Bound of the error: an event that arrives for the first time
    after RECENT_IDS later events of its run, all from before its producer's mark, is taken for a repetition.
    """

    __slots__ = ("_now", "_now_log", "_now_marks", "_old", "_old_log", "_old_marks", "_recent", "marks")

    def __init__(self, recent: int = RECENT_IDS) -> None:
        self._recent = recent
        self._now: set[bytes] = set()
        self._old: set[bytes] = set()
        self._now_log = bytearray()
        self._old_log = bytearray()
        self._now_marks: dict[str, int] = {}
        self._old_marks: dict[str, int] = {}
        self.marks: dict[str, int] = {}

    def add(self, id_hash: bytes, producer_id: str, producer_seq: int) -> bool:
        """Count the event; False where it was counted before."""
        if id_hash in self._now or id_hash in self._old:
            return False
        mark = self.marks.get(producer_id)
        if mark is not None and producer_seq <= mark:
            return False
        if len(self._now) >= self._recent:
            self._retire()
        self._now.add(id_hash)
        self._now_log += id_hash
        _raise_mark(self._now_marks, producer_id, producer_seq)
        return True

    def _retire(self) -> None:
        for producer_id, seq in self._old_marks.items():
            _raise_mark(self.marks, producer_id, seq)
        self._old, self._old_log, self._old_marks = self._now, self._now_log, self._now_marks
        self._now, self._now_log, self._now_marks = set(), bytearray(), {}

    def dump(self) -> tuple[list[Any], bytes]:
        """The marks with the size of the older generation, and the ids in the order in which they came."""
        head = [self.marks, self._old_marks, self._now_marks, len(self._old_log)]
        return head, bytes(self._old_log) + bytes(self._now_log)

    @classmethod
    def load(cls, head: list[Any], ids: bytes, recent: int = RECENT_IDS) -> SeenEvents:
        """The inverse of `dump`."""
        seen = cls(recent)
        seen.marks, seen._old_marks, seen._now_marks, old_bytes = head
        seen._old_log, seen._now_log = bytearray(ids[:old_bytes]), bytearray(ids[old_bytes:])
        seen._old, seen._now = _split(seen._old_log), _split(seen._now_log)
        return seen


def _split(log: bytearray) -> set[bytes]:
    return {bytes(log[start : start + ID_BYTES]) for start in range(0, len(log), ID_BYTES)}


def _raise_mark(marks: dict[str, int], producer_id: str, seq: int) -> None:
    known = marks.get(producer_id)
    if known is None:
        if len(marks) < PRODUCERS_MAX:
            marks[producer_id] = seq
    elif seq > known:
        marks[producer_id] = seq


@dataclass(slots=True, kw_only=True)
class RunState:
    """One run as folded up to `last_offset` of its source partition. Money in nano-dollars, times in microseconds.

    `used` and `crossed` are in the order of `budgets.METRICS`; `used` counts the agent's own calls, the totals all.
    """

    tenant_id: str
    run_id: str
    base_event_id: str  # the first event seen: ids of what is said of the run as a whole follow from it
    last_offset: int
    last_time_us: int
    agent_id: str = ""
    agent_version: str = ""
    workflow: str = ""
    environment: str = ""
    actor: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    started_us: int | None = None
    limits: Limits = field(default_factory=lambda: [None] * len(METRICS))
    on_exceeded: str = ""
    crossed: list[int] = field(default_factory=lambda: [0] * len(METRICS))
    used: list[int] = field(default_factory=lambda: [0] * len(METRICS))
    run_status: str = ""
    finished: bool = False
    model_calls: int = 0
    unpriced_model_calls: int = 0
    tool_calls: int = 0
    tool_errors: int = 0
    charges: int = 0
    cost_nanousd: int = 0
    reported: int = 0
    reported_nanousd: int = 0
    alerted_models: list[str] = field(default_factory=list)
    outcome_event_id: str | None = None
    outcome_success: bool | None = None
    stated: list[Any] | None = None
    revision: int = 0
    derived_seq: int = 0
    seen: SeenEvents = field(default_factory=SeenEvents)


_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode  # ASCII: lone surrogates fit, too
_PLAIN = tuple(entry.name for entry in fields(RunState) if entry.name != "seen")


def encode_state(state: RunState) -> bytes:
    """version (1 byte), offset folded up to (int64), size of the JSON (int32), JSON of fields and marks, seen ids."""
    head, ids = state.seen.dump()
    values = [getattr(state, name) for name in _PLAIN]
    text = _to_json([*values, head]).encode()
    return b"".join((STATE_VERSION, _HEAD.pack(state.last_offset, len(text)), text, ids))


def decode_state(value: bytes) -> RunState:
    """The inverse of `encode_state`. Raises CodecError for any other bytes."""
    if value[:1] != STATE_VERSION:
        raise CodecError(
            f"state version {value[:1].hex() or 'missing'} is unknown",
            where="changelog of runs",
            next_step="run the release that wrote it, or rebuild the state from the ledger",
        )
    start = 1 + _HEAD.size
    end = start + _HEAD.unpack_from(value, 1)[1]
    *values, head = json.loads(value[start:end])
    return RunState(**dict(zip(_PLAIN, values, strict=True)), seen=SeenEvents.load(head, value[end:]))


def folded_up_to(value: bytes) -> int:
    """The source offset that encoded state is folded up to, read without decoding the rest."""
    offset: int = _HEAD.unpack_from(value, 1)[0]
    return offset
