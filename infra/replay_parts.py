"""Folds one partition of the ledger's topics again, and compares its conclusions on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agentledger.infra.replay_compare import Comparison, Difference, Expected, Rest
from agentledger.infra.replay_crew import Report
from agentledger.infra.replay_partials import PartialReader, PartialWriter
from agentledger.infra.replay_stages import SCOPES, Stage, StagePlan
from agentledger.infra.replay_tally import Tally
from agentledger.infra.replay_wanted import Wanted
from agentledger.processors.run_fold import DerivedRecord
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import AgentledgerError, LedgerConflictError, UsageError
from agentledger.schemas.partitioning import partition_of
from agentledger.schemas.topics import PARTIALS
from agentledger.sinks.column_check import WrongColumn
from agentledger.sinks.record_filter import EVERYTHING, TIME_US_MAX, RecordFilter
from agentledger.sinks.replay_source import LogSpan, RecordBlock, Window
from agentledger.sinks.rows import FIRST

PARTS_MAX = 4  # partitions that one process folds side by side: the states of each take up to 100 MB


class WindowReader(Protocol):
    """Reads spans window by window."""

    def read(self, window: Window) -> Iterator[RecordBlock]:
        """The records of one window in blocks."""

    def check_end(self) -> None:
        """After the last window: raises LedgerConflictError where records are missing."""


class RecordSource(Protocol):
    """Where a replay reads the ledger: `sinks.replay_source.ReplaySource`, or a fake."""

    def spans(self, topics: Sequence[str] = (), *, from_us: int = 0, to_us: int = TIME_US_MAX) -> list[LogSpan]:
        """The part of each log of these topics in that ledger time."""

    def windows(self, spans: Sequence[LogSpan], records: int = 0) -> list[Window]:
        """Parts of ledger time with a bounded number of records each."""

    def reader(
        self, spans: Sequence[LogSpan], wanted: RecordFilter = EVERYTHING, *, whole: Sequence[LogSpan] = ()
    ) -> WindowReader:
        """Reads the spans, and before them others as a whole."""

    def partitions(self, spans: Sequence[LogSpan], wanted: RecordFilter) -> set[int]:
        """The partitions of these spans that hold a wanted record."""

    def count(self, spans: Sequence[LogSpan], wanted: RecordFilter = EVERYTHING) -> int:
        """How many records reading will give."""


def check_known(source: RecordSource, spans: Sequence[LogSpan], wanted: Wanted) -> None:
    """Raise UsageError where no record in these spans is of the run or tenant that is asked for.

    Of a name that is mistyped nothing would be compared, and all of nothing is equal.
    """
    named = [f"{what} {name!r}" for what, name in (("run", wanted.run_id), ("tenant", wanted.tenant_id)) if name]
    if named and not source.partitions(spans, RecordFilter(tenant_id=wanted.tenant_id, run_id=wanted.run_id)):
        raise UsageError(
            f"no record of {' of '.join(named)} is in the ledger before --to",
            next_step='agentledger query "SELECT tenant_id, run_id FROM runs" lists them',
        )


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

    def wrong_columns(self, spans: Sequence[LogSpan], window: Window) -> list[WrongColumn]:
        """The rows of these logs in that window whose typed columns don't say what their bytes say."""

    def keep(self, task: PartTask, stage: Stage, left: Iterator[Expected]) -> tuple[int, int]:
        """Called when all is folded, with the conclusions that aren't in the ledger: how many of them were published,
        and how many states were kept."""


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

    @property
    def records(self) -> int:
        """How many records it reads."""
        return sum(span.behind - span.first for span in (*self.inputs, *self.derived))


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


