"""Reads spans of logs, window by window of ledger time: how a row becomes a record, and that none is missing."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agentledger.schemas.errors import LedgerConflictError, StoreError
from agentledger.sinks.record_filter import TIME_US_MAX, RecordFilter
from agentledger.sinks.rows import LogPlace
from agentledger.sinks.tables import LEDGER

TOMBSTONE = "tombstone"
AFTER = "ledger_time > fromUnixTimestamp64Micro({after_us:Int64}, 'UTC')"
UP_TO = "ledger_time <= fromUnixTimestamp64Micro({up_to_us:Int64}, 'UTC')"
IN_WINDOW = f"{AFTER} AND {UP_TO}"


class LedgerRecord(NamedTuple):
    """One record of a log, as it is in the ledger; the time in microseconds. A tombstone has no value."""

    topic: str
    partition: int
    offset: int
    log_index: int
    ledger_time_us: int
    value: bytes | None
    occurrence: int  # rows.FIRST, DUPLICATE or CONFLICT


class SentRecord(NamedTuple):
    """A record with what was sent around its value."""

    record: LedgerRecord
    key: bytes
    headers: bytes  # each name and value with its length before it: 32 bits, big-endian (`split_headers`)


@dataclass(frozen=True, slots=True)
class RecordBlock:
    """Records of one log in its order, column by column: most of what is read needs no record of its own."""

    place: LogPlace
    offsets: Sequence[int]
    log_indexes: Sequence[int]
    times_us: Sequence[int]
    values: Sequence[bytes | None]
    occurrences: Sequence[int]

    def __len__(self) -> int:
        return len(self.offsets)

    def records(self) -> list[LedgerRecord]:
        """Each of them."""
        return [self.record(row) for row in range(len(self))]

    def record(self, row: int) -> LedgerRecord:
        """The one in this row."""
        return LedgerRecord(
            self.place.topic, self.place.partition, self.offsets[row], self.log_indexes[row], self.times_us[row],
            self.values[row], self.occurrences[row],
        )  # fmt: skip


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


class SpanReader:
    """Reads spans window by window, and sees to it that nothing is missing where everything is wanted: of `whole`.

    All spans are read by one query per window: their records lie side by side in the table, so that a query for each
    log would read all of it as often as there are logs.
    """

    def __init__(
        self,
        blocks: Callable[[str, dict[str, Any]], Iterator[Sequence[Any]]],
        spans: Sequence[LogSpan],
        wanted: RecordFilter,
        whole: Sequence[LogSpan],
    ) -> None:
        self._blocks = blocks
        self._places = places_by_number([*whole, *spans])
        condition, own = wanted.condition()
        where_whole, of_whole = spans_condition(whole)
        where, of_spans = spans_condition(spans, len(by_topic(whole)))
        where = f"({where})" + (f" AND {condition}" if condition else "")
        self._where = f"({where_whole} OR {where}) AND {IN_WINDOW}"
        self._parameters = own | of_whole | of_spans | {"topic_ids": list(by_topic([*whole, *spans]))}
        self._order = _LogOrder([*whole, *(() if condition else spans)])

    def read(self, window: Window) -> Iterator[RecordBlock]:
        """The records of one window in blocks, topic by topic, in those partition by partition.

        Raises LedgerConflictError where one is missing, StoreError where its bytes have expired.
        """
        for place, columns in self._read(_COLUMNS, window):
            yield _block(place, columns)

    def read_sent(self, window: Window) -> Iterator[list[SentRecord]]:
        """The same with key and headers."""
        for place, (*columns, keys, headers) in self._read(f"{_COLUMNS}, key, headers", window):
            yield list(map(SentRecord, _block(place, columns).records(), keys, headers))

    def check_end(self) -> None:
        """After the last window: raises LedgerConflictError where records are missing at the end of a span."""
        self._order.check_end()

    def _read(self, selected: str, window: Window) -> Iterator[tuple[LogPlace, Sequence[Any]]]:
        """The columns of one window, a part of one log at a time."""
        if not self._places:
            return
        sql = (
            f"SELECT {TOPIC_NUMBER} AS topic_number, partition, {selected} FROM {LEDGER} "
            f"WHERE {self._where} ORDER BY topic_number, partition, log_index"
        )
        for numbers, partitions, *columns in self._blocks(sql, self._parameters | window._asdict()):
            start = 0
            while start < len(numbers):
                end = bisect_right(numbers, numbers[start], start)
                end = bisect_right(partitions, partitions[start], start, end)
                place = self._places[numbers[start], partitions[start]]
                part = [column[start:end] for column in columns]
                self._order.check(place, part[1])
                yield place, part
                start = end


_THERE, _TOMBSTONE, _EXPIRED = 0, 1, 2
_EMPTY_SHA256 = hashlib.sha256().hexdigest()
_COLUMNS = (
    "offset, log_index, toUnixTimestamp64Micro(ledger_time), raw, toUInt8(occurrence), "
    f"multiIf(raw != '', {_THERE}, startsWith(poison_reason, '{TOMBSTONE}'), {_TOMBSTONE}, "
    f"value_sha256 = unhex('{_EMPTY_SHA256}'), {_THERE}, {_EXPIRED})"
)


def _block(place: LogPlace, columns: Sequence[Any]) -> RecordBlock:
    offsets, indexes, times_us, values, occurrences, states = columns
    if any(states):
        values = list(values)
        for row, state in enumerate(states):
            if state == _EXPIRED:
                raise StoreError(
                    f"the bytes of index {indexes[row]} of {place.topic}, partition {place.partition} have expired",
                    next_step="begin the range later",
                )
            if state == _TOMBSTONE:
                values[row] = None
    return RecordBlock(place, offsets, indexes, times_us, values, occurrences)


class _LogOrder:
    """Sees to it that no index of the spans is missing or there twice."""

    def __init__(self, spans: Sequence[LogSpan]) -> None:
        self._spans = {span.place: span for span in spans}
        self._next = {span.place: span.first for span in spans}

    def check(self, place: LogPlace, indexes: Sequence[int]) -> None:
        """The indexes of the log's next records, if it is one of the spans'."""
        if place not in self._next:
            return
        expected = range(self._next[place], self._next[place] + len(indexes))
        if list(indexes) != list(expected):
            wrong = next(index for index, want in zip(indexes, expected, strict=True) if index != want)
            raise _hole(place, f"index {min(wrong, expected[0])} is not where it must be")
        self._next[place] = expected.stop

    def check_end(self) -> None:
        """Nothing is missing at the end."""
        for place, span in self._spans.items():
            if self._next[place] != span.behind:
                raise _hole(place, f"index {self._next[place]} is missing")


def _hole(place: LogPlace, what: str) -> LedgerConflictError:
    return LedgerConflictError(
        f"{what} in the ledger",
        where=f"{place.topic}, partition {place.partition}",
        next_step="agentledger verify says more",
    )


def by_topic(spans: Sequence[LogSpan]) -> dict[str, list[LogSpan]]:
    """Topic id to its spans, in the order given."""
    groups: dict[str, list[LogSpan]] = {}
    for span in spans:
        groups.setdefault(span.place.topic_id, []).append(span)
    return groups


def spans_condition(spans: Sequence[LogSpan], number: int = 0) -> tuple[str, dict[str, Any]]:
    """The condition in SQL that a row lies in one of these spans, and its server-side parameters, numbered from here
    on."""
    conditions: list[str] = []
    parameters: dict[str, Any] = {}
    for topic_number, group in enumerate(by_topic(spans).values(), number):
        own = {
            "topic_id": group[0].place.topic_id,
            "partitions": [span.place.partition for span in group],
            "firsts": [span.first for span in group],
            "behinds": [span.behind for span in group],
            "least": min(span.first for span in group),
            "most": max(span.behind for span in group),
        }
        parameters |= {f"{name}_{topic_number}": value for name, value in own.items()}
        condition = _IN_SPANS + (_BEHIND_FIRSTS if any(span.first for span in group) else "")
        conditions.append(condition.replace("#", str(topic_number)))
    return " OR ".join(f"({condition})" for condition in conditions) or "0", parameters


def places_by_number(spans: Sequence[LogSpan]) -> dict[tuple[int, int], LogPlace]:
    """The log in which a row lies, by its TOPIC_NUMBER (of `topic_ids`, as `by_topic` has them) and its partition."""
    groups = enumerate(by_topic(spans).values(), 1)
    return {(number, span.place.partition): span.place for number, group in groups for span in group}


TOPIC_NUMBER = "indexOf({topic_ids:Array(UUID)}, topic_id)"
_IN_SPANS = (
    "topic_id = {topic_id_#:UUID} AND partition IN {partitions_#:Array(UInt32)} "
    "AND log_index < {most_#:UInt64} "
    "AND log_index < {behinds_#:Array(UInt64)}[indexOf({partitions_#:Array(UInt32)}, partition)]"
)
# Left out where all spans begin with their logs, as most do: on each row it costs as much as all else.
_BEHIND_FIRSTS = (
    " AND log_index >= {least_#:UInt64} "
    "AND log_index >= {firsts_#:Array(UInt64)}[indexOf({partitions_#:Array(UInt32)}, partition)]"
)


def split_headers(headers: bytes) -> list[tuple[str, bytes]]:
    """The headers of a record, in order. A header without a value comes back with an empty one."""
    parts, position = [], 0
    while position < len(headers):
        size = int.from_bytes(headers[position : position + 4], "big")
        parts.append(headers[position + 4 : position + 4 + size])
        position += 4 + size
    return [(name.decode(), value) for name, value in zip(parts[::2], parts[1::2], strict=True)]
