"""Folds one partition of the ledger's topics again, and compares its conclusions on the way; several side by side."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from agentledger.infra.replay_compare import GRACE_US, Comparison, Difference, Expected, Rest
from agentledger.infra.replay_partials import PartialReader, PartialWriter
from agentledger.infra.replay_stages import SCOPES, Stage, StagePlan
from agentledger.infra.replay_tally import Tally
from agentledger.processors.run_fold import DerivedRecord
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import AgentledgerError, LedgerConflictError
from agentledger.schemas.events import Event
from agentledger.schemas.partitioning import partition_of
from agentledger.schemas.topics import PARTIALS
from agentledger.sinks.record_filter import TIME_US_MAX, RecordFilter
from agentledger.sinks.replay_source import LedgerRecord, LogSpan, Window
from agentledger.sinks.rows import FIRST

POLL_S = 0.2  # between two looks at how far the processes are


class WindowReader(Protocol):
    """Reads spans window by window."""

    def read(self, window: Window) -> Iterator[list[LedgerRecord]]:
        """The records of one window in blocks."""

    def check_end(self) -> None:
        """After the last window: raises LedgerConflictError where records are missing."""


class RecordSource(Protocol):
    """Where a replay reads the ledger: `sinks.replay_source.ReplaySource`, or a fake."""

    def spans(self, topics: Sequence[str] = (), *, from_us: int = ..., to_us: int = ...) -> list[LogSpan]:
        """The part of each log of these topics in that ledger time."""

    def windows(self, spans: Sequence[LogSpan]) -> list[Window]:
        """Parts of ledger time with a bounded number of records each."""

    def reader(self, spans: Sequence[LogSpan], wanted: RecordFilter = ...) -> WindowReader:
        """Reads the spans."""

    def partitions(self, spans: Sequence[LogSpan], wanted: RecordFilter) -> set[int]:
        """The partitions of these spans that hold a wanted record."""

    def count(self, spans: Sequence[LogSpan], wanted: RecordFilter = ...) -> int:
        """How many records reading will give."""


class Wiring(Protocol):
    """Opens what one process needs. It travels to processes of their own."""

    @property
    def partitions(self) -> int:
        """The partitions of every topic."""

    def source(self) -> RecordSource:
        """The ledger."""

    def codec(self) -> Codec:
        """Events to bytes and back."""

    def stage(self, plan: StagePlan, codec: Codec, partition: int) -> Stage:
        """A stage that has folded nothing yet."""

    def wrong_columns(self, span: LogSpan) -> Iterator[tuple[int, str]]:
        """The rows of a log whose typed columns don't say what their bytes say: index, and what is wrong."""

    def keep(self, task: PartTask, stage: Stage, left: Iterator[Expected]) -> tuple[int, int]:
        """Called when all is folded, with the conclusions that aren't in the ledger: how many of them were published,
        and how many states were kept."""


@dataclass(frozen=True)
class Wanted:
    """Which conclusions are looked at. Times are ledger time, microseconds: from the first on, before the second."""

    from_us: int = 0
    to_us: int = TIME_US_MAX
    tenant_id: str = ""
    run_id: str = ""

    def has(self, codec: Codec, value: bytes, trigger_us: int) -> bool:
        """True for a conclusion of the range. What was due earlier may follow from a later event: near its ends, and
        where a tenant or a run is asked for, the conclusion itself says."""
        if not (self.tenant_id or self.run_id):
            if self.from_us + GRACE_US <= trigger_us < self.to_us - GRACE_US or (
                self.from_us <= 0 and self.to_us >= TIME_US_MAX
            ):
                return True
            if trigger_us < self.from_us:
                return False
        return self.holds(codec.decode(value))

    def holds(self, event: Event) -> bool:
        """The same for one that is decoded."""
        return (
            self.from_us <= event.occurred_at < self.to_us
            and self.tenant_id in ("", event.tenant_id)
            and self.run_id in ("", event.run_id)
        )

    def rows(self, producer_prefix: str) -> RecordFilter:
        """The same for rows: what producers of this kind concluded in the range."""
        return RecordFilter(
            tenant_id=self.tenant_id,
            run_id=self.run_id,
            producer_prefixes=(producer_prefix,),
            occurred_from_us=self.from_us,
            occurred_before_us=self.to_us,
        )


@dataclass(frozen=True)
class PartTask:
    """One partition number of one stage: what to read of it, and what of its conclusions stands in the ledger.

    `inputs` has one log for each time that the topic was made. `folder` holds the partials between two stages.
    """

    plan: StagePlan
    partition: int
    inputs: tuple[LogSpan, ...]
    derived: tuple[LogSpan, ...]
    wanted: Wanted
    folder: Path
    is_tally: bool = False  # count both sides instead of comparing them


@dataclass
class PartResult:
    """What folding one part gave."""

    stage: str
    partition: int
    folded: int = 0
    expected: int = 0
    equal: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    unequal: int = 0
    differences: list[Difference] = field(default_factory=list)
    rest: Rest = field(default_factory=Rest)
    stored: Tally = field(default_factory=Tally)
    replayed: Tally = field(default_factory=Tally)
    published: int = 0
    kept: int = 0  # states
    last_offset: int = -1  # of the input
    last_us: int = 0


