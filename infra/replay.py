"""Folds the ledger again, from its first record, and compares what follows with what stands in it.

First the runs and the holds, partition by partition; what the runs' fold sums up then goes through the scopes' fold.
What is looked at is a range of ledger time; what is folded is everything up to its end, because a conclusion follows
from all that came before.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from agentledger.infra.replay_compare import GRACE_US, NAMED_MAX, SCATTERED, Difference, in_time, misread
from agentledger.infra.replay_crew import Crew, Report
from agentledger.infra.replay_parts import (
    PartResult,
    PartTask,
    RecordSource,
    Wiring,
    check_known,
    fold_parts,
    in_groups,
    wrong_columns,
)
from agentledger.infra.replay_stages import HOLD_DECISIONS, RUNS, SCOPES, STAGES, StagePlan
from agentledger.infra.replay_tally import Tally
from agentledger.infra.replay_verdict import conclude
from agentledger.infra.replay_wanted import Wanted
from agentledger.schemas.errors import ConfigurationError
from agentledger.schemas.events import RunBudgetDeclared
from agentledger.schemas.topics import EVENTS
from agentledger.sinks.column_check import WrongColumn
from agentledger.sinks.record_filter import TIME_US_MAX, RecordFilter
from agentledger.sinks.replay_source import ALL_TIME, LogSpan

RECORDS_PER_JOB = 50_000  # below that a process may take longer to start than to fold

CHECKED_RECORDS = 100_000  # whose columns are looked at at a time: some 100 MB; in smaller parts it costs more
ALONE = Crew(1)

Item = TypeVar("Item")
Begin = Callable[[int], None]  # told how many records will be folded


@dataclass
class ReplayReport:
    """What a replay found. `tallies` are of the ledger and of the replay, where those were asked for."""

    folded: int = 0
    logs: int = 0
    seconds: float = 0.0
    expected: int = 0
    equal: Counter[str] = field(default_factory=Counter)  # by topic
    repeated: int = 0
    not_yet: Counter[str] = field(default_factory=Counter)  # by event type
    ahead: int = 0
    left_out: tuple[str, ...] = ()  # stages that were not folded
    different: int = 0
    differences: list[Difference] = field(default_factory=list)
    stored: Tally = field(default_factory=Tally)
    replayed: Tally = field(default_factory=Tally)

    @property
    def is_equal(self) -> bool:
        """True where everything that was looked at is as it follows."""
        return not self.different


def replay(
    wiring: Wiring,
    wanted: Wanted,
    crew: Crew = ALONE,
    *,
    is_tally: bool = False,
    with_columns: bool = True,
    begin: Begin = lambda _total: None,
    report: Report = lambda _more: None,
) -> ReplayReport:
    """Fold and compare, with the processes of this crew.

    Raises LedgerConflictError where a record is missing, StoreError where it can't be read, UsageError where the wanted
    run or tenant isn't in the ledger.
    """
    began, found = time.perf_counter(), ReplayReport()
    with tempfile.TemporaryDirectory(prefix="agentledger-replay-") as folder:
        gathered = gather(
            wiring, wanted, Path(folder), crew, is_tally=is_tally, with_columns=with_columns and not is_tally,
            begin=begin, report=report,
        )  # fmt: skip
    found.logs, found.left_out = gathered.logs, tuple(plan.name for plan in _left_out(wanted))
    for plan in STAGES:
        _add(found, wiring, [result for result in gathered.results if result.stage == plan.name])
    _add_misread(found, wiring, wanted, gathered.misread)
    found.differences.sort(key=in_time)
    found.seconds = time.perf_counter() - began
    return found


@dataclass
class Gathered:
    """What folding gave, part by part, and of how many logs."""

    logs: int
    results: list[PartResult] = field(default_factory=list)
    misread: list[WrongColumn] = field(default_factory=list)


def gather(
    wiring: Wiring,
    wanted: Wanted,
    folder: Path,
    crew: Crew = ALONE,
    *,
    plans: Sequence[StagePlan] = STAGES,
    is_tally: bool = False,
    with_columns: bool = False,
    begin: Begin = lambda _total: None,
    report: Report = lambda _more: None,
) -> Gathered:
    """Fold these stages, the runs before the scopes; partials are left in the folder. Raises as `replay` does.

    `with_columns`: find also the rows of conclusions whose columns don't say what their bytes say.
    """
    source = wiring.source()
    inputs = _inputs(source, wiring, wanted)
    derived = _derived(source, plans, wanted)
    work = _Work(inputs, derived, wanted, folder, is_tally)
    jobs = min(crew.jobs, 1 + sum(work.records(plan) for plan in plans) // RECORDS_PER_JOB)
    crew = crew if jobs > 1 else ALONE
    first = [plan for plan in (RUNS, HOLD_DECISIONS) if plan in plans or (plan == RUNS and SCOPES in plans)]
    begin(sum(work.records(plan) for plan in {*first, *plans}))
    found = Gathered(len({span.place for plan in {*first, *plans} for span in inputs[plan]}))
    groups = [group for plan in first for group in in_groups(work.tasks(plan), jobs)]
    found.results += _joined(crew.work(fold_parts, groups, wiring, report))
    if SCOPES in plans and SCOPES not in _left_out(wanted):
        groups = in_groups(work.tasks(SCOPES, work.summed()), jobs)
        found.results += _joined(crew.work(fold_parts, groups, wiring, report))
    if with_columns:
        concluded = [span for span in derived if span.place.topic != EVENTS.name]  # of events, verify looks at them
        windows = [(concluded, window) for window in source.windows(concluded, CHECKED_RECORDS)]
        found.misread = _joined(crew.work(wrong_columns, windows, wiring))
    return found


@dataclass(frozen=True)
class _Work:
    """All that is read, and how it is cut into tasks."""

    inputs: dict[StagePlan, list[LogSpan]]
    derived: list[LogSpan]
    wanted: Wanted
    folder: Path
    is_tally: bool

    def tasks(self, plan: StagePlan, more: Iterable[int] = ()) -> list[PartTask]:
        """A task for each partition with input or conclusions; `more` are such that have neither."""
        inputs = self.inputs[plan]
        concluded = [span for span in self.derived if span.place.topic in plan.derived]
        # Of a run, what it folds lies in its own partitions, and so does what is concluded, but for what is scattered.
        looked_at = [*inputs, *(one for one in concluded if not self.wanted.run_id or one.place.topic in SCATTERED)]
        return [
            PartTask(
                plan,
                partition,
                tuple(span for span in inputs if span.place.partition == partition),
                tuple(span for span in concluded if span.place.partition == partition),
                self.wanted,
                self.folder,
                self.is_tally,
            )
            for partition in sorted({*more, *(span.place.partition for span in looked_at)})
        ]

    def records(self, plan: StagePlan) -> int:
        """How many records of the ledger the stage reads."""
        return sum(span.behind - span.first for span in self.inputs[plan])

    def summed(self) -> set[int]:
        """The partitions for which the runs' fold has summed something up."""
        return {int(path.stem.rpartition("-")[2]) for path in self.folder.glob("*.partials")}


