"""The trail in ClickHouse: where each log stands, what an unfinished flush left behind, and writing rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from agentledger.schemas.errors import StoreError
from agentledger.sinks.rows import LogPlace, RowGroup, container, insert_parameters, insert_statement
from agentledger.sinks.tables import BATCHES, LEDGER, TRIAL

LOOKUP_IDS_MAX = 2_000  # ids in one look-up: some 80 kB of SQL
INSERT_MEMORY_BYTES_MAX = 2 * 1024**3  # of the server, per INSERT: a body that claims to be huge must not end it
# One INSERT must be one block, or a killed server keeps a part of it.
INSERT_SETTINGS: dict[str, Any] = {
    "async_insert": 0,
    "max_insert_block_size": 1_048_576,
    "min_insert_block_size_rows": 1_048_576,
    "min_insert_block_size_bytes": 1 << 30,
    "max_insert_threads": 1,
    "max_threads": 1,
    "max_memory_usage": INSERT_MEMORY_BYTES_MAX,
    "max_query_size": 1 << 20,
}
# Server codes that blame the rows and not the server (ErrorCodes.cpp of ClickHouse): parsing, ranges, throwIf, and what
# its Avro reader throws. Memory (241, 173) counts too: a length of many gigabytes shows as that.
DATA_ERRORS = frozenset(
    {6, 25, 26, 27, 32, 33, 38, 41, 48, 53, 69, 70, 72, 117, 128, 131, 173, 241, 321, 349, 376, 395}
)
AVRO_EXCEPTION = 1001  # STD_EXCEPTION: avro-cpp's own errors reach the client as this


class RowsRefusedError(StoreError):
    """ClickHouse could not read the rows; none of them was written."""


@dataclass
class LogPosition:
    """Where one log stands: the next offset to read, the next index to give, and what was last."""

    next_offset: int = 0
    next_index: int = 0
    ledger_time_us: int = 0
    max_event_id: str = ""


class StoredId(NamedTuple):
    """An event id that is in the ledger as `first`, with its place and the hash of its value."""

    event_id: str
    place: LogPlace
    log_index: int
    value_sha256: bytes


class BatchEntry(NamedTuple):
    """What a flush did to one log: the row that says that it is written."""

    place: LogPlace
    first_offset: int
    first_index: int
    rows: int
    skipped_offsets: int
    after: LogPosition


class LedgerStore(Protocol):
    """Where the writer puts the trail. Raises StoreError where the store can't be reached."""

    def position(self, place: LogPlace) -> LogPosition:
        """Where the log stands by its last finished flush."""

    def unfinished(self, place: LogPlace, from_index: int) -> dict[int, bytes]:
        """Log index to leaf hash of rows that a flush wrote without finishing."""

    def lookup(self, event_ids: Sequence[str]) -> list[StoredId]:
        """Those of the ids that are in the ledger as `first`."""

    def insert(self, group: RowGroup, batch_time_us: int, *, trial: bool = False) -> None:
        """Write all rows of the group or none; a trial only reads them. Raises RowsRefusedError where it can't."""

    def commit(self, entries: Sequence[BatchEntry], batch_time_us: int, written_at_us: int) -> None:
        """Say that a flush is finished: all its logs at once."""


