"""The trail in ClickHouse, over HTTP: what the writer reads there, and how it writes rows and flushes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from clickhouse_connect.driver.external import ExternalData

from agentledger.schemas.compact_range import CompactRange
from agentledger.schemas.errors import LedgerConflictError, StoreError
from agentledger.sinks.clickhouse_client import open_client
from agentledger.sinks.rows import Load, LogPlace, input_structure, insert_parameters, insert_statement
from agentledger.sinks.store import BatchEntry, LogPosition, RowsRefusedError, StoredId, StoredRow
from agentledger.sinks.tables import BATCHES, CLAIMS, LEDGER, TRIAL

# Look-ups of ids go through the projection by_event_id row by row, in tables of any size: by default ClickHouse reads a
# whole part where one id may be in it. Ids are in order of time, so those of live events touch next to nothing.
QUERY_SETTINGS: dict[str, Any] = {
    "max_query_size": 1 << 20,
    "min_table_rows_to_use_projection_index": 0,
    "max_projection_rows_to_use_projection_index": 1 << 40,
}
INSERT_S_MAX = 110  # of the server, per INSERT
LEAVES_AT_A_TIME = 200_000  # 7 MB of them
ANSWER_S_MAX = INSERT_S_MAX + 10
SETTLE_S_MAX = INSERT_S_MAX + 10
QUERY_ID_PREFIX = "agentledger-insert-"
INSERT_MEMORY_BYTES_MAX = 2 * 1024**3  # of the server, per INSERT: a body that claims to be huge must not end it
# One INSERT must be one block, or a killed server keeps a part of it.
INSERT_SETTINGS: dict[str, Any] = {
    "async_insert": 0,
    "max_insert_block_size": 1_048_576,
    "min_insert_block_size_rows": 1_048_576,
    "min_insert_block_size_bytes": 1 << 30,
    "max_insert_threads": 1,
    "compile_expressions": 0,  # a second of compiling for expressions that only take bytes apart
    "query_plan_enable_optimizations": 0,  # there is nothing to optimize, and looking for it is a third of planning
    "max_threads": 2,  # for the groups, which are read next to each other; the table is written by one
    "max_memory_usage": INSERT_MEMORY_BYTES_MAX,
    "max_query_size": 1 << 20,
    "max_execution_time": INSERT_S_MAX,
}
# Server codes that blame the rows and not the server (ErrorCodes.cpp of ClickHouse): parsing, ranges, throwIf, and what
# its Avro reader throws.
DATA_ERRORS = frozenset({6, 25, 26, 27, 32, 33, 38, 41, 48, 53, 69, 70, 72, 117, 128, 131, 321, 349, 376, 395})
MEMORY_ERRORS = frozenset({173, 241})  # a length of many gigabytes shows as that; so does a server that is short of it
FENCED = "agentledger: another writer has claimed this log"
AVRO_EXCEPTION = 1001  # STD_EXCEPTION: avro-cpp's own errors reach the client as this
BATCH_TYPES = (
    "topic String, topic_id UUID, partition UInt32, first_offset Int64, last_offset Int64, first_index UInt64, "
    "last_index UInt64, rows UInt64, last_ledger_time DateTime64(6, \\'UTC\\'), "
    "skipped_offsets Int64, batch_time DateTime64(6, \\'UTC\\'), written_at DateTime64(6, \\'UTC\\'), tree String"
)


class ClickHouseLedgerStore:
    """The real `LedgerStore`."""

    def __init__(self, url: str, user: str = "default", password: str = "") -> None:
        self._url, self._user, self._password = url, user, password
        self._connected: Client | None = None
        self._claim_id = str(uuid.uuid4())

    def _client(self) -> Client:
        if self._connected is None:
            self._connected = open_client(
                self._url, self._user, self._password, answer_s_max=ANSWER_S_MAX, query_retries=0
            )
        return self._connected

    def position(self, place: LogPlace) -> LogPosition:
        """Where the log stands by its last finished flush."""
        rows = self._query(
            f"SELECT last_offset + 1, last_index + 1, toUnixTimestamp64Micro(last_ledger_time), hex(tree) "
            f"FROM {BATCHES} WHERE topic_id = {{topic_id:UUID}} AND partition = {{partition:UInt32}} "
            "ORDER BY last_index DESC LIMIT 1",
            {"topic_id": place.topic_id, "partition": place.partition},
        )
        if not rows:
            return LogPosition()
        next_offset, next_index, ledger_time_us, tree = rows[0]
        raw = bytes.fromhex(tree)
        grown = CompactRange.from_bytes(0, next_index, raw) if raw else self._tree_of_rows(place, next_index)
        return LogPosition(next_offset, next_index, ledger_time_us, grown)

    def _tree_of_rows(self, place: LogPlace, size: int) -> CompactRange:
        """The tree of a log that was written before its tree was kept. Raises LedgerConflictError where rows lack."""
        tree = CompactRange()
        while tree.behind < size:
            rows = self._query(
                f"SELECT leaf_hash FROM {LEDGER} "
                "WHERE topic_id = {topic_id:UUID} AND partition = {partition:UInt32} "
                "AND log_index >= {first:UInt64} AND log_index < {behind:UInt64} ORDER BY log_index",
                {
                    "topic_id": place.topic_id,
                    "partition": place.partition,
                    "first": tree.behind,
                    "behind": min(size, tree.behind + LEAVES_AT_A_TIME),
                },
            )
            if len(rows) != min(size - tree.behind, LEAVES_AT_A_TIME):
                raise LedgerConflictError(
                    f"rows are missing from index {tree.behind} on",
                    where=f"{place.topic}, partition {place.partition}",
                    next_step="find out with `agentledger verify --all` who took them away",
                )
            tree.extend(bytes(leaf) for (leaf,) in rows)
        return tree

    def claim(self, places: Sequence[LogPlace], at_us: int) -> None:
        """From now on only this store writes these logs. Returns when no earlier write is still under way.

        Every INSERT looks the claim up on the server when it begins. So one of an earlier writer (stopped, and awake
        again) is refused if it begins after the claim, and waited for here if it began before. This holds on one
        server; behind replicas, an INSERT through another replica can escape both for as long as replication lags.
        """
        if not places:
            return
        values = ", ".join(
            f"('{_quoted(place.topic)}', '{_quoted(place.topic_id)}', {place.partition})" for place in places
        )
        self._command(
            f"INSERT INTO {CLAIMS} (topic, topic_id, partition, epoch, claim_id, claimed_at) "
            f"SELECT topic, topic_id, partition, ifNull((SELECT maxOrNull(epoch) FROM {CLAIMS}), 0) + 1, "
            f"'{self._claim_id}', {_time(at_us)} "
            f"FROM values('topic String, topic_id UUID, partition UInt32', {values})"
        )
        self.settle()

    def settle(self) -> None:
        """Wait until no write that began before is still under way: one that failed here may still arrive there."""
        running = f"SELECT query_id FROM system.processes WHERE startsWith(query_id, '{QUERY_ID_PREFIX}')"
        before = {row[0] for row in self._query(running, None)}
        deadline = time.monotonic() + SETTLE_S_MAX
        while before:
            time.sleep(0.05)
            before &= {row[0] for row in self._query(running, None)}
            if before and time.monotonic() > deadline:
                raise StoreError(f"{len(before)} INSERTs have not ended in {SETTLE_S_MAX} s")

    def unfinished(self, place: LogPlace, position: LogPosition) -> dict[int, StoredRow]:
        """By log index, the rows behind the log's position: those that a flush wrote without finishing."""
        # The ledger time adds nothing but speed: it never decreases within a log, and tells apart parts of the table.
        rows = self._query(
            f"SELECT log_index, leaf_hash, schema_sha256, poison_reason FROM {LEDGER} "
            "WHERE topic_id = {topic_id:UUID} AND partition = {partition:UInt32} AND log_index >= {from_index:UInt64} "
            "AND ledger_time >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')",
            {
                "topic_id": place.topic_id,
                "partition": place.partition,
                "from_index": position.next_index,
                "from_us": position.ledger_time_us,
            },
        )
        return {int(index): StoredRow(bytes(leaf), bytes(schema), reason) for index, leaf, schema, reason in rows}

    def lookup(self, event_ids: Sequence[str]) -> list[StoredId]:
        """Those of the ids that are in the ledger as `first`."""
        ids = bytes.fromhex("".join(event_ids).replace("-", ""))
        rows = self._query(
            "SELECT toString(event_id), topic, toString(topic_id), partition, log_index, value_sha256 "
            f"FROM {LEDGER} WHERE UUIDToNum(event_id) IN (SELECT id FROM asked) "
            "AND occurrence = 'first' AND event_type != ''",
            None,
            ExternalData(file_name="asked", data=ids, fmt="RowBinary", structure="id FixedString(16)"),
        )
        return [
            StoredId(event_id, LogPlace(topic, topic_id, partition), index, bytes(value_sha256))
            for event_id, topic, topic_id, partition, index, value_sha256 in rows
        ]

    def insert(self, load: Load, batch_time_us: int, *, trial: bool = False) -> None:
        """Write all rows of the load or none; a trial only reads them. Raises RowsRefusedError where it can't."""
        containers = ExternalData()
        for number, (group, content) in enumerate(zip(load.groups, load.containers, strict=True)):
            containers.add_file(file_name=f"g{number}", data=content, fmt="Avro", structure=input_structure(group))
        fence = "1" if trial else self._claimed({row.place for group in load.groups for row in group.rows})
        try:
            self._client().raw_query(
                insert_statement(load.groups, TRIAL if trial else LEDGER, fence),
                parameters=insert_parameters(load, batch_time_us),
                external_data=containers,
                settings={**INSERT_SETTINGS, "query_id": f"{QUERY_ID_PREFIX}{uuid.uuid4()}"},
            )
        except (ClickHouseError, OSError) as error:
            if isinstance(error, DatabaseError) and FENCED not in str(error):
                if error.code in DATA_ERRORS or error.code == AVRO_EXCEPTION:
                    raise RowsRefusedError(_first_line(error)) from None
                if error.code in MEMORY_ERRORS:
                    raise RowsRefusedError(_first_line(error), is_memory=True) from None
            raise self._failed(error) from None

    def _claimed(self, places: Iterable[LogPlace]) -> str:
        """A condition that throws where one of the logs has another writer by now; worked out once per query."""
        logs = sorted({(place.topic_id, place.partition) for place in places})
        literals = ", ".join(f"(toUUID('{_quoted(topic_id)}'), {partition})" for topic_id, partition in logs)
        holders = (
            f"SELECT argMax(claim_id, (epoch, claimed_at, claim_id)) AS holder FROM {CLAIMS} "
            f"WHERE (topic_id, partition) IN ({literals}) GROUP BY topic_id, partition"
        )
        ours = f"(SELECT countIf(holder = toUUID('{self._claim_id}')) FROM ({holders}))"
        return f"throwIf({ours} != {len(logs)}, '{FENCED}') = 0"

    def commit(self, entries: Sequence[BatchEntry], batch_time_us: int, written_at_us: int) -> None:
        """Say that a flush is finished: all its logs at once."""
        if not entries:
            return
        rows = ",\n".join(_batch_values(entry, batch_time_us, written_at_us) for entry in entries)
        columns = (
            "topic, topic_id, partition, first_offset, last_offset, first_index, last_index, rows, last_ledger_time, "
            "skipped_offsets, batch_time, written_at, tree"
        )
        self._command(
            f"INSERT INTO {BATCHES} ({columns}) SELECT * FROM values('{BATCH_TYPES}', {rows}) "
            f"WHERE {self._claimed(entry.place for entry in entries)}"
        )

    def _command(self, sql: str) -> None:
        settings = {"async_insert": 0, "max_query_size": 1 << 20, "query_id": f"{QUERY_ID_PREFIX}{uuid.uuid4()}"}
        try:
            self._client().command(sql, settings=settings)
        except (ClickHouseError, OSError) as error:
            raise self._failed(error) from None

    def _query(self, sql: str, parameters: dict[str, Any] | None, asked: ExternalData | None = None) -> list[Any]:
        try:
            result = self._client().query(
                sql,
                parameters=parameters,
                settings=QUERY_SETTINGS,
                query_formats={"FixedString": "bytes"},
                external_data=asked,
            )
            return list(result.result_rows)
        except (ClickHouseError, OSError) as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> StoreError:
        if FENCED in str(error):
            return LedgerConflictError(
                "another writer has taken over a log of this one",
                next_step="nothing was written; start again: it goes on from where the ledger stands",
            )
        return StoreError(f"ClickHouse: {_first_line(error)}", next_step="the writer tries again until it works")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _batch_values(entry: BatchEntry, batch_time_us: int, written_at_us: int) -> str:
    """One row of VALUES. Every text in it is a topic name or a UUID, none of which holds a quote."""
    after = entry.after
    return (
        f"('{_quoted(entry.place.topic)}', '{_quoted(entry.place.topic_id)}', {entry.place.partition}, "
        f"{entry.first_offset}, {after.next_offset - 1}, {entry.first_index}, {after.next_index - 1}, {entry.rows}, "
        f"{_time(after.ledger_time_us)}, {entry.skipped_offsets}, "
        f"{_time(batch_time_us)}, {_time(written_at_us)}, unhex('{after.tree.to_bytes().hex()}'))"
    )


def _time(microseconds: int) -> str:
    return f"fromUnixTimestamp64Micro({microseconds}, 'UTC')"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
