"""The text for the auditor that lies beside an export."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from agentledger.schemas.notes import VerifierKey
from agentledger.sinks.export_plan import ExportRequest
from agentledger.sinks.ocsf import VERSION

_COMPLETE = """This export is COMPLETE. Every record in it stood in the ledger as it stands here, at its place and
    time; and of the logs below, no record of the range of time is missing that was signed when the checkpoint was."""
_FILTERED = """This export was FILTERED. Every record in it is authentic: it stood in the ledger as it stands here, at
    its place and time. That the filter left out the right records is not proven. For each record of the range that is
    not shown, hidden-* holds its place and its hash: whoever has that record can be asked for it, and it is checked
    against this hash. So it can't be denied that there are others, nor how many."""

_PURGED = """This export is complete BUT FOR WHAT WAS PURGED. Every record in it stood in the ledger as it stands
    here, at its place and time. Records whose time had come were taken out of the ledger, or their content was: for
    each of them, hidden-* holds its place and its hash. Whoever keeps the ledger has two people's approvals."""


def readme(request: ExportRequest, manifest: dict[str, Any], names: Sequence[str], keys: Sequence[VerifierKey]) -> str:
    """README.txt of an export, in plain words. `names` are those of its files, `keys` have signed it."""
    data = [name for name in names if name.startswith("data-")]
    counts = "\n".join(f"    {count:>12,}  {name}" for name, count in sorted(manifest["counts"].items()))
    logs = "\n".join(_log(given) for given in manifest["logs"])
    signed_us = int(manifest["last_line"].rpartition(" ")[2])
    types = _plain(", ".join(request.event_types))
    signers = ", ".join(f"{key.name}+{key.key_id.hex()}" for key in keys)
    return f"""Export of the ledger {manifest["origin"]}

WHAT IS IN IT
    ledger time from {_time(request.from_us, "the beginning")} to {_time(request.to_us, "the last signed record")}
    tenant: {_plain(request.tenant_id)}; run: {_plain(request.run_id)}; types of record: {types}
{counts}
    The last checkpoint that it rests on was signed at {_time(signed_us, "")}.

WHAT IT PROVES
    {_COMPLETE if manifest["complete"] else _FILTERED if request.is_filtered else _PURGED}

HOW TO CHECK IT
    You need Python 3.11 or newer, its package "cryptography" (pip install cryptography), and the public key of the
    ledger, which you must have from somewhere else than this folder: a key in here would prove nothing. Whoever keeps
    the ledger prints it with "agentledger keys show". A ledger whose key was rotated has several: put all of them into
    a file, one a line, and give that. This export is signed by: {signers}.
    No network, no database is used.

        python verify_export.py . --key PUBLIC_KEY_OR_FILE

    It prints VERIFIED or NOT VERIFIED and why; its exit code is 0 or 1. Read it first, it is meant to be read; or take
    a copy from a place that you trust. If you hold an earlier export of this ledger, add --previous ITS_FOLDER: that
    proves that history was not rewritten in between.

HOW TO LOOK AT IT
{_examples(request.file_format, data[0]) if data else "    No record in it can be read: there are no data files."}

WHAT THE FILES ARE
    data-*           the records, one row each, to be worked with; records that can't be read are in evidence-* alone.
                     Times are UTC, sums of money are nano-dollars. In CSV, text that a spreadsheet would take for a
                     formula has a ' before it, and NULL is \\N.
    evidence-*       each record as it was received. Little-endian: number of its log in manifest.json (4 bytes), index,
                     offset, ledger time in microseconds since 1970 (8 bytes each), SHA-256 of the writer's schema, of
                     key and of headers (32 bytes each), length of the value (LEB128), the exact value.
    hidden-*         of each record that is not shown: number of its log (4 bytes), index (8), hash (32).
    manifest.json    what was asked for, SHA-256 of every file, the schemas, the checkpoint, and the proofs.
    manifest.sig     its signature (C2SP signed-note, Ed25519).

THE LOGS
{logs}

WHAT IT DOES NOT PROVE
    That what an agent reported is true. The ledger proves what was recorded and when, not that it was right.
    That the data files say the same as the evidence files. That is the word of whoever signed the manifest; the program
    "agentledger verify-export" compares them row by row.
    That what a producer never sent is in the ledger; gaps in a producer's count are.
    That the logs above are all the logs of the ledger: that is the signer's word. A partition that was once signed
    can't vanish from its checkpoints.
"""


def _log(given: dict[str, Any]) -> str:
    _, topic, topic_id, partition, size, *_ = given["head"].split(" ")
    return (
        f"    {topic}, partition {partition} (topic id {topic_id}): index {given['first']} to {given['behind']}, not "
        f"included, of {size} signed"
    )


def _examples(file_format: str, name: str) -> str:
    if file_format == "avro":
        return f"        python -c \"import fastavro; print(next(fastavro.reader(open('{name}', 'rb'))))\""
    files, pandas = {
        "parquet": ("'data-*.parquet'", f"read_parquet('{name}')"),
        "csv": ("read_csv('data-*.csv', nullstr='\\N')", f"read_csv('{name}', na_values=[r'\\N'], low_memory=False)"),
        "jsonl": ("read_json('data-*.jsonl')", f"read_json('{name}', lines=True)"),
        "ocsf": ("read_json('data-*.ocsf.jsonl')", f"read_json('{name}', lines=True)"),
    }[file_format]
    column = "metadata.event_code" if file_format == "ocsf" else "event_type"
    note = f"    Each line is an event of OCSF {VERSION}: API Activity (6003), profiles AI Operation and Trace.\n"
    sql = f"SELECT {column}, count(*) FROM {files} GROUP BY 1"
    return (
        f"{note if file_format == 'ocsf' else ''}"
        f"        python -c \"import duckdb; print(duckdb.sql(r'''{sql}'''))\"\n"
        f'        python -c "import pandas; print(pandas.{pandas})"'
    )


def _time(microseconds: int | None, otherwise: str) -> str:
    if microseconds is None:
        return otherwise
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).isoformat()


def _plain(text: str) -> str:
    """A value on one line; what isn't printable is spelled out."""
    return "all" if not text else "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
