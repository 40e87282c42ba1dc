"""What recording costs the agent's own thread: the SDK against a bare loop of fastavro and produce."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable
from pathlib import Path

import fastavro
from confluent_kafka import Producer

from agentledger.producers import Ledger
from agentledger.schemas import uuid7
from agentledger.schemas.catalogue import current_schemas
from agentledger.schemas.codec import without_logical_types
from agentledger.schemas.events import ModelCallCompleted
from agentledger.schemas.topics import EVENTS
from tests.bench.report import Figure, percentile

EVENTS_PER_ROUND = 10_000
ROUNDS = 5  # in turn, so that both see the same machine
USAGE = {"input_tokens": 1420, "cache_read_tokens": 900, "output_tokens": 310}


def measure(folder: Path) -> list[Figure]:
    """Microseconds per recorded model call, and the ratio of means to the bare loop, against the same broker."""
    del folder
    host = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    servers = ",".join(f"{broker.host}:{broker.port}" for broker in host.list_topics(timeout=10).brokers.values())
    ledger = Ledger(
        agent_id="bench", agent_version="1", tenant_id="acme", environment="bench", bootstrap_servers=servers
    )
    bare_emit, bare_flush = bare_loop(servers)
    ours: list[float] = []
    bare: list[float] = []
    with ledger.run(workflow="bench", run_id="bench") as run:

        def emit(_: int) -> None:
            run.record_model_call(model="gpt-4.1", provider="openai", status="ok", **USAGE)

        for round_number in range(ROUNDS + 1):
            first, second = timed(emit), timed(bare_emit)
            ledger.flush(60)
            bare_flush()
            if round_number:  # the first round warms up
                ours += first
                bare += second
    ledger.close()
    ratio = sum(ours) / sum(bare)
    return [
        Figure("emit_us_p50", percentile(ours, 0.50), "us", ""),
        Figure("emit_us_p99", percentile(ours, 0.99), "us", ""),
        Figure("emit_vs_bare", ratio, "ratio", "at most 1.2"),
    ]


def timed(emit: Callable[[int], None]) -> list[float]:
    """Microseconds of each of EVENTS_PER_ROUND calls."""
    took = []
    for number in range(EVENTS_PER_ROUND):
        began = time.perf_counter_ns()
        emit(number)
        took.append((time.perf_counter_ns() - began) / 1000)
    return took


def bare_loop(servers: str) -> tuple[Callable[[int], None], Callable[[], object]]:
    """What anybody would write: a dict of the same fields, fastavro, produce, poll; and its flush."""
    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "linger.ms": 10})
    schema = fastavro.parse_schema(without_logical_types(current_schemas()["ModelCallCompleted"]))
    example = ModelCallCompleted(
        event_id="", tenant_id="acme", producer_id="bench-host", producer_seq=0, run_id="bench", occurred_at=0,
        agent_id="bench", agent_version="1", workflow="bench", environment="bench", provider="openai",
        requested_model="gpt-4.1", requestor="assistant", status="ok", trace_id="a" * 32, span_id="b" * 16, **USAGE,
    )  # fmt: skip
    constant = dataclasses.asdict(example)

    def emit(number: int) -> None:
        now_us = time.time_ns() // 1000
        fields = {**constant, "event_id": uuid7(now_us), "producer_seq": number, "step": number, "occurred_at": now_us}
        body = io.BytesIO()
        body.write(b"\x00\x00\x00\x00\x0f")
        fastavro.schemaless_writer(body, schema, fields)
        producer.produce(EVENTS.name, body.getvalue(), b"bench")
        producer.poll(0)

    return emit, lambda: producer.flush(60)
