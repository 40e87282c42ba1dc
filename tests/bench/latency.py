"""Latency on a whole local stack under load: emit to row in ClickHouse, emit to BudgetExceeded on its topic."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import clickhouse_connect
from confluent_kafka import Consumer, Producer

from agentledger.producers import Ledger
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.events import BudgetExceeded
from agentledger.schemas.topics import BUDGETS, EVENTS
from tests.bench.holds import WARM_UP_S
from tests.bench.report import Figure, percentile
from tests.bench.sample import sample_events
from tests.running_stack import RunningStack

EVENTS_PER_S = 1000
PROBE_S = 20
LOAD_S = WARM_UP_S + PROBE_S + 5
PROBES_PER_S = 10
STRAGGLERS_S_MAX = 20  # a late report is a figure, a missing one a failure


def measure(folder: Path) -> list[Figure]:
    """p50 and p99 of both, measured at the same time under the same load."""
    with RunningStack(folder / "stack") as stack:
        endpoints = stack.endpoints()
        load = threading.Thread(target=send_load, args=(endpoints["kafka_bootstrap_servers"],))
        load.start()
        time.sleep(WARM_UP_S)
        sent, arrived = probe(endpoints["kafka_bootstrap_servers"])
        load.join()
        visible = visible_ms(stack.login("auditor"), sent)
    budget = [1000 * (arrived[run_id] - at) for run_id, at in sent.items() if run_id in arrived]
    if len(budget) < len(sent):
        raise RuntimeError(f"{len(sent) - len(budget)} of {len(sent)} budgets were not reported as exceeded")
    return [
        Figure("visible_ms_p50", percentile(visible, 0.50), "ms", ""),
        Figure("visible_ms_p99", percentile(visible, 0.99), "ms", f"under 2,000 at {EVENTS_PER_S:,} events/s"),
        Figure("budget_ms_p50", percentile(budget, 0.50), "ms", ""),
        Figure("budget_ms_p99", percentile(budget, 0.99), "ms", "under 500"),
    ]


def send_load(servers: str) -> None:
    """EVENTS_PER_S events a second for LOAD_S, straight to the topic, of agents whose clocks are right."""
    codec = Codec(open_registry())
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 5})
    began = time.monotonic()
    for number, event in enumerate(sample_events(EVENTS_PER_S * LOAD_S)):
        ahead_s = number / EVENTS_PER_S - (time.monotonic() - began)
        if ahead_s > 0.005:
            time.sleep(ahead_s)
        event.occurred_at = time.time_ns() // 1000
        producer.produce(EVENTS.name, codec.encode(event), event.run_id.encode())
        producer.poll(0)
    producer.flush(30)


def probe(servers: str) -> tuple[dict[str, float], dict[str, float]]:
    """When each probing run emitted what breaks its budget, and when BudgetExceeded was read: Unix seconds."""
    sent: dict[str, float] = {}
    arrived: dict[str, float] = {}
    stop = threading.Event()
    listening = threading.Event()
    listener = threading.Thread(target=listen, args=(servers, arrived, listening, stop))
    listener.start()
    listening.wait(30)
    budget: dict[str, Any] = {"tool_calls": 1, "on_exceeded": "warn"}
    with Ledger(agent_id="probe", bootstrap_servers=servers) as ledger:
        for number in range(PROBE_S * PROBES_PER_S):
            with ledger.run(workflow="probe", run_id=f"probe-{number}", budget=budget) as run:
                run.record_tool_call("x", status="ok")
                sent[run.run_id] = time.time()
                run.record_tool_call("x", status="ok")
            time.sleep(1 / PROBES_PER_S)
        deadline = time.monotonic() + STRAGGLERS_S_MAX
        while len(arrived) < len(sent) and time.monotonic() < deadline:
            time.sleep(0.1)
    stop.set()
    listener.join()
    return sent, arrived


def listen(servers: str, arrived: dict[str, float], listening: threading.Event, stop: threading.Event) -> None:
    """Note when each run's BudgetExceeded is read."""
    codec = Codec(open_registry())
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "probe", "fetch.wait.max.ms": 5, "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([BUDGETS.name], on_assign=lambda *_: listening.set())
    while not stop.is_set():
        message = consumer.poll(0.1)
        if message is None or message.error():
            continue
        event = codec.decode(message.value())
        if isinstance(event, BudgetExceeded):
            arrived.setdefault(event.run_id, time.time())
    consumer.close()


def visible_ms(login: dict[str, str], sent: dict[str, float]) -> list[float]:
    """From emit to the commit of the batch that holds the event, by the writer's own note of that time."""
    client = clickhouse_connect.get_client(**login)
    rows = client.query("""SELECT run_id, min(toUnixTimestamp64Micro(written_at)) FROM (
        SELECT run_id, topic_id, partition, log_index FROM agentledger.ledger
        WHERE workflow = 'probe' AND event_type = 'ToolCallCompleted' AND step = 2) AS probes
        INNER JOIN agentledger.ledger_batches AS batches
        ON probes.topic_id = batches.topic_id AND probes.partition = batches.partition
        WHERE log_index BETWEEN first_index AND last_index GROUP BY run_id""").result_rows
    client.close()
    return [written_us / 1000 - 1000 * sent[run_id] for run_id, written_us in rows]
