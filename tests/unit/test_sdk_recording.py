"""What an agent does becomes events: runs, calls, nesting, errors re-raised unchanged, decorators."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar

import pytest

from agentledger.producers import EmitProblem, Ledger, Run, RunBudget, RunBudgetExceededError, current_run
from agentledger.producers.content_rules import ContentRules
from agentledger.schemas import events
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import BudgetExceededError, UsageError
from agentledger.schemas.events import Event
from agentledger.schemas.hashing import digest_bytes
from agentledger.schemas.registry import open_registry
from agentledger.schemas.testing.record_producer import FakeRecordProducer

_E = TypeVar("_E", bound=Event)
START_US = 1_800_000_000_000_000


class SteppingClock:
    """A clock that moves when it is told to, microseconds."""

    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        return self.now_us

    def pass_ms(self, milliseconds: int) -> None:
        self.now_us += milliseconds * 1000


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture
def problems() -> list[EmitProblem]:
    return []


@pytest.fixture
def ledger(clock: SteppingClock, problems: list[EmitProblem]) -> Ledger:
    return Ledger.for_testing(
        agent_id="support-bot", agent_version="1.4.2", tenant_id="acme", environment="test", labels={"team": "care"},
        clock=clock, on_emit_problem=problems.append,
    )  # fmt: skip


def only(ledger: Ledger, kind: type[_E]) -> _E:
    found = every(ledger, kind)
    assert len(found) == 1, found
    return found[0]


def every(ledger: Ledger, kind: type[_E]) -> list[_E]:
    return [event for event in ledger.events if isinstance(event, kind)]


def test_a_run_is_recorded_from_start_to_outcome(ledger: Ledger, clock: SteppingClock) -> None:
    budget = RunBudget(tool_calls=5, cost_usd="0.50", wall_clock_s=60, unpriced="allow")
    with ledger.run(
        "refund_request", task="refund A-1", run_id="run-1", budget=budget, actor="user:7", labels={"tier": "plus"},
        prompt_version="p7", policy_version="v3", toolset_version="t1",
    ) as run:  # fmt: skip
        with run.model_call(model="gpt-4.1", provider="openai", input=[{"role": "user", "content": "hi"}]) as call:
            clock.pass_ms(200)
            call.first_token()
            clock.pass_ms(300)
            call.usage(input_tokens=1420, cache_read_tokens=900, output_tokens=310)
            call.answered_model = "gpt-4.1-2026-01-01"
            call.finish_reason = "stop"
            call.reported_cost_usd(Decimal("0.0123"))
            call.output("hello")
        decision = run.policy_decision(engine="opa", policy="refunds", rule="cap", verdict="allow", input={"a": 1})
        with run.tool_call(
            "create_refund", arguments={"order_id": "A-1"}, effect="write", target="order:A-1", idempotency_key="k",
            policy_decision_id=decision, evidence_ids=["e1"],
        ) as tool:  # fmt: skip
            clock.pass_ms(40)
            tool.result({"refund_id": "R-1"})
            run.state_changed(resource="order:A-1", before={"paid": True}, after={"paid": False}, reversible="yes")
        run.validation(rule="refund_exists", result="pass", validated_event_id=tool.event_id)
        run.evidence(source="orders", evidence_ids=["o1", "o2"], query="A-1")
        run.approval_requested(approval_id="ap1", action="close", change={"x": 1}, expires_at=START_US)
        run.approval_decided(approval_id="ap1", verdict="approved", decided_by="maria")
        run.outcome(success=True, verified_by="refund ledger", value_usd="38.50", score=1)

    recorded = ledger.events
    assert [type(event).__name__ for event in recorded] == [
        "RunStarted", "ModelCallCompleted", "PolicyDecided", "StateChanged", "ToolCallCompleted", "ValidationCompleted",
        "EvidenceRetrieved", "ApprovalRequested", "ApprovalDecided", "OutcomeRecorded", "RunFinished",
    ]  # fmt: skip
    assert [event.producer_seq for event in recorded] == list(range(11))
    assert [event.step for event in recorded] == list(range(11))
    assert len({event.event_id for event in recorded}) == 11
    for event in recorded:
        assert (event.tenant_id, event.agent_id, event.agent_version) == ("acme", "support-bot", "1.4.2")
        assert (event.run_id, event.workflow, event.environment, event.actor) == (
            "run-1", "refund_request", "test", "user:7",
        )  # fmt: skip
        assert event.labels == {"team": "care", "tier": "plus"}
        assert event.trace_id == run.trace_id
    started = only(ledger, events.RunStarted)
    assert (started.source, started.task, started.prompt_version) == ("sdk", "refund A-1", "p7")
    assert (started.budget_cost_nanousd, started.budget_tool_calls, started.budget_wall_clock_ms) == (
        500_000_000, 5, 60_000,
    )  # fmt: skip
    model = only(ledger, events.ModelCallCompleted)
    assert (model.requested_model, model.answered_model, model.status) == ("gpt-4.1", "gpt-4.1-2026-01-01", "ok")
    assert (model.input_tokens, model.cache_read_tokens, model.reasoning_tokens) == (1420, 900, 0)
    assert (model.latency_ms, model.time_to_first_token_ms) == (500.0, 200.0)
    assert (model.reported_cost_nanousd, model.output_bytes) == (12_300_000, len('"hello"'))
    tool_event = only(ledger, events.ToolCallCompleted)
    assert (tool_event.effect, tool_event.latency_ms, tool_event.status) == ("write", 40.0, "ok")
    assert (tool_event.policy_decision_id, tool_event.evidence_ids) == (decision, ["e1"])
    assert tool_event.arguments_redacted is None
    assert tool_event.arguments_digest.startswith("sha256:")
    changed = only(ledger, events.StateChanged)
    assert changed.tool_call_event_id == changed.parent_event_id == tool_event.event_id
    assert only(ledger, events.OutcomeRecorded).value_nanousd == 38_500_000_000
    finished = only(ledger, events.RunFinished)
    assert (finished.status, finished.duration_ms, finished.error_type) == ("succeeded", 540, "")


def test_every_recorded_value_is_what_the_codec_writes_for_it(ledger: Ledger) -> None:
    test_a_run_is_recorded_from_start_to_outcome(ledger, ledger.clock)  # type: ignore[arg-type]
    producer = ledger._producer
    assert isinstance(producer, FakeRecordProducer)
    codec = Codec(open_registry())
    assert len(producer.records) == 11
    for record in producer.records:
        event = codec.decode_strictly(record.value)
        assert codec.encode(event) == record.value
        assert (record.key, record.value[5]) == (event.run_id.encode(), 0x48)
        assert record.value[6:42].decode() == event.event_id


class BoomError(Exception):
    """The tool's own error."""


