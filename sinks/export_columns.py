"""The columns of an export's data files, as each format can hold them."""

from __future__ import annotations

from collections.abc import Iterable

from agentledger.schemas.catalogue import Schema
from agentledger.sinks.tables import typed_columns

# A spreadsheet takes a cell that begins so for a formula; behind a quote it is text.
FORMULA = r"'^[=+\\-@\\t\\r\\n\\x00]'"
PLACE = (
    ("topic", "String"), ("partition", "UInt32"), ("offset", "Int64"), ("log_index", "UInt64"),
    ("ledger_time", "DateTime64(6, 'UTC')"), ("event_type", "String"),
)  # fmt: skip


def data_columns(file_format: str, schemas: Iterable[Schema]) -> str:
    """What is selected: where a record stands in its log, and every field of the records that are exported."""
    names = {field["name"] for schema in schemas for field in schema["fields"]}
    typed = [(column.name, column.input_type) for column in typed_columns().values() if column.name in names]
    selected = [_selected(name, kind, file_format) for name, kind in (*PLACE, *typed)]
    selected.append("toString(occurrence) AS `occurrence_`")
    selected.append("lower(hex(value_sha256)) AS `value_sha256_`")
    return ", ".join(selected)


def _selected(name: str, kind: str, file_format: str) -> str:
    # Names of their own within the query: an alias that hides its column would be what conditions see.
    value = f"`{name}`"
    if "UUID" in kind:
        value = f"toString({value})"
    elif file_format == "csv" and kind.startswith(("Map", "Array")):
        value = f"toJSONString({value})"
    elif file_format == "csv" and "String" in kind:
        value = f"if(match(ifNull({value}, ''), {FORMULA}), concat('''', {value}), {value})"
    return f"{value} AS `{name}_`" if value != f"`{name}`" else value
