"""The `tau2` importer: what is a model call, how calls find their results, and what money was really reported."""

from __future__ import annotations

from decimal import Decimal
from hashlib import sha256
from typing import Any, TypeVar

import pytest

from agentledger.producers.importers import ImportedRun, ImportOptions, Rejected, Unmapped
from agentledger.producers.importers.tau2 import parse
from agentledger.schemas.errors import ImportFormatError
from agentledger.schemas.events import (
    ModelCallCompleted,
    OutcomeRecorded,
    PolicyDecided,
    RunFinished,
    RunStarted,
    ToolCallCompleted,
)

E = TypeVar("E")
PROSE = (
    "Invalid message format. Original message: AssistantMessage\ncontent: Jane lives here\n"
    "cost: 0.00784. Error: You sent a message with both text content and tool calls."
)


def say(role: str, text: str | None, second: int, **more: Any) -> dict[str, Any]:
    stamp = f"2025-08-01T10:00:{second:02d}.500000"
    return {"role": role, "content": text, "tool_calls": None, "timestamp": stamp, "usage": None, "cost": None} | more


def call(call_id: str, name: str, requestor: str = "assistant", **arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "name": name, "arguments": arguments, "requestor": requestor}


def spoken(prompt: int, completion: int, cost: str) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": completion}, "cost": Decimal(cost)}


def batch(messages: list[dict[str, Any]], **simulation: Any) -> dict[str, Any]:
    run = {
        "id": "07a19ead-5eb9-40a3-8786-41daf19cf315",
        "task_id": "[mobile]a|b:c",
        "trial": 3,
        "seed": 7,
        "start_time": "2025-08-01T10:00:00.000000",
        "end_time": "2025-08-01T10:00:30.000000",
        "termination_reason": "user_stop",
        "agent_cost": Decimal("0.003"),
        "reward_info": {"reward": Decimal("1.0")},
        "messages": messages,
    }
    info = {
        "git_commit": "b02b509367e8436f956c334741ac7cf7c9f5dabe",
        "agent_info": {"implementation": "llm_agent", "llm": "xai/grok-4"},
        "user_info": {"llm": "gpt-4.1"},
        "environment_info": {"domain_name": "retail", "policy": "Be kind."},
    }
    return {"info": info, "simulations": [run | simulation]}


CONVERSATION = [
    say("assistant", "Hi! How can I help you today?", 0, cost=Decimal("0.0")),
    say("user", "Where is my order?", 1, **spoken(400, 12, "0.001")),
    say(
        "assistant", None, 3, tool_calls=[call("c1", "find", a=1), call("c2", "find", a=1)], **spoken(3000, 20, "0.002")
    ),
    say("tool", '{"id": 1}', 4, id="c2", requestor="assistant", error=False),
    say("tool", "Error: not found", 5, id="c1", requestor="assistant", error=True),
    say("assistant", "Here it is.", 7, errors=[PROSE], **spoken(3100, 10, "0.001")),
]


def run_of(document: dict[str, Any], options: ImportOptions | None = None) -> ImportedRun:
    runs = [item for item in parse(document, options or ImportOptions(), "x.json") if isinstance(item, ImportedRun)]
    assert len(runs) == 1
    return runs[0]


def of(run: ImportedRun, kind: type[E]) -> list[E]:
    return [event for event in run.events if isinstance(event, kind)]