def raised_by(action: Callable[[], object]) -> BaseException:
    try:
        action()
    except BaseException as error:  # noqa: BLE001
        return error
    raise AssertionError("nothing was raised")


def test_an_exception_leaves_a_call_and_a_run_as_the_same_object_with_no_frame_of_ours(ledger: Ledger) -> None:
    boom = BoomError("no such order")

    def agent() -> None:
        with ledger.run("w") as run, run.tool_call("lookup_order"):
            raise boom

    error = raised_by(agent)
    assert error is boom
    assert error.__cause__ is None
    assert error.__context__ is None
    files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    assert files == {__file__}
    tool = only(ledger, events.ToolCallCompleted)
    assert (tool.status, tool.error_type) == ("error", "BoomError")
    finished = only(ledger, events.RunFinished)
    assert (finished.status, finished.error_type) == ("failed", "BoomError")


def fail(ledger: Ledger, error: Exception) -> tuple[str, str]:
    """What the call and the run say of this error."""

    def agent() -> None:
        with ledger.run("w") as run, run.tool_call("t"):
            raise error

    assert raised_by(agent) is error
    return only(ledger, events.ToolCallCompleted).error_message, only(ledger, events.RunFinished).error_message


def test_the_words_of_an_error_stay_here_unless_redaction_lets_them_through() -> None:
    def refuse(value: Any) -> Any:
        raise ValueError(value)

    digest = digest_bytes(b'"no such order"')
    assert fail(Ledger.for_testing(), BoomError("no such order")) == (f"15 bytes, {digest}",) * 2
    assert fail(Ledger.for_testing(), ReadTimeout()) == ("", "")
    kept = Ledger.for_testing(keep_content=True)
    assert fail(kept, BoomError("no such order")) == ("no such order", "no such order")
    masked = Ledger.for_testing(redact=lambda text: text.replace("order", "…"))
    assert fail(masked, BoomError("no such order")) == ("no such …", "no such …")
    assert fail(Ledger.for_testing(redact=refuse), BoomError("no such order")) == ("", "")
    ours = UsageError("a wrong call", next_step="call it rightly")
    assert fail(Ledger.for_testing(), ours) == ("a wrong call: call it rightly",) * 2


