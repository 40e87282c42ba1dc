"""Every record of the catalogue as an OCSF event, against what the published schema asks of API Activity."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from agentledger.schemas import Codec, open_registry
from agentledger.schemas.catalogue import current_schemas
from agentledger.schemas.codec import without_logical_types
from agentledger.schemas.events import (
    AlertRaised,
    EvidenceRetrieved,
    ModelCallCompleted,
    StateChanged,
    ToolCallCompleted,
)
from agentledger.sinks.ocsf import VERSION, ocsf_event
from tests.evidence_rig import event

# The compiled schema as schema.ocsf.io exports it comes inside the package ocsf-json-schema, with its licence.
PROFILES = ["ai_operation", "trace"]
SCHEMA = OcsfJsonSchemaEmbedded(get_ocsf_schema(VERSION)).get_class_schema("api_activity", PROFILES)
VALIDATOR = Draft202012Validator(SCHEMA)
CODEC = Codec(open_registry())
TEXT = st.text(max_size=20)
VALUES = {
    "string": TEXT, "long": st.integers(-(2**63), 2**63 - 1), "double": st.floats(), "boolean": st.booleans(),
    "map": st.dictionaries(TEXT, TEXT, max_size=3), "array": st.lists(TEXT, max_size=3),
}  # fmt: skip


def problems(found: dict[str, Any]) -> list[str]:
    """What of an event isn't as the published schema has it."""
    return [error.message for error in VALIDATOR.iter_errors(found)]


def mapped(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The event of a record, as it is read back from its line."""
    found = ocsf_event(
        name, fields, log="agentledger.events.v1/3", log_index=7, ledger_time_us=1_790_000_000_123_456,
        value_sha256="ab" * 32,
    )  # fmt: skip
    again: dict[str, Any] = json.loads(json.dumps(found, allow_nan=False))
    return again


def fields_of(one: Any) -> tuple[str, dict[str, Any]]:
    """A record's name and fields, as an export reads them from its bytes."""
    name = type(one).__name__
    schema = fastavro.parse_schema(without_logical_types(current_schemas()[name]))
    fields: Any = fastavro.schemaless_reader(io.BytesIO(CODEC.encode(one)[5:]), schema)
    return name, fields


@st.composite
def records(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A record of any kind with any values."""
    name = draw(st.sampled_from(sorted(current_schemas())))
    fields: dict[str, Any] = {}
    for field in current_schemas()[name]["fields"]:
        kind = field["type"]
        if isinstance(kind, list):
            if draw(st.booleans()):
                fields[field["name"]] = None
                continue
            kind = kind[1]
        base = kind["type"] if isinstance(kind, dict) else kind
        fields[field["name"]] = draw(VALUES[base])
    return name, fields | {"occurred_at": draw(st.integers(0, 2**52)), "event_id": "id", "producer_id": "p"}


@settings(max_examples=150, deadline=None)
@given(records())
def test_every_record_gives_an_event_as_the_schema_asks(record: tuple[str, dict[str, Any]]) -> None:
    found = mapped(*record)
    assert problems(found) == []
    assert found["type_uid"] == found["class_uid"] * 100 + found["activity_id"]


def test_the_check_itself_finds_what_is_wrong() -> None:
    good = mapped(*fields_of(event(1)))
    assert problems(good) == []
    for change in ({"time": "now"}, {"activity_id": 7}, {"surprise": 1}, {"api": {}}, {"actor": {}}, {"metadata": {}}):
        assert problems(good | change)
    assert problems({name: one for name, one in good.items() if name != "src_endpoint"})


def test_a_model_call() -> None:
    found = mapped(*fields_of(event(
        1, agent_id="bot", agent_version="4", trace_id="a" * 32, span_id="b" * 16, provider="openai",
        answered_model="gpt", input_tokens=10, cache_read_tokens=5, output_tokens=3, reasoning_tokens=2,
        latency_ms=12.4, status="error", error_type="RateLimit", actor="ann",
    )))  # fmt: skip
    assert found["ai_model"] == {"name": "gpt", "ai_provider": "openai"}
    assert found["actor"]["app_uid"] == found["src_endpoint"]["svc_name"] == "bot"
    assert {key: found["message_context"][key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")} == {
        "prompt_tokens": 15, "completion_tokens": 5, "total_tokens": 20,
    }  # fmt: skip
    assert (found["status_id"], found["api"]["response"]["error"], found["duration"]) == (2, "RateLimit", 12)
    assert found["trace"]["span"]["end_time"] - found["trace"]["span"]["start_time"] == 12
    assert found["actor"]["user"] == {"name": "ann", "type_id": 1, "type": "User"}
    assert found["unmapped"]["cache_read_tokens"] == 5
    assert "prompt_tokens" not in mapped(*fields_of(event(2)))["message_context"]


@pytest.mark.parametrize(
    ("kind", "changes", "activity", "severity"),
    [
        (ToolCallCompleted, {"tool": "look_up", "effect": "read"}, 2, 1),
        (ToolCallCompleted, {"tool": "refund", "effect": "irreversible"}, 3, 1),
        (StateChanged, {"resource": "order:7"}, 3, 1),
        (EvidenceRetrieved, {"source": "index"}, 2, 1),
        (ModelCallCompleted, {}, 99, 1),
        (AlertRaised, {"alert_id": "00000000-0000-7000-8000-000000000000", "severity": "critical"}, 99, 5),
    ],
)
def test_activity_and_severity(kind: Any, changes: dict[str, Any], activity: int, severity: int) -> None:
    found = mapped(*fields_of(event(1, kind, **changes)))
    assert (found["activity_id"], found["severity_id"]) == (activity, severity)
    assert found["api"]["operation"] == changes.get("tool", kind.__name__)
