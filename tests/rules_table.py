"""Precision and recall of the shipped rules on the recorded runs: `python -m tests.rules_table [--write]`.

The recordings are folded as if they had been recorded live: ledger time is each event's own time.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from agentledger.infra.replay_stages import SpilledStates
from agentledger.processors.rule_trial import Firing, RuleTrial
from agentledger.processors.rules.loading import default_rules
from agentledger.producers.importers import import_files
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.events import Event, RunStarted
from agentledger.schemas.prices import GenaiPriceBook
from tests.planted import Placed, live, plants
from tests.trace_labels import LABELS, SETS, Truth, truth_of
from tests.traces import EXPECTED, ROOT, traces_folder

DOCUMENT = ROOT / "infra" / "docs" / "ALERT_RULES.md"
DAY_US = 86_400_000_000
PLANTED_IN = ("tau2-retail/retail-gpt-4.1.json.gz", "tau2-retail/telecom-solo-gpt-4.1-4trials.json.gz")
FAULTY_EACH = 3
PAGE = "critical"
# Rule to the label that says for which runs it should speak.
LABEL_OF = {
    "going_in_circles": "circles",
    "tool_call_loop": "loop",
    "tool_call_cycle": "cycle",
    "retry_storm": "storm",
    "denials_in_run": "refused",
    "runaway_run": "runaway",
    "silent_failure": "false_success",
}


@dataclass
class Score:
    """Of one rule: runs (or models) that it should name, that it named, and both."""

    truth: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)

    @property
    def right(self) -> int:
        return len(self.truth & self.named)

    def add(self, truth: Iterable[str], named: Iterable[str]) -> None:
        self.truth |= set(truth)
        self.named |= set(named)

    def cells(self) -> list[str]:
        precision = f"{self.right / len(self.named):.2f}" if self.named else "–"
        recall = f"{self.right / len(self.truth):.2f}" if self.truth else "–"
        counts = (len(self.truth), len(self.named), self.right, len(self.named - self.truth))
        return [*map(str, counts), str(len(self.truth - self.named)), precision, recall]


@cache
def prices() -> GenaiPriceBook:
    return GenaiPriceBook()


def trial(placed: Sequence[Placed]) -> list[Firing]:
    """What the shipped rules say of these events, and of a day of silence after them."""
    ordered = sorted(placed, key=lambda item: item[0])
    codec = Codec(open_registry())
    folding = RuleTrial(default_rules(), prices(), codec, [0], SpilledStates())
    folding.declare([])
    for time_us, event in ordered:
        folding.take(0, time_us, codec.encode(event))
    folding.end(ordered[-1][0] + DAY_US)
    return folding.firings


def recorded(path: str) -> list[Event]:
    """The events of a set, or of one of its files, as if live."""
    events: list[Event] = []
    import_files(EXPECTED[path.partition("/")[0]].format, [traces_folder() / path], events.append)
    return live(events)


@cache
def on_recordings() -> dict[str, tuple[Truth, list[Firing]]]:
    """Set to its truth and to what the rules say of it."""
    found = {}
    for name in SETS:
        events = recorded(name)
        firings = trial([(event.occurred_at, event) for event in events])
        if name == "swe-django":  # the importer's run ids are the tasks' names with a digest
            for firing in firings:
                firing.run_id = firing.run_id.rpartition("-")[0] or firing.run_id
        found[name] = truth_of(traces_folder(), name), firings
    return found


def scores() -> dict[str, Score]:
    """Rule to its score on the recordings; run ids of different sets don't collide."""
    found: dict[str, Score] = defaultdict(Score)
    for truth, firings in on_recordings().values():
        for rule, label in LABEL_OF.items():
            found[rule].add(truth.runs[label], (firing.run_id for firing in firings if firing.rule == rule))
        found["unpriced_model"].add(truth.models, (one.scope_value for one in firings if one.rule == "unpriced_model"))
    return dict(found)


def planted_scores() -> dict[str, Score]:
    """Rule to its score on runs with planted faults."""
    runs: dict[str, list[Event]] = defaultdict(list)
    for path in PLANTED_IN:
        for event in recorded(path):
            runs[event.run_id].append(event)
    whole = {run_id: events for run_id, events in sorted(runs.items()) if isinstance(events[0], RunStarted)}
    found = {}
    for rule, plant in plants(prices()).items():
        faulty = {run_id for place, run_id in enumerate(whole) if place % FAULTY_EACH == 0}
        placed = [item for run_id, events in whole.items() for item in plant(events, run_id in faulty)]
        named = {firing.run_id for firing in trial(placed) if firing.rule == rule}
        found[rule] = Score(faulty, named)
    return found


def ordinary_alerts() -> dict[str, tuple[int, int, int]]:
    """Set to how many of its runs are ordinary, and how many alerts and pages name one of those."""
    found = {}
    for name, (truth, firings) in on_recordings().items():
        ordinary = truth.ordinary()
        alerts = [firing for firing in firings if firing.run_id in ordinary and firing.severity != "info"]
        found[name] = len(ordinary), len(alerts), sum(firing.severity == PAGE for firing in alerts)
    return found


def unlabelled() -> list[tuple[str, str, str, int]]:
    """Set, rule, severity and number of alerts of rules for which the recordings have no truth."""
    counts: dict[tuple[str, str, str], int] = defaultdict(int)
    labelled = LABEL_OF.keys() | {"unpriced_model"}
    for name, (_, firings) in on_recordings().items():
        for firing in firings:
            if firing.rule not in labelled:
                counts[name, firing.rule, firing.severity] += 1
    return [(*key, count) for key, count in sorted(counts.items())]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


HEAD = ("rule", "should name", "named", "right", "wrong", "missed", "precision", "recall")


def rendered() -> str:
    """The tables of the document."""
    measured, severities = scores(), {rule.name: rule.severity for rule in default_rules()}
    parts = [
        "On the recordings, all sets together (runs; for `unpriced_model`: models):",
        table(
            (*HEAD[:1], "severity", "label", *HEAD[1:]),
            (
                [rule, severities[rule], LABEL_OF.get(rule, "price unknown by the README"), *measured[rule].cells()]
                for rule in sorted(measured)
            ),
        ),
        "The labels:",
        table(("label", "what makes it true"), ([f"`{name}`", text] for name, text in LABELS.items())),
        "Runs without any of these labels are ordinary. Alerts (warning or critical) and pages (critical) on those:",
        table(
            ("set", "ordinary runs", "alerts", "pages"),
            ([name, *map(str, counts)] for name, counts in ordinary_alerts().items()),
        ),
        f"On {len(PLANTED_IN)} recorded batches with one fault planted into every {FAULTY_EACH}rd run and its harmless "
        "twin into the others (`tests/planted.py`):",
        table(HEAD, ([rule, *score.cells()] for rule, score in sorted(planted_scores().items()))),
        "What the other rules say of the recordings; there is no truth to compare it with:",
        table(("set", "rule", "severity", "alerts"), ([*row[:3], str(row[3])] for row in unlabelled())),
    ]
    return "\n\n".join(parts)


MARKS = ("<!-- measured: make rules-table -->", "<!-- end of what is measured -->")


def write(path: Path, text: str) -> None:
    """Put the tables between the document's marks."""
    before, rest = path.read_text("utf-8").split(MARKS[0])
    _, after = rest.split(MARKS[1])
    path.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}", "utf-8")


if __name__ == "__main__":
    tables = rendered()
    if "--write" in sys.argv:
        write(DOCUMENT, tables)
    else:
        sys.stdout.write(tables + "\n")
