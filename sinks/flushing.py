"""One flush: from consumed records to committed rows, over whatever bytes stand in their way.

Rows that ClickHouse refuses are found by decoding, or else by halving; they become unreadable records, which keep their
place in the log. After any failure, `reopen` looks at what is written, and the same flush writes the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from agentledger.schemas import Codec
from agentledger.schemas.errors import CodecError, StoreError
from agentledger.schemas.events import Event
from agentledger.schemas.ports import Clock, SchemaRegistry
from agentledger.sinks.batching import Batch, Batcher, Schemas, SourceRecord
from agentledger.sinks.rows import LedgerRow, Load, LogPlace, RowGroup
from agentledger.sinks.store import LedgerStore, LogPosition, RowsRefusedError
from agentledger.sinks.tables import typed_columns

GROUPS_PER_INSERT_MAX = 12  # each adds a SELECT of some 4 kB to the statement, which ClickHouse bounds to 128 KiB
TRIALS_MAX = 100  # records that only ClickHouse can't read, in one flush, before it waits: then it isn't the records
REASON_CHARACTERS_MAX = 200

_UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Flusher:
    """Writes the open logs into a store. `announce` tells of a batch's dead letters and conflicts, and returns when
    that is durable."""

    def __init__(
        self, store: LedgerStore, registry: SchemaRegistry, announce: Callable[[Batch], None], clock: Clock
    ) -> None:
        self._store = store
        self._announce = announce
        self._clock = clock
        self._codec = Codec(registry)
        self._batcher = Batcher(Schemas(registry.schema_of), store.lookup)
        self._open_places: set[LogPlace] = set()

    def open(self, place: LogPlace) -> LogPosition:
        """Begin to write a log, from where the store says it stands. It must have been claimed."""
        position = self._store.position(place)
        self._batcher.open_log(place, position, self._store.unfinished(place, position))
        self._open_places.add(place)
        return position

    def reopen(self) -> None:
        """Look again at what is written: a failed INSERT may have arrived all the same."""
        self._store.settle()
        for place in self._open_places:
            self.open(place)

    def is_open(self, place: LogPlace) -> bool:
        """Whether this log is written here."""
        return place in self._open_places

    def close_log(self, place: LogPlace) -> None:
        """Forget a log that another writer has now."""
        self._open_places.discard(place)
        self._batcher.close_log(place)

    def prepare(self, records: list[SourceRecord], behind: Batch | None = None) -> Batch:
        """The batch of these records, for `flush`. May be called while another thread flushes `behind`: then it holds
        only if that flush returns `behind` itself. Raises StoreError."""
        batch = self._batcher.batch(records, behind)
        batch.loads = loads(batch.groups)
        return batch

    def flush(self, records: list[SourceRecord], prepared: Batch | None = None) -> Batch:
        """Write the records, once; the batch that was written. After a StoreError, `reopen` and ask again, without
        what was prepared: nothing is skipped, nothing doubled."""
        batch_time_us = max(0, records[0].timestamp_ms) * 1000
        trials = 0
        while True:
            batch = prepared or self._batcher.batch(records)
            prepared = None
            unreadable = [(row, reason) for row in batch.doubtful if (reason := self._unreadable(row))]
            if unreadable:
                self._refuse(unreadable)
                continue
            try:
                self._insert_all(batch, batch_time_us)
            except _GroupRefusedError as error:
                self._refuse(error.culprits)
                trials += error.by_trial
                if trials > TRIALS_MAX:
                    raise StoreError(f"ClickHouse refuses {trials} records of one flush that can be decoded") from None
                self.reopen()  # groups before this one are written: they are found by their leaves
                continue
            self._announce(batch)
            self._store.commit(batch.entries, batch_time_us, self._clock())
            self._batcher.accept(batch)
            return batch

    def _refuse(self, culprits: list[tuple[LedgerRow, str]]) -> None:
        for row, reason in culprits:
            self._batcher.refuse(row, reason)

    def _insert_all(self, batch: Batch, batch_time_us: int) -> None:
        ahead, batch.loads = batch.loads, None
        for load in loads(batch.groups) if ahead is None else ahead:
            self._insert(load, batch_time_us)

    def _insert(self, load: Load, batch_time_us: int) -> None:
        try:
            self._store.insert(load, batch_time_us)
        except RowsRefusedError as error:
            readable = [group for group in load.groups if group.schema is not None]
            found = [(row, reason) for group in readable for row in group.rows if (reason := self._unreadable(row))]
            if found:
                raise _GroupRefusedError(found) from None
            if error.is_memory:  # what decodes isn't huge: it's the server that has too little left
                raise StoreError(f"ClickHouse is short of memory: {error}") from None
            for group in readable:
                if self._is_refused(group, batch_time_us):
                    raise _GroupRefusedError(
                        self._refused_row(group, batch_time_us, str(error)), by_trial=True
                    ) from None
            raise StoreError(f"ClickHouse refuses records together that it takes by type: {error}") from None

    def _unreadable(self, row: LedgerRow) -> str:
        """Why the value can't be read as an event, found by decoding it; empty where it can."""
        try:
            event = self._codec.decode(row.value)
        except CodecError as error:
            return f"unreadable: {error.what}"[:REASON_CHARACTERS_MAX]
        wrong = misfit_id(event)
        return f"refused: {wrong} is not a UUID" if wrong else ""

    def _refused_row(self, group: RowGroup, batch_time_us: int, reason: str) -> list[tuple[LedgerRow, str]]:
        """A row that can be decoded and that ClickHouse refuses all the same: found by halving, in trials."""
        rows = group.rows
        while len(rows) > 1:
            half = rows[: len(rows) // 2]
            rows = half if self._is_refused(group._replace(rows=half), batch_time_us) else rows[len(half) :]
        if self._is_refused(group._replace(rows=rows), batch_time_us):
            return [(rows[0], f"refused by ClickHouse: {reason}"[:REASON_CHARACTERS_MAX])]
        raise StoreError(f"ClickHouse refuses records together that it takes alone: {reason}")

    def _is_refused(self, group: RowGroup, batch_time_us: int) -> bool:
        try:
            self._store.insert(Load.of([group]), batch_time_us, trial=True)
        except RowsRefusedError as error:
            if error.is_memory:
                raise StoreError(f"ClickHouse is short of memory: {error}") from None
            return True
        return False


def loads(groups: Sequence[RowGroup]) -> list[Load]:
    """The groups for as few INSERTs as can be: each makes a part of the table, to be merged with others later."""
    return [
        Load.of(groups[start : start + GROUPS_PER_INSERT_MAX]) for start in range(0, len(groups), GROUPS_PER_INSERT_MAX)
    ]


class _GroupRefusedError(Exception):
    """Some rows of a group can't be read: which, and why; `by_trial` where only ClickHouse can't read them."""

    def __init__(self, culprits: list[tuple[LedgerRow, str]], *, by_trial: bool = False) -> None:
        super().__init__(f"{len(culprits)} rows can't be read")
        self.culprits = culprits
        self.by_trial = by_trial


_UUID_NAMES = tuple(name for name, column in typed_columns().items() if "UUID" in column.type)


def misfit_id(event: Event) -> str:
    """The first field that must hold a UUID and doesn't, or ""."""
    for name in _UUID_NAMES:
        value = getattr(event, name, None)
        if value is not None and _UUID.fullmatch(value) is None:
            return name
    return ""
