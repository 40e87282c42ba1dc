"""The program that measures the Langfuse SDK or MLflow tracing: `python tracer_program.py NAME FOLDER`.

It runs in an environment where only that library is, so it imports nothing of ours. It prints JSON: microseconds of
each call, and for each round those of CPU time that a call took of its thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

EVENTS_PER_ROUND = 1_000  # in one trace, as a run with its calls is
ROUNDS = 5
USAGE = {"input": 1420, "cache_read": 900, "output": 310}
FACTS = {
    "agent_id": "bench", "agent_version": "1", "run_id": "bench", "tenant_id": "acme", "producer_id": "bench-host",
    "workflow": "bench", "environment": "bench", "requestor": "assistant", "status": "ok", "attempt": 1,
}  # fmt: skip

Trace = Callable[[], contextlib.AbstractContextManager[Callable[[int], None]]]


def langfuse_trace(_: Path) -> Trace:
    """A generation with what our event says, through Langfuse's own batching to an exporter that does nothing."""
    from langfuse import Langfuse
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    exported = 0

    class NoExporter(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            nonlocal exported
            exported += len(spans)
            return SpanExportResult.SUCCESS

    os.environ["OTEL_BSP_MAX_QUEUE_SIZE"] = str(EVENTS_PER_ROUND * 2)  # none is dropped, as that would be cheaper
    client = Langfuse(public_key="pk", secret_key="sk", base_url="http://127.0.0.1:1", span_exporter=NoExporter())

    @contextlib.contextmanager
    def trace() -> Iterator[Callable[[int], None]]:
        with client.start_as_current_observation(name="run"):
            yield emit
        before = exported
        client.flush()
        if exported == before:
            raise SystemExit("Langfuse has exported nothing")

    def emit(number: int) -> None:
        client.start_observation(
            name="chat gpt-4.1", as_type="generation", model="gpt-4.1", usage_details=USAGE,
            metadata={**FACTS, "provider": "openai", "producer_seq": number, "step": number},
        ).end()  # fmt: skip

    return trace


def mlflow_trace(folder: Path) -> Trace:
    """A span of MLflow with what our event says, to MLflow's store of files."""
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    import mlflow  # type: ignore[import-not-found, unused-ignore]

    mlflow.set_tracking_uri(folder.as_uri())
    mlflow.set_experiment("bench")

    @contextlib.contextmanager
    def trace() -> Iterator[Callable[[int], None]]:
        with mlflow.start_span("run"):
            yield emit
        mlflow.flush_trace_async_logging()
        if not any(folder.rglob("traces/tr-*")):  # to fail at once would look cheap
            raise SystemExit("MLflow has kept no trace")

    def emit(number: int) -> None:
        attributes = {
            **FACTS,
            **USAGE,
            "model": "gpt-4.1",
            "provider": "openai",
            "producer_seq": number,
            "step": number,
        }
        with mlflow.start_span("chat gpt-4.1", span_type="LLM", attributes=attributes):
            pass

    return trace


def measured(trace: Trace) -> dict[str, list[float]]:
    """What each call took of the clock, and a call of the calling thread in each round; the first round warms up."""
    call_us: list[float] = []
    thread_us: list[float] = []
    for round_number in range(ROUNDS + 1):
        with trace() as emit:
            took, began_s = [], time.thread_time()
            for number in range(EVENTS_PER_ROUND):
                began = time.perf_counter_ns()
                emit(number)
                took.append((time.perf_counter_ns() - began) / 1000)
            spent_s = time.thread_time() - began_s
        if round_number:
            call_us += took
            thread_us.append(spent_s * 1e6 / EVENTS_PER_ROUND)
    return {"call_us": call_us, "thread_us": thread_us}


TRACES = {"langfuse": langfuse_trace, "mlflow": mlflow_trace}

if __name__ == "__main__":
    print(json.dumps(measured(TRACES[sys.argv[1]](Path(sys.argv[2])))))  # noqa: T201
