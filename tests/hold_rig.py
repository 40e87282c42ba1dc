"""The program `holds` as processes on a broker, and what an independent count says of the log that it made."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentledger.processors.holds import HoldFold
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.events import (
    BudgetDeclared,
    BudgetHeld,
    BudgetReleased,
    BudgetSettled,
    Event,
    HoldDecided,
    HoldReported,
    HoldRequested,
)
from agentledger.schemas.topics import ALERTS, BUDGETS, CONTROL
from tests.kafka_broker import PARTITIONS
from tests.worker_rig import Rig

ROOT = Path(__file__).parents[1]
CODEC = Codec(open_registry())
HOLDS_PROGRAM = """
import logging, sys
from pathlib import Path
from agentledger.processors import WorkerConfig, run_holds
logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
kafka = {"bootstrap.servers": sys.argv[1]}
run_holds(WorkerConfig(kafka, Path(sys.argv[2]), int(sys.argv[3]), session_timeout_s=float(sys.argv[4])))
"""
TICKER = """
import logging, signal, sys, threading
from agentledger.processors import TickerConfig, run_ticker
logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
run_ticker(TickerConfig({"bootstrap.servers": sys.argv[1]}, watch_lag=False), stop)
"""
METRICS = ("cost_nanousd", "tokens", "model_calls", "tool_calls")

Records = dict[int, list[tuple[int, int, bytes, bytes | None]]]
AccountKey = tuple[str, str, str, str]


class HoldsRig(Rig):
    """One broker's hold deciders, ticker and clients."""

    def holds(self, name: str = "holds") -> subprocess.Popen[bytes]:
        """Start a decider."""
        timeout = str(self.session_timeout_s)
        return self._start(name, [HOLDS_PROGRAM, self.servers, str(self.folder / name), str(PARTITIONS), timeout])

    def ticker(self) -> subprocess.Popen[bytes]:
        """Start the ticker."""
        return self._start("ticker", [TICKER, self.servers])

    def clients(self, name: str, seconds: float, seed: int) -> subprocess.Popen[str]:
        """Start a process of ten clients; its last line says what it counted."""
        command = [sys.executable, "-m", "tests.hold_clients", self.servers, name, str(seconds), str(seed)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.processes.append(process)  # type: ignore[arg-type]
        return process

    def newest(self, name: str) -> subprocess.Popen[bytes]:
        """The decider of this name that was started last: one that failed is not the one that was kept."""
        return [process for process in self.processes if getattr(process, "name", "") == name][-1]

    def restart_failed(self) -> None:
        """Start deciders again that ended by themselves."""
        for process in list(self.processes):
            name = getattr(process, "name", "")
            if name not in {"", "ticker"} and process.poll() not in {None, 0, -9}:
                self.processes.remove(process)
                self.failures += 1
                self.holds(name)


def counted(process: subprocess.Popen[str], wait_s_max: float) -> dict[str, Any]:
    """What a process of clients printed."""
    out, _ = process.communicate(timeout=wait_s_max)
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def folded(records: Records) -> dict[str, bytes]:
    """What the pure fold concludes from the holds topic: event id to content."""
    fold = HoldFold(CODEC, PARTITIONS, list)
    derived: dict[str, bytes] = {}
    for partition, log in sorted(records.items()):
        for offset, ms, _, value in log:
            for record in fold.take(partition, offset, ms, value):
                derived[record.value[6:42].decode()] = record.value
    return derived


def written(rig: Rig) -> dict[str, set[bytes]]:
    """What the deciders have written: event id to the contents under it."""
    contents: dict[str, set[bytes]] = defaultdict(set)
    for topic in (BUDGETS, ALERTS, CONTROL):
        for records in rig.read(topic.name).values():
            for _, _, _, value in records:
                assert value is not None
                contents[value[6:42].decode()].add(value)
    return contents


@dataclass
class Sum:
    """One account, added up from what was said of it."""

    held: int = 0
    used: int = 0
    bound: int = 0
    most_over: int = 0
    open: dict[str, int] = field(default_factory=dict)


class Count:
    """Adds up requests, reports and decisions, knowing nothing of the fold. Windows must not end meanwhile."""

    def __init__(self, heard: list[Event], said: list[Event]) -> None:
        self.declared = {(e.budget_id, e.metric): e for e in heard if isinstance(e, BudgetDeclared)}
        self.requests = {e.hold_id: e for e in heard if isinstance(e, HoldRequested)}
        self.sums: dict[AccountKey, Sum] = defaultdict(Sum)
        self.decided: dict[str, HoldDecided] = {}
        self.held_parts: dict[str, int] = defaultdict(int)
        self.refused_by_limit = 0
        self._settled_by: dict[str, HoldReported] = {}
        for event in heard:
            if isinstance(event, HoldReported) and event.action == "settle":
                self._settled_by.setdefault(event.hold_id, event)
        for event in said:
            self._take(event)

    def _take(self, event: Event) -> None:
        if isinstance(event, HoldDecided):
            self._decided(event)
        elif isinstance(event, BudgetHeld | BudgetSettled | BudgetReleased):
            self._moved(event)

    def _decided(self, event: HoldDecided) -> None:
        assert event.hold_id not in self.decided, "decided twice"
        self.decided[event.hold_id] = event
        if event.verdict == "refused":
            assert event.reason == "limit", event
            self.refused_by_limit += 1
            request = self.requests[event.hold_id]
            account = self.sums[self.key(event, request)]
            ask: int = getattr(request, f"ask_{event.metric}")
            assert account.used + account.held + ask > event.limit_amount, "refused, though there was room"
            assert (event.held_amount, event.used_amount) == (account.held, account.used)

    def _moved(self, event: BudgetHeld | BudgetSettled | BudgetReleased) -> None:
        account = self.sums[self.key(event, event)]
        limit = self.declared[event.budget_id, event.metric].limit_amount
        if isinstance(event, BudgetHeld):
            assert event.amount == getattr(self.requests[event.hold_id], f"ask_{event.metric}")
            account.open[event.hold_id] = event.amount
            account.held += event.amount
            self.held_parts[event.hold_id] += 1
            assert account.used + account.held <= limit, "granted over the limit"
        elif isinstance(event, BudgetReleased):
            account.held -= account.open.pop(event.hold_id)
        else:
            ask = account.open.pop(event.hold_id, 0)
            account.held -= ask
            account.used += event.amount
            account.bound += max(0, event.amount - ask)
            assert event.amount == getattr(self._settled_by[event.hold_id], f"actual_{event.metric}")
        assert (event.held_amount, event.used_amount) == (account.held, account.used), event
        account.most_over = max(account.most_over, account.used + account.held - limit)
        assert account.used + account.held <= limit + account.bound, "over the limit by more than the bound"

    def key(self, event: Any, whose: Event) -> AccountKey:
        """The account that an event is about."""
        is_per_run = self.declared[event.budget_id, event.metric].window == "run"
        return event.budget_id, event.metric, event.scope_value, whose.run_id if is_per_run else ""

    def check_all(self) -> None:
        """Every request has a decision, everything held was given back, everything used is counted once."""
        assert self.decided.keys() == self.requests.keys()
        assert [key for key, account in self.sums.items() if account.open or account.held] == []
        for hold_id, decided in self.decided.items():
            places = self.places(self.requests[hold_id])
            assert self.held_parts[hold_id] == (len(places) if decided.verdict == "granted" else 0), "all or none"
        used: dict[AccountKey, int] = defaultdict(int)
        for hold_id, report in self._settled_by.items():
            if hold_id in self.decided:
                for key in self.places(self.requests[hold_id], whether_asked=False):
                    used[key] += getattr(report, f"actual_{key[1]}")
        assert {key: account.used for key, account in self.sums.items() if account.used} == {
            key: amount for key, amount in used.items() if amount
        }, "money in is not money out"

    def places(self, request: HoldRequested, *, whether_asked: bool = True) -> list[AccountKey]:
        """The accounts that a request falls under."""
        values = {
            "tenant": request.tenant_id,
            "team": request.labels["team"],
            "agent": request.agent_id,
            "user": request.actor,
            "run": request.run_id,
            "label:tier": request.labels["tier"],
        }
        found = []
        for (budget_id, metric), budget in self.declared.items():
            value = values[budget.scope]
            is_asked = bool(getattr(request, f"ask_{metric}")) or not whether_asked
            if is_asked and budget.tenant_id == request.tenant_id and budget.scope_value in {"", value}:
                found.append((budget_id, metric, value, request.run_id if budget.window == "run" else ""))
        return found
