"""How long a call waits for its hold: SDK, broker, decider and back, on a whole local stack, at 100 holds a second."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from confluent_kafka import Producer

from agentledger.processors.budget_declarations import changes_of, limits_of
from agentledger.processors.budget_file import parse_budgets
from agentledger.producers import Ledger
from agentledger.producers.runs import Run
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.topics import HOLDS
from tests.bench.report import Figure, percentile
from tests.running_stack import RunningStack

HOLDS_PER_S = 100
CALLERS = 20
PROBE_S = 30
WARM_UP_S = 30  # programs load, the broker's machine code is compiled: a stack is started once, and holds all day
CALL_S = 0.02  # what the held call takes
TENANT = "bench"
DECLARED = """
budgets:
  - id: tenant
    scope: tenant
    window: month
    time_zone: Europe/Zurich
    limits: {usd: 1000, tool_calls: 1000000}
    on_exceeded: halt
    enforcement: hold
    fail: closed
    budgets:
      - {id: agent, scope: agent, window: sliding 24h, limits: {tool_calls: 1000000}}
      - {id: run, scope: run, window: run, limits: {tool_calls: 100000, wall_clock_seconds: 3600}}
"""


def measure(folder: Path) -> list[Figure]:
    """p50 and p99 of the time from a call's beginning to its hold being granted, every call held by four limits."""
    with RunningStack(folder / "stack") as stack:
        servers = stack.endpoints()["kafka_bootstrap_servers"]
        declare(servers)
        took = probe(servers)
    return [
        Figure("hold_ms_p50", percentile(took, 0.50), "ms", ""),
        Figure("hold_ms_p99", percentile(took, 0.99), "ms", f"under 50 at {HOLDS_PER_S} holds/s"),
    ]


def declare(servers: str) -> None:
    """Declare the tenant's budgets."""
    codec, producer = Codec(open_registry()), Producer({"bootstrap.servers": servers})
    limits = limits_of(parse_budgets(DECLARED.encode(), where="bench"), TENANT)
    now_us = time.time_ns() // 1000
    for change in changes_of(limits, {}, tenant_id=TENANT, now_us=now_us, declared_by="bench", producer_id="bench"):
        if change.event is not None:
            producer.produce(HOLDS.name, codec.encode(change.event), TENANT.encode())
    producer.flush(10)


def probe(servers: str) -> list[float]:
    """Milliseconds of every call after the warm-up. What a caller is late counts as waiting, too."""
    took: list[float] = []
    holds = {"when_unreachable": "refuse", "answer_s_max": 10.0, "ttl_s": 60.0}
    with (
        Ledger(agent_id="probe", tenant_id=TENANT, bootstrap_servers=servers, holds=holds) as ledger,
        ledger.run(workflow="probe") as run,
    ):
        with run.tool_call("first"):
            pass  # opens the connections
        callers = [threading.Thread(target=call, args=(run, number, took)) for number in range(CALLERS)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    return took


def call(run: Run, number: int, took: list[float]) -> None:
    """One caller's calls, evenly spread."""
    interval_s = CALLERS / HOLDS_PER_S
    began = time.perf_counter() + interval_s * number / CALLERS
    for count in range(round((WARM_UP_S + PROBE_S) / interval_s)):
        due = began + count * interval_s
        time.sleep(max(0.0, due - time.perf_counter()))
        with run.tool_call("probe"):
            waited_ms = 1000 * (time.perf_counter() - due)
            time.sleep(CALL_S)
        if count * interval_s >= WARM_UP_S:
            took.append(waited_ms)
