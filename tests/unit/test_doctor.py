"""What `agentledger doctor` makes of facts: nothing where all is sound, one line for each fault."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentledger.infra.cli.doctor import doctor
from agentledger.infra.doctor import (
    ClickHouseFacts,
    DiskFacts,
    Facts,
    Finding,
    GatewayFacts,
    NotifyFacts,
    TopicFacts,
    examine,
    worst_level,
)
from agentledger.infra.doctor_facts import file_modes
from agentledger.infra.doctor_notify import notify_facts
from agentledger.infra.settings import load_settings
from agentledger.infra.topic_admin import topic_settings
from agentledger.schemas.topics import ALL_TOPICS, EVENTS
from agentledger.sinks.notify.state import NotifyState
from tests.unit.test_notify_desk import desk_of

SERVER = ClickHouseFacts(
    version="26.9.1.1",
    clock_ahead_s=0.01,
    missing_tables=(),
    missing_roles=(),
    disks={"default of ClickHouse": DiskFacts(50, 100)},
    checkpoint_age_s=20.0,
)
SOUND = Facts(
    partitions=4,
    gateway=GatewayFacts(is_on_loopback=True, asks_for_keys=True, has_certificate=False, has_private_key=False),
    topics={topic.name: TopicFacts(4, topic_settings(topic)) for topic in ALL_TOPICS},
    clickhouse=SERVER,
    stage_lag_s={"writer": 0.5, "worker": 0.0},
    file_modes={"/keys/signer.key": 0o600},
    disks={"of /data": DiskFacts(50, 100)},
)


def bad(facts: Facts) -> list[Finding]:
    return [finding for finding in examine(facts) if finding.level != "ok"]


def with_topic(topic: TopicFacts) -> Facts:
    return replace(SOUND, topics={**(SOUND.topics or {}), EVENTS.name: topic})


def test_a_sound_installation_has_nothing_to_do() -> None:
    assert bad(SOUND) == []
    assert worst_level(examine(SOUND)) == "ok"
    assert all(not finding.next_step for finding in examine(SOUND))


@pytest.mark.parametrize(
    ("facts", "check", "level", "step"),
    [
        (replace(SOUND, failures={"Kafka": "no answer"}, topics=None), "Kafka", "fail", "bring Kafka back"),
        (with_topic(TopicFacts(8, topic_settings(EVENTS))), f"topic {EVENTS.name}", "fail", "KAFKA_PARTITIONS=8"),
        (
            with_topic(TopicFacts(4, {**topic_settings(EVENTS), "message.timestamp.type": "CreateTime"})),
            f"topic {EVENTS.name}", "fail", "LogAppendTime",
        ),
        (with_topic(TopicFacts(4, {**topic_settings(EVENTS), "retention.ms": "1"})), f"topic {EVENTS.name}", "warn",
         "604800000"),
        (replace(SOUND, notify=NotifyFacts(True, problem="n.yaml:3: is no YAML")), "notify", "fail", "notify check"),
        (replace(SOUND, notify=NotifyFacts(True, runs=False)), "notify", "fail", "notify run"),
        (replace(SOUND, notify=NotifyFacts(True)), "notify", "warn", "where it runs"),
        (replace(SOUND, notify=NotifyFacts(True, missing="env:K holds no secret", runs=True)), "notify", "warn", "env"),
        (replace(SOUND, notify=NotifyFacts(True, runs=True, given_up_lately=2)), "notify", "warn", "notify status"),
        (replace(SOUND, notify=NotifyFacts(True, runs=True, waiting_events=5000)), "notify", "warn", "the log"),
        (with_topic(TopicFacts(4, None)), "topics", "warn", "DescribeConfigs"),
        (replace(SOUND, clickhouse=replace(SERVER, version="23.3.1")), "ClickHouse", "warn", "upgrade"),
        (replace(SOUND, clickhouse=replace(SERVER, missing_tables=("a.b",))), "tables", "fail", "agentledger init"),
        (replace(SOUND, clickhouse=replace(SERVER, missing_roles=("r",))), "roles", "warn", "access apply"),
        (replace(SOUND, clickhouse=replace(SERVER, missing_roles=None)), "roles", "warn", "administrator"),
        (replace(SOUND, clickhouse=replace(SERVER, clock_ahead_s=-31.0)), "clock", "fail", "time server"),
        (replace(SOUND, clickhouse=replace(SERVER, checkpoint_age_s=None)), "checkpoint", "warn", "keys new"),
        (replace(SOUND, clickhouse=replace(SERVER, checkpoint_age_s=181.0)), "checkpoint", "warn", "signer's log"),
        (replace(SOUND, clickhouse=replace(SERVER, checkpoint_age_s=3601.0)), "checkpoint", "fail", "signer's log"),
        (replace(SOUND, stage_lag_s={"writer": 31.0}), "lag of writer", "warn", "agentledger writer runs"),
        (replace(SOUND, stage_lag_s={"writer": 301.0}), "lag of writer", "fail", "agentledger writer runs"),
        (replace(SOUND, file_modes={"/k": 0o640}), "file /k", "fail", "chmod go= /k"),
        (replace(SOUND, disks={"d": DiskFacts(10, 100)}), "disk d", "warn", "make room"),
        (replace(SOUND, disks={"d": DiskFacts(4, 100)}), "disk d", "fail", "make room"),
        (replace(SOUND, gateway=GatewayFacts(False, True, False, False)), "gateway", "warn", "TLS"),
        (replace(SOUND, gateway=GatewayFacts(True, True, True, False)), "gateway", "fail", "PRIVATE_KEY"),
    ],
)  # fmt: skip
def test_each_fault_is_one_line_with_its_next_step(facts: Facts, check: str, level: str, step: str) -> None:
    [finding] = bad(facts)
    assert (finding.check, finding.level) == (check, level)
    assert step in finding.next_step


def test_a_missing_topic_is_told_and_the_others_are_still_looked_at() -> None:
    [finding] = bad(replace(SOUND, topics={name: t for name, t in (SOUND.topics or {}).items() if name != EVENTS.name}))
    assert (finding.level, finding.next_step) == ("fail", "agentledger init creates it")


def test_files_that_are_not_there_are_no_fault(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(0o600)
    assert file_modes([key, tmp_path / "none"]) == {str(key): 0o600}


NOTIFY_FILE = """
channels:
  oncall: {kind: pagerduty, routing_key: env:PAGE_KEY}
