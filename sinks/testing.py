"""A ledger in memory: for tests of the writer, and of programs that are built on it.

`FakeLedger` is the server, `FakeLedgerStore` one writer's connection to it; several may share a server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agentledger.schemas import Codec, open_registry
from agentledger.schemas.errors import CodecError, LedgerConflictError
from agentledger.sinks.flushing import misfit_id
from agentledger.sinks.rows import FIRST, LedgerRow, Load, LogPlace
from agentledger.sinks.store import BatchEntry, LogPosition, RowsRefusedError, StoredId, StoredRow

HASH_BYTES = 32


class FakeRow(NamedTuple):
    """A row as it is stored."""

    row: LedgerRow
    schema_id: int
    schema_sha256: bytes
    event_type: str
    poison_reason: str
    batch_time_us: int


@dataclass
class FakeLedger:
    """What the tables hold, in the order in which it was written."""

    rows: list[FakeRow] = field(default_factory=list)
    batches: list[BatchEntry] = field(default_factory=list)
    holders: dict[tuple[str, int], object] = field(default_factory=dict)


def no_fault(_step: str) -> None:
    """Nothing goes wrong."""


class FakeLedgerStore:
    """A LedgerStore on a FakeLedger. `fault` is told "before insert", "after insert" and so on, and may raise.

    `refuses` says of a value that decodes that ClickHouse can't read it all the same.
    """

    def __init__(
        self,
        ledger: FakeLedger | None = None,
        fault: Callable[[str], None] = no_fault,
        refuses: Callable[[bytes], bool] = lambda _value: False,
    ) -> None:
        self.ledger = ledger if ledger is not None else FakeLedger()
        self._fault = fault
        self._refuses = refuses
        self._codec = Codec(open_registry())

    def claim(self, places: Sequence[LogPlace], at_us: int) -> None:
        """From now on only this store writes these logs."""
        for place in places:
            self.ledger.holders[place.topic_id, place.partition] = self

    def settle(self) -> None:
        """Nothing is ever under way here."""

    def position(self, place: LogPlace) -> LogPosition:
        """Where the log stands by its last finished flush."""
        entries = [entry for entry in self.ledger.batches if _log(entry.place) == _log(place)]
        return entries[-1].after.copy() if entries else LogPosition()

    def unfinished(self, place: LogPlace, position: LogPosition) -> dict[int, StoredRow]:
        """By log index, the rows behind the log's position."""
        return {
            item.row.log_index: StoredRow(item.row.hashes[-HASH_BYTES:], item.schema_sha256, item.poison_reason)
            for item in self.ledger.rows
            if _log(item.row.place) == _log(place) and item.row.log_index >= position.next_index
        }

    def lookup(self, event_ids: Sequence[str]) -> list[StoredId]:
        """Those of the ids that are in the ledger as `first`."""
        asked = set(event_ids)
        return [
            StoredId(item.row.event_id, item.row.place, item.row.log_index, item.row.hashes[64:96])
            for item in self.ledger.rows
            if item.event_type and item.row.occurrence == FIRST and item.row.event_id in asked
        ]

    def insert(self, load: Load, batch_time_us: int, *, trial: bool = False) -> None:
        """Write all rows of the load or none. Raises RowsRefusedError, LedgerConflictError."""
        groups = load.groups
        rows = [row for group in groups for row in group.rows]
        if not trial:
            self._fault("before insert")
            self._check_holder(*(row.place for row in rows))
        for group in groups:
            if group.schema is not None:
                for row in group.rows:
                    self._read(row)
        if trial:
            return
        for group in groups:
            kind = str(group.schema["name"]) if group.schema is not None else ""
            self.ledger.rows += [
                FakeRow(row, group.schema_id, group.schema_sha256, kind, group.poison_reason, batch_time_us)
                for row in group.rows
            ]
        self._fault("after insert")

    def commit(self, entries: Sequence[BatchEntry], batch_time_us: int, written_at_us: int) -> None:
        """Say that a flush is finished."""
        self._fault("before commit")
        self._check_holder(*(entry.place for entry in entries))
        self.ledger.batches += [entry._replace(after=entry.after.copy()) for entry in entries]
        self._fault("after commit")

    def _check_holder(self, *places: LogPlace) -> None:
        if any(self.ledger.holders.get(_log(place)) is not self for place in places):
            raise LedgerConflictError("another writer has taken over a log of this one")

    def _read(self, row: LedgerRow) -> None:
        try:
            wrong = misfit_id(self._codec.decode(row.value))
        except CodecError as error:
            raise RowsRefusedError(str(error)) from None
        if wrong:
            raise RowsRefusedError(f"{wrong} is not a UUID")
        if self._refuses(row.value or b""):
            raise RowsRefusedError("refused as the test asks")


def _log(place: LogPlace) -> tuple[str, int]:
    return place.topic_id, place.partition
