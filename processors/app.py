"""The worker: the fold over runs in its shell, fed with packed messages."""

from __future__ import annotations

from collections.abc import Mapping

from agentledger.processors.faust_app import ShellPlan
from agentledger.processors.rules.loading import rules_or_default
from agentledger.processors.run_fold import DerivedRecord, RunFold, StateRecord
from agentledger.processors.run_table import RunTable
from agentledger.processors.shell import Shell, Take
from agentledger.processors.topics import CHANGELOG, WORKER_GROUP
from agentledger.processors.worker import WorkerConfig
from agentledger.schemas.codec import Codec
from agentledger.schemas.ports import PriceBook
from agentledger.schemas.price_books import open_prices
from agentledger.schemas.registry import open_registry
from agentledger.schemas.topics import PACKED

# A batch takes what waits, so only in a backlog is one this large: some 10,000 events. Each batch writes the state of
# every run that it touched once, and waits for two round trips: the fewer batches, the less an event costs.
BATCH_BYTES_MAX = 4 * 1024 * 1024
# Of each partition at a time, or one record that is larger. What comes in small pieces goes into memory that was used
# just before, and is folded while the processor still has it at hand.
FETCH_BYTES_MAX = 128 * 1024
# A batch costs the broker a request for each partition and topic that it writes to, and those who read them as many: at
# a hundred small batches a second that is more than the events cost.
PAUSE_S = 0.02


class PackedRuns:
    """The fold over runs as the shell takes it: packed messages in."""

    def __init__(self, fold: RunFold) -> None:
        self._fold = fold
        self.must_settle = fold.must_settle

    def inputs(self) -> Mapping[str, Take]:
        """Packed messages, and nothing else."""
        return {PACKED.name: self.take}

    def take(self, partition: int, _offset: int, _timestamp_ms: int, value: bytes | None) -> list[DerivedRecord]:
        """Fold one packed message in. Offsets and times that count are those of the records within."""
        return self._fold.take_packed(partition, value or b"")

    def take_changed(self) -> list[StateRecord]:
        """The states of the runs touched since the last call."""
        return self._fold.take_changed()

    def forget(self) -> None:
        """Drop what is kept decoded."""
        self._fold.forget()


class Worker(Shell):
    """The program `worker`: charges, run budgets, anomalies of runs, cost per outcome, and sums for stage 2."""

    def __init__(self, config: WorkerConfig, prices: PriceBook | None = None) -> None:
        codec = Codec(open_registry(config.schema_registry_url, basic_auth=config.schema_registry_auth))

        def build(table: RunTable) -> PackedRuns:
            fold = RunFold(
                codec,
                prices or open_prices(config.prices_file),
                table.stored,
                partitions=config.partitions,
                rules=rules_or_default(config.rules_file),
                stored=table.items,
            )
            return PackedRuns(fold)

        plan = ShellPlan(WORKER_GROUP, "runs", CHANGELOG, BATCH_BYTES_MAX, PAUSE_S, fetch_bytes_max=FETCH_BYTES_MAX)
        super().__init__(plan, config, build)
