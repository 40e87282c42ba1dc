"""Holds: asked for before a call, settled after it, and never left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from typing import Any, Literal

import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentledger.processors.charges import tool_charge
from agentledger.producers import EmitProblem, Estimate, HoldSettings, Ledger
from agentledger.producers.calls import enclosing
from agentledger.producers.holds import NO_ESTIMATE, Amounts, Hold, ask_for_model_call
from agentledger.schemas import events
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import HoldRefusedError, HoldUnansweredError, UnpricedError, UsageError
from agentledger.schemas.registry import open_registry
from agentledger.schemas.testing.hold_decider import FakeHoldDecider
from agentledger.schemas.testing.price_book import FixedPriceBook
from agentledger.schemas.tool_failures import CALLS_MAX, note_attempt
from agentledger.schemas.topics import HOLDS

CODEC = Codec(open_registry())
PRICES = FixedPriceBook({"m": (1_000_000, 100_000, 1_250_000, 4_000_000, 4_000_000)})  # $1 per 1,000 input tokens
CENT = 10_000_000
REFUSE = HoldSettings(when_unreachable="refuse", answer_s_max=0.2)
ALLOW = HoldSettings(when_unreachable="allow", answer_s_max=0.2)


def sent(decider: FakeHoldDecider) -> list[events.Event]:
    return [CODEC.decode(record.value) for record in decider.records if record.topic == HOLDS.name]


def reports(decider: FakeHoldDecider) -> list[events.HoldReported]:
    return [event for event in sent(decider) if isinstance(event, events.HoldReported)]


def ledger_of(decider: FakeHoldDecider, holds: HoldSettings = REFUSE, **settings: Any) -> Ledger:
    return Ledger(producer=decider, prices=PRICES, holds=holds, tenant_id="acme", **settings)


def test_a_call_is_held_before_and_settled_at_its_price_after() -> None:
    decider = FakeHoldDecider({"cost_nanousd": 100 * CENT})
    with ledger_of(decider, agent_id="bot", labels={"team": "ops"}).run("w", run_id="r") as run:
        with run.model_call(model="m", hold=Estimate(input_tokens=200, output_tokens_max=50)) as call:
            assert decider.held == {
                "cost_nanousd": 40 * CENT, "tokens": 250, "model_calls": 1, "tool_calls": 0
            }  # fmt: skip
            call.usage(input_tokens=100, output_tokens=25)
        with run.tool_call("t"):
            assert decider.held["tool_calls"] == 1
    assert decider.held == dict.fromkeys(decider.held, 0)
    assert decider.used == {"cost_nanousd": 20 * CENT, "tokens": 125, "model_calls": 1, "tool_calls": 1}
    request = sent(decider)[0]
    assert isinstance(request, events.HoldRequested)
    assert (request.run_id, request.agent_id, request.workflow, request.labels) == ("r", "bot", "w", {"team": "ops"})
    assert request.ttl_ms == 300_000
    assert {record.key for record in decider.records if record.topic == HOLDS.name} == {b"acme"}
    assert reports(decider)[0].call_event_id == call.event_id
    assert reports(decider)[0].hold_id == request.hold_id
    assert [event.producer_seq for event in sent(decider)] == [0, 1, 2, 3]
    assert {event.producer_id.endswith(":holds") for event in sent(decider)} == {True}


@pytest.mark.parametrize("status", ["", "error", "denied"])
@pytest.mark.parametrize("reported", [None, "0.07"])
@pytest.mark.parametrize("tool", ["search", "other"])
def test_a_tool_is_settled_and_counted_at_what_the_worker_charges(tool: str, reported: str | None, status: str) -> None:
    prices = FixedPriceBook({}, tools={"search": 5 * CENT})
    decider = FakeHoldDecider({"cost_nanousd": 100 * CENT})
    ledger = Ledger(producer=decider, prices=prices, holds=REFUSE, tenant_id="acme")
    with ledger.run("w", budget={"cost_usd": 1}) as run, run.tool_call(tool) as call:
        assert decider.held["cost_nanousd"] == (5 * CENT if tool == "search" else 0)
        call.status = status
        if reported is not None:
            call.reported_cost_usd(reported)
    [done] = [event for event in decoded(decider) if isinstance(event, events.ToolCallCompleted)]
    charged = tool_charge(done, prices, done.occurred_at)
    by_book = tool == "search" and status != "denied"
    cost = 5 * CENT if by_book else 7 * CENT if reported else 0
    assert decider.used["cost_nanousd"] == (charged[0] if charged else 0) == cost
    assert run.usage.cost_nanousd == decider.used["cost_nanousd"]


def test_a_refused_hold_is_a_typed_error_and_the_call_does_not_count() -> None:
    decider = FakeHoldDecider({"cost_nanousd": 30 * CENT}, on_exceeded="ask_human")
    ledger = ledger_of(decider)

    def agent() -> None:
        with ledger.run("w", run_id="r") as run:
            for _ in range(3):
                with run.model_call(model="m", hold=Estimate(cost_usd="0.20", tokens=10)) as call:
                    call.usage(input_tokens=200)

    with pytest.raises(HoldRefusedError, match="budget fake of tenant acme: cost_nanousd used") as refusal:
        agent()
    error = refusal.value
    assert (error.metric, error.limit, error.used, error.held, error.asked) == (
        "cost_nanousd", 30 * CENT, 20 * CENT, 0, 20 * CENT,
    )  # fmt: skip
    assert (error.reason, error.budget_id, error.scope, error.scope_value) == ("limit", "fake", "tenant", "acme")
    finished = finish_of(decider)
    assert finished.status == "escalated"
    assert "budget fake" in finished.reason
    calls = [record for record in decoded(decider) if isinstance(record, events.ModelCallCompleted)]
    assert len(calls) == 1


def decoded(decider: FakeHoldDecider) -> list[events.Event]:
    return [CODEC.decode(record.value) for record in decider.records]


def finish_of(decider: FakeHoldDecider) -> events.RunFinished:
    return next(event for event in decoded(decider) if isinstance(event, events.RunFinished))


def test_a_refused_call_leaves_the_runs_own_budget_as_it_was() -> None:
    decider = FakeHoldDecider({"tool_calls": 1})
    with ledger_of(decider).run("w", budget={"tool_calls": 5}) as run:
        with run.tool_call("t"):
            pass
        for _ in range(3):
            with pytest.raises(HoldRefusedError):
                run.tool_call("t").__enter__()
        assert run.usage.tool_calls == 1
    assert "3 calls refused" in finish_of(decider).reason


def test_the_runs_own_budget_comes_first_and_asks_for_nothing() -> None:
    decider = FakeHoldDecider()
    with ledger_of(decider).run("w", budget={"tool_calls": 0}) as run, pytest.raises(Exception, match="tool_calls 0"):
        run.tool_call("t").__enter__()
    assert sent(decider) == []


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), TimeoutError()], ids=repr)
def test_a_call_that_fails_without_usage_settles_at_what_was_asked(error: BaseException) -> None:
    decider = FakeHoldDecider()
    with ledger_of(decider).run("w", budget={"cost_usd": 10, "tokens": 1000}) as run:
        with pytest.raises(type(error)), run.model_call(model="m", hold=Estimate(cost_usd=1, tokens=7)):
            raise error
        assert (run.usage.cost_nanousd, run.usage.tokens) == (100 * CENT, 7)
        with run.tool_call("t"):
            pass
    assert decider.used == {"cost_nanousd": 100 * CENT, "tokens": 7, "model_calls": 1, "tool_calls": 1}
    assert decider.held["cost_nanousd"] == 0


def test_a_refused_connection_settles_at_nothing() -> None:
    decider = FakeHoldDecider()
    with ledger_of(decider).run("w") as run, pytest.raises(ConnectionRefusedError), run.model_call(model="m"):
        raise ConnectionRefusedError
    assert decider.used == {"cost_nanousd": 0, "tokens": 0, "model_calls": 1, "tool_calls": 0}


def test_a_model_without_a_price_settles_at_what_is_reported_or_else_at_what_was_asked() -> None:
    decider = FakeHoldDecider()
    with ledger_of(decider).run("w") as run:
        with run.model_call(model="other", hold=Estimate(cost_usd="0.5")) as call:
            call.usage(input_tokens=5)
            call.reported_cost_usd("0.2")
        with run.model_call(model="other", hold=Estimate(cost_usd="0.5")) as call:
            call.usage(input_tokens=5)
        with pytest.raises(UnpricedError, match="call of other may cost can't be estimated: unknown_model"):
            run.model_call(model="other").__enter__()
    assert decider.used["cost_nanousd"] == 70 * CENT
    assert len(sent(decider)) == 4


def test_without_an_answer_refuse_raises_and_gives_the_hold_back() -> None:
    decider = FakeHoldDecider(answers=False)
    ledger = ledger_of(decider)
    with pytest.raises(HoldUnansweredError, match="when_unreachable='allow'"), ledger.run("w") as run:
        run.tool_call("t").__enter__()
    assert run.usage.tool_calls == 0
    assert [(report.action, report.reason) for report in reports(decider)] == [("release", "unanswered")]
    assert finish_of(decider).status == "halted"
    decider.answer()  # too late: it was given back already
    assert decider.held["tool_calls"] == 0


def test_without_an_answer_allow_makes_the_call_and_settles_it() -> None:
    decider = FakeHoldDecider(answers=False)
    problems: list[EmitProblem] = []
    ledger = ledger_of(decider, ALLOW, on_emit_problem=problems.append)
    with ledger.run("w") as run, run.model_call(model="m", hold=Estimate(cost_usd=1)) as call:
        call.usage(input_tokens=10)
        decider.answer()  # late
    assert decider.used["cost_nanousd"] == CENT
    assert decider.held["cost_nanousd"] == 0
    assert [problem.reason for problem in problems] == ["hold_unanswered"]


def test_an_outage_costs_the_full_wait_once_until_an_answer_comes_again() -> None:
    decider = FakeHoldDecider(answers=False)
    settings = HoldSettings(when_unreachable="allow", answer_s_max=30)
    ledger = ledger_of(decider, settings, on_emit_problem=lambda problem: None)
    assert ledger.holds is not None
    ledger.holds._is_answering = False  # as after a first unanswered request
    with ledger.run("w") as run:
        began = time.monotonic()
        with run.tool_call("t"):
            pass
        assert time.monotonic() - began < 30
        decider.answer()  # late, but somebody decides again
        assert ledger.holds._is_answering
        decider.answers = True
        with run.tool_call("t") as call:
            assert call.hold is not None
            assert call.hold.state == "granted"


def test_holds_can_be_left_out_or_asked_for_call_by_call() -> None:
    decider = FakeHoldDecider()
    asked = HoldSettings(when_unreachable="refuse", calls="asked")
    with ledger_of(decider, asked).run("w") as run:
        with run.model_call(model="m"), run.tool_call("t"):
            pass
        assert sent(decider) == []
        with run.tool_call("t", hold=True):
            assert decider.held["tool_calls"] == 1
    decider = FakeHoldDecider()
    model = HoldSettings(when_unreachable="refuse", calls="model")
    with ledger_of(decider, model).run("w") as run:
        with run.tool_call("t"), run.model_call(model="m", hold=False):
            pass
        assert sent(decider) == []
        with run.model_call(model="m"):
            assert decider.held["model_calls"] == 1


async def held_async(ledger: Ledger) -> None:
    async with ledger.run("w") as run, run.model_call(model="m", hold=Estimate(cost_usd=1)) as call:
        call.usage(input_tokens=1)


async def asked_for(decider: FakeHoldDecider, count: int) -> None:
    for _ in range(10_000):
        if len(sent(decider)) >= count:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the requests were not sent")


def test_async_calls_wait_without_blocking_each_other() -> None:
    decider = FakeHoldDecider({"cost_nanousd": 1000 * CENT}, answers=False)
    ledger = ledger_of(decider, HoldSettings(when_unreachable="refuse", answer_s_max=20))

    async def main() -> None:
        tasks = [asyncio.create_task(held_async(ledger)) for _ in range(5)]
        await asked_for(decider, 5)  # all have asked, none is answered
        await asyncio.to_thread(decider.answer)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert decider.used["model_calls"] == 5
    assert decider.held["model_calls"] == 0


def test_a_task_that_is_cancelled_while_it_waits_gives_the_hold_back() -> None:
    decider = FakeHoldDecider(answers=False)
    ledger = ledger_of(decider, HoldSettings(when_unreachable="refuse", answer_s_max=20))

    async def main() -> None:
        task = asyncio.create_task(held_async(ledger))
        await asked_for(decider, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [(report.action, report.reason) for report in reports(decider)] == [("release", "cancelled")]
    assert finish_of(decider).status == "cancelled"


def test_threads_hold_at_once_and_never_pass_the_limit() -> None:
    decider = FakeHoldDecider({"tool_calls": 40})
    ledger = ledger_of(decider)
    refused: list[HoldRefusedError] = []

    def work() -> None:
        with ledger.run("w") as run:
            for _ in range(10):
                try:
                    with run.tool_call("t"):
                        pass
                except HoldRefusedError as error:
                    refused.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (decider.used["tool_calls"], decider.held["tool_calls"], len(refused)) == (40, 0, 40)


def test_a_forked_child_does_not_settle_what_its_parent_holds() -> None:
    decider = FakeHoldDecider()
    ledger = ledger_of(decider)
    with ledger.run("w") as run, run.tool_call("t"):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if is_alone_in_child(ledger, decider) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert decider.used["tool_calls"] == 1


def is_alone_in_child(ledger: Ledger, decider: FakeHoldDecider) -> bool:
    """In the child: the parent's hold is left alone, and a call of its own gets one."""
    before = len(reports(decider))
    parents = Hold("00000000-0000-7000-8000-000000000000", Amounts(), os.getppid(), "granted")
    assert ledger.holds is not None
    envelope = ledger.holds.envelope_of(ledger.run("x").envelope)
    ledger.holds.settle(parents, envelope, Amounts(), "00000000-0000-7000-8000-000000000000")
    ledger.holds.release(parents, envelope, "x")
    alone = len(reports(decider)) == before
    with ledger.run("w") as run, run.tool_call("t"):
        held = decider.held["tool_calls"] == 2
    return alone and held


