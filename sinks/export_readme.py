"""The text for the auditor that lies beside an export."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from agentledger.sinks.export_plan import ExportRequest


def readme(request: ExportRequest, origin: str, counts: dict[str, int], names: Sequence[str]) -> str:
    """README.txt of an export, in plain words."""
    data = [name for name in names if name.startswith("data-")]
    lines = "\n".join(f"    {count:>12,}  {name}" for name, count in sorted(counts.items()))
    types = _plain(", ".join(request.event_types))
    proves = (
        "This export was FILTERED. It proves that every record in it is authentic: it stood in the ledger as it\n"
        "stands here, at this place and time. It does not show the other records of the range; it holds hashes in\n"
        "their place, so that a complete export can later be compared with it."
        if request.is_filtered
        else "This export is COMPLETE. It proves that every record in it stood in the ledger as it stands here, and\n"
        "that no record of the logs named in manifest.json is missing from this range of time."
    )
    return f"""Export of the ledger {origin}

What is in it
    ledger time from {_time(request.from_us, "the beginning")} to {_time(request.to_us, "the last signed record")}
    tenant: {_plain(request.tenant_id)}; run: {_plain(request.run_id)}; record types: {types}
{lines}

What it proves
{proves}

How to check it
    You need Python 3.11 or newer, its package "cryptography" (pip install cryptography), and the public key of the
    ledger, which you must have from somewhere else than this folder. No network is used.

        python verify_export.py . --key PUBLIC_KEY

    It prints VERIFIED or NOT VERIFIED and why; its exit code is 0 or 1. It is short enough to be read: read it, or take
    a copy from a place that you trust.

How to look at it
{_examples(request.file_format, data[0] if data else "")}

What the files are
    data-*        the records, one row each, to be worked with. Columns that end in _ were changed to suit the format:
                  ids as text, and in CSV a ' before text that a spreadsheet would take for a formula.
    evidence-*    each record as it was received: number of its log, index, offset, ledger time (microseconds since
                  1970, UTC), SHA-256 of writer schema, key and headers, and the exact bytes (base 64).
    hidden-*      hashes that stand for records which a filter left out.
    manifest.json what was asked for, the SHA-256 of every file, and the proofs; manifest.sig is its signature.

What it does not prove
    That what an agent reported is true: the ledger proves what was recorded and when, not that it was right to.
    That the data files say the same as the evidence files: that is the word of whoever signed the manifest.
    That manifest.json names every log of the ledger: that is their word, too.
"""


def _examples(file_format: str, name: str) -> str:
    if file_format == "parquet":
        return (
            f"        duckdb -c \"SELECT event_type, count(*) FROM 'data-*.parquet' GROUP BY 1\"\n"
            f"        python -c \"import pandas; print(pandas.read_parquet('{name}'))\""
        )
    if file_format == "jsonl":
        return (
            f"        duckdb -c \"SELECT event_type, count(*) FROM read_json_auto('data-*.jsonl') GROUP BY 1\"\n"
            f"        python -c \"import pandas; print(pandas.read_json('{name}', lines=True))\""
        )
    if file_format == "csv":
        return (
            f"        duckdb -c \"SELECT event_type, count(*) FROM 'data-*.csv' GROUP BY 1\"\n"
            f"        python -c \"import pandas; print(pandas.read_csv('{name}'))\""
        )
    return f"        python -c \"import fastavro; print(next(fastavro.reader(open('{name}', 'rb'))))\""


def _time(microseconds: int | None, otherwise: str) -> str:
    if microseconds is None:
        return otherwise
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).isoformat()


def _plain(text: str) -> str:
    """A value on one line; what isn't printable is spelled out."""
    return "all" if not text else "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)[:1000]