routes: [{name: all, channels: [oncall]}]
"""


def test_what_is_known_of_notify_is_its_file_its_secrets_and_whether_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "n.yaml"
    settings = load_settings(data_dir=tmp_path, notify_file=path)
    assert notify_facts(load_settings(data_dir=tmp_path)) == NotifyFacts(has_file=False)
    assert "can't be read" in notify_facts(settings).problem
    path.write_text(NOTIFY_FILE)
    monkeypatch.delenv("PAGE_KEY", raising=False)
    assert "env:PAGE_KEY holds no secret" in notify_facts(settings).missing
    monkeypatch.setenv("PAGE_KEY", "k" * 32)
    assert notify_facts(settings) == NotifyFacts(has_file=True)
    state = NotifyState(settings.notify_state_path())
    now_us = time.time_ns() // 1000
    state.keep(desk_of(), given_up=[{"at_us": now_us}, {"at_us": now_us - 90_000_000_000}], said=[b"x"])
    assert notify_facts(settings) == NotifyFacts(True, runs=True, given_up_lately=1, waiting_events=1)
    state.close()
    assert notify_facts(settings).runs is False


def test_nothing_there_is_told_line_by_line_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: whoever connects is refused
        monkeypatch.setenv("AGENTLEDGER_DATA_DIR", str(tmp_path))
        monkeypatch.setenv("AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS", "")
        monkeypatch.setenv("AGENTLEDGER_CLICKHOUSE_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        done = CliRunner().invoke(doctor, ["--json"], standalone_mode=False)
    found = {finding["check"]: finding["level"] for finding in json.loads(done.stdout)}
    assert done.return_value == 1
    assert (found["Kafka"], found["ClickHouse"], found["gateway"]) == ("fail", "fail", "ok")
