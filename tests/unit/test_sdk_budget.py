"""A run's own budget: held before each call, whatever the calls do."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.producers import (
    EmitProblem,
    Estimate,
    Ledger,
    RunBudget,
    RunBudgetExceededError,
    RunUsage,
    UnknownUsageError,
)
from agentledger.producers.budget_guard import check_before
from agentledger.schemas import events
from agentledger.schemas.errors import BudgetExceededError, UsageError
from agentledger.schemas.testing.price_book import FixedPriceBook

PRICES = FixedPriceBook({"m": (1_000_000, 100_000, 1_250_000, 4_000_000, 4_000_000)})  # $1 per 1,000 input tokens
AMOUNTS = st.integers(0, 20)


def statuses(ledger: Ledger) -> list[tuple[str, str]]:
    return [(event.status, event.reason) for event in ledger.events if isinstance(event, events.RunFinished)]


def recorded(ledger: Ledger, kind: type[events.Event]) -> int:
    return sum(isinstance(event, kind) for event in ledger.events)


@given(
    limits=st.fixed_dictionaries({"model_calls": st.none() | AMOUNTS, "tool_calls": st.none() | AMOUNTS}),
    kinds=st.lists(st.sampled_from(["model", "tool"]), max_size=60),
)
def test_never_more_calls_than_the_limit(limits: dict[str, int | None], kinds: list[str]) -> None:
    ledger = Ledger.for_testing()
    refused = {"model": 0, "tool": 0}
    facts = []
    with ledger.run("w", budget=limits) as run:
        for kind in kinds:
            try:
                with run.model_call(model="m") if kind == "model" else run.tool_call("t"):
                    pass
            except RunBudgetExceededError as refusal:
                refused[kind] += 1
                facts.append((refusal.metric, refusal.limit, refusal.used))
    for kind, record in (("model", events.ModelCallCompleted), ("tool", events.ToolCallCompleted)):
        limit = limits[f"{kind}_calls"]
        wanted = kinds.count(kind)
        assert recorded(ledger, record) == (wanted if limit is None else min(wanted, limit))
        assert refused[kind] == wanted - recorded(ledger, record)
    assert all(fact == (fact[0], limits[fact[0]], limits[fact[0]]) for fact in facts)


@given(limit=st.integers(0, 5000), calls=st.lists(st.tuples(*[st.integers(0, 400)] * 5), max_size=30))
def test_tokens_pass_their_limit_by_less_than_one_call(limit: int, calls: list[tuple[int, ...]]) -> None:
    ledger = Ledger.for_testing()
    names = "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"
    with ledger.run("w", budget={"tokens": limit}) as run:
        for tokens in calls:
            before = run.usage.tokens
            try:
                with run.model_call(model="m") as call:
                    call.usage(**dict(zip(names, tokens, strict=True)))
            except RunBudgetExceededError:
                assert before >= limit
            else:
                assert before < limit
                assert run.usage.tokens == before + sum(tokens)


@given(limit_cents=st.integers(0, 500), calls=st.lists(st.integers(0, 400), max_size=20), reported=st.booleans())
def test_dollars_are_priced_or_reported_and_hold_to_the_nanodollar(
    limit_cents: int, calls: list[int], reported: bool
) -> None:
    ledger = Ledger.for_testing(prices=PRICES)
    with ledger.run("w", budget={"cost_usd": limit_cents / 100}) as run:
        spent = 0
        for tokens in calls:
            try:
                with run.model_call(model="m") as call:
                    call.usage(input_tokens=tokens)
                    if reported:
                        call.reported_cost_usd("0.1")
            except RunBudgetExceededError:
                assert spent >= limit_cents * 10_000_000
            else:
                assert spent < limit_cents * 10_000_000
                spent += 100_000_000 if reported else tokens * 1_000_000
        assert run.usage.cost_nanousd == spent


def test_threads_together_never_pass_the_limit() -> None:
    ledger = Ledger.for_testing()
    refusals: list[RunBudgetExceededError] = []
    with ledger.run("w", budget={"tool_calls": 100}) as run:

        def work() -> None:
            for _ in range(40):
                try:
                    with run.tool_call("t"):
                        pass
                except RunBudgetExceededError as refusal:
                    refusals.append(refusal)

        threads = [threading.Thread(target=work) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert recorded(ledger, events.ToolCallCompleted) == 100
    assert len(refusals) == 100


def test_the_refused_call_is_not_made_and_the_run_ends_halted() -> None:
    ledger = Ledger.for_testing()
    made = []

    def agent() -> None:
        with ledger.run("w", run_id="r1", budget=RunBudget(tool_calls=2)) as run:
            for number in range(5):
                with run.tool_call("t"):
                    made.append(number)

    with pytest.raises(BudgetExceededError, match=r"tool_calls 2 of 2 \(run r1\): end the run"):
        agent()
    assert made == [0, 1]
    assert [status for status, _ in statuses(ledger)] == ["halted"]
    assert "tool_calls 2 of 2" in statuses(ledger)[0][1]


@pytest.mark.parametrize(
    ("on_exceeded", "status"), [("halt", "halted"), ("escalate", "escalated"), ("ask_human", "escalated")]
)
def test_what_a_refusal_leads_to(on_exceeded: str, status: str) -> None:
    ledger = Ledger.for_testing()
    with (
        pytest.raises(RunBudgetExceededError) as refusal,
        ledger.run("w", budget={"tool_calls": 0, "on_exceeded": on_exceeded}) as run,
    ):
        run.tool_call("t").__enter__()
    assert refusal.value.on_exceeded == on_exceeded
    assert [found for found, _ in statuses(ledger)] == [status]


def test_a_person_can_give_more() -> None:
    ledger = Ledger.for_testing()
    with ledger.run("w", run_id="r", budget={"tool_calls": 1, "on_exceeded": "ask_human"}) as run:
        with run.tool_call("t"):
            pass
        with pytest.raises(RunBudgetExceededError):
            run.tool_call("t").__enter__()
        with pytest.raises(RunBudgetExceededError):
            run.tool_call("t").__enter__()
        run.extend_budget({"tool_calls": 2}, approved_by="maria", reason="nearly done")
        with run.tool_call("t"):
            pass
    assert recorded(ledger, events.ToolCallCompleted) == 2
    approval = next(event for event in ledger.events if isinstance(event, events.ApprovalDecided))
    assert (approval.verdict, approval.decided_by) == ("approved", "maria")
    [question] = [event for event in ledger.events if isinstance(event, events.ApprovalRequested)]  # asked once
    assert (question.approval_id, question.action) == (approval.approval_id, "raise_budget")
    assert statuses(ledger)[0][0] == "succeeded"
    assert "2 calls refused" in statuses(ledger)[0][1]


def test_a_budget_that_warns_refuses_nothing_and_says_so_once() -> None:
    problems: list[EmitProblem] = []
    ledger = Ledger.for_testing(on_emit_problem=problems.append)
    with ledger.run("w", budget={"tool_calls": 1, "on_exceeded": "warn"}) as run:
        for _ in range(4):
            with run.tool_call("t"):
                pass
    assert recorded(ledger, events.ToolCallCompleted) == 4
    assert [problem.reason for problem in problems] == ["budget"]


def test_time_is_a_budget() -> None:
    now = [10**15]
    ledger = Ledger.for_testing(clock=lambda: now[0])
    with ledger.run("w", budget={"wall_clock_s": 2}) as run:
        with run.tool_call("t"):
            now[0] += 1_999_999
        with run.tool_call("t"):
            now[0] += 1
        with pytest.raises(RunBudgetExceededError) as refusal:
            run.tool_call("t").__enter__()
    assert (refusal.value.metric, refusal.value.limit, refusal.value.used) == ("wall_clock_s", 2, 2.0)
    assert recorded(ledger, events.ToolCallCompleted) == 2


@pytest.mark.parametrize(
    ("budget", "model", "usage", "metric"),
    [
        ({"cost_usd": 1}, "unknown", {"input_tokens": 1}, "cost_usd"),
        ({"cost_usd": 1}, "m", None, "cost_usd"),
        ({"cost_usd": 1}, "m", {"input_tokens": -5}, "cost_usd"),
        ({"tokens": 100}, "m", None, "tokens"),
        ({"tokens": 100}, "m", {"input_tokens": "many"}, "tokens"),
    ],
)
def test_what_is_unknown_closes_the_run(budget: Any, model: str, usage: dict[str, Any] | None, metric: str) -> None:
    def agent(**more: Any) -> None:
        with Ledger.for_testing(prices=PRICES).run("w", budget={**budget, **more}) as run:
            with run.model_call(model=model) as call:
                if usage is not None:
                    call.usage(**usage)
            with run.tool_call("t"):
                pass

    with pytest.raises(UnknownUsageError) as refusal:
        agent()
    assert refusal.value.metric == metric
    assert "unpriced='allow'" in str(refusal.value)
    agent(unpriced="allow")
    agent(on_exceeded="warn")


class HttpStatusError(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__(f"HTTP {status_code}")
        self.status_code = status_code


class ResponseError(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__("an HTTP client's")
        self.response = HttpStatusError(status_code)


class ConnectTimeout(Exception):  # noqa: N818 - as httpx and requests call it
    pass


def wrapped(cause: BaseException) -> Exception:
    error = RuntimeError("an SDK's own error")
    error.__cause__ = cause
    return error


UNBILLED = [
    HttpStatusError(429), ResponseError(500), ConnectionRefusedError(), ConnectTimeout(), wrapped(ConnectTimeout()),
    wrapped(wrapped(HttpStatusError(529))),
]  # fmt: skip
MAYBE_BILLED = [
    ValueError("429"), TimeoutError(), HttpStatusError(408), HttpStatusError(504), ConnectionResetError(),
    KeyboardInterrupt(), HttpStatusError(200),
]  # fmt: skip


@pytest.mark.parametrize("error", UNBILLED, ids=repr)
def test_a_failed_call_that_was_not_billed_costs_nothing(error: BaseException) -> None:
    with Ledger.for_testing(prices=PRICES).run("w", budget={"cost_usd": 1, "tokens": 9}) as run:
        with pytest.raises(type(error)), run.model_call(model="m"):
            raise error
        with run.model_call(model="m") as call:
            call.usage()
        assert run.usage == RunUsage(model_calls=2)


@pytest.mark.parametrize("error", MAYBE_BILLED, ids=repr)
@pytest.mark.parametrize("limit", [{"cost_usd": 1}, {"tokens": 9}])
def test_any_other_failed_call_without_usage_is_unknown(error: BaseException, limit: dict[str, Any]) -> None:
    with Ledger.for_testing(prices=PRICES).run("w", budget=limit) as run:
        with pytest.raises(type(error)), run.model_call(model="m"):
            raise error
        with pytest.raises(UnknownUsageError):
            run.model_call(model="m").__enter__()


def test_a_refusal_after_the_first_token_is_unknown_too() -> None:
    with Ledger.for_testing(prices=PRICES).run("w", budget={"tokens": 9}) as run:
        call = run.model_call(model="m").__enter__()
        call.first_token()
        call.__exit__(HttpStatusError, HttpStatusError(500), None)
        with pytest.raises(UnknownUsageError):
            run.model_call(model="m").__enter__()


def test_a_call_of_unknown_usage_counts_with_what_was_estimated() -> None:
    with Ledger.for_testing(prices=PRICES).run("w", budget={"cost_usd": 1, "tokens": 100}) as run:
        with pytest.raises(TimeoutError), run.model_call(model="m", hold=Estimate(cost_usd="0.25", tokens=60)):
            raise TimeoutError
        assert (run.usage.cost_nanousd, run.usage.tokens) == (250_000_000, 60)
        with run.model_call(model="m") as call:
            call.usage(input_tokens=40)
        with pytest.raises(RunBudgetExceededError, match="tokens 100 of 100"):
            run.model_call(model="m").__enter__()


class BrokenPriceBook(FixedPriceBook):
    def rate(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no prices today")


def test_a_price_book_that_fails_is_no_price() -> None:
    with Ledger.for_testing(prices=BrokenPriceBook({})).run("w", budget={"cost_usd": 1}) as run:
        with run.model_call(model="m") as call:
            call.usage(input_tokens=1)
        with pytest.raises(UnknownUsageError):
            run.model_call(model="m").__enter__()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tool_calls": -1}, "tool_calls=-1"),
        ({"tool_calls": True}, "tool_calls=True"),
        ({"tokens": "many"}, "tokens='many'"),
        ({"wall_clock_s": float("nan")}, "wall_clock_s=nan"),
        ({"cost_usd": "ten"}, "cost_usd"),
        ({"cost_usd": -0.01}, "cost_usd=-0.01"),
        ({"on_exceeded": "explode"}, "explode"),
        ({"unpriced": "maybe"}, "maybe"),
        ({"tool_cals": 3}, "tool_cals"),
    ],
)
def test_a_budget_that_is_none_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Ledger.for_testing().run("w", budget=wrong)


@given(
    usage=st.builds(
        RunUsage, model_calls=AMOUNTS, tool_calls=AMOUNTS, tokens=AMOUNTS, cost_nanousd=AMOUNTS,
        calls_without_price=AMOUNTS, calls_without_tokens=AMOUNTS,
    ),
    kind=st.sampled_from(["model", "tool"]),
)  # fmt: skip
def test_a_budget_without_limits_allows_everything(usage: RunUsage, kind: Any) -> None:
    check_before(kind, usage, RunBudget(), "r", 10**18)


def test_the_shipped_prices_hold_a_budget_of_dollars() -> None:
    with Ledger.for_testing().run("w", budget={"cost_usd": 0.50}) as run:
        with run.model_call(model="gpt-4.1", provider="openai") as call:
            call.usage(input_tokens=1420, output_tokens=310)
        assert run.usage.cost_nanousd == 1420 * 2000 + 310 * 8000  # $2 and $8 a million tokens
        with run.tool_call("create_refund"):
            pass


def test_a_run_whose_tool_call_failed_with_all_its_retries_makes_no_more_calls() -> None:
    ledger = Ledger.for_testing()
    attempts = [(1, "error"), (2, "error"), (1, "ok"), (1, "error"), (2, "denied"), (2, "error")]
    with ledger.run("w", budget={"tool_retries": 1}) as run:
        for order, status in attempts:
            with run.tool_call("search", arguments={"order": order}) as call:
                call.status = status
        for refused in (run.tool_call("search", arguments={"order": 3}), run.model_call(model="m")):
            with pytest.raises(RunBudgetExceededError) as refusal, refused:
                pass
            assert (refusal.value.metric, refusal.value.limit, refusal.value.used) == ("tool_retries", 1, 2)
        run.extend_budget({"tool_retries": 2}, approved_by="maria")
        with run.model_call(model="m"):
            pass
    [started] = [event for event in ledger.events if isinstance(event, events.RunStarted)]
    assert started.budget_tool_retries == 1
    with ledger.run("w", budget={"tool_retries": 1, "on_exceeded": "warn"}) as run:
        for _ in range(4):
            run.record_tool_call("search", status="timeout")
        with run.model_call(model="m"):
            pass