def test_failures_in_a_row_of_one_tool_call_are_reported() -> None:
    decider = FakeHoldDecider()
    with ledger_of(decider).run("w") as run:
        for tool, order, status in (
            ("search", 1, "error"), ("search", 2, "error"), ("search", 1, "timeout"), ("other", 1, "error"),
            ("search", 1, "denied"), ("search", 1, "error"), ("search", 1, "ok"), ("search", 1, "error"),
        ):  # fmt: skip
            with run.tool_call(tool, arguments={"order": order}) as call:
                call.status = status
    assert [report.tool_failures for report in reports(decider)] == [1, 1, 2, 1, 0, 3, 0, 1]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["ok", "error", "timeout", "denied"]))))
def test_failures_are_counted_since_the_call_last_worked(calls: list[tuple[int, str]]) -> None:
    failing: dict[str, int] = {}
    for place, (number, status) in enumerate(calls):
        said = note_attempt(failing, str(number), status)
        earlier = [how for which, how in calls[: place + 1] if which == number and how != "denied"]
        in_a_row = len(earlier) - max((at + 1 for at, how in enumerate(earlier) if how == "ok"), default=0)
        assert said == (0 if status == "denied" else in_a_row)


def test_only_so_many_failing_calls_are_told_apart() -> None:
    failing: dict[str, int] = {}
    for number in range(CALLS_MAX + 1):
        assert note_attempt(failing, str(number), "error") == 1
    assert note_attempt(failing, str(CALLS_MAX), "error") == 2
    assert note_attempt(failing, "0", "error") == 1


