"""What an export holds: of each log a range of indexes, and of these the records that are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from agentledger.schemas.errors import UsageError
from agentledger.schemas.heads import Head, LogId
from agentledger.sinks.chain import Chain
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.tables import LEDGER, PURGED, trail_schemas

OCSF = "ocsf"
FORMATS = {
    "parquet": "Parquet", "jsonl": "JSONEachRow", "csv": "CSVWithNames", "avro": "Avro", OCSF: "",
}  # fmt: skip
ENDINGS = {OCSF: "ocsf.jsonl"}
TIME_US_MAX = 2**53  # the year 2255: beyond it, JSON has no exact number
TEXT_CHARACTERS_MAX = 1000  # of a tenant or a run that is asked for

BLOCK_ROWS = 1000  # of one log: the smallest thing that is planned; 1 GB where each record is as large as can be
PART_ROWS_MAX = 50_000  # shown in the files of one part
PART_BYTES_MAX = 64 * 1024 * 1024
CHUNK_ROWS_MAX = 50_000  # of one log in one query: sorted in the server's memory
CHUNK_BYTES_MAX = 64 * 1024 * 1024
HIDDEN_MAX = 2_000_000  # leaves in one file: 88 MB
RECORD_BYTES = 128  # around a value in an evidence file

_LEAVES = "topic_id, partition, log_index, ledger_time, leaf_hash"
_HAS_BYTES = "(notEmpty(raw) OR value_sha256 = SHA256(''))"  # else a purge of payloads has taken them


@dataclass(frozen=True)
class ExportRequest:
    """What to export. Times are ledger times, microseconds; None and empty ask for all. Raises UsageError."""

    out: Path
    file_format: str
    from_us: int | None = None
    to_us: int | None = None
    tenant_id: str = ""
    run_id: str = ""
    event_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.file_format not in FORMATS:
            raise UsageError(f"--format {self.file_format!r} is none", next_step=f"take one of {', '.join(FORMATS)}")
        for option, time_us in (("--from", self.from_us), ("--to", self.to_us)):
            if time_us is not None and not 0 <= time_us < TIME_US_MAX:
                raise UsageError(f"{option} is no time that a ledger can have", next_step="take one from 1970 to 2255")
        if self.from_us is not None and self.to_us is not None and self.from_us >= self.to_us:
            raise UsageError("--from must be earlier than --to")
        for option, text in (("--tenant", self.tenant_id), ("--run", self.run_id)):
            if len(text) > TEXT_CHARACTERS_MAX or not _is_unicode(text):
                raise UsageError(f"{option} can't be one: it is too long, or not text")
        known = trail_schemas()
        for name in self.event_types:
            if name not in known:
                raise UsageError(f"--type {name[:80]!r} is no record", next_step=f"take some of {', '.join(known)}")

    @property
    def is_filtered(self) -> bool:
        """Whether records inside the range of time are left out."""
        return bool(self.tenant_id or self.run_id or self.event_types)

    @property
    def ending(self) -> str:
        """How the names of data files end."""
        return ENDINGS.get(self.file_format, self.file_format)

    def as_json(self) -> dict[str, Any]:
        """The query as the manifest has it."""
        return {
            "from_us": self.from_us, "to_us": self.to_us, "tenant_id": self.tenant_id, "run_id": self.run_id,
            "event_types": list(self.event_types), "format": self.file_format,
        }  # fmt: skip

    def times(self) -> str:
        """The range of time in SQL; its values are among `parameters`."""
        return (
            "ledger_time >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC') "
            "AND ledger_time < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC')"
        )

    def condition(self) -> str:
        """The filter in SQL, of constants alone; its values are `parameters`, which travel beside it."""
        parts = ["1"]
        if self.tenant_id:
            parts.append("tenant_id = {tenant_id:String}")
        if self.run_id:
            parts.append("run_id = {run_id:String}")
        if self.event_types:
            parts.append("has({event_types:Array(String)}, toString(event_type))")
        return " AND ".join(parts)

    def parameters(self) -> dict[str, Any]:
        """The values of `condition` and `times`."""
        return {
            "tenant_id": self.tenant_id, "run_id": self.run_id, "event_types": list(self.event_types),
            "from_us": self.from_us or 0, "to_us": TIME_US_MAX if self.to_us is None else self.to_us,
        }  # fmt: skip


class Source(NamedTuple):
    """Where an export reads, in SQL. What was purged is still there as leaves, and is never shown."""

    leaves: str  # rows with the columns of _LEAVES
    shown: str  # the condition for what is shown
    has_purges: bool


def source_of(request: ExportRequest, *, has_purges: bool) -> Source:
    """Where to read for a request; `has_purges`: whether something was ever purged from this ledger."""
    shown = f"{request.times()} AND {request.condition()}"
    if not has_purges:
        return Source(LEDGER, shown, has_purges)
    both = f"(SELECT {_LEAVES} FROM {LEDGER} UNION ALL SELECT {_LEAVES} FROM {PURGED} FINAL)"
    return Source(both, f"{shown} AND {_HAS_BYTES}", has_purges)


class LogRange(NamedTuple):
    """The records of one log in the range of time: `first` to `behind` - 1, under the head at `place`."""

    head: Head
    place: int
    first: int
    behind: int


class Chunk(NamedTuple):
    """Records `first` to `behind` - 1 of the log with this number; so many of them are shown."""

    log: int
    first: int
    behind: int
    shown: int

    @property
    def hidden(self) -> int:
        """How many are not shown."""
        return self.behind - self.first - self.shown


def log_ranges(
    reader: ClickHouseLeafReader, chain: Chain, size: int, request: ExportRequest, source: Source
) -> tuple[list[LogRange], int]:
    """The range of each log that has a head under the checkpoint of this size; how many records of the range of time
    are in the ledger, and not under it. Ledger time never decreases within a log: what isn't so does not verify."""
    rows = reader.query(
        "SELECT toString(topic_id), partition, "
        "countIf(ledger_time < fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')), count() "
        f"FROM {source.leaves} WHERE ledger_time < fromUnixTimestamp64Micro({{to_us:Int64}}, 'UTC') GROUP BY 1, 2",
        request.parameters(),
    )
    counted = {LogId(topic_id, partition): (int(before), int(until)) for topic_id, partition, before, until in rows}
    heads = chain.heads_at(size)
    places = {
        head: place for log, found in chain.heads.items() for head, place in zip(found, chain.places[log], strict=True)
    }
    ranges = []
    for head in sorted(heads.values(), key=lambda head: (head.topic, head.log)):
        before, until = (min(head.size, count) for count in counted.get(head.log, (0, 0)))
        ranges.append(LogRange(head, places[head], before, until))
    stored = sum(until - before for before, until in counted.values())
    unsigned = stored - sum(one.behind - one.first for one in ranges)
    if source.has_purges:
        ranges = [_widened(reader, one) for one in ranges]
    return ranges, unsigned


