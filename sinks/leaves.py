"""Reads the leaves of the logs back from ClickHouse, in the order of each log: what is signed, and what is verified."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from agentledger.schemas.errors import IntegrityError, StoreError
from agentledger.schemas.heads import LogId
from agentledger.sinks.clickhouse_client import open_client
from agentledger.sinks.tables import BATCHES, LEDGER, PURGED

QUERY_S_MAX = 600
READ_LEAVES_MAX = 200_000  # of one log in one query: 8 MB
BLOCK_LEAVES = 1 << 14
SQL_LEAVES_MAX = 64 * BLOCK_LEAVES  # of one query that works out roots: some 200 MB in the server
_ROW = struct.Struct("<Q32s")


class StoredLog(NamedTuple):
    """One log as `ledger_batches` has it: what its flushes say, without looking at the rows."""

    topic: str
    size: int  # one more than the last index
    rows: int  # the sum over the flushes: as many as `size`, where none is missing
    first_index: int
    ledger_time_us: int


class LeafReader(Protocol):
    """Where the signer and the verifier read from. Raises StoreError where it can't be reached."""

    def logs(self) -> dict[LogId, StoredLog]:
        """Every log that has a finished flush."""

    def leaves(self, log: LogId, first: int, behind: int, from_us: int = 0) -> list[bytes]:
        """Leaf hashes `first` to `behind` - 1. Raises IntegrityError where one is missing or there twice.

        `from_us` is a ledger time that none of them is earlier than: it only makes the search shorter.
        """

    def has_news(self, log: LogId, first: int, behind: int, from_us: int = 0) -> bool:
        """Whether any of these rows is more than a tick or a checkpoint, which come by themselves all the time."""