def renewals_of(decider: FakeHoldDecider) -> list[events.HoldReported]:
    return [report for report in reports(decider) if report.action == "renew"]


def test_the_hold_of_a_call_under_way_is_renewed_until_it_ends() -> None:
    decider = FakeHoldDecider({"tool_calls": 1})
    ledger = ledger_of(decider, HoldSettings(when_unreachable="refuse", ttl_s=60, renewed_s_max=100))
    assert ledger.holds is not None
    began = time.monotonic()
    with ledger.run("w") as run:
        with run.tool_call("t") as call:
            for after_s in (10, 19, 21, 30, 45, 70, 99):
                ledger.holds.renew_due(began + after_s)
            assert call.hold is not None
            assert [report.hold_id for report in renewals_of(decider)] == [call.hold.hold_id] * 4
            ledger.holds.renew_due(began + 130)  # a call that hangs must not hold a budget for good
            ledger.holds.renew_due(began + 170)
        assert len(renewals_of(decider)) == 4
        with run.tool_call("t", hold=False):
            ledger.holds.renew_due(began + 300)
    assert len(renewals_of(decider)) == 4


def test_a_call_that_was_dropped_or_ended_renews_nothing() -> None:
    decider = FakeHoldDecider()
    ledger = ledger_of(decider)
    assert ledger.holds is not None
    with ledger.run("w") as run:
        run.tool_call("dropped").__enter__()
        leave_call()
        with pytest.raises(ValueError, match="x"), run.tool_call("failed"):
            raise ValueError("x")
        gc.collect()
        ledger.holds.renew_due(time.monotonic() + 200)
    assert renewals_of(decider) == []


