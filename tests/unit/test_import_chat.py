"""The `chat` importer: any records with a message list, with options that name the fields."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agentledger.producers.importers import ImportedRun, ImportOptions, Rejected, Unmapped, read_file
from agentledger.producers.importers.chat import field_at, parse, parse_lines, read_outcome
from agentledger.schemas.errors import ImportFormatError
from agentledger.schemas.events import ModelCallCompleted, OutcomeRecorded, RunFinished, RunStarted, ToolCallCompleted

TRAJ: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Where is it?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"a": 1.0, "b": [2]}'}},
            {"id": "c2", "type": "function", "function": {"name": "find", "arguments": '{"b":[2],"a":1}'}},
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 4},
            "cost": 0.5,
        },
    },
    {"role": "tool", "tool_call_id": "c2", "content": "Error: nothing"},
    {"role": "tool", "tool_call_id": "c1", "content": "here"},
    {"role": "assistant", "content": "There."},
]
RECORD = {"task_id": 12, "trial": 0, "info": {"reward": Decimal("1.0")}, "traj": TRAJ, "model": "openai/gpt-4.1"}
OPTIONS = ImportOptions(
    source="s",
    messages="traj",
    outcome="info.reward",
    run_id=("task_id", "trial"),
    task="task_id",
    model="model",
)


def run_of(record: Any, options: ImportOptions = OPTIONS) -> ImportedRun:
    runs = [item for item in parse(record, options, "x") if isinstance(item, ImportedRun)]
    assert len(runs) == 1
    return runs[0]


def test_a_record_becomes_a_run() -> None:
    run = run_of(RECORD)
    start, end, outcome = run.events[0], run.events[-2], run.events[-1]
    assert isinstance(start, RunStarted)
    assert isinstance(end, RunFinished)
    assert isinstance(outcome, OutcomeRecorded)
    assert run.run_id.startswith("12/0-")
    assert (start.task, start.source, end.status, outcome.success, outcome.score) == ("12", "s", "succeeded", True, 1.0)
    calls = [event for event in run.events if isinstance(event, ModelCallCompleted)]
    assert [(c.input_tokens, c.cache_read_tokens, c.output_tokens, c.reported_cost_nanousd) for c in calls] == [
        (6, 4, 5, 500_000_000),
        (None, None, None, None),
    ]
    assert {(c.provider, c.requested_model) for c in calls} == {("openai", "openai/gpt-4.1")}


def test_calls_pair_by_id_and_equal_arguments_have_equal_digests() -> None:
    tools = [event for event in run_of(RECORD).events if isinstance(event, ToolCallCompleted)]
    assert [(t.call_id, t.status, t.error_message) for t in tools] == [
        ("c1", "ok", ""),
        ("c2", "error", "Error: nothing"),
    ]
    assert tools[0].arguments_digest == tools[1].arguments_digest


def test_records_are_found_wherever_they_lie() -> None:
    for document in (RECORD, [RECORD], {"meta": [1], "simulations": [RECORD]}):
        assert run_of(document) == run_of(RECORD)
    line = json.dumps(RECORD, default=float).encode()
    runs = [item for item in parse_lines([(1, line)], OPTIONS, "x") if isinstance(item, ImportedRun)]
    assert [run.run_id for run in runs] == [run_of(RECORD).run_id]


def test_equally_numbered_records_of_two_batches_do_not_collide() -> None:
    other = RECORD | {"traj": [{"role": "assistant", "content": "No."}]}
    assert run_of(other).run_id != run_of(RECORD).run_id
    assert run_of(RECORD, ImportOptions(messages="traj")).run_id.startswith("chat-")


def test_a_greeting_without_usage_beside_messages_with_it_is_no_model_call() -> None:
    messages = [
        {"role": "assistant", "content": "Hi!", "usage": None},
        {"role": "user", "content": "Hi", "cost": Decimal("0.25")},
        {"role": "assistant", "content": "Yes?", "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
    ]
    items = list(parse({"messages": messages}, ImportOptions(), "x"))
    run = next(item for item in items if isinstance(item, ImportedRun))
    assert sum(isinstance(event, ModelCallCompleted) for event in run.events) == 1
    assert [(item.kind, item.amount_nanousd) for item in items if isinstance(item, Unmapped)] == [
        ("assistant message without usage, unlike others", 0),
        ("user message with a cost of its own", 250_000_000),
    ]


@pytest.mark.parametrize(
    ("value", "success", "score"),
    [
        (True, True, None),
        (Decimal("0.0"), False, 0.0),
        (1, True, 1.0),
        ("PASS", True, None),
        ("failed", False, None),
        ("maybe", None, None),
        (None, None, None),
    ],
)
def test_outcomes(value: Any, success: bool | None, score: float | None) -> None:
    assert read_outcome(value) == (success, score)


def test_what_is_missing_is_listed() -> None:
    options = ImportOptions(outcome="reward", run_id=("id",))
    items = list(parse({"messages": [{"role": "ghost"}, {"role": "tool", "content": "x"}]}, options, "x"))
    assert [item.kind for item in items if isinstance(item, Unmapped)] == [
        "record without the field id of the run id",
        "message of role ghost",
        "tool result without a call",
        "record without an outcome",
    ]


def test_wrong_lines_are_rejected_with_their_number(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"messages": [{"role": "user"}]}\n\n{"messages": 1}\n{oops\n{"messages": [1]}\n')
    items = read_file("chat", path)
    assert [item.where for item in items if isinstance(item, Rejected)] == [f"{path}:{number}" for number in (3, 4, 5)]
    assert sum(isinstance(item, ImportedRun) for item in items) == 1


def test_a_document_without_records_is_refused() -> None:
    with pytest.raises(ImportFormatError, match="--messages"):
        list(parse({"simulations": []}, ImportOptions(), "x"))


def test_fields_are_found_by_path_and_dots_in_names_come_first() -> None:
    record = {"a": {"b": 1}, "c.d": 2}
    assert [field_at(record, path) for path in ("a.b", "c.d", "a.x", "x.y", "")] == [1, 2, None, None, None]
