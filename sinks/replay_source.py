"""Reads records of the ledger back from ClickHouse in the order of each log, at constant memory.

For whoever folds or publishes a part of the ledger again: a replay, a trial of a rule, an export. What is read ends
where the last finished flush of each log ended when the reading began, so it doesn't move while the writer goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from clickhouse_connect.driver.exceptions import ClickHouseError

from agentledger.schemas.errors import StoreError, UsageError
from agentledger.sinks.queries import store_error
from agentledger.sinks.record_filter import EVERYTHING, TIME_US_MAX, RecordFilter
from agentledger.sinks.rows import LogPlace
from agentledger.sinks.span_reader import (
    AFTER,
    ALL_TIME,
    UP_TO,
    LedgerRecord,
    LogSpan,
    RecordBlock,
    SentRecord,
    SpanReader,
    Window,
    spans_condition,
    split_headers,
)
from agentledger.sinks.tables import BATCHES, LEDGER, PURGED

__all__ = [
    "ALL_TIME",
    "LedgerRecord",
    "LogSpan",
    "RecordBlock",
    "ReplaySource",
    "SentRecord",
    "SpanReader",
    "Window",
    "split_headers",
]

SLICE_ROWS = 200_000  # rows of a window, which the server sorts at a time: some 100 MB
SORT_BYTES_MAX = 512 * 1024 * 1024  # beyond that a window is sorted on the server's disk: records may have 1 MB each
BLOCK_ROWS_MAX = 8192  # rows that come at a time
BLOCK_BYTES_MAX = 16 * 1024 * 1024
READ_S_MAX = 600  # of the server, per window


class StreamingClient(Protocol):
    """What is needed of a clickhouse-connect client."""

    def query(self, query: str, *, parameters: dict[str, Any] | None, settings: dict[str, Any]) -> Any:
        """The whole answer."""

    def query_column_block_stream(self, query: str, **options: Any) -> Any:
        """The answer in blocks of columns."""


class ReplaySource:
    """The ledger's records, log by log or by time. Raises StoreError where ClickHouse can't be reached or refuses."""

    def __init__(self, client: StreamingClient) -> None:
        self._client = client

    def logs(self, topics: Sequence[str] = ()) -> list[LogSpan]:
        """Every log of these topics (of all, where none is named), from index 0 to its last finished flush."""
        rows = self._query(
            f"SELECT topic, toString(topic_id), partition, max(last_index) + 1 FROM {BATCHES} "
            "WHERE empty({topics:Array(String)}) OR topic IN {topics:Array(String)} "
            "GROUP BY topic, topic_id, partition ORDER BY topic, min(batch_time), topic_id, partition",
            {"topics": list(topics)},
        )
        return [LogSpan(LogPlace(topic, topic_id, partition), 0, behind) for topic, topic_id, partition, behind in rows]

    def spans(self, topics: Sequence[str] = (), *, from_us: int = 0, to_us: int = TIME_US_MAX) -> list[LogSpan]:
        """The part of each log of these topics whose ledger time is at or after `from_us` and before `to_us`.

        Ledger time never decreases within a log, so that it is one contiguous part. Logs without any are left out.
        Raises UsageError where records of it were purged: from a log with a hole nothing follows.
        """
        logs = self.logs(topics)
        self._check_purged(logs, from_us, to_us)
        if from_us <= 0 and to_us >= TIME_US_MAX:
            return [span for span in logs if span.behind]
        rows = self._query(
            f"SELECT toString(topic_id), partition, min(log_index), max(log_index) + 1 FROM {LEDGER} "
            f"WHERE topic_id IN {{ids:Array(UUID)}} AND {AFTER} AND {UP_TO} GROUP BY topic_id, partition",
            {"ids": sorted({span.place.topic_id for span in logs}), "after_us": from_us - 1, "up_to_us": to_us - 1},
        )
        found = {(topic_id, partition): (first, behind) for topic_id, partition, first, behind in rows}
        spans = []
        for span in logs:
            first, behind = found.get((span.place.topic_id, span.place.partition), (0, 0))
            behind = min(behind, span.behind)
            if first < behind:
                spans.append(LogSpan(span.place, first, behind))
        return spans

    def _check_purged(self, logs: Sequence[LogSpan], from_us: int, to_us: int) -> None:
        rows = self._query(
            "SELECT uniqExact(topic_id, partition, log_index), toUnixTimestamp64Micro(maxOrNull(ledger_time)) "
            f"FROM {PURGED} WHERE topic_id IN {{ids:Array(UUID)}} AND {AFTER} AND {UP_TO}",
            {"ids": sorted({span.place.topic_id for span in logs}), "after_us": from_us - 1, "up_to_us": to_us - 1},
        )
        [[count, last_us]] = rows
        if count:
            last = datetime.fromtimestamp(last_us // 1_000_000 + 1, UTC).isoformat()
            raise UsageError(
                f"{count} records of this range were purged: what followed from them can't be derived again",
                next_step=f"begin behind them, with --from {last}",
            )

    def first_us(self, topics: Sequence[str]) -> int:
        """The ledger time of the first record of these topics, microseconds; 0 where there is none."""
        rows = self._query(
            f"SELECT toUnixTimestamp64Micro(minOrNull(ledger_time)) FROM {LEDGER} "
            "WHERE topic IN {topics:Array(String)}",
            {"topics": list(topics)},
        )
        return int(rows[0][0] or 0)

    def count(self, spans: Sequence[LogSpan], wanted: RecordFilter = EVERYTHING) -> int:
        """How many records `read` will give."""
        condition, parameters = wanted.condition()
        if not condition:
            return sum(span.behind - span.first for span in spans)
        where, own = spans_condition(spans)
        [[count]] = self._query(f"SELECT count() FROM {LEDGER} WHERE ({where}) AND {condition}", own | parameters)
        return int(count)

    def partitions(self, spans: Sequence[LogSpan], wanted: RecordFilter) -> set[int]:
        """The partitions of these spans that hold a wanted record."""
        condition, parameters = wanted.condition()
        where, own = spans_condition(spans)
        where = f"({where})" + (f" AND {condition}" if condition else "")
        rows = self._query(f"SELECT DISTINCT partition FROM {LEDGER} WHERE {where}", own | parameters)
        return {int(partition) for (partition,) in rows}

    def check_complete(self, spans: Sequence[LogSpan]) -> None:
        """For reading with a filter, which can't see it: raises LedgerConflictError where a record is missing."""
        where, parameters = spans_condition(spans)
        rows = self._query(
            f"SELECT toString(topic_id), partition, count(), sum(log_index) FROM {LEDGER} WHERE {where} "
            "GROUP BY topic_id, partition",
            parameters,
        )
        found = {(topic_id, partition): (count, total % 2**64) for topic_id, partition, count, total in rows}
        for span in spans:
            indexes = range(span.first, span.behind)
            wanted = len(indexes), (span.first + span.behind - 1) * len(indexes) // 2 % 2**64
            if found.get((span.place.topic_id, span.place.partition), (0, 0)) != wanted:
                # Reading the log says which one it is.
                for _ in self.read([span]):
                    pass

    def windows(self, spans: Sequence[LogSpan], records: int = 0) -> list[Window]:
        """Parts of ledger time in order, about so many records of the spans in each, else SLICE_ROWS; together they are
        all time."""
        records = records or SLICE_ROWS
        if sum(span.behind - span.first for span in spans) <= records:
            return [ALL_TIME]
        rows = self._query(
            "SELECT toUnixTimestamp64Micro(max(at)) FROM (SELECT last_ledger_time AS at, sum(rows) OVER "
            f"(ORDER BY last_ledger_time ROWS UNBOUNDED PRECEDING) AS so_far FROM {BATCHES} "
            "WHERE topic_id IN {ids:Array(UUID)} AND partition IN {partitions:Array(UInt32)}) "
            "GROUP BY intDiv(so_far, {slice_rows:UInt64}) ORDER BY 1",
            {
                "ids": sorted({span.place.topic_id for span in spans}),
                "partitions": sorted({span.place.partition for span in spans}),
                "slice_rows": records,
            },
        )
        ends = [up_to for (up_to,) in rows[:-1]] + [ALL_TIME.up_to_us]
        starts = [ALL_TIME.after_us, *ends[:-1]]
        return [Window(after, up_to) for after, up_to in zip(starts, ends, strict=True) if after < up_to]

    def reader(
        self, spans: Sequence[LogSpan], wanted: RecordFilter = EVERYTHING, *, whole: Sequence[LogSpan] = ()
    ) -> SpanReader:
        """Reads these spans window by window, which must come in order; of `whole`, logs of other topics, all comes,
        and before the others."""
        return SpanReader(self._blocks, spans, wanted, whole)

    def read(self, spans: Sequence[LogSpan], wanted: RecordFilter = EVERYTHING) -> Iterator[list[LedgerRecord]]:
        """The records in blocks: in windows of time, in those topic by topic, in those partition by partition.

        So the records of one log always come in its order. Where everything is wanted, raises LedgerConflictError on
        the first record that is missing or there twice.
        """
        reader = self.reader(spans, wanted)
        for window in self.windows(spans):
            for block in reader.read(window):
                yield block.records()
        reader.check_end()

    def read_sent(self, spans: Sequence[LogSpan], wanted: RecordFilter = EVERYTHING) -> Iterator[list[SentRecord]]:
        """The same with key and headers."""
        reader = self.reader(spans, wanted)
        for window in self.windows(spans):
            yield from reader.read_sent(window)
        reader.check_end()

    def _blocks(self, sql: str, parameters: dict[str, Any]) -> Iterator[Sequence[Any]]:
        settings = {
            "readonly": 1,
            "max_execution_time": READ_S_MAX,
            "max_block_size": BLOCK_ROWS_MAX,
            "preferred_block_size_bytes": BLOCK_BYTES_MAX,
            "max_bytes_before_external_sort": SORT_BYTES_MAX,
            "enable_http_compression": 0,  # to compress and to expand costs both sides more than all else about a row
        }
        try:
            stream = self._client.query_column_block_stream(
                sql, parameters=parameters, settings=settings, query_formats={"*String": "bytes"}
            )
            with stream:
                yield from stream
        except ClickHouseError as error:
            raise store_error(error) from None
        except OSError as error:
            raise StoreError(f"reading the ledger broke off: {error}", next_step="try it again") from None

    def _query(self, sql: str, parameters: dict[str, Any]) -> list[Any]:
        try:
            result = self._client.query(
                sql, parameters=parameters, settings={"readonly": 1, "max_execution_time": READ_S_MAX}
            )
        except ClickHouseError as error:
            raise store_error(error) from None
        return list(result.result_rows)
