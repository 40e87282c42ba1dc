"""The scoreboard for a terminal: per workflow what runs achieved, what they cost, and what one success cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentledger.schemas.money import NANOUSD_PER_USD, format_usd
from agentledger.sinks.event_text import clean, money_text
from agentledger.sinks.queries import Client, query
from agentledger.sinks.run_trail import Row

NARROW = 100  # columns below which the headings are the short ones
WORKFLOW_CHARACTERS_MAX = 28


def scoreboard_rows(client: Client, tenant_id: str | None = None) -> list[dict[str, Any]]:
    """Rows of the view `scoreboard`, of one tenant or all, by tenant and workflow. Raises StoreError."""
    where = " WHERE tenant_id = {tenant_id:String}" if tenant_id else ""
    sql = f"SELECT * FROM agentledger.scoreboard{where} ORDER BY tenant_id, workflow"
    return query(client, sql, parameters={"tenant_id": tenant_id} if tenant_id else None).records()


def scoreboard(rows: Sequence[Row], width: int = 80) -> RenderableType:
    """The rows as a table for a terminal of that width, from 80 columns; notes say where a figure is a lower bound."""
    if not rows:
        return Text("no run is recorded yet: agentledger demo records some")
    several = len({row["tenant_id"] for row in rows}) > 1
    wide = width >= NARROW
    table = Table(box=None, padding=(0, 2 if wide else 1, 0, 0), pad_edge=False, header_style="bold")
    # Names fold where room is short; a figure is never cut: half of it would read as another.
    table.add_column("workflow", overflow="fold", min_width=8, max_width=WORKFLOW_CHARACTERS_MAX)
    for heading in _LONG if wide else _SHORT:
        table.add_column(heading, justify="right", no_wrap=True)
    tenant = None
    for row in rows:
        if several and row["tenant_id"] != tenant:
            tenant = row["tenant_id"]
            table.add_row(Text(f"tenant {clean(tenant)}", style="dim"))
        table.add_row(Text(clean(row["workflow"]) or "(none)"), *_cells(row))
    return Group(table, *_notes(rows))


_LONG = ("runs", "success", "cost", "per success", "tools/run", "escalated", "denied", "budgets", "alerts")
_SHORT = ("runs", "success", "cost", "/success", "tools", "esc", "deny", "bdgt", "alrt")


def _cells(row: Row) -> list[Text]:
    known = row["successes"] + row["failures"]
    mark = "*" if row["unpriced_model_calls"] and row["cost_nanousd"] is not None else ""
    style = "yellow" if mark or row["cost_nanousd"] is None else ""
    each = row["cost_per_successful_outcome_nanousd"]
    return [
        Text(f"{row['runs']:,}"),
        Text(f"{row['successes']}/{known}" if known else "-", style="green" if row["successes"] else ""),
        Text(_total(row["cost_nanousd"]) + mark, style=style),
        Text(money_text(each) + mark if each is not None else "-", style="bold"),
        Text(f"{row['tool_calls_per_run']:.1f}"),
        *(_count(row[name]) for name in ("escalations", "denials", "budgets_broken", "alerts")),
    ]


def _total(nanousd: int | None) -> str:
    """Cents are enough from a thousand dollars on."""
    return format_usd(nanousd, places=2) if abs(nanousd or 0) >= 1000 * NANOUSD_PER_USD else money_text(nanousd)


def _count(count: int) -> Text:
    return Text(f"{count:,}", style="red" if count else "dim")


def _notes(rows: Sequence[Row]) -> list[Text]:
    unpriced = sum(row["unpriced_model_calls"] for row in rows)
    unaccounted = sum(row["unaccounted"] for row in rows)
    notes = []
    if unpriced:
        notes.append(Text(f"* at least: of the model calls, {unpriced:,} have no price", style="yellow"))
    if unaccounted:
        notes.append(Text(f"{unaccounted:,} of the runs have no known outcome: their cost is counted", style="dim"))
    return notes
