"""What an export holds: of each log a range of indexes, and of these the records that are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from agentledger.schemas.errors import UsageError
from agentledger.schemas.heads import Head
from agentledger.sinks.chain import Chain
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.tables import LEDGER

FORMATS = {"parquet": "Parquet", "jsonl": "JSONEachRow", "csv": "CSVWithNames", "avro": "Avro"}
PART_ROWS_MAX = 200_000  # of one file: some 100 MB of evidence
CHUNK_ROWS_MAX = 50_000  # of one log in one query: sorted in the server's memory


@dataclass(frozen=True)
class ExportRequest:
    """What to export. Times are ledger times, microseconds; None and empty ask for all."""

    out: Path
    file_format: str
    from_us: int | None = None
    to_us: int | None = None
    tenant_id: str = ""
    run_id: str = ""
    event_types: tuple[str, ...] = ()

    @property
    def is_filtered(self) -> bool:
        """Whether records inside the range of time are left out."""
        return bool(self.tenant_id or self.run_id or self.event_types)

    def as_json(self) -> dict[str, Any]:
        """The query as the manifest has it."""
        return {
            "from_us": self.from_us, "to_us": self.to_us, "tenant_id": self.tenant_id, "run_id": self.run_id,
            "event_types": list(self.event_types), "format": self.file_format,
        }  # fmt: skip

    def condition(self) -> str:
        """The filter in SQL; its values are `parameters`."""
        parts = ["1"]
        if self.tenant_id:
            parts.append("tenant_id = {tenant_id:String}")
        if self.run_id:
            parts.append("run_id = {run_id:String}")
        if self.event_types:
            parts.append("has({event_types:Array(String)}, toString(event_type))")
        return " AND ".join(parts)

    def parameters(self) -> dict[str, Any]:
        """The values of `condition`."""
        return {"tenant_id": self.tenant_id, "run_id": self.run_id, "event_types": list(self.event_types)}


class LogRange(NamedTuple):
    """The records of one log in the range of time: `first` to `behind` - 1, under the head at `place`."""

    head: Head
    place: int
    first: int
    behind: int


class Chunk(NamedTuple):
    """Records `first` to `behind` - 1 of the log with this number."""

    log: int
    first: int
    behind: int


def log_ranges(reader: ClickHouseLeafReader, chain: Chain, size: int, request: ExportRequest) -> list[LogRange]:
    """The range of each log that has a head under the checkpoint of this size. Raises UsageError."""
    if request.file_format not in FORMATS:
        raise UsageError(f"{request.file_format!r} is no format", next_step=f"one of {', '.join(FORMATS)}")
    if request.from_us is not None and request.to_us is not None and request.from_us >= request.to_us:
        raise UsageError("--from must be earlier than --to")
    places = {
        head: place for log, heads in chain.heads.items() for head, place in zip(heads, chain.places[log], strict=True)
    }
    found = []
    for head in sorted(chain.heads_at(size).values(), key=lambda head: (head.topic, head.log)):
        [(before, until)] = reader.query(
            "SELECT countIf(toUnixTimestamp64Micro(ledger_time) < {from_us:Int64}), "
            "countIf(toUnixTimestamp64Micro(ledger_time) < {to_us:Int64}) "
            f"FROM {LEDGER} WHERE {where(head)} AND log_index < {{size:UInt64}}",
            {"from_us": request.from_us or 0, "to_us": 2**62 if request.to_us is None else request.to_us,
             "size": head.size},
        )  # fmt: skip
        found.append(LogRange(head, places[head], int(before), max(int(before), int(until))))
    return found


def where(head: Head) -> str:
    """The condition for rows of a head's log. Both are checked when a head is read: a UUID and a number."""
    return f"topic_id = toUUID('{head.log.topic_id}') AND partition = {int(head.log.partition)}"


def parts_of(ranges: list[LogRange]) -> list[list[Chunk]]:
    """The records of all ranges for one file each, in order."""
    parts: list[list[Chunk]] = []
    room = 0
    for number, one in enumerate(ranges):
        first = one.first
        while first < one.behind:
            if not room:
                parts.append([])
                room = PART_ROWS_MAX
            behind = min(one.behind, first + min(room, CHUNK_ROWS_MAX))
            parts[-1].append(Chunk(number, first, behind))
            room -= behind - first
            first = behind
    return parts
