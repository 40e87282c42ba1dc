"""Rules files: what is shipped is whole, and what is wrong is said with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from agentledger.infra.cli.alerts import alerts
from agentledger.processors.rules.loading import (
    FILE_BYTES_MAX,
    RulesFileError,
    default_rules,
    load_rules,
    parse_rules,
    rules_or_default,
)
from agentledger.processors.rules.models import RUN_KINDS, SCOPE_KINDS, StuckRun, rule_version
from agentledger.processors.scope_rules import watches_of
from tests.traces import ROOT


def parsed(text: str) -> object:
    return parse_rules(text.encode(), where="f.yaml")


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(RulesFileError) as caught:
        parsed(text)
    return caught.value.problems


def test_every_kind_is_shipped_switched_on_and_has_a_runbook() -> None:
    rules = default_rules()
    assert {rule.kind for rule in rules} == {*RUN_KINDS, *SCOPE_KINDS}
    assert all(rule.enabled for rule in rules)
    document = (ROOT / "infra" / "docs" / "ALERT_RULES.md").read_text("utf-8")
    for rule in rules:
        file, _, anchor = rule.runbook_url.partition("#")
        assert (file, anchor) == ("infra/docs/ALERT_RULES.md", rule.name)
        assert f"\n### {rule.name}\n" in document
    assert len(watches_of(rules)) == len([rule for rule in rules if rule.scope not in {"run", "stage"}])


def test_what_pages_is_few() -> None:
    assert {rule.name for rule in default_rules() if rule.severity == "critical"} == {
        "runaway_run",
        "unsafe_action",
        "write_without_decision",
        "event_conflict",
        "budget_burn_rate",
        "model_errors",
        "sequence_gap",
        "stage_lag",
    }


def test_durations_and_money_are_exact() -> None:
    [stuck, bill] = parse_rules(
        b"rules:\n- {name: a, kind: stuck_run, window: 90s}\n- {name: b, kind: cost_mismatch, floor_usd: 0.35}",
        where="f.yaml",
    )
    assert isinstance(stuck, StuckRun)
    assert stuck.window_us == 90_000_000
    assert bill.model_dump()["floor_nanousd"] == 350_000_000


def test_one_rule_by_itself_is_a_file_too() -> None:
    [rule] = parse_rules(b"{name: a, kind: stuck_run}", where="f.yaml")
    assert (rule.name, rule.severity, rule.resolve) == ("a", "warning", "condition_ends")


def test_a_runbook_link_may_begin_where_all_do() -> None:
    text = b"""
    runbooks: https://wiki.example.org/alerts
    rules:
    - {name: a, kind: stuck_run, runbook_url: "#stuck"}
    - {name: b, kind: stuck_run, runbook_url: "https://other.example.org/b"}
    - {name: c, kind: stuck_run}
    """
    assert [rule.runbook_url for rule in parse_rules(text, where="f.yaml")] == [
        "https://wiki.example.org/alerts#stuck",
        "https://other.example.org/b",
        "",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {name: a, kind: stuck_run, window: 10}", "f.yaml:2: rules[0].window: write a duration as a number"),
        ("- {name: a, kind: stuck_run, window: 10y}", "f.yaml:2: rules[0].window: '10y' is no duration"),
        ("- {name: a, kind: stuck}", "f.yaml:2: rules[0]: there is no kind 'stuck': use one of 'identical_tool_calls'"),
        ("- {name: a}", "f.yaml:2: rules[0]: it has no kind"),
        ("- {kind: stuck_run}", "f.yaml:2: rules[0].name: it is missing"),
        ("- {name: A b, kind: stuck_run}", "f.yaml:2: rules[0].name: string should match pattern"),
        ("- {name: a, kind: stuck_run, windw: 10m}", "f.yaml:2: rules[0].windw: there is no such key"),
        (
            "- {name: a, kind: stuck_run, severity: bad}",
            "f.yaml:2: rules[0].severity: input should be 'info', 'warning'",
        ),
        (
            "- {name: a, kind: repeated_work, repeats: 9, last: 5}",
            "f.yaml:2: rules[0]: repeats can't be more than last",
        ),
        ("- {name: a, kind: cost_mismatch, floor_usd: x}", "f.yaml:2: rules[0].floor_usd: 'x' is no amount of dollars"),
        ("- {name: a, kind: identical_tool_calls, consecutive: false, calls: 99}", "calls can be 12 at most"),
        ("- {name: a, kind: stuck_run}\n- {name: a, kind: stuck_run}", "two rules are called 'a'"),
        ("- {name: a, name: b, kind: stuck_run}", "f.yaml:2: rules[0].name: is said again on line 2"),
        ("- [", "f.yaml:2: is no YAML"),
        ("3", "rules: input should be a valid tuple"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, said: str) -> None:
    [problem] = problems(f"rules:\n{text}" if text != "3" else "rules: 3")
    assert said in problem


def test_all_that_is_wrong_is_said_at_once() -> None:
    assert (
        len(problems("rules:\n- {name: a, kind: x}\n- {name: b, kind: stuck_run, window: 1}\n- {kind: stuck_run}")) == 3
    )


def test_no_rules_no_file_and_too_much(tmp_path: Path) -> None:
    assert problems("") == ("f.yaml: rules: it is missing",)
    assert problems("- a") == ("f.yaml:1: holds a list, not keys with values",)
    assert "has more than" in problems(" " * (FILE_BYTES_MAX + 1))[0]
    with pytest.raises(RulesFileError, match="No such file"):
        load_rules(tmp_path / "none.yaml")
    assert rules_or_default(None) is default_rules()


def test_a_rule_that_is_changed_has_another_version() -> None:
    [one, same, other] = parse_rules(
        b"rules:\n- {name: a, kind: stuck_run, window: 15m}\n- {name: b, kind: stuck_run}\n"
        b"- {name: c, kind: stuck_run, window: 16m}",
        where="f.yaml",
    )
    versions = [rule_version(rule.model_copy(update={"name": "x"})) for rule in (one, same, other)]
    assert versions[0] == versions[1] != versions[2]


def test_check_says_what_a_file_holds_or_what_is_wrong(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.yaml", tmp_path / "wrong.yaml"
    right.write_text("rules:\n- {name: a, kind: stuck_run, enabled: false}\n- {name: b, kind: error_rate}\n")
    wrong.write_text("rules:\n- {name: a, kind: x}\n- {name: b, kind: stuck_run, window: 1}\n")
    done = CliRunner().invoke(alerts, ["check", str(right)])
    assert done.exit_code == 0
    assert done.output.endswith("2 rules: 1 on runs, 1 on all runs together, 1 off\n")
    done = CliRunner().invoke(alerts, ["check", str(wrong)])
    assert str(done.exception) == f"2 things wrong in {wrong}"
    assert [line.split()[0] for line in done.stderr.splitlines()] == [f"{wrong}:2:", f"{wrong}:3:"]


def test_the_shipped_file_is_printed_as_a_start() -> None:
    done = CliRunner().invoke(alerts, ["shipped"])
    assert parse_rules(done.output.encode(), where="printed") == default_rules()