class Part:
    """The work on one task."""

    def __init__(self, task: PartTask, wiring: Wiring, codec: Codec) -> None:
        self._task = task
        self._codec = codec
        self._partitions = wiring.partitions
        self._is_all = task.wanted == Wanted()
        logs = [span.place.topic_id for span in task.inputs] or [""]
        self._stages = {log: wiring.stage(task.plan, codec, task.partition) for log in logs}
        self._last = self._stages[logs[-1]]
        self._keep = wiring.keep
        self._comparison = Comparison()
        self._result = PartResult(task.plan.name, task.partition)
        self._written = PartialWriter(task.folder, task.partition)
        self._partials = PartialReader(task.folder, task.partition) if task.plan == SCOPES else None
        self._taken = 0  # partials

    def fold_partials(self, up_to_us: int) -> None:
        """Fold what the runs' fold has summed up until then."""
        for value in self._partials.read(up_to_us) if self._partials is not None else ():
            self._taken += 1
            for item in self._last.take_partial(self._task.partition, value):
                self._conclude(item, self._taken, self._codec.decode(item.value).occurred_at)

    def fold(self, block: RecordBlock) -> None:
        """Fold a block of the input."""
        if not len(block):
            return
        partition, stage = self._task.partition, self._stages[block.place.topic_id]
        derived = stage.take_all(partition, block.offsets, block.times_us, block.values)
        is_compared = self._is_all and not self._task.is_tally
        found: list[Expected] = []
        made, kind, partials = tuple.__new__, Expected, PARTIALS.name  # made by its name, one takes twice as long
        for index, time_us, items in zip(block.log_indexes, block.times_us, derived, strict=True):
            for item in items:
                topic, key, value, _ = item
                if is_compared and value is not None and topic != partials:
                    found.append(made(kind, (topic, value, partition, index, time_us, key)))
                else:
                    self._conclude(item, index, time_us)
        self._comparison.expect_all(found)
        self._result.folded += len(block)
        self._result.last_offset = block.offsets[-1]
        self._result.last_us = max(self._result.last_us, block.times_us[-1])

    def meet(self, block: RecordBlock) -> None:
        """Look at a block of what was concluded."""
        if not self._task.is_tally:
            self._comparison.meet_all(block)
            return
        for record in block.records():
            if record.occurrence == FIRST and record.value is not None:
                try:
                    self._result.stored.count(self._codec.decode(record.value))
                except AgentledgerError as error:
                    raise LedgerConflictError(
                        f"index {record.log_index} can't be read: {error}",
                        where=f"{record.topic}, partition {record.partition}",
                        next_step="agentledger verify says more",
                    ) from None

    def finish(self) -> PartResult:
        """The result, when all is folded."""
        self._written.close()
        comparison, result = self._comparison, self._result
        result.expected, result.equal, result.repeated = comparison.expected, comparison.equal, comparison.repeated
        result.unequal, result.differences = comparison.unequal, comparison.differences(self._codec)
        result.published, result.kept = self._keep(self._task, self._last, comparison.left())
        result.rest = comparison.rest()
        result.rest.folded_us[self._task.partition] = result.last_us
        return result

    def close(self) -> None:
        """Drop what was folded."""
        self._written.close()
        self._comparison.close()
        for stage in self._stages.values():
            stage.close()

    def _conclude(self, item: DerivedRecord, index: int, time_us: int) -> None:
        value = item.value
        if value is None:
            return  # it takes a command away: no event, so nothing that could be compared
        if item.topic == PARTIALS.name:
            home = partition_of(item.key, self._partitions) if item.partition is None else item.partition
            self._written.write(home, value)
        elif self._task.is_tally:
            event = self._codec.decode(value)
            if self._task.wanted.holds(event):
                self._result.replayed.count(event)
        elif self._is_all or self._task.wanted.has(self._codec, value, time_us):
            self._comparison.expect(Expected(item.topic, value, self._task.partition, index, time_us, item.key))


def in_groups(tasks: Iterable[PartTask], jobs: int) -> list[list[PartTask]]:
    """The tasks in groups of about as many records each: as many groups as jobs, or more."""
    ordered = sorted(tasks, key=lambda task: task.records, reverse=True)
    groups: list[list[PartTask]] = [[] for _ in range(min(len(ordered), max(jobs, -(-len(ordered) // PARTS_MAX))))]
    for task in ordered:
        open_groups = [group for group in groups if len(group) < PARTS_MAX]
        min(open_groups, key=lambda group: (sum(one.records for one in group), len(group))).append(task)
    return groups


def fold_parts(tasks: Sequence[PartTask], wiring: Wiring, report: Report) -> list[PartResult]:
    """The results of these tasks of one stage, window by window of ledger time.

    All are folded side by side: what the ledger says of them is read at once. Raises LedgerConflictError where a record
    is missing, StoreError.
    """
    source, codec = wiring.source(), wiring.codec()
    parts = {task.partition: Part(task, wiring, codec) for task in tasks}
    try:
        inputs = [span for task in tasks for span in task.inputs]
        concluded = [span for task in tasks for span in task.derived]
        wanted = tasks[0].wanted.rows(tasks[0].plan.producer_prefix)
        reader = source.reader(concluded, wanted, whole=inputs)
        for window in source.windows([*inputs, *concluded]):
            for part in parts.values():
                part.fold_partials(window.up_to_us)
            for block in reader.read(window):
                part = parts[block.place.partition]
                if block.place.topic == tasks[0].plan.input:
                    part.fold(block)
                    report(len(block))
                else:
                    part.meet(block)
        reader.check_end()
        return [part.finish() for part in parts.values()]
    finally:
        for part in parts.values():
            part.close()


def wrong_columns(task: tuple[Sequence[LogSpan], Window], wiring: Wiring, _report: Report) -> list[WrongColumn]:
    """The rows of these logs in that window whose columns don't say what their bytes say. Raises StoreError."""
    return wiring.wrong_columns(*task)
