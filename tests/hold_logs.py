"""Logs of the holds topic for tests: events as clients send them, and a fold that can crash anywhere."""

from __future__ import annotations

import random
from typing import Any, TypeVar

from agentledger.processors.hold_cells import cell_offset
from agentledger.processors.holds import HoldFold
from agentledger.processors.run_fold import DerivedRecord
from agentledger.schemas import Codec, open_registry, uuid7
from agentledger.schemas.events import BudgetDeclared, ControlIssued, Event, HoldReported, HoldRequested, Ticked
from agentledger.schemas.partitioning import partition_of

E = TypeVar("E", bound=Event)
T0_US = 1_750_000_000_000_000
SECOND_US = 1_000_000
CODEC = Codec(open_registry())
PARTITIONS = 4
TENANT = "acme"
PARTITION = partition_of(TENANT.encode(), PARTITIONS)


class HoldLog:
    """One partition's log and the fold over it, which is committed, and crashes, when the test says so."""

    def __init__(self, tenant_id: str = TENANT, partition: int | None = None) -> None:
        self.tenant_id = tenant_id
        self.partition = partition_of(tenant_id.encode(), PARTITIONS) if partition is None else partition
        self.records: list[tuple[int, bytes | None]] = []
        self.stored: dict[bytes, bytes] = {}
        self.derived: dict[str, bytes] = {}  # by event id
        self.sent: list[DerivedRecord] = []  # all, also what was said again
        self.said: list[Event] = []  # each once, in order
        self.repeated = 0
        self._random = random.Random(1)
        self._seq = 0
        self.committed = 0
        self.fold = self._new_fold()

    def _new_fold(self) -> HoldFold:
        return HoldFold(CODEC, PARTITIONS, lambda: list(self.stored.items()))

    def event(self, kind: type[E], time_us: int, **fields: Any) -> E:
        """An event of a client; envelope fields that aren't given are made up."""
        envelope: dict[str, Any] = {
            "event_id": uuid7(time_us, self._random.randbytes(10)),
            "tenant_id": self.tenant_id,
            "producer_id": "client",
            "producer_seq": self._seq,
            "run_id": "run-1",
            "occurred_at": time_us,
        }
        self._seq += 1
        return kind(**{**envelope, **fields})

    def send(self, event: Event, time_us: int) -> list[Event]:
        """Append the event and fold it in; what follows, without what was said before."""
        self.records.append((time_us // 1000, CODEC.encode(event)))
        return self._fold(len(self.records) - 1)

    def _fold(self, offset: int) -> list[Event]:
        ms, value = self.records[offset]
        said = []
        for record in self.fold.take(self.partition, offset, ms, value):
            self.sent.append(record)
            event_id = record.value[6:42].decode()
            known = self.derived.setdefault(event_id, record.value)
            assert known == record.value, (CODEC.decode(known), CODEC.decode(record.value))
            said.append(CODEC.decode(record.value))
        return said

    def records_of(self, topic: str) -> list[DerivedRecord]:
        """What was sent to a topic."""
        return [record for record in self.sent if record.topic == topic]

    def take(self, kind: type[E], time_us: int, **fields: Any) -> list[Event]:
        """`send` an event with these fields."""
        return self.send(self.event(kind, time_us, **fields), time_us)

    def declare(self, time_us: int = T0_US, **fields: Any) -> list[Event]:
        """Declare a held budget; what isn't given is usual."""
        usual: dict[str, Any] = {
            "budget_id": "b",
            "budget_version": 1,
            "scope": "tenant",
            "metric": "cost_nanousd",
            "limit_amount": 100,
            "window": "total",
            "thresholds_percent": ["50", "80", "100"],
            "on_exceeded": "halt",
            "enforcement": "hold",
            "when_unreachable": "refuse",
        }
        return self.take(BudgetDeclared, time_us, **{**usual, **fields})

    def request(self, hold_id: str, cost: int, time_us: int = T0_US, **fields: Any) -> list[Event]:
        """Ask for a hold on dollars."""
        usual: dict[str, Any] = {"hold_id": hold_id, "ask_cost_nanousd": cost, "ttl_ms": 60_000}
        return self.take(HoldRequested, time_us, **{**usual, **fields})

    def settle(self, hold_id: str, cost: int, time_us: int = T0_US, **fields: Any) -> list[Event]:
        """Report what was really used."""
        fields = {"hold_id": hold_id, "action": "settle", "actual_cost_nanousd": cost, **fields}
        return self.take(HoldReported, time_us, **fields)

    def release(self, hold_id: str, time_us: int = T0_US) -> list[Event]:
        """Report that the call was not made."""
        return self.take(HoldReported, time_us, hold_id=hold_id, action="release", reason="cancelled")

    def renew(self, hold_id: str, time_us: int) -> list[Event]:
        """Report that the call goes on."""
        return self.take(HoldReported, time_us, hold_id=hold_id, action="renew")

    def command(self, command: str, scope: str, value: str, time_us: int = T0_US, **fields: Any) -> list[Event]:
        """Halt or resume a scope."""
        return self.take(ControlIssued, time_us, command=command, scope=scope, scope_value=value, **fields)

    def tick(self, time_us: int) -> list[Event]:
        """Let time pass."""
        return self.take(Ticked, time_us, tenant_id="", run_id="tick", interval_ms=1000)

    def commit(self, keep: int | None = None) -> None:
        """Write the changed states, only the first `keep` where that is given, and then the offset."""
        records = self.fold.take_changed()
        for _, key, value in records if keep is None else records[:keep]:
            known = self.stored.get(key)
            if value is None:
                self.stored.pop(key, None)
            elif known is None or cell_offset(known) <= cell_offset(value):
                self.stored[key] = value
        if keep is None:
            self.committed = len(self.records)

    def crash(self, keep: int | None = 0) -> None:
        """Lose what is in memory, after `keep` of the states were written; then go on from what was committed."""
        if keep is not None:
            self.commit(keep)
        self.fold = self._new_fold()
        for offset in range(self.committed, len(self.records)):
            self._fold(offset)


def of(kind: type[E], events: list[Event]) -> list[E]:
    """Those of one kind."""
    return [event for event in events if isinstance(event, kind)]


def one(kind: type[E], events: list[Event]) -> E:
    """The only one of a kind."""
    [found] = of(kind, events)
    return found
