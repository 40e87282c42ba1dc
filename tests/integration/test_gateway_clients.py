"""What stands in GATEWAY.md, run as it stands there: curl, the TypeScript client, and keys made on the command line."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fastavro
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient

from agentledger.producers.gateway import GatewayLimits
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.events import ModelCallCompleted, PolicyDecided
from agentledger.schemas.topics import EVENTS
from tests.gateway_server import GatewayServer, MockBroker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
ROOT = Path(__file__).parents[2]
TYPESCRIPT = "typescript@5.9.3"
SHELL_BLOCK = re.compile(r"<!-- tested: gateway-curl -->\n```sh\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def broker() -> MockBroker:
    return MockBroker()


@pytest.fixture
def gateway(broker: MockBroker) -> Iterator[GatewayServer]:
    with GatewayServer(broker.servers, local_tenant_id="default", limits=GatewayLimits()) as running:
        yield running


def test_the_curl_lines_of_the_page_work(broker: MockBroker, gateway: GatewayServer) -> None:
    blocks = SHELL_BLOCK.findall((ROOT / "infra/docs/GATEWAY.md").read_text("utf-8"))
    assert len(blocks) == 3
    env = {**os.environ, "AGENTLEDGER_GATEWAY_URL": gateway.url}
    for block in blocks:
        done = subprocess.run(["bash", "-c", block], env=env, capture_output=True, text=True, check=True, timeout=30)
        assert json.loads(done.stdout)["accepted"] == 1
    codec = Codec(open_registry())
    call, authzen, cedar = (codec.decode(value) for value in broker.values(3))
    assert isinstance(call, ModelCallCompleted)
    assert (call.run_id, call.input_tokens, call.tenant_id) == ("curl-1", 1420, "default")
    assert isinstance(authzen, PolicyDecided)
    assert isinstance(cedar, PolicyDecided)
    assert [authzen.verdict, cedar.verdict, cedar.rule] == ["deny", "allow", "policy0,policy3"]


def test_the_typescript_client_works(gateway: GatewayServer, tmp_path: Path) -> None:
    source = ROOT / "tests/golden/gateway"
    tsc = ["npx", "--yes", "-p", TYPESCRIPT, "tsc", "--strict", "--target", "es2022", "--lib", "es2022,dom"]
    tsc += ["--module", "nodenext", "--moduleResolution", "nodenext", "--outDir", str(tmp_path)]
    built = subprocess.run(
        [*tsc, str(source / "example.mts")], capture_output=True, text=True, check=False, timeout=150, cwd=tmp_path
    )
    assert built.returncode == 0, built.stdout + built.stderr
    command = ["node", str(tmp_path / "example.mjs"), gateway.url, gateway.key]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    results = json.loads(ran.stdout)
    assert [result["status"] for result in results] == ["accepted", "accepted", "rejected"]
    assert (results[2]["reason"], results[2]["path"]) == ("unknown_field", "/verdit")


def cli(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `agentledger ARGUMENTS` with keys in this folder."""
    command = [sys.executable, "-m", "agentledger.infra.cli", *arguments]
    named = {**os.environ, "AGENTLEDGER_DATA_DIR": str(folder), **env}
    return subprocess.run(command, env=named, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_keys_are_made_listed_rotated_and_revoked(tmp_path: Path) -> None:
    made = cli(tmp_path, "api-keys", "new", "billing-bot", "--tenant", "acme", "--expires", "90d")
    assert (made.returncode, made.stdout.count("\n"), made.stdout[:4]) == (0, 1, "alk_")
    key_id, secret = made.stdout.split("_", 2)[1:]
    assert secret.strip() not in (tmp_path / "api_keys.json").read_text()
    again = cli(tmp_path, "api-keys", "new", "billing-bot", "--tenant", "acme")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "agentledger api-keys rotate" in again.stderr
    rotated = cli(tmp_path, "api-keys", "rotate", key_id, "--overlap", "1d")
    assert rotated.stdout[:4] == "alk_"
    assert cli(tmp_path, "api-keys", "revoke", key_id).returncode == 0
    listed = cli(tmp_path, "api-keys", "list").stdout
    assert "revoked" in listed
    assert "active" in listed
    assert cli(tmp_path, "api-keys", "revoke", "0" * 12).returncode == 2


def test_an_open_gateway_without_keys_does_not_start(tmp_path: Path) -> None:
    kafka = {"AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    refused = cli(tmp_path, "gateway", "--host", "0.0.0.0", **kafka)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "there is none: make one: agentledger api-keys new" in refused.stderr


def test_kcat_and_a_registry_client_read_our_topic(broker: MockBroker, gateway: GatewayServer) -> None:
    """Debian's kcat has no registry support: it shows what is on the topic, and the gateway says how to read it."""
    event = {"type": "RunStarted", "run_id": "kcat-1", "occurred_at": "2026-11-21T10:00:00Z", "task": "refund"}
    with urllib.request.urlopen(
        urllib.request.Request(
            f"{gateway.url}/v1/events", json.dumps(event).encode(), {"content-type": "application/json"}
        )
    ) as answer:
        assert json.load(answer)["accepted"] == 1
    kcat = ["kcat", "-C", "-b", broker.servers, "-t", EVENTS.name, "-e", "-q", "-u"]
    rest, values = subprocess.run([*kcat, "-f", "%k %S %s"], capture_output=True, check=True, timeout=60).stdout, {}
    while rest:
        key, size, rest = rest.split(b" ", 2)
        values[key], rest = rest[: int(size)], rest[int(size) :]
    value = values[b"kcat-1"]
    with SchemaRegistryClient({"url": gateway.url}) as registry:
        schema = registry.get_schema(int.from_bytes(value[1:5], "big"))
    assert schema.schema_str is not None
    found = fastavro.schemaless_reader(io.BytesIO(value[5:]), fastavro.parse_schema(json.loads(schema.schema_str)))
    assert isinstance(found, dict)
    assert (found["run_id"], found["task"], found["tenant_id"]) == ("kcat-1", "refund", "default")
