"""The `tau2-events` importer: results once, and from the event log only what the results don't have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentledger.producers.importers import (
    ImportedRun,
    ImportOptions,
    Rejected,
    Unmapped,
    find_files,
    read_file,
    tau2,
    tau2_events,
)
from agentledger.schemas.errors import ImportFormatError
from agentledger.schemas.events import PolicyDecided, StateChanged, ToolCallCompleted

RUN = "80f58ded-e863-49c4-b052-a013e1d92fc8"
BEFORE, AFTER = "1" * 64, "2" * 64
ARGUMENTS = {"id": 1}


def results() -> dict[str, Any]:
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    asked = {"id": "c1", "name": "book", "arguments": ARGUMENTS, "requestor": "assistant"}
    messages = [
        {"role": "user", "content": "Book", "usage": usage, "cost": 1, "timestamp": "2026-05-31T12:00:01"},
        {
            "role": "assistant",
            "tool_calls": [asked],
            "usage": usage,
            "cost": 1,
            "timestamp": "2026-05-31T12:00:03",
        },
        {"role": "tool", "id": "c1", "requestor": "assistant", "content": "{}", "error": False}
        | {"timestamp": "2026-05-31T12:00:05"},
    ]
    simulation = {
        "id": RUN,
        "task_id": "8",
        "start_time": "2026-05-31T12:00:00.010000",
        "end_time": "2026-05-31T12:00:06",
        "termination_reason": "user_stop",
        "agent_cost": 1,
        "reward_info": {"reward": 1},
        "messages": messages,
    }
    return {"info": {}, "simulations": [simulation]}


def entry(kind: str, second: str, event_id: str = "", parent: str | None = None, **trace: Any) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "event_type": kind,
        "timestamp": f"2026-05-31T19:00:{second}+00:00",
        "parent_event_id": parent,
        "payload": {"runtime_trace": trace},
    }


def dispatch(number: int, start: str, end: str) -> list[dict[str, Any]]:
    raw = {"id": "c1", "error": False, "content": "{}"}
    states = {"state_hash_before": BEFORE, "state_hash_after": AFTER}
    return [
        entry("tool_dispatch_start", start, f"rt-{number}"),
        entry("tool_dispatch_end", end, f"rt-{number + 1}", f"rt-{number}", response={"raw": raw}, **states),
    ]


LOG = [
    entry("trace_bootstrap_start", "00.000", argv=["--save-to", "/Users/jane/runs"]),
    entry("orchestrator_run_start", "00.000", simulation_id=RUN),
    entry("tool_call_requested", "04.000"),
    *dispatch(1, "04.000", "04.125"),
    entry("evaluation_start", "07.000"),
    *dispatch(3, "08.000", "08.100"),
    entry("simulation_end", "09.000"),
]


def look(second: str, kind: str = "write_intent_candidate") -> dict[str, Any]:
    warning = {"code": "no_ledger", "severity": "low", "message": "seen"}
    payload = {"tool_name": "book", "proposed_write_arguments": ARGUMENTS, "warnings": [warning], "schema": "v1"}
    return {"event_type": kind, "timestamp": f"2026-05-31T19:00:{second}+00:00", "payload": payload}


OBSERVED = [look("04.010"), look("04.020"), look("08.010"), look("05.000", "constraint_ledger_snapshot")]


def lines(entries: list[dict[str, Any]]) -> tuple[list[tuple[int, bytes]], str]:
    return [(number, json.dumps(e).encode()) for number, e in enumerate(entries, 1)], "log"


def items_of(log: list[dict[str, Any]], observed: list[dict[str, Any]]) -> list[Any]:
    return list(tau2_events.parse(results(), lines(log), lines(observed), ImportOptions(), "x"))


def run_of(items: list[Any]) -> ImportedRun:
    return next(item for item in items if isinstance(item, ImportedRun))


def test_the_log_adds_times_states_and_decisions() -> None:
    run = run_of(items_of(LOG, OBSERVED))
    assert [type(event).__name__ for event in run.events] == [
        "RunStarted",
        "ModelCallCompleted",
        "ToolCallCompleted",
        "PolicyDecided",
        "StateChanged",
        "RunFinished",
        "OutcomeRecorded",
    ]
    tool, decision, change = run.events[2:5]
    assert isinstance(tool, ToolCallCompleted)
    assert isinstance(decision, PolicyDecided)
    assert isinstance(change, StateChanged)
    assert tool.latency_ms == 125.0
    assert (decision.verdict, decision.enforced, decision.rule, decision.labels["looks"]) == (
        "allow",
        "observed",
        "no_ledger",
        "2",
    )
    assert (change.before_digest, change.after_digest) == (f"sha256:{BEFORE}", f"sha256:{AFTER}")
    assert change.tool_call_event_id == decision.parent_event_id == tool.event_id
    assert "jane" not in repr(run.events)


def test_times_are_moved_to_utc_but_ids_are_those_of_the_results_alone() -> None:
    live = run_of(items_of(LOG, OBSERVED))
    plain = run_of(list(tau2.parse(results(), ImportOptions(), "x")))
    common = [event for event in live.events if "tau2-events" not in event.producer_id]
    assert [event.event_id for event in common] == [event.event_id for event in plain.events]
    assert {a.occurred_at - b.occurred_at for a, b in zip(common, plain.events, strict=True)} == {7 * 3_600_000_000}
    assert live.events[0].labels["times"] == "utc"
    for producer in {event.producer_id for event in live.events}:
        numbers = [event.producer_seq for event in live.events if event.producer_id == producer]
        assert numbers == list(range(len(numbers)))


def test_what_the_log_repeats_is_counted() -> None:
    left = {item.kind: item.count for item in items_of(LOG, OBSERVED) if isinstance(item, Unmapped)}
    assert left == {
        "event trace_bootstrap_start, says what the results say": 1,
        "event tool_call_requested, says what the results say": 1,
        "event tool_dispatch_start, replayed by the evaluation": 1,
        "event tool_dispatch_end, replayed by the evaluation": 1,
        "observer event of the evaluation's replay": 1,
        "observer event constraint_ledger_snapshot": 1,
        "user simulator turn": 1,
    }


def test_an_intent_that_no_call_follows_is_counted() -> None:
    odd = look("04.010")
    odd["payload"]["tool_name"] = "other"
    left = {item.kind: item.count for item in items_of(LOG, [odd]) if isinstance(item, Unmapped)}
    assert left["observer event that no tool call goes with"] == 1


def test_a_folder_is_one_batch_whichever_file_is_named(tmp_path: Path) -> None:
    names = {
        "results.json": json.dumps(results()),
        "runtime_events.jsonl": "\n".join(map(json.dumps, LOG)) + "\n{oops\n",
    }
    for name, text in names.items():
        (tmp_path / name).write_text(text)
    main = tmp_path / "results.json"
    assert find_files([tmp_path], "tau2-events").files == [main]
    assert find_files([tmp_path / "runtime_events.jsonl", main], "tau2-events").files == [main]
    items = read_file("tau2-events", main)
    assert [item.where for item in items if isinstance(item, Rejected)] == [f"{tmp_path}/runtime_events.jsonl:10"]
    assert len(run_of(items).events) == 6


def test_results_without_a_log_name_the_other_format(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results()))
    with pytest.raises(ImportFormatError, match="format tau2"):
        read_file("tau2-events", tmp_path / "results.json")
