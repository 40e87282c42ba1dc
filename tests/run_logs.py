"""Logs of runs for the tests of the processors: events as agents send them, with repetitions and late comers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from agentledger.processors.packing import PackedRecord
from agentledger.processors.run_fold import DerivedRecord, RunFold, StateRecord
from agentledger.processors.run_places import is_of_run
from agentledger.processors.run_state import RunState, decode_state, is_forgotten
from agentledger.processors.ticker import tick_of
from agentledger.schemas import Codec, open_registry, uuid7
from agentledger.schemas.events import (
    ApprovalDecided,
    ApprovalRequested,
    Event,
    ModelCallCompleted,
    OutcomeRecorded,
    PolicyDecided,
    RunBudgetDeclared,
    RunFinished,
    RunStarted,
    Ticked,
    ToolCallCompleted,
)
from agentledger.schemas.identity import content_id
from agentledger.schemas.ports import PriceBook
from agentledger.schemas.testing.price_book import FixedPriceBook
from agentledger.schemas.topics import EVENTS, PARTIALS

E = TypeVar("E", bound=Event)
T0_US = 1_750_000_000_000_000
CODEC = Codec(open_registry())
PRICES = FixedPriceBook({"sold": (2000, 500, 2500, 8000, 8000), "cheap": (100, 10, 100, 400, 400)})


class Author:
    """Writes the events of one run in order; ids come from a seed."""

    def __init__(self, run_id: str = "run-1", seed: int = 1) -> None:
        self._random = random.Random(f"{seed}{run_id}")
        self._common = {
            "tenant_id": "acme",
            "producer_id": f"sdk-{run_id}",
            "run_id": run_id,
            "agent_id": "refunds",
            "agent_version": "1.2",
            "workflow": "refund",
            "environment": "production",
            "labels": {"team": "payments"},
        }
        self._seq = 0

    def write(self, kind: type[E], **fields: Any) -> E:
        """The run's next event."""
        at_us = T0_US + self._seq * 1_000_000
        made = {
            "event_id": uuid7(at_us, self._random.randbytes(10)),
            "producer_seq": self._seq,
            "step": self._seq,
            "occurred_at": at_us,
        }
        self._seq += 1
        return kind(**(self._common | made | fields))

    def start(self, **fields: Any) -> RunStarted:
        return self.write(RunStarted, **fields)

    def model_call(self, tokens: int | None = 1000, model: str = "sold", **fields: Any) -> ModelCallCompleted:
        usage = {"input_tokens": tokens, "requested_model": model, "requestor": "assistant", "status": "ok"}
        return self.write(ModelCallCompleted, **(usage | fields))

    def tool_call(self, **fields: Any) -> ToolCallCompleted:
        return self.write(
            ToolCallCompleted, **({"tool": "get_order", "requestor": "assistant", "status": "ok"} | fields)
        )

    def finish(self, status: str = "succeeded") -> RunFinished:
        return self.write(RunFinished, status=status)

    def outcome(self, success: bool | None = True) -> OutcomeRecorded:
        return self.write(OutcomeRecorded, success=success)


def some_run(
    number: int,
    rng: random.Random,
    calls_max: int = 12,
    models: tuple[str, ...] = ("sold", "sold", "cheap", "tuned"),
) -> list[Event]:
    """The events of one run, not always in order of time: some starts come late, some outcomes twice, some never."""
    author = Author(f"run-{number}", seed=number)
    events: list[Event] = []
    for _ in range(rng.randint(1, calls_max)):
        tokens, reported = rng.choice([None, 0, 700, 1400]), rng.choice([None, None, 0, 1_500_000])
        events.append(author.model_call(tokens, rng.choice(models), provider="openai", reported_cost_nanousd=reported))
        if rng.random() < 0.8:
            own_cost = rng.choice([None, None, 1000])
            tool, attempt = rng.choice(["get_order", "search"]), rng.choice([1, 1, 2])
            status = rng.choice(["ok", "ok", "error"])
            fields = {"tool": tool, "attempt": attempt, "status": status, "effect": rng.choice(["read", "write"])}
            events.append(author.tool_call(arguments_digest="a", reported_cost_nanousd=own_cost, **fields))
        if rng.random() < 0.2:
            events.append(author.write(PolicyDecided, verdict=rng.choice(["allow", "deny"]), risk_tier="high"))
        if rng.random() < 0.1:
            number = str(rng.randint(1, 2))
            events.append(author.write(ApprovalRequested, approval_id=number))
            if rng.random() < 0.5:
                events.append(author.write(ApprovalDecided, approval_id=number, verdict="approved", human_ms=90_000))
    start = author.start(
        budget_cost_nanousd=rng.choice([None, 5_000_000]),
        budget_tokens=rng.choice([None, 4000]),
        budget_model_calls=rng.choice([None, 5]),
        budget_tool_calls=rng.choice([None, 3]),
        on_budget_exceeded="halt",
    )
    events.insert(0 if rng.random() < 0.9 else rng.randint(0, len(events)), start)
    events.append(author.finish(rng.choice(["succeeded", "failed"])))
    for _ in range(rng.choice([0, 1, 1, 2])):
        events.insert(rng.choice([len(events), len(events) - 1]), author.outcome(rng.random() < 0.7))
    return events


def run_budget(number: int = 1, **fields: Any) -> RunBudgetDeclared:
    """A declaration on a runs' partition: each run of the workflow may make two calls of tools."""
    usual: dict[str, Any] = {
        "event_id": content_id(T0_US, "declared", str(number)),
        "tenant_id": "acme",
        "producer_id": "scopes:acme",
        "producer_seq": number,
        "run_id": "limits:0",
        "occurred_at": T0_US,
        "budget_id": "careful",
        "scope": "workflow",
        "metric": "tool_calls",
        "limit_amount": 2,
        "thresholds_percent": ["50"],
        "on_exceeded": "halt",
    }
    return RunBudgetDeclared(**(usual | fields))


