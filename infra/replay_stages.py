"""The stages that a replay folds: each reads topics of the ledger and concludes on others, as its program does live."""

from __future__ import annotations

import sqlite3
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agentledger.processors.holds import HoldFold
from agentledger.processors.packer import VALUE_BYTES_MAX
from agentledger.processors.packing import PackedRecord
from agentledger.processors.run_fold import DerivedRecord, RunFold, StateRecord
from agentledger.processors.scope_fold import ScopeFold
from agentledger.processors.scopes import Watch
from agentledger.processors.topics import CHANGELOG, HOLDS_CHANGELOG, SCOPES_CHANGELOG
from agentledger.schemas.codec import Codec
from agentledger.schemas.ports import PriceBook
from agentledger.schemas.topics import ALERTS, BUDGETS, CONTROL, EVENTS, HOLDS, INTEGRITY, PARTIALS, SPEND

SPILL_RECORDS = 200_000  # records folded between two times that states leave memory: some 15,000 runs, 100 MB


@dataclass(frozen=True)
class StagePlan:
    """What one stage reads and concludes. `producer_prefix` is how the ids of its producers begin."""

    name: str
    input: str
    derived: tuple[str, ...]
    producer_prefix: str
    changelog: str


RUNS = StagePlan("runs", EVENTS.name, (SPEND.name, BUDGETS.name, ALERTS.name, CONTROL.name), "processor:", CHANGELOG)
HOLD_DECISIONS = StagePlan("holds", HOLDS.name, (BUDGETS.name, ALERTS.name, CONTROL.name), "holds:", HOLDS_CHANGELOG)
SCOPES = StagePlan(
    "scopes",
    HOLDS.name,
    (BUDGETS.name, ALERTS.name, CONTROL.name, INTEGRITY.name, EVENTS.name),  # events: what is declared for each run
    "scopes:",
    SCOPES_CHANGELOG,
)
STAGES = (RUNS, HOLD_DECISIONS, SCOPES)


class Stage(Protocol):
    """One stage over the records of one partition number, in the order of each log."""

    def take(self, partition: int, offset: int, ledger_time_us: int, value: bytes | None) -> Sequence[DerivedRecord]:
        """Fold one record in; what follows from it."""

    def take_all(
        self, partition: int, offsets: Sequence[int], times_us: Sequence[int], values: Sequence[bytes | None]
    ) -> Sequence[Sequence[DerivedRecord]]:
        """Fold many records in; what follows from each."""

    def take_partial(self, partition: int, value: bytes) -> Sequence[DerivedRecord]:
        """Fold one record of the partials in; what follows from it. Only of the scopes' stage."""

    def states(self) -> Iterator[tuple[bytes, bytes]]:
        """Every state as it would stand in the changelog: key and value."""

    def close(self) -> None:
        """Drop everything."""


class SpilledStates:
    """States by key in a file of its own, so that a replay's memory doesn't grow with the number of runs."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._file: sqlite3.Connection | None = None

    def load(self, key: bytes) -> bytes | None:
        """The state under this key."""
        if self._file is None:
            return None
        row = self._file.execute("SELECT value FROM states WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def store(self, records: Sequence[StateRecord]) -> None:
        """Keep these states; None removes one."""
        file = self._file or self._open()
        file.execute("BEGIN")
        for _, key, value in records:
            if value is None:
                file.execute("DELETE FROM states WHERE key = ?", (key,))
            else:
                file.execute("INSERT OR REPLACE INTO states VALUES (?, ?)", (key, value))
        file.execute("COMMIT")

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key with its state, in the order of keys."""
        if self._file is not None:
            yield from self._file.execute("SELECT key, value FROM states ORDER BY key")

    def keys(self) -> list[bytes]:
        """Every key."""
        return [key for key, _ in self.items()]

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None and self._folder is not None:
            self._file.close()
            self._folder.cleanup()
            self._file = None

    def _open(self) -> sqlite3.Connection:
        self._folder = tempfile.TemporaryDirectory(prefix="agentledger-replay-")
        self._file = sqlite3.connect(Path(self._folder.name) / "states", isolation_level=None)
        self._file.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; CREATE TABLE states (key BLOB PRIMARY KEY, value BLOB)"
        )
        return self._file


