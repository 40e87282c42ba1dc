"""From emit of the offending event to the page at its channel, on a whole local stack: `page_ms_p50`, `page_ms_p99`."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from confluent_kafka import Producer

from agentledger.schemas.topics import EVENTS
from tests.bench.report import Figure, percentile
from tests.page_receiver import Answer, Got, page_receiver
from tests.run_logs import CODEC, T0_US, Author
from tests.running_stack import RunningStack

PAGES = 100
PAUSE_S = 0.1
ARRIVE_S_MAX = 60.0
CALLS = 4  # the same call so often is a loop, by the shipped rules
NOTIFY_FILE = """
channels:
  hook: {{kind: pagerduty, routing_key: env:BENCH_KEY, url: "{url}/", allow_private: true, pages_per_minute_max: 600}}
routes:
- {{name: loops, match: {{rule: [tool_call_loop]}}, group_by: [run], channels: [hook]}}
- {{name: rest, channels: []}}
"""


def measure(folder: Path) -> list[Figure]:
    """Loops in runs of their own, one after another: each pages by itself."""
    arrived: dict[str, float] = {}
    lock = threading.Lock()

    def note(got: Got) -> Answer:
        run_id = str(got.json.get("payload", {}).get("custom_details", {}).get("run", ""))
        with lock:
            arrived.setdefault(run_id, time.monotonic())
        return Answer(202)

    with page_receiver(choose=note) as receiver:
        path = folder / "notify.yaml"
        path.write_text(NOTIFY_FILE.format(url=receiver.url), "utf-8")
        os.environ.update({"BENCH_KEY": "0" * 32, "AGENTLEDGER_NOTIFY_FILE": str(path)})
        try:
            with RunningStack(folder / "stack") as stack:
                sent = send_loops(stack.endpoints()["kafka_bootstrap_servers"])
                deadline = time.monotonic() + ARRIVE_S_MAX
                while len(arrived.keys() & sent.keys()) < len(sent) and time.monotonic() < deadline:
                    time.sleep(0.1)
        finally:
            del os.environ["BENCH_KEY"], os.environ["AGENTLEDGER_NOTIFY_FILE"]
    if sent.keys() - arrived.keys():
        raise RuntimeError(f"{len(sent.keys() - arrived.keys())} of {len(sent)} pages did not arrive")
    took_ms = [1000 * (arrived[run_id] - at) for run_id, at in sent.items()]
    return [
        Figure("page_ms_p50", percentile(took_ms, 0.50), "ms"),
        Figure("page_ms_p99", percentile(took_ms, 0.99), "ms"),
    ]


def send_loops(servers: str) -> dict[str, float]:
    """When the call that makes each run's loop was sent, by run."""
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 0})
    sent: dict[str, float] = {}
    for number in range(PAGES):
        author = Author(f"loop-{number}", seed=number)
        calls = [author.tool_call(arguments_digest="sha256:1", result_digest="r") for _ in range(CALLS)]
        now_us = time.time_ns() // 1000
        for event in (author.start(), *calls):
            event.occurred_at += now_us - T0_US
            sent[event.run_id] = time.monotonic()
            producer.produce(EVENTS.name, CODEC.encode(event), event.run_id.encode())
        producer.flush(10)
        time.sleep(PAUSE_S)
    return sent
