"""What an export asks for, its columns, its event, and how it is cut into files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.schemas import Codec, open_registry
from agentledger.schemas.errors import UsageError
from agentledger.schemas.heads import Head, LogId
from agentledger.sinks import export_plan
from agentledger.sinks.export_columns import data_columns, selection
from agentledger.sinks.export_event import ExportFacts, export_event
from agentledger.sinks.export_plan import FORMATS, ExportRequest, LogRange, plan, source_of
from agentledger.sinks.tables import trail_schemas, typed_columns

OUT = Path("out")
ANY_TEXT = st.text(st.characters(codec=None), max_size=50)


def head(size: int, partition: int = 0) -> Head:
    return Head("agentledger.events.v1", LogId("5eb96861-819f-47aa-a340-ea33e1a33b5e", partition), size, bytes(32), 0)


class BlockReader:
    """Answers the one query of a plan: shown rows and bytes by log and block."""

    def __init__(self, shown: list[int], size: int) -> None:
        self.rows = [
            (*head(0, partition).log, block, count, size * count)
            for partition in (0, 1) for block, count in enumerate(shown)
        ]  # fmt: skip

    def query(self, sql: str, _parameters: dict[str, Any]) -> list[Any]:
        return self.rows if "GROUP BY" in sql else [self.rows[-1][-2:]]


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"from_us": 2, "to_us": 2}, "--from must be earlier than --to"),
        ({"from_us": 3, "to_us": 2}, "--from must be earlier than --to"),
        ({"from_us": -1}, "--from is no time that a ledger can have"),
        ({"to_us": 2**60}, "--to is no time that a ledger can have"),
        ({"file_format": "xml"}, "--format 'xml' is none: take one of parquet, jsonl, csv, avro, ocsf"),
        ({"event_types": ("' OR 1=1",)}, "is no record"),
        ({"tenant_id": "\udc80"}, "--tenant can't be one"),
        ({"run_id": "x" * 1001}, "--run can't be one"),
    ],
)
def test_what_cannot_be_asked_has_one_line(asked: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError) as caught:
        ExportRequest(OUT, **({"file_format": "csv"} | asked))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@given(ANY_TEXT, ANY_TEXT)
def test_what_is_asked_for_never_stands_in_the_sql(tenant_id: str, run_id: str) -> None:
    try:
        request = ExportRequest(OUT, "csv", tenant_id=tenant_id, run_id=run_id, event_types=("RunStarted",))
    except UsageError:
        return
    parts = ["1"]
    parts += ["tenant_id = {tenant_id:String}"] if tenant_id else []
    parts += ["run_id = {run_id:String}"] if run_id else []
    assert request.condition().split(" AND ") == [*parts, "has({event_types:Array(String)}, toString(event_type))"]
    found = request.parameters()
    assert (found["tenant_id"], found["run_id"], found["event_types"]) == (tenant_id, run_id, ["RunStarted"])
    assert "{from_us:Int64}" in request.times()


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30), st.integers(1, 900_000), st.integers(0, 999))
def test_parts_hold_the_whole_range_in_order_and_are_bounded(shown: list[int], size: int, first: int) -> None:
    behind = max(first + 1, (len(shown) - 1) * 1000 + 1)
    request = ExportRequest(OUT, "csv", run_id="r")
    source = source_of(request, has_purges=False)
    ranges = [LogRange(head(behind), 0, first, behind), LogRange(head(behind, 1), 1, 0, behind)]
    parts = plan(BlockReader(shown, size), ranges, request, source)  # type: ignore[arg-type]
    chunks = [chunk for part in parts for chunk in part]
    for number, one in enumerate(ranges):
        mine = [chunk for chunk in chunks if chunk.log == number]
        assert [chunk.first for chunk in mine] == [one.first, *(chunk.behind for chunk in mine[:-1])]
        assert mine[-1].behind == one.behind
    assert [chunk.log for chunk in chunks] == sorted(chunk.log for chunk in chunks)
    for part in parts:
        total = sum(chunk.shown for chunk in part)
        block_bytes = 1000 * (size + export_plan.RECORD_BYTES)
        assert total <= export_plan.PART_ROWS_MAX
        assert total * (size + export_plan.RECORD_BYTES) <= export_plan.PART_BYTES_MAX + block_bytes


def test_an_empty_range_has_no_parts() -> None:
    request = ExportRequest(OUT, "csv")
    source = source_of(request, has_purges=False)
    assert plan(BlockReader([], 1), [LogRange(head(5), 0, 2, 2)], request, source) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("file_format", sorted(FORMATS))
def test_columns_are_those_of_the_ledger_under_their_own_names(file_format: str) -> None:
    columns = data_columns(file_format, trail_schemas().values())
    assert [column.name for column in columns][6:] == list(typed_columns())
    assert all(column.selected.endswith(f"`{column.name}`") for column in columns)
    assert selection(columns).endswith("AS occurrence")


def test_the_event_of_an_export_is_the_same_for_the_same_manifest() -> None:
    query = ExportRequest(OUT, "csv", tenant_id="acme", from_us=5).as_json()
    found = {"query": query, "records": 3, "hidden": 4, "checkpoint_size": 9}
    facts = ExportFacts("example.com/ledger", "ab" * 32, 1_790_000_000_000_000, found)
    event = export_event(facts, "ann")
    codec = Codec(open_registry())
    assert codec.decode(codec.encode(event)) == event
    assert (event.tenant_id, event.run_id, event.actor) == ("acme", "", "ann")
    assert event.evidence_ids == [f"sha256:{'ab' * 32}"]
    assert json.loads(event.labels["query"]) == query
    assert export_event(facts, "bob").event_id == event.event_id
    assert export_event(facts._replace(manifest_sha256="cd" * 32), "ann").event_id != event.event_id
