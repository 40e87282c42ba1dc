"""The `mini-swe` importer: shell commands in replies, refused replies, two gateways, outcomes from the reports."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agentledger.producers.importers import ImportedRun, ImportOptions, Unmapped, find_files, read_file
from agentledger.producers.importers.mini_swe import parse
from agentledger.schemas.errors import ImportFormatError
from agentledger.schemas.events import (
    ModelCallCompleted,
    OutcomeRecorded,
    PolicyDecided,
    RunFinished,
    RunStarted,
    ToolCallCompleted,
)

REFUSAL = "Please always provide EXACTLY ONE action in triple backticks, found 2 actions.\n\nPlease format"
TIMEOUT = "The last command <command>sleep 99</command> timed out and has been killed.\nThe output was"


def reply(text: str, created: int, usage: dict[str, Any], cost: str | None = None) -> dict[str, Any]:
    response = {
        "id": f"gen-{created}",
        "provider": "Google",
        "model": "google/gemini-3-pro-preview",
        "created": created,
        "choices": [{"finish_reason": "STOP"}],
        "usage": usage,
    }
    extra: dict[str, Any] = {"response": response}
    if cost is not None:
        extra["cost"] = Decimal(cost)
    return {"role": "assistant", "content": text, "extra": extra}


def usage(prompt: int, cached: int, completion: int, reasoning: int, cost: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    return found if cost is None else found | {"cost": Decimal(cost)}


def see(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def block(command: str) -> str:
    return f"THOUGHT: so\n\n```bash\n{command}\n```\n"


def trajectory(*messages: dict[str, Any], **info: Any) -> dict[str, Any]:
    config = {
        "agent": {"system_template": "s", "instance_template": "i", "step_limit": Decimal("250.0"), "cost_limit": 3},
        "model": {"model_name": "@google/gemini-3-pro-preview"},
    }
    config["agent"]["step_limit"] = 250
    facts = {
        "exit_status": "Submitted",
        "mini_version": "1.15.0",
        "model_stats": {"instance_cost": Decimal("0.0105000001"), "api_calls": 4},
        "config": config,
    }
    return {
        "instance_id": "django__django-1",
        "info": facts | info,
        "messages": [{"role": "system", "content": "s"}, see("the task"), *messages],
    }


RUN = trajectory(
    reply(block("ls"), 1_763_000_000, usage(1000, 800, 50, 10, "0.005")),
    see("<returncode>0</returncode>\n<output>\nx</output>"),
    reply(block("ls") + block("pwd"), 1_763_000_005, usage(1100, 0, 60, 0, "0.0025")),
    see(REFUSAL),
    reply(block("false"), 1_763_000_010, usage(1200, 0, 5, 0, "0.001")),
    see("<returncode>1</returncode>\n<output>\n</output>"),
    reply(block("sleep 99"), 1_763_000_020, usage(1300, 0, 5, 0, "0.001")),
    see(TIMEOUT),
    reply(block("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"), 1_763_000_090, usage(1400, 0, 5, 0, "0.001")),
    see("diff --git a/x b/x"),
)
REPORT = {
    "resolved": True,
    "patch_exists": True,
    "tests_status": {
        "FAIL_TO_PASS": {"success": ["a"], "failure": []},
        "PASS_TO_PASS": {"success": ["b"], "failure": ["c"]},
    },
}


def items_of(document: dict[str, Any], report: Any = None) -> tuple[ImportedRun, list[str]]:
    items = list(parse(document, report, ImportOptions(source="s"), "x"))
    runs = [item for item in items if isinstance(item, ImportedRun)]
    assert len(runs) == 1
    return runs[0], [item.kind for item in items if isinstance(item, Unmapped)]


def test_commands_replies_and_decisions() -> None:
    run, _ = items_of(RUN, REPORT)
    names = [type(event).__name__ for event in run.events]
    assert names == [
        "RunStarted",
        *["ModelCallCompleted", "ToolCallCompleted"],
        *["ModelCallCompleted", "PolicyDecided"],
        *["ModelCallCompleted", "ToolCallCompleted"] * 3,
        "RunFinished",
        "OutcomeRecorded",
    ]
    tools = [event for event in run.events if isinstance(event, ToolCallCompleted)]
    assert [(t.tool, t.status, t.error_message) for t in tools] == [
        ("bash", "ok", ""),
        ("bash", "error", "return code 1"),
        ("bash", "timeout", "the command was killed at its time limit"),
        ("bash", "ok", ""),
    ]
    decision = next(event for event in run.events if isinstance(event, PolicyDecided))
    refused = run.events[3]
    assert isinstance(refused, ModelCallCompleted)
    assert (decision.verdict, decision.enforced, decision.parent_event_id) == ("deny", "blocked", refused.event_id)
    assert decision.reason == "Please always provide EXACTLY ONE action in triple backticks, found 2 actions."
    assert (refused.status, refused.reported_cost_nanousd) == ("rejected", 2_500_000)


def test_start_end_and_outcome() -> None:
    run, _ = items_of(RUN, REPORT)
    start, end, outcome = run.events[0], run.events[-2], run.events[-1]
    assert isinstance(start, RunStarted)
    assert isinstance(end, RunFinished)
    assert isinstance(outcome, OutcomeRecorded)
    assert (start.budget_cost_nanousd, start.budget_model_calls, start.on_budget_exceeded) == (
        3_000_000_000,
        250,
        "halt",
    )
    assert (start.task, start.agent_version, start.source) == ("django__django-1", "1.15.0", "s")
    assert (end.status, end.reported_cost_nanousd, end.duration_ms) == ("succeeded", 10_500_000, 90_000)
    assert (outcome.success, outcome.reason) == (True, "FAIL_TO_PASS 1/1, PASS_TO_PASS 1/2")
    assert start.occurred_at == 1_763_000_000_000_000


def test_a_limit_of_zero_is_no_limit() -> None:
    document = trajectory(config={"agent": {"step_limit": 0, "cost_limit": Decimal("0.0")}})
    start = items_of(document)[0].events[0]
    assert isinstance(start, RunStarted)
    assert (start.budget_cost_nanousd, start.budget_model_calls, start.on_budget_exceeded) == (None, None, "")


def test_the_two_gateways_count_reasoning_differently() -> None:
    document = trajectory(
        reply(block("a"), 1, usage(100, 40, 50, 10, "0.005")),
        see("<returncode>0</returncode>"),
        reply(block("b"), 2, usage(100, 40, 50, 193, None), cost="0.0013768749999999998"),
        see("<returncode>0</returncode>"),
    )
    calls = [event for event in items_of(document)[0].events if isinstance(event, ModelCallCompleted)]
    assert [
        (c.input_tokens, c.cache_read_tokens, c.output_tokens, c.reasoning_tokens, c.reported_cost_nanousd)
        for c in calls
    ] == [(60, 40, 40, 10, 5_000_000), (60, 40, 50, 193, 1_376_875)]


def test_what_is_missing_is_counted() -> None:
    document = trajectory(reply(block("ls"), 1, {}), exit_status=None)
    run, kinds = items_of(document)
    assert kinds == [
        "command whose result can't be read",
        "run without an exit status",
        "run without a report of its outcome",
    ]
    tool = next(event for event in run.events if isinstance(event, ToolCallCompleted))
    call = next(event for event in run.events if isinstance(event, ModelCallCompleted))
    assert (tool.status, tool.error_type) == ("error", "no_result")
    assert (call.input_tokens, call.output_tokens, call.reported_cost_nanousd) == (None, None, None)


def test_two_attempts_at_one_task_are_two_runs() -> None:
    one, _ = items_of(RUN)
    other, _ = items_of(trajectory(reply(block("ls"), 1_763_000_001, {})))
    assert one.run_id != other.run_id
    assert one.run_id.startswith("django__django-1-")
    assert one == items_of(json.loads(json.dumps(RUN, default=str)) and RUN)[0]


def test_the_report_changes_nothing_but_adds_the_outcome() -> None:
    without, with_report = items_of(RUN)[0], items_of(RUN, REPORT)[0]
    assert with_report.events[:-1] == without.events


def test_reports_are_found_beside_the_folder(tmp_path: Path) -> None:
    plain = json.dumps(RUN, default=float)
    for folder in ("trajs", "reports"):
        (tmp_path / folder).mkdir()
    traj = tmp_path / "trajs" / "t-1.traj.json.gz"
    report = tmp_path / "reports" / "t-1.report.json.gz"
    traj.write_bytes(gzip.compress(plain.encode()))
    report.write_bytes(gzip.compress(json.dumps(REPORT).encode()))
    assert find_files([tmp_path], "mini-swe").files == [traj]
    assert find_files([report, traj], "mini-swe").files == [traj]
    run = read_file("mini-swe", traj)[0]
    assert isinstance(run, ImportedRun)
    assert isinstance(run.events[-1], OutcomeRecorded)


def test_another_document_is_refused() -> None:
    with pytest.raises(ImportFormatError, match="trajectory"):
        list(parse({"messages": []}, None, ImportOptions(), "x"))
