"""OTLP bodies: protobuf and JSON mean the same, what is wrong is refused by name, nothing crashes."""

from __future__ import annotations

import copy
import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

from agentledger.producers.importers import ImportedRun, ImportOptions, read_file
from agentledger.producers.otel import Memory, SpanReader
from agentledger.producers.otel.otlp import JSON, PROTOBUF, OtlpBodyError, RefusedSpan, read_request, write_response
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.events import Event
from tests.otlp_requests import any_value, as_json, key_values, recorded_request, request_of
from tests.traces import traces_folder

CODEC = Codec(open_registry())
# Of the ways in: whose number an event has, who told it, and where it ran.
WAY_IN = {"producer_id", "producer_seq", "environment", "source"}


def otlp_span(**facts: Any) -> OtlpSpan:
    usual: dict[str, Any] = {
        "name": "chat gpt-4o",
        "trace_id": bytes(range(16)),
        "span_id": bytes(range(8)),
        "start_time_unix_nano": 1_790_000_000_123_456_789,
        "end_time_unix_nano": 1_790_000_001_123_456_789,
        "attributes": key_values({"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 7}),
    }
    return OtlpSpan(**(usual | facts))


def events_of(body: bytes, media_type: str) -> list[Event]:
    found = SpanReader(Memory()).read("default", read_request(body, media_type).taken)
    return found.events


def without_way_in(event: Event) -> dict[str, Any]:
    return {field.name: getattr(event, field.name) for field in fields(event) if field.name not in WAY_IN}


@pytest.mark.traces
@pytest.mark.parametrize("media_type", [PROTOBUF, JSON])
def test_recordings_sent_as_otlp_give_the_events_that_importing_them_gives(media_type: str) -> None:
    paths = sorted((traces_folder() / "otel-any-agent").glob("*.json.gz"))
    assert len(paths) == 68
    for path in paths:
        request = recorded_request(path)
        body = as_json(request) if media_type == JSON else request.SerializeToString()
        [run] = [item for item in read_file("otel-json", path, ImportOptions()) if isinstance(item, ImportedRun)]
        assert list(map(without_way_in, events_of(body, media_type))) == list(map(without_way_in, run.events)), path


def test_json_and_protobuf_mean_the_same() -> None:
    attributes = key_values({"int": 2**53 + 1, "bool": True, "double": 4.2e-06, "text": "ä"})
    attributes[0].value.int_value = -(2**62)
    listed = any_value("")
    listed.array_value.values.append(any_value(1))
    listed.array_value.values.append(any_value("x"))
    attributes.extend(key_values({}))
    span = otlp_span(attributes=attributes, kind=OtlpSpan.SPAN_KIND_CLIENT, parent_span_id=b"\x01" * 8, flags=0x300)
    span.attributes.add(key="list", value=listed)
    request = request_of([(span, {"service.name": "s"})])
    by_protobuf = read_request(request.SerializeToString(), PROTOBUF)
    assert read_request(as_json(request), JSON) == by_protobuf
    [taken] = by_protobuf.taken
    assert (taken.kind, taken.parent_is_remote, taken.parent_id) == ("client", True, "01" * 8)
    assert (taken.started_us, taken.ended_us) == (1_790_000_000_123_456, 1_790_000_001_123_456)
    assert str(taken.attributes["double"]) == "0.0000042"
    assert taken.attributes["list"] == [1, "x"]
    assert taken.attributes["int"] == -(2**62)


def test_json_as_the_specification_writes_it() -> None:
    body = b"""{"[secret]": 0,
        "resourceSpans": [{"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "s"}}]},
        "scopeSpans": [{"scope": {"name": "x"}, "spans": [{"traceId": "5B8EFFF798038103D269B633813FC60C",
        "spanId": "EEE19B7EC3C1B174", "parentSpanId": "EEE19B7EC3C1B173", "name": "n", "kind": 2, "unknownField": [1],
        "[not.known]": {},
        "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": "1544712661000000000",
        "attributes": [{"key": "n", "value": {"intValue": "7"}}], "status": {"code": 2, "message": "m"}}]}]}]}"""
    [span] = read_request(body, JSON).taken
    assert (span.trace_id, span.span_id) == ("5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174")
    assert (span.kind, span.status, span.status_text, dict(span.attributes)) == ("server", "error", "m", {"n": 7})


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"trace_id": b""}, "trace id"),
        ({"trace_id": bytes(16)}, "trace id"),
        ({"span_id": b"\x01" * 7}, "span id"),
        ({"start_time_unix_nano": 0}, "times"),
        ({"end_time_unix_nano": 2**64 - 1}, "times"),
    ],
)
def test_a_span_that_cannot_be_is_refused_and_the_others_are_taken(facts: dict[str, Any], reason: str) -> None:
    request = request_of([(otlp_span(**facts), {}), (otlp_span(), {})])
    for spans in (read_request(request.SerializeToString(), PROTOBUF), read_request(as_json(request), JSON)):
        assert len(spans.taken) == 1
        assert [item.name for item in spans.refused] == ["chat gpt-4o"]
        assert reason in spans.refused[0].reason


