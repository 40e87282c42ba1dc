"""Both stages over logs in memory: several source partitions, a holds partition, crashes and repetitions at will."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentledger.processors.partial_records import group_of
from agentledger.processors.partials import Partials
from agentledger.processors.run_fold import DerivedRecord, StateRecord
from agentledger.processors.scope_fold import ScopeFold
from agentledger.processors.scope_state import TenantState, encode_tenant
from agentledger.processors.scopes import Watch
from agentledger.schemas import uuid7
from agentledger.schemas.events import BudgetDeclared, Event, ModelCallCompleted, Ticked, ToolCallCompleted
from agentledger.schemas.partitioning import partition_of
from agentledger.schemas.topics import HOLDS, PARTIALS
from tests.run_logs import CODEC, T0_US

SOURCES = 3
TENANT = "acme"


@dataclass(frozen=True)
class Happened:
    """One record of a source partition: when it was appended, and what it used."""

    time_us: int
    event: Event
    cost_nanousd: int = 0
    tokens: int = 0
    unpriced_model: str = ""


def happened(at_ms: int, cost_nanousd: int = 0, *, kind: type[Event] = ModelCallCompleted, **fields: Any) -> Happened:
    """A call at this many milliseconds after T0 that cost so much."""
    made: dict[str, Any] = {
        "event_id": uuid7(T0_US + at_ms * 1000),
        "tenant_id": TENANT,
        "producer_id": "sdk",
        "producer_seq": 0,
        "run_id": "run-1",
        "agent_id": "refunds",
        "workflow": "refund",
        "occurred_at": T0_US + at_ms * 1000,
    }
    if kind in (ModelCallCompleted, ToolCallCompleted):
        made |= {"status": "ok", "requestor": "assistant"}
    if kind is ModelCallCompleted:
        made |= {"answered_model": "sold"}
    if kind is ToolCallCompleted:
        made |= {"tool": "get_order"}
    return Happened(T0_US + at_ms * 1000, kind(**(made | fields)), cost_nanousd)


def tick(at_ms: int) -> Happened:
    """A tick at this many milliseconds after T0."""
    return happened(at_ms, kind=Ticked, tenant_id="", run_id="tick", interval_ms=1000)


def budget(limit: int, **fields: Any) -> BudgetDeclared:
    """A declaration of a watched daily budget of the tenant."""
    usual: dict[str, Any] = {
        "event_id": uuid7(T0_US),
        "tenant_id": TENANT,
        "producer_id": "finance",
        "producer_seq": 0,
        "run_id": "",
        "occurred_at": T0_US,
        "budget_id": "b1",
        "budget_version": 1,
        "scope": "tenant",
        "scope_value": TENANT,
        "metric": "cost_nanousd",
        "limit_amount": limit,
        "window": "day",
        "thresholds_percent": ["50", "80", "100"],
        "on_exceeded": "warn",
        "enforcement": "watch",
    }
    return BudgetDeclared(**(usual | fields))


def stage1(
    log: Sequence[Happened], source: int, rng: random.Random | None = None, *, partitions: int = SOURCES
) -> list[DerivedRecord]:
    """What a source partition's log gives. With `rng`: in batches, dying and starting again, so with repetitions."""
    sent: list[DerivedRecord] = []
    state: bytes | None = None
    done = 0  # acknowledged input
    while done < len(log):
        partials = Partials(partitions)
        partials.load(source, state)
        at = done
        while at < len(log):
            end = len(log) if rng is None else min(len(log), at + rng.randint(1, 5))
            for offset in range(at, end):
                count_record(partials, source, offset, log[offset])
            sent += partials.take_closed()
            if rng is not None and rng.random() < 0.15:
                break  # dies after what it derived was acknowledged, before its state was
            state = partials.dump(source, end - 1)
            at = end
            if rng is None or rng.random() < 0.7:
                done = at  # else: dies later, with the state ahead of the acknowledged input
    return sent


