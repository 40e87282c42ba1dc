"""The answer to a query as a table for a terminal, as JSON or as CSV.

JSON and CSV are exact: integers stay integers (money is nano-dollars), ids and times are text in one spelling (ISO 8601
with Z). CSV is RFC 4180 as it stands, NULL is an empty field, and text that a spreadsheet would take for a
formula is not altered, as programs read this output too: exports for people do that.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentledger.schemas.errors import UsageError
from agentledger.sinks.queries import QueryResult, unique_names

FORMATS = ("pretty", "json", "csv")
PRETTY_ROWS_MAX = 1000  # nobody reads more on a terminal, and laying out a table costs a millisecond a row
PRETTY_CELL_MAX = 60  # characters: digests are cut, ids and times fit


def text_lines(result: QueryResult, output_format: str) -> Iterator[str]:
    """The answer as `json` (an array, one object a line) or `csv`, piece by piece, each with its line end."""
    if output_format == "json":
        return _json_lines(result)
    if output_format == "csv":
        return _csv_lines(result)
    raise UsageError(f"no format is called {output_format!r}", next_step=f"one of {', '.join(FORMATS)}")


def _json_lines(result: QueryResult) -> Iterator[str]:
    names = unique_names(result.names)
    yield "[\n" if result.rows else "["
    for number, row in enumerate(result.rows, 1):
        record = {name: plain(value) for name, value in zip(names, row, strict=True)}
        comma = "," if number < len(result.rows) else ""
        yield json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + comma + "\n"
    yield "]\n"


def _csv_lines(result: QueryResult) -> Iterator[str]:
    line = io.StringIO(newline="")
    writer = csv.writer(line, lineterminator="\r\n")
    for row in (unique_names(result.names), *result.rows):
        line.seek(0)
        line.truncate()
        writer.writerow([cell_text(value) if value is not None else None for value in row])
        yield line.getvalue()


def plain(value: Any) -> Any:
    """The value as JSON holds it: exact integers, ISO times, text of ids; null for what isn't a number."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _as_text(value)


def _as_text(value: Any) -> str:
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value  # the server answers in UTC
        return moment.isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, date) else str(value)


def cell_text(value: Any) -> str:
    """The value in one cell of a table or a CSV file: text as it is, lists and maps as JSON, NULL as nothing."""
    simple = plain(value)
    if simple is None:
        return ""
    if isinstance(simple, str):
        return simple
    return json.dumps(simple, ensure_ascii=False, separators=(",", ":"))


def pretty(result: QueryResult, width: int) -> RenderableType:
    """The answer for a terminal of that width: a table, or a block per row where the columns don't fit."""
    shown = result.rows[:PRETTY_ROWS_MAX]
    names = unique_names(result.names)
    numbers = [_is_number(kind) for kind in result.types]
    cells = [[_shown(value) for value in row] for row in shown]
    fits = _table_width(names, cells) <= width
    parts: list[RenderableType] = []
    if fits:
        parts.append(_table(names, numbers, cells))
    else:
        parts.extend(_blocks(names, cells))
    if len(shown) < len(result.rows):
        parts.append(Text(f"… {len(result.rows) - len(shown):,} more rows: --format csv prints all", style="yellow"))
    count = f"{len(result.rows):,} row{'' if len(result.rows) == 1 else 's'}"
    parts.append(Text(f"{count} in {result.seconds:.3f} s, {result.rows_read:,} read", style="dim"))
    return Group(*parts)


def print_result(console: Console, result: QueryResult, output_format: str) -> None:
    """Print the answer: `pretty` laid out for the console, `json` and `csv` byte for byte. Raises UsageError."""
    if output_format == "pretty":
        console.print(pretty(result, console.width))
        return
    for line in text_lines(result, output_format):
        console.file.write(line)


def _is_number(kind: str) -> bool:
    return re.match(r"(LowCardinality\(|Nullable\()*(U?Int|Float|Decimal|BFloat)", kind) is not None


def _shown(value: Any) -> Text:
    if value is None:
        return Text("NULL", style="dim")
    # Control characters from recorded texts must not reach the terminal.
    text = "".join(character if character.isprintable() else " " for character in cell_text(value))
    return Text(text if len(text) <= PRETTY_CELL_MAX else text[: PRETTY_CELL_MAX - 1] + "…")


def _table_width(names: list[str], cells: list[list[Text]]) -> int:
    widths = [max([len(name), *(row[index].cell_len for row in cells)]) for index, name in enumerate(names)]
    return sum(widths) + 2 * max(len(widths) - 1, 0)


def _table(names: list[str], numbers: list[bool], cells: list[list[Text]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name, number in zip(names, numbers, strict=True):
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=True)
    for row in cells:
        table.add_row(*row)
    return table


def _blocks(names: list[str], cells: list[list[Text]]) -> Iterator[RenderableType]:
    indent = max(len(name) for name in names)
    for number, row in enumerate(cells, 1):
        yield Text(f"row {number} {'─' * 20}", style="dim")
        for name, cell in zip(names, row, strict=True):
            yield Text.assemble((f"{name:<{indent}}  ", "bold"), cell)
