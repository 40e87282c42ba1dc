"""What recording costs the agent's own thread: the SDK, without and with an outbox, against what else one could do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Producer

from agentledger.producers import Ledger, OutboxSettings
from agentledger.producers.runs import Run
from tests.bench.emit_others import USAGE, Emit, bare_loop, otel_span
from tests.bench.emit_waiting import waiting_rss_mb
from tests.bench.report import Figure, percentile

EVENTS_PER_ROUND = 10_000
ROUNDS = 5  # in turn, so that all see the same machine


def measure(folder: Path) -> list[Figure]:
    """Microseconds per recorded model call, and ratios of means, against the same broker in memory."""
    host = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    servers = ",".join(f"{broker.host}:{broker.port}" for broker in host.list_topics(timeout=10).brokers.values())
    plain = Ledger(
        agent_id="bench", agent_version="1", tenant_id="acme", environment="bench", bootstrap_servers=servers,
        outbox="off",
    )  # fmt: skip
    kept = Ledger(
        agent_id="bench", agent_version="1", tenant_id="acme", environment="bench", bootstrap_servers=servers,
        outbox=OutboxSettings(folder=folder / "outbox"),
    )  # fmt: skip
    with plain.run(workflow="bench", run_id="bench") as first, kept.run(workflow="bench", run_id="bench") as second:
        took = in_turn(
            {
                "emit": (recording(first), lambda: plain.flush(60)),
                "emit_outbox": (recording(second), lambda: kept.flush(60)),
                "bare": bare_loop(servers),
                "otel_span": otel_span(),
            }
        )
    plain.close()
    kept.close()
    host.flush(0)
    return [
        Figure("emit_us_p50", percentile(took["emit"], 0.50), "us"),
        Figure("emit_us_p99", percentile(took["emit"], 0.99), "us"),
        Figure("emit_outbox_us_p50", percentile(took["emit_outbox"], 0.50), "us"),
        Figure("emit_outbox_us_p99", percentile(took["emit_outbox"], 0.99), "us"),
        Figure("emit_vs_bare", ratio(took, "emit", "bare"), "ratio", "at most 0.6"),
        Figure("emit_outbox_vs_bare", ratio(took, "emit_outbox", "bare"), "ratio", "at most 1.2"),
        Figure("emit_vs_otel_span", ratio(took, "emit", "otel_span"), "ratio", "at most 0.25"),
        Figure("emit_outbox_vs_otel_span", ratio(took, "emit_outbox", "otel_span"), "ratio"),
        Figure("waiting_rss_mb", waiting_rss_mb(folder / "waiting"), "MB"),
    ]


def recording(run: Run) -> Emit:
    """Record one model call in this run."""

    def emit(_: int) -> None:
        run.record_model_call(model="gpt-4.1", provider="openai", status="ok", **USAGE)

    return emit


def in_turn(subjects: dict[str, tuple[Emit, Callable[[], object]]]) -> dict[str, list[float]]:
    """Microseconds of each call of each subject; after each round its flush, which isn't counted."""
    took: dict[str, list[float]] = {name: [] for name in subjects}
    for round_number in range(ROUNDS + 1):
        for name, (emit, flush) in subjects.items():
            found = timed(emit)
            flush()
            if round_number:  # the first round warms up
                took[name] += found
    return took


def timed(emit: Emit) -> list[float]:
    """Microseconds of each of EVENTS_PER_ROUND calls."""
    took = []
    for number in range(EVENTS_PER_ROUND):
        began = time.perf_counter_ns()
        emit(number)
        took.append((time.perf_counter_ns() - began) / 1000)
    return took


def ratio(took: dict[str, list[float]], ours: str, theirs: str) -> float:
    """Of the means, which count what other threads of the process took from the caller's."""
    return sum(took[ours]) / sum(took[theirs])
