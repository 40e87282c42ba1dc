"""The programs against the servers of `infra/compose.yaml`, in containers. Needs a container engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import clickhouse_connect
import pytest

from agentledger.producers import Ledger
from tests.running_stack import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Kafka and ClickHouse in containers, as settings of our programs. Skips where no engine answers."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no container engine answers")
    from testcontainers.community.clickhouse import ClickHouseContainer
    from testcontainers.community.kafka import KafkaContainer

    with (
        KafkaContainer("confluentinc/cp-kafka:8.1.0").with_kraft() as kafka,
        ClickHouseContainer("clickhouse/clickhouse-server:26.3", username="u", password="p") as clickhouse,
    ):
        yield {
            **os.environ,
            "AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS": kafka.get_bootstrap_server(),
            "AGENTLEDGER_CLICKHOUSE_URL": f"http://{clickhouse.get_container_host_ip()}:{clickhouse.get_exposed_port(8123)}",
            "AGENTLEDGER_CLICKHOUSE_USER": "u",
            "AGENTLEDGER_CLICKHOUSE_PASSWORD": "p",
        }


def test_a_run_goes_through_programs_that_run_alone(environment: dict[str, str], tmp_path: Path) -> None:
    environment["AGENTLEDGER_DATA_DIR"] = str(tmp_path)
    command = [sys.executable, "-m", "agentledger.infra.cli"]
    subprocess.run([*command, "init"], env=environment, cwd=ROOT, check=True)
    programs = [
        subprocess.Popen([*command, name], env=environment, cwd=ROOT) for name in ("writer", "packer", "worker")
    ]
    try:
        servers = environment["AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS"]
        with Ledger(agent_id="a", bootstrap_servers=servers) as ledger, ledger.run(workflow="w", run_id="r") as run:
            run.record_model_call(model="gpt-4.1", provider="openai", status="ok", input_tokens=1000, output_tokens=0)
        client = clickhouse_connect.get_client(
            dsn=environment["AGENTLEDGER_CLICKHOUSE_URL"], username="u", password="p"
        )
        cost = None
        for _ in range(120):
            rows = client.query("SELECT cost_nanousd FROM agentledger.runs WHERE run_id = 'r'").result_rows
            cost = rows[0][0] if rows else None
            if cost is not None:
                break
            time.sleep(0.5)
        assert cost == 2_000_000
    finally:
        for program in programs:
            program.terminate()
        for program in programs:
            program.wait(30)
