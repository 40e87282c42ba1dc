"""Cost per outcome for a terminal and as plain values for JSON: a table by one dimension, two groups side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentledger.sinks.cost_per_outcome import METRICS, MONEY_PARTS, AttemptGroup, Comparison, Difference
from agentledger.sinks.event_text import clean, duration_text, money_text
from agentledger.sinks.intervals import CONFIDENCE, Interval
from agentledger.sinks.result_text import plain

NARROW = 120  # columns below which the intervals are left to --json
VALUE_CHARACTERS_MAX = 28
SHOWN = (
    ("completed", "completion_rate"), ("success", "success_rate"), ("escal.", "escalation_rate"),
    ("contained", "containment_rate"), ("tools", "tool_calls_per_run"), ("resolved in", "resolution_ms"),
    ("/attempt", "cost_per_attempt"), ("/success", "cost_per_success"),
)  # fmt: skip
FEWER = ("success_rate", "escalation_rate", "tool_calls_per_run", "cost_per_attempt", "cost_per_success")
REPORTED = {"cost_per_attempt": "reported_cost_per_attempt", "cost_per_success": "reported_cost_per_success"}


def cost_table(groups: Sequence[AttemptGroup], by: str, width: int = 80) -> RenderableType:
    """One line per value of the dimension, and notes on what the figures leave out."""
    if not groups:
        return Text("no such run is recorded: agentledger scoreboard shows the workflows")
    shown = [(heading, name) for heading, name in SHOWN if width >= NARROW or name in FEWER]
    several = len({group.tenant_id for group in groups}) > 1
    table = Table(box=None, padding=(0, 2 if width >= NARROW else 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(by, overflow="fold", min_width=8, max_width=VALUE_CHARACTERS_MAX)
    for heading in ("attempts", *(heading for heading, _ in shown), "cost"):
        table.add_column(heading, justify="right", no_wrap=True)
    tenant = None
    for group in groups:
        if several and group.tenant_id != tenant:
            tenant = group.tenant_id
            table.add_row(Text(f"tenant {clean(tenant)}", style="dim"))
        figures = [_figure(group, name) for _, name in shown]
        table.add_row(_named(group.value), Text(f"{group.row['attempts']:,}"), *figures, _total(group))
    return Group(table, *_notes([group.row for group in groups]))


def comparison_table(compared: Comparison, width: int = 80) -> RenderableType:
    """Two groups metric by metric, the change with its interval, and whether that is more than noise."""
    base, other = compared.base, compared.other
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(compared.by, no_wrap=True)
    for group in (base, other):
        heading = Text(clean(group.value, 24) or "(none)", justify="right")
        table.add_column(heading, justify="right", no_wrap=width >= NARROW)
    table.add_column("change", justify="right", no_wrap=True)
    table.add_column("")
    table.add_row(Text("attempts"), *(Text(f"{group.row['attempts']:,}") for group in (base, other)))
    for change in compared.differences:
        if change.base is None and change.other is None:
            continue
        metric = METRICS[change.name]
        table.add_row(
            Text(metric.label),
            *(Text(with_ends(side, metric.kind, width)) for side in (change.base, change.other)),
            Text(signed_text(change.change, metric.kind)),
            _verdict(change),
        )
    share = f"{compared.confidence * 100:g} %"
    foot = (
        f"{share} intervals: Wilson for rates, Fieller for costs, order statistics for the time; a change is more than "
        f"noise where its own interval leaves out 0. Attempts count as independent."
    )
    return Group(table, *_notes([base.row, other.row]), *_doubts(compared), Text(foot, style="dim"))


def _doubts(compared: Comparison) -> list[Text]:
    """What else may lie behind a difference."""
    sides, doubts = (compared.base, compared.other), []
    models = [", ".join(clean(model) or "(none)" for model in group.row["models"]) for group in sides]
    if compared.by != "model" and models[0] != models[1]:
        doubts.append(f"the models differ, too: {models[0]} against {models[1]}; --model compares like with like")
    for group in sides:
        attempts, tasks = group.row["attempts"], group.row["tasks"]
        if tasks * 2 <= attempts:
            name = clean(group.value, 24) or "(none)"
            plural = "s" if tasks > 1 else ""
            doubts.append(f"{name}: {attempts:,} attempts at {tasks:,} task{plural}: of other tasks this says little")
    return [Text(doubt, style="yellow") for doubt in doubts]


def group_record(group: AttemptGroup, by: str, confidence: float = CONFIDENCE) -> dict[str, Any]:
    """The group for JSON: counts and exact sums as they are, each metric with the ends of its interval."""
    left_out = {"tenant_id", "value", "resolutions_ms"}
    sums = {
        name: plain(value)
        for name, value in group.row.items()
        if name not in left_out and not name.endswith(("_squares", "_of_successes"))
    }
    metrics = {name: _ends(group.interval(name, confidence)) for name in METRICS}
    return {"tenant_id": group.tenant_id, by: group.value, **sums, "metrics": metrics}


def comparison_record(compared: Comparison) -> dict[str, Any]:
    """The comparison for JSON."""
    by, confidence = compared.by, compared.confidence
    return {
        "by": by,
        "confidence": confidence,
        "base": group_record(compared.base, by, confidence),
        "other": group_record(compared.other, by, confidence),
        "changes": {
            change.name: {"change": _ends(change.change), "more_than_noise": change.more_than_noise}
            for change in compared.differences
        },
    }


def _ends(interval: Interval | None) -> dict[str, float | None] | None:
    """JSON has no infinity: an open end is null."""
    if interval is None:
        return None
    return {name: end if math.isfinite(end) else None for name, end in interval._asdict().items()}


def _named(value: str) -> Text:
    return Text(clean(value) or "(none)")


def _figure(group: AttemptGroup, name: str) -> Text:
    interval, mark, style = group.interval(name), "", ""
    if name in REPORTED:
        if interval is None:
            interval, mark, style = group.interval(REPORTED[name]), "~", "dim"
        elif group.row["unpriced_model_calls"]:
            mark, style = "*", "yellow"
    if interval is None:
        return Text("-", style="dim")
    text = _amount(interval.value, METRICS[name].kind)
    return Text(f"~{text}" if mark == "~" else f"{text}{mark}", style=style)


def _total(group: AttemptGroup) -> Text:
    cost, reported = group.row["cost_nanousd"], group.row["reported_cost_nanousd"]
    if cost is None and reported is not None:
        return Text(f"~{money_text(reported)}", style="dim")
    return Text(money_text(cost) + ("*" if cost is not None and group.row["unpriced_model_calls"] else ""))


def _amount(amount: float, kind: str) -> str:
    if not math.isfinite(amount):
        return "…"
    if kind == "rate":
        return f"{amount * 100:.1f}%"
    if kind == "money":
        return money_text(round(amount))
    return duration_text(round(amount)) if kind == "time" else f"{amount:.2f}"


def with_ends(interval: Interval | None, kind: str, width: int) -> str:
    """A figure in the unit of its kind, with the ends of its interval where there is room for them."""
    if interval is None:
        return "-"
    text = _amount(interval.value, kind)
    return text if width < NARROW else f"{text} ({_amount(interval.low, kind)} to {_amount(interval.high, kind)})"


def signed_text(change: Interval | None, kind: str) -> str:
    """A difference with its sign, and the ends of its interval."""
    if change is None:
        return "-"
    ends = [_sign(end, kind) for end in change]
    return f"{ends[0]} ({ends[1]} to {ends[2]})"


def _sign(amount: float, kind: str) -> str:
    """With a sign, also for an open end; a change of a rate is in percentage points."""
    sign = "-" if amount < 0 else "+"
    text = _amount(abs(amount), kind)
    return f"{sign}{text.removesuffix('%')}" if kind == "rate" else f"{sign}{text}"


def _verdict(change: Difference) -> Text:
    if change.change is None:
        return Text("")
    if not change.more_than_noise:
        return Text("noise", style="dim")
    return Text("higher" if change.change.value > 0 else "lower", style="bold yellow")


def _notes(rows: Sequence[Any]) -> list[Text]:
    """What the figures hold and leave out, as far as there is any."""
    total = {name: sum(row[name] or 0 for row in rows) for name in (*_PARTS.values(), *_CHANGED, *_NOTES)}
    parts = [f"{part} {money_text(total[name])}" for part, name in _PARTS.items() if total[name]]
    changed = [f"{total[name]:,} {words}" for name, words in _CHANGED.items() if total[name]]
    notes = [Text(f"of the cost: {' · '.join(parts)}", style="dim")] if parts else []
    if changed:
        notes.append(Text(f"outcomes: {', '.join(changed)}", style="dim"))
    notes += [
        Text(words.format(f"{total[name]:,}"), style=style) for name, (words, style) in _NOTES.items() if total[name]
    ]
    if any(row["cost_nanousd"] is None and row["reported_cost_nanousd"] is not None for row in rows):
        notes.append(Text("~ as providers reported it: no price of ours", style="dim"))
    return notes


_PARTS = {part: f"{part}_cost_nanousd" for part in MONEY_PARTS}
_CHANGED = {
    "late_outcomes": "a day or more after the end",
    "repeated_outcomes": "stated more than once",
    "reversed_outcomes": "reversed",
}
_NOTES = {
    "sub_runs": ("sub-runs, part of their attempts: {}", "dim"),
    "unaccounted": ("without a known outcome, their cost is counted: {}", "dim"),
    "silent_failures": ("say succeeded, and their outcome says failure: {}", "red"),
    "denials": ("policy denials: {}", "dim"),
    "unpriced_model_calls": ("* at least: model calls without a price: {}", "yellow"),
}
