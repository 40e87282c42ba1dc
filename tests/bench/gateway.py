"""The gateway on one core: events a second, and how long a request takes, at 1, 16 and 256 connections."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.report import Figure, percentile

CONNECTIONS = (1, 16, 256)
SECONDS = 5.0
EVENTS_PER_REQUEST = 20  # what an agent's step or two come to
SERVER = """
import signal, sys, threading
from tests.gateway_server import GatewayServer, MockBroker
broker = MockBroker()
with GatewayServer(broker.servers) as gateway:
    print(gateway.port, gateway.key, flush=True)
    sys.stdin.read()
"""


def measure(folder: Path) -> list[Figure]:
    """Events a second and the 99th percentile of requests, in a process of its own before a broker in memory."""
    del folder
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    figures = []
    try:
        assert server.stdout is not None
        port, key = server.stdout.readline().split()
        for connections in CONNECTIONS:
            took, seconds = asyncio.run(load(int(port), key, connections))
            events_per_s = len(took) * EVENTS_PER_REQUEST / seconds
            figures += [
                Figure(f"gateway_events_per_s_{connections}", events_per_s, "events/s", ""),
                Figure(f"gateway_ms_p99_{connections}", percentile(took, 0.99) * 1000, "ms", ""),
            ]
    finally:
        server.communicate("")
    return figures


async def load(port: int, key: str, connections: int) -> tuple[list[float], float]:
    """Seconds of each request, and how long all of it took."""
    end = time.perf_counter() + SECONDS
    began = time.perf_counter()
    took = await asyncio.gather(*(send(port, key, number, end) for number in range(connections)))
    return [seconds for one in took for seconds in one], time.perf_counter() - began


async def send(port: int, key: str, number: int, end: float) -> list[float]:
    """Seconds of each request of one connection, one after another."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took = []
    while time.perf_counter() < end:
        body = json.dumps([event(number, len(took), step) for step in range(EVENTS_PER_REQUEST)]).encode()
        began = time.perf_counter()
        writer.write(head(key, len(body)) + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        length = int(answer.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        took.append(time.perf_counter() - began)
    writer.close()
    return took


def event(connection: int, request: int, step: int) -> dict[str, object]:
    """A model call as a client tells it."""
    return {
        "type": "ModelCallCompleted", "run_id": f"run-{connection}", "step": request * EVENTS_PER_REQUEST + step,
        "occurred_at": time.time_ns() // 1000, "agent_id": "bench", "workflow": "bench", "provider": "openai",
        "requested_model": "gpt-4.1", "status": "ok", "input_tokens": 1420, "output_tokens": 310, "latency_ms": 812.5,
    }  # fmt: skip


def head(key: str, length: int) -> bytes:
    """The head of a request."""
    lines = ("POST /v1/events HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json",
             f"Authorization: Bearer {key}", f"Content-Length: {length}", "", "")  # fmt: skip
    return "\r\n".join(lines).encode()
