"""Other prices, budgets, rules or another policy: the difference that they would have made, by hand."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agentledger.infra import replay_report as say
from agentledger.infra.cli.replay import replay_command
from agentledger.infra.replay import ReplayReport, replay
from agentledger.infra.replay_budgets import ReplacedBudgets, read_replaced
from agentledger.infra.replay_policy import PolicyReport, print_policy, read_policy, try_policy
from agentledger.infra.replay_stages import HOLD_DECISIONS, RUNS, SCOPES
from agentledger.infra.replay_tally import Scope, Spend, newly_stopped, no_longer_stopped
from agentledger.infra.replay_wanted import Wanted
from agentledger.processors.rules.loading import parse_rules
from agentledger.schemas.errors import ConfigurationError, UsageError
from agentledger.schemas.events import Event, HoldRequested, OutcomeCosted, PolicyDecided
from agentledger.schemas.partitioning import partition_of
from agentledger.schemas.testing.price_book import FixedPriceBook
from agentledger.schemas.topics import EVENTS, SPEND
from agentledger.sinks.replay_source import LedgerRecord
from tests.hold_logs import HoldLog
from tests.replay_rig import MemoryLedger, MemoryWiring, folded, lived
from tests.run_logs import CODEC, PRICES, T0_US, Author, run_budget

NO_RULES: tuple[Any, ...] = ()


def runs_of(*runs: list[Event]) -> list[Event]:
    return [event for run in runs for event in run]


def ledger_of(facts: list[Event], holds: list[Event] | None = None) -> MemoryLedger:
    return lived(facts, holds or [], seed=5)


def replayed(ledger: MemoryLedger, **changed: Any) -> ReplayReport:
    return replay(replace(MemoryWiring(ledger), **changed), Wanted(), is_tally=True)


def printed(show: Any, report: Any) -> str:
    out = io.StringIO()
    show(Console(file=out, width=200), report)
    return out.getvalue()


def test_other_prices_cost_the_difference_by_hand() -> None:
    one, two = Author("run-1"), Author("run-2")
    ledger = ledger_of(
        runs_of(
            [one.start(), one.model_call(1000, "sold"), one.model_call(500, "cheap"), one.finish()],
            [two.start(workflow="triage"), two.model_call(10, "tuned", workflow="triage"), two.finish()],
        )
    )
    # As it was: 1000 x 2000 + 500 x 100 nano-dollars, and no price for tuned.
    # Then: 1000 x 3000 + 500 x 100, and 10 x 7.
    dearer = FixedPriceBook(
        {"sold": (3000, 500, 2500, 8000, 8000), "cheap": (100, 10, 100, 400, 400), "tuned": (7, 7, 7, 7, 7)}
    )
    report = replayed(ledger, prices=dearer)
    assert report.stored.spend == {("acme", "refund"): Spend(2, 0, 2_050_000), ("acme", "triage"): Spend(1, 1, 0)}
    assert report.replayed.spend == {("acme", "refund"): Spend(2, 0, 3_050_000), ("acme", "triage"): Spend(1, 0, 70)}
    text = printed(say.print_spend, report)
    assert "+$0.001" in text
    assert "triage" in text
    as_json = say.report_json(report, is_tally=True)
    assert as_json["spend"][0]["replay"]["cost_nanousd"] == 3_050_000
    assert sum(as_json["charges_by_price_version"]["replay"].values()) == 3
    assert "charges as replayed: 3 by" in text
    json.dumps(as_json)


def test_a_range_in_which_nothing_was_concluded_says_so() -> None:
    author = Author("run-1")
    wiring = MemoryWiring(ledger_of([author.start(), author.model_call(1000), author.finish()]))
    later = Wanted(from_us=T0_US * 2)
    assert "nothing was concluded in this range" in printed(say.print_comparison, replay(wiring, later))
    assert "nothing was charged in this range" in printed(say.print_spend, replay(wiring, later, is_tally=True))
    assert "nothing was stopped in this range" in printed(say.print_stops, replay(wiring, later, is_tally=True))
    assert "no alert was raised in this range" in printed(say.print_alerts, replay(wiring, later, is_tally=True))


def test_the_same_prices_make_no_difference() -> None:
    author = Author("run-1")
    ledger = ledger_of([author.start(), author.model_call(1000), author.finish()])
    report = replayed(ledger, prices=PRICES)
    assert report.stored.spend == report.replayed.spend


def test_other_rules_raise_other_alerts() -> None:
    author = Author("run-1")
    calls = [author.tool_call(tool="search", arguments_digest="a") for _ in range(6)]
    ledger = ledger_of([author.start(), *calls, author.finish()])
    stricter = parse_rules(
        b"rules: [{name: loops, kind: identical_tool_calls, severity: warning, calls: 3}]", where="test"
    )
    before = replayed(ledger)
    assert before.stored.raised == before.replayed.raised
    report = replayed(ledger, rules=stricter)
    assert report.replayed.raised["loops"] == 1
    assert report.stored.raised["loops"] == 0
    assert "loops" in printed(say.print_alerts, report)
    assert say.report_json(report, is_tally=True)["would_be_raised"][0]["rule"] == "loops"


def budgets_of(tmp_path: Path, text: str) -> ReplacedBudgets:
    path = tmp_path / "budgets.yaml"
    path.write_text(text, "utf-8")
    return read_replaced(path, "acme", T0_US)


def test_other_budgets_stop_other_runs_and_say_what_those_went_on_to_spend(tmp_path: Path) -> None:
    small, large, capped = Author("small"), Author("large"), Author("capped")
    ledger = ledger_of(
        runs_of(
            [small.start(), small.model_call(100), small.finish()],
            [large.start(), *(large.model_call(1000) for _ in range(4)), large.finish()],
            [capped.start(budget_model_calls=1, on_budget_exceeded="halt", agent_id="other"),
             *(capped.model_call(1, agent_id="other") for _ in range(2))],
        )
    )  # fmt: skip
    text = "agent: {name: refunds, max_model_spend_usd: 0.004, escalation: {on_budget_exceeded: handoff_to_human}}"
    report = replayed(ledger, budgets=budgets_of(tmp_path, text))
    # Each call of large costs 0.002 dollars: the third takes it over 0.004, the fourth is spent after that.
    [(scope, stop)] = newly_stopped(report.stored, report.replayed)
    assert scope == Scope("acme", "run", "large")
    assert (stop.metric, stop.limit, stop.used, stop.on_exceeded) == ("cost_nanousd", 4_000_000, 6_000_000, "escalate")
    assert report.replayed.spent_after[scope] == 2_000_000
    # A budget that a run has of its own stays, whatever the file says.
    assert list(no_longer_stopped(report.stored, report.replayed)) == []
    assert Scope("acme", "run", "capped") in report.replayed.stops
    shown = printed(say.print_stops, report)
    assert "would have been stopped: 1, of them 1 runs" in shown
    assert stop.budget_id == "agent-refunds"


def test_limits_of_each_run_are_the_files_own_each_with_its_lines_and_not_those_that_were_declared(
    tmp_path: Path,
) -> None:
    author, other = Author("run-1"), Author("run-2")
    calls = [author.tool_call(arguments_digest="a", status="error") for _ in range(4)]
    recorded = [run_budget(limit_amount=1), author.start(), *calls, author.finish()]
    ledger = ledger_of([*recorded, other.start(workflow="triage"), other.tool_call(workflow="triage"), other.finish()])
    text = """
        budgets:
          - {id: a, scope: team, scope_value: payments, window: run, limits: {tool_calls: 3}, on_exceeded: warn,
             enforcement: watch}
          - {id: b, scope: workflow, window: run, limits: {tool_retries: 2}, on_exceeded: escalate, enforcement: watch}
          - {id: c, scope: agent, scope_value: nobody, window: run, limits: {tool_calls: 0}, on_exceeded: halt,
             enforcement: hold, fail: open}
    """
    report = replayed(ledger, budgets=budgets_of(tmp_path, text))
    [(_, then)] = report.stored.stops.items()
    assert (then.budget_id, then.used) == ("careful", 2)
    [(scope, stop)] = report.replayed.stops.items()
    assert (scope.value, stop.budget_id, stop.metric, stop.used) == ("run-1", "b", "tool_retries", 3)
    assert report.replayed.raised["budget_exceeded"] == 2  # a only warns, and says so
    none = replayed(ledger, budgets=budgets_of(tmp_path, text.replace("tool_retries: 2", "tool_retries: 9")))
    assert [scope.value for scope, _ in no_longer_stopped(none.stored, none.replayed)] == ["run-1"]


def test_a_budget_over_a_day_is_watched_in_what_was_recorded(tmp_path: Path) -> None:
    author = Author("run-1")
    ledger = ledger_of([author.start(), *(author.model_call(1000) for _ in range(3)), author.finish()])
    text = """
        budgets:
          - {id: day, scope: tenant, window: day, limits: {usd: 0.005}, on_exceeded: halt, enforcement: watch}
    """
    report = replayed(ledger, budgets=budgets_of(tmp_path, text))
    [(scope, stop)] = newly_stopped(report.stored, report.replayed)
    assert scope == Scope("acme", "tenant", "acme")
    assert (stop.budget_id, stop.limit, stop.used) == ("day", 5_000_000, 6_000_000)


def test_holds_are_decided_again_by_other_budgets(tmp_path: Path) -> None:
    client = HoldLog("acme")
    asked = [
        client.event(HoldRequested, T0_US, hold_id=f"h{number}", ask_cost_nanousd=400_000, ttl_ms=60_000)
        for number in range(4)
    ]
    ledger = ledger_of([], list(asked))
    text = """
        budgets:
          - {id: all, scope: tenant, window: total, limits: {usd: 0.001}, on_exceeded: halt,
             enforcement: hold, fail: closed}
    """
    report = replayed(ledger, budgets=budgets_of(tmp_path, text))
    assert (report.stored.refused.total(), report.replayed.refused.total()) == (0, 2)
    assert "2 as replayed" in printed(say.print_stops, report)


POLICY = """
version: "2"
default: allow
rules:
  - {name: no-deletes, tool: "delete_*", effect: irreversible, verdict: deny}
  - {name: big-refunds, tool: refund, target: "order/9*", verdict: require_approval}
  - {name: nothing-elsewhere, environment: staging, verdict: deny}