class ReadTimeout(Exception):  # noqa: N818 - named as HTTP clients name theirs
    """Not a TimeoutError by inheritance."""


@pytest.mark.parametrize(
    ("error", "tool_status", "model_status", "run_status"),
    [
        (TimeoutError("slow"), "timeout", "error", "failed"),
        (ReadTimeout("slow"), "timeout", "error", "failed"),
        (ValueError("bad"), "error", "error", "failed"),
        (asyncio.CancelledError(), "error", "cancelled", "cancelled"),
        (KeyboardInterrupt(), "error", "cancelled", "cancelled"),
        (SystemExit(3), "error", "error", "failed"),
        (BudgetExceededError("no more"), "error", "error", "halted"),
    ],
)
def test_the_status_follows_from_the_error(
    ledger: Ledger, error: BaseException, tool_status: str, model_status: str, run_status: str
) -> None:
    def agent() -> None:
        with ledger.run("w") as run:
            assert raised_by(lambda: enter_and_raise(run.tool_call("t"))) is error
            with run.model_call(model="m"):
                raise error

    def enter_and_raise(call: Any) -> None:
        with call:
            raise error

    assert raised_by(agent) is error
    assert only(ledger, events.ToolCallCompleted).status == tool_status
    assert only(ledger, events.ModelCallCompleted).status == model_status
    assert only(ledger, events.RunFinished).status == run_status


def test_a_run_ends_as_it_says(ledger: Ledger) -> None:
    for end in ("fail", "halt", "escalate", "cancel"):
        with ledger.run("w") as run:
            getattr(run, end)(f"because {end}")
    statuses = [(event.status, event.reason) for event in every(ledger, events.RunFinished)]
    assert statuses == [
        ("failed", "because fail"), ("halted", "because halt"), ("escalated", "because escalate"),
        ("cancelled", "because cancel"),
    ]  # fmt: skip


def test_calls_can_be_denied_and_answers_rejected(ledger: Ledger) -> None:
    with ledger.run("w") as run:
        decision = run.policy_decision(policy="p", verdict="deny")
        with run.tool_call("t") as tool:
            tool.deny(decision, "over the cap")
        with run.model_call(model="m") as model:
            model.usage(input_tokens=1)
            model.reject("not JSON")
    denied = only(ledger, events.ToolCallCompleted)
    assert (denied.status, denied.policy_decision_id, denied.error_message) == ("denied", decision, "over the cap")
    assert only(ledger, events.ModelCallCompleted).status == "rejected"


def test_nested_calls_point_to_what_is_around_them(ledger: Ledger) -> None:
    with ledger.run("outer", run_id="outer") as run:
        with run.tool_call("search") as search:
            with run.model_call(model="m") as model:
                model.usage(output_tokens=1)
            decision = run.policy_decision(policy="p", verdict="allow")
            with ledger.run("inner", run_id="inner") as inner:
                assert current_run() is inner
            assert current_run() is run
        last = run.policy_decision(policy="p", verdict="allow")
    assert current_run() is None
    by_id = {event.event_id: event for event in ledger.events}
    starts = {event.run_id: event for event in every(ledger, events.RunStarted)}
    assert starts["outer"].parent_event_id is None
    assert by_id[search.event_id].parent_event_id == starts["outer"].event_id
    assert by_id[model.event_id].parent_event_id == search.event_id
    assert by_id[decision].parent_event_id == search.event_id
    assert by_id[decision].span_id == search.span_id
    assert by_id[last].parent_event_id == starts["outer"].event_id
    assert (starts["inner"].parent_run_id, starts["inner"].parent_event_id) == ("outer", search.event_id)
    assert inner.trace_id == run.trace_id
    assert search.traceparent == f"00-{run.trace_id}-{search.span_id}-01"


def test_a_trace_is_joined(ledger: Ledger) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with ledger.run("w", traceparent=f"00-{trace}-00f067aa0ba902b7-01") as run:
        assert run.trace_id == trace
    with ledger.run("w", traceparent="00-nonsense") as other:
        assert other.trace_id not in {trace, "", "0" * 32}


