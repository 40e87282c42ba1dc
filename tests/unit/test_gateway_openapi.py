"""The gateway against its own description, and against bodies that no description foresees."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import schemathesis
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemathesis import Case
from schemathesis.generation import GenerationMode

from agentledger.producers.gateway.event_fields import FACTS
from agentledger.producers.gateway.json_schemas import ATTRIBUTES_MAX, cloud_event_schema
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import AgentledgerError
from agentledger.schemas.registry import LockFileRegistry
from tests.gateway_rig import GatewayRig
from tests.strategies import any_event, as_fields, events_of

RIG = GatewayRig(events_per_s_max=1_000_000_000, events_max=50)
API = schemathesis.openapi.from_asgi("/openapi.json", RIG.app)
OPERATIONS = {operation.label: operation for operation in (found.ok() for found in API.get_all_operations())}
ANSWERS = {200, 207, 400, 401, 403, 404, 408, 413, 415, 422, 429, 503}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
TYPES = st.sampled_from(
    ["application/json", "application/x-ndjson", "application/cloudevents+json", "application/cloudevents-batch+json"]
)
OPA_NAMES = (
    "labels", "result", "input", "metrics", "bundles", "path", "error", "trace_id", "erased", "timestamp",
    "decision_id", "req_id",
)  # fmt: skip
SMALL = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.mark.filterwarnings("ignore:Skipped test cases with unsupported payload media types")  # JSON lines
@pytest.mark.parametrize(
    ("label", "mode"),
    [(label, GenerationMode.POSITIVE) for label in sorted(OPERATIONS)]
    + [(label, GenerationMode.NEGATIVE) for label in sorted(OPERATIONS) if label.startswith("POST")],
)
def test_what_is_described_is_so(label: str, mode: GenerationMode) -> None:
    @given(OPERATIONS[label].as_strategy(generation_mode=mode))
    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def check(case: Case) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {RIG.key}"})

    check()


@pytest.mark.parametrize(
    ("name", "is_good"),
    [("a", True), ("0", True), ("a" * 64, True), ("a" * 65, False), ("", False), ("a\n", False), ("A", False)],
)
def test_an_attributes_name_is_good_for_the_description_where_it_is_for_the_gateway(name: str, is_good: bool) -> None:
    data = {"run_id": "r", "occurred_at": "2026-11-21T10:00:00Z"}
    item = {"specversion": "1.0", "type": "RunStarted", "source": "s", "id": "1", "data": data, name: "x"}
    assert Draft202012Validator(cloud_event_schema("RunStarted")).is_valid(item) is is_good
    said = post("/v1/events", json.dumps(item).encode(), "application/cloudevents+json")
    assert said["results"][0]["status"] == ("accepted" if is_good else "rejected")


@pytest.mark.parametrize(("labels", "is_good"), [(32, True), (33, False)])
def test_a_cloud_event_with_all_attributes_has_room_for_the_labels_that_are_described(
    labels: int, is_good: bool
) -> None:
    own = {f"l{number}": "x" for number in range(labels)}
    data = {"run_id": "r", "occurred_at": "2026-11-21T10:00:00Z", "labels": own}
    item = {"specversion": "1.0", "type": "RunStarted", "source": "s", "id": f"l-{labels}", "data": data}
    item |= {f"a{number}": "x" for number in range(ATTRIBUTES_MAX - len(item))}
    assert Draft202012Validator(cloud_event_schema("RunStarted")).is_valid(item) is is_good
    said = post("/v1/events", json.dumps(item).encode(), "application/cloudevents+json")
    assert said["results"][0]["status"] == ("accepted" if is_good else "rejected")


def post(path: str, body: bytes, media_type: str, coding: str = "identity") -> Any:
    """The answer, which is never a failure and always JSON with a reason."""
    headers = {"content-type": media_type, "content-encoding": coding}
    answer = RIG.client.post(path, content=body, headers=headers)
    assert answer.status_code in ANSWERS
    said = answer.json()
    assert "results" in said or said["error"]["reason"]
    return said


@given(st.data())
@SMALL
def test_mutated_events_and_cloudevents_are_answered(data: st.DataObject) -> None:
    record = data.draw(st.sampled_from(FACTS))
    item: dict[str, Any] = {"type": record, **as_fields(data.draw(events_of(record)))}
    if data.draw(st.booleans()):
        item = {"specversion": "1.0", "type": record, "source": "s", "id": "1", "data": item}
    changes = data.draw(
        st.dictionaries(st.sampled_from([*item, "time", "subject", "labels"]) | st.text(), JSON, max_size=3)
    )
    media_type = data.draw(TYPES)
    said = post("/v1/events", json.dumps([item | changes]).encode("utf-8", "surrogatepass"), media_type)
    for result in said.get("results", ()):
        assert result["status"] in {"accepted", "rejected"}


@given(st.binary(max_size=300), TYPES, st.sampled_from(["identity", "gzip", "zstd", "x"]), st.booleans())
@SMALL
def test_any_bytes_are_answered(body: bytes, media_type: str, coding: str, is_packed: bool) -> None:
    if is_packed and coding in {"gzip", "zstd"}:
        body = gzip.compress(body) if coding == "gzip" else zstandard.compress(body)
    post("/v1/events", body, media_type, coding)
    post("/v1/opa/logs", body, media_type, coding)


@given(JSON, st.dictionaries(st.sampled_from(OPA_NAMES), JSON, max_size=5))
@SMALL
def test_any_decision_log_is_answered(anything: Any, changes: dict[str, Any]) -> None:
    entry = {"decision_id": "d", "timestamp": "2026-11-21T10:00:00Z"} | changes
    for body in ([entry], anything, [anything]):
        post("/v1/opa/logs", json.dumps(body).encode(), "application/json")


@given(st.data())
@SMALL
def test_any_bytes_decode_or_are_refused(data: st.DataObject) -> None:
    codec = Codec(LockFileRegistry())
    value = bytearray(codec.encode(data.draw(any_event())))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(value) - 1))
        value[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    try:
        event = codec.decode_strictly(bytes(value))
    except AgentledgerError:
        return
    assert codec.encode(event)[5:] == bytes(value)[5:] or value[1:5] != codec.header_of(type(event))[1:5]
