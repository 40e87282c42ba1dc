"""`tau2-events`: a batch's folder with the harness's results and the event log written while it ran.

Runs, turns, calls and outcomes are taken from `results.json`, which has each once. The log adds what only it knows: the
real times (the results have local times without zone), how long tools took, the state before and after a call, and what
a passive observer concluded. All its other events say again what is already there; they are counted.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentledger.producers.importers import tau2
from agentledger.producers.importers.documents import read_document, read_lines
from agentledger.producers.importers.messages import Call
from agentledger.producers.importers.records import ImportOptions, Item, Rejected, RunBuilder, Unmapped, iso_to_us
from agentledger.producers.json_values import as_dict, as_list, as_text, digest_and_size, parse_json, short_text
from agentledger.schemas.errors import ImportFormatError
from agentledger.schemas.events import PolicyDecided, StateChanged, ToolCallCompleted

FAMILY = "tau2-events"
RESULTS, EVENTS, OBSERVER = "results.json", "runtime_events.jsonl", "observer_events.jsonl"
ZONE_STEP_US = 15 * 60 * 1_000_000  # zones differ by quarters of an hour
_USED = {"tool_dispatch_start", "tool_dispatch_end", "orchestrator_run_start", "evaluation_start", "simulation_end"}


@dataclass
class LiveRun:
    """What the log says about one simulation while it ran, before its evaluation replayed anything."""

    simulation_id: str
    started_us: int
    ended_us: int = 2**63 - 1
    latencies_ms: dict[str, float] = field(default_factory=dict)
    states: dict[str, tuple[str, str]] = field(default_factory=dict)
    intents: list[dict[str, Any]] = field(default_factory=list)


def main_file_of(path: Path) -> Path:
    """The results that a log belongs to; any other file itself."""
    name = path.name.removesuffix(".gz")
    return (_beside(path, RESULTS) or path) if name in {EVENTS, OBSERVER} else path


def read(path: Path, options: ImportOptions) -> Iterator[Item]:
    """The runs of one batch, given its results. Raises ImportFormatError where results or event log can't be read."""
    log_path = _beside(path, EVENTS)
    if log_path is None:
        raise ImportFormatError(
            f"there is no {EVENTS} beside the results", where=str(path), next_step="import it with the format tau2"
        )
    observer_path = _beside(path, OBSERVER)
    observed = read_lines(observer_path) if observer_path else []
    return parse(
        read_document(path), (read_lines(log_path), str(log_path)), (observed, str(observer_path)), options, str(path)
    )


