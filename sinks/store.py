"""What the writer needs of a place for the trail: where each log stands, what an unfinished flush left, and writing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from agentledger.schemas.compact_range import CompactRange
from agentledger.schemas.errors import StoreError
from agentledger.sinks.rows import Load, LogPlace


class RowsRefusedError(StoreError):
    """ClickHouse could not read the rows; none of them was written. Or it lacked memory: `is_memory`."""

    def __init__(self, what: str, *, is_memory: bool = False) -> None:
        super().__init__(what)
        self.is_memory = is_memory


@dataclass
class LogPosition:
    """Where one log stands: the next offset to read, the next index to give, the last ledger time, and the Merkle tree
    of its leaves."""

    next_offset: int = 0
    next_index: int = 0
    ledger_time_us: int = 0
    tree: CompactRange = field(default_factory=CompactRange)

    def copy(self) -> LogPosition:
        """The same position, to be moved on by itself."""
        return replace(self, tree=self.tree.copy())


class StoredRow(NamedTuple):
    """A row that a flush wrote without finishing."""

    leaf_hash: bytes
    schema_sha256: bytes
    poison_reason: str


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
    """Where the writer puts the trail. Raises StoreError where the store can't be reached.

    What writes raises LedgerConflictError, and writes nothing, where another store has claimed one of the logs since.
    """

    def claim(self, places: Sequence[LogPlace], at_us: int) -> None:
        """From now on only this store writes these logs. Returns when no earlier write is still under way."""

    def settle(self) -> None:
        """Wait until no write that began before is still under way: one that failed here may still arrive there."""

    def position(self, place: LogPlace) -> LogPosition:
        """Where the log stands by its last finished flush."""

    def unfinished(self, place: LogPlace, position: LogPosition) -> dict[int, StoredRow]:
        """By log index, the rows behind the log's position: those that a flush wrote without finishing."""

    def lookup(self, event_ids: Sequence[str]) -> list[StoredId]:
        """Those of the ids that are in the ledger as `first`."""

    def insert(self, load: Load, batch_time_us: int, *, trial: bool = False) -> None:
        """Write all rows of the load or none; a trial only reads them. Raises RowsRefusedError where it can't."""

    def commit(self, entries: Sequence[BatchEntry], batch_time_us: int, written_at_us: int) -> None:
        """Say that a flush is finished: all its logs at once."""
