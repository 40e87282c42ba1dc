"""Stage 2 over records: merges the partials of all sources and the declarations of budgets, tenant by tenant.

Works on bytes in and bytes out and does no input or output of its own, so the program, a replay and the tests run the
same code. Per partition of the partials topic it keeps, as states of their own:

- of each tenant, what `scopes` has folded (written every SNAPSHOT_SECONDS: it is by far the largest);
- each record that waits for its second to be complete, or that is folded but not yet in a written state of its tenant;
- how far each source is, and how far the input is folded in. It is written last: where it says that a record is in, all
  else is.

After a restart the records that still wait are folded again into the last written states. What that derives is what
was derived before, byte for byte: ids, counters and times follow from the state and the records.
"""

from __future__ import annotations

import json
import logging
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from agentledger.processors.partial_records import BUCKET_US, WATERMARK, Partial, decode_partial, read_head
from agentledger.processors.run_fold import DerivedRecord, StateRecord
from agentledger.processors.scope_state import TenantState, decode_tenant, encode_tenant
from agentledger.processors.scopes import Watch, advance, fold_second
from agentledger.processors.topics import SCOPES_STATE_BYTES_MAX
from agentledger.processors.watermarks import DECLARATIONS, Waiting, WaitingRoom, Watermarks
from agentledger.schemas.codec import Codec
from agentledger.schemas.control import control_key
from agentledger.schemas.errors import CodecError
from agentledger.schemas.events import BudgetDeclared, ControlIssued, Event, GapDetected, RunBudgetDeclared
from agentledger.schemas.topics import HOLDS, PARTIALS, derived_topic_of

Take = Callable[[int, int, int, bytes | None], list[DerivedRecord]]
# A tenant's state is 1 to 200 kB, what happens in a second 1 to 20 kB: written this rarely, a state costs as much as
# its records, and a restart folds at most this many seconds again.
SNAPSHOT_SECONDS = 10
STATE_BYTES_MAX = SCOPES_STATE_BYTES_MAX - 65_536  # the topic's limit is on batches, with their keys and heads
WAITING_LOGGED = 100_000  # waiting records that are worth a line in the log, again at each power of ten
_VERSION = b"\x01"
_NUMBER = struct.Struct(">q")
_WAITING_KEY = struct.Struct(">cIqiq")
_PLACE = struct.Struct(">cI")
_TENANT, _WAITING, _MARKS = b"t", b"w", b"z"

log = logging.getLogger(__name__)


class _Part:
    """One partition of the inputs."""

    def __init__(self, sources: int) -> None:
        self.marks = Watermarks(sources)
        self.room = WaitingRoom()
        self.done = {PARTIALS.name: -1, HOLDS.name: -1}  # the input offsets folded in
        self.holds_time_us = 0
        self.live: dict[str, TenantState] = {}
        self.written: dict[str, int] = {}  # tenant to the second up to which its written state is folded
        self.unwritten: dict[str, list[bytes]] = {}  # tenant to the keys of records that its live state is ahead by
        self.touched = False
        self.folded_before = -1  # every second before this one is folded