def test_an_answer_says_what_was_refused_as_the_specification_has_it() -> None:
    assert write_response([], PROTOBUF) == b""
    assert write_response([], JSON) == b"{}"
    refused = [RefusedSpan("a", "why")] * 7
    answer = ExportTraceServiceResponse.FromString(write_response(refused, PROTOBUF))
    assert answer.partial_success.rejected_spans == 7
    assert answer.partial_success.error_message.endswith("a: why; and 2 more")
    as_text = json.loads(write_response(refused[:1], JSON))
    assert as_text == {"partialSuccess": {"rejectedSpans": "1", "errorMessage": "a: why"}}


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"null", b"7", b'{"resourceSpans": 7}', b'{"resourceSpans": [7]}', b"[" * 100_000, b"\xff"],
)
def test_a_json_body_that_is_no_request_is_refused_whole(body: bytes) -> None:
    with pytest.raises(OtlpBodyError, match="no OTLP export request"):
        read_request(body, JSON)


def test_deep_and_many_values_are_bounded() -> None:
    deep = any_value("x")
    for _ in range(40):
        outer = any_value("")
        outer.array_value.values.append(deep)
        deep = outer
    span = otlp_span()
    span.attributes.add(key="deep", value=deep)
    span.attributes.extend(key_values({f"n{number}": number for number in range(5000)}))
    [taken] = read_request(request_of([(span, {})]).SerializeToString(), PROTOBUF).taken
    assert len(taken.attributes) == 1024
    assert str(taken.attributes["deep"]).count("[") == 32


def test_spans_beyond_the_bound_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentledger.producers.otel.otlp.SPANS_MAX", 2)
    spans = read_request(request_of([(otlp_span(), {})] * 5).SerializeToString(), PROTOBUF)
    assert (len(spans.taken), len(spans.refused)) == (2, 3)
    assert "2 spans" in spans.refused[0].reason


SAMPLE = request_of(
    [
        (otlp_span(), {"service.name": "s", "deployment.environment": "test"}),
        (
            otlp_span(
                span_id=b"\x02" * 8,
                parent_span_id=bytes(range(8)),
                attributes=key_values({"openinference.span.kind": "TOOL", "input.value": "{'a': 1}", "tool.name": "t"}),
                events=[OtlpSpan.Event(name="exception", attributes=key_values({"exception.type": "E"}))],
            ),
            {},
        ),
    ]
)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, -(2**63) - 1, 2**200, float("nan"), float("inf"), 1e400]),
    st.text(max_size=8),
    st.sampled_from(["\ud800", "x" * 5000, "NaN", "-", "=", "AAAA", "0" * 32, "f" * 32]),
    st.just([]),
    st.just({}),
    st.just([[None, 1, "x", {}]]),
    st.just({"stringValue": 1, "intValue": "2"}),
    st.just({"arrayValue": {"values": [{"kvlistValue": {"values": [{"key": "a"}]}}]}}),
)


def places_of(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [place for key, item in entries for place in ((*at, key), *places_of(item, (*at, key)))]


DOCUMENT = json.loads(as_json(SAMPLE))
PLACES = places_of(DOCUMENT)


def assert_taken_or_refused(body: bytes, media_type: str) -> None:
    try:
        spans = read_request(body, media_type)
    except OtlpBodyError:
        return
    found = SpanReader(Memory()).read("acme", spans.taken)
    for event in found.events:
        assert CODEC.decode_strictly(CODEC.encode(event)) == event
    write_response([*spans.refused, *(RefusedSpan(bad.span.name, bad.reason) for bad in found.bad)], media_type)


@given(place=st.sampled_from(PLACES), odd=ODD)
def test_whatever_stands_anywhere_in_the_json_it_is_taken_or_refused(place: tuple[Any, ...], odd: Any) -> None:
    document = copy.deepcopy(DOCUMENT)
    target = document
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = odd
    assert_taken_or_refused(json.dumps(document).encode(), JSON)


@given(st.binary(max_size=200), st.sampled_from([PROTOBUF, JSON]))
def test_whatever_bytes_come_they_are_taken_or_refused(body: bytes, media_type: str) -> None:
    assert_taken_or_refused(body, media_type)


@given(st.data())
def test_a_damaged_request_is_taken_or_refused(data: st.DataObject) -> None:
    body = bytearray(SAMPLE.SerializeToString())
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    assert_taken_or_refused(bytes(body[:cut]), PROTOBUF)


ATTRIBUTES = [
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.cost",
    "gen_ai.request.model",
    "input.value",
    "error.type",
    "x",
]
VALUES = st.one_of(ODD.filter(lambda value: not isinstance(value, float)), st.sampled_from(["[" * 900 + "]" * 900]))


@given(st.dictionaries(st.sampled_from(ATTRIBUTES), VALUES))
def test_whatever_an_attribute_holds_the_events_encode(attributes: dict[str, Any]) -> None:
    [span] = read_request(request_of([(otlp_span(), {})]).SerializeToString(), PROTOBUF).taken
    found = SpanReader(Memory()).read("acme", [replace(span, attributes={**span.attributes, **attributes})])
    assert len(found.events) + len(found.bad) == 3
    for event in found.events:
        CODEC.encode(event)


def test_an_empty_request_is_nothing() -> None:
    assert read_request(ExportTraceServiceRequest().SerializeToString(), PROTOBUF) == ([], [])
    assert read_request(b"{}", JSON) == ([], [])