def test_async_runs_in_tasks_keep_to_themselves(ledger: Ledger) -> None:
    async def agent(name: str) -> None:
        async with ledger.run("w", run_id=name) as run:
            for _ in range(3):
                async with run.model_call(model="m") as call:
                    await asyncio.sleep(0)
                    assert current_run() is run
                    call.usage(input_tokens=1)
                    async with run.tool_call(name):
                        await asyncio.sleep(0)

    async def all_agents() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(agent(f"run-{number}"))

    asyncio.run(all_agents())
    by_id = {event.event_id: event for event in ledger.events}
    tools = every(ledger, events.ToolCallCompleted)
    assert len(tools) == 24
    for tool in tools:
        assert tool.tool == tool.run_id
        around = by_id[tool.parent_event_id or ""]
        assert isinstance(around, events.ModelCallCompleted)
        assert around.run_id == tool.run_id
    assert sorted(event.producer_seq for event in ledger.events) == list(range(8 * 8))


def test_a_cancelled_task_is_recorded_as_cancelled(ledger: Ledger) -> None:
    async def agent() -> None:
        async with ledger.run("w") as run, run.model_call(model="m"):
            await asyncio.sleep(30)

    async def cancel() -> None:
        task = asyncio.create_task(agent())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert only(ledger, events.ModelCallCompleted).status == "cancelled"
    assert only(ledger, events.RunFinished).status == "cancelled"


def test_decorated_tools_record_their_arguments_results_and_errors(ledger: Ledger) -> None:
    ledger.content = ContentRules(tenant_id=ledger.tenant_id, redact=lambda value: value)

    @ledger.tool(effect="write", target="orders")
    def refund(order_id: str, amount: int = 1, *, note: str = "") -> dict[str, object]:
        if amount > 100:
            raise BoomError("too much")
        return {"order": order_id, "note": note}

    class Shop:
        @ledger.tool
        async def lookup(self, order_id: str) -> str:
            await asyncio.sleep(0)
            return order_id.lower()

    assert refund("A-0") == {"order": "A-0", "note": ""}  # outside of a run: works, unrecorded
    with ledger.run("w") as run:
        assert refund("A-1", 5, note="n") == {"order": "A-1", "note": "n"}
        assert asyncio.run(Shop().lookup("A-2")) == "a-2"
        assert isinstance(raised_by(lambda: refund("A-3", amount=101)), BoomError)

        @run.tool(name="ping")
        def unnamed() -> None:
            return None

    unnamed()  # of that run, wherever it is called
    assert refund.__name__ == "refund"
    calls = every(ledger, events.ToolCallCompleted)
    assert [(call.tool, call.arguments_redacted, call.result_redacted, call.status) for call in calls] == [
        ("refund", '{"amount":5,"note":"n","order_id":"A-1"}', '{"note":"n","order":"A-1"}', "ok"),
        ("lookup", '{"order_id":"A-2"}', '"a-2"', "ok"),
        ("refund", '{"amount":101,"order_id":"A-3"}', None, "error"),
        ("ping", "{}", None, "ok"),
    ]
    assert {call.effect for call in calls if call.tool == "refund"} == {"write"}


def test_a_tool_outside_of_a_run_is_told_about(ledger: Ledger, problems: list[EmitProblem]) -> None:
    @ledger.tool
    def lookup() -> int:
        return 1

    assert lookup() == 1
    assert [problem.reason for problem in problems] == ["no_run"]
    assert ledger.events == []


def test_a_generator_is_no_tool(ledger: Ledger) -> None:
    def stream() -> Any:
        yield 1

    with pytest.raises(UsageError, match="generator"):
        ledger.tool(stream)


def test_a_decorated_function_is_a_run(ledger: Ledger) -> None:
    @ledger.traced_run(workflow="nightly", budget={"tool_calls": 1})
    def job(number: int) -> str:
        run = current_run()
        assert isinstance(run, Run)
        with run.tool_call("t"):
            pass
        return run.run_id

    @ledger.traced_run
    async def fetch() -> None:
        raise BoomError

    assert job(1) != job(2)
    assert isinstance(raised_by(lambda: asyncio.run(fetch())), BoomError)
    assert [event.workflow for event in every(ledger, events.RunStarted)] == ["nightly", "nightly", "fetch"]
    assert [event.status for event in every(ledger, events.RunFinished)] == ["succeeded", "succeeded", "failed"]