"""


def policy_report(ledger: MemoryLedger, tmp_path: Path, text: str = POLICY) -> PolicyReport:
    path = tmp_path / "policy.yaml"
    path.write_text(text, "utf-8")
    return try_policy(MemoryWiring(ledger).source(), CODEC, read_policy(path), Wanted())


def test_a_policy_says_which_recorded_calls_it_would_have_denied(tmp_path: Path) -> None:
    author = Author("run-1")
    approval = author.write(PolicyDecided, verdict="require_approval")
    ledger = ledger_of(
        [
            author.start(),
            author.tool_call(tool="delete_user", effect="irreversible"),
            author.tool_call(tool="delete_draft", effect="write"),
            approval,
            author.tool_call(tool="refund", target="order/91", policy_decision_id=approval.event_id),
            author.tool_call(tool="refund", target="order/92"),
            author.tool_call(tool="search", status="denied"),
        ]
    )
    report = policy_report(ledger, tmp_path)
    assert report.calls == 5
    assert [(one.tool, one.was, one.would_be, one.rule) for one in report.changed] == [
        ("delete_user", "allow", "deny", "no-deletes"),
        ("refund", "allow", "require_approval", "big-refunds"),
        ("search", "deny", "allow", "(default)"),
    ]
    shown = printed(print_policy, report)
    assert "tool calls 5, of them 3" in shown
    assert "run-1: delete_user: allow → deny (no-deletes)" in shown
    assert report.as_json()["policy_version"] == "2"


def test_a_policy_is_not_tried_on_a_run_that_is_not_there(tmp_path: Path) -> None:
    author = Author("run-1")
    source = MemoryWiring(ledger_of([author.start(), author.tool_call()])).source()
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY, "utf-8")
    for wanted in (Wanted(run_id="run-2"), Wanted(tenant_id="acne")):
        with pytest.raises(UsageError, match=r"no record of .* is in the ledger"):
            try_policy(source, CODEC, read_policy(path), wanted)
    later = try_policy(source, CODEC, read_policy(path), Wanted(from_us=T0_US * 2))
    assert printed(print_policy, later) == "no tool call was recorded in this range\n"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("rules: [{name: a, verdict: maybe}]", r"yaml:1: rules\[0\].verdict"),
        ("rules: [{name: a, verdict: deny, tol: x}]", r"rules\[0\].tol"),
        ("rules: [", "no YAML"),
        ("# nothing yet", "says nothing"),
        ("[1]", "holds a list"),
    ],
)
def test_a_wrong_policy_is_one_line_that_names_the_place(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigurationError, match=place):
        read_policy(path)


@pytest.mark.parametrize("seed", range(4))
def test_states_of_a_fold_go_on_as_if_it_had_never_ended(seed: int) -> None:
    """What `rebuild-state` writes: a program that starts from it gives the same bytes as one that went on."""
    from tests.unit.test_replay import facts, holds

    rng = random.Random(seed)
    ledger = lived(facts(rng), holds(rng), seed)
    wiring = MemoryWiring(ledger)
    for plan in (RUNS, HOLD_DECISIONS, SCOPES):
        for partition in range(wiring.partitions):
            log = ledger.logs.get((plan.input, partition), [])
            half = len(log) // 2
            whole, first = wiring.stage(plan, CODEC, partition), wiring.stage(plan, CODEC, partition)
            _ = [(folded(whole, record), folded(first, record)) for record in log[:half]]
            second = wiring.stage(plan, CODEC, partition)
            second.restore(first.states())  # type: ignore[attr-defined]
            again: list[LedgerRecord] = log[max(0, half - 3) :]  # the last ones come once more
            expected = [item for record in log[half:] for item in folded(whole, record)]
            assert [item for record in again for item in folded(second, record)] == expected
            for stage in (whole, first, second):
                stage.close()


def test_an_outcome_weeks_after_a_rebuild_is_joined_with_what_the_run_cost() -> None:
    author = Author("run-1")
    ledger = ledger_of([author.start(), author.model_call(1000), author.finish()])
    wiring = MemoryWiring(ledger)
    partition = partition_of(b"run-1", wiring.partitions)
    lost, rebuilt = wiring.stage(RUNS, CODEC, partition), wiring.stage(RUNS, CODEC, partition)
    for record in ledger.logs[EVENTS.name, partition]:
        folded(lost, record)
    rebuilt.restore(lost.states())  # type: ignore[attr-defined]
    ledger.now_us += 20 * 86_400_000_000
    late = author.outcome(success=False)
    said = folded(rebuilt, ledger.append(EVENTS.name, late.run_id.encode(), CODEC.encode(late), partition))
    [costed] = [CODEC.decode(one.value) for one in said if one.topic == SPEND.name]
    assert isinstance(costed, OutcomeCosted)
    assert (costed.outcome_event_id, costed.success, costed.cost_nanousd) == (late.event_id, False, 2_000_000)
    lost.close()
    rebuilt.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prices", "FILE", "--rules", "FILE"], "--prices and --rules at once"),
        (["--topic", "agentledger.events.v1"], "--topic without --to-topic"),
        (["--from", "2026-02-01", "--to", "2026-01-01"], "--from is not before --to"),
        (["--from", "soon"], "no day or time"),
        (["--to-topic", "copy", "--topic", "other"], "other is not in the ledger"),
        (["--to-topic", ""], "'' is no name of a topic"),
        (["--to-topic", "no topic!"], "'no topic!' is no name of a topic"),
        (["--to-topic", ".."], "is no name of a topic"),
        (["--to-topic", "agentledger.events.v1"], "a topic of the ledger's own"),
    ],
)
def test_what_the_command_line_cannot_work_with_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("{}", "utf-8")
    given = [str(file) if argument == "FILE" else argument for argument in arguments]
    with pytest.raises(UsageError, match=message):
        replay_command.main(given, standalone_mode=False)
