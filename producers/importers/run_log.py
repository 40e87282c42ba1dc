"""`run-log`: JSON lines, one per step, with `run_id`, `step` and `type`; a line with `final` closes the run.

Lines of several runs may be mixed, and a run may be split over files: ids and sequence follow from `run_id` and `step`
alone, so each part adds what the others lack, and a step that never arrives is a gap in the producer's sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from agentledger.producers.importers.documents import read_lines
from agentledger.producers.importers.records import (
    TIMELESS_START_US,
    ImportOptions,
    Item,
    Rejected,
    RunBuilder,
    RunFacts,
    Unmapped,
)
from agentledger.producers.json_values import (
    as_count,
    as_ms,
    as_text,
    cost_nanousd,
    digest_and_size,
    parse_json,
    short_text,
)
from agentledger.producers.usage import disjoint_tokens
from agentledger.schemas.errors import ImportFormatError
from agentledger.schemas.events import (
    ModelCallCompleted,
    OutcomeRecorded,
    RunFinished,
    RunStarted,
    ToolCallCompleted,
    ValidationCompleted,
)

FAMILY = "run-log"
OPEN_RUNS_MAX = 100_000  # runs whose closing line hasn't come yet; about 1 kB each
STEPS_MAX = 100_000  # of one run, held until it closes
STEP_MAX = 1_000_000  # its number also makes the time
STATUSES = {
    "success": "succeeded",
    "succeeded": "succeeded",
    "failure": "failed",
    "failed": "failed",
    "error": "failed",
    "escalated": "escalated",
    "halted": "halted",
    "cancelled": "cancelled",
}
SUCCESS = {"succeeded": True, "failed": False}
KNOWN = {
    "model_call": {"model", "tokens_in", "tokens_out", "latency_ms", "cost_usd", "status", "error"},
    "tool_call": {"tool", "input", "output", "latency_ms", "cost_usd", "status", "error"},
    "validator": {"rule", "result", "reason", "latency_ms"},
    "final": {"final", "cost_usd", "total_latency_ms", "reason", "error"},
}
COMMON = {"run_id", "step", "type"}


def read(path: Path, options: ImportOptions) -> Iterator[Item]:
    """The runs of one file. Raises ImportFormatError where the file can't be read on."""
    return parse(read_lines(path), options, str(path))


def parse(lines: Iterable[tuple[int, bytes]], options: ImportOptions, origin: str) -> Iterator[Item]:
    """The runs of numbered lines: each when its closing line comes, those that stay open at the end."""
    open_runs: dict[str, list[dict[str, Any]]] = {}
    for number, line in lines:
        where = f"{origin}:{number}"
        try:
            record = _checked(parse_json(line))
        except ImportFormatError as error:
            yield Rejected(where, error.what)
            continue
        run_id = as_text(record["run_id"])
        steps = open_runs.setdefault(run_id, [])
        if len(open_runs) > OPEN_RUNS_MAX or len(steps) >= STEPS_MAX:
            raise ImportFormatError(
                "too many open runs, or steps in one run, to hold", where=where, next_step="split the file by run"
            )
        steps.append(record)
        if "final" in record:
            yield from _run(run_id, open_runs.pop(run_id), options)
    for run_id, steps in open_runs.items():
        yield from _run(run_id, steps, options)
        yield Unmapped("run without a closing line", example=run_id)


def _checked(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict) or not as_text(record.get("run_id")):
        raise ImportFormatError("the line has no `run_id`")
    if "final" not in record:
        if as_text(record.get("type")) not in KNOWN or record["type"] == "final":
            raise ImportFormatError(
                f"the line's `type` is {record.get('type')!r}, not model_call, tool_call or validator"
            )
        if not 0 < (as_count(record.get("step")) or 0) <= STEP_MAX:
            raise ImportFormatError("the line's `step` is not a number from 1 to a million")
    return record


