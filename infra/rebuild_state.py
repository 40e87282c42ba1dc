"""Writes the processors' lost states to their changelogs again: the ledger folded, and what it gives kept.

The order is that of the programs: conclusions first, then states, then where the input goes on. What the ledger's
events say and isn't in the ledger yet is published, since a state that holds an event never concludes on it again.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentledger.infra.group_positions import GroupPositions
from agentledger.infra.replay import ALONE, Begin, gather
from agentledger.infra.replay_compare import SCATTERED, Expected
from agentledger.infra.replay_crew import Crew, Report
from agentledger.infra.replay_partials import PartialReader, partial_key
from agentledger.infra.replay_parts import PartResult, PartTask
from agentledger.infra.replay_stages import HOLD_DECISIONS, RUNS, SCOPES, STAGES, Stage, StagePlan
from agentledger.infra.replay_verdict import not_written_yet
from agentledger.infra.replay_wanted import Wanted
from agentledger.infra.replay_wiring import LedgerWiring
from agentledger.infra.settled_producer import SettledProducer
from agentledger.processors.packing import unpack
from agentledger.processors.partial_records import WATERMARK, read_head
from agentledger.processors.topics import HOLDS_GROUP, SCOPES_GROUP, WORKER_GROUP
from agentledger.schemas.errors import BrokerError, ConfigurationError, UsageError
from agentledger.schemas.partitioning import partition_of
from agentledger.schemas.topics import HOLDS, PACKED, PARTIALS
from agentledger.sinks.record_filter import TIME_US_MAX

CLOCKS_MS_MAX = 60_000  # how far the clocks of two brokers may be apart
GROUPS = {RUNS.name: WORKER_GROUP, HOLD_DECISIONS.name: HOLDS_GROUP, SCOPES.name: SCOPES_GROUP}


@dataclass(frozen=True)
class Rebuilt:
    """What was written for one stage, and how many of the ledger's conclusions are not as they follow."""

    stage: str
    group: str
    partitions: int
    folded: int
    states: int
    published: int
    different: int


@dataclass(frozen=True)
class RebuildWiring(LedgerWiring):
    """The wiring to a ledger, with a broker to which states go."""

    kafka: dict[str, Any] = field(default_factory=dict, repr=False)
    stages: tuple[str, ...] = ()

    def keep(self, task: PartTask, stage: Stage, left: Iterator[Expected]) -> tuple[int, int]:
        """Publish what is concluded and not in the ledger, then write every state; how many of each."""
        if task.plan.name not in self.stages:
            return 0, 0
        producer, published = SettledProducer(self.kafka), 0
        for item in left:
            if item.topic not in SCATTERED:
                producer.send(item.topic, partition_of(item.key, self.partitions), item.key, item.value)
                published += 1
        producer.settle()
        count = 0
        for key, value in stage.states():
            producer.send(task.plan.changelog, task.partition, key, value)
            count += 1
        producer.settle()
        return published, count


def rebuild(
    wiring: LedgerWiring,
    kafka: dict[str, Any],
    stages: Sequence[str] = (),
    crew: Crew = ALONE,
    *,
    is_replacing: bool = False,
    begin: Begin = lambda _total: None,
    report: Report = lambda _more: None,
) -> list[Rebuilt]:
    """Fold the ledger and write the states of these stages (of all, where none is named).

    Raises UsageError while a worker of them runs, and where states are still there unless `is_replacing`.
    """
    plans = tuple(plan for plan in STAGES if not stages or plan.name in stages)
    positions = GroupPositions(kafka)
    for plan in plans:
        positions.check_idle(GROUPS[plan.name])
    for plan in plans:
        _clear(positions, kafka, plan, wiring.partitions, is_replacing=is_replacing)
    known = {name: getattr(wiring, name) for name in LedgerWiring.__dataclass_fields__}
    keeping = RebuildWiring(**known, kafka=kafka, stages=tuple(plan.name for plan in plans))
    with tempfile.TemporaryDirectory(prefix="agentledger-rebuild-") as name:
        folder = Path(name)
        found = gather(keeping, Wanted(), folder, crew, plans=plans, begin=begin, report=report)
        published = _publish_scattered(keeping, found.results)
        if RUNS in plans:
            _publish_partials(positions, keeping, folder)
    for plan in plans:
        _go_on(positions, plan, keeping.partitions, [one for one in found.results if one.stage == plan.name])
    return [_rebuilt(plan, found.results, published) for plan in plans]


