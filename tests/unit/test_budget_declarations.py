"""Budgets from YAML: what is read, what is refused and where, and what has to be declared anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from agentledger.infra.cli.budgets import budgets
from agentledger.processors.budget_declarations import Change, Limit, changes_of, limit_of, limits_of, newest
from agentledger.processors.budget_file import SHAPE, BudgetFileError, parse_budgets
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.events import BudgetDeclared
from tests.hold_logs import T0_US, HoldLog, of

SHORT = """
agent:
  max_wall_clock_seconds: 90
  max_tool_calls: 8
  max_model_spend_usd: 0.35
  escalation:
    on_budget_exceeded: "handoff_to_human"
    on_tool_error_retries_exhausted: "handoff_to_human"
"""


def read(text: str, tenant_id: str = "acme") -> list[Limit]:
    return limits_of(parse_budgets(text.encode(), where="b.yaml"), tenant_id)


def problems(text: str) -> list[str]:
    with pytest.raises(BudgetFileError) as caught:
        read(text)
    return list(caught.value.problems)


def changes(text: str, known: list[BudgetDeclared], *, now_us: int = T0_US, prune: bool = False) -> list[Change]:
    return changes_of(
        read(text), newest(known), tenant_id="acme", now_us=now_us, declared_by="me", producer_id="p", prune=prune
    )


def events(found: list[Change]) -> list[BudgetDeclared]:
    return [change.event for change in found if change.event is not None]


def test_the_shape_is_read_and_inherits_down_the_tree() -> None:
    limits = {limit.key: limit for limit in read(SHAPE)}
    red = limits["acme-red", "cost_nanousd"]
    assert (red.limit_amount, red.scope, red.scope_value) == (200 * 10**9, "team", "red")
    assert (red.window, red.time_zone, red.on_exceeded) == ("month", "Europe/Zurich", "halt")
    assert (red.enforcement, red.when_unreachable) == ("hold", "refuse")
    runs = limits["acme-runs", "wall_clock_ms"]
    assert (runs.limit_amount, runs.window, runs.time_zone, runs.on_exceeded) == (90_000, "run", "", "escalate")
    assert limits["acme", "cost_nanousd"].scope_value == "acme"
    assert limits["acme", "cost_nanousd"].thresholds_percent == ("50", "80", "100")


def test_the_short_form_is_a_budget_of_each_run() -> None:
    file = parse_budgets(SHORT.encode(), where="b.yaml")
    limits = limits_of(file, "acme")
    assert {limit.metric: limit.limit_amount for limit in limits} == {
        "cost_nanousd": 350_000_000,
        "tool_calls": 8,
        "wall_clock_ms": 90_000,
        "tool_retries": 2,
    }
    assert {limit.budget_id for limit in limits if limit.metric == "tool_retries"} == {"agent-retries"}
    assert {(limit.scope, limit.window, limit.on_exceeded, limit.enforcement) for limit in limits} == {
        ("agent", "run", "escalate", "hold")
    }
    assert [notice.split(": ")[0] for notice in file.notices] == ["b.yaml:2", "b.yaml:8"]


def test_the_short_form_says_what_follows_from_tools_that_keep_failing() -> None:
    [limit] = read("agent: {max_tool_retries: 4, fail: open, escalation: {on_tool_error_retries_exhausted: ask_human}}")
    assert (limit.metric, limit.limit_amount, limit.on_exceeded, limit.window) == (
        "tool_retries",
        4,
        "ask_human",
        "run",
    )
    assert problems("agent: {max_tool_calls: 3, max_tool_retries: 4}") == [
        "b.yaml:1: agent.max_tool_retries: needs escalation.on_tool_error_retries_exhausted, which says what follows"
    ]
    assert "on_tool_error_retries_exhausted" in problems(SHORT.replace('exhausted: "handoff', 'exhausted: "hand'))[0]


def test_money_is_read_as_it_is_written() -> None:
    [limit] = read(one("limits: {usd: 0.1}"))
    assert limit.limit_amount == 100_000_000
    [limit] = read(one("limits: {usd: 1234567.123456789}"))
    assert limit.limit_amount == 1_234_567_123_456_789


def one(*lines: str, window: str = "window: day") -> str:
    own = [line for line in ("limits: {usd: 1}",) if not any(said.startswith("limits") for said in lines)]
    fail = () if "enforcement: watch" in lines else ("fail: closed",)
    usual = ("scope: team", window, "on_exceeded: halt", "enforcement: hold", *fail, *own)
    told = {line.partition(":")[0] for line in lines}
    body = [*lines, *(line for line in usual if line.partition(":")[0] not in told)]
    return "budgets:\n  - id: b\n" + "".join(f"    {line}\n" for line in body)


def test_what_the_docs_show_is_read() -> None:
    document = (Path(__file__).parents[2] / "infra" / "docs" / "BUDGETS.md").read_text("utf-8")
    tree, short = (block.partition("```")[0] for block in document.split("```yaml\n")[1:])
    assert read(tree) == read(SHAPE)
    assert read(short) == read(SHORT)


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        (one("scope: planet"), 3, "budgets[0].scope: use tenant"),
        (one("limits: {usd: -1}"), 3, "budgets[0].limits.usd"),
        (one("limits: {usd: 0.0000000001}"), 3, "9 decimals"),
        (one("limits: {usd: .inf}"), 3, "budgets[0].limits.usd"),
        (one("limits: {tokens: 1.5}"), 3, "budgets[0].limits.tokens"),
        (one("limits: {}"), 3, "names no limit"),
        (one("limits: {tool_retries: 2}"), 3, "tool_retries are counted run by run"),
        (one("limits: {euros: 5}"), 3, "there is no such key"),
        (one("window: week"), 3, "sliding 24h"),
        (one("window: sliding 0h"), 3, "sliding 24h"),
        (one("window: hour", "time_zone: Europe/Zurich"), 4, "only days and months"),
        (one("time_zone: Mars/Olympus"), 3, "no time zone"),
        (one("thresholds_percent: [0]"), 3, "thresholds_percent[0]"),
        (one("on_exceeded: explode"), 3, "on_exceeded"),
        (one("enforcement: watch", "fail: open"), 4, "fail: is for holds"),
        (one("enforcement: watch", "scope: run", "window: day"), 5, "of a watched run is the run"),
        (one("limits: {wall_clock_seconds: 5}"), 3, "per run only"),
        (one("scope: tenant", "scope_value: other"), 4, "another tenant"),
        ("budgets: []", 1, "holds no budget"),
        ("budgets: [", 1, "no YAML"),
        ("- a", 1, "holds a list"),
        ("{}", 1, "budgets: it is missing"),
        ("budgets:\n  - id: x\n    id: y\n", 2, "said again on line 3"),
        ("agent:\n  max_tool_calls: many\n", 2, "agent.max_tool_calls"),
        ("agent:\n  name: x\n", 1, "agent: names no limit"),
    ],
)
def test_what_is_wrong_says_its_line_and_path(text: str, line: int, part: str) -> None:
    found = problems(text)
    assert len(found) == 1, found
    assert found[0].startswith(f"b.yaml:{line}: "), found
    assert part in found[0]


def test_fail_has_to_be_said_and_all_problems_come_at_once() -> None:
    text = "budgets:\n  - id: b\n    scope: team\n    limits: {usd: 1}\n    window: day\n    enforcement: hold\n"
    found = problems(text + "  - id: b\n    scope: team\n    limits: {usd: 1}\n")
    assert len([problem for problem in found if ".fail: has to be said" in problem]) == 1
    assert len([problem for problem in found if ".on_exceeded: is said neither here" in problem]) == 2
    assert any("is the id of another" in problem for problem in found)


def test_a_limit_that_the_one_above_never_lets_be_reached_is_refused() -> None:
    inner = "    budgets:\n      - {id: in, scope: agent, limits: {usd: 2}}\n"
    assert "is over the 1000000000 of b" in problems(one() + inner)[0]
    assert len(read(one("on_exceeded: warn") + inner)) == 2


def test_applied_again_it_changes_nothing() -> None:
    first = changes(SHAPE, [])
    assert {change.kind for change in first} == {"new"}
    declared = events(first)
    assert [event.producer_seq for event in declared] == list(range(6))
    again = changes(SHAPE, declared, now_us=T0_US + 1)
    assert {change.kind for change in again} == {"same"}
    assert events(again) == []
    assert [limit_of(event) for event in declared] == read(SHAPE)


def test_a_change_is_a_new_version_and_what_left_the_budget_ends() -> None:
    declared = events(changes(SHAPE, []))
    less = SHAPE.replace("{usd: 200, tool_calls: 100000}", "{usd: 100}")
    found = {(change.limit.key, change.kind, change.version) for change in changes(less, declared) if change.event}
    assert found == {(("acme-red", "cost_nanousd"), "changed", 2), (("acme-red", "tool_calls"), "retired", 2)}
    back = changes(SHAPE, declared + events(changes(less, declared)))
    assert {(change.kind, change.version) for change in back if change.event} == {("changed", 3), ("new", 3)}


def test_other_budgets_end_only_when_asked() -> None:
    declared = events(changes(SHAPE, []))
    assert {change.kind for change in changes(one(), declared)} == {"new"}
    pruned = changes(one(), declared, prune=True)
    assert [change.kind for change in pruned].count("retired") == 6
    log = HoldLog()
    for event in [*declared, *events(pruned)]:
        log.send(event, T0_US)
    assert log.declare(budget_id="acme", limit_amount=1, retired=True, budget_version=3) == []


def test_declared_budgets_are_what_the_holds_go_by() -> None:
    log = HoldLog()
    for event in events(changes(SHORT, [])):
        assert of(BudgetDeclared, log.send(event, T0_US)) == []
    assert log.request("h1", 350_000_001, agent_id="a")[0].reason == "limit"  # type: ignore[attr-defined]
    assert log.request("h2", 350_000_000, agent_id="a")[0].verdict == "granted"  # type: ignore[attr-defined]


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_budgets_or_a_problem_with_its_place(raw: bytes) -> None:
    found: tuple[str, ...] = ()
    try:
        limits_of(parse_budgets(raw, where="b.yaml"), "acme")
    except BudgetFileError as error:
        found = error.problems
    assert all(problem.startswith("b.yaml") for problem in found)


def test_events_are_encodable() -> None:
    codec = Codec(open_registry())
    for event in events(changes(SHAPE, [])):
        assert codec.decode(codec.encode(event)) == event


def test_the_command_checks_a_file(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(SHAPE)
    bad.write_text(one("scope: planet"))
    checked = CliRunner().invoke(budgets, ["check", str(good)], standalone_mode=False)
    assert checked.return_value == 0
    assert "6 limits for tenant acme" in checked.output
    checked = CliRunner().invoke(budgets, ["check", str(bad)], standalone_mode=False)
    assert checked.return_value == 2
    assert f"{bad}:3: budgets[0].scope" in checked.output
    missing = CliRunner().invoke(budgets, ["check", str(tmp_path / "none.yaml")], standalone_mode=False)
    assert missing.return_value == 2
    assert CliRunner().invoke(budgets, ["shape"], standalone_mode=False).output == SHAPE
