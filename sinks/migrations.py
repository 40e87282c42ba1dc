"""Brings the tables and views of a ClickHouse server up to date. Each statement can be repeated."""

from __future__ import annotations

from importlib import resources
from typing import Protocol

from agentledger.sinks.tables import table_statements


class CommandClient(Protocol):
    """What is needed of a clickhouse-connect client."""

    def command(self, cmd: str) -> object:
        """Run one statement."""


def migrate(client: CommandClient) -> None:
    """Create or expand the tables, then make every view what this release says it is."""
    for statement in [*table_statements(), *view_statements()]:
        client.command(statement)


def view_statements() -> list[str]:
    """The statements of all `ddl/*.sql`, in the order of their names."""
    folder = resources.files("agentledger.sinks.ddl")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda entry: entry.name)
    return [statement for entry in files for statement in split_statements(entry.read_text("utf-8"))]


def split_statements(text: str) -> list[str]:
    """The statements of a file: each ends with a semicolon at the end of a line. Lines of comment alone are dropped."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    parts = "\n".join(lines).split(";\n")
    return [part.strip().rstrip(";") for part in parts if part.strip().rstrip(";")]
