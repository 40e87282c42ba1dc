"""Anomaly rules on a whole local stack: what goes wrong is raised once, and a trial on the history says the same."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from agentledger.schemas.events import Event
from agentledger.schemas.topics import EVENTS
from tests.run_logs import CODEC, T0_US, Author
from tests.running_stack import RunningStack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

OPEN = {("silent_failure", "silent"), ("event_conflict", "twice")}
OVER = {("tool_call_loop", "loop"), ("going_in_circles", "loop"), ("retry_storm", "storm")}


def runs() -> list[Event]:
    """Five runs: one that loops, one that retries, one that fails in silence, one with a conflict, one that is fine."""
    loop, storm, silent, twice, fine = (Author(name, seed=7) for name in ("loop", "storm", "silent", "twice", "fine"))
    call = twice.tool_call(status="ok")
    return [
        loop.start(),
        *(loop.tool_call(arguments_digest="sha256:1", result_digest="r") for _ in range(12)),
        loop.finish(),
        storm.start(),
        *(storm.tool_call(arguments_digest=f"sha256:{number}", status="error") for number in range(6)),
        storm.finish("failed"),
        silent.start(),
        silent.finish(),
        silent.outcome(False),
        twice.start(),
        call,
        dataclasses.replace(call, status="error"),
        twice.finish(),
        fine.start(),
        fine.model_call(),
        *(fine.tool_call(arguments_digest=f"sha256:{number}", result_digest="r") for number in range(12)),
        fine.finish(),
        fine.outcome(True),
    ]


def send(servers: str) -> None:
    now_us = time.time_ns() // 1000
    producer = Producer({"bootstrap.servers": servers})
    for event in runs():
        event.occurred_at += now_us - T0_US
        producer.produce(EVENTS.name, CODEC.encode(event), event.run_id.encode())
    assert producer.flush(30) == 0


def test_alerts_are_raised_once_and_a_trial_says_the_same(stack: RunningStack, tmp_path: Path) -> None:
    began = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - 5))
    send(stack.endpoints()["kafka_bootstrap_servers"])
    wanted = len(OPEN | OVER)
    sql = "SELECT count() AS found, countIf(status = 'resolved') AS over FROM alerts WHERE scope = 'run'"
    assert stack.settle(sql, lambda row: row["found"] >= wanted) == {"found": wanted, "over": len(OVER)}

    listed = json.loads(stack.cli("alerts", "list", "--all", "--format", "json").stdout)
    on_runs = {(row["rule"], row["scope_value"]): row for row in listed if row["scope"] == "run"}
    assert on_runs.keys() == OPEN | OVER
    assert {key for key, row in on_runs.items() if row["status"] == "open"} == OPEN
    assert on_runs["tool_call_loop", "loop"]["seen"] == 10  # raised at 4, told again at 10
    assert on_runs["event_conflict", "twice"]["severity"] == "critical"
    pages = json.loads(stack.cli("alerts", "list", "--severity", "critical", "--format", "json").stdout)
    assert {(row["rule"], row["scope_value"]) for row in pages} == {("event_conflict", "twice")}

    tried = stack.cli("alerts", "try", "--from", began, "--warm-up", "0s", "--json", check=False)
    assert tried.returncode == 1, tried.stderr
    found = {(one["rule"], one["scope_value"]) for one in json.loads(tried.stdout)["alerts"] if one["scope"] == "run"}
    assert found == OPEN | OVER

    patient = tmp_path / "patient.yaml"
    patient.write_text("rules:\n- {name: loop, kind: identical_tool_calls, calls: 13}\n")
    tried = stack.cli("alerts", "try", str(patient), "--from", began)
    assert "never" in tried.stdout
    assert tried.stdout.splitlines()[-1].startswith("0 alerts in ")
    assert not json.loads(stack.cli("query", "SELECT rule FROM alerts WHERE rule = 'loop'", "--format", "json").stdout)
