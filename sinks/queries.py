"""Questions to the trail: read-only SQL against ClickHouse with bounds, and its answer with names and types.

An answer is whole or an error, never a part. `result_text` prints it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from clickhouse_connect.driver.exceptions import ClickHouseError

from agentledger.schemas.errors import StoreError, UsageError

RESULT_BYTES_MAX = 256 * 1024 * 1024  # what a laptop's Python can hold several times over
MEMORY_BYTES_MAX = 4 * 1024**3  # of the server, per query: a careless join must not push the writer out
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
    settings: Mapping[str, Any] | None = None,
) -> QueryResult:
    """The answer of ClickHouse to one read-only statement; `{name:Type}` in it is filled on the server.

    The server refuses writes, changed settings, and answers over the bounds: never a part of the answer. `settings`
    are further ones of ours. Raises StoreError with one line.
    """
    bounds = {
        **(settings or {}),
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
        result = client.query(statement, parameters=dict(parameters) if parameters else None, settings=bounds)
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
    """ClickHouse's complaint as one line, without stack, version and address, with the next step where known."""
    text = str(error)
    if "Connection refused" in text or "Max retries exceeded" in text or "NewConnectionError" in text:
        return StoreError(
            "ClickHouse can't be reached", next_step="see agentledger status, or AGENTLEDGER_CLICKHOUSE_URL"
        )
    found = _DETAIL.search(text)
    what = " ".join(_NOISE.sub("", found["what"] if found else text).split())
    kind = _KIND.search(what)
    name = kind[1] if kind else ""
    what = what[: kind.start()] if kind else what
    what = re.split(r"[.:?]? In scope | ?FORMAT Native|[.:] Expected one of", what)[0].rstrip(" .:")
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
