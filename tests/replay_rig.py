"""A ledger in memory with what live folds concluded, for tests of replays."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from agentledger.infra.replay_budgets import BudgetedStage, ReplacedBudgets
from agentledger.infra.replay_compare import Expected
from agentledger.infra.replay_parts import PartTask
from agentledger.infra.replay_stages import (
    HOLD_DECISIONS,
    RUNS,
    SCOPES,
    STAGES,
    HoldStage,
    RunStage,
    ScopeStage,
    Stage,
    StagePlan,
)
from agentledger.processors.rules.loading import default_rules
from agentledger.processors.run_fold import DerivedRecord
from agentledger.processors.scope_rules import watches_of
from agentledger.schemas import uuid7
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import AgentledgerError, LedgerConflictError
from agentledger.schemas.events import Event, Ticked
from agentledger.schemas.partitioning import partition_of
from agentledger.schemas.ports import PriceBook
from agentledger.schemas.topics import EVENTS, HOLDS, PARTIALS
from agentledger.sinks.column_check import WrongColumn
from agentledger.sinks.record_filter import EVERYTHING, TIME_US_MAX, RecordFilter
from agentledger.sinks.replay_source import ALL_TIME, LedgerRecord, LogSpan, RecordBlock, Window
from agentledger.sinks.rows import CONFLICT, DUPLICATE, FIRST, LogPlace
from tests.run_logs import CODEC, PRICES, T0_US

PARTITIONS = 3
MS_US = 1000
WINDOWS = 7


@dataclass
class MemoryLedger:
    """Logs of records with their places, and duplicates and conflicts marked as the writer marks them."""

    logs: dict[tuple[str, int], list[LedgerRecord]] = field(default_factory=dict)
    ids: dict[str, bytes] = field(default_factory=dict)
    now_us: int = T0_US

    def append(self, topic: str, key: bytes, value: bytes, partition: int | None = None) -> LedgerRecord:
        """A record at the end of a log, a millisecond after the one before."""
        self.now_us += MS_US
        place = topic, partition_of(key, PARTITIONS) if partition is None else partition
        log = self.logs.setdefault(place, [])
        occurrence = FIRST
        with suppress(AgentledgerError):
            event = CODEC.decode(value)
            if event.event_id in self.ids:
                occurrence = DUPLICATE if self.ids[event.event_id] == value else CONFLICT
            else:
                self.ids[event.event_id] = value
        record = LedgerRecord(*place, len(log) * 2, len(log), self.now_us, value, occurrence)
        log.append(record)
        return record

    def change(self, topic: str, partition: int, index: int, event: Event) -> None:
        """Somebody overwrites a row."""
        log = self.logs[topic, partition]
        log[index] = log[index]._replace(value=CODEC.encode(event))

    def remove(self, topic: str, partition: int, index: int) -> None:
        """Somebody removes a row."""
        del self.logs[topic, partition][index]

    def rows(self, topic_prefix: str = "agentledger.") -> list[LedgerRecord]:
        """All records of these topics."""
        return [
            record for (topic, _), log in sorted(self.logs.items()) if topic.startswith(topic_prefix) for record in log
        ]


class MemorySource:
    """Reads a MemoryLedger as a replay reads ClickHouse, in windows of a few records."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    def spans(self, topics: Sequence[str] = (), *, from_us: int = 0, to_us: int = TIME_US_MAX) -> list[LogSpan]:
        found = []
        for (topic, partition), log in sorted(self._ledger.logs.items()):
            indexes = [record.log_index for record in log if from_us <= record.ledger_time_us < to_us]
            if indexes and (not topics or topic in topics):
                place = LogPlace(topic, str(uuid.uuid5(uuid.NAMESPACE_DNS, topic)), partition)
                found.append(LogSpan(place, indexes[0], indexes[-1] + 1))
        return found

    def windows(self, _spans: Sequence[LogSpan], _records: int = 0) -> list[Window]:
        step_us = (self._ledger.now_us - T0_US) // WINDOWS + 1
        ends = [*range(T0_US, self._ledger.now_us, step_us), ALL_TIME.up_to_us]
        return [Window(after, up_to) for after, up_to in zip([ALL_TIME.after_us, *ends], ends, strict=False)]

    def reader(
        self, spans: Sequence[LogSpan], wanted: RecordFilter = EVERYTHING, *, whole: Sequence[LogSpan] = ()
    ) -> MemoryReader:
        return MemoryReader(
            self._ledger, [*((span, EVERYTHING) for span in whole), *((span, wanted) for span in spans)]
        )

    def count(self, spans: Sequence[LogSpan], wanted: RecordFilter = EVERYTHING) -> int:
        return sum(len(block) for block in self.reader(spans, wanted).read(ALL_TIME))

    def partitions(self, spans: Sequence[LogSpan], wanted: RecordFilter) -> set[int]:
        reader = self.reader(spans, wanted)
        return {block.place.partition for block in reader.read(ALL_TIME) if len(block)}