class ClickHouseLeafReader:
    """The real one, over HTTP."""

    def __init__(self, url: str, user: str = "default", password: str = "") -> None:
        self._url, self._user, self._password = url, user, password
        self._connected: Client | None = None
        self._has_purged: dict[LogId, bool] = {}

    def logs(self) -> dict[LogId, StoredLog]:
        """Every log that has a finished flush."""
        self._has_purged.clear()
        rows = self.query(
            "SELECT toString(topic_id), partition, any(topic), max(last_index) + 1, sum(rows), min(first_index), "
            f"toUnixTimestamp64Micro(max(last_ledger_time)) FROM {BATCHES} GROUP BY topic_id, partition"
        )
        return {LogId(topic_id, partition): StoredLog(*rest) for topic_id, partition, *rest in rows}

    def leaves(self, log: LogId, first: int, behind: int, from_us: int = 0, *, with_purged: bool = True) -> list[bytes]:
        """Leaf hashes `first` to `behind` - 1. Raises IntegrityError where one is missing or there twice.

        `with_purged`: those that a purge has left, too. A verifier asks without: it goes by tombstones alone.
        """
        rows = self._leaf_rows(log) if with_purged else LEDGER
        raw = self.raw_query(
            f"SELECT log_index, leaf_hash FROM {rows} WHERE topic_id = {{topic_id:UUID}} "
            "AND partition = {partition:UInt32} AND log_index >= {first:UInt64} AND log_index < {behind:UInt64} "
            "AND ledger_time >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC') ORDER BY log_index",
            {"topic_id": log.topic_id, "partition": log.partition, "first": first, "behind": behind,
             "from_us": from_us},
        )  # fmt: skip
        leaves: list[bytes] = []
        expected = first
        for index, leaf in _ROW.iter_unpack(raw):
            if index != expected:
                raise _misplaced(log, index, expected)
            leaves.append(leaf)
            expected += 1
        if expected != behind:
            raise _misplaced(log, None, expected)
        return leaves

    def has_news(self, log: LogId, first: int, behind: int, from_us: int = 0) -> bool:
        """Whether any of these rows is more than a tick or a checkpoint, which come by themselves all the time."""
        rows = self.query(
            f"SELECT 1 FROM {LEDGER} WHERE topic_id = {{topic_id:UUID}} AND partition = {{partition:UInt32}} "
            "AND log_index >= {first:UInt64} AND log_index < {behind:UInt64} AND ledger_time >= "
            "fromUnixTimestamp64Micro({from_us:Int64}, 'UTC') "
            "AND event_type NOT IN ('Ticked', 'CheckpointSigned') LIMIT 1",
            {"topic_id": log.topic_id, "partition": log.partition, "first": first, "behind": behind,
             "from_us": from_us},
        )  # fmt: skip
        return bool(rows)

    def _leaf_rows(self, log: LogId) -> str:
        """Where the leaves of a log are: those of purged rows stand by themselves."""
        if log not in self._has_purged:
            try:
                self._has_purged[log] = bool(
                    self.query(
                        f"SELECT 1 FROM {PURGED} WHERE topic_id = {{topic_id:UUID}} "
                        "AND partition = {partition:UInt32} LIMIT 1",
                        {"topic_id": log.topic_id, "partition": log.partition},
                    )
                )
            except StoreError as error:
                if "UNKNOWN_TABLE" not in str(error) and "ACCESS_DENIED" not in str(error):
                    raise
                self._has_purged[log] = False  # tables, or grants, of an earlier release
        if not self._has_purged[log]:
            return LEDGER
        columns = "topic_id, partition, log_index, ledger_time, leaf_hash"
        return f"(SELECT {columns} FROM {LEDGER} UNION ALL SELECT {columns} FROM {PURGED} FINAL)"

    def block_roots(self, log: LogId, size: int, known: Sequence[bytes] = ()) -> list[bytes]:
        """The roots of the first `size` leaves, BLOCK_LEAVES at a time, worked out by ClickHouse. They are leaves of a
        tree that has the log's root. `known` are the first of them, of whole blocks. Raises IntegrityError where a row
        is missing or there twice."""
        roots = list(known)
        for first in range(len(roots) * BLOCK_LEAVES, size, SQL_LEAVES_MAX):
            behind = min(size, first + SQL_LEAVES_MAX)
            rows = self.query(
                "WITH arrayMap(pair -> pair.2, arraySort(groupArray((log_index, leaf_hash)))) AS leaves, "
                "arrayFold((nodes, level) -> arrayConcat("
                "arrayMap((left, right) -> SHA256(concat(unhex('01'), left, right)), "
                "arrayFilter((node, place) -> place % 2 = 1 AND place < length(nodes), nodes, arrayEnumerate(nodes)), "
                "arrayFilter((node, place) -> place % 2 = 0, nodes, arrayEnumerate(nodes))), "
                f"if(length(nodes) % 2 = 1, [nodes[-1]], [])), range({BLOCK_LEAVES.bit_length() - 1}), leaves) AS top "
                f"SELECT intDiv(log_index, {BLOCK_LEAVES}) AS block, uniqExact(log_index), count(), top[1] "
                f"FROM {self._leaf_rows(log)} WHERE topic_id = {{topic_id:UUID}} AND partition = {{partition:UInt32}} "
                "AND log_index >= {first:UInt64} AND log_index < {behind:UInt64} GROUP BY block ORDER BY block",
                {"topic_id": log.topic_id, "partition": log.partition, "first": first, "behind": behind},
            )
            for block, indexes, count, root in rows:
                expected = min(behind, (len(roots) + 1) * BLOCK_LEAVES) - len(roots) * BLOCK_LEAVES
                if (block, indexes, count) != (len(roots), expected, expected):
                    break
                roots.append(bytes(root))
            if len(roots) < -(-behind // BLOCK_LEAVES):
                self.leaves(log, len(roots) * BLOCK_LEAVES, min(behind, (len(roots) + 1) * BLOCK_LEAVES))  # says which
        return roots

    def query(
        self, sql: str, parameters: dict[str, Any] | None = None, settings: dict[str, Any] | None = None
    ) -> list[Any]:
        """The rows of a query. Raises StoreError."""
        try:
            result = self._client().query(
                sql, parameters=parameters, settings=settings, query_formats={"FixedString": "bytes"}
            )
            return list(result.result_rows)
        except (ClickHouseError, OSError) as error:
            raise self._failed(error) from None

    def raw_query(self, sql: str, parameters: dict[str, Any] | None = None, fmt: str = "RowBinary") -> bytes:
        """A query's answer in a format of ClickHouse. Raises StoreError."""
        try:
            answer: bytes = self._client().raw_query(sql, parameters=parameters, fmt=fmt)
        except (ClickHouseError, OSError) as error:
            raise self._failed(error) from None
        return answer

    def stream(self, sql: str, parameters: dict[str, Any] | None = None) -> Any:
        """A query's answer in the format that it names, as a stream to be closed. The driver's errors are raised."""
        return self._client().raw_stream(sql, parameters=parameters)

    def _client(self) -> Client:
        if self._connected is None:
            self._connected = open_client(self._url, self._user, self._password, answer_s_max=QUERY_S_MAX)
        return self._connected

    def _failed(self, error: Exception) -> StoreError:
        self._connected = None
        first = (str(error).splitlines() or [type(error).__name__])[0][:300]
        return StoreError(
            f"ClickHouse: {first}", next_step="check that it runs and that AGENTLEDGER_CLICKHOUSE_URL is right"
        )


def _misplaced(log: LogId, found: int | None, expected: int) -> IntegrityError:
    where = f"topic id {log.topic_id}, partition {log.partition}"
    if found is not None and found < expected:
        return IntegrityError(f"index {found} is there twice", where=where)
    return IntegrityError(f"the row of index {expected} is missing", where=where)
