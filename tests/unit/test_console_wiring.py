"""What the console is wired to, and its command: wrong settings are told in a line, looks are never lost in silence."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from agentledger.infra.cli import main
from agentledger.infra.console_wiring import LookRecorder, try_rules
from agentledger.infra.settings import Settings
from agentledger.processors.rules.loading import RulesFileError
from agentledger.schemas.errors import BrokerError
from agentledger.sinks.console.ports import Look, TrialAsked
from agentledger.sinks.read_event import CountedReads
from tests.console_rig import NOW_US

NOBODY = "127.0.0.1:9"  # discard: nothing listens there


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything in a folder of its own, and nothing to reach."""
    monkeypatch.setenv("AGENTLEDGER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("AGENTLEDGER_CLICKHOUSE_URL", f"http://{NOBODY}")
    monkeypatch.setenv("AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS", NOBODY)


def look() -> Look:
    return Look({"command": "console runs"}, "acme", "console:ann", NOW_US, 1.0, CountedReads(None), "")  # type: ignore[arg-type]


def test_a_look_that_can_t_be_recorded_is_said_or_stops_the_page(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BrokerError):
        LookRecorder(Settings(reads_must_be_recorded=True), "reader").record(look())
    with caplog.at_level(logging.WARNING):
        LookRecorder(Settings(reads_must_be_recorded=False), "reader").record(look())
    assert "not recorded" in caplog.text


@pytest.mark.parametrize("rules", ["rules: [", "rules:\n- name: x\n  kind: none", "- 1"])
def test_wrong_rules_are_told_before_anything_is_read(rules: str) -> None:
    asked = TrialAsked("acme", rules, NOW_US - 1, NOW_US)
    with pytest.raises(RulesFileError):
        try_rules(Settings(), ("reader", ""), asked, lambda _: None)


OIDC = {"AGENTLEDGER_CONSOLE_OIDC_ISSUER": "https://id.example", "AGENTLEDGER_CONSOLE_OIDC_CLIENT_ID": "console",
        "AGENTLEDGER_CONSOLE_PUBLIC_URL": "https://ledger.example"}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "ClickHouse does not answer"),
        ({"AGENTLEDGER_CONSOLE_KEYS": "never"}, "console_keys"),
        ({"AGENTLEDGER_CONSOLE_PORT": "0"}, "console_port"),
        (OIDC, "needs a client id, roles and a tenant"),
        (OIDC | {"AGENTLEDGER_CONSOLE_OIDC_ROLES": '{"ops": ["root"]}'}, "a right that isn't one: 'root'"),
        (OIDC | {"AGENTLEDGER_CONSOLE_OIDC_ROLES": "ops"}, "console_oidc_roles"),
    ],
    ids=["no ledger", "keys", "port", "no roles", "no right", "no JSON"],
)
def test_a_console_that_can_t_run_says_why_in_a_line(
    environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main(["console"])
    assert ended.value.code not in (0, None)
    error: Any = capsys.readouterr().err
    assert said.lower() in error.lower()
    assert "Traceback" not in error