def _joined(many: Iterable[list[Item]]) -> list[Item]:
    return [one for items in many for one in items]


def _left_out(wanted: Wanted) -> tuple[StagePlan, ...]:
    """Stages that conclude nothing of what is wanted. The scopes' stage concludes of tenants, from the sums of all
    partitions: none of its conclusions names a run, or follows from one run's events alone."""
    return (SCOPES,) if wanted.run_id else ()


def _inputs(source: RecordSource, wiring: Wiring, wanted: Wanted) -> dict[StagePlan, list[LogSpan]]:
    to_us = min(TIME_US_MAX, wanted.to_us + GRACE_US)  # what is due in the range may follow from a later tick
    spans = source.spans([EVENTS.name, HOLD_DECISIONS.input], to_us=to_us)
    behind = max((span.place.partition for span in spans), default=-1) + 1
    if behind > wiring.partitions:
        raise ConfigurationError(
            f"the ledger has {behind} partitions or more, not {wiring.partitions}",
            next_step="set AGENTLEDGER_KAFKA_PARTITIONS as it is for the programs",
        )
    inputs = {plan: [span for span in spans if span.place.topic == plan.input] for plan in STAGES}
    check_known(source, spans, wanted)
    if wanted.run_id:
        for plan in (RUNS, HOLD_DECISIONS):
            partitions = source.partitions(inputs[plan], RecordFilter(run_id=wanted.run_id))
            inputs[plan] = [span for span in inputs[plan] if span.place.partition in partitions]
        inputs[SCOPES] = []
    return inputs


def _derived(source: RecordSource, plans: Sequence[StagePlan], wanted: Wanted) -> list[LogSpan]:
    """The logs with conclusions. Few of the runs' events are such, so those logs are read only where there are any."""
    topics = sorted({topic for plan in plans for topic in plan.derived})
    spans = source.spans(topics, from_us=max(0, wanted.from_us - GRACE_US))
    events = [span for span in spans if span.place.topic == EVENTS.name]
    told = source.partitions(events, RecordFilter(event_types=(RunBudgetDeclared.__name__,)))
    return [span for span in spans if span not in events or span.place.partition in told]


def _add_misread(found: ReplayReport, wiring: Wiring, wanted: Wanted, misread_rows: Sequence[WrongColumn]) -> None:
    """Views read columns, not bytes: of what was concluded, both must say the same."""
    source, codec = wiring.source(), wiring.codec()
    named = {(one.topic, one.partition, one.log_index) for one in found.differences}
    for place, index, text in misread_rows:
        if (place.topic, place.partition, index) in named:
            continue
        for block in source.reader([LogSpan(place, index, index + 1)]).read(ALL_TIME):
            for record in block.records():
                if record.value is not None and wanted.has(codec, record.value, record.ledger_time_us):
                    found.different += 1
                    found.differences.append(misread(codec, record, text))


def _add(found: ReplayReport, wiring: Wiring, results: list[PartResult]) -> None:
    """Add the parts of one stage, and what is left between them."""
    for result in results:
        found.folded += result.folded
        found.expected += result.expected
        found.equal.update(result.equal)
        found.repeated += result.repeated
        found.different += result.unequal
        found.differences += result.differences
        found.stored.add(result.stored)
        found.replayed.add(result.replayed)
    verdict = conclude(wiring.codec(), [result.rest for result in results])
    found.equal.update(verdict.equal)
    found.not_yet.update(verdict.not_yet)
    found.ahead += verdict.ahead
    found.different += verdict.count
    found.differences += verdict.differences[:NAMED_MAX]