Report = Callable[[int], None]  # told how many more records were folded


class Part:
    """The work on one task."""

    def __init__(self, task: PartTask, wiring: Wiring) -> None:
        self._task = task
        self._codec = wiring.codec()
        self._source = wiring.source()
        self._partitions = wiring.partitions
        self._stages = [wiring.stage(task.plan, self._codec, task.partition) for _ in task.inputs or (None,)]
        self._keep = wiring.keep
        self._comparison = Comparison()
        self._result = PartResult(task.plan.name, task.partition)
        self._partials = PartialWriter(task.folder, task.partition)
        self._taken = 0  # inputs, partials too

    def run(self, report: Report) -> PartResult:
        """Fold the input and look at what follows, window by window of ledger time. Raises LedgerConflictError."""
        task, result = self._task, self._result
        readers = [self._source.reader([span]) for span in task.inputs]
        derived = self._source.reader(task.derived, task.wanted.rows(task.plan.producer_prefix))
        partials = PartialReader(task.folder, task.partition) if task.plan == SCOPES else None
        for window in self._source.windows([*task.inputs, *task.derived]):
            if partials is not None:
                self._fold_partials(partials.read(window.up_to_us))
            for stage, reader in zip(self._stages, readers, strict=False):
                for block in reader.read(window):
                    self._fold(stage, block)
                    report(len(block))
            for block in derived.read(window):
                self._meet(block)
        for reader in [*readers, derived]:
            reader.check_end()
        self._partials.close()
        comparison = self._comparison
        result.expected, result.equal, result.repeated = comparison.expected, comparison.equal, comparison.repeated
        result.unequal, result.differences = comparison.unequal, comparison.differences(self._codec)
        result.published, result.kept = self._keep(task, self._stages[-1], comparison.left())
        result.rest = comparison.rest()
        result.rest.folded_us[task.partition] = result.last_us
        return result

    def close(self) -> None:
        """Drop what was folded."""
        self._comparison.close()
        for stage in self._stages:
            stage.close()

    def _fold(self, stage: Stage, block: list[LedgerRecord]) -> None:
        take = stage.take
        for record in block:
            for item in take(record):
                self._conclude(item, record.log_index, record.ledger_time_us)
        self._result.folded += len(block)
        if block:
            self._result.last_offset = block[-1].offset
            self._result.last_us = max(self._result.last_us, block[-1].ledger_time_us)

    def _fold_partials(self, values: Iterable[bytes]) -> None:
        stage = self._stages[-1]
        for value in values:
            self._taken += 1
            for item in stage.take_partial(self._task.partition, value):
                self._conclude(item, self._taken, self._codec.decode(item.value).occurred_at)

    def _conclude(self, item: DerivedRecord, index: int, time_us: int) -> None:
        if item.topic == PARTIALS.name:
            home = partition_of(item.key, self._partitions) if item.partition is None else item.partition
            self._partials.write(home, item.value)
        elif self._task.is_tally:
            event = self._codec.decode(item.value)
            if self._task.wanted.holds(event):
                self._result.replayed.count(event)
        elif self._task.wanted.has(self._codec, item.value, time_us):
            self._comparison.expect(Expected(item.topic, item.value, self._task.partition, index, time_us, item.key))

    def _meet(self, block: list[LedgerRecord]) -> None:
        if not self._task.is_tally:
            for record in block:
                self._comparison.meet(record)
            return
        for record in block:
            if record.occurrence == FIRST and record.value is not None:
                try:
                    self._result.stored.count(self._codec.decode(record.value))
                except AgentledgerError as error:
                    raise LedgerConflictError(
                        f"index {record.log_index} can't be read: {error}",
                        where=f"{record.topic}, partition {record.partition}",
                        next_step="agentledger verify says more",
                    ) from None


def fold_parts(tasks: Sequence[PartTask], wiring: Wiring, jobs: int, report: Report) -> list[PartResult]:
    """The results of all tasks, in their order. With `jobs` above 1, that many processes work on them."""
    if jobs <= 1 or len(tasks) <= 1:
        return [_run(task, wiring, report) for task in tasks]
    context = multiprocessing.get_context("spawn")  # a fork would share ClickHouse's connections
    folded = context.Value("q", 0)
    with ProcessPoolExecutor(min(jobs, len(tasks)), context, _begin, (folded,)) as pool:
        futures = [pool.submit(_run, task, wiring, None) for task in tasks]
        waiting, known = set(futures), 0
        while waiting:
            done, waiting = wait(waiting, POLL_S)
            now = folded.value
            report(now - known)
            known = now
            if any(future.exception() is not None for future in done):
                for future in futures:
                    future.cancel()
        return [future.result() for future in futures]


_folded: Any = None  # of a process of the pool: how many records all of them have folded


def _begin(folded: Any) -> None:
    global _folded  # noqa: PLW0603 - shared memory reaches a process only when it starts
    _folded = folded


def _count(more: int) -> None:
    with _folded.get_lock():
        _folded.value += more


def _run(task: PartTask, wiring: Wiring, report: Report | None) -> PartResult:
    part = Part(task, wiring)
    try:
        return part.run(report or _count)
    finally:
        part.close()