def left_over(document: dict[str, Any]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for item in parse(document, ImportOptions(), "x.json"):
        if isinstance(item, Unmapped):
            count, amount = found.get(item.kind, (0, 0))
            found[item.kind] = count + item.count, amount + item.amount_nanousd
    return found


def test_a_conversation_becomes_one_run_of_model_calls_and_tool_calls() -> None:
    run = run_of(batch(CONVERSATION), ImportOptions(source="mine"))
    start, end, outcome = of(run, RunStarted)[0], of(run, RunFinished)[0], of(run, OutcomeRecorded)[0]
    assert (start.run_id, start.source, start.task) == ("07a19ead-5eb9-40a3-8786-41daf19cf315", "mine", "[mobile]a|b:c")
    assert (start.workflow, start.policy_version) == ("retail", sha256(b"Be kind.").hexdigest()[:12])
    assert start.labels == {"seed": "7", "times": "naive taken as utc", "trial": "3"}
    assert (end.status, end.reason, end.reported_cost_nanousd, end.duration_ms) == (
        "succeeded",
        "user_stop",
        3_000_000,
        30_000,
    )
    assert (outcome.success, outcome.score) == (True, 1.0)
    assert [event.producer_seq for event in run.events] == list(range(len(run.events)))
    assert [event.step for event in run.events] == list(range(len(run.events)))


def test_the_scripted_greeting_and_the_user_simulator_are_no_model_calls_of_the_agent() -> None:
    calls = of(run_of(batch(CONVERSATION)), ModelCallCompleted)
    assert [(c.input_tokens, c.output_tokens, c.reported_cost_nanousd) for c in calls] == [
        (3000, 20, 2_000_000),
        (3100, 10, 1_000_000),
    ]
    assert [(c.provider, c.requested_model, c.requestor, c.latency_ms) for c in calls] == [
        ("xai", "xai/grok-4", "assistant", 2000.0)
    ] * 2
    left = left_over(batch(CONVERSATION))
    assert left["user simulator turn"] == (1, 1_000_000)
    assert left["scripted greeting, no model call"] == (1, 0)


def test_calls_find_their_results_by_id_and_keep_the_error() -> None:
    tools = of(run_of(batch(CONVERSATION)), ToolCallCompleted)
    assert [(t.call_id, t.status, t.error_type, t.latency_ms) for t in tools] == [
        ("c1", "error", "tool_error", 2000.0),
        ("c2", "ok", "", 1000.0),
    ]
    assert tools[0].arguments_digest == tools[1].arguments_digest
    assert tools[0].error_message == "Error: not found"
    assert {t.parent_event_id for t in tools} == {of(run_of(batch(CONVERSATION)), ModelCallCompleted)[0].event_id}


def test_a_rejected_attempt_is_a_decision_and_its_text_stays_out() -> None:
    decisions = of(run_of(batch(CONVERSATION)), PolicyDecided)
    assert [(d.engine, d.verdict, d.enforced) for d in decisions] == [("harness", "deny", "blocked")]
    assert decisions[0].reason == "You sent a message with both text content and tool calls."
    assert "Jane" not in repr(run_of(batch(CONVERSATION)).events)
    assert left_over(batch(CONVERSATION))["cost of a rejected attempt, only in prose"] == (1, 7_840_000)
    assert of(run_of(batch(CONVERSATION)), ModelCallCompleted)[1].attempt == 2


def test_empty_call_ids_pair_by_position() -> None:
    messages = [
        say("assistant", None, 1, tool_calls=[call("", "one"), call("", "two")], **spoken(10, 1, "0.1")),
        say("tool", "Error: first", 2, id="", requestor="assistant", error=True),
        say("tool", "second", 3, id="", requestor="assistant", error=False),
        say("assistant", None, 4, tool_calls=[call("", "three")], **spoken(10, 1, "0.1")),
    ]
    tools = of(run_of(batch(messages)), ToolCallCompleted)
    assert [(t.tool, t.status, t.error_type) for t in tools] == [
        ("one", "error", "tool_error"),
        ("two", "ok", ""),
        ("three", "error", "no_result"),
    ]


def test_zero_cost_beside_usage_is_not_priced() -> None:
    messages = [say("user", "Hi", 0), say("assistant", "Hello", 1, **spoken(5, 2, "0.0"))]
    document = batch(messages, agent_cost=Decimal("0.0"))
    run = run_of(document)
    assert of(run, ModelCallCompleted)[0].reported_cost_nanousd is None
    assert of(run, RunFinished)[0].reported_cost_nanousd is None
    assert left_over(document)["cost 0 beside usage, taken as not priced"] == (1, 0)


def test_without_any_usage_each_agent_message_but_the_greeting_is_a_model_call() -> None:
    def bare(role: str, text: str, **more: Any) -> dict[str, Any]:
        return {"role": role, "content": text, "tool_calls": None} | more

    messages = [
        bare("assistant", "Hi!"),
        bare("user", "Hello"),
        bare("assistant", "", tool_calls=[call("a", "find")]),
        bare("tool", "Error: no such user", id="a", requestor="assistant"),
        bare("assistant", '{"message": "Sorry"}'),
    ]
    document = batch(messages, agent_cost=None, start_time="2025-01-01T00:00:00.000000", end_time="2025-01-01T00:01:00")
    run = run_of(document)
    calls = of(run, ModelCallCompleted)
    assert [(c.requested_model, c.input_tokens, c.reported_cost_nanousd, c.latency_ms) for c in calls] == [
        ("", None, None, None)
    ] * 2
    assert [t.status for t in of(run, ToolCallCompleted)] == ["error"]
    assert run.events[0].labels["times"] == "of the run only"
    assert calls[0].occurred_at < calls[1].occurred_at


def test_a_preset_history_counts_its_tool_call_but_no_model_call() -> None:
    messages = [
        say("user", "Make a task", 0),
        say("assistant", "", 1, tool_calls=[call("call_1", "create")]),
        say("tool", "{}", 2, id="call_1", requestor="assistant", error=False),
        say("assistant", "Done", 3),
        say("user", "Thanks", 4, **spoken(5, 2, "0.001")),
        say("assistant", "Bye", 5, **spoken(9, 3, "0.002")),
    ]
    document = batch(messages, agent_cost=None)
    assert len(of(run_of(document), ModelCallCompleted)) == 1
    assert len(of(run_of(document), ToolCallCompleted)) == 1
    assert left_over(document)["preset message, no model call"] == (3, 0)


@pytest.mark.parametrize(
    ("reason", "tool", "status"),
    [
        ("agent_stop", "find", "succeeded"),
        ("user_stop", "transfer_to_human_agents", "escalated"),
        ("max_steps", "find", "halted"),
        ("too_many_errors", "find", "failed"),
        ("agent_error", "find", "failed"),
    ],
)
def test_how_a_run_ended(reason: str, tool: str, status: str) -> None:
    messages = [say("assistant", None, 1, tool_calls=[call("c", tool)], **spoken(1, 1, "0.1"))]
    run = run_of(batch(messages, termination_reason=reason, reward_info={"reward": Decimal("0.0")}))
    assert of(run, RunFinished)[0].status == status
    assert of(run, OutcomeRecorded)[0].success is False


def test_a_run_that_can_not_be_read_is_rejected_and_the_others_go_on() -> None:
    document = batch(CONVERSATION)
    document["simulations"] += [{"id": "x"}, 7]
    items = list(parse(document, ImportOptions(), "f.json"))
    assert [item.where for item in items if isinstance(item, Rejected)] == [
        "f.json: simulations[1]",
        "f.json: simulations[2]",
    ]
    assert sum(isinstance(item, ImportedRun) for item in items) == 1


def test_another_document_is_refused_and_an_empty_batch_is_listed() -> None:
    with pytest.raises(ImportFormatError, match="simulations"):
        list(parse({"spans": []}, ImportOptions(), "f.json"))
    assert left_over({"simulations": [], "info": {}}) == {"batch without any run": (1, 0)}


def test_the_same_run_has_the_same_bytes_from_any_file_and_other_ids_in_another_tenant() -> None:
    first, again = run_of(batch(CONVERSATION)), run_of(batch(CONVERSATION))
    assert first == again
    other = run_of(batch(CONVERSATION), ImportOptions(tenant_id="acme"))
    assert not {e.event_id for e in first.events} & {e.event_id for e in other.events}
    assert other.run_id == "acme/07a19ead-5eb9-40a3-8786-41daf19cf315"


def test_another_source_changes_only_the_start_under_the_same_id() -> None:
    first = run_of(batch(CONVERSATION), ImportOptions(source="a"))
    second = run_of(batch(CONVERSATION), ImportOptions(source="b"))
    assert [e.event_id for e in first.events] == [e.event_id for e in second.events]
    assert [type(a).__name__ for a, b in zip(first.events, second.events, strict=True) if a != b] == ["RunStarted"]