def test_calls_that_have_happened_are_recorded_in_one_go(ledger: Ledger, problems: list[EmitProblem]) -> None:
    with ledger.run("w", budget={"model_calls": 1}) as run:
        first = run.record_model_call(
            model="m", provider="p", input_tokens=3, output_tokens=4, latency_ms=12, status="ok",
            reported_cost_usd=0.5, occurred_at=START_US - 7, output="text", colour="red",
        )  # fmt: skip
        run.record_model_call(model="m", error=BoomError("no"))
        run.record_tool_call("t", arguments=[1], result=2, effect="read", policy_decision_id="not an id")
        with pytest.raises(RunBudgetExceededError):
            run.model_call(model="m").__enter__()
    done, failed = every(ledger, events.ModelCallCompleted)
    assert (done.event_id, done.occurred_at, done.latency_ms) == (first, START_US - 7, 12.0)
    assert (done.reported_cost_nanousd, done.requestor) == (500_000_000, "assistant")
    assert (failed.status, failed.error_type, failed.input_tokens) == ("error", "BoomError", None)
    tool = only(ledger, events.ToolCallCompleted)
    assert (tool.effect, tool.result_bytes, tool.policy_decision_id) == ("read", 1, None)
    assert [problem.reason for problem in problems] == ["unknown_field", "invalid_event_id"]
    assert (run.usage.model_calls, run.usage.tokens, run.usage.cost_nanousd) == (2, 7, 500_000_000)


def test_a_late_outcome_needs_only_the_runs_id(ledger: Ledger) -> None:
    first = ledger.outcome("run-9", success=True, verified_by="agent")
    ledger.outcome("run-9", success=False, verified_by="review", replaces_event_id=first, workflow="w")
    early, late = every(ledger, events.OutcomeRecorded)
    assert (early.run_id, early.success, early.agent_id, early.trace_id) == ("run-9", True, "support-bot", "")
    assert (late.success, late.replaces_event_id, late.workflow) == (False, first, "w")


def test_content_is_kept_only_where_the_ledger_was_told_so() -> None:
    def hide(value: Any) -> Any:
        return {**value, "card": "…"} if "card" in value else None

    ledger = Ledger.for_testing(redact=hide)
    with ledger.run("w") as run, run.tool_call("pay", arguments={"card": "4111", "n": 1}) as call:
        call.result({"receipt": 1})
    tool = only(ledger, events.ToolCallCompleted)
    assert (tool.arguments_redacted, tool.result_redacted) == ('{"card":"…","n":1}', None)

    ledger = Ledger.for_testing(redact=lambda value: 1 / 0)
    with ledger.run("w") as run, run.tool_call("pay", arguments={"card": "4111"}):
        pass
    assert only(ledger, events.ToolCallCompleted).arguments_redacted is None

    ledger = Ledger.for_testing(keep_content=True)
    with ledger.run("w") as run, run.tool_call("big", arguments="x" * 70_000) as call:
        call.result("small")
    tool = only(ledger, events.ToolCallCompleted)
    assert (tool.arguments_redacted, tool.arguments_bytes, tool.result_redacted) == (None, 70_002, '"small"')


def test_threads_share_a_run(ledger: Ledger) -> None:
    with ledger.run("w") as run:

        def work() -> None:
            for _ in range(50):
                with run.tool_call("t"):
                    pass

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    recorded = ledger.events
    assert sorted(event.producer_seq for event in recorded) == list(range(202))
    assert sorted(event.step for event in recorded) == list(range(202))
    assert run.usage.tool_calls == 200


@pytest.mark.parametrize(
    "misuse",
    [
        {"target": 12, "idempotency_key": None, "attempt": "two"},
        {"target": "\ud800", "evidence_ids": 7},
        {"effect": ["write"], "dry_run": "yes", "call_id": b"x"},
        {"policy_decision_id": "x", "tool_version": object()},
        {"arguments": object(), "evidence_ids": [1, None]},
    ],
)
def test_facts_of_the_wrong_type_are_mended_and_never_raise(ledger: Ledger, misuse: dict[str, Any]) -> None:
    with ledger.run("w", labels={"n": 1, 2: None}) as run, run.tool_call("t", **misuse) as call:  # type: ignore[dict-item]
        call.reported_cost_usd("a lot")
        call.latency_ms = float("nan")
    tool = only(ledger, events.ToolCallCompleted)
    assert tool.status == "ok"
    assert tool.labels == {"team": "care", "n": "1", "2": ""}
    assert ledger.counters.emitted == ledger.counters.delivered == 3


def test_only_a_ledger_in_memory_shows_its_events() -> None:
    with (
        Ledger(bootstrap_servers="127.0.0.1:1", flush_wait_ms_max=0) as ledger,
        pytest.raises(UsageError, match="for_testing"),
    ):
        _ = ledger.events
