"""Stage 2 as a program on a real broker, fed by a stage 1 within the test, and what the pure fold says of that log."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence

from confluent_kafka import Producer

from agentledger.processors.partials import Partials
from agentledger.processors.programs import EXIT_FAILED
from agentledger.processors.scopes import Watch
from agentledger.processors.ticker import tick_of
from agentledger.schemas.events import BudgetDeclared, Event, ModelCallCompleted, ToolCallCompleted
from agentledger.schemas.topics import ALERTS, BUDGETS, CONTROL, HOLDS, INTEGRITY, PARTIALS
from tests.kafka_broker import PARTITIONS
from tests.run_logs import CODEC
from tests.scope_rig import Happened, Stage2, count_record, happened, run_stage2
from tests.worker_rig import Rig

SCOPES = """
import logging, sys
from pathlib import Path
from agentledger.processors import WorkerConfig, run_scopes
logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
kafka, rules = {"bootstrap.servers": sys.argv[1]}, Path(sys.argv[5])
folder, partitions, timeout_s = Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
run_scopes(WorkerConfig(kafka, folder, partitions, session_timeout_s=timeout_s, rules_file=rules))
"""
DERIVED_TOPICS = (BUDGETS.name, ALERTS.name, CONTROL.name, INTEGRITY.name)
TENANTS = ("acme", "globex", "initech", "umbrella", "hooli")


class ScopeRig(Rig):
    """One broker's stage 2, in one process or several."""

    def scopes(self, name: str = "scopes", *, changed_by: str = "") -> None:
        """Start stage 2, changed by one of `worker_rig`'s programs; it is the last of `processes`."""
        folder, timeout_s = str(self.folder / name), str(self.session_timeout_s)
        rules = str(self.folder / "rules.yaml")
        self._start(name, [changed_by + SCOPES, self.servers, folder, str(PARTITIONS), timeout_s, rules])

    def restart_failed(self) -> None:
        """What a supervisor does: start again what ended by itself. What a test has killed stays dead."""
        for process in list(self.processes):
            if process.poll() == EXIT_FAILED:
                self.processes.remove(process)
                self.failures += 1
                self.scopes(process.name)  # type: ignore[attr-defined]

    def wanted(self, rules: Callable[[], Sequence[Watch]]) -> dict[str, bytes]:
        """Event id to bytes of what the pure fold derives from the inputs as they are on the broker."""
        partials, holds = self.read(PARTIALS.name), self.read(HOLDS.name)
        found: dict[str, bytes] = {}
        for partition in range(PARTITIONS):
            stage: Stage2 = run_stage2(
                [value or b"" for *_, value in partials[partition]],
                [(ms, value or b"") for _, ms, _, value in holds[partition]],
                rules,
                sources=PARTITIONS,
            )
            found |= {record.value[6:42].decode(): record.value for record in stage.derived}
        return found

    def said(self) -> tuple[dict[str, set[bytes]], int]:
        """Event id to the contents under it, on all topics that stage 2 writes to; and how many records there are."""
        contents: dict[str, set[bytes]] = {}
        count = 0
        for topic in DERIVED_TOPICS:
            for records in self.read(topic).values():
                for *_, value in records:
                    assert value is not None
                    contents.setdefault(value[6:42].decode(), set()).add(value)
                    count += 1
        return contents, count

    def settle_scopes(self, rules: Callable[[], Sequence[Watch]], wait_s_max: float = 60) -> tuple[list[Event], int]:
        """Wait until what was derived is what the pure fold derives, byte for byte. Fails where it is not.

        Returns the derived events, and how many records were written more than once.
        """
        wanted = self.wanted(rules)
        deadline = time.monotonic() + wait_s_max
        said, count = self.said()
        while said != {event_id: {value} for event_id, value in wanted.items()} and time.monotonic() < deadline:
            self.restart_failed()
            time.sleep(0.5)
            said, count = self.said()
        assert {event_id: values for event_id, values in said.items() if len(values) > 1} == {}
        assert [CODEC.decode(wanted[event_id]) for event_id in wanted.keys() - said.keys()] == []
        assert [CODEC.decode(*said[event_id]) for event_id in said.keys() - wanted.keys()] == []
        assert said == {event_id: {value} for event_id, value in wanted.items()}
        return [CODEC.decode(value) for value in wanted.values()], count - len(wanted)


class Stage1:
    """Stage 1 and the ticker in one, in real time: calls that it is told of go into the source partitions' partials."""

    def __init__(self, servers: str, rng: random.Random) -> None:
        self._rng = rng
        self._producer = Producer({"bootstrap.servers": servers, "linger.ms": 2, "enable.idempotence": True})
        self._partials = Partials(PARTITIONS)
        self._offsets = [0] * PARTITIONS
        self._seqs: dict[str, int] = {}
        self._second = 0
        for source in range(PARTITIONS):
            self._partials.load(source, None)

    def declare(self, budgets: Iterable[BudgetDeclared]) -> None:
        """Publish declarations."""
        for declared in budgets:
            self._producer.produce(HOLDS.name, CODEC.encode(declared), declared.tenant_id.encode())
        assert self._producer.flush(20) == 0

    def work(self, seconds: float) -> None:
        """Calls of all tenants for so long, and time that passes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now_us = time.time_ns() // 1000
            self._pass_time(now_us)
            self._take(self._rng.randrange(PARTITIONS), self._some_call(now_us))
            time.sleep(self._rng.uniform(0, 0.02))

    def finish(self) -> None:
        """Let time pass until everything that was said is complete."""
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            self._pass_time(time.time_ns() // 1000)
            time.sleep(0.1)
        assert self._producer.flush(20) == 0

    def _some_call(self, now_us: int) -> Happened:
        tenant = self._rng.choice(TENANTS)
        seq = self._seqs[tenant] = self._seqs.get(tenant, -1) + (1 if self._rng.random() < 0.97 else 2)
        kind = self._rng.choice([ModelCallCompleted, ToolCallCompleted])
        record = happened(
            0,
            self._rng.randint(0, 4000),
            kind=kind,
            tenant_id=tenant,
            producer_id=f"sdk-{tenant}",
            producer_seq=seq,
            agent_id=self._rng.choice("abc"),
            status=self._rng.choice(["ok", "ok", "error"]),
            latency_ms=float(self._rng.randint(1, 3000)),
        )
        return Happened(now_us, record.event, record.cost_nanousd)

    def _pass_time(self, now_us: int) -> None:
        for source in range(PARTITIONS):
            self._partials.pass_time(source, now_us)
        if now_us // 1_000_000 > self._second:
            self._second = now_us // 1_000_000
            for partition in range(PARTITIONS):
                tick = tick_of(HOLDS.name, partition, now_us, 1000)
                self._producer.produce(HOLDS.name, CODEC.encode(tick), tick.run_id.encode(), partition)
        self._send()

    def _take(self, source: int, record: Happened) -> None:
        count_record(self._partials, source, self._offsets[source], record)
        self._offsets[source] += 1
        self._send()

    def _send(self) -> None:
        for topic, key, value, partition in self._partials.take_closed():
            assert partition is not None
            for _ in range(2 if self._rng.random() < 0.1 else 1):  # as after a crash of stage 1
                self._producer.produce(topic, value, key, partition)
        self._producer.poll(0)
