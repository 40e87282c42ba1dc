"""The `run-log` importer: the exact lines of its definition, runs mixed or split, and lines that are wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentledger.producers.importers import ImportedRun, ImportOptions, Rejected, Unmapped
from agentledger.producers.importers.run_log import parse
from agentledger.schemas import canonical_json, digest_bytes
from agentledger.schemas.events import (
    Event,
    ModelCallCompleted,
    OutcomeRecorded,
    RunFinished,
    RunStarted,
    ToolCallCompleted,
    ValidationCompleted,
)

LOG = """\
{"run_id":"a9c2","step":1,"type":"model_call","model":"gpt-4.1","tokens_in":1420,"tokens_out":310,"latency_ms":820}
{"run_id":"a9c2","step":2,"type":"tool_call","tool":"lookup_order","input":{"order_id":"A-10492"},"latency_ms":190}
{"run_id":"a9c2","step":3,"type":"validator","rule":"refund_amount_cap","result":"pass"}
{"run_id":"a9c2","step":4,"type":"tool_call","tool":"create_refund","input":{"order_id":"A-10492","amount_usd":38.50},"latency_ms":240}
{"run_id":"a9c2","final":"success","cost_usd":0.41,"total_latency_ms":2150}
"""


def items_of(text: str) -> list[Any]:
    lines = [(number, line.encode()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    return list(parse(lines, ImportOptions(source="s"), "log.jsonl"))


def runs_of(text: str) -> list[ImportedRun]:
    return [item for item in items_of(text) if isinstance(item, ImportedRun)]


def test_the_defined_log_word_for_word() -> None:
    items = items_of(LOG)
    assert [type(item).__name__ for item in items] == ["ImportedRun"]
    start, call, lookup, validator, refund, end, outcome = items[0].events
    assert isinstance(start, RunStarted)
    assert (start.run_id, start.source) == ("a9c2", "s")
    assert isinstance(call, ModelCallCompleted)
    assert (call.requested_model, call.input_tokens, call.output_tokens, call.latency_ms, call.status) == (
        "gpt-4.1",
        1420,
        310,
        820.0,
        "ok",
    )
    assert isinstance(lookup, ToolCallCompleted)
    assert (lookup.tool, lookup.latency_ms, lookup.status) == ("lookup_order", 190.0, "ok")
    assert isinstance(validator, ValidationCompleted)
    assert (validator.rule, validator.result) == ("refund_amount_cap", "pass")
    assert isinstance(refund, ToolCallCompleted)
    assert refund.arguments_digest == digest_bytes(canonical_json({"amount_usd": 38.5, "order_id": "A-10492"}))
    assert isinstance(end, RunFinished)
    assert (end.status, end.reported_cost_nanousd, end.duration_ms) == ("succeeded", 410_000_000, 2150)
    assert isinstance(outcome, OutcomeRecorded)
    assert outcome.success is True
    assert [event.producer_seq for event in items[0].events] == list(range(7))
    assert [event.occurred_at - start.occurred_at for event in items[0].events] == [
        0,
        1000,
        2000,
        3000,
        4000,
        5000,
        5000,
    ]


def test_mixed_runs_are_told_apart() -> None:
    other = LOG.replace("a9c2", "b7")
    mixed = "\n".join(line for pair in zip(LOG.splitlines(), other.splitlines(), strict=True) for line in pair)
    assert runs_of(mixed) == runs_of(LOG) + runs_of(other)


def test_a_run_split_over_files_fits_together() -> None:
    lines = LOG.splitlines(keepends=True)
    first, second = runs_of("".join(lines[:2]))[0], runs_of("".join(lines[2:]))[0]
    joined: dict[str, Event] = {event.event_id: event for event in (*first.events, *second.events)}
    assert sorted(joined.values(), key=lambda event: event.producer_seq) == list(runs_of(LOG)[0].events)
    kinds = [item.kind for item in items_of("".join(lines[:2])) if isinstance(item, Unmapped)]
    assert kinds == ["run without a closing line"]


@pytest.mark.parametrize(
    ("final", "status", "success"),
    [("failure", "failed", False), ("escalated", "escalated", None), ("halted", "halted", None)],
)
def test_other_endings(final: str, status: str, success: bool | None) -> None:
    run = runs_of(LOG.replace('"success"', f'"{final}"'))[0]
    ends = [event.status for event in run.events if isinstance(event, RunFinished)]
    outcomes = [event.success for event in run.events if isinstance(event, OutcomeRecorded)]
    assert ends == [status]
    assert outcomes == ([] if success is None else [success])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON"),
        ("7", "no `run_id`"),
        ('{"run_id": "r", "step": 1, "type": "thought"}', "'thought'"),
        ('{"run_id": "r", "step": 0, "type": "model_call"}', "`step`"),
        ('{"run_id": "r", "step": NaN, "type": "model_call"}', "NaN"),
        ('{"run_id": "a9c2", "step": 2, "type": "model_call"}', "same `step`"),
        ('{"run_id": "r", "final": "shrug"}', "`final`"),
        ('{"run_id": "r", "final": "success", "cost_usd": "much"}', "not an amount"),
    ],
)
def test_a_wrong_line_is_rejected_with_its_reason_and_the_rest_goes_on(line: str, reason: str) -> None:
    items = items_of(f"{LOG.splitlines()[1]}\n{line}\n" + LOG)
    rejected = [item for item in items if isinstance(item, Rejected)]
    assert len(rejected) == 1
    assert reason in rejected[0].reason
    whole = next(item for item in items if isinstance(item, ImportedRun) and item.run_id == "a9c2")
    assert whole == runs_of(LOG)[0]


def test_unknown_fields_and_repeated_lines_are_listed() -> None:
    line = json.dumps({"run_id": "a9c2", "step": 1, "type": "model_call", "mood": "good"})
    kinds = [item.kind for item in items_of(f"{line}\n{line}\n") if isinstance(item, Unmapped)]
    assert kinds == ["field mood of a model_call line", "line that repeats another", "run without a closing line"]
