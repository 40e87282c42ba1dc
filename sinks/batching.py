"""From consumed records to rows: index, ledger time, hashes, leaf and occurrence. Pure: no Kafka, no ClickHouse."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agentledger.schemas.catalogue import Schema, schema_sha256
from agentledger.schemas.errors import LedgerConflictError, SchemaError, UnknownSchemaError
from agentledger.schemas.events import EVENT_TYPES
from agentledger.schemas.hashing import EMPTY_SHA256, LeafHasher
from agentledger.sinks.rows import CONFLICT, DUPLICATE, FIRST, LedgerRow, Load, LogPlace, RowGroup
from agentledger.sinks.store import BatchEntry, LogPosition, StoredId, StoredRow
from agentledger.sinks.tables import column_of, typed_columns

Headers = list[tuple[str, bytes | None]]
Leaf = Callable[[int, int, int, bytes, bytes, bytes, bytes, bytes], bytes]
_EVENT_ID = re.compile(rb"\x48([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})").match
_sha256 = hashlib.sha256
NO_SCHEMA = b"\x00" * 32
_LENGTH = struct.Struct(">I")
KEYS_KNOWN_MAX = 50_000  # keys (run ids) whose hash is kept: some 10 MB; a run's events come near each other
ID_PLACE = 5  # behind the Confluent header: the first field of every record is the event id, a string of 36 characters


class SourceRecord(NamedTuple):
    """One record as it was consumed."""

    place: LogPlace
    offset: int
    timestamp_ms: int
    key: bytes
    headers: Headers | None
    value: bytes | None


class Conflict(NamedTuple):
    """An event id that came again with other content."""

    row: LedgerRow
    first_value_sha256: bytes


@dataclass
class Batch:
    """One flush: what to write, what it says afterwards, and what it found."""

    groups: list[RowGroup]
    entries: list[BatchEntry]
    conflicts: list[Conflict]
    unreadable: list[tuple[LedgerRow, str]]  # with the reason; also those that an unfinished flush has written
    doubtful: list[LedgerRow]  # first of their id here, followed by another of other schema: to be decoded beforehand
    firsts: dict[str, bytes]  # event id to value hash, of those that are first here
    rows: int
    loads: list[Load] | None = None  # the groups, encoded ahead; None once they are sent


class Schemas:
    """Writer schemas by id, each with its hash; None for an id that can't be read."""

    def __init__(self, schema_of: Callable[[int], Schema]) -> None:
        self._schema_of = schema_of
        self._known: dict[int, tuple[Schema, bytes]] = {}

    def get(self, schema_id: int) -> tuple[Schema, bytes] | None:
        """The schema and its SHA-256. Other errors than an unknown id are raised: the registry may be away."""
        if schema_id not in self._known:
            try:
                schema = self._schema_of(schema_id)
            except UnknownSchemaError:
                return None
            if not is_readable(schema):
                return None
            self._known[schema_id] = schema, schema_sha256(schema)
        return self._known[schema_id]


def is_readable(schema: Any) -> bool:
    """Whether rows of this writer schema fit the table. A field that is new to us is passed over."""
    if not isinstance(schema, dict) or schema.get("name") not in EVENT_TYPES:
        return False
    try:
        columns = [column_of(field) for field in schema["fields"]]
    except (SchemaError, KeyError, TypeError):
        return False
    known = typed_columns()
    return columns[:1] == [known["event_id"]] and all(known.get(c.name, c) == c for c in columns)