class ScopeFold:
    """Folds partials and declarations. `load` gives a stored state, `keys` the keys of all that are stored."""

    def __init__(
        self,
        codec: Codec,
        sources: int,
        rules: Sequence[Watch],
        load: Callable[[bytes], bytes | None],
        keys: Callable[[], Iterable[bytes]],
    ) -> None:
        self._codec = codec
        self._sources = sources
        self._rules = rules
        self._load = load
        self._keys = keys
        self._parts: dict[int, _Part] = {}
        self._changed: dict[bytes, StateRecord] = {}
        self.skipped: Counter[str] = Counter()

    def inputs(self) -> Mapping[str, Take]:
        """Partials, and the holds topic for its declarations and ticks."""
        return {PARTIALS.name: self.take_partial, HOLDS.name: self.take_hold}

    def take_partial(self, partition: int, offset: int, _timestamp_ms: int, value: bytes | None) -> list[DerivedRecord]:
        """Fold a record of the partials topic in."""
        part = self._part(partition)
        if not self._is_next(part, PARTIALS.name, offset) or value is None:
            return []
        try:
            head = read_head(value)
            if head.source >= self._sources:
                raise CodecError(f"source partition {head.source} is one too many", where="partials")
            if head.kind == WATERMARK:
                part.marks.raise_to(head.source, head.bucket)
                return self._fold_complete(partition, part)
            if part.marks.is_late(head.source, head.bucket):
                self.skipped["repeated partial"] += 1
                return []
            tenant_id = decode_partial(value).tenant_id
        except CodecError as error:
            self.skipped["unreadable partial"] += 1
            log.warning("skipped partition %d offset %d of %s: %s", partition, offset, PARTIALS.name, error)
            return []
        self._wait(partition, part, Waiting(head.bucket, tenant_id, head.source, head.part), value)
        return []

    def take_hold(self, partition: int, offset: int, timestamp_ms: int, value: bytes | None) -> list[DerivedRecord]:
        """Fold a record of the holds topic in: its time, and what it declares."""
        part = self._part(partition)
        if not self._is_next(part, HOLDS.name, offset):
            return []
        part.holds_time_us = max(part.holds_time_us, timestamp_ms * 1000)
        second = part.holds_time_us // BUCKET_US
        try:
            event = self._codec.decode(value)
        except CodecError:
            event = None  # the writer reports it
        if isinstance(event, BudgetDeclared) and value is not None:
            self._wait(partition, part, Waiting(second, event.tenant_id, DECLARATIONS, offset), value)
        if part.marks.raise_to(DECLARATIONS, second):
            return self._fold_complete(partition, part)
        return []

    def take_changed(self) -> list[StateRecord]:
        """Each state touched since the last call, in the order in which they must be written."""
        tenants: list[StateRecord] = []
        removed: list[StateRecord] = []
        marks: list[StateRecord] = []
        for partition, part in self._parts.items():
            if not part.touched:
                continue
            part.touched = False
            now = part.marks.complete_before()
            for tenant_id in sorted(part.unwritten):
                if now - part.written.get(tenant_id, 0) < SNAPSHOT_SECONDS:
                    continue
                part.written[tenant_id] = now
                value = encode_tenant(part.live[tenant_id])
                if len(value) > STATE_BYTES_MAX:
                    log.error("the state of tenant %s has %d bytes: too large to write", tenant_id[:80], len(value))
                    continue  # nothing is lost, but a restart folds all again since it was written last
                tenants.append(StateRecord(partition, tenant_key(partition, tenant_id), value))
                for key in part.unwritten.pop(tenant_id):
                    known = self._changed.pop(key, None)
                    if known is None:
                        removed.append(StateRecord(partition, key, None))
            marks.append(StateRecord(partition, _PLACE.pack(_MARKS, partition), _encode_marks(part)))
        waiting, self._changed = list(self._changed.values()), {}
        return waiting + tenants + removed + marks

    def forget(self) -> None:
        """Drop what is kept in memory: another worker may have gone on with it."""
        self._parts.clear()
        self._changed.clear()

    def read_again(self, topic: str) -> None:
        """Take this input from its first record on: what is folded in is recognized by its place when it comes again.

        For states that were rebuilt without knowing where the input's records lie.
        """
        for part in self._parts.values():
            part.done[topic] = -1
            part.touched = True

    def state_of(self, partition: int, tenant_id: str) -> TenantState | None:
        """The tenant's state as folded so far; not to be changed."""
        return self._tenant(partition, self._part(partition), tenant_id, make=False)

    def _is_next(self, part: _Part, topic: str, offset: int) -> bool:
        if offset <= part.done[topic]:
            return False
        part.done[topic] = offset
        part.touched = True
        return True

    def _wait(self, partition: int, part: _Part, place: Waiting, value: bytes) -> None:
        if not part.room.add(place, value):
            self.skipped["repeated partial"] += 1
            return
        key = waiting_key(partition, place)
        self._changed[key] = StateRecord(partition, key, _VERSION + _NUMBER.pack(place.bucket) + value)
        if part.room.count >= WAITING_LOGGED and str(part.room.count).strip("0") == "1":
            log.warning("partition %d: %d records wait for a source that lags behind", partition, part.room.count)

    def _fold_complete(self, partition: int, part: _Part) -> list[DerivedRecord]:
        """Fold what has become complete, and let time pass for tenants where something is due."""
        before = part.marks.complete_before()
        if before == part.folded_before:
            return []
        part.folded_before = before
        derived: list[DerivedRecord] = []
        found: list[tuple[Waiting, bytes]] = []
        for place, value in part.room.take_before(before):
            if found and found[0][0][:2] != place[:2]:
                derived += self._fold_tenant(partition, part, found)
                found = []
            found.append((place, value))
        if found:
            derived += self._fold_tenant(partition, part, found)
        for tenant_id, state in sorted(part.live.items()):
            if state.deadline < before:
                derived += self._records(advance(state, before, self._rules))
                part.unwritten.setdefault(tenant_id, [])
        return derived

    def _fold_tenant(self, partition: int, part: _Part, found: list[tuple[Waiting, bytes]]) -> list[DerivedRecord]:
        """Fold all records of one tenant and second."""
        second, tenant_id = found[0][0][:2]
        state = self._tenant(partition, part, tenant_id)
        part.unwritten.setdefault(tenant_id, []).extend(waiting_key(partition, place) for place, _ in found)
        if state is None or second <= state.folded:
            return []
        declared: list[BudgetDeclared] = []
        partials: list[Partial] = []
        for place, value in found:
            if place.source != DECLARATIONS:
                partials.append(decode_partial(value))
                continue
            event = self._codec.decode(value)
            if isinstance(event, BudgetDeclared):
                declared.append(event)
        return self._records(fold_second(state, second, declared, partials, self._rules, sources=self._sources))

    def _records(self, events: Iterable[Event]) -> list[DerivedRecord]:
        encode = self._codec.encode
        return [
            DerivedRecord(derived_topic_of(type(event).__name__).name, key_of(event), encode(event)) for event in events
        ]

    def _tenant(self, partition: int, part: _Part, tenant_id: str, *, make: bool = True) -> TenantState | None:
        state = part.live.get(tenant_id)
        if state is None:
            stored = self._load(tenant_key(partition, tenant_id))
            if stored is None and not make:
                return None
            state = TenantState(tenant_id) if stored is None else decode_tenant(stored)
            part.live[tenant_id] = state
            part.written[tenant_id] = state.folded if stored is not None else part.marks.complete_before()
        return state

    def _part(self, partition: int) -> _Part:
        """The partition as it was written last, with what waits in it."""
        part = self._parts.get(partition)
        if part is not None:
            return part
        part = self._parts[partition] = _Part(self._sources)
        stored = self._load(_PLACE.pack(_MARKS, partition))
        if stored is not None:
            _decode_marks(part, stored, self._sources)
        tenants, waiting = _PLACE.pack(_TENANT, partition), _PLACE.pack(_WAITING, partition)
        for key in sorted(self._keys()):
            if key.startswith(tenants):
                self._tenant(partition, part, key[len(tenants) :].decode("utf-8", "surrogatepass"))
            elif key.startswith(waiting):
                value = self._load(key)
                if value is not None:
                    part.room.add(place_of(key), value[1 + _NUMBER.size :])
        return part


