"""`agentledger notify check | test | status` as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentledger.infra.cli import main
from agentledger.sinks.notify.incidents import Outcome
from agentledger.sinks.notify.state import NotifyState
from tests.page_receiver import Answer, page_receiver
from tests.unit.test_notify_desk import T0, desk_of, due, raised

FILE = """
channels:
  oncall: {kind: pagerduty, routing_key: env:PAGE_KEY, url: "URL", allow_private: true}
routes:
- {name: all, channels: [oncall]}
"""


def run(*arguments: str) -> int:
    """The exit code of `agentledger notify ARGUMENTS`."""
    with pytest.raises(SystemExit) as ended:
        main(["notify", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything in a folder of its own."""
    monkeypatch.setenv("AGENTLEDGER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("AGENTLEDGER_NOTIFY_FILE", str(tmp_path / "n.yaml"))
    monkeypatch.setenv("PAGE_KEY", "k" * 32)


def test_check_says_what_is_wrong_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "n.yaml"
    path.write_text(FILE.replace("URL", "https://events.example"))
    assert run("check", str(path)) == 0
    assert capsys.readouterr().out == f"{path}: 1 channels, 1 routes\n"
    path.write_text(FILE.replace("URL", "ftp://x").replace("[oncall]", "[]\n  colour: red"))
    assert run("check", str(path)) == 2
    assert len(capsys.readouterr().out.splitlines()) >= 1
    assert run("check", str(tmp_path / "none.yaml")) == 2


def test_test_sends_a_page_and_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with page_receiver() as receiver:
        (tmp_path / "n.yaml").write_text(FILE.replace("URL", receiver.url))
        assert run("test", "oncall") == 0
        assert [got.json["event_action"] for got in receiver.got] == ["trigger", "resolve"]
        assert run("test", "nobody") == 2
    assert capsys.readouterr().out.splitlines()[0] == "oncall trigger: sent (HTTP 202)"
    with page_receiver(Answer(400)) as receiver:
        (tmp_path / "n.yaml").write_text(FILE.replace("URL", receiver.url))
        assert run("test", "oncall") == 1


def test_status_lists_what_was_given_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status") == 2
    assert "start agentledger notify run first" in capsys.readouterr().err
    desk = desk_of({"name": "r", "channels": ["oncall"]})
    desk.take(raised("a"), T0)
    [delivery] = due(desk, T0)
    assert desk.settle(delivery, Outcome("refused", 400), T0, 0.5) == "given_up"
    state = NotifyState(tmp_path / "notify" / "notify.sqlite")
    lost = {"at_us": T0, "channel": "oncall", "action": "trigger", "rule": "loop", "fault": "refused"}
    state.keep(desk, given_up=[lost])
    state.close()
    assert run("status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "oncall: given_up, loop of acme, 1 alerts",
        "given up 2026-09-21 14:13:20 UTC: oncall trigger, loop: refused",
        "1 pages, 1 given up, 0 events wait for Kafka",
    ]
    assert run("status", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["given_up"] == [lost]