def some_run_budgets(rng: random.Random) -> list[RunBudgetDeclared]:
    """Declarations for each run, some changed, some ended, one of another tenant."""
    return [
        run_budget(
            number,
            tenant_id=rng.choice(["acme", "acme", "acme", "globex"]),
            budget_id=rng.choice(["careful", "other"]),
            metric=rng.choice(["tool_calls", "cost_nanousd", "wall_clock_ms"]),
            limit_amount=rng.choice([0, 2, 5_000, 3_000_000]),
            scope=rng.choice(["workflow", "agent", "team", "tenant", "run"]),
            retired=rng.random() < 0.2,
        )
        for number in range(rng.randint(0, 5))
    ]


def interleaved(runs: list[list[Event]], rng: random.Random, repeated: float = 0.1) -> list[Event]:
    """All events, runs mixed, each run in its order, and some events sent again later."""
    rest = [list(run) for run in runs if run]
    log: list[Event] = []
    while rest:
        run = rng.choice(rest)
        log.append(run.pop(0))
        if not run:
            rest.remove(run)
        if rng.random() < repeated:
            log.append(rng.choice(log))
    return log


def records_of(events: list[Event], first_offset: int = 0) -> list[PackedRecord]:
    """The events as records of one partition, a millisecond apart."""
    return [
        PackedRecord(offset, T0_US // 1000 + offset, CODEC.encode(event))
        for offset, event in enumerate(events, start=first_offset)
    ]


def ticked(at_ms: int, partition: int = 0) -> Ticked:
    """The tick of a partition at this time."""
    return tick_of(EVENTS.name, partition, at_ms * 1000, 1000)


GAPS_MS = (0, 0, 1, 1, 300, 700, 5_000, 70_000, 1_000_000, 4_000_000)


def timed_records(events: list[Event], rng: random.Random, *, forgetting: bool = False) -> list[PackedRecord]:
    """The events with pauses of up to an hour between them, in which ticks come; if `forgetting`, two of weeks, too.

    The broker's clock steps back now and then.
    """
    records: list[PackedRecord] = []
    now_ms = T0_US // 1000
    long = set(rng.sample(range(len(events)), min(2, len(events)))) if forgetting else set()
    for number, event in enumerate(events):
        gap_ms = rng.choice((20, 36)) * 86_400_000 if number in long else rng.choice(GAPS_MS)
        for _ in range(rng.choice((0, 1, 2)) if gap_ms >= 300 else 0):
            now_ms += gap_ms // 3
            records.append(PackedRecord(len(records), now_ms, CODEC.encode(ticked(now_ms))))
        now_ms += gap_ms
        records.append(PackedRecord(len(records), now_ms - rng.choice((0, 0, 0, 0, 2, 5000)), CODEC.encode(event)))
    return records


class Folded:
    """What a fold gave: derived records in order, and the stored states."""

    def __init__(self, prices: PriceBook = PRICES, *, rules: Iterable[Any] = (), partitions: int | None = None) -> None:
        self.states: dict[bytes, bytes] = {}
        self.derived: list[DerivedRecord] = []
        self.fold = RunFold(
            CODEC,
            prices,
            self.states.get,
            rules=rules,
            partitions=partitions,
            stored=lambda: list(self.states.items()),
        )

    def take(self, records: list[PackedRecord], partition: int = 0) -> Folded:
        """Fold the records in as one batch, and store the states."""
        for record in records:
            self.derived += self.fold.take(partition, record)
        self.store(self.fold.take_changed())
        return self

    def store(self, changed: Iterable[StateRecord]) -> None:
        """Store these states."""
        for _, key, value in changed:
            if value is None:
                self.states.pop(key, None)
            else:
                self.states[key] = value

    def runs(self) -> dict[bytes, RunState]:
        """The states of runs that are not forgotten."""
        return {
            key: decode_state(value) for key, value in self.states.items() if is_of_run(key) and not is_forgotten(value)
        }

    def run_states(self) -> dict[bytes, bytes]:
        """The same with marks of forgotten runs, as bytes."""
        return {key: value for key, value in self.states.items() if is_of_run(key)}

    def partials(self) -> set[DerivedRecord]:
        """What was published for stage 2."""
        return {record for record in self.derived if record.topic == PARTIALS.name}

    def events(self, *kinds: type[Event]) -> list[Any]:
        """The derived events of these kinds (of all, where none is named)."""
        said = [record for record in self.derived if record.topic != PARTIALS.name and record.value is not None]
        events = [CODEC.decode(record.value) for record in said]
        return [event for event in events if not kinds or isinstance(event, kinds)]

    def taken_away(self) -> list[tuple[str, bytes]]:
        """Topic and key of each record without a value."""
        return [(record.topic, record.key) for record in self.derived if record.value is None]

    def by_id(self) -> dict[str, bytes]:
        """Event id to bytes. Fails where one id has two contents."""
        found: dict[str, bytes] = {}
        for record in self.derived:
            if record.topic == PARTIALS.name or record.value is None:
                continue
            event_id = record.value[6:42].decode()
            assert found.setdefault(event_id, record.value) == record.value, f"{event_id} has two contents"
        return found


def folded(events: list[Event], prices: PriceBook = PRICES, *, rules: Iterable[Any] = ()) -> Folded:
    """The fold over one log in one go."""
    return Folded(prices, rules=rules).take(records_of(events))


def run(write: Callable[[Author], list[Event]]) -> Folded:
    """The fold over the one run that `write` writes."""
    return folded(write(Author()))