class ClickHouseLedgerStore:
    """The real one, over HTTP."""

    def __init__(self, url: str, user: str = "default", password: str = "") -> None:
        self._url, self._user, self._password = url, user, password
        self._connected: Client | None = None

    def _client(self) -> Client:
        if self._connected is None:
            self._connected = clickhouse_connect.get_client(
                dsn=self._url,
                username=self._user,
                password=self._password,
                autogenerate_session_id=False,
                send_receive_timeout=120,
                query_retries=0,
            )
        return self._connected

    def position(self, place: LogPlace) -> LogPosition:
        """Where the log stands by its last finished flush."""
        rows = self._query(
            f"SELECT last_offset + 1, last_index + 1, toUnixTimestamp64Micro(last_ledger_time), max_event_id "
            f"FROM {BATCHES} WHERE topic_id = {{topic_id:UUID}} AND partition = {{partition:UInt32}} "
            "ORDER BY last_index DESC LIMIT 1",
            {"topic_id": place.topic_id, "partition": place.partition},
        )
        return LogPosition(*rows[0]) if rows else LogPosition()

    def unfinished(self, place: LogPlace, from_index: int) -> dict[int, bytes]:
        """Log index to leaf hash of rows that a flush wrote without finishing."""
        rows = self._query(
            f"SELECT log_index, leaf_hash FROM {LEDGER} WHERE topic_id = {{topic_id:UUID}} "
            "AND partition = {partition:UInt32} AND log_index >= {from_index:UInt64}",
            {"topic_id": place.topic_id, "partition": place.partition, "from_index": from_index},
        )
        return {int(index): bytes(leaf) for index, leaf in rows}

    def lookup(self, event_ids: Sequence[str]) -> list[StoredId]:
        """Those of the ids that are in the ledger as `first`."""
        found: list[StoredId] = []
        ordered = sorted(event_ids)  # ids are in order of time: each part touches a few granules of the index
        for start in range(0, len(ordered), LOOKUP_IDS_MAX):
            part = ordered[start : start + LOOKUP_IDS_MAX]
            literals = ",".join(f"unhex('{event_id.replace('-', '')}')" for event_id in part)
            rows = self._query(
                "SELECT toString(event_id), topic, toString(topic_id), partition, log_index, value_sha256 "  # noqa: S608
                f"FROM {LEDGER} WHERE UUIDToNum(event_id) IN ({literals}) AND occurrence = 'first'",
                None,
            )
            found += (
                StoredId(event_id, LogPlace(topic, topic_id, partition), index, bytes(value_sha256))
                for event_id, topic, topic_id, partition, index, value_sha256 in rows
            )
        return found

    def insert(self, group: RowGroup, batch_time_us: int, *, trial: bool = False) -> None:
        """Write all rows of the group or none; a trial only reads them. Raises RowsRefusedError where it can't."""
        nonce = os.urandom(8)
        try:
            self._client().command(
                insert_statement(group, TRIAL if trial else LEDGER),
                parameters=insert_parameters(group, nonce, batch_time_us),
                data=container(group, nonce),
                settings=INSERT_SETTINGS,
            )
        except DatabaseError as error:
            if error.code in DATA_ERRORS or error.code == AVRO_EXCEPTION:
                raise RowsRefusedError(_first_line(error)) from None
            raise self._failed(error) from None
        except (ClickHouseError, OSError) as error:
            raise self._failed(error) from None

    def commit(self, entries: Sequence[BatchEntry], batch_time_us: int, written_at_us: int) -> None:
        """Say that a flush is finished: all its logs at once."""
        rows = ",\n".join(_batch_values(entry, batch_time_us, written_at_us) for entry in entries)
        columns = (
            "topic, topic_id, partition, first_offset, last_offset, first_index, last_index, rows, last_ledger_time, "
            "max_event_id, skipped_offsets, batch_time, written_at"
        )
        try:
            self._client().command(f"INSERT INTO {BATCHES} ({columns}) VALUES {rows}", settings={"async_insert": 0})
        except (ClickHouseError, OSError) as error:
            raise self._failed(error) from None

    def _query(self, sql: str, parameters: dict[str, Any] | None) -> list[Any]:
        try:
            result = self._client().query(
                sql, parameters=parameters, settings={"max_query_size": 1 << 20}, query_formats={"FixedString": "bytes"}
            )
            return list(result.result_rows)
        except (ClickHouseError, OSError) as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> StoreError:
        return StoreError(f"ClickHouse: {_first_line(error)}", next_step="the writer tries again until it works")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _batch_values(entry: BatchEntry, batch_time_us: int, written_at_us: int) -> str:
    """One row of VALUES. Every text in it is a topic name, a UUID or an event id, none of which holds a quote."""
    after = entry.after
    return (
        f"('{_quoted(entry.place.topic)}', '{_quoted(entry.place.topic_id)}', {entry.place.partition}, "
        f"{entry.first_offset}, {after.next_offset - 1}, {entry.first_index}, {after.next_index - 1}, {entry.rows}, "
        f"{_time(after.ledger_time_us)}, '{_quoted(after.max_event_id)}', {entry.skipped_offsets}, "
        f"{_time(batch_time_us)}, {_time(written_at_us)})"
    )


def _time(microseconds: int) -> str:
    return f"fromUnixTimestamp64Micro({microseconds}, 'UTC')"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