class Spilling(ABC):
    """What the stages have in common: states that leave memory every SPILL_RECORDS records."""

    def __init__(self) -> None:
        self._states = SpilledStates()
        self._since_spill = 0

    @abstractmethod
    def take(self, partition: int, offset: int, ledger_time_us: int, value: bytes | None) -> Sequence[DerivedRecord]:
        """Fold one record in; what follows from it."""

    def take_all(
        self, partition: int, offsets: Sequence[int], times_us: Sequence[int], values: Sequence[bytes | None]
    ) -> Sequence[Sequence[DerivedRecord]]:
        """Fold many records in; what follows from each."""
        return [self.take(partition, *row) for row in zip(offsets, times_us, values, strict=True)]

    def _count(self, more: int = 1) -> None:
        self._since_spill += more
        if self._since_spill >= SPILL_RECORDS:
            self.spill()

    def spill(self) -> None:
        """Write down all states that have changed."""
        self._since_spill = 0
        self._states.store(self._changed())

    @abstractmethod
    def _changed(self) -> Sequence[StateRecord]:
        """The states that have changed since the last call."""

    def take_partial(self, partition: int, value: bytes) -> Sequence[DerivedRecord]:
        """No stage but that of the scopes takes partials."""
        raise TypeError(f"partition {partition} is given {len(value)} bytes of partials")

    def states(self) -> Iterator[tuple[bytes, bytes]]:
        """Every state as it would stand in the changelog: key and value."""
        self.spill()
        return self._states.items()

    def restore(self, states: Iterable[tuple[bytes, bytes]]) -> None:
        """Go on from these states; before anything is folded."""
        self._states.store([StateRecord(0, key, value) for key, value in states])

    def close(self) -> None:
        """Drop everything."""
        self._states.close()


class RunStage(Spilling):
    """The fold over runs, fed from the ledger instead of packed messages."""

    def __init__(self, codec: Codec, prices: PriceBook, partitions: int, rules: Iterable[object]) -> None:
        super().__init__()
        states = self._states
        self._fold = RunFold(codec, prices, states.load, partitions=partitions, rules=rules, stored=states.items)

    def take(self, partition: int, offset: int, ledger_time_us: int, value: bytes | None) -> Sequence[DerivedRecord]:
        """Fold one record in; what follows from it."""
        [derived] = self.take_all(partition, (offset,), (ledger_time_us,), (value,))
        return derived

    def take_all(
        self, partition: int, offsets: Sequence[int], times_us: Sequence[int], values: Sequence[bytes | None]
    ) -> Sequence[Sequence[DerivedRecord]]:
        """Fold many records in; what follows from each."""
        self._count(len(values))
        take, packed, kind = self._fold.take, tuple.__new__, PackedRecord  # made by its name, one takes twice as long
        return [
            take(partition, packed(kind, (offset, time_us // 1000, value, False)))
            if value is None or len(value) <= VALUE_BYTES_MAX  # the packer leaves those out that are larger
            else take(partition, PackedRecord(offset, time_us // 1000, None, oversized=True))
            for offset, time_us, value in zip(offsets, times_us, values, strict=True)
        ]

    def _changed(self) -> Sequence[StateRecord]:
        return self._fold.take_changed()


class HoldStage(Spilling):
    """The fold over holds."""

    def __init__(self, codec: Codec, partitions: int) -> None:
        super().__init__()
        self._fold = HoldFold(codec, partitions, self._states.items)

    def take(self, partition: int, offset: int, ledger_time_us: int, value: bytes | None) -> Sequence[DerivedRecord]:
        """Fold one record in; what follows from it."""
        self._count()
        return self._fold.take(partition, offset, ledger_time_us // 1000, value)

    def _changed(self) -> Sequence[StateRecord]:
        return self._fold.take_changed()


class ScopeStage(Spilling):
    """The fold over a tenant's runs, fed with the ledger's holds topic and with what the runs' fold sums up."""

    def __init__(self, codec: Codec, partitions: int, rules: Sequence[Watch]) -> None:
        super().__init__()
        self._fold = ScopeFold(codec, partitions, rules, self._states.load, self._states.keys)
        self._partials = 0

    def take(self, partition: int, offset: int, ledger_time_us: int, value: bytes | None) -> Sequence[DerivedRecord]:
        """Fold one record of the holds topic in; what follows from it."""
        self._count()
        return self._fold.take_hold(partition, offset, ledger_time_us // 1000, value)

    def take_partial(self, partition: int, value: bytes) -> Sequence[DerivedRecord]:
        """Fold one record of the partials in; what follows from it."""
        self._count()
        self._partials += 1
        return self._fold.take_partial(partition, self._partials, 0, value)

    def states(self) -> Iterator[tuple[bytes, bytes]]:
        """Every state. The partials are then read from their first record on: their offsets aren't in the ledger."""
        self._fold.read_again(PARTIALS.name)
        return super().states()

    def _changed(self) -> Sequence[StateRecord]:
        return self._fold.take_changed()