def _run(run_id: str, records: list[dict[str, Any]], options: ImportOptions) -> Iterator[Item]:
    facts = RunFacts(family=FAMILY, natural_id=run_id, agent_id=FAMILY, workflow=FAMILY, labels={"times": "none"})
    run = RunBuilder(facts, options)
    run.add(RunStarted, TIMELESS_START_US, seq=0, source=run.source)
    left_over: list[Item] = []
    steps: dict[int, dict[str, Any]] = {}
    for record in sorted(records, key=lambda record: ("final" in record, record.get("step", 0))):
        try:
            kind = _take(run, record, steps)
        except ImportFormatError as error:
            left_over.append(Rejected(f"run {run_id}, step {record.get('step', 'final')}", error.what))
            continue
        if not kind:
            left_over.append(Unmapped("line that repeats another", example=f"{run_id} step {record['step']}"))
            continue
        unknown = sorted(record.keys() - COMMON - KNOWN[kind])
        left_over += [Unmapped(f"field {name} of a {kind} line", example=run_id) for name in unknown]
    yield run.finish()
    yield from left_over


def _take(run: RunBuilder, record: dict[str, Any], steps: dict[int, dict[str, Any]]) -> str:
    """Adds the record's events and gives its kind; empty where the same line came before. Raises ImportFormatError."""
    if "final" in record:
        _close(run, record, max(steps, default=0))
        return "final"
    step: int = record["step"]
    if step in steps:
        if steps[step] == record:
            return ""
        raise ImportFormatError("two different lines of one run have the same `step`")
    steps[step] = record
    kind: str = record["type"]
    {"model_call": _model_call, "tool_call": _tool_call, "validator": _validator}[kind](run, record, step)
    return kind


def _model_call(run: RunBuilder, record: dict[str, Any], step: int) -> None:
    model = as_text(record.get("model"))
    run.add(
        ModelCallCompleted,
        _time_of(step),
        seq=step,
        provider=model.partition("/")[0] if "/" in model else "",
        requested_model=model,
        **disjoint_tokens({"prompt_tokens": record.get("tokens_in"), "completion_tokens": record.get("tokens_out")}),
        **_ending(record),
    )


def _tool_call(run: RunBuilder, record: dict[str, Any], step: int) -> None:
    digests: dict[str, Any] = {}
    for name, given in (("arguments", "input"), ("result", "output")):
        if given in record:
            digests[f"{name}_digest"], digests[f"{name}_bytes"] = digest_and_size(record[given])
    run.add(ToolCallCompleted, _time_of(step), seq=step, tool=as_text(record.get("tool")), **digests, **_ending(record))


def _validator(run: RunBuilder, record: dict[str, Any], step: int) -> None:
    run.add(
        ValidationCompleted,
        _time_of(step),
        seq=step,
        rule=as_text(record.get("rule")),
        result=as_text(record.get("result")),
        reason=short_text(record.get("reason") or ""),
        latency_ms=as_ms(record.get("latency_ms")),
    )


def _time_of(step: int) -> int:
    """The log has no times: the fixed start, and a millisecond per step."""
    return TIMELESS_START_US + step * 1000


def _ending(record: dict[str, Any]) -> dict[str, Any]:
    """The fields of a call that the log may have; a line without `status` and `error` is a call that went well."""
    error = record.get("error")
    return {
        "requestor": "assistant",
        "status": as_text(record.get("status")) or ("error" if error else "ok"),
        "error_type": "reported" if error else "",
        "error_message": short_text(error) if error else "",
        "latency_ms": as_ms(record.get("latency_ms")),
        "reported_cost_nanousd": cost_nanousd(record.get("cost_usd")),
    }


def _close(run: RunBuilder, record: dict[str, Any], last_step: int) -> None:
    """The closing line: how the run ended, and, if it says success or failure, the outcome."""
    final = as_text(record.get("final")) or str(record.get("final"))
    status = STATUSES.get(final)
    if status is None:
        raise ImportFormatError(f"`final` is {final!r}, not one of {', '.join(STATUSES)}")
    duration_ms = as_ms(record.get("total_latency_ms"))
    at_us = _time_of(last_step + 1)
    error = record.get("error")
    run.add(
        RunFinished,
        at_us,
        seq=last_step + 1,
        status=status,
        reason=short_text(record.get("reason") or final),
        duration_ms=None if duration_ms is None else round(duration_ms),
        reported_cost_nanousd=cost_nanousd(record.get("cost_usd")),
        error_message=short_text(error) if error else "",
    )
    if status in SUCCESS:
        run.add(
            OutcomeRecorded,
            at_us,
            seq=last_step + 2,
            success=SUCCESS[status],
            verified_by="closing line of the run log",
        )