def _widened(reader: ClickHouseLeafReader, one: LogRange) -> LogRange:
    """The range up to the nearest records on both sides that are still there: what a purge took can't say its time."""
    [[before, after]] = reader.query(
        f"SELECT maxIf(log_index + 1, log_index < {one.first}), minOrNullIf(log_index, log_index >= {one.behind}) "
        f"FROM {LEDGER} WHERE {where(one.head)} AND log_index < {one.head.size}"
    )
    return one._replace(first=int(before), behind=one.head.size if after is None else int(after))


def where(head: Head) -> str:
    """The condition for rows of a head's log. Both are checked when a head is read: a UUID and a number."""
    return f"topic_id = toUUID('{head.log.topic_id}') AND partition = {int(head.log.partition)}"


def plan(
    reader: ClickHouseLeafReader, ranges: list[LogRange], request: ExportRequest, source: Source
) -> list[list[Chunk]]:
    """The records of all ranges, in order: what goes into the files of each part, and in each query for them."""
    parts: list[list[Chunk]] = []
    rows = size = hidden = 0
    counted = _counted(reader, ranges, request, source)
    for number, one in enumerate(ranges):
        chunk, chunk_bytes = Chunk(number, one.first, one.first, 0), 0
        for block, block_bytes in _blocks(counted, number, one):
            is_part_full = (
                rows + block.shown > PART_ROWS_MAX or size + block_bytes > PART_BYTES_MAX
                or hidden + block.hidden > HIDDEN_MAX
            )  # fmt: skip
            if is_part_full or not parts:
                rows = size = hidden = 0
                parts.append([])
            is_chunk_full = chunk.shown + block.shown > CHUNK_ROWS_MAX or chunk_bytes + block_bytes > CHUNK_BYTES_MAX
            if is_chunk_full or not parts[-1] or parts[-1][-1] != chunk:
                chunk, chunk_bytes = block, 0
                parts[-1].append(chunk)
            else:
                chunk = Chunk(number, chunk.first, block.behind, chunk.shown + block.shown)
                parts[-1][-1] = chunk
            rows, size, hidden = rows + block.shown, size + block_bytes, hidden + block.hidden
            chunk_bytes += block_bytes
    return parts


_Counted = dict[tuple[LogId, int], tuple[int, int]]  # records and bytes that are shown, by log and block


def _counted(reader: ClickHouseLeafReader, ranges: list[LogRange], request: ExportRequest, source: Source) -> _Counted:
    rows = reader.query(
        f"SELECT toString(topic_id), partition, intDiv(log_index, {BLOCK_ROWS}), count(), sum(length(raw)) "
        f"FROM {LEDGER} WHERE {source.shown} GROUP BY 1, 2, 3",
        request.parameters(),
    )
    counted = {(LogId(topic_id, partition), int(block)): (int(shown), int(size))
               for topic_id, partition, block, shown, size in rows}  # fmt: skip
    for one in ranges:
        if one.first < one.behind == one.head.size:  # in its last block may be records that are not signed yet
            block = (one.behind - 1) // BLOCK_ROWS
            [[shown, size]] = reader.query(
                f"SELECT count(), sum(length(raw)) FROM {LEDGER} WHERE {where(one.head)} "
                f"AND log_index >= {block * BLOCK_ROWS} AND log_index < {one.behind} "
                f"AND {source.shown}",
                request.parameters(),
            )
            counted[one.head.log, block] = int(shown), int(size)
    return counted


def _blocks(counted: _Counted, number: int, one: LogRange) -> Iterator[tuple[Chunk, int]]:
    """A log's range in blocks, each with the bytes of what is shown."""
    first = one.first
    while first < one.behind:
        block = first // BLOCK_ROWS
        behind = min(one.behind, (block + 1) * BLOCK_ROWS)
        shown, size = counted.get((one.head.log, block), (0, 0))
        yield Chunk(number, first, behind, min(shown, behind - first)), size + shown * RECORD_BYTES
        first = behind


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