def count_record(partials: Partials, source: int, offset: int, record: Happened) -> None:
    """Count one record of a source partition, and let time pass to it."""
    event = record.event
    partials.pass_time(source, record.time_us)
    if isinstance(event, Ticked):
        return
    group = group_of(event.agent_id, event.workflow, event.actor, event.labels)
    partials.count(
        source,
        offset,
        event,
        group,
        cost_nanousd=record.cost_nanousd,
        tokens=record.tokens,
        unpriced_model=record.unpriced_model,
    )


def declarations(items: Iterable[tuple[int, Event]]) -> list[tuple[int, bytes]]:
    """A log of the holds partition: (milliseconds since the epoch, value)."""
    return [(T0_US // 1000 + at_ms, CODEC.encode(event)) for at_ms, event in items]


@dataclass
class Stage2:
    """Stage 2 on one partition of partials, with its changelog."""

    rules: Sequence[Watch] = ()
    sources: int = SOURCES
    changelog: dict[bytes, bytes] = field(default_factory=dict)
    derived: list[DerivedRecord] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)  # bytes of each write to the changelog

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start, or start again after a crash, from the changelog."""
        self.fold = ScopeFold(CODEC, self.sources, self.rules, self.changelog.get, lambda: list(self.changelog))

    def write(self, states: Iterable[StateRecord]) -> None:
        """Write states to the changelog."""
        for _, key, value in states:
            self.writes.append(len(key) + len(value or b""))
            if value is None:
                self.changelog.pop(key, None)
            else:
                self.changelog[key] = value

    def events(self, *kinds: type[Event]) -> list[Any]:
        """The derived events of these kinds (of all, where none is named), each once, in order."""
        once = dict.fromkeys(record.value for record in self.derived)
        events = [CODEC.decode(value) for value in once]
        return [event for event in events if not kinds or isinstance(event, kinds)]

    def state(self, tenant_id: str = TENANT, partition: int = 0) -> TenantState:
        """The tenant's state as folded so far."""
        state = self.fold.state_of(partition, tenant_id)
        assert state is not None
        return state

    def state_bytes(self, tenant_id: str = TENANT, partition: int = 0) -> bytes:
        """The same, as bytes."""
        return encode_tenant(self.state(tenant_id, partition))


def run_stage2(
    partials: Sequence[bytes],
    holds: Sequence[tuple[int, bytes]],
    rules: Callable[[], Sequence[Watch]] = tuple,
    rng: random.Random | None = None,
    *,
    sources: int = SOURCES,
) -> Stage2:
    """Stage 2 over both inputs. With `rng`: mixed, in batches, dying anywhere between two writes."""
    stage = Stage2(rules(), sources)
    inputs: dict[str, Sequence[tuple[int, bytes]]] = {
        PARTIALS.name: [(0, value) for value in partials],
        HOLDS.name: holds,
    }
    done = dict.fromkeys(inputs, 0)  # acknowledged
    while any(done[topic] < len(inputs[topic]) for topic in inputs):
        stage.start()
        at = dict(done)
        while any(at[topic] < len(inputs[topic]) for topic in inputs):
            for _ in range(1 if rng is None else rng.randint(1, 6)):
                waiting = [topic for topic in inputs if at[topic] < len(inputs[topic])]
                if not waiting:
                    break
                topic = waiting[0] if rng is None else rng.choice(waiting)
                time_ms, value = inputs[topic][at[topic]]
                stage.derived += stage.fold.inputs()[topic](0, at[topic], time_ms, value)
                at[topic] += 1
            changed = stage.fold.take_changed()
            if rng is not None and rng.random() < 0.1:
                stage.write(changed[: rng.randint(0, len(changed))])
                break  # dies with some of the states written
            stage.write(changed)
            if rng is None or rng.random() < 0.7:
                done = dict(at)
    return stage


def mixed(sources: Sequence[Sequence[DerivedRecord]], rng: random.Random, partition: int = 0) -> list[bytes]:
    """One partition of the partials topic: the records of all sources in any order that keeps each source's own."""
    rest = [[record.value for record in records if record.partition == partition] for records in sources]
    log: list[bytes] = []
    while any(rest):
        records = rng.choice([records for records in rest if records])
        log.append(records.pop(0))
    return log


def home_of(tenant_id: str, partitions: int) -> int:
    """The partition in which a tenant's partials are."""
    return partition_of(tenant_id.encode(), partitions)