class MemoryReader:
    """Reads spans window by window."""

    def __init__(self, ledger: MemoryLedger, spans: Sequence[tuple[LogSpan, RecordFilter]]) -> None:
        self._ledger = ledger
        self._spans = spans

    def read(self, window: Window) -> Iterator[RecordBlock]:
        for span, filtered in self._spans:
            log = self._ledger.logs[span.place.topic, span.place.partition]
            rows = [row for row in log if span.first <= row.log_index < span.behind]
            if filtered == EVERYTHING and len(rows) != span.behind - span.first:
                raise LedgerConflictError("an index is missing", where=span.place.topic)
            found = [row for row in rows if window.after_us < row.ledger_time_us <= window.up_to_us]
            wanted = [row for row in found if is_wanted(row, filtered)]
            _, _, *columns = zip(*wanted, strict=True) if wanted else ((),) * 7
            yield RecordBlock(span.place, *columns)

    def check_end(self) -> None:
        pass


def is_wanted(row: LedgerRecord, wanted: RecordFilter) -> bool:
    """What the filter's SQL says, in Python."""
    if wanted == EVERYTHING:
        return True
    event = CODEC.decode(row.value)
    return (
        wanted.tenant_id in ("", event.tenant_id)
        and wanted.run_id in ("", event.run_id)
        and (not wanted.producer_prefixes or event.producer_id.startswith(wanted.producer_prefixes))
        and (not wanted.event_types or type(event).__name__ in wanted.event_types)
        and wanted.occurred_from_us <= event.occurred_at < wanted.occurred_before_us
    )


@dataclass(frozen=True)
class MemoryWiring:
    """The wiring to a ledger in memory."""

    ledger: MemoryLedger
    prices: PriceBook = PRICES
    rules: tuple[Any, ...] = default_rules()
    partitions: int = PARTITIONS
    budgets: ReplacedBudgets | None = None

    def source(self) -> MemorySource:
        return MemorySource(self.ledger)

    def codec(self) -> Codec:
        return CODEC

    def stage(self, plan: StagePlan, codec: Codec, partition: int) -> Stage:
        stage = self._plain_stage(plan, codec)
        if self.budgets is None:
            return stage
        is_home = partition_of(self.budgets.tenant_id.encode(), PARTITIONS) == partition
        return BudgetedStage(stage, plan, codec, self.budgets, is_home=is_home)

    def _plain_stage(self, plan: StagePlan, codec: Codec) -> Stage:
        if plan == RUNS:
            return RunStage(codec, self.prices, PARTITIONS, self.rules)
        if plan == HOLD_DECISIONS:
            return HoldStage(codec, PARTITIONS)
        return ScopeStage(codec, PARTITIONS, watches_of(self.rules))

    def wrong_columns(self, spans: Sequence[LogSpan], window: Window) -> list[WrongColumn]:
        return []

    def keep(self, task: PartTask, stage: Stage, left: Iterator[Expected]) -> tuple[int, int]:
        return 0, 0


