"""The fold over packed records: finds each event's run, folds it in, and knows which states have changed.

Works on bytes in and bytes out and does no input or output of its own, so the worker and the tests run the same code.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from agentledger.processors.packing import PackedRecord
from agentledger.processors.run_state import RunState, decode_state, encode_state
from agentledger.processors.runs import Entry, fold, is_foldable
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import CodecError, UnknownSchemaError
from agentledger.schemas.ports import PriceBook
from agentledger.schemas.topics import topic_of

LIVE_RUNS_MAX = 20_000  # runs kept decoded between batches: 2 to 5 kB each, so at most some 100 MB
SKIPS_LOGGED = 10  # skipped records logged one by one; after that each power of ten

log = logging.getLogger(__name__)


class DerivedRecord(NamedTuple):
    """One derived event, ready for its topic."""

    topic: str
    key: bytes
    value: bytes


class StateRecord(NamedTuple):
    """One run's new state, ready for the changelog: its key names partition, tenant and run."""

    partition: int
    key: bytes
    value: bytes


def state_key(partition: int, tenant_id: str, run_id: str) -> bytes:
    """The key of a run's state. With the partition: a run whose events were keyed wrongly has a part in each."""
    tenant = tenant_id.encode()
    return b"".join((partition.to_bytes(4, "big"), len(tenant).to_bytes(2, "big"), tenant, run_id.encode()))


class RunFold:
    """Folds records into runs. `load` gives the stored state of a key, or None."""

    def __init__(self, codec: Codec, prices: PriceBook, load: Callable[[bytes], bytes | None]) -> None:
        self._codec = codec
        self._prices = prices
        self._load = load
        self._live: dict[bytes, RunState] = {}
        self._touched: dict[bytes, int] = {}
        self.folded = 0
        self.skipped: Counter[str] = Counter()

    def take(self, partition: int, record: PackedRecord) -> list[DerivedRecord]:
        """Fold one record in; what follows from it, encoded, in order. A record that can't be read is skipped."""
        if record.value is None:
            return self._skip(partition, record, "oversized" if record.oversized else "tombstone")
        try:
            event = self._codec.decode(record.value)
        except UnknownSchemaError as error:
            return self._skip(partition, record, f"unknown schema: {error}")
        except CodecError as error:
            return self._skip(partition, record, f"unreadable: {error}")
        if not is_foldable(event):
            return self._skip(partition, record, "unusable id")
        key = state_key(partition, event.tenant_id, event.run_id)
        state = self._live.get(key)
        if state is None:
            stored = self._load(key)
            state = None if stored is None else decode_state(stored)
        state, derived = fold(state, Entry(record.offset, record.timestamp_ms * 1000, event), self._prices)
        self._live[key] = state
        self._touched[key] = partition
        self.folded += 1
        if not derived:
            return []
        run_key, encode = event.run_id.encode(), self._codec.encode
        return [DerivedRecord(topic_of(type(item).__name__).name, run_key, encode(item)) for item in derived]

    def take_changed(self) -> list[StateRecord]:
        """The state of each run touched since the last call, also where a replay left it as it was."""
        changed = [
            StateRecord(partition, key, encode_state(self._live[key])) for key, partition in self._touched.items()
        ]
        for key in self._touched:  # to the end, so that those untouched for longest are dropped first
            self._live[key] = self._live.pop(key)
        self._touched.clear()
        while len(self._live) > LIVE_RUNS_MAX:
            del self._live[next(iter(self._live))]
        return changed

    def forget(self) -> None:
        """Drop what is kept decoded: another worker may have gone on with these runs."""
        self._live.clear()
        self._touched.clear()

    def _skip(self, partition: int, record: PackedRecord, reason: str) -> list[DerivedRecord]:
        self.skipped[reason.partition(":")[0]] += 1
        count = self.skipped.total()
        if count <= SKIPS_LOGGED or str(count).strip("0") == "1":
            log.warning("skipped partition %d offset %d (%d so far): %s", partition, record.offset, count, reason[:200])
        return []
