"""The tables of cost per outcome as people see them, and as JSON."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console, RenderableType

from agentledger.schemas.errors import UsageError
from agentledger.sinks.cost_per_outcome import METRICS, AttemptGroup, choose_two, compare_groups
from agentledger.sinks.cost_report import comparison_record, comparison_table, cost_table, group_record

START = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = [metric.label for metric in METRICS.values()]


def group(value: str, tenant_id: str = "acme", **fields: Any) -> AttemptGroup:
    """40 attempts of $0.10 each, 34 of them successes."""
    row: dict[str, Any] = {
        "attempts": 40, "tasks": 40, "models": ["big"], "sub_runs": 0, "ended": 40, "completed": 38,
        "completed_known": 38, "successes": 34,
        "failures": 6, "unaccounted": 0, "repeated_outcomes": 0, "reversed_outcomes": 0, "late_outcomes": 0,
        "silent_failures": 0, "escalations": 2, "contained": 38, "model_calls": 200, "tool_calls": 280,
        "tool_calls_squares": 2200, "denials": 0, "denials_squares": 0, "resolutions_ms": list(range(30_000, 30_034)),
        "cost_nanousd": 4 * 10**9, "cost_nanousd_squares": 40 * 10**16 + 10**14,
        "cost_nanousd_of_successes": 34 * 10**8, "reported_cost_nanousd": None, "reported_cost_nanousd_squares": 0,
        "reported_cost_nanousd_of_successes": 0, "human_ms": None, "unpriced_model_calls": 0, "value_nanousd": None,
        "first_started_at": START, "last_started_at": START,
    }  # fmt: skip
    row |= {f"{part}_cost_nanousd": None for part in ("model", "tool", "human", "wasted", "retry", "validation")}
    return AttemptGroup(tenant_id, value, row | fields)


def shown(renderable: RenderableType, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), record=True, color_system=None)
    console.print(renderable)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def test_the_table_fits_80_columns_and_says_what_it_leaves_out() -> None:
    unpriced = group("v2", unpriced_model_calls=3, unaccounted=2, late_outcomes=1, wasted_cost_nanousd=5 * 10**8)
    reported = group(
        "v3", cost_nanousd=None, reported_cost_nanousd=10**9, reported_cost_nanousd_squares=10**17, silent_failures=2
    )
    assert (
        shown(cost_table([group("v1"), unpriced, reported], "policy_version"))
        == """\
policy_version attempts success escal. tools /attempt /success     cost
v1                   40   85.0%   5.0%  7.00  $0.1000  $0.1176  $4.0000
v2                   40   85.0%   5.0%  7.00 $0.1000* $0.1176* $4.0000*
v3                   40   85.0%   5.0%  7.00 ~$0.0250 ~$0.0294 ~$1.0000
of the cost: wasted $0.5000
outcomes: 1 a day or more after the end
without a known outcome, their cost is counted: 2
say succeeded, and their outcome says failure: 2
* at least: model calls without a price: 3
~ as providers reported it: no price of ours"""
    )


def test_a_wide_table_has_all_rates() -> None:
    text = shown(cost_table([group("v1"), group("v1", "zeta")], "workflow", 140), 140)
    assert "contained" in text
    assert "30.0s" in text
    assert text.count("tenant ") == 2


@pytest.mark.parametrize("width", [80, 120])
def test_a_comparison_shows_each_change_with_its_interval(width: int) -> None:
    dearer = group("v2", cost_nanousd=8 * 10**9, cost_nanousd_squares=160 * 10**16 + 10**14,
                   cost_nanousd_of_successes=12 * 10**8, successes=6, failures=34)  # fmt: skip
    text = shown(comparison_table(compare_groups(group("v1"), dearer, "policy_version"), width), width)
    lines = {label: line.split() for line in text.splitlines() for label in LABELS if line.startswith(label)}
    assert lines["success"][-1] == "lower"
    assert lines["cost per attempt"][-1] == lines["cost per success"][-1] == "higher"
    assert lines["completed"][-1] == lines["escalated"][-1] == "noise"
    assert "-70.0" in text
    assert "reported per success" not in text
    assert all(len(line) <= width for line in text.splitlines())
    assert ("(70.9% to 92.9%)" in text) is (width == 120)


def test_a_comparison_says_what_else_may_lie_behind_it() -> None:
    other = group("v2", models=["big", "small"], tasks=4)
    text = shown(comparison_table(compare_groups(group("v1"), other, "policy_version"), 200), 200)
    assert "the models differ, too: big against big, small" in text
    assert "v2: 40 attempts at 4 tasks" in text
    assert "v1: 40 attempts" not in text
    assert "differ, too" not in shown(comparison_table(compare_groups(group("v1"), other, "model"), 200), 200)


def test_nothing_known_is_a_dash_and_null() -> None:
    empty = group("", attempts=3, ended=0, completed=0, completed_known=0, successes=0, failures=0, contained=0,
                  resolutions_ms=[], cost_nanousd=None, unaccounted=3)  # fmt: skip
    text = shown(cost_table([empty], "policy_version"))
    assert "(none)" in text
    assert "unpriced" in text
    record = group_record(empty, "policy_version")
    assert record["metrics"]["cost_per_success"] is None
    assert record["metrics"]["success_rate"] is None
    assert set(record["metrics"]) == set(METRICS)
    assert "no such run" in shown(cost_table([], "model"))


def test_json_holds_exact_sums_and_no_infinity() -> None:
    rare = group("v2", successes=1, failures=39, cost_nanousd=2**62, cost_nanousd_of_successes=1, resolutions_ms=[7])
    record = json.loads(json.dumps(comparison_record(compare_groups(group("v1"), rare, "model")), allow_nan=False))
    assert record["other"]["cost_nanousd"] == 2**62
    assert record["other"]["metrics"]["cost_per_success"]["high"] is None
    assert record["changes"]["cost_per_success"]["change"]["high"] is None
    assert record["changes"]["success_rate"]["more_than_noise"] is True
    assert record["base"]["first_started_at"] == "2026-01-01T00:00:00Z"
    assert record["changes"]["reported_cost_per_attempt"] == {"change": None, "more_than_noise": None}


def test_the_two_that_began_last_are_compared() -> None:
    groups = [group(f"v{number}", first_started_at=START + timedelta(days=number)) for number in (3, 1, 2)]
    assert [chosen.value for chosen in choose_two(groups, "policy_version")] == ["v2", "v3"]
    assert [chosen.value for chosen in choose_two(groups, "policy_version", other="v1")] == ["v3", "v1"]
    assert [chosen.value for chosen in choose_two(groups, "policy_version", "v1")] == ["v1", "v3"]
    assert [chosen.value for chosen in choose_two(groups, "policy_version", "v1", "v2")] == ["v1", "v2"]
    with pytest.raises(UsageError, match=r"'v9'.*'v3', 'v1', 'v2'"):
        choose_two(groups, "policy_version", "v9")
    with pytest.raises(UsageError, match="not two values of model"):
        choose_two(groups[:1], "model")
    with pytest.raises(UsageError, match=r"there are '' \(none\)"):
        choose_two([group("")], "prompt_version")
    with pytest.raises(UsageError, match="several tenants"):
        choose_two([*groups, group("v1", "zeta")], "model")