def _clear(
    positions: GroupPositions, kafka: dict[str, Any], plan: StagePlan, partitions: int, *, is_replacing: bool
) -> None:
    """See to it that no state is there."""
    ends = positions.ends(plan.changelog)
    if len(ends) != partitions:
        raise ConfigurationError(
            f"topic {plan.changelog} has {len(ends)} partitions, not {partitions}",
            next_step="make it with agentledger init; AGENTLEDGER_KAFKA_PARTITIONS is that of all topics",
        )
    filled = {partition: span for partition, span in ends.items() if span[0] < span[1]}
    if filled and not is_replacing:
        count = sum(behind - first for first, behind in filled.values())
        raise UsageError(
            f"topic {plan.changelog} has {count} records: states are there",
            next_step="add --replace to take them away, if they are wrong",
        )
    producer = SettledProducer(kafka)
    for partition, (first, behind) in filled.items():
        keys = {message.key() for message in positions.read(plan.changelog, partition, first, behind)}
        for key in sorted(key for key in keys if key is not None):
            producer.send(plan.changelog, partition, key, None)
    producer.settle()


def _publish_scattered(wiring: RebuildWiring, results: Sequence[PartResult]) -> Counter[str]:
    """Publish what isn't keyed by run or tenant, and follows from newer events than all that is there of it."""
    producer, published = SettledProducer(wiring.kafka), Counter[str]()
    for stage in wiring.stages:
        rests = [result.rest for result in results if result.stage == stage]
        for item in not_written_yet(rests):
            producer.send(item.topic, partition_of(item.key, wiring.partitions), item.key, item.value)
            published[stage] += 1
    producer.settle()
    return published


def _publish_partials(positions: GroupPositions, wiring: RebuildWiring, folder: Path) -> None:
    """Publish what the runs' fold has summed up since the last second that was published of each source."""
    said: dict[int, int] = {}
    ends = positions.ends(PARTIALS.name)
    for message in positions.read(PARTIALS.name, 0, *ends[0]):  # every partition has every watermark
        head = read_head(message.value() or b"")
        if head.kind == WATERMARK:
            said[head.source] = max(head.bucket, said.get(head.source, 0))
    producer = SettledProducer(wiring.kafka)
    for partition in range(wiring.partitions):
        for value in PartialReader(folder, partition).read(TIME_US_MAX):
            head = read_head(value)
            if head.bucket >= said.get(head.source, 0):
                producer.send(PARTIALS.name, partition, partial_key(value), value)
    producer.settle()


def _go_on(positions: GroupPositions, plan: StagePlan, partitions: int, results: Sequence[PartResult]) -> None:
    """Set the group back to what the states don't hold. What they do hold is recognized when it comes again."""
    done = {result.partition: result.last_offset for result in results}
    group = GROUPS[plan.name]
    if plan != RUNS:
        ends = positions.ends(HOLDS.name)
        after = {partition: done.get(partition, -1) + 1 for partition in range(partitions)}
        for partition, offset in after.items():
            if ends[partition][0] > offset:
                raise _gap(HOLDS.name, partition)
        positions.move_back(group, HOLDS.name, after)
        if plan == SCOPES:
            starts = {partition: first for partition, (first, _) in positions.ends(PARTIALS.name).items()}
            positions.move_back(group, PARTIALS.name, starts)
        return
    ends = positions.ends(PACKED.name)
    times = {result.partition: result.last_us // 1000 - CLOCKS_MS_MAX for result in results if result.last_us}
    after = {partition: first for partition, (first, _) in ends.items()} | positions.first_at(PACKED.name, times)
    for partition, offset in after.items():
        first, behind = ends[partition]
        if offset == first < behind and _first_packed(positions, partition, first) > done.get(partition, -1) + 1:
            raise _gap(PACKED.name, partition)
    positions.move_back(group, PACKED.name, after)


def _first_packed(positions: GroupPositions, partition: int, first: int) -> int:
    """The source offset of the first record in a packed message."""
    message = next(positions.read(PACKED.name, partition, first, first + 1), None)
    records = [] if message is None else unpack(message.value() or b"")
    return records[0].offset if records else -1


def _gap(topic: str, partition: int) -> BrokerError:
    return BrokerError(
        "the ledger ends before the topic begins: records in between are in no state",
        where=f"{topic}, partition {partition}",
        next_step="let the writer catch up, then rebuild with --replace",
    )


def _rebuilt(plan: StagePlan, results: Sequence[PartResult], published: Counter[str]) -> Rebuilt:
    own = [result for result in results if result.stage == plan.name]
    return Rebuilt(
        plan.name,
        GROUPS[plan.name],
        len(own),
        sum(result.folded for result in own),
        sum(result.kept for result in own),
        sum(result.published for result in own) + published[plan.name],
        sum(result.unequal for result in own),
    )