def leave_call() -> None:
    """Forget the innermost call, as when a task that made it was thrown away."""
    enclosing.set(None)


class HoldMachine(RuleBasedStateMachine):
    """One hold under any order of what can happen to it: reported at most once, and always where it may be held."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = Hold("h", Amounts(5, 4, 1, 0))
        self.reported: list[str] = []
        self.was_granted = False

    def _note(self, report: Any) -> None:
        if report is not None:
            self.reported.append(report.action)

    @rule(verdict=st.sampled_from(["granted", "refused"]))
    def decide(self, verdict: str) -> None:
        decision = events.HoldDecided(
            event_id="", tenant_id="", producer_id="", producer_seq=0, run_id="", occurred_at=0, verdict=verdict
        )
        first = self.hold.decision is None
        waited = self.hold.state == "asked"
        assert self.hold.decide(decision) == (first and waited)
        self.was_granted |= first and verdict == "granted"

    @rule(when=st.sampled_from(["allow", "refuse"]))
    def give_up(self, when: Literal["allow", "refuse"]) -> None:
        self.hold.when_unreachable = when
        self._note(self.hold.give_up())

    @rule(amount=st.integers(0, 9))
    def settle(self, amount: int) -> None:
        self._note(self.hold.settle(Amounts(amount)))

    @rule()
    def release(self) -> None:
        self._note(self.hold.release("x"))

    @rule()
    def renew(self) -> None:
        renewed = self.hold.renew()
        assert (renewed is not None) == (self.hold.state in {"granted", "unanswered"})

    @invariant()
    def reported_at_most_once(self) -> None:
        assert len(self.reported) <= 1
        assert bool(self.reported) == (self.hold.state in {"settled", "released"})

    @precondition(lambda self: self.hold.state == "refused")
    @invariant()
    def a_refused_hold_is_never_reported(self) -> None:
        assert self.reported == []
        assert not self.was_granted


TestHoldMachine = HoldMachine.TestCase


@given(
    tokens=st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)),
    given=st.sampled_from(["estimate", "call", "nothing"]),
)
def test_the_automatic_estimate_is_the_price_of_what_may_be_used(tokens: tuple[int, int], given: str) -> None:
    tokens_in, tokens_out = tokens
    estimate, input_bytes, max_tokens = NO_ESTIMATE, None, None
    if given == "estimate":
        estimate = Estimate(input_tokens=tokens_in, output_tokens_max=tokens_out)
    elif given == "call":
        input_bytes, max_tokens = 3 * tokens_in, tokens_out
    else:
        tokens_in = tokens_out = 4096
    asked = ask_for_model_call(
        estimate, REFUSE, PRICES, provider="", model="m", service_tier="", input_bytes=input_bytes,
        max_tokens=max_tokens, at_us=0,
    )  # fmt: skip
    assert asked == Amounts(tokens_in * 1_000_000 + tokens_out * 4_000_000, tokens_in + tokens_out, 1, 0)


WRONG: list[Any] = [
    {}, {"when_unreachable": "perhaps"}, {"when_unreachable": "allow", "answer_s_max": 0},
    {"when_unreachable": "allow", "ttl_s": 1}, {"when_unreachable": "allow", "ttl_s": 601},
    {"when_unreachable": "allow", "calls": "some"}, {"when_unreachable": "allow", "renewed_s_max": -1},
    {"when_unreachable": "allow", "unpriced": "x"}, {"when_unreachable": "allow", "input_tokens_assumed": -1},
    {"when_unreachable": "allow", "wrong": 1},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Ledger(producer=FakeHoldDecider(), holds=wrong)


@pytest.mark.parametrize("wrong", [{"tokens": -1}, {"tokens": True}, {"cost_usd": "much"}, {"cost_usd": -1}], ids=str)
def test_an_estimate_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Estimate(**wrong)


def test_closing_ends_every_thread_and_gives_the_hold_back() -> None:
    host = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    servers = ",".join(f"{broker.host}:{broker.port}" for broker in host.list_topics(timeout=10).brokers.values())
    before = set(threading.enumerate())
    with Ledger(bootstrap_servers=servers, holds=REFUSE, prices=PRICES, on_emit_problem=lambda _: None) as ledger:
        assert set(threading.enumerate()) - before != set()
        with ledger.run("w") as run, pytest.raises(HoldUnansweredError):
            run.tool_call("t").__enter__()
        assert ledger.flush(20) == 0
        assert ledger.holds is not None
        assert ledger.holds.emitter.counters.delivered == ledger.holds.emitter.counters.emitted
    end = time.monotonic() + 20
    while set(threading.enumerate()) - before:
        assert time.monotonic() < end, set(threading.enumerate()) - before
        time.sleep(0.01)


def test_holds_without_anybody_who_decides_are_refused() -> None:
    with pytest.raises(UsageError, match="FakeHoldDecider"):
        Ledger.for_testing(holds=REFUSE)
