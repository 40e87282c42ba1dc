"""What is kept of one run between its events, and how that is written to the changelog.

A run's state is kept for RUN_KEPT_US of ledger time after its last event, whether it has ended or not. Then only a mark
of some 20 bytes stays, for FORGOTTEN_KEPT_US more: whatever still comes of the run is left out, so nothing of it can
count twice. Outcomes later than that are in the ledger, and no longer joined with the run's cost here.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any, Final, NamedTuple

import orjson

from agentledger.processors.budgets import (
    METRICS,
    NEVER,
    NO_LIMITS,
    THRESHOLDS_PERCENT,
    Amounts,
    Limits,
    exceeded_bit,
    next_lines,
)
from agentledger.processors.rules.memory import RunFacts, RunMemory
from agentledger.schemas.errors import CodecError
from agentledger.schemas.identity import UNCOUNTED

STATE_VERSION = b"\x05"
FORGOTTEN_VERSION = b"\x03"
DAY_US = 86_400_000_000
RUN_KEPT_US: Final = 35 * DAY_US  # outcomes may come a month later
FORGOTTEN_KEPT_US = 90 * DAY_US  # far longer than a broker or a client's outbox keeps what it might send again
RECENT_IDS = 4096  # a run's last so many event ids are known exactly: 32 to 64 KiB of state in the longest runs
ID_BYTES: Final = 8  # of an id: among 8,192 ids, two are alike once in 100 billion runs
_OFFSET = struct.Struct(">q")  # first in every state of every table: see `RunTable`
_HEAD: Final = struct.Struct(">qqi")
_RANDOM_VERSIONS: Final = frozenset("47")  # of UUIDs: the last 62 bits are random
PRODUCERS_MAX: Final = 64  # producers with a high-water mark each; those that a run hears first are kept


def id_tail(event_id: str) -> str:
    """What tells the ids of a run apart: 16 hexadecimal digits with a dash, as at the end of a UUID.

    Of a random id they are its own last ones; of any other a hash, as its bits may be far from random: old time-based
    UUIDs end alike. Raises ValueError where the id is no UUID.
    """
    if event_id[14] in _RANDOM_VERSIONS:
        return event_id[19:].lower()
    raw = bytes.fromhex(event_id.replace("-", ""))
    return _with_dash(hashlib.blake2b(raw, digest_size=ID_BYTES).hexdigest())


class SeenEvents:
    """Which event ids of a run were counted, in bounded space. Ids are given as their `id_tail`.

    Ids are held in two generations of up to RECENT_IDS: so at least the last RECENT_IDS are known exactly. Of an older
    event only its producer's highest `producer_seq` is kept: an id that isn't among the recent ones and whose
    `producer_seq` isn't above that mark counts as seen. Bound of the error: an event that arrives for the first time
    after RECENT_IDS later events of its run, all from before its producer's mark, is taken for a repetition. Of
    an event that nobody counted (`UNCOUNTED`) a repetition after RECENT_IDS later events is taken for another event.
    """

    __slots__ = ("_now", "_now_marks", "_old", "_old_marks", "_recent", "marks")

    def __init__(self, recent: int = RECENT_IDS) -> None:
        self._recent = recent
        self._now: dict[str, None] = {}  # in the order in which they came
        self._old: dict[str, None] = {}
        self._now_marks: dict[str, int] = {}
        self._old_marks: dict[str, int] = {}
        self.marks: dict[str, int] = {}

    def add(self, tail: str, producer_id: str, producer_seq: int) -> bool:
        """Count the event; False where it was counted before."""
        now = self._now
        if tail in now or tail in self._old:
            return False
        if self.marks:
            mark = self.marks.get(producer_id)
            if mark is not None and UNCOUNTED < producer_seq <= mark:
                return False
        if len(now) >= self._recent:
            self._retire()
            now = self._now
        now[tail] = None
        if producer_seq == UNCOUNTED:
            return True
        marks = self._now_marks
        known = marks.get(producer_id)
        if known is None:
            if len(marks) < PRODUCERS_MAX:
                marks[producer_id] = producer_seq
        elif producer_seq > known:
            marks[producer_id] = producer_seq
        return True

    def _retire(self) -> None:
        for producer_id, seq in self._old_marks.items():
            _raise_mark(self.marks, producer_id, seq)
        self._old, self._old_marks = self._now, self._now_marks
        self._now, self._now_marks = {}, {}

    def dump(self) -> tuple[list[Any], bytes]:
        """The marks with the size of the older generation, and the ids in the order in which they came."""
        head = [self.marks, self._old_marks, self._now_marks, len(self._old) * ID_BYTES]
        return head, bytes.fromhex(("".join(self._old) + "".join(self._now)).replace("-", ""))

    @classmethod
    def load(cls, head: list[Any], ids: bytes, recent: int = RECENT_IDS) -> SeenEvents:
        """The inverse of `dump`."""
        seen = cls(recent)
        seen.marks, seen._old_marks, seen._now_marks, old_bytes = head
        seen._old, seen._now = _split(ids[:old_bytes]), _split(ids[old_bytes:])
        return seen


def _split(ids: bytes) -> dict[str, None]:
    text = ids.hex()
    return {_with_dash(text[start : start + 2 * ID_BYTES]): None for start in range(0, len(text), 2 * ID_BYTES)}


def _with_dash(digits: str) -> str:
    return f"{digits[:4]}-{digits[4:]}"


def _raise_mark(marks: dict[str, int], producer_id: str, seq: int) -> None:
    known = marks.get(producer_id)
    if known is None:
        if len(marks) < PRODUCERS_MAX:
            marks[producer_id] = seq
    elif seq > known:
        marks[producer_id] = seq


NOTHING_DECLARED = -1  # as the offset of a declaration


class DeclaredLimit(NamedTuple):
    """A declared limit under which the run falls, on one metric (a place in METRICS), and which lines were said."""

    budget_id: str
    metric: int
    declaration: str  # the `id_tail` of the event that declared it
    limit: int
    thresholds: list[int]
    on_exceeded: str
    crossed: int  # a bit for each threshold, and one for exceeded
    line: int  # the least usage that crosses one more
    is_open: bool  # that it is exceeded was told, and its end wasn't
    question: str = ""  # the approval id under which a person was asked for more, until that is answered

    @property
    def is_exceeded(self) -> bool:
        """True where that was said."""
        return bool(self.crossed & exceeded_bit(self.thresholds))


class RunState(RunFacts):
    """One run as folded up to `last_offset` of its source partition. Money in nano-dollars, times in microseconds.

    `limits` and `crossed` are in the order of `budgets.METRICS`; `used` counts the agent's own calls, the totals all.
    `costs` and `charges` are those of models, tools and people.
    """

    __slots__ = (
        "actor", "agent_version", "alerts", "base_event_id", "charges", "cost_nanousd", "costs", "crossed", "declared",
        "declared_at", "derived_seq", "failing", "has_limits", "human_ms", "labels", "last_offset", "limits", "lines",
        "memory", "on_exceeded", "outcome_event_id", "parent_run_id", "policy_version", "prompt_version", "reported",
        "reported_nanousd", "retry_nanousd", "revision", "seen", "stated", "thresholds", "tool_errors",
        "unpriced_model_calls", "used", "wasted_nanousd",
    )  # fmt: skip

    def __init__(self, tenant_id: str, run_id: str, *, base_event_id: str, last_offset: int, last_time_us: int) -> None:
        super().__init__(tenant_id, run_id, last_time_us)
        self.base_event_id = base_event_id  # the first event seen: ids of what is said of the run follow from it
        self.last_offset = last_offset
        self.agent_version = ""
        self.actor = ""
        self.labels: dict[str, str] = {}
        self.parent_run_id = ""
        self.prompt_version = ""
        self.policy_version = ""
        self.thresholds: list[int] = THRESHOLDS_PERCENT
        self.limits: Limits = [None] * len(METRICS)
        self.on_exceeded = ""
        self.crossed = [0] * len(METRICS)
        self.used = Amounts([0] * len(METRICS))
        self.unpriced_model_calls = 0
        self.tool_errors = 0
        self.charges = [0, 0, 0]
        self.costs = [0, 0, 0]
        self.cost_nanousd = 0
        self.wasted_nanousd = 0
        self.retry_nanousd = 0
        self.human_ms: int | None = None
        self.reported = 0
        self.reported_nanousd = 0
        self.alerts = 0  # a bit per metric whose limit is exceeded and told of, until the run ends
        self.outcome_event_id: str | None = None
        self.stated: list[Any] | None = None
        self.revision = 0
        self.derived_seq = 0
        self.declared_at = NOTHING_DECLARED  # offset of the last declaration that `declared` follows from
        self.declared: list[DeclaredLimit] = []
        self.failing: dict[str, int] = {}  # hash of a tool call to how often it failed in a row
        self.has_limits = False
        self.lines = Amounts([NEVER] * len(METRICS))  # the least usage that crosses one more
        self.memory = RunMemory()  # of the anomaly rules
        self.seen = SeenEvents()


_to_ascii_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def encode_state(state: RunState, deadline_us: int) -> bytes:
    """version (1 byte), offset folded up to (int64), deadline (int64), size of the JSON (int32), JSON, seen ids.

    The JSON has the fields, what the rules remember, and the marks. `deadline_us` is when the run has to be looked at.
    """
    head, ids = state.seen.dump()
    text = _to_json([*_plain_values(state), state.memory.dump(), head])
    return b"".join((STATE_VERSION, _HEAD.pack(state.last_offset, deadline_us, len(text)), text, ids))


def _plain_values(state: RunState) -> list[Any]:
    return [
        state.tenant_id, state.run_id, state.base_event_id, state.last_offset, state.last_time_us, state.agent_id,
        state.agent_version, state.workflow, state.environment, state.actor, state.labels, state.parent_run_id,
        state.prompt_version, state.policy_version, state.started_us, state.thresholds, state.limits,
        state.on_exceeded, state.crossed, state.used.listed(), state.run_status, state.finished, state.model_calls,
        state.unpriced_model_calls, state.tool_calls, state.tool_errors, state.charges, state.costs,
        state.cost_nanousd, state.wasted_nanousd, state.retry_nanousd, state.human_ms, state.reported,
        state.reported_nanousd, state.alerts, state.outcome_event_id, state.outcome_success, state.stated,
        state.revision, state.derived_seq, state.declared_at, state.declared, state.failing,
    ]  # fmt: skip


def _to_json(values: list[Any]) -> bytes:
    try:
        return orjson.dumps(values, default=list)  # in a tenth of the time; named tuples as lists
    except TypeError:  # lone surrogates, and numbers of more than 64 bits, which are wrong, and yet may come
        return _to_ascii_json(values).encode()


def encode_forgotten(offset: int, deadline_us: int) -> bytes:
    """What stays of a run that was forgotten at this offset, until the deadline."""
    return FORGOTTEN_VERSION + _HEAD.pack(offset, deadline_us, 0)


def is_forgotten(value: bytes) -> bool:
    """True for what `encode_forgotten` gives."""
    return value[:1] == FORGOTTEN_VERSION


def decode_state(value: bytes) -> RunState:
    """The inverse of `encode_state`. Raises CodecError for any other bytes."""
    if value[:1] != STATE_VERSION:
        raise CodecError(
            f"state version {value[:1].hex() or 'missing'} is unknown",
            where="changelog of runs",
            next_step="run the release that wrote it, or rebuild the state from the ledger",
        )
    start = 1 + _HEAD.size
    end = start + _HEAD.unpack_from(value, 1)[2]
    *values, memory, head = json.loads(value[start:end])
    state = RunState("", "", base_event_id="", last_offset=-1, last_time_us=0)
    (
        state.tenant_id, state.run_id, state.base_event_id, state.last_offset, state.last_time_us, state.agent_id,
        state.agent_version, state.workflow, state.environment, state.actor, state.labels, state.parent_run_id,
        state.prompt_version, state.policy_version, state.started_us, state.thresholds, state.limits,
        state.on_exceeded, state.crossed, used, state.run_status, state.finished, state.model_calls,
        state.unpriced_model_calls, state.tool_calls, state.tool_errors, state.charges, state.costs,
        state.cost_nanousd, state.wasted_nanousd, state.retry_nanousd, state.human_ms, state.reported,
        state.reported_nanousd, state.alerts, state.outcome_event_id, state.outcome_success, state.stated,
        state.revision, state.derived_seq, state.declared_at, declared, state.failing,
    ) = values  # fmt: skip
    state.memory, state.seen = RunMemory.load(memory), SeenEvents.load(head, value[end:])
    state.declared = [DeclaredLimit(*limit) for limit in declared]
    state.used = Amounts(used)
    state.lines = Amounts(next_lines(state.limits, state.crossed, state.thresholds))
    state.has_limits = state.limits != NO_LIMITS or bool(state.declared)
    return state


def folded_up_to(value: bytes) -> int:
    """The source offset that encoded state is folded up to, read without decoding the rest."""
    offset: int = _OFFSET.unpack_from(value, 1)[0]
    return offset


def deadline_of(value: bytes) -> int:
    """When the run has to be looked at, microseconds of ledger time, read without decoding the rest."""
    deadline_us: int = _HEAD.unpack_from(value, 1)[1]
    return deadline_us
