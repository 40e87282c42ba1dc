"""`agentledger halt`, `resume` and `control list` as far as they need no broker."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentledger.infra.cli import cli
from agentledger.infra.control_commands import control_event, halt_locally
from agentledger.producers.halt_file import HaltFile
from agentledger.producers.halts import Command, command_of
from agentledger.schemas.errors import AgentledgerError, BrokerError, ConfigurationError, UsageError


@pytest.fixture
def halt_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HaltFile:
    monkeypatch.setenv("AGENTLEDGER_HALT_FILE", str(tmp_path / "halt.json"))
    monkeypatch.setenv("AGENTLEDGER_TENANT_ID", "acme")
    monkeypatch.setenv("AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    return HaltFile(tmp_path / "halt.json")


def said(*arguments: str) -> str:
    done = CliRunner().invoke(cli, arguments)
    if isinstance(done.exception, AgentledgerError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_local_halt_is_listed_and_lifted(halt_file: HaltFile) -> None:
    assert said("control", "list", "--local") == "nothing is halted\n"
    said("halt", "--local", "--agent", "bot", "--reason", " too wild ", "--by", "maria", "--expires", "2h")
    said("halt", "--local", "--reason", "everything")
    said("halt", "--local", "--agent", "old", "--reason", "x", "--expires", "1w")
    assert said("resume", "--local", "--agent", "old").startswith("1 halt lifted")
    bot, everything = json.loads(said("control", "list", "--local", "--json"))
    assert (bot["tenant_id"], bot["scope"], bot["scope_value"]) == ("*", "agent", "bot")
    assert (bot["reason"], bot["issued_by"]) == ("too wild", "maria")
    assert bot["expires_at"] - bot["issued_at"] == 7_200_000_000
    assert (everything["scope"], everything["expires_at"]) == ("host", None)
    table = said("control", "list", "--local")
    assert "maria" in table
    assert "everything" in table
    assert said("resume", "--local", "--agent", "other").startswith("0 halts lifted")
    assert said("resume", "--local", "--agent", "bot").startswith("1 halt lifted")
    assert [halt.scope for halt in halt_file.read()] == ["host"]
    assert said("resume", "--local").startswith("1 halt lifted")
    assert not halt_file.path.exists()


def test_the_same_halt_again_takes_the_place_of_the_first(halt_file: HaltFile) -> None:
    for reason in ("one", "two"):
        said("halt", "--local", "--run", "r", "--reason", reason)
    assert [halt.reason for halt in halt_file.read()] == ["two"]


@pytest.mark.parametrize(
    ("option", "name", "scope", "value"),
    [
        ("--team", "red", "team", "red"),
        ("--user", "ann", "user", "ann"),
        ("--label", "region=eu=west", "label:region", "eu=west"),
        ("--workflow", "refunds", "workflow", "refunds"),
    ],
)
def test_each_scope_of_budgets_can_be_halted(
    halt_file: HaltFile, option: str, name: str, scope: str, value: str
) -> None:
    said("halt", "--local", option, name, "--reason", "x")
    [halt] = halt_file.read()
    assert halt.subject == ("*", scope, value)
    event = control_event(halt)
    assert command_of(event) is not None
    assert event.labels == ({"region": value} if ":" in scope else {"team": value} if scope == "team" else {})
    assert said("resume", "--local", option, name).startswith("1 halt lifted")


def test_a_halt_that_has_lapsed_is_not_listed(halt_file: HaltFile) -> None:
    now_us = time.time_ns() // 1000
    halt_file.write([Command("halt", "*", "agent", "bot", "x", "maria", now_us - 2, now_us - 1)])
    assert said("control", "list", "--local") == "nothing is halted\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["halt", "--agent", "bot"],
        ["halt", "--agent", "bot", "--reason", "  "],
        ["halt", "--reason", "x"],
        ["halt", "--agent", "a", "--run", "r", "--reason", "x"],
        ["halt", "--agent", "a\x00b", "--reason", "x"],
        ["halt", "--agent", "a" * 1025, "--reason", "x"],
        ["halt", "--agent", "a", "--reason", "x", "--expires", "soon"],
        ["halt", "--agent", "a", "--reason", "x", "--expires", "0s"],
        ["halt", "--label", "region", "--reason", "x"],
        ["halt", "--label", "=eu", "--reason", "x"],
        ["halt", "--label", "region=", "--reason", "x"],
        ["halt", "--team", "red", "--user", "ann", "--reason", "x"],
        ["resume"],
    ],
)
@pytest.mark.usefixtures("halt_file")
def test_what_is_not_clear_is_refused(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        said(*arguments)


@pytest.mark.usefixtures("halt_file")
def test_without_a_broker_listing_says_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentledger.infra.control_commands.METADATA_S", 0.2)
    with pytest.raises(BrokerError, match="halt --local works without it"):
        said("control", "list")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="AGENTLEDGER_HALT_FILE"):
        halt_locally(tmp_path / "file" / "halt.json", Command("halt", "*", "host", "*"))


def test_halts_written_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "halt.json"
    threads = [
        threading.Thread(target=halt_locally, args=(path, Command("halt", "*", "run", f"r{number}")))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {halt.scope_value for halt in HaltFile(path).read()} == {f"r{number}" for number in range(8)}
