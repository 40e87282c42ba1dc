"""The catalogue: every record begins with the envelope, is documented, locked, and what events.py says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from agentledger.infra import codegen, schema_lock
from agentledger.schemas.catalogue import current_schemas, schema_sha256, schema_text
from agentledger.schemas.errors import SchemaError
from agentledger.schemas.registry import LOCK_FILE, LockEntry, LockFileRegistry, bundled_lock, parse_lock

ROOT = Path(__file__).parents[2]
DESIGN_RECORDS = [
    "RunStarted",
    "RunFinished",
    "ModelCallCompleted",
    "ToolCallCompleted",
    "PolicyDecided",
    "ValidationCompleted",
    "EvidenceRetrieved",
    "ApprovalRequested",
    "ApprovalDecided",
    "StateChanged",
    "OutcomeRecorded",
    "CostRated",
    "BudgetHeld",
    "BudgetSettled",
    "BudgetReleased",
    "BudgetThresholdCrossed",
    "BudgetExceeded",
    "AlertRaised",
    "AlertResolved",
    "OutcomeCosted",
    "ControlIssued",
    "CheckpointSigned",
    "GapDetected",
    "ConflictDetected",
]
FOR_BUDGETS_AND_ALERTS = [
    "AlertAcknowledged",
    "AlertDelivered",
    "AlertUpdated",
    "BudgetDeclared",
    "HoldDecided",
    "HoldReported",
    "HoldRequested",
    "RetentionRecorded",
    "RunBudgetDeclared",
    "Ticked",
]

BESIDE_THE_TRAIL = ["PayloadChunk"]
ALL_RECORDS = DESIGN_RECORDS + FOR_BUDGETS_AND_ALERTS + BESIDE_THE_TRAIL


def test_the_catalogue_holds_the_records_of_the_design() -> None:
    assert sorted(current_schemas()) == sorted(ALL_RECORDS)


@pytest.mark.parametrize("name", ALL_RECORDS)
def test_every_record_begins_with_the_same_envelope_and_is_documented(name: str) -> None:
    schema = current_schemas()[name]
    envelope = current_schemas()["RunStarted"]["fields"][: codegen.ENVELOPE_FIELDS]
    assert schema["fields"][: codegen.ENVELOPE_FIELDS] == envelope
    assert schema["doc"]
    assert all(field["doc"] for field in schema["fields"])
    assert all("default" in field or field["type"] != ["null"] for field in schema["fields"])


def test_a_field_name_means_one_type_everywhere() -> None:
    """All records share one wide table: two types under one name could not be stored."""
    types: dict[str, set[str]] = {}
    for schema in current_schemas().values():
        for field in schema["fields"]:
            types.setdefault(field["name"], set()).add(json.dumps(field["type"]))
    assert {name: kinds for name, kinds in types.items() if len(kinds) > 1} == {}


def test_events_py_is_what_the_schemas_say() -> None:
    assert (ROOT / "schemas" / "events.py").read_text("utf-8") == codegen.events_source()


def test_every_schema_is_locked_and_compatible() -> None:
    assert schema_lock.check_lock() == len(bundled_lock()) >= len(DESIGN_RECORDS)
    ids = [entry.id for entry in bundled_lock()]
    assert len(set(ids)) == len(ids)


def test_the_lock_file_only_ever_grew() -> None:
    """Every committed version of the lock is a prefix of today's: no id was changed or taken away."""
    path = f"schemas/avro/{LOCK_FILE}"
    now = (ROOT / path).read_text("utf-8")
    log = ["git", "-C", str(ROOT), "log", "--format=%H", "--", path]
    commits = subprocess.run(log, capture_output=True, text=True, check=True).stdout.split()
    assert commits, "the lock file has no history: is this a git checkout with its full history?"
    for commit in commits:
        show = ["git", "-C", str(ROOT), "show", f"{commit}:{path}"]
        assert now.startswith(subprocess.run(show, capture_output=True, text=True, check=True).stdout)


def test_an_edited_lock_line_is_refused() -> None:
    entry = bundled_lock()[0]
    edited = LockEntry(entry.id, entry.subject, entry.version, entry.sha256, {**entry.schema, "doc": "other"})
    with pytest.raises(SchemaError, match="edited after it was locked"):
        parse_lock(edited.line())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda fields: [*fields, {"name": "risk", "type": "string"}], "read version 1"),
        (lambda fields: fields[1:], "be read by version 1"),
        (lambda fields: [{**fields[0], "type": "long"}, *fields[1:]], "version 1"),
    ],
    ids=["new field without default", "required field removed", "type changed"],
)
def test_an_incompatible_change_is_refused(change: object, reason: str) -> None:
    schema = current_schemas()["RunFinished"]
    changed = {**schema, "fields": change(schema["fields"])}  # type: ignore[operator]
    with pytest.raises(SchemaError, match=reason):
        schema_lock.check_compatible("agentledger.v1.RunFinished", [schema_text(schema)], schema_text(changed))


def test_a_compatible_change_gets_the_next_id(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = current_schemas()["RunFinished"]
    grown = {**schema, "fields": [*schema["fields"], {"name": "note", "type": "string", "doc": "x", "default": ""}]}
    monkeypatch.setattr(schema_lock, "current_schemas", lambda: {**current_schemas(), "RunFinished": grown})
    [entry] = schema_lock.missing_entries(bundled_lock())
    assert (entry.id, entry.version) == (max(known.id for known in bundled_lock()) + 1, 2)
    assert LockFileRegistry([*bundled_lock(), entry]).schema_of(entry.id) == grown
    assert entry.sha256 == schema_sha256(grown).hex()
