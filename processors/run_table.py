"""The Faust table of run states: bytes in memory, recovered from the changelog so that the newest state wins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import faust

from agentledger.processors.run_state import folded_up_to


class RunTable(faust.Table):  # type: ignore[misc]
    """Keys and values are bytes. Written by `put`, after the changelog acknowledged the value.

    On recovery the state folded furthest wins, not the last one in the changelog: a worker that was paused and has lost
    its partitions may still write an older state when it wakes up. The changelog must keep records for longer than a
    worker can be paused before they may be compacted (`min.compaction.lag.ms`).
    """

    on_batch: Callable[[], None] | None = None  # called when recovery has made a step

    def apply_changelog_batch(self, batch: Iterable[Any]) -> None:
        """Called by Faust's recovery with changelog events in the order of the log."""
        if self.on_batch is not None:
            self.on_batch()
        newest: dict[bytes, Any] = {}
        for event in batch:
            key, value = event.message.key, event.message.value
            known = newest[key].message.value if key in newest else self.data.get(key)
            if known is None or value is None or folded_up_to(value) >= folded_up_to(known):
                newest[key] = event
        super().apply_changelog_batch(newest.values())

    async def call_recover_callbacks(self) -> None:
        """Called by Faust when recovery ends: also where another rebalance cut it short, and states are missing."""
        if not self.app.tables.recovery.signal_recovery_start.is_set():
            await super().call_recover_callbacks()

    def stored(self, key: bytes) -> bytes | None:
        """The state under this key."""
        store: Any = self.data
        value: bytes | None = store.data.get(key)
        return value

    def items(self) -> Iterable[tuple[bytes, bytes]]:
        """Every key with its state."""
        return list(self.data.items())

    def put(self, partition: int, key: bytes, value: bytes | None) -> None:
        """Keep an acknowledged state, and remember its partition so that it's dropped with it. None removes it."""
        store: Any = self.data
        if value is None:
            store.data.pop(key, None)
            store._key_partition.pop(key, None)
            return
        known = store.data.get(key)
        if known is not None and folded_up_to(known) > folded_up_to(value):
            return  # recovered meanwhile, from a worker that went on with this run
        store.data[key] = value
        store._key_partition[key] = partition
