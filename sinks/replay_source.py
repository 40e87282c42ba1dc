"""Reads records of the ledger back from ClickHouse in the order of each log, at constant memory.

For whoever folds or publishes a part of the ledger again: a replay, a trial of a rule, an export. What is read ends
where the last finished flush of each log ended when the reading began, so it doesn't move while the writer goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from clickhouse_connect.driver.exceptions import ClickHouseError

from agentledger.schemas.errors import LedgerConflictError, StoreError
from agentledger.sinks.queries import store_error
from agentledger.sinks.record_filter import EVERYTHING, TIME_US_MAX, RecordFilter
from agentledger.sinks.rows import LogPlace
from agentledger.sinks.tables import BATCHES, LEDGER

SLICE_ROWS = 200_000  # rows of a window, which the server sorts at a time: some 100 MB
SORT_BYTES_MAX = 512 * 1024 * 1024  # beyond that a window is sorted on the server's disk: records may have 1 MB each
BLOCK_ROWS_MAX = 8192  # rows that come at a time
BLOCK_BYTES_MAX = 16 * 1024 * 1024
READ_S_MAX = 600  # of the server, per window
TOMBSTONE = "tombstone"
_TIME = "toUnixTimestamp64Micro(ledger_time)"
_AFTER = "ledger_time > fromUnixTimestamp64Micro({after_us:Int64}, 'UTC')"
_UP_TO = "ledger_time <= fromUnixTimestamp64Micro({up_to_us:Int64}, 'UTC')"


class LedgerRecord(NamedTuple):
    """One record of a log, as it is in the ledger; the time in microseconds. A tombstone has no value.

    `event_type` is empty and `is_poison` true for a record that the writer could not read.
    """

    topic: str
    partition: int
    offset: int
    log_index: int
    ledger_time_us: int
    key: bytes
    headers: bytes  # each name and value with its length before it: 32 bits, big-endian (`split_headers`)
    value: bytes | None
    event_type: str
    occurrence: int  # rows.FIRST, DUPLICATE or CONFLICT
    is_poison: bool


class Window(NamedTuple):
    """A part of ledger time, microseconds: after the first, up to and including the second."""

    after_us: int
    up_to_us: int


class LogSpan(NamedTuple):
    """A part of one log: from index `first` up to, not including, `behind`."""

    place: LogPlace
    first: int
    behind: int


ALL_TIME = Window(-TIME_US_MAX // 2, TIME_US_MAX)


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
        """
        logs = self.logs(topics)
        if from_us <= 0 and to_us >= TIME_US_MAX:
            return [span for span in logs if span.behind]
        rows = self._query(
            f"SELECT toString(topic_id), partition, min(log_index), max(log_index) + 1 FROM {LEDGER} "
            f"WHERE topic_id IN {{ids:Array(UUID)}} AND {_AFTER} AND {_UP_TO} GROUP BY topic_id, partition",
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
        total = 0
        for topic_id, group in _by_topic(spans).items():
            where, own = _span_condition(topic_id, group)
            rows = self._query(f"SELECT count() FROM {LEDGER} WHERE {where} AND {condition}", own | parameters)
            total += int(rows[0][0])
        return total

    def partitions(self, spans: Sequence[LogSpan], wanted: RecordFilter) -> set[int]:
        """The partitions of these spans that hold a wanted record."""
        condition, parameters = wanted.condition()
        found: set[int] = set()
        for topic_id, group in _by_topic(spans).items():
            where, own = _span_condition(topic_id, group)
            where += f" AND {condition}" if condition else ""
            rows = self._query(f"SELECT DISTINCT partition FROM {LEDGER} WHERE {where}", own | parameters)
            found |= {int(partition) for (partition,) in rows}
        return found

    def check_complete(self, spans: Sequence[LogSpan]) -> None:
        """For reading with a filter, which can't see it: raises LedgerConflictError where a record is missing."""
        for topic_id, group in _by_topic(spans).items():
            where, parameters = _span_condition(topic_id, group)
            rows = self._query(
                f"SELECT partition, count(), sum(log_index) FROM {LEDGER} WHERE {where} GROUP BY partition", parameters
            )
            found = {partition: (rows, total % 2**64) for partition, rows, total in rows}
            for span in group:
                indexes = range(span.first, span.behind)
                wanted = len(indexes), (span.first + span.behind - 1) * len(indexes) // 2 % 2**64
                if found.get(span.place.partition, (0, 0)) != wanted:
                    # Reading the log says which one it is.
                    for _ in self.read([span]):
                        pass

    def windows(self, spans: Sequence[LogSpan]) -> list[Window]:
        """Parts of ledger time in order, about SLICE_ROWS records of the spans in each; together they are all time."""
        if sum(span.behind - span.first for span in spans) <= SLICE_ROWS:
            return [ALL_TIME]
        rows = self._query(
            "SELECT toUnixTimestamp64Micro(max(at)) FROM (SELECT last_ledger_time AS at, sum(rows) OVER "
            f"(ORDER BY last_ledger_time ROWS UNBOUNDED PRECEDING) AS so_far FROM {BATCHES} "
            "WHERE topic_id IN {ids:Array(UUID)} AND partition IN {partitions:Array(UInt32)}) "
            "GROUP BY intDiv(so_far, {slice_rows:UInt64}) ORDER BY 1",
            {
                "ids": sorted({span.place.topic_id for span in spans}),
                "partitions": sorted({span.place.partition for span in spans}),
                "slice_rows": SLICE_ROWS,
            },
        )
        ends = [up_to for (up_to,) in rows[:-1]] + [ALL_TIME.up_to_us]
        starts = [ALL_TIME.after_us, *ends[:-1]]
        return [Window(after, up_to) for after, up_to in zip(starts, ends, strict=True) if after < up_to]

    def reader(self, spans: Sequence[LogSpan], wanted: RecordFilter = EVERYTHING) -> SpanReader:
        """Reads these spans window by window, which must come in order."""
        return SpanReader(self._blocks, spans, wanted)

    def read(self, spans: Sequence[LogSpan], wanted: RecordFilter = EVERYTHING) -> Iterator[list[LedgerRecord]]:
        """The records in blocks: in windows of time, in those topic by topic, in those partition by partition.

        So the records of one log always come in its order. Where everything is wanted, raises LedgerConflictError on
        the first record that is missing or there twice.
        """
        reader = self.reader(spans, wanted)
        for window in self.windows(spans):
            yield from reader.read(window)
        reader.check_end()

    def records(self, spans: Sequence[LogSpan], wanted: RecordFilter = EVERYTHING) -> Iterator[LedgerRecord]:
        """The records of `read`, one by one."""
        for block in self.read(spans, wanted):
            yield from block

    def _blocks(self, sql: str, parameters: dict[str, Any]) -> Iterator[Sequence[Any]]:
        settings = {
            "readonly": 1,
            "max_execution_time": READ_S_MAX,
            "max_block_size": BLOCK_ROWS_MAX,
            "preferred_block_size_bytes": BLOCK_BYTES_MAX,
            "max_bytes_before_external_sort": SORT_BYTES_MAX,
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


class SpanReader:
    """Reads spans window by window, and sees to it that nothing is missing where everything is wanted."""

    def __init__(
        self,
        blocks: Callable[[str, dict[str, Any]], Iterator[Sequence[Any]]],
        spans: Sequence[LogSpan],
        wanted: RecordFilter,
    ) -> None:
        self._blocks = blocks
        condition, parameters = wanted.condition()
        self._groups = []
        for topic_id, group in _by_topic(spans).items():
            where, own = _span_condition(topic_id, group)
            where += f" AND {condition}" if condition else ""
            order = None if condition else _LogOrder(group)
            self._groups.append((group[0].place, where, own | parameters, order))

    def read(self, window: Window) -> Iterator[list[LedgerRecord]]:
        """The records of one window in blocks, topic by topic. Raises LedgerConflictError where one is missing."""
        bounds = {"after_us": window.after_us, "up_to_us": window.up_to_us}
        for place, where, parameters, order in self._groups:
            sql = f"{_SELECT} WHERE {where} AND {_AFTER} AND {_UP_TO} ORDER BY partition, log_index"
            for columns in self._blocks(sql, parameters | bounds):
                if order is not None:
                    order.check(columns[0], columns[2])
                yield _records(place, columns)

    def check_end(self) -> None:
        """After the last window: raises LedgerConflictError where records are missing at the end of a span."""
        for *_, order in self._groups:
            if order is not None:
                order.check_end()


_SELECT = (
    f"SELECT partition, offset, log_index, {_TIME}, key, headers, raw, event_type, toUInt8(occurrence), poison_reason, "
    f"reinterpretAsUInt64(value_sha256) FROM {LEDGER}"
)
_EMPTY_SHA256_START = int.from_bytes(bytes.fromhex("e3b0c44298fc1c14"), "little")


def _records(place: LogPlace, columns: Sequence[Any]) -> list[LedgerRecord]:
    topic = place.topic
    records = []
    for partition, offset, index, time_us, key, headers, raw, kind, occurrence, poison, sha256 in zip(
        *columns, strict=True
    ):
        value: bytes | None = raw
        if not raw:
            if poison[: len(TOMBSTONE)] == TOMBSTONE.encode():
                value = None
            elif sha256 != _EMPTY_SHA256_START:
                raise StoreError(
                    f"the bytes of index {index} of {topic}, partition {partition} have expired",
                    next_step="begin the range later",
                )
        records.append(
            LedgerRecord(
                topic, partition, offset, index, time_us, key, headers, value, _name(kind), occurrence, poison != b""
            )
        )
    return records


_names: dict[bytes, str] = {}  # record names of the catalogue: few


def _name(kind: bytes) -> str:
    name = _names.get(kind)
    if name is None:
        name = _names[kind] = kind.decode()
    return name


class _LogOrder:
    """Sees to it that no index of the spans is missing or there twice."""

    def __init__(self, spans: Sequence[LogSpan]) -> None:
        self._spans = {span.place.partition: span for span in spans}
        self._next = {span.place.partition: span.first for span in spans}

    def check(self, partitions: Sequence[int], indexes: Sequence[int]) -> None:
        """The indexes of a block, which stands in the order of partition and index."""
        start = 0
        while start < len(partitions):
            partition = partitions[start]
            end = start + 1
            if partitions[-1] == partition:
                end = len(partitions)
            else:
                while end < len(partitions) and partitions[end] == partition:
                    end += 1
            expected = range(self._next[partition], self._next[partition] + end - start)
            if list(indexes[start:end]) != list(expected):
                wrong = next(index for index, want in zip(indexes[start:end], expected, strict=True) if index != want)
                self._refuse(partition, expected[0] if wrong > expected[0] else wrong, wrong)
            self._next[partition] = expected.stop
            start = end

    def check_end(self) -> None:
        """Nothing is missing at the end."""
        for partition, span in self._spans.items():
            if self._next[partition] != span.behind:
                self._refuse(partition, self._next[partition], None)

    def _refuse(self, partition: int, index: int, found: int | None) -> None:
        topic = self._spans[partition].place.topic
        what = (
            f"index {self._next[partition]} is missing" if found is None else f"index {index} is not where it must be"
        )
        raise LedgerConflictError(
            f"{what} in the ledger", where=f"{topic}, partition {partition}", next_step="agentledger verify says more"
        )


def _by_topic(spans: Sequence[LogSpan]) -> dict[str, list[LogSpan]]:
    """Topic id to its spans, in the order given."""
    groups: dict[str, list[LogSpan]] = {}
    for span in spans:
        groups.setdefault(span.place.topic_id, []).append(span)
    return groups


def _span_condition(topic_id: str, spans: Sequence[LogSpan]) -> tuple[str, dict[str, Any]]:
    parameters: dict[str, Any] = {
        "topic_id": topic_id,
        "partitions": [span.place.partition for span in spans],
        "firsts": [span.first for span in spans],
        "behinds": [span.behind for span in spans],
        "least": min(span.first for span in spans),
        "most": max(span.behind for span in spans),
    }
    place = "indexOf({partitions:Array(UInt32)}, partition)"
    return (
        "topic_id = {topic_id:UUID} AND partition IN {partitions:Array(UInt32)} "
        "AND log_index >= {least:UInt64} AND log_index < {most:UInt64} "
        f"AND log_index >= {{firsts:Array(UInt64)}}[{place}] AND log_index < {{behinds:Array(UInt64)}}[{place}]",
        parameters,
    )


def split_headers(headers: bytes) -> list[tuple[str, bytes]]:
    """The headers of a record, in order. A header without a value comes back with an empty one."""
    parts, position = [], 0
    while position < len(headers):
        size = int.from_bytes(headers[position : position + 4], "big")
        parts.append(headers[position + 4 : position + 4 + size])
        position += 4 + size
    return [(name.decode(), value) for name, value in zip(parts[::2], parts[1::2], strict=True)]