def _beside(path: Path, name: str) -> Path | None:
    candidates = (path.parent / f"{name}{ending}" for ending in ("", ".gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


Lines = tuple[Iterable[tuple[int, bytes]], str]


def parse(results: Any, log: Lines, observed: Lines, options: ImportOptions, origin: str) -> Iterator[Item]:
    """The runs of one batch; `log` and `observed` are numbered lines and where they come from."""
    counts: Counter[str] = Counter()
    entries: list[dict[str, Any]] = []
    observations: list[dict[str, Any]] = []
    for (lines, where), into in ((log, entries), (observed, observations)):
        for number, line in lines:
            try:
                into.append(as_dict(parse_json(line)))
            except ImportFormatError as error:
                yield Rejected(f"{where}:{number}", error.what)
    runs = read_live_runs(entries, counts)
    for observation in observations:
        _take_observation(observation, runs, counts)
    views = {run.simulation_id: _view_of(run, results) for run in runs}
    yield from tau2.parse(results, options, origin, views)
    for run in runs:
        if run.intents:
            counts["observer event that no tool call goes with"] += len(run.intents)
    for kind, count in sorted(counts.items()):
        yield Unmapped(kind, count, example=origin)


def read_live_runs(entries: list[dict[str, Any]], counts: Counter[str]) -> list[LiveRun]:
    """The simulations in the log, in order. Entries that add nothing are counted by type into `counts`."""
    runs: list[LiveRun] = []
    live: LiveRun | None = None
    dispatched_us: dict[str, int] = {}
    for entry in entries:
        kind, at_us = as_text(entry.get("event_type")), iso_to_us(entry.get("timestamp"))
        trace = as_dict(as_dict(entry.get("payload")).get("runtime_trace"))
        if kind not in _USED or at_us is None:
            counts[f"event {kind or 'without type'}, says what the results say"] += 1
        elif kind == "orchestrator_run_start":
            live = LiveRun(as_text(trace.get("simulation_id")), at_us)
            runs.append(live)
        elif kind in {"evaluation_start", "simulation_end"}:
            if live is not None:
                live.ended_us = at_us
            live = None
        elif live is None:
            counts[f"event {kind}, replayed by the evaluation"] += 1
        elif kind == "tool_dispatch_start":
            dispatched_us[as_text(entry.get("event_id"))] = at_us
        else:
            begun_us = dispatched_us.pop(as_text(entry.get("parent_event_id")), None)
            _take_dispatch(live, trace, None if begun_us is None else (at_us - begun_us) / 1000)
    return runs


def _take_dispatch(live: LiveRun, trace: dict[str, Any], latency_ms: float | None) -> None:
    call_id = as_text(as_dict(as_dict(trace.get("response")).get("raw")).get("id"))
    if latency_ms is not None and latency_ms >= 0:
        live.latencies_ms.setdefault(call_id, latency_ms)
    before, after = as_text(trace.get("state_hash_before")), as_text(trace.get("state_hash_after"))
    if before and after and before != after:
        live.states.setdefault(call_id, (before, after))


def _take_observation(observation: dict[str, Any], runs: list[LiveRun], counts: Counter[str]) -> None:
    kind, at_us = as_text(observation.get("event_type")), iso_to_us(observation.get("timestamp"))
    payload = as_dict(observation.get("payload"))
    if kind != "write_intent_candidate" or at_us is None:
        counts[f"observer event {kind}"] += 1
        return
    live = next((run for run in runs if run.started_us <= at_us < run.ended_us), None)
    if live is None:
        counts["observer event of the evaluation's replay"] += 1
        return
    live.intents.append(payload | {"at_us": at_us, "key": _intent_key(payload)})


def _intent_key(payload: dict[str, Any]) -> tuple[str, str]:
    return as_text(payload.get("tool_name")), digest_and_size(payload.get("proposed_write_arguments"))[0]


def _view_of(live: LiveRun, results: Any) -> tau2.LiveView:
    """The log's knowledge in the form in which the `tau2` parser takes it."""
    simulations = as_list(as_dict(results).get("simulations"))
    local_us = next(
        (iso_to_us(s.get("start_time")) for s in map(as_dict, simulations) if s.get("id") == live.simulation_id), None
    )
    shift = 0 if local_us is None else round((live.started_us - local_us) / ZONE_STEP_US) * ZONE_STEP_US
    return tau2.LiveView(
        utc_shift_us=shift,
        latencies_ms=live.latencies_ms,
        after_tool_call=functools.partial(_add_what_the_log_knows, live),
    )


def _add_what_the_log_knows(live: LiveRun, run: RunBuilder, call: Call, event: ToolCallCompleted) -> None:
    """Adds the observer's verdict and the change of state that go with a tool call."""
    key = (call.name, digest_and_size(call.arguments)[0])
    # The observer looks twice at each call, as it passes environment and toolkit: one decision, so both are taken out.
    seen = [intent for intent in live.intents if intent["key"] == key and intent["at_us"] <= event.occurred_at]
    for intent in seen:
        live.intents.remove(intent)
    if seen:
        _add_decision(run, seen[0], event, len(seen))
    if call.call_id in live.states:
        before, after = live.states[call.call_id]
        run.add(
            StateChanged,
            event.occurred_at,
            producer=FAMILY,
            parent_event_id=event.event_id,
            resource="environment database",
            before_digest=f"sha256:{before}",
            after_digest=f"sha256:{after}",
            reversible="unknown",
            tool_call_event_id=event.event_id,
        )


def _add_decision(run: RunBuilder, intent: dict[str, Any], event: ToolCallCompleted, looks: int) -> None:
    warning = as_dict(next(iter(as_list(intent.get("warnings"))), None))
    run.add(
        PolicyDecided,
        intent["at_us"],
        producer=FAMILY,
        parent_event_id=event.event_id,
        labels={"looks": str(looks)},
        engine="write intent observer",
        policy=as_text(intent.get("schema")),
        rule=as_text(warning.get("code")),
        verdict="allow",
        enforced="observed",
        risk_tier=as_text(warning.get("severity")),
        reason=short_text(warning.get("message") or ""),
        action=as_text(intent.get("tool_name")),
        input_digest=intent["key"][1],
    )
