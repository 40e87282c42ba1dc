"""The columns of an export's data files, as each format can hold them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agentledger.schemas.catalogue import Schema
from agentledger.sinks.tables import column_of

# A spreadsheet takes a cell that begins so for a formula; behind a quote it is text. A quote gets one, too, so that
# whoever reads the file can take it away again.
FORMULA = "'=+-@\t\r\n\x00＝＋－＠"
PLACE = (
    ("topic", "String"), ("partition", "UInt32"), ("offset", "Int64"), ("log_index", "UInt64"),
    ("ledger_time", "DateTime64(6, 'UTC')"), ("event_type", "String"),
)  # fmt: skip
ADDED = "occurrence"  # first, duplicate or conflict: what the ledger found, which is in no record


class DataColumn(NamedTuple):
    """One column of a data file: the ledger's column of this name, and how it is selected."""

    name: str
    kind: str
    selected: str


def data_columns(file_format: str, schemas: Iterable[Schema]) -> list[DataColumn]:
    """Where a record stands in its log, and every field of the records that are exported."""
    columns = [column_of(field) for schema in schemas for field in schema["fields"]]
    typed = {column.name: column.input_type for column in columns}
    return [_column(name, kind, file_format) for name, kind in (*PLACE, *typed.items())]


def selection(columns: Iterable[DataColumn]) -> str:
    """What is selected for a data file. Conditions beside it need SETTINGS prefer_column_name_to_alias = 1."""
    return ", ".join([*(column.selected for column in columns), f"toString({ADDED}) AS {ADDED}"])


def is_formula(text: str) -> bool:
    """Whether a spreadsheet might calculate with this text, or somebody take it for one that was quoted."""
    return text[:1] != "" and text[0] in FORMULA


def _column(name: str, kind: str, file_format: str) -> DataColumn:
    value = f"`{name}`"
    if "UUID" in kind:
        value = f"toString({value}) AS {value}"
    elif file_format == "csv" and kind.startswith(("Map", "Array")):
        value = f"toJSONString({value}) AS {value}"
    elif file_format == "csv" and "String" in kind:
        first = f"substringUTF8(ifNull({value}, ''), 1, 1)"
        characters = ", ".join(f"char({', '.join(map(str, one.encode()))})" for one in FORMULA)
        value = f"if({first} IN ({characters}), concat(char(39), {value}), {value}) AS {value}"
    return DataColumn(name, kind, value)
