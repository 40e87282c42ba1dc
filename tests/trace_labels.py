"""What really happened in the recorded runs, read from the raw files by code of its own: the truth for alert rules.

Neither importers nor rules are used here. A label looks at a whole run, or a whole set of runs, with hindsight, which
a rule can't have: it judges while the run goes on.
"""

from __future__ import annotations

import gzip
import json
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SETS = ("tau2-retail", "tau2-policy-trials", "swe-django", "otel-any-agent", "tau2-events")
ESCALATION_TOOLS = {"transfer_to_human_agents"}
ENDED_BY_ITSELF = {"user_stop", "agent_stop", "Submitted"}


@dataclass
class Recorded:
    """One run as its file has it. `calls`: tool with arguments, result. `failed`: of each attempt of anything."""

    run_id: str
    workflow: str
    calls: list[tuple[str, str]] = field(default_factory=list)
    failed_in_a_row: int = 0
    refusals: int = 0
    turns: int = 0
    success: bool | None = None
    ended_by_itself: bool = False
    escalated: bool = False
    model: str = ""

    @property
    def steps(self) -> int:
        return self.turns + len(self.calls)

    @property
    def wasted(self) -> int:
        """Calls whose exact result the run had had before from the same call."""
        return sum(count - 1 for count in Counter(self.calls).values())


@dataclass(frozen=True)
class Truth:
    """Run ids by label; `models` are the names of models of which the READMEs say that their price is unknown."""

    runs: dict[str, set[str]]
    models: set[str]
    all_runs: set[str]

    def ordinary(self) -> set[str]:
        """Runs without any label."""
        return self.all_runs - set().union(*self.runs.values())


LABELS = {
    "circles": "at least 5 of the run's tool calls, and a sixth of all, gave what the same call had given before",
    "loop": "the same tool call with the same arguments 4 times in a row, recounted from the files",
    "cycle": "2 to 4 tool calls, not all the same, 3 times over, recounted from the files",
    "storm": "5 attempts in a row refused or failed, recounted from the files",
    "refused": "at least 5 of the run's replies refused by the harness, recounted from its notices",
    "runaway": "steps beyond Q3 + 3 (Q3 - Q1) of all runs of its workflow (Tukey's far out), and twice their median",
    "false_success": "reward 0, or not resolved; the run ended by itself and without handing over to a person",
}


def runs_of(folder: Path, name: str) -> list[Recorded]:
    """The runs of one set."""
    return list(_READERS[name](folder / name))


def truth_of(folder: Path, name: str) -> Truth:
    """The labels of one set."""
    runs = runs_of(folder, name)
    by_workflow: dict[str, list[Recorded]] = defaultdict(list)
    for run in runs:
        by_workflow[run.workflow].append(run)
    labels = {
        "circles": {run.run_id for run in runs if run.wasted >= 5 and 6 * run.wasted >= len(run.calls)},
        "loop": {run.run_id for run in runs if _longest_streak(_asked(run)) >= 4},
        "cycle": {run.run_id for run in runs if _has_cycle(_asked(run))},
        "storm": {run.run_id for run in runs if run.failed_in_a_row >= 5},
        "refused": {run.run_id for run in runs if run.refusals >= 5},
        "runaway": {run.run_id for group in by_workflow.values() for run in _far_out(group)},
        "false_success": {
            run.run_id for run in runs if run.success is False and run.ended_by_itself and not run.escalated
        },
    }
    models = {run.model for run in runs if run.model.startswith("ft:")}
    return Truth(labels, models, {run.run_id for run in runs})


def _asked(run: Recorded) -> list[str]:
    return [asked for asked, _ in run.calls]


def _longest_streak(asked: list[str]) -> int:
    longest = streak = 0
    for before, call in zip(["", *asked], asked, strict=False):
        streak = streak + 1 if call == before else 1
        longest = max(longest, streak)
    return longest


def _has_cycle(asked: list[str]) -> bool:
    """A block of 2 to 4 calls, three times in a row: looked for as text."""
    names = {call: chr(0x100 + number) for number, call in enumerate(dict.fromkeys(asked))}
    text = "".join(names[call] for call in asked)
    found = re.finditer(r"(?=((.{2,4})\2\2))", text)
    return any(len(set(match[2])) > 1 for match in found)


