"""A secret in everything that nobody asked to keep is nowhere on disk: topics, tables, logs, outbox."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest
from confluent_kafka import Consumer, TopicPartition

from agentledger.producers import Ledger
from agentledger.producers.integrations.openai import instrument
from agentledger.producers.otel.otlp import PROTOBUF
from tests.running_stack import RunningStack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

RUN = "has-a-secret"


def act(ledger: Ledger, secret: str) -> None:
    """A run with the secret wherever content, errors and others' texts go."""

    def refuse(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(400, json={"error": {"message": f"bad prompt: {secret}", "code": "invalid"}})

    http = httpx2.Client(transport=httpx2.MockTransport(refuse))
    client = instrument(openai.OpenAI(api_key=secret, http_client=http), ledger)
    with contextlib.suppress(ValueError), ledger.run("w", run_id=RUN) as run:
        with run.model_call(model="m", input=[{"role": "user", "content": secret}]) as model:
            model.output(secret)
        with contextlib.suppress(RuntimeError), run.tool_call("t", arguments={"a": [secret]}) as tool:
            tool.result({"x": secret})
            raise RuntimeError(f"no: {secret}")
        run.policy_decision(policy="p", verdict="deny", input={"q": secret})
        run.approval_requested(approval_id="1", action="a", change={"to": secret})
        run.evidence(source="s", query=secret)
        run.state_changed(resource="r", before={"v": secret}, after=secret)
        with contextlib.suppress(openai.BadRequestError):
            client.chat.completions.create(
                model="gpt-4.1", messages=[{"role": "user", "content": secret}], user=secret, metadata={"m": secret},
                extra_headers={"x-key": secret},
            )  # fmt: skip
        raise ValueError(secret)


def knock(gateway_url: str, secret: str) -> None:
    """Requests to the gateway that carry the secret in headers, addresses, and bodies that it doesn't take."""
    headers = {"authorization": f"Bearer {secret}", "x-api-key": secret, "cookie": secret}
    fields = {"type": "PolicyDecided", "run_id": RUN, "data": {"policy": "p", "nobody knows": secret}}
    bodies: list[tuple[str, bytes, str]] = [
        (f"/v1/events?key={secret}", json.dumps(fields).encode(), "application/json"),
        ("/v1/events", secret.encode(), "application/json"),
        ("/v1/traces", secret.encode(), PROTOBUF),
        ("/v1/opa/logs", json.dumps([{"labels": secret}]).encode(), "application/json"),
    ]
    for path, body, kind in bodies:
        for sent in (headers, {}):
            found = httpx2.post(gateway_url + path, content=body, headers={"content-type": kind, **sent})
            assert 400 <= found.status_code < 500
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


def test_what_nobody_asked_to_keep_is_nowhere_on_disk(stack: RunningStack, tmp_path: Path) -> None:
    secret = f"planted{secrets.token_hex(12)}"
    servers = stack.endpoints()["kafka_bootstrap_servers"]
    outbox = tmp_path / "outbox"
    with Ledger(agent_id="a", bootstrap_servers=servers, outbox=outbox) as ledger:
        act(ledger, secret)
    knock(stack.exports()["AGENTLEDGER_GATEWAY_URL"], secret)
    facts = f"SELECT count() AS facts FROM events WHERE run_id = '{RUN}'"
    assert stack.settle(facts, lambda row: row["facts"] >= 10)["facts"] >= 10
    calls = f"SELECT status, error_message FROM model_calls WHERE run_id = '{RUN}' AND status = 'error'"
    assert "400" in stack.one(calls)["error_message"]  # what is said of it: class, status, size and digest

    needle = secret.encode()
    found = list(records(servers))
    assert any(RUN.encode() in record for record in found)  # the search finds what is there
    assert not any(needle in record for record in found)
    for folder in (stack.data_dir, tmp_path):
        hits = [path for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]
        assert hits == []
    tables = stack.query("SELECT name FROM system.tables WHERE database = 'agentledger' AND engine LIKE '%MergeTree'")
    assert len(tables) >= 3
    for table in tables:
        rows = f"SELECT count() AS n FROM {table['name']} WHERE position(formatRow('RowBinary', *), '{secret[:12]}' || "
        assert stack.one(rows + f"'{secret[12:]}') > 0") == {"n": 0}
