"""Recorded loops, retry storms, runaway runs and false successes are found by name; ordinary runs page nobody."""

from __future__ import annotations

import pytest

from tests import rules_table

pytestmark = pytest.mark.traces


@pytest.fixture(autouse=True)
def _recordings() -> None:
    rules_table.traces_folder()


def named(set_name: str, rule: str) -> set[str]:
    _, firings = rules_table.on_recordings()[set_name]
    return {firing.run_id for firing in firings if firing.rule == rule}


def test_known_loops_are_found_by_name() -> None:
    assert named("tau2-retail", "going_in_circles") == {"4d77f47f-beec-4148-b7bc-13eb969ea353"}
    assert named("tau2-retail", "tool_call_cycle") == {"4d77f47f-beec-4148-b7bc-13eb969ea353"}
    assert named("swe-django", "going_in_circles") == {"django__django-14349"}


def test_known_retry_storms_are_found_by_name() -> None:
    assert named("swe-django", "retry_storm") == {"django__django-11299", "django__django-14349"}


def test_runaway_runs_are_found_in_most_orders_and_ordinary_ones_in_hardly_any() -> None:
    share, others = next(iter(rules_table.runaways_in_any_order().values()))
    assert share >= 0.8
    assert others <= 0.2


def test_known_runaway_runs_are_found_by_name_while_they_run() -> None:
    assert named("tau2-retail", "runaway_run") == {"4d77f47f-beec-4148-b7bc-13eb969ea353"}  # the tenth of its workflow
    assert named("swe-django", "runaway_run") == {"django__django-16560"}
    [firing] = [one for one in rules_table.on_recordings()["swe-django"][1] if one.rule == "runaway_run"]
    assert "237 model and tool calls, and still going" in firing.summary  # of the 290 that it took
    assert firing.resolve_reason == "run_ended"


@pytest.mark.parametrize(
    ("name", "runs"), [("tau2-retail", 31), ("tau2-policy-trials", 34), ("swe-django", 22), ("tau2-events", 4)]
)
def test_every_success_with_reward_0_is_found_and_no_other(name: str, runs: int) -> None:
    truth, _ = rules_table.on_recordings()[name]
    assert named(name, "silent_failure") == truth.runs["false_success"]
    assert len(truth.runs["false_success"]) == runs


def test_a_model_without_a_price_is_found_by_name() -> None:
    _, firings = rules_table.on_recordings()["tau2-retail"]
    [firing] = [one for one in firings if one.rule == "unpriced_model"]
    assert firing.scope_value == "ft:gpt-4.1-2025-04-14:sierra:tau2-full-sft:BzrYdMNm"
    assert firing.count >= 100  # 232 calls, one alert


def test_ordinary_runs_page_nobody() -> None:
    found = rules_table.ordinary_alerts()
    assert {name: runs for name, (runs, _, _) in found.items()} == {
        "tau2-retail": 183,
        "tau2-policy-trials": 51,
        "swe-django": 60,
        "otel-any-agent": 68,
        "tau2-events": 15,
    }
    assert {name: (alerts, pages) for name, (_, alerts, pages) in found.items()} == dict.fromkeys(found, (0, 0))


def test_every_page_names_a_run_that_deserves_it() -> None:
    for truth, firings in rules_table.on_recordings().values():
        pages = {firing.run_id for firing in firings if firing.severity == rules_table.PAGE}
        assert pages <= truth.runs["runaway"]


def test_planted_faults_are_found_and_their_harmless_twins_are_not() -> None:
    scores = rules_table.planted_scores()
    assert {rule: len(score.truth) for rule, score in scores.items()} == dict.fromkeys(scores, 20)
    assert {rule: score.right for rule, score in scores.items()} == dict.fromkeys(scores, 20)
    wrong = {rule: len(score.named - score.truth) for rule, score in scores.items() if score.named - score.truth}
    assert wrong == {"retry_storm": 1}  # a run that has three failures of its own before the two that were planted


def test_the_document_says_what_is_measured() -> None:
    assert rules_table.rendered() in rules_table.DOCUMENT.read_text("utf-8")