class Batcher:
    """Turns consumed records into batches. Knows where each log stands; a batch moves that on only when `accept`ed."""

    def __init__(self, schemas: Schemas, lookup: Callable[[Sequence[str]], list[StoredId]]) -> None:
        self._schemas = schemas
        self._lookup = lookup
        self._positions: dict[LogPlace, LogPosition] = {}
        self._hashers: dict[LogPlace, LeafHasher] = {}
        self._unfinished: dict[LogPlace, dict[int, StoredRow]] = {}
        self._refused: dict[tuple[LogPlace, int], str] = {}
        self._headers: dict[bytes, tuple[int, str, bytes]] = {}
        self._key_hashes: dict[bytes, bytes] = {}

    def refuse(self, row: LedgerRow, reason: str) -> None:
        """From now on this record counts as unreadable: ClickHouse could not read it."""
        self._refused[row.place, row.offset] = reason

    def open_log(self, place: LogPlace, position: LogPosition, unfinished: dict[int, StoredRow]) -> None:
        """Begin to write a log from where it stands; `unfinished` are rows that are there already."""
        self._positions[place] = position
        self._hashers[place] = LeafHasher(bytes.fromhex(place.topic_id.replace("-", "")), place.partition)
        self._unfinished[place] = unfinished

    def close_log(self, place: LogPlace) -> None:
        """Forget a log that another writer has now."""
        for known in (self._positions, self._hashers, self._unfinished):
            known.pop(place, None)

    def batch(self, records: Iterable[SourceRecord], behind: Batch | None = None) -> Batch:
        """The rows of these records. Asking again without `accept` gives the same rows.

        With `behind`, a batch that isn't accepted yet, the rows that follow if it will be, just as it is.
        """
        positions = {entry.place: entry.after for entry in behind.entries} if behind is not None else {}
        after: dict[LogPlace, LogPosition] = {}
        firsts: dict[LogPlace, tuple[int, int]] = {}
        skipped: dict[LogPlace, int] = {}
        leaves: dict[LogPlace, list[bytes]] = {}
        rows: list[tuple[LedgerRow, str, int]] = []
        place = None
        for record in records:
            if record.place is not place:  # the records of a log come many at a time
                place = record.place
                if place not in after:
                    after[place] = (positions.get(place) or self._positions[place]).copy()
                    leaves[place] = []
                position, leaf, unfinished = after[place], self._hashers[place].leaf, self._unfinished[place]
                add_leaf = leaves[place].append
            offset = record.offset
            if offset != position.next_offset or place not in firsts:
                if offset < position.next_offset:
                    continue  # consumed again after a rebalance: it is in the ledger
                firsts.setdefault(place, (offset, position.next_index))
                skipped[place] = skipped.get(place, 0) + offset - position.next_offset
            made = self._row(record, position, leaf, unfinished)
            rows.append(made)
            add_leaf(made[0].hashes[96:])
            position.next_offset = offset + 1
            position.next_index += 1
        conflicts, doubtful, new_ids = self._mark(rows, behind.firsts if behind is not None else {})
        for place, added in leaves.items():
            after[place].tree.extend(added)
        entries = [
            BatchEntry(place, *firsts[place], after[place].next_index - firsts[place][1], skipped[place], after[place])
            for place in firsts
        ]
        unreadable = [(row, reason) for row, reason, _ in rows if reason]
        return Batch(self._groups(rows), entries, conflicts, unreadable, doubtful, new_ids, len(rows))

    def accept(self, batch: Batch) -> None:
        """The batch is written: the next one goes on behind it."""
        for entry in batch.entries:
            self._positions[entry.place] = entry.after
            left = self._unfinished.get(entry.place)
            for key in [key for key in self._refused if key[0] == entry.place]:
                del self._refused[key]
            if left:
                self._unfinished[entry.place] = {i: row for i, row in left.items() if i >= entry.after.next_index}

    def _row(
        self, record: SourceRecord, position: LogPosition, leaf_of: Leaf, unfinished: dict[int, StoredRow]
    ) -> tuple[LedgerRow, str, int]:
        """The row, the reason why it can't be read (or ""), and its schema id. Called for each record: it is plain."""
        place, offset, timestamp_ms, key, headers, value = record
        if timestamp_ms * 1000 > position.ledger_time_us:  # noqa: PLR1730 - max() takes five times as long
            position.ledger_time_us = timestamp_ms * 1000
        log_index, ledger_time_us = position.next_index, position.ledger_time_us
        known = self._headers.get(value[:ID_PLACE]) if value is not None else None
        schema_id, reason, schema_hash = known or self._header(value)
        if self._refused and not reason:
            reason = self._refused.get((place, offset), "")
        stored = unfinished.get(log_index) if unfinished else None
        if stored is not None:  # what was known of it then holds: a registry may have learned the schema since
            reason, schema_hash = stored.poison_reason, stored.schema_sha256
        # A refused body keeps its schema and id in the leaf: the leaf was known before it was refused.
        match = None if value is None or schema_hash == NO_SCHEMA else _EVENT_ID(value, ID_PLACE)
        if match is None and not reason:
            reason = "no event id where the envelope has it"
        event_id = match[1] if match is not None else b""
        value_hash = _sha256(value).digest() if value is not None else EMPTY_SHA256
        key_hash = self._key_hashes.get(key) or self._key_hash(key)
        headers_part = headers_bytes(headers) if headers else b""
        headers_hash = _sha256(headers_part).digest() if headers_part else EMPTY_SHA256
        leaf = leaf_of(
            offset, log_index, ledger_time_us, event_id, schema_hash, key_hash, headers_hash, value_hash
        )  # fmt: skip
        row = LedgerRow(
            place, offset, log_index, ledger_time_us, FIRST, key, headers_part,
            key_hash + headers_hash + value_hash + leaf, value, event_id.decode(),
        )  # fmt: skip
        return row, reason, schema_id

    def _header(self, value: bytes | None) -> tuple[int, str, bytes]:
        """What a value's first bytes say, where it isn't known yet: schema id, why it can't be read, schema hash."""
        if value is None:
            return 0, "tombstone: the record has no value", NO_SCHEMA
        if len(value) < ID_PLACE or value[0] != 0:
            return 0, "no Confluent header", NO_SCHEMA
        schema_id = int.from_bytes(value[1:ID_PLACE], "big")
        known = self._schemas.get(schema_id)
        if known is None:  # asked again with the next record: a registry may learn it
            return schema_id, "unknown schema id", NO_SCHEMA
        found = self._headers[value[:ID_PLACE]] = schema_id, "", known[1]
        return found

    def _key_hash(self, key: bytes) -> bytes:
        if len(self._key_hashes) >= KEYS_KNOWN_MAX:
            self._key_hashes.clear()
        known = self._key_hashes[key] = _sha256(key).digest()
        return known

    def _mark(
        self, rows: list[tuple[LedgerRow, str, int]], before: dict[str, bytes]
    ) -> tuple[list[Conflict], list[LedgerRow], dict[str, bytes]]:
        """Set `occurrence` in place; the conflicts, the doubtful firsts, and the ids that are first here.

        `before` are firsts that are on their way into the ledger.

        A record that turns out to be unreadable is no first: where the next of its id is in another group, that one may
        be written by then. Hence the doubt.
        """
        asked = {row.event_id: row.hashes[64:96] for row, reason, _ in rows if not reason}
        stored = {item.event_id: item for item in self._lookup(list(asked))} if asked else {}
        if not stored and len(asked) == len(rows) and asked.keys().isdisjoint(before):
            return [], [], asked  # all are new, as usual
        firsts = {event_id: before[event_id] for event_id in asked.keys() & before.keys()}
        conflicts: list[Conflict] = []
        doubtful: dict[str, LedgerRow] = {}
        first_here: dict[str, tuple[LedgerRow, int]] = {}
        for number, (row, reason, schema_id) in enumerate(rows):
            if reason:
                continue
            known = stored.get(row.event_id)
            if known is not None and (known.place, known.log_index) != (row.place, row.log_index):
                firsts.setdefault(row.event_id, known.value_sha256)
            if row.event_id not in firsts:
                firsts[row.event_id] = row.hashes[64:96]
                first_here[row.event_id] = row, schema_id
                continue
            earlier = first_here.get(row.event_id)
            if earlier is not None and earlier[1] != schema_id:
                doubtful[row.event_id] = earlier[0]
            first = firsts[row.event_id]
            marked = row._replace(occurrence=DUPLICATE if first == row.hashes[64:96] else CONFLICT)
            rows[number] = marked, reason, schema_id
            if marked.occurrence == CONFLICT:
                conflicts.append(Conflict(marked, first))
        new_ids = {event_id: firsts[event_id] for event_id in first_here}
        return conflicts, list(doubtful.values()), new_ids

    def _groups(self, rows: list[tuple[LedgerRow, str, int]]) -> list[RowGroup]:
        """Rows by schema, or by the reason why they can't be read; without those that are there already."""
        groups: dict[tuple[int, str], RowGroup] = {}
        for row, reason, schema_id in rows:
            if self._unfinished[row.place] and self._is_there(row):
                continue
            group = groups.get((schema_id, reason))
            if group is None:
                schema, digest = (self._schemas.get(schema_id) if schema_id else None) or (None, NO_SCHEMA)
                group = groups[schema_id, reason] = RowGroup(schema_id, None if reason else schema, digest, reason, [])
            group.rows.append(row)
        return list(groups.values())

    def _is_there(self, row: LedgerRow) -> bool:
        """Whether an unfinished flush has written this row. Raises LedgerConflictError where it wrote another."""
        stored = self._unfinished[row.place].get(row.log_index)
        if stored is None:
            return False
        if stored.leaf_hash != row.hashes[96:]:
            raise LedgerConflictError(
                f"index {row.log_index} holds another record than Kafka has at offset {row.offset}",
                where=f"{row.place.topic}, partition {row.place.partition}",
                next_step="do not write on; find out who changed the ledger or the topic",
            )
        return True


def headers_bytes(headers: Headers | None) -> bytes:
    """The headers as their hash takes them: each name and value with its length before it (32 bits, big-endian)."""
    if not headers:
        return b""
    parts = [part for name, value in headers for part in (name.encode(), value or b"")]
    return b"".join(_LENGTH.pack(len(part)) + part for part in parts)