def tenant_key(partition: int, tenant_id: str) -> bytes:
    """The key of a tenant's state."""
    return _PLACE.pack(_TENANT, partition) + tenant_id.encode("utf-8", "surrogatepass")


def waiting_key(partition: int, place: Waiting) -> bytes:
    """The key of a record that waits."""
    head = _WAITING_KEY.pack(_WAITING, partition, place.bucket, place.source, place.part)
    return head + place.tenant_id.encode("utf-8", "surrogatepass")


def place_of(key: bytes) -> Waiting:
    """The inverse of `waiting_key`."""
    _, _, bucket, source, part = _WAITING_KEY.unpack_from(key)
    return Waiting(bucket, key[_WAITING_KEY.size :].decode("utf-8", "surrogatepass"), source, part)


def key_of(event: Event) -> bytes:
    """The key of a record that stage 2 derives."""
    if isinstance(event, ControlIssued):
        return control_key(event.tenant_id, event.scope, event.scope_value, event.issued_by)
    if isinstance(event, GapDetected):
        return event.gap_producer_id.encode("utf-8", "surrogatepass")
    if isinstance(event, RunBudgetDeclared):
        return event.run_id.encode()
    return event.tenant_id.encode("utf-8", "surrogatepass")


def _encode_marks(part: _Part) -> bytes:
    """version (1 byte), sum of the input offsets (int64: it only grows), JSON."""
    done = [part.done[PARTIALS.name], part.done[HOLDS.name]]
    body = json.dumps([done, part.holds_time_us, part.marks.marks], separators=(",", ":"))
    return _VERSION + _NUMBER.pack(sum(done)) + body.encode()


def _decode_marks(part: _Part, value: bytes, sources: int) -> None:
    if value[:1] != _VERSION:
        raise CodecError(
            f"state version {value[:1].hex() or 'missing'} is unknown",
            where="changelog of scopes",
            next_step="run the release that wrote it, or rebuild the state from the ledger",
        )
    done, part.holds_time_us, marks = json.loads(value[1 + _NUMBER.size :])
    part.done = dict(zip((PARTIALS.name, HOLDS.name), done, strict=True))
    part.marks = Watermarks(sources, marks)
