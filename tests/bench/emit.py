"""What recording costs the agent's own thread: the SDK, without and with an outbox, against what else one could do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Producer

from agentledger.producers import Ledger, OutboxSettings
from agentledger.producers.runs import Run
from tests.bench.emit_others import Emit, bare_loop, otel_span
from tests.bench.emit_tracers import tracer_figures
from tests.bench.emit_waiting import waiting_rss_mb
from tests.bench.report import Figure, percentile

EVENTS_PER_ROUND = 10_000
ROUNDS = 5  # in turn, so that all see the same machine


def measure(folder: Path) -> list[Figure]:
    """What recording a model call costs, against the same broker in memory.

    Microseconds are of the clock. Ratios are of CPU time, which other programs hardly change: of the caller's thread,
    and for the outbox also of the whole process until the broker has everything.
    """
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
    ours, outbox, bare, span = (took[name] for name in ("emit", "emit_outbox", "bare", "otel_span"))
    our_thread_us = min(ours.thread_s) * 1e6 / EVENTS_PER_ROUND
    return [
        Figure("emit_us_p50", percentile(ours.call_us, 0.50), "us"),
        Figure("emit_us_p99", percentile(ours.call_us, 0.99), "us"),
        Figure("emit_outbox_us_p50", percentile(outbox.call_us, 0.50), "us"),
        Figure("emit_outbox_us_p99", percentile(outbox.call_us, 0.99), "us"),
        Figure("emit_vs_bare", min(ours.thread_s) / min(bare.thread_s), "ratio", "at most 0.6"),
        Figure("emit_outbox_vs_bare", min(outbox.thread_s) / min(bare.thread_s), "ratio", "at most 1.2"),
        Figure("emit_outbox_process_vs_bare", min(outbox.process_s) / min(bare.process_s), "ratio"),
        Figure("emit_vs_otel_span", min(ours.thread_s) / min(span.thread_s), "ratio", "at most 0.25"),
        Figure("emit_outbox_vs_otel_span", min(outbox.thread_s) / min(span.thread_s), "ratio"),
        *tracer_figures("langfuse", folder / "langfuse", our_thread_us),
        *tracer_figures("mlflow", folder / "mlflow", our_thread_us),
        Figure("waiting_rss_mb", waiting_rss_mb(folder / "waiting"), "MB"),
    ]


@dataclass
class Took:
    """What one subject took: each call, and each round's CPU time (the least of them was disturbed least)."""

    call_us: list[float] = field(default_factory=list)
    thread_s: list[float] = field(default_factory=list)
    process_s: list[float] = field(default_factory=list)


def recording(run: Run) -> Emit:
    """Record one model call in this run."""

    def emit(_: int) -> None:
        run.record_model_call(
            model="gpt-4.1", provider="openai", status="ok", input_tokens=1420, cache_read_tokens=900, output_tokens=310
        )

    return emit


def in_turn(subjects: dict[str, tuple[Emit, Callable[[], object]]]) -> dict[str, Took]:
    """What each subject took, round by round."""
    took = {name: Took() for name in subjects}
    for round_number in range(ROUNDS + 1):
        for name, (emit, flush) in subjects.items():
            thread_s, process_s = time.thread_time(), time.process_time()
            call_us = timed(emit)
            thread_s = time.thread_time() - thread_s
            flush()
            process_s = time.process_time() - process_s
            if round_number:  # the first round warms up
                took[name].call_us += call_us
                took[name].thread_s.append(thread_s)
                took[name].process_s.append(process_s)
    return took


def timed(emit: Emit) -> list[float]:
    """Microseconds of each of EVENTS_PER_ROUND calls."""
    took = []
    for number in range(EVENTS_PER_ROUND):
        began = time.perf_counter_ns()
        emit(number)
        took.append((time.perf_counter_ns() - began) / 1000)
    return took
