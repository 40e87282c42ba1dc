"""Answers of queries as text, and errors of ClickHouse as one line."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agentledger.schemas.errors import UsageError
from agentledger.sinks.queries import QueryResult, store_error, unique_names
from agentledger.sinks.result_text import PRETTY_ROWS_MAX, plain, print_result, text_lines
from agentledger.sinks.runs_view import runs_where

DDL = Path(__file__).parents[2] / "sinks" / "ddl"
RESULT = QueryResult(
    ("run_id", "cost_nanousd", "ok", "at"),
    ("String", "Nullable(Int64)", "Bool", "DateTime64(6, 'UTC')"),
    [("r,1", 2**63 - 1, True, datetime(2026, 1, 1)), ('=HYPERLINK("x")', None, False, None)],  # noqa: DTZ001
    rows_read=1234,
    seconds=0.0123,
)


def printed(result: QueryResult, output_format: str, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_result(console, result, output_format)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_pretty_is_a_table_with_numbers_to_the_right() -> None:
    assert [line.rstrip() for line in printed(RESULT, "pretty").splitlines()] == [
        "run_id                  cost_nanousd  ok     at",
        "r,1              9223372036854775807  true   2026-01-01T00:00:00Z",
        '=HYPERLINK("x")                 NULL  false  NULL',
        "2 rows in 0.012 s, 1,234 read",
    ]


def test_pretty_turns_rows_on_their_side_where_columns_do_not_fit() -> None:
    lines = printed(RESULT, "pretty", 40).splitlines()
    assert lines[0].startswith("row 1 ──")
    assert lines[2] == "cost_nanousd  9223372036854775807"


def test_pretty_is_bounded_and_says_so() -> None:
    many = QueryResult(("n",), ("UInt64",), [(number,) for number in range(PRETTY_ROWS_MAX + 5)])
    assert "… 5 more rows" in printed(many, "pretty")


def test_pretty_lets_no_control_character_through() -> None:
    text = printed(QueryResult(("a",), ("String",), [("\x1b[31mred\n\x07",)]), "pretty")
    assert not {"\x1b", "\x07"} & set(text)


def test_json_is_exact_and_an_object_per_line() -> None:
    text = printed(RESULT, "json")
    assert json.loads(text) == [
        {"run_id": "r,1", "cost_nanousd": 2**63 - 1, "ok": True, "at": "2026-01-01T00:00:00Z"},
        {"run_id": '=HYPERLINK("x")', "cost_nanousd": None, "ok": False, "at": None},
    ]
    assert len(text.splitlines()) == 4
    assert json.loads(printed(QueryResult(("a",), ("String",), []), "json")) == []


def test_csv_is_rfc_4180() -> None:
    assert "".join(text_lines(RESULT, "csv")) == (
        "run_id,cost_nanousd,ok,at\r\n"
        '"r,1",9223372036854775807,true,2026-01-01T00:00:00Z\r\n'
        '"=HYPERLINK(""x"")",,false,\r\n'
    )


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(texts, st.integers(), st.lists(texts, max_size=2)), max_size=4))
def test_json_and_csv_give_back_what_went_in(rows: list[tuple[str, int, list[str]]]) -> None:
    result = QueryResult(("a", "b", "c"), ("String", "Int64", "Array(String)"), list(rows))
    expected = [{"a": a, "b": b, "c": c} for a, b, c in rows]
    assert json.loads("".join(text_lines(result, "json"))) == expected
    read = list(csv.DictReader(io.StringIO("".join(text_lines(result, "csv")), newline="")))
    assert [{"a": r["a"], "b": int(r["b"]), "c": json.loads(r["c"])} for r in read] == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime(2026, 1, 1, 2, 0, 0, 5, tzinfo=timezone(timedelta(hours=2))), "2026-01-01T02:00:00.000005+02:00"),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00Z"),
        (date(2026, 1, 1), "2026-01-01"),
        (Decimal("1.10"), "1.10"),
        (float("nan"), None),
        (b"\xff", "/w=="),
        ({"a": (1, b"")}, {"a": [1, ""]}),
    ],
)
def test_values_have_one_spelling(value: Any, expected: Any) -> None:
    assert plain(value) == expected


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UsageError, match="pretty, json, csv"):
        text_lines(RESULT, "xml")


@given(st.lists(st.sampled_from(["a", "a_2", "a_3", "b"]), max_size=6))
def test_no_column_hides_another(names: list[str]) -> None:
    unique = unique_names(names)
    assert len(set(unique)) == len(names)
    assert all(new == old or new.startswith(f"{old}_") for new, old in zip(unique, names, strict=True))


@pytest.mark.parametrize(
    ("complaint", "line"),
    [
        (
            "Received ClickHouse exception, code: 60, server response: Code: 60. DB::Exception: Unknown table "
            "expression identifier 'x'. Maybe you meant y? In scope SELECT * FROM x. (UNKNOWN_TABLE) (version 26.9.2.1)"
            " (for url http://h:1)",
            "ClickHouse: Unknown table expression identifier 'x'. Maybe you meant y (UNKNOWN_TABLE): "
            "list them with SHOW TABLES FROM agentledger",
        ),
        (
            "Code: 62. DB::Exception: Syntax error: failed at position 7 (1): 1 FORMAT Native. Expected one of: a, b. "
            "(SYNTAX_ERROR) (version 26.9.2.1)",
            "ClickHouse: Syntax error: failed at position 7 (1): 1 (SYNTAX_ERROR): "
            "leave out FORMAT and a second statement; check the SQL",
        ),
        ("Error HTTPConnectionPool: Max retries exceeded", "ClickHouse can't be reached: see agentledger status, or "
         "AGENTLEDGER_CLICKHOUSE_URL"),
        ("something else\nentirely", "ClickHouse: something else entirely"),
    ],
)  # fmt: skip
def test_errors_are_one_line(complaint: str, line: str) -> None:
    assert str(store_error(Exception(complaint))) == line


def test_view_files_can_be_split_at_semicolons() -> None:
    files = sorted(DDL.glob("1*_views*.sql"))
    assert len(files) >= 5
    for file in files:
        statements = [part.strip() for part in file.read_text("utf-8").split(";")]
        assert statements.pop() == ""
        for statement in statements:
            body = "\n".join(line for line in statement.splitlines() if not line.startswith("--")).strip()
            assert body.startswith("CREATE OR REPLACE VIEW agentledger."), file.name
            assert statement.count("'") % 2 == 0, file.name


def test_a_condition_on_runs_stands_where_the_view_reads_the_ledger() -> None:
    select = runs_where("run_id = {run_id:String}")
    table, _, rest = select.partition("FROM agentledger.ledger")
    assert "{run_id:String}" not in table
    assert rest.index("run_id != '' AND run_id = {run_id:String}") < rest.index("GROUP BY tenant_id, run_id")
    assert select.lstrip().startswith("WITH")
    assert "COMMENT" not in select
