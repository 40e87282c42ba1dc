"""The timeline of one run, for a terminal: every step with its tokens, time and cost, and what was concluded from it.

Steps stand in the order of `run_trail.in_order`; a charge stands in the line of its call. Offsets are of the agent's
clock; what was concluded from a step stands below it without one, as of it only the broker's time is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentledger.sinks.event_text import (
    clean,
    duration_text,
    event_text,
    money_text,
    offset_text,
    status_text,
    success_text,
    tokens_text,
    took_text,
    utc,
)
from agentledger.sinks.run_trail import EVENTS_MAX, Row, Trail, in_order, is_conclusion, repeated_ids

CALLS = {"ModelCallCompleted", "ToolCallCompleted"}
REPORTED_MARK = "~"
CONCLUDED = "concluded"  # instead of an offset: it has the broker's time, which says nothing beside the agent's clock
# In the lines and the totals, or of no interest to who reads a run: the steps of holds that were granted.
HIDDEN = {
    "CostRated", "OutcomeCosted", "HoldRequested", "HoldReported", "BudgetHeld", "BudgetSettled", "BudgetReleased",
}  # fmt: skip


def timeline(trail: Trail) -> RenderableType:
    """The run as lines for `rich`: who and what, then one line per event, then the totals. Readable from 80 columns."""
    charges = {
        str(row["rated_event_id"]): row["cost_nanousd"] for row in trail.events if row["event_type"] == "CostRated"
    }
    placed = [(row, depth) for row, depth in in_order(trail.events) if not is_hidden(row)]
    started = trail.run["started_at"]
    repeated = repeated_ids(row for row, _ in placed)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", expand=True)
    for name in ("time", "step"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what", ratio=1, overflow="fold")
    for name in ("tokens", "took", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for row, depth in placed:
        table.add_row(*_line(row, depth, started, charges, str(row["event_id"]) in repeated))
    parts: list[RenderableType] = [*_heading(trail), Text(), table]
    if trail.cut:
        parts.append(Text(f"… only the first {EVENTS_MAX:,} events are shown", style="yellow"))
    parts += [Text(), _totals(trail.run)]
    if any(_only_reported(row, charges) for row, _ in placed):
        parts.append(Text(f"{REPORTED_MARK} as the provider reported it: no price of ours", style="dim"))
    return Group(*parts)


def is_hidden(row: Row) -> bool:
    """True for what a reader of a run needs no line of."""
    return row["event_type"] in HIDDEN or (row["event_type"] == "HoldDecided" and row["verdict"] == "granted")


def _line(row: Row, depth: int, started: datetime, charges: Mapping[str, int | None], repeated: bool) -> list[Text]:
    """The six cells of one event."""
    kind = row["event_type"]
    what = Text("  " * depth)
    what.append_text(event_text(row))
    if repeated:
        what.append(" repeated", style="yellow")
    concluded = is_conclusion(row)
    return [
        Text(CONCLUDED if concluded else offset_text(row["occurred_at"], started), style="dim"),
        Text("" if concluded or kind == "OutcomeRecorded" else str(row["step"]), style="dim"),
        what,
        Text(tokens_text(row) if kind == "ModelCallCompleted" else ""),
        Text(took_text(row["latency_ms"])),
        _cost(row, charges) if kind in CALLS or str(row["event_id"]) in charges else Text(),
    ]


def _heading(trail: Trail) -> list[RenderableType]:
    run = trail.run
    outcome = success_text(run["outcome_success"]) if run["outcomes"] else ("no outcome yet", "dim")
    agent = " ".join(clean(part) for part in (run["agent_id"], run["agent_version"]) if part)
    named = (("workflow", run["workflow"]), ("agent", agent), ("tenant", run["tenant_id"]), ("source", run["source"]))
    facts = " · ".join(f"{name} {clean(value)}" for name, value in named if value)
    began = utc(run["started_at"]).strftime("%Y-%m-%d %H:%M:%S UTC")
    lasted = f", {duration_text(run['duration_ms'])}" if run["duration_ms"] is not None else ""
    unstarted = "" if run["start_recorded"] else " · start not recorded"
    return [
        Text.assemble(("run ", "dim"), (clean(run["run_id"]), "bold")),
        Text.assemble(status_text(run["status"]), " · ", outcome, (f" · {began}{lasted}{unstarted}", "dim")),
        Text(facts),
    ]


def _totals(run: Row) -> Text:
    """What the run took in all: its calls in one line, its money in the next."""
    parts = [_counted(run["model_calls"], "model call"), _counted(run["tool_calls"], "tool call")]
    notes = [f"{run[name]} {word}" for name, word in _TOOL_NOTES if run[name]]
    text = Text(" · ".join(parts))
    if notes:
        text.append(f" ({', '.join(notes)})", style="yellow")
    if run["total_tokens"] is not None:
        text.append(f" · {run['total_tokens']:,} tokens")
    for name, word in (("denials", "denial"), ("budgets_exceeded", "broken budget"), ("alerts", "alert")):
        if run[name]:
            text.append(f" · {_counted(run[name], word)}", style="red")
    return text.append("\ncost ").append_text(_money(run))


def _money(run: Row) -> Text:
    text = Text(money_text(run["cost_nanousd"]), style="bold")
    if run["unpriced_model_calls"] and run["cost_nanousd"] is not None:
        text.append(f" without {_counted(run['unpriced_model_calls'], 'unpriced call')}", style="not bold yellow")
    for name, word in (("tool_cost_nanousd", "of it tools"), ("human_cost_nanousd", "of it people")):
        if run[name]:
            text.append(f" · {word} {money_text(run[name])}", style="not bold")
    for name, word in (("reported_cost_nanousd", "reported"), ("user_cost_nanousd", "simulated user")):
        if run[name] is not None:
            text.append(f" · {word} {money_text(run[name])}", style="not bold")
    limit = run["budget_cost_nanousd"]
    if limit is not None:
        share = f", {(run['cost_nanousd'] or 0) * 100 // limit} % used" if limit > 0 else ""
        text.append(f" · budget {money_text(limit)}{share}", style="not bold")
    return text


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


_TOOL_NOTES = (("tool_errors", "failed"), ("repeated_tool_calls", "repeated"))


def _cost(row: Row, charges: Mapping[str, int | None]) -> Text:
    charge = charges.get(str(row["event_id"]))
    if charge is not None:
        return Text(money_text(charge))
    if _only_reported(row, charges):
        return Text(REPORTED_MARK + money_text(row["reported_cost_nanousd"]), style="dim")
    return Text("unpriced", style="yellow") if row["event_type"] == "ModelCallCompleted" else Text()


def _only_reported(row: Row, charges: Mapping[str, int | None]) -> bool:
    return (
        row["event_type"] in CALLS
        and charges.get(str(row["event_id"])) is None
        and row["reported_cost_nanousd"] is not None
    )
