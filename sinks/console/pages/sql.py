"""Query: an analyst's own SQL, asked as a user of the database who sees the tenant's rows alone, within bounds."""

from __future__ import annotations

import csv
import io

from starlette.responses import Response

from agentledger.schemas.errors import AgentledgerError, UsageError
from agentledger.sinks.console.charts import chart_of
from agentledger.sinks.console.visits import Visit
from agentledger.sinks.queries import QueryResult, query, unique_names
from agentledger.sinks.read_event import CountedReads

TIME_S_MAX = 20
ROWS_MAX = 10_000  # of an answer; a page shows the first
ROWS_SHOWN_MAX = 500
SQL_CHARS_MAX = 20_000
EXAMPLE = """SELECT workflow, count() AS runs, sum(cost_nanousd) / 1e9 AS dollars
FROM agentledger.runs
GROUP BY workflow
ORDER BY dollars DESC"""


def show_query(visit: Visit) -> Response:
    """The page /query, empty."""
    return _page(visit, EXAMPLE)


def ask(visit: Visit) -> Response:
    """The form of /query: the answer as a table, or as CSV."""
    sql = visit.form.get("sql", "").strip()
    if len(sql) > SQL_CHARS_MAX:
        raise UsageError(f"the query has over {SQL_CHARS_MAX:,} characters", next_step="ask from the command line")
    try:
        result = _answer(visit, sql)
    except AgentledgerError as error:
        return _page(visit, sql, error=str(error))
    if visit.form.get("as") != "csv":
        return _page(visit, sql, result)
    if not visit.visitor.may("export"):
        return _page(visit, sql, error="your key has not the right export: use one made with --scope export")
    headers = {"Content-Disposition": "attachment; filename=query.csv"}
    return Response(_csv(result), media_type="text/csv; charset=utf-8", headers=headers)


def _answer(visit: Visit, sql: str) -> QueryResult:
    """Raises StoreError, UsageError; BrokerError where the ledger must be told of it and can't be."""
    analyst = visit.ports.analyst(visit.visitor.tenant_id)
    if analyst is None:
        raise UsageError(
            "the database has no analyst of your tenant for the console",
            next_step="agentledger access shows how one is made",
        )
    reads = CountedReads(analyst)
    with visit.recorded_by(reads, "query", sql=sql):
        return query(reads, sql, time_s_max=TIME_S_MAX, rows_max=ROWS_MAX)


def _page(visit: Visit, sql: str, result: QueryResult | None = None, error: str = "") -> Response:
    names = unique_names(result.names) if result else []
    return visit.page(
        "query.html", 400 if error else 200, sql=sql, result=result, names=names, error=error,
        chart=chart_of(result) if result else None,
        rows_shown_max=ROWS_SHOWN_MAX, rows_max=ROWS_MAX, time_s_max=TIME_S_MAX,
    )  # fmt: skip


def _csv(result: QueryResult) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(unique_names(result.names))
    writer.writerows([["" if value is None else _not_a_formula(value) for value in row] for row in result.rows])
    return text.getvalue()


def _not_a_formula(value: object) -> object:
    """Text that a spreadsheet would take for a formula gets an apostrophe: an agent's text must not run there."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
