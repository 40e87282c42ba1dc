"""Reads spans of logs, window by window of ledger time: how a row becomes a record, and that none is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from agentledger.schemas.errors import LedgerConflictError, StoreError
from agentledger.sinks.record_filter import TIME_US_MAX, RecordFilter
from agentledger.sinks.rows import LogPlace
from agentledger.sinks.tables import LEDGER

TOMBSTONE = "tombstone"
AFTER = "ledger_time > fromUnixTimestamp64Micro({after_us:Int64}, 'UTC')"
UP_TO = "ledger_time <= fromUnixTimestamp64Micro({up_to_us:Int64}, 'UTC')"
_TIME = "toUnixTimestamp64Micro(ledger_time)"


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
        for topic_id, group in by_topic(spans).items():
            where, own = span_condition(topic_id, group)
            where += f" AND {condition}" if condition else ""
            order = None if condition else _LogOrder(group)
            self._groups.append((group[0].place, where, own | parameters, order))

    def read(self, window: Window) -> Iterator[list[LedgerRecord]]:
        """The records of one window in blocks, topic by topic. Raises LedgerConflictError where one is missing."""
        bounds = {"after_us": window.after_us, "up_to_us": window.up_to_us}
        for place, where, parameters, order in self._groups:
            sql = f"{_SELECT} WHERE {where} AND {AFTER} AND {UP_TO} ORDER BY partition, log_index"
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
        name, is_poison = _name(kind), poison != b""
        fields = (topic, partition, offset, index, time_us, key, headers, value, name, occurrence, is_poison)
        records.append(tuple.__new__(LedgerRecord, fields))  # by its name it takes twice as long
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


def by_topic(spans: Sequence[LogSpan]) -> dict[str, list[LogSpan]]:
    """Topic id to its spans, in the order given."""
    groups: dict[str, list[LogSpan]] = {}
    for span in spans:
        groups.setdefault(span.place.topic_id, []).append(span)
    return groups


def span_condition(topic_id: str, spans: Sequence[LogSpan]) -> tuple[str, dict[str, Any]]:
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
