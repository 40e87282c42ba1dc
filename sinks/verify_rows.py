"""Checks rows of one log against their own bytes: hashes, leaf, schema, and that typed columns say what the bytes say.

ClickHouse writes the typed columns of a row in Avro again, field by field in the order of the writer's schema. The
exact bytes that were received stand beside them: where both are the same, nothing needs decoding. Where they aren't,
both are decoded and compared, as there is more than one way to write a number or a map.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from agentledger.schemas.catalogue import Schema, schema_sha256
from agentledger.schemas.codec import HEADER_BYTES, Codec
from agentledger.schemas.encoding import LONG
from agentledger.schemas.errors import AgentledgerError, CodecError
from agentledger.schemas.hashing import EMPTY_SHA256, LeafHasher
from agentledger.schemas.heads import LogId
from agentledger.schemas.ports import SchemaRegistry
from agentledger.sinks.flushing import misfit_id
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.tables import LEDGER, typed_columns
from agentledger.sinks.verify_columns import Filled, blocks_of, comparer, fields_of, is_default

KEYS_KNOWN_MAX = 50_000
SERVER_VERDICT = "refused by ClickHouse"  # how the writer's reasons begin where only the server couldn't read a record
NO_SCHEMA = bytes(32)
READS_AT_A_TIME = 2  # ClickHouse spells Avro with one core per query; more would starve the writer on a small server
_PREFIX = struct.Struct("<qQqBIII32s32s32s32s32s")
_EVENT_ID = re.compile(rb"\x48([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")
_NUMBERS = (
    "reinterpretAsFixedString(offset), reinterpretAsFixedString(log_index), "
    "reinterpretAsFixedString(toUnixTimestamp64Micro(ledger_time)), reinterpretAsFixedString(toUInt8({same})), "
    "reinterpretAsFixedString(toUInt32(length(key))), reinterpretAsFixedString(toUInt32(length(headers))), "
    "reinterpretAsFixedString(toUInt32(length(raw))), "
    "schema_sha256, key_sha256, headers_sha256, value_sha256, leaf_hash"
)


class Group(NamedTuple):
    """Rows of one kind in one part of a log."""

    schema_id: int
    schema_sha256: bytes
    event_type: str
    is_poison: bool
    is_server_verdict: bool  # unreadable to ClickHouse alone
    rows: int


class RowProblem(NamedTuple):
    """What is wrong with one row: its kind, and what was expected."""

    log_index: int
    kind: str
    text: str


class _Reading(NamedTuple):
    """Rows of one group on their way from ClickHouse."""

    group: Group
    schema: Schema | None
    wrong: list[tuple[str, str]]
    blocks: Future[list[bytes]]


class CheckedPart:
    """Rows `first` to `behind` - 1 of a log: the leaf of each, worked out from its bytes, and what is wrong."""

    def __init__(self, first: int, behind: int) -> None:
        self.first = first
        self.leaves: list[bytes | None] = [None] * (behind - first)  # None: no such row
        self.stored: dict[int, bytes] = {}  # of rows whose leaf_hash is another
        self.problems: list[RowProblem] = []
        self.server_verdicts = 0  # rows that are unreadable by the word of the server alone


class RowChecker:
    """Checks parts of one log."""

    def __init__(
        self, reader: ClickHouseLeafReader, registry: SchemaRegistry, log: LogId, filled: Filled, *,
        has_stubs: bool = False,
    ) -> None:  # fmt: skip
        self._reader = reader
        self._has_stubs = has_stubs  # rows whose bytes were purged: a tombstone has their leaves
        self._filled = filled
        self._registry = registry
        self._log = log
        self._hasher = LeafHasher(bytes.fromhex(log.topic_id.replace("-", "")), log.partition)
        self._codec = Codec(registry)
        self._keys: dict[bytes, bytes] = {}
        self._comparers: dict[int, Callable[[bytes, int, bytes], tuple[int, str]]] = {}

    def check(self, parts: Iterable[tuple[int, int]]) -> Iterator[CheckedPart]:
        """Read and check rows, part by part, each as (first, behind). Raises StoreError.

        While one part is checked here, ClickHouse works on the next.
        """
        ahead: deque[tuple[CheckedPart, list[_Reading]]] = deque()
        with ThreadPoolExecutor(READS_AT_A_TIME, "verify") as pool:
            for first, behind in parts:
                ahead.append((CheckedPart(first, behind), self._begin(pool, first, behind)))
                if len(ahead) > 1:
                    yield self._finish(*ahead.popleft())
            while ahead:
                yield self._finish(*ahead.popleft())

    def _begin(self, pool: ThreadPoolExecutor, first: int, behind: int) -> list[_Reading]:
        readings = []
        for group in self._groups(first, behind):
            schema, wrong = self._schema(group)
            blocks = pool.submit(self._read, group, schema, first, behind)
            readings.append(_Reading(group, schema, wrong, blocks))
        return readings

    def _finish(self, part: CheckedPart, readings: list[_Reading]) -> CheckedPart:
        for group, schema, wrong, blocks in readings:
            part.server_verdicts += group.rows if group.is_server_verdict else 0
            for block in blocks.result():
                self._check_block(block, group, schema, part, wrong)
        return part

    def _where(self, first: int, behind: int) -> tuple[str, dict[str, Any]]:
        return (
            "topic_id = {topic_id:UUID} AND partition = {partition:UInt32} "
            "AND log_index >= {first:UInt64} AND log_index < {behind:UInt64}"
            + (" AND (raw != '' OR event_type = '')" if self._has_stubs else ""),
            {"topic_id": self._log.topic_id, "partition": self._log.partition, "first": first, "behind": behind},
        )

    def _groups(self, first: int, behind: int) -> list[Group]:
        where, parameters = self._where(first, behind)
        rows = self._reader.query(
            "SELECT schema_id, schema_sha256, event_type, poison_reason != '' AS is_poison, "
            f"startsWith(poison_reason, '{SERVER_VERDICT}') AS is_server_verdict, count() "
            f"FROM {LEDGER} WHERE {where} GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5",
            parameters,
        )
        return [Group(one[0], bytes(one[1]), one[2], bool(one[3]), bool(one[4]), one[5]) for one in rows]

    def _schema(self, group: Group) -> tuple[Schema | None, list[tuple[str, str]]]:
        """The writer schema of readable rows, and what is wrong with all rows of the group."""
        if group.event_type == "" and group.is_poison:
            return None, []
        try:
            schema: Schema = self._registry.schema_of(group.schema_id)
        except AgentledgerError as error:
            return None, [("schema", f"schema id {group.schema_id} can't be looked up: {error}")]
        found = schema_sha256(schema)
        if found != group.schema_sha256:
            return schema, [("schema", f"schema {group.schema_id} has the SHA-256 {found.hex()}")]
        if group.is_poison or group.event_type != schema["name"]:
            said = f"event_type {group.event_type!r}" + (", unreadable" if group.is_poison else "")
            return schema, [("type", f"the bytes are a {schema['name']}, the row says {said}")]
        return schema, []

    def _read(self, group: Group, schema: Schema | None, first: int, behind: int) -> list[bytes]:
        """The rows as blocks of Avro: numbers and hashes, key, headers, value, then the typed columns."""
        where, parameters = self._where(first, behind)
        fields = fields_of(schema)
        strange = [
            typed_columns()[name]
            for name in sorted(self._filled[group.event_type, group.schema_sha256].difference(fields))
        ]
        same = " AND ".join(map(is_default, strange))
        columns = "".join(f", `{name}`" for name in fields)
        raw = self._reader.raw_query(
            f"SELECT toFixedString(concat({_NUMBERS.format(same=same or '1')}), {_PREFIX.size}) AS p, key, headers, raw"
            f"{columns} FROM {LEDGER} WHERE {where} AND schema_id = {{schema_id:UInt32}} "
            "AND schema_sha256 = unhex({sha:String}) AND event_type = {event_type:String} "
            "AND (poison_reason != '') = {is_poison:Bool} "
            f"AND startsWith(poison_reason, '{SERVER_VERDICT}') = {{is_server_verdict:Bool}} "
            "SETTINGS output_format_avro_codec = 'null', output_format_avro_rows_in_file = 0",
            {**parameters, "schema_id": group.schema_id, "sha": group.schema_sha256.hex(),
             "event_type": group.event_type, "is_poison": group.is_poison,
             "is_server_verdict": group.is_server_verdict},
            "Avro",
        )  # fmt: skip
        return list(blocks_of(raw))

    def _check_block(
        self, block: bytes, group: Group, schema: Schema | None, part: CheckedPart, group_wrong: list[tuple[str, str]]
    ) -> None:
        """Check the rows of a block. This loop is what verification costs: everything in it has a local name."""
        unpack, size, long, key_hash, make_leaf = (
            _PREFIX.unpack_from,
            _PREFIX.size,
            LONG,
            self._key_hash,
            self._hasher.leaf,
        )
        header = b"\x00" + group.schema_id.to_bytes(4, "big")
        is_event, has_id = schema is not None, group.schema_sha256 != NO_SCHEMA
        is_hidden_maybe = group.is_poison and has_id and not group.is_server_verdict
        leaves, first, sha256, empty = part.leaves, part.first, hashlib.sha256, EMPTY_SHA256
        place, end = 0, len(block)
        while place < end:
            (offset, index, time_us, is_default, key_size, headers_size, raw_size, schema_hash, key_sha, headers_sha,
             value_sha, stored_leaf) = unpack(block, place)  # fmt: skip
            place += size + len(long[key_size])
            key = block[place : place + key_size]
            place += key_size + len(long[headers_size])
            headers = block[place : place + headers_size]
            place += headers_size + len(long[raw_size])
            value = block[place : place + raw_size]
            place += raw_size
            wrong = group_wrong
            if is_event:
                body = value[HEADER_BYTES:]
                if block.startswith(body, place):
                    place += len(body)
                else:
                    place, text = self._compare(schema, block, place, body)
                    if text:
                        wrong = [*wrong, ("column", text)]
                if not value.startswith(header):
                    wrong = [*wrong, ("schema", f"the bytes name another schema than {group.schema_id}")]
            elif is_hidden_maybe and (name := self._readable_as(value)):
                wrong = [*wrong, ("type", f"the bytes can be read as a {name}, the row says unreadable")]
            value_hash = sha256(value).digest()
            headers_hash = sha256(headers).digest() if headers else empty
            found_key = key_hash(key)
            match = _EVENT_ID.match(value, HEADER_BYTES) if has_id else None
            leaf = make_leaf(
                offset,
                index,
                time_us,
                match.group(1) if match else b"",
                schema_hash,
                found_key,
                headers_hash,
                value_hash,
            )
            if leaf != stored_leaf or value_hash != value_sha or found_key != key_sha or headers_hash != headers_sha:
                wrong = [*wrong, *_hash_problems(leaf, stored_leaf, value_hash, value_sha,
                                                 found_key == key_sha and headers_hash == headers_sha)]  # fmt: skip
                if leaf != stored_leaf:
                    part.stored[index] = stored_leaf
            if not is_default:
                wrong = [*wrong, ("column", "a column that this type of record doesn't have holds something")]
            if leaves[index - first] is not None:
                wrong = [*wrong, ("double", "another row has this index, too; expected one")]
            leaves[index - first] = leaf
            if wrong:
                part.problems += [RowProblem(index, kind, text) for kind, text in wrong]

    def _readable_as(self, value: bytes) -> str:
        """The record's name in a value that has one; empty where it really can't be read."""
        if _EVENT_ID.match(value, HEADER_BYTES) is None:
            return ""
        try:
            event = self._codec.decode(value)
        except CodecError:
            return ""
        return "" if misfit_id(event) else type(event).__name__

    def _compare(self, schema: Schema | None, block: bytes, place: int, body: bytes) -> tuple[int, str]:
        """What differs between columns that aren't byte for byte the body, and the place behind them."""
        name = id(schema)
        if name not in self._comparers:
            self._comparers[name] = comparer(schema or {})
        return self._comparers[name](block, place, body)

    def _key_hash(self, key: bytes) -> bytes:
        known = self._keys.get(key)
        if known is None:
            if len(self._keys) >= KEYS_KNOWN_MAX:
                self._keys.clear()
            known = self._keys[key] = hashlib.sha256(key).digest()
        return known


def _hash_problems(
    leaf: bytes, stored_leaf: bytes, value_hash: bytes, value_sha: bytes, are_others_right: bool
) -> list[tuple[str, str]]:
    found = []
    if value_hash != value_sha:
        found.append(("bytes", f"SHA-256 of the value is {value_hash.hex()}, expected {value_sha.hex()}"))
    if not are_others_right:
        found.append(("bytes", "key or headers do not have the hashes that the row says"))
    if leaf != stored_leaf and not found:
        text = f"the row's fields and bytes give the leaf {leaf.hex()}, expected {stored_leaf.hex()}"
        found.append(("leaf", text))
    return found
