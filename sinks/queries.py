"""Questions to the trail: read-only SQL against ClickHouse with bounds, and its answer as table, JSON or CSV.

An answer is exact: integers stay integers (money is nano-dollars), ids and times are text in one spelling (RFC 4122 and
ISO 8601 with Z). CSV is RFC 4180 as it stands: text that a spreadsheet would take for a formula is not altered here,
as programs read this output too; exports for people do that.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Protocol

from clickhouse_connect.driver.exceptions import ClickHouseError
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentledger.schemas.errors import StoreError, UsageError

FORMATS = ("pretty", "json", "csv")
RESULT_BYTES_MAX = 256 * 1024 * 1024  # what a laptop's Python can hold several times over
MEMORY_BYTES_MAX = 4 * 1024**3  # of the server, per query: a careless join must not push the writer out
PRETTY_ROWS_MAX = 1000  # nobody reads more on a terminal, and laying out a table costs a millisecond a row
PRETTY_CELL_MAX = 60  # characters: digests fit, prompts don't
PRETTY_CHARACTERS_PER_COLUMN_MIN = 6
_NOISE = re.compile(r"\s*\(version [^)]*\)|\s*\(for url [^)]*\)|\s*\(official build\)|Stack trace:.*", re.DOTALL)
_DETAIL = re.compile(r"DB::Exception: (?P<what>.*)", re.DOTALL)
_KIND = re.compile(r"\(([A-Z_]{3,})\)\s*$")
_NEXT_STEPS = {
    "UNKNOWN_TABLE": "list them with SHOW TABLES FROM agentledger",
    "UNKNOWN_DATABASE": "create the tables with agentledger init",
    "UNKNOWN_IDENTIFIER": "list the columns of a view with DESCRIBE agentledger.VIEW",
    "READONLY": "only SELECT, SHOW, DESCRIBE and EXPLAIN are allowed, without SETTINGS",
    "TOO_MANY_ROWS_OR_BYTES": "add a LIMIT or raise AGENTLEDGER_QUERY_ROWS_MAX",
    "TIMEOUT_EXCEEDED": "narrow it by run_id, tenant_id or ledger_time, or raise AGENTLEDGER_QUERY_TIME_S_MAX",
    "MEMORY_LIMIT_EXCEEDED": "narrow it by run_id, tenant_id or ledger_time",
    "SYNTAX_ERROR": "leave out FORMAT and a second statement; check the SQL",
}


class Client(Protocol):
    """What is needed of a clickhouse-connect client."""

    def query(self, query: str, *, parameters: dict[str, Any] | None, settings: dict[str, Any]) -> Any:
        """Run a query and return clickhouse-connect's result."""


@dataclass(frozen=True)
class QueryResult:
    """The answer to a query: names and ClickHouse types of the columns, rows of plain Python values, what it took."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    rows_read: int = 0
    seconds: float = 0.0

    def records(self) -> list[dict[str, Any]]:
        """Rows as dicts by column name; a name that occurs again gets _2, _3 and so on."""
        names = unique_names(self.names)
        return [dict(zip(names, row, strict=True)) for row in self.rows]


def query(
    client: Client,
    sql: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    time_s_max: int = 60,
    rows_max: int = 100_000,
) -> QueryResult:
    """The answer of ClickHouse to one read-only statement; `{name:Type}` in it is filled on the server.

    The server refuses writes, changed settings, and answers over the bounds: never a part of the answer. Raises
    StoreError with one line.
    """
    settings = {
        "readonly": 1,
        "max_execution_time": time_s_max,
        "max_result_rows": rows_max,
        "max_result_bytes": RESULT_BYTES_MAX,
        "result_overflow_mode": "throw",
        "max_memory_usage": MEMORY_BYTES_MAX,
    }
    statement = sql.strip().rstrip(";").rstrip()
    if not statement:
        raise UsageError("the query is empty", next_step='such as "SELECT * FROM agentledger.scoreboard"')
    try:
        # Without parameters none are passed: a % in the text would otherwise be taken for a placeholder.
        result = client.query(statement, parameters=dict(parameters) if parameters else None, settings=settings)
    except ClickHouseError as error:
        raise store_error(error) from None
    summary = result.summary or {}
    return QueryResult(
        names=tuple(result.column_names),
        types=tuple(column.name for column in result.column_types),
        rows=[tuple(row) for row in result.result_rows],
        rows_read=int(summary.get("read_rows", 0)),
        seconds=int(summary.get("elapsed_ns", 0)) / 1e9,
    )


def store_error(error: Exception) -> StoreError:
    """ClickHouse's complaint as one line, without stack, version and address, and with the next step where known."""
    text = str(error)
    if "Connection refused" in text or "Max retries exceeded" in text or "NewConnectionError" in text:
        return StoreError("ClickHouse can't be reached", next_step="see agentledger status, or AGENTLEDGER_CLICKHOUSE_URL")
    found = _DETAIL.search(text)
    what = " ".join(_NOISE.sub("", found["what"] if found else text).split())
    kind = _KIND.search(what)
    name = kind[1] if kind else ""
    what = what[: kind.start()] if kind else what
    what = re.split(r"\. In scope |: In scope ", what)[0].rstrip(" .:")
    return StoreError(f"ClickHouse: {what[:500]}", where=name, next_step=_NEXT_STEPS.get(name, ""))


def unique_names(names: Sequence[str]) -> list[str]:
    """The names with _2, _3 … behind those that occurred before, so that no column hides another."""
    taken: set[str] = set()
    unique = []
    for name in names:
        candidate, count = name, 1
        while candidate in taken:
            count += 1
            candidate = f"{name}_{count}"
        taken.add(candidate)
        unique.append(candidate)
    return unique


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
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        return moment.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return str(value)


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
    fits = _table_width(names, cells) <= max(width, PRETTY_CHARACTERS_PER_COLUMN_MIN)
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
