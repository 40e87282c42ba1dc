"""Compares each row of an export's data files with its evidence. Needs the installed package; for Parquet, pyarrow too.

The evidence itself must have been verified (`verify_export`).
"""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro

from agentledger.sinks.export_columns import ADDED, DataColumn, data_columns
from agentledger.sinks.export_rows import ReadRecord, RecordReader, ocsf_lines
from agentledger.sinks.verify_export import BadExportError, Record, mapped, read_record, read_records

Row = dict[str, Any]
Place = tuple[str, int, int]  # topic, partition, index
NULL = "\\N"  # as ClickHouse writes it in CSV
ROWS_AT_A_TIME = 5000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_US_RANGE = range(-2_208_988_800_000_000, 10_413_792_000_000_000)  # what a DateTime64 of ClickHouse can hold
_EMPTY: tuple[Any, ...] = (None, "", 0, 0.0, False, {}, [], "00000000-0000-0000-0000-000000000000")


class RowCheck:
    """Compares the data files of one export."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self._folder = folder
        self._query = manifest["query"]
        self._format = self._query["format"]
        self._names = [file["name"] for file in manifest["files"] if file["name"].startswith("data-")]
        self._reader = RecordReader(manifest["schemas"])
        heads = [given["head"].split(" ") for given in manifest["logs"]]
        self._logs = [(words[1], int(words[3])) for words in heads]
        schemas = [json.loads(text) for text in manifest["schemas"].values()]
        self._columns = data_columns(self._format, schemas)

    def run(self) -> int | None:
        """How many rows were compared; None where nothing here can read the format. Raises BadExportError."""
        if self._format == "ocsf":
            return sum(self._check_lines(name) for name in self._names)
        try:
            return sum(self._check_file(name, _ROWS[self._format](self._folder / name)) for name in self._names)
        except ModuleNotFoundError:
            return None

    def _check_lines(self, name: str) -> int:
        """A file that follows from the evidence byte by byte."""
        count = 0
        expected = ocsf_lines(self._reader, read_records(self._evidence(name)), self._logs.__getitem__)
        with (self._folder / name).open("rb") as file:
            for count, line in enumerate(expected, 1):
                if file.readline(len(line) + 1) != line:
                    raise BadExportError(f"{name} line {count} is not what its evidence says")
            if file.read(1):
                raise BadExportError(f"{name} has more lines than there are records")
        return count

    def _check_file(self, name: str, rows: Iterator[Row]) -> int:
        """Rows in any order, against the records of the same part: found by where those stand in their file."""
        evidence = self._evidence(name)
        places = {(*self._logs[record.log], record.log_index): at for at, record in _readable(evidence)}
        labels = {*(column.name for column in self._columns), ADDED}
        count = 0
        with mapped(evidence) as raw:
            for row in rows:
                count += 1
                if row.keys() != labels:
                    raise BadExportError(f"{name} has other columns than the schemas in the manifest")
                place = (_text(row["topic"]), int(row["partition"]), int(row["log_index"]))
                if place not in places:
                    raise BadExportError(f"{name}: {_named(place)} is there twice, or not in the evidence")
                [read] = self._reader.read([read_record(raw, places.pop(place))[0]])
                self._check_row(f"{name}: {_named(place)}", row, read)
                _check_query(f"{name}: {_named(place)}", read, self._query)
        if places:
            raise BadExportError(f"{name}: {_named(min(places))} is missing")
        return count

    def _check_row(self, where: str, row: Row, read: ReadRecord) -> None:
        record, name, fields = read
        known: Row = {"offset": record.offset, "log_index": record.log_index, "ledger_time": record.time_us}
        known |= {"event_type": name}
        for column in self._columns:
            if column.name in {"topic", "partition"}:
                continue
            found = _value(row[column.name], column, is_csv=self._format == "csv")
            if column.name not in known and column.name not in fields:
                if found not in _EMPTY:
                    raise BadExportError(
                        f"{where}: column {column.name} is {_short(found)}: a {name} has no such field"
                    )
                continue
            expected = known[column.name] if column.name in known else fields[column.name]
            if not _is_same(found, expected, column.kind):
                raise BadExportError(f"{where}: column {column.name} is {_short(found)}, expected {_short(expected)}")

    def _evidence(self, name: str) -> Path:
        return self._folder / f"evidence-{name[5:11]}.bin"


def _check_query(where: str, read: ReadRecord, query: dict[str, Any]) -> None:
    """The record is one that was asked for."""
    for name, field in (("tenant_id", "tenant_id"), ("run_id", "run_id")):
        if query[name] and read.fields[field] != query[name]:
            raise BadExportError(f"{where}: {name} is {_short(read.fields[field])}, and not what was asked for")
    if query["event_types"] and read.name not in query["event_types"]:
        raise BadExportError(f"{where}: a {read.name} was not asked for")


def _is_same(found: Any, expected: Any, kind: str) -> bool:
    if isinstance(expected, float) and expected - expected != 0:  # JSON has neither infinity nor what is no number
        return found is None or found == expected or found != found  # noqa: PLR0124
    if "DateTime64" in kind and expected is not None and expected not in _TIME_US_RANGE:
        return True
    if "UUID" in kind and isinstance(expected, str):
        return bool(found == expected.lower())
    return bool(found == expected)


def _value(found: Any, column: DataColumn, *, is_csv: bool) -> Any:
    """A value as the Avro record has it: times in microseconds."""
    kind = column.kind.removeprefix("Nullable(")
    if found is None or (is_csv and found == NULL and kind != column.kind):
        return None
    if isinstance(found, bytes):
        found = found.decode("utf-8", "replace")
    if kind.startswith("DateTime64"):
        time = datetime.fromisoformat(found) if isinstance(found, str) else found
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        found = (time - _EPOCH) // timedelta(microseconds=1) or 0
    elif kind.startswith(("Map", "Array")):
        found = json.loads(found) if isinstance(found, str) else found
        found = {_text(key): _text(text) for key, text in dict(found).items()} if kind.startswith("Map") else [
            _text(one) for one in found
        ]  # fmt: skip
    elif is_csv and kind.startswith("Bool"):
        found = found == "true"
    elif is_csv and kind.startswith(("Int", "UInt")):
        found = int(found)
    elif is_csv and kind.startswith("Float"):
        found = float(found)
    elif is_csv and kind.startswith("String"):
        found = found.removeprefix("'")
    return found


def _text(found: Any) -> Any:
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else found


def _short(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _named(place: Place) -> str:
    topic, partition, index = place
    return f"{topic}/{partition} index {index}"


def _readable(evidence: Path) -> Iterator[tuple[int, Record]]:
    """The readable records of a file, each with where it begins."""
    with mapped(evidence) as raw:
        at = 0
        while at < len(raw):
            fields, behind = read_record(raw, at)
            record = Record._make(fields)
            if any(record.schema):
                yield at, record
            at = behind


def _json_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            yield json.loads(line)


def _csv_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        lines = csv.reader(file, strict=True)
        labels = next(lines)
        for line in lines:
            yield dict(zip(labels, line, strict=True))


def _avro_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for row in fastavro.reader(file, handle_unicode_errors="replace"):
            if not isinstance(row, dict):
                raise BadExportError(f"{path.name} holds no records")
            yield row


def _parquet_rows(path: Path) -> Iterator[Row]:
    parquet = importlib.import_module("pyarrow.parquet")  # a part of no installation that does without it
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_AT_A_TIME):
            yield from batch.to_pylist()


_ROWS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "jsonl": _json_rows, "csv": _csv_rows, "avro": _avro_rows, "parquet": _parquet_rows,
}  # fmt: skip
