"""Precision and recall of the shipped rules on the recorded runs: `python -m tests.rules_table [--write]`.

The recordings are folded as if they had been recorded live: ledger time is each event's own time.
"""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from agentledger.infra.replay_stages import SpilledStates
from agentledger.processors.rule_trial import Firing, RuleTrial
from agentledger.processors.rules.judgements import steps_limit
from agentledger.processors.rules.loading import default_rules
from agentledger.processors.rules.memory import RunFacts
from agentledger.processors.rules.models import StepCount
from agentledger.processors.rules.normals import EPOCH_US, Normals
from agentledger.producers.importers import import_files
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.events import Event, RunStarted
from agentledger.schemas.prices import GenaiPriceBook
from tests.planted import Placed, live, plants
from tests.trace_labels import LABELS, SETS, Recorded, Truth, runs_of, truth_of
from tests.traces import EXPECTED, ROOT, traces_folder

DOCUMENT = ROOT / "infra" / "docs" / "ALERT_RULES.md"
DAY_US = 86_400_000_000
PLANTED_IN = ("tau2-retail/retail-gpt-4.1.json.gz", "tau2-retail/telecom-solo-gpt-4.1-4trials.json.gz")
FAULTY_EACH = 3
PAGE = "critical"
APART_US = 600_000_000  # longer than a run with placeholder times takes
ORDERS = 100
OTHER_THRESHOLDS = ((1.2, 98), (1.4, 98), (1.3, 99), (1.4, 95), (1.6, 95), (1.75, 90), (2.0, 90))
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
    return in_turn(live(events))


def in_turn(events: Sequence[Event]) -> list[Event]:
    """Runs that all begin at one moment, which is a placeholder then, begin one after another, in their order."""
    starts = {event.run_id: event.occurred_at for event in events if isinstance(event, RunStarted)}
    together: dict[int, list[str]] = defaultdict(list)
    for run_id, start_us in starts.items():
        together[start_us].append(run_id)
    later_us = {run_id: place * APART_US for runs in together.values() for place, run_id in enumerate(runs)}
    return [replace(event, occurred_at=event.occurred_at + later_us.get(event.run_id, 0)) for event in events]


def runaways_in_any_order() -> dict[tuple[float, int], tuple[float, float]]:
    """Thresholds of the rule on steps (times and quantile), those shipped first, to what it names then.

    The runs of each workflow come in a random order, and each is judged by those before it. Named is a share of all
    runaway runs, and how many others, in the mean over ORDERS orders.
    """
    [shipped] = [rule for rule in default_rules() if isinstance(rule, StepCount)]
    groups: dict[str, list[Recorded]] = defaultdict(list)
    for name in SETS:
        for run in runs_of(traces_folder(), name):
            groups[f"{name} {run.workflow}"].append(run)
    far = {run_id for truth, _ in on_recordings().values() for run_id in truth.runs["runaway"]}
    circling = {run_id for truth, _ in on_recordings().values() for run_id in truth.runs["circles"]}
    found = {}
    for times, percent in [(shipped.times, shipped.quantile_percent), *OTHER_THRESHOLDS]:
        rule = shipped.model_copy(update={"times": times, "quantile_percent": percent})
        orders = [(runs, random.Random(seed)) for runs in groups.values() for seed in range(ORDERS)]
        named = [run_id for runs, rng in orders for run_id in _named_in_order(rule, runs, rng, circling)]
        right = sum(run_id in far for run_id in named)
        found[times, percent] = right / ORDERS / len(far), (len(named) - right) / ORDERS
    return found


def _named_in_order(rule: StepCount, runs: Sequence[Recorded], rng: random.Random, circling: set[str]) -> Iterator[str]:
    """The runs that the rule names where they end one after another in an order drawn at random.

    Those that went in circles by the files have the other sign that the rule asks for while few runs are known.
    """
    normals = Normals()
    facts = RunFacts("t", "r", 0)
    facts.workflow = "w"
    for offset, run in enumerate(rng.sample(runs, len(runs))):
        facts.last_time_us = 2 * offset * EPOCH_US
        is_known = normals.of(facts.last_time_us, "t", "w").runs >= rule.min_volume
        if run.steps > steps_limit(rule, facts, normals) and (is_known or run.run_id in circling):
            yield run.run_id
        normals.add(offset, facts.last_time_us, "t", "w", run.steps, policy=False)


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
        "What is normal for `runaway_run` depends on which runs came before. In the mean over "
        f"{ORDERS} random orders of the runs of each workflow, all sets together, with the thresholds that are shipped "
        "(first) and with others:",
        table(
            ("times", "quantile", "runaway runs named", "others named"),
            (
                [str(times), f"{percent} %", f"{share:.2f}", f"{others:.2f}"]
                for (times, percent), (share, others) in runaways_in_any_order().items()
            ),
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