class Live:
    """The programs as they were: they fold what is appended, late and in batches, and write some things twice."""

    def __init__(self, ledger: MemoryLedger, rng: random.Random, make: Callable[[StagePlan], Stage]) -> None:
        self.ledger = ledger
        self._rng = rng
        self._make = make
        self._waiting: list[DerivedRecord] = []
        self._stages: dict[tuple[str, int], Stage] = {}
        self._done: dict[tuple[str, int], int] = {}
        self._partials: dict[int, list[bytes]] = {partition: [] for partition in range(PARTITIONS)}

    def fold(self, plan: StagePlan, partition: int, records_max: int) -> None:
        """Fold some of what waits in one partition."""
        place = plan.name, partition
        stage = self._stages.get(place)
        if stage is None:
            stage = self._stages[place] = self._make(plan)
        log = self.ledger.logs.get((plan.input, partition), [])
        done = self._done.get(place, 0)
        for record in log[done : done + records_max]:
            self._conclude(folded(stage, record))
        self._done[place] = min(len(log), done + records_max)
        if isinstance(stage, ScopeStage):
            partials = self._partials[partition]
            for _ in range(min(len(partials), records_max)):
                self._conclude(stage.take_partial(partition, partials.pop(0)))

    def write(self, share: float) -> None:
        """Bring some of the conclusions into the ledger, in order; some of them twice."""
        count = max(1, int(len(self._waiting) * share))
        now, self._waiting = self._waiting[:count], self._waiting[count:]
        for item in now:
            self.ledger.append(item.topic, item.key, item.value, item.partition)
        for item in now:
            if self._rng.random() < 0.05:
                self.ledger.append(item.topic, item.key, item.value, item.partition)

    def settle(self) -> None:
        """Everything folded and written, and what was written folded again, as some of it goes to the runs."""
        records = -1
        while records != len(self.ledger.rows()):
            records = len(self.ledger.rows())
            for plan in STAGES:
                for partition in range(PARTITIONS):
                    self.fold(plan, partition, 10**9)
            while self._waiting:
                self.write(1.0)

    def close(self) -> None:
        """End the programs."""
        for stage in self._stages.values():
            stage.close()

    def _conclude(self, items: Sequence[DerivedRecord]) -> None:
        for item in items:
            if item.topic == PARTIALS.name:
                home = partition_of(item.key, PARTITIONS) if item.partition is None else item.partition
                self._partials[home].append(item.value)
            else:
                self._waiting.append(item)


def folded(stage: Stage, record: LedgerRecord) -> Sequence[DerivedRecord]:
    """What the stage concludes of one record."""
    return stage.take(record.partition, record.offset, record.ledger_time_us, record.value)


def lived(
    facts: Sequence[Event],
    holds: Sequence[Event],
    seed: int,
    wiring: MemoryWiring | None = None,
    *,
    settle: bool = True,
) -> MemoryLedger:
    """A ledger of these events, and what live folds concluded of them meanwhile."""
    rng, ledger = random.Random(seed), MemoryLedger()
    chosen = replace(wiring, ledger=ledger) if wiring is not None else MemoryWiring(ledger)
    live = Live(ledger, rng, lambda plan: chosen.stage(plan, CODEC, 0))
    rest: list[tuple[str, list[Event]]] = [(EVENTS.name, list(facts)), (HOLDS.name, list(holds))]
    while any(events for _, events in rest):
        topic, events = rng.choice([one for one in rest if one[1]])
        event = events.pop(0)
        key = event.run_id if topic == EVENTS.name else event.tenant_id
        ledger.append(topic, key.encode(), CODEC.encode(event))
        if rng.random() < 0.2:
            live.fold(rng.choice((RUNS, RUNS, HOLD_DECISIONS, SCOPES)), rng.randrange(PARTITIONS), rng.randint(1, 8))
        if rng.random() < 0.1:
            live.write(rng.random())
        if rng.random() < 0.15:
            ledger.now_us += rng.randint(1, 2000) * MS_US
            tick(ledger)
    if settle:
        for _ in range(3):
            ledger.now_us += 1000 * MS_US
            tick(ledger)
        live.settle()
    live.close()
    return ledger


def tick(ledger: MemoryLedger) -> None:
    """A tick on every partition of what agents and clients write to."""
    for topic in (EVENTS.name, HOLDS.name):
        for partition in range(PARTITIONS):
            name = f"tick:{topic}:{partition}"
            event = Ticked(
                event_id=uuid7(ledger.now_us), tenant_id="", producer_id=name, producer_seq=ledger.now_us,
                run_id=name, occurred_at=ledger.now_us, interval_ms=1000,
            )  # fmt: skip
            ledger.append(topic, b"", CODEC.encode(event), partition)


def of_kind(ledger: MemoryLedger, kind: type[Any], number: int = 0) -> tuple[LedgerRecord, Any]:
    """One row of a kind that was met first, with its event."""
    firsts = [(row, CODEC.decode(row.value)) for row in ledger.rows() if row.occurrence == FIRST]
    return [one for one in firsts if isinstance(one[1], kind)][number]
