"""Latency of budgets that are only watched: from the event that goes over a tenant's limit to its BudgetExceeded.

Such a budget is summed second by second over all partitions: the second has to be over, and the next tick to have come
through packer, worker and stage 2. So half a second of it is waiting for the second to end, on average.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer

from agentledger.schemas import Codec, open_registry, uuid7
from agentledger.schemas.events import BudgetDeclared, BudgetExceeded, ToolCallCompleted
from agentledger.schemas.topics import BUDGETS, EVENTS, HOLDS
from tests.bench.holds import WARM_UP_S
from tests.bench.latency import PROBE_S, send_load
from tests.bench.report import Figure, percentile
from tests.running_stack import RunningStack

PROBES = 150
PROBE_EVERY_S = PROBE_S / PROBES  # all within the load; not a divisor of a second
STRAGGLERS_S_MAX = 20.0  # a late report is a figure, a missing one a failure
TENANT = "watched-{}"


def measure(folder: Path) -> list[Figure]:
    """p50 and p99 on a whole local stack under the load of the section `latency`."""
    with RunningStack(folder / "stack") as stack:
        servers = stack.endpoints()["kafka_bootstrap_servers"]
        declare(servers)
        load = threading.Thread(target=send_load, args=(servers,))
        load.start()
        time.sleep(WARM_UP_S)
        took = probe(servers)
        load.join()
    return [
        Figure("watched_budget_ms_p50", percentile(took, 0.50), "ms", ""),
        Figure("watched_budget_ms_p99", percentile(took, 0.99), "ms", "published; seconds are summed whole"),
    ]


def declare(servers: str) -> None:
    """A budget of one tool call for each probing tenant."""
    producer, codec = Producer({"bootstrap.servers": servers}), Codec(open_registry())
    for number in range(PROBES):
        tenant = TENANT.format(number)
        event = BudgetDeclared(
            **envelope(tenant, 0),
            budget_id="probe",
            budget_version=1,
            scope="tenant",
            scope_value=tenant,
            metric="tool_calls",
            limit_amount=1,
            window="total",
            thresholds_percent=["100"],
            on_exceeded="warn",
            enforcement="watch",
        )
        producer.produce(HOLDS.name, codec.encode(event), tenant.encode())
    producer.flush(30)


def probe(servers: str) -> list[float]:
    """Milliseconds from the emit of each tenant's second call to its BudgetExceeded."""
    sent: dict[str, float] = {}
    arrived: dict[str, float] = {}
    stop, listening = threading.Event(), threading.Event()
    listener = threading.Thread(target=listen, args=(servers, arrived, listening, stop))
    listener.start()
    listening.wait(30)
    producer, codec = Producer({"bootstrap.servers": servers, "linger.ms": 1}), Codec(open_registry())
    for number in range(PROBES):
        tenant = TENANT.format(number)
        for seq in range(2):
            event = ToolCallCompleted(**envelope(tenant, seq), tool="x", status="ok", requestor="assistant")
            sent[tenant] = time.time()
            producer.produce(EVENTS.name, codec.encode(event), event.run_id.encode())
        producer.poll(0)
        time.sleep(PROBE_EVERY_S)
    producer.flush(30)
    deadline = time.monotonic() + STRAGGLERS_S_MAX
    while len(arrived) < len(sent) and time.monotonic() < deadline:
        time.sleep(0.1)
    stop.set()
    listener.join()
    if len(arrived) < len(sent):
        raise RuntimeError(f"{len(sent) - len(arrived)} of {len(sent)} watched budgets were not reported as exceeded")
    return [1000 * (arrived[tenant] - at) for tenant, at in sent.items()]


def listen(servers: str, arrived: dict[str, float], listening: threading.Event, stop: threading.Event) -> None:
    """Note when each tenant's BudgetExceeded is read."""
    codec = Codec(open_registry())
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "watched", "fetch.wait.max.ms": 5, "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([BUDGETS.name], on_assign=lambda *_: listening.set())
    while not stop.is_set():
        message = consumer.poll(0.1)
        if message is None or message.error():
            continue
        event = codec.decode(message.value())
        if isinstance(event, BudgetExceeded) and event.budget_id == "probe":
            arrived.setdefault(event.tenant_id, time.time())
    consumer.close()


def envelope(tenant_id: str, seq: int) -> dict[str, Any]:
    """The envelope of an event of now."""
    now_us = time.time_ns() // 1000
    return {
        "event_id": uuid7(now_us),
        "tenant_id": tenant_id,
        "producer_id": f"bench-{tenant_id}",
        "producer_seq": seq,
        "run_id": f"run-{tenant_id}",
        "agent_id": "probe",
        "workflow": "probe",
        "occurred_at": now_us,
    }
