"""What the measurements return, and how it is shown."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agentledger.infra.compilation import is_compiled

# Where something is measured so often, the best counts: what else is on a machine only ever slows, on one with virtual
# cores by half.
ROUNDS = 3


@dataclass(frozen=True)
class Figure:
    """One measured figure. `target` says in words what the issue asks for; empty where it asks nothing.

    Where it could not be measured, there is no value, and `not_measured` says why.
    """

    name: str
    value: float | None
    unit: str
    target: str = ""
    not_measured: str = ""


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def write_report(figures: list[Figure], path: Path) -> None:
    """Print the table and write `{name: {value, unit, target}}` with what machine it was."""
    table = Table(box=None, header_style="bold")
    for column in ("figure", "value", "unit", "target"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for figure in figures:
        value = "not measured" if figure.value is None else f"{figure.value:,.2f}"
        table.add_row(figure.name, value, figure.unit, figure.not_measured or figure.target)
    Console().print(table)
    Console().print(f"folds: {'compiled' if is_compiled() else 'Python'}")
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "folds": "compiled" if is_compiled() else "Python",
    }
    values = {figure.name: {key: value for key, value in asdict(figure).items() if key != "name"} for figure in figures}
    path.write_text(json.dumps({"machine": machine, "figures": values}, indent=2) + "\n", "utf-8")