def _far_out(runs: list[Recorded]) -> list[Recorded]:
    if len(runs) < 4:
        return []
    first, middle, third = statistics.quantiles([run.steps for run in runs], n=4)
    return [run for run in runs if run.steps > third + 3 * (third - first) and run.steps >= 2 * middle]


def _load(path: Path) -> Any:
    with gzip.open(path) as file:
        return json.loads(file.read())


def _tau2(folder: Path) -> Iterator[Recorded]:
    for path in sorted(folder.rglob("*.json.gz")):
        batch = _load(path)
        for simulation in batch["simulations"]:
            yield _simulation(simulation, batch["info"])


def _simulation(simulation: dict[str, Any], info: dict[str, Any]) -> Recorded:
    run = Recorded(simulation["id"], info["environment_info"]["domain_name"], model=info["agent_info"]["llm"])
    run.success = simulation["reward_info"]["reward"] == 1.0
    run.ended_by_itself = simulation["termination_reason"] in ENDED_BY_ITSELF
    waiting: list[tuple[str, str]] = []  # id and call
    in_a_row = 0
    for place, message in enumerate(simulation["messages"]):
        asked = message.get("tool_calls") or []
        if message["role"] == "assistant":
            run.turns += bool(place or asked or message.get("usage"))
            run.refusals += len(message.get("errors") or [])
            run.escalated |= any(call["name"] in ESCALATION_TOOLS for call in asked)
        waiting += [(call["id"], f"{call['name']} {json.dumps(call['arguments'], sort_keys=True)}") for call in asked]
        if message["role"] == "tool" and waiting:
            match = next((entry for entry in waiting if entry[0] == message["id"]), waiting[0])
            waiting.remove(match)
            content = message.get("content") or ""
            run.calls.append((match[1], content))
            in_a_row = in_a_row + 1 if message.get("error") or content.startswith("Error:") else 0
            run.failed_in_a_row = max(run.failed_in_a_row, in_a_row)
    return run


def _swe(folder: Path) -> Iterator[Recorded]:
    for path in sorted((folder / "trajs").glob("*.json.gz")):
        recorded = _load(path)
        task = recorded["instance_id"]
        report = _load(folder / "reports" / f"{task}.report.json.gz")
        run = Recorded(task, "swe-bench", ended_by_itself=recorded["info"]["exit_status"] in ENDED_BY_ITSELF)
        run.success = report.get(task, report)["resolved"]
        messages = recorded["messages"]
        in_a_row = 0
        for place, message in enumerate(messages[:-1]):
            if message["role"] != "assistant":
                continue
            run.turns += 1
            answer = messages[place + 1]["content"]
            refused = answer.startswith("Please always provide EXACTLY ONE action")
            if refused:
                run.refusals += 1
            else:
                command = re.search(r"```bash\s*\n(.*?)\n?```", message["content"], re.DOTALL)
                run.calls.append((command[1].strip() if command else "", answer))
            in_a_row = in_a_row + 1 if refused else 0
            run.failed_in_a_row = max(run.failed_in_a_row, in_a_row)
        yield run


def _otel(folder: Path) -> Iterator[Recorded]:
    for path in sorted(folder.glob("*.json.gz")):
        if path.name == "MANIFEST.json.gz":
            continue
        spans = _load(path)["spans"]
        run = Recorded(f"{spans[0]['context']['trace_id']:032x}", "any_agent", ended_by_itself=True)
        for span in sorted(spans, key=lambda span: span["start_time"]):
            attributes = span["attributes"]
            if attributes.get("gen_ai.operation.name") == "call_llm":
                run.turns += 1
            elif attributes.get("gen_ai.operation.name") == "execute_tool":
                asked = f"{attributes.get('gen_ai.tool.name')} {attributes.get('gen_ai.tool.args')}"
                run.calls.append((asked, str(attributes.get("gen_ai.output"))))
        yield run


def _tau2_events(folder: Path) -> Iterator[Recorded]:
    for path in sorted(folder.glob("*/results.json.gz")):
        batch = _load(path)
        for simulation in batch["simulations"]:
            yield _simulation(simulation, batch["info"])


_READERS = {
    "tau2-retail": _tau2,
    "tau2-policy-trials": _tau2,
    "swe-django": _swe,
    "otel-any-agent": _otel,
    "tau2-events": _tau2_events,
}
