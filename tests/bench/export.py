"""An export, with all that proves it, against a bare `SELECT … FORMAT Parquet` of the same rows."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from agentledger.schemas import open_registry
from agentledger.schemas.catalogue import current_schemas
from agentledger.sinks.chain import read_chain
from agentledger.sinks.export import Export
from agentledger.sinks.export_plan import ExportRequest
from agentledger.sinks.tables import EVIDENCE, LEDGER
from agentledger.sinks.verify_export import Key, verify_export
from tests.bench.evidence import Ledger, seconds, write
from tests.bench.report import Figure
from tests.bench.sample import sample_events, sample_records

ROWS = 200_000
TURNS = 3  # the best of each: other work on the machine makes a turn slower, never quicker
PLACE = "topic, partition, offset, log_index, ledger_time, event_type"


def measure(folder: Path) -> list[Figure]:
    """Figures of one export of a whole ledger, in one process beside the server."""
    ledger = Ledger(folder)
    try:
        write(ledger, sample_records(ROWS))
        ledger.sign()
        kinds = sorted({type(event).__name__ for event in sample_events(1000)})
        names = {field["name"]: None for kind in kinds for field in current_schemas()[kind]["fields"]}
        columns = ", ".join(f"`{name}`" for name in names)
        evidence = ", ".join(name for name, _ in EVIDENCE if name not in PLACE.split(", "))
        export_s, typed_s, all_s, check_s = [], [], [], []
        for _ in range(TURNS):
            typed_s.append(seconds(lambda: select(ledger, f"{PLACE}, {columns}", folder)))
            all_s.append(seconds(lambda: select(ledger, f"{PLACE}, {columns}, {evidence}", folder)))
            export_s.append(seconds(lambda: export(ledger, folder / "export")))
            keys = [Key(str(key)) for key in ledger.keys.public()]
            check_s.append(seconds(lambda: verify_export(folder / "export", keys)))  # noqa: B023 (called at once)
        return [
            Figure("export_events_per_s", ROWS / min(export_s), "events/s", ""),
            Figure("export_vs_parquet", min(all_s) / min(export_s), "ratio", "at least 0.7"),
            Figure("export_vs_parquet_typed_columns_alone", min(typed_s) / min(export_s), "ratio", ""),
            Figure("verify_export_events_per_s", ROWS / min(check_s), "events/s", ""),
        ]
    finally:
        ledger.service.stop()


def select(ledger: Ledger, columns: str, folder: Path) -> None:
    """Stream the rows to a file, as Parquet, and nothing more."""
    with (
        ledger.client.raw_stream(f"SELECT {columns} FROM {LEDGER} FORMAT Parquet") as answer,
        (folder / "bare.parquet").open("wb") as file,
    ):
        while block := answer.read(1 << 20):
            file.write(block)


def export(ledger: Ledger, out: Path) -> None:
    """Everything that `agentledger export` does, less Kafka."""
    shutil.rmtree(out, ignore_errors=True)
    chain, _ = read_chain(ledger.place.folder, ledger.keys.public())
    found = Export(
        ledger.reader, open_registry(), chain, ExportRequest(out, "parquet"), key=ledger.keys.active(),
        clock=lambda: time.time_ns() // 1000, announce=lambda _facts: None,
    ).write(lambda _rows: None, lambda _rows: None)  # fmt: skip
    if not found["complete"] or found["records"] != ROWS:
        raise RuntimeError(f"the export is not whole: {found}")
