"""Budgets' questions: which are listed, and what a person's answers declare."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from agentledger.infra.budget_questions import Question, declared_anew, lifting, open_question, open_questions, raised
from agentledger.infra.cli.budget_answers import _amount
from agentledger.processors.budget_declarations import newest
from agentledger.schemas.budget_questions import Raise
from agentledger.schemas.errors import UsageError
from tests.scope_rig import budget

CHANGE = Raise("b1", "run", "r1", "cost_nanousd", 100, 130)
QUESTION = Question(
    approval_id="q", target="b1 of run r1", change=CHANGE, run_id="r1", asked_us=1, answer="", answered_by=""
)
BY: dict[str, Any] = {"reason": "a large order", "decided_by": "maria", "producer_id": "p", "now_us": 5}


def store(*rows: tuple[Any, ...]) -> Any:
    """A client that answers every query with these rows."""
    names = ("approval_id", "target", "change", "run_id", "asked_us", "answer", "answered_by")
    answer = SimpleNamespace(summary={}, column_names=names[: len(rows[0])] if rows else names, column_types=(),
                             result_rows=list(rows))  # fmt: skip
    return SimpleNamespace(query=lambda *_args, **_kwargs: answer)


def row(change: str = "", answer: str = "", answered_by: str = "") -> tuple[Any, ...]:
    return ("q", "b1 of run r1", change or CHANGE.asked()["change_redacted"], "r1", 1, answer, answered_by)


def test_open_questions_are_those_that_say_what_they_are_about() -> None:
    assert open_questions(store(row(), row(change='{"metric": "tokens"}')), "acme") == [QUESTION]


def test_a_question_is_answered_once() -> None:
    assert open_question(store(row()), "acme", "q") == QUESTION
    with pytest.raises(UsageError, match="is answered: rejected by ann"):
        open_question(store(row(answer="rejected", answered_by="ann")), "acme", "q")
    with pytest.raises(UsageError, match="no budget of tenant acme has asked"):
        open_question(store(), "acme", "other")
    with pytest.raises(UsageError, match="extend_budget"):
        open_question(store(row()), "acme", "budget:r1")


@pytest.mark.parametrize(("asked", "limit"), [(None, 230), (131, 131)])
def test_more_is_declared_of_the_one_limit_and_the_budgets_others_stay(asked: int | None, limit: int) -> None:
    others = budget(7, metric="tokens", on_exceeded="ask_human"), budget(100, budget_id="b2")
    known = newest([budget(100, on_exceeded="ask_human"), *others])
    event = declared_anew(changes := raised(QUESTION, known, limit=asked, **BY))
    assert [(change.kind, change.limit.metric) for change in changes] == [
        ("changed", "cost_nanousd"), ("same", "tokens"),
    ]  # fmt: skip
    assert (event.budget_id, event.metric, event.limit_amount, event.budget_version) == ("b1", "cost_nanousd", limit, 2)
    assert (event.declared_by, event.reason, event.on_exceeded) == ("maria", "a large order", "ask_human")


def test_less_or_a_budget_that_has_ended_is_no_answer() -> None:
    with pytest.raises(UsageError, match="not more than the 100"):
        raised(QUESTION, newest([budget(100)]), limit=100, **BY)
    with pytest.raises(UsageError, match="has ended"):
        raised(QUESTION, newest([budget(100, retired=True)]), limit=None, **BY)


def test_a_run_that_was_given_more_goes_on_unless_another_limit_stops_it() -> None:
    said = {"reason": "go on", "decided_by": "maria"}
    command = lifting(store((0,)), QUESTION, "acme", **said)
    assert command is not None
    assert (command.command, command.subject) == ("resume", ("acme", "run", "r1"))
    assert lifting(store((1,)), QUESTION, "acme", **said) is None


@pytest.mark.parametrize(
    ("text", "metric", "amount"),
    [("0.35", "cost_nanousd", 350_000_000), ("1.5", "wall_clock_ms", 1500), ("40", "tokens", 40)],
)
def test_a_limit_is_given_as_people_say_it(text: str, metric: str, amount: int) -> None:
    assert _amount(text, metric) == amount


@pytest.mark.parametrize(
    ("text", "metric"),
    [("1.5", "tokens"), ("much", "tokens"), ("-1", "cost_nanousd"), ("0", "tokens"), ("nan", "tokens"),
     ("0.0000000001", "cost_nanousd"), ("1e99", "tokens")],
)  # fmt: skip
def test_what_is_no_limit_is_refused(text: str, metric: str) -> None:
    with pytest.raises(UsageError, match="is no number of"):
        _amount(text, metric)
