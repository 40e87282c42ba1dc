"""A secret in everything that nobody asked to keep is nowhere on disk: topics, tables, logs, outbox."""

from __future__ import annotations

import contextlib
import gc
import json
import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from confluent_kafka import Consumer, TopicPartition
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from agentledger.producers import Ledger
from agentledger.producers.otel.otlp import PROTOBUF
from tests.planted_agents import PLANTED, trace_to
from tests.running_stack import RunningStack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

AGENT = "planted"


def act(servers: str, outbox: Path, secret: str) -> None:
    """An agent of every integration, each with the secret wherever content, errors and others' texts go."""
    with Ledger(agent_id=AGENT, bootstrap_servers=servers, outbox=outbox) as ledger:
        for use in PLANTED.values():
            use(ledger, secret)
    gc.collect()  # what a framework left open is thrown away here


def tell(gateway_url: str, secret: str) -> None:
    """What the gateway takes: spans, and a decision, with the secret in what is not to be kept of them."""
    exporter = OTLPSpanExporter(f"{gateway_url}/v1/traces", headers={"x-key": secret, "cookie": secret})
    trace_to(SimpleSpanProcessor(exporter), secret)
    decision = {
        "decision_id": str(uuid.uuid4()), "timestamp": "2026-11-21T10:00:00Z", "path": "refunds/allow", "result": True,
        "input": {"run_id": "opa-planted", "prompt": secret, "nested": [{"card": secret}]}, "metrics": {"a": 1},
    }  # fmt: skip
    found = httpx2.post(f"{gateway_url}/v1/opa/logs", json=[decision], headers={"x-key": secret})
    assert found.status_code == 200


def knock(gateway_url: str, secret: str) -> None:
    """Requests to the gateway that carry the secret in headers, addresses, and bodies that it doesn't take."""
    headers = {"authorization": f"Bearer {secret}", "x-api-key": secret, "cookie": secret}
    fields = {"type": "PolicyDecided", "run_id": "r", "data": {"policy": "p", "nobody knows": secret}}
    cloud = {"specversion": "1.0", "type": "PolicyDecided", "source": "s", "id": "1", "data": {"prompt": secret}}
    bodies: list[tuple[str, bytes, str]] = [
        (f"/v1/events?key={secret}", json.dumps(fields).encode(), "application/json"),
        ("/v1/events", secret.encode(), "application/json"),
        ("/v1/events", json.dumps(cloud).encode(), "application/cloudevents+json"),
        ("/v1/traces", secret.encode(), PROTOBUF),
        ("/v1/opa/logs", json.dumps([{"labels": secret}]).encode(), "application/json"),
    ]
    for path, body, kind in bodies:
        for sent in (headers, {}):
            found = httpx2.post(gateway_url + path, content=body, headers={"content-type": kind, **sent})
            assert found.status_code == 207 or 400 <= found.status_code < 500
    assert httpx2.get(f"{gateway_url}/{secret}").status_code == 404


def records(servers: str) -> Iterator[bytes]:
    """Every record of every topic, inflated, with its key."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "search", "enable.auto.commit": False})
    with contextlib.closing(consumer):
        for name, topic in consumer.list_topics(timeout=20).topics.items():
            for number in topic.partitions:
                place = TopicPartition(name, number, 0)
                first, end = consumer.get_watermark_offsets(place, 20)
                consumer.assign([TopicPartition(name, number, first)])
                while first < end:
                    message = consumer.poll(5)
                    if message is None:  # what follows was compacted, or is a transaction's mark
                        break
                    if message.error() is None:
                        first = message.offset() + 1
                        yield (message.key() or b"") + (message.value() or b"") + repr(message.headers()).encode()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # LiteLLM leaves an event loop open
def test_what_nobody_asked_to_keep_is_nowhere_on_disk(stack: RunningStack, tmp_path: Path) -> None:
    secret = f"planted{secrets.token_hex(12)}"
    servers = stack.endpoints()["kafka_bootstrap_servers"]
    gateway_url = stack.exports()["AGENTLEDGER_GATEWAY_URL"]
    act(servers, tmp_path / "outbox", secret)
    tell(gateway_url, secret)
    knock(gateway_url, secret)
    told = """SELECT (SELECT count() FROM events WHERE agent_id = 'planted' AND event_type = 'RunFinished') AS ended,
        (SELECT count() FROM model_calls WHERE agent_id = 'planted' AND error_message LIKE '%sha256:%') AS failed,
        (SELECT count() FROM policy_decisions WHERE run_id = 'opa-planted') AS decided"""
    found = stack.settle(told, lambda row: row["ended"] > len(PLANTED) and row["decided"] == 1)
    assert found["ended"] > len(PLANTED)  # of each integration a run, and the spans' that came over HTTP
    assert found["failed"] >= 5  # what is said of an error: its class and status, size and digest
    assert found["decided"] == 1

    needle = secret.encode()
    kept = list(records(servers))
    assert sum(AGENT.encode() in record for record in kept) > 3 * len(PLANTED)  # the search finds what is there
    assert not any(needle in record for record in kept)
    for folder in (stack.data_dir, tmp_path):
        hits = [path for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]
        assert hits == []
    tables = stack.query("SELECT name FROM system.tables WHERE database = 'agentledger' AND engine LIKE '%MergeTree'")
    assert len(tables) >= 3
    halves = f"formatRow('RowBinary', *), '{secret[:12]}' || '{secret[12:]}'"  # so that a log of queries has it nowhere
    each = (f"SELECT count() AS n FROM {table['name']} WHERE position({halves}) > 0" for table in tables)
    assert stack.one(f"SELECT sum(n) AS n FROM ({' UNION ALL '.join(each)})") == {"n": 0}
