"""POST /v1/events: what is taken, what is refused with which reason, and what a resend changes."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import zstandard

from agentledger.schemas.api_keys import new_api_key
from agentledger.schemas.errors import StoreError
from agentledger.schemas.events import ModelCallCompleted, PolicyDecided
from tests.gateway_rig import NOW_US, GatewayRig

DECIDED: dict[str, Any] = {
    "type": "PolicyDecided", "run_id": "r-1", "occurred_at": "2026-11-21T10:00:00.000001Z", "engine": "cedar",
    "policy": "refunds", "verdict": "allow", "labels": {"team": "a"},
}  # fmt: skip
OCCURRED_US = 1_795_255_200_000_001
CLOUD: dict[str, Any] = {
    "specversion": "1.0", "type": "agentledger.v1.PolicyDecided", "source": "/gate", "id": "d-7",
    "time": "2026-11-21T10:00:00.000001Z", "subject": "r-1", "data": {"engine": "cedar", "verdict": "deny"},
}  # fmt: skip


@pytest.fixture
def rig() -> GatewayRig:
    return GatewayRig()


def first(answer: Any) -> dict[str, Any]:
    """The first item's result."""
    result: dict[str, Any] = answer.json()["results"][0]
    return result


def test_a_fact_is_answered_when_kafka_has_it(rig: GatewayRig) -> None:
    answer = rig.client.post("/v1/events", json=DECIDED)
    assert (answer.status_code, answer.json()["accepted"], first(answer)["status"]) == (200, 1, "accepted")
    [event] = rig.events
    assert isinstance(event, PolicyDecided)
    assert (event.tenant_id, event.run_id, event.occurred_at, event.verdict) == ("acme", "r-1", OCCURRED_US, "allow")
    assert (event.producer_id, event.producer_seq, event.labels) == ("gateway:billing-bot", -1, {"team": "a"})
    assert event.event_id == first(answer)["event_id"]
    assert rig.producer.records[0].key == b"r-1"


def test_a_resend_gives_the_same_bytes_through_any_gateway_and_after_a_rotation(rig: GatewayRig) -> None:
    other = GatewayRig()
    other.now_us += 3_600_000_000
    rig.client.post("/v1/events", json=DECIDED)
    shuffled = {name: DECIDED[name] for name in reversed(DECIDED)} | {"labels": {"team": "a"}}
    other.client.post("/v1/events", json=[shuffled])
    assert rig.producer.records == other.producer.records


def test_a_client_that_counts_is_taken_at_its_word(rig: GatewayRig) -> None:
    counted = DECIDED | {"event_id": "018F3B1C-0000-7000-8000-00000000000A", "producer_id": "ts-1", "producer_seq": 0}
    assert rig.client.post("/v1/events", json=counted).status_code == 200
    [event] = rig.events
    assert (event.event_id, event.producer_id) == ("018f3b1c-0000-7000-8000-00000000000a", "ts-1")
    assert event.producer_seq == 0
    for wrong in ({"producer_seq": 0}, {"producer_seq": -2, "producer_id": "x"}):
        assert first(rig.client.post("/v1/events", json=DECIDED | wrong))["status"] == "rejected"


@pytest.mark.parametrize(
    ("change", "reason", "path"),
    [
        ({"type": "Nothing"}, "unknown_type", "/type"),
        ({"type": None}, "unknown_type", "/type"),
        ({"type": "CostRated"}, "not_a_fact", "/type"),
        ({"type": "agentledger.v1.ControlIssued"}, "not_a_fact", "/type"),
        ({"verdit": "allow"}, "unknown_field", "/verdit"),
        ({"a/b~c": 1}, "unknown_field", "/a~1b~0c"),
        ({"\ud800": 1}, "unknown_field", "/\\ud800"),
        ({"run_id": ""}, "wrong_value", "/run_id"),
        ({"run_id": "x" * 513}, "wrong_value", "/run_id"),
        ({"verdict": 1}, "wrong_value", "/verdict"),
        ({"verdict": None}, "wrong_value", "/verdict"),
        ({"verdict": "\udfff"}, "wrong_value", "/verdict"),
        ({"reason": "x" * 4097}, "wrong_value", "/reason"),
        ({"step": True}, "wrong_value", "/step"),
        ({"step": 2**63}, "wrong_value", "/step"),
        ({"step": 2.0**60}, "wrong_value", "/step"),
        ({"step": 1.5}, "wrong_value", "/step"),
        ({"latency_ms": "3"}, "wrong_value", "/latency_ms"),
        ({"latency_ms": 10**400}, "wrong_value", "/latency_ms"),
        ({"occurred_at": "2026-11-21T10:00:00"}, "wrong_value", "/occurred_at"),
        ({"occurred_at": "2026-13-41T10:00:00Z"}, "wrong_value", "/occurred_at"),
        ({"occurred_at": -1}, "wrong_value", "/occurred_at"),
        ({"occurred_at": 2**62}, "wrong_value", "/occurred_at"),
        ({"event_id": "no"}, "wrong_value", "/event_id"),
        ({"event_id": "{018f3b1c-0000-7000-8000-0000000000}"}, "wrong_value", "/event_id"),
        ({"labels": {"a": 1}}, "wrong_value", "/labels"),
        ({"labels": {str(n): "" for n in range(65)}}, "wrong_value", "/labels"),
        ({"labels": []}, "wrong_value", "/labels"),
        ({"tenant_id": "other"}, "wrong_tenant", "/tenant_id"),
    ],
)
def test_what_does_not_fit_is_rejected_with_its_place(
    rig: GatewayRig, change: dict[str, Any], reason: str, path: str
) -> None:
    body = json.dumps([DECIDED | change, DECIDED])
    answer = rig.client.post("/v1/events", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 207
    result = first(answer)
    assert (result["status"], result["reason"], result["path"]) == ("rejected", reason, path)
    assert len(rig.events) == 1


@pytest.mark.parametrize("name", ["run_id", "occurred_at"])
def test_a_missing_field_is_named(rig: GatewayRig, name: str) -> None:
    answer = rig.client.post("/v1/events", json={key: value for key, value in DECIDED.items() if key != name})
    assert (answer.status_code, first(answer)["reason"], first(answer)["path"]) == (400, "missing_field", f"/{name}")


def test_the_hint_names_the_field_that_was_meant(rig: GatewayRig) -> None:
    assert "did you mean verdict?" in first(rig.client.post("/v1/events", json=DECIDED | {"verdit": ""}))["message"]


def test_lines_are_read_one_by_one(rig: GatewayRig) -> None:
    body = b"\n".join([json.dumps(DECIDED).encode(), b"", b"{broken", json.dumps(CLOUD).encode(), b"\xff"])
    answer = rig.client.post("/v1/events", content=body, headers={"content-type": "application/x-ndjson"})
    assert answer.status_code == 207
    said = [(item["status"], item.get("reason")) for item in answer.json()["results"]]
    assert said == [("accepted", None), ("rejected", "not_json"), ("accepted", None), ("rejected", "not_json")]


def test_copies_in_one_request_are_sent_once_and_conflicts_are_kept(rig: GatewayRig) -> None:
    same_id = DECIDED | {"event_id": "018f3b1c-0000-7000-8000-00000000000a"}
    answer = rig.client.post("/v1/events", json=[same_id, same_id, same_id | {"verdict": "deny"}])
    assert [item["status"] for item in answer.json()["results"]] == ["accepted", "duplicate", "accepted"]
    assert answer.json()["results"][2]["reason"] == "conflicting_id"
    assert len(rig.events) == 2


@pytest.mark.parametrize(
    ("content_type", "batch"),
    [
        ("application/cloudevents+json", False),
        ("application/cloudevents-batch+json; charset=utf-8", True),
        ("application/json", False),
        ("application/json", True),
    ],
)
def test_cloudevents_are_facts_too(rig: GatewayRig, content_type: str, batch: bool) -> None:
    sent = CLOUD | {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "shard": 7, "urgent": True}
    body = json.dumps([sent] if batch else sent)
    assert rig.client.post("/v1/events", content=body, headers={"content-type": content_type}).status_code == 200
    [event] = rig.events
    assert (event.run_id, event.occurred_at, event.trace_id, event.span_id) == ("r-1", OCCURRED_US, "a" * 32, "b" * 16)
    assert event.labels == {"ce_source": "/gate", "ce_id": "d-7", "ce_shard": "7", "ce_urgent": "true"}


def test_source_and_id_are_a_cloudevents_identity(rig: GatewayRig) -> None:
    changed = CLOUD | {"data": {"verdict": "allow"}}
    batch = [CLOUD, CLOUD, changed, CLOUD | {"id": "d-8"}, CLOUD | {"source": "/gat", "id": "ed-7"}]
    results = rig.client.post("/v1/events", json=batch).json()["results"]
    ids = [result["event_id"] for result in results]
    assert ids[0] == ids[1] == ids[2]
    assert len(set(ids)) == 3
    assert [result["status"] for result in results] == ["accepted", "duplicate", "accepted", "accepted", "accepted"]


@pytest.mark.parametrize(
    ("change", "reason", "path"),
    [
        ({"specversion": "0.3"}, "wrong_value", "/specversion"),
        ({"id": ""}, "missing_field", "/id"),
        ({"source": 3}, "wrong_value", "/source"),
        ({"type": "x"}, "unknown_type", "/type"),
        ({"data": "text"}, "wrong_value", "/data"),
        ({"data_base64": "AA=="}, "wrong_value", "/data"),
        ({"datacontenttype": "text/xml"}, "wrong_value", "/datacontenttype"),
        ({"time": "yesterday"}, "wrong_value", "/time"),
        ({"subject": 7}, "wrong_value", "/subject"),
        ({"data": {"occurred_at": "yesterday"}}, "wrong_value", "/data/occurred_at"),
        ({"data": {"verdit": ""}}, "unknown_field", "/data/verdit"),
        ({"data": {"labels": 3}}, "wrong_value", "/data/labels"),
        ({"my_attribute": "x"}, "unknown_field", "/my_attribute"),
        ({"nested": {}}, "unknown_field", "/nested"),
        ({f"x{number}": "" for number in range(33)}, "too_many", ""),
    ],
)
def test_a_cloudevent_is_rejected_with_the_place_in_it(
    rig: GatewayRig, change: dict[str, Any], reason: str, path: str
) -> None:
    result = first(rig.client.post("/v1/events", json=CLOUD | change))
    assert (result["status"], result.get("reason"), result.get("path")) == ("rejected", reason, path)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "reason"),
    [
        (b"", "application/json", 400, "empty_body"),
        (b" \n", "application/x-ndjson", 400, "empty_body"),
        (b"{", "application/json", 400, "not_json"),
        (b"\xff\xfe", "application/json", 400, "not_json"),
        (b'{"a": NaN}', "application/json", 400, "not_json"),
        (b'{"a": 1, "a": 2}', "application/json", 400, "not_json"),
        (b"1" * 5000, "application/json", 400, "not_json"),
        (b"[" * 100_000, "application/json", 400, "too_deep"),
        (b"[" * 60 + b"]" * 60, "application/json", 400, "too_deep"),
        (b"{}", "text/plain", 415, "unknown_media_type"),
        (b"{}", "", 415, "unknown_media_type"),
        (b"{}", "application/cloudevents-batch+json", 400, "not_a_batch"),
        (b"[" + b"1," * 2000 + b"1]", "application/json", 413, "too_many_events"),
    ],
)
def test_a_body_that_is_none_is_refused(
    rig: GatewayRig, body: bytes, content_type: str, status: int, reason: str
) -> None:
    answer = rig.client.post("/v1/events", content=body, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason)


def test_an_empty_batch_is_fine(rig: GatewayRig) -> None:
    assert rig.client.post("/v1/events", json=[]).json()["results"] == []


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "zstd", "identity"])
def test_bodies_may_be_compressed(rig: GatewayRig, coding: str) -> None:
    plain = json.dumps([DECIDED | {"step": step} for step in range(500)]).encode()
    body = zstandard.compress(plain) if coding == "zstd" else plain if coding == "identity" else gzip.compress(plain)
    headers = {"content-type": "application/json", "content-encoding": coding}
    assert rig.client.post("/v1/events", content=body, headers=headers).json()["accepted"] == 500


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_what_inflates_too_far_or_is_damaged_is_refused(coding: str) -> None:
    rig = GatewayRig(inflated_bytes_max=100_000)
    compress = zstandard.compress if coding == "zstd" else gzip.compress
    headers = {"content-type": "application/json", "content-encoding": coding}

    def refusal(body: bytes) -> tuple[int, str]:
        answer = rig.client.post("/v1/events", content=body, headers=headers)
        return answer.status_code, answer.json()["error"]["reason"]

    assert refusal(compress(b" " * 100_000)) == (400, "empty_body")
    assert refusal(compress(b" " * 100_001)) == (413, "inflated_too_large")
    assert refusal(compress(bytes(50_000_000))) == (413, "inflated_too_large")
    whole = compress(json.dumps(DECIDED).encode())
    for damaged in (whole[:-1], whole[:10], whole + b"x", b"nonsense", b"", whole[:20] + b"\x00\x01" + whole[22:]):
        assert refusal(damaged) == (400, "damaged_body")
    assert rig.events == []


def test_an_encoding_that_nobody_knows_is_refused(rig: GatewayRig) -> None:
    answer = rig.client.post("/v1/events", json=DECIDED, headers={"content-encoding": "br"})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (415, "unknown_encoding")


def test_a_body_over_its_bound_is_refused_with_and_without_a_length(rig: GatewayRig) -> None:
    small = GatewayRig(body_bytes_max=1000)
    big = json.dumps(DECIDED | {"reason": "x" * 2000}).encode()
    headers = {"content-type": "application/json"}
    for body in (big, iter([big[:500], big[500:]])):
        answer = small.client.post("/v1/events", content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (413, "body_too_large")
    assert rig.client.post("/v1/events", content=big, headers=headers).status_code == 200


def test_an_event_that_kafka_would_not_take_is_rejected(rig: GatewayRig) -> None:
    big = DECIDED | {"type": "ToolCallCompleted", "evidence_ids": ["é" * 256] * 512, "labels": {}}
    big |= {"arguments_redacted": "𝄞" * 65_000, "result_redacted": "𝄞" * 65_000, "error_message": "𝄞" * 4096}
    big |= {"labels": {str(number): "𝄞" * 1024 for number in range(64)}}
    for name in ("engine", "policy", "verdict"):
        del big[name]
    result = first(rig.client.post("/v1/events", json=big))
    assert (result["status"], result["reason"]) == ("rejected", "too_large")


def test_a_call_may_be_told_as_well(rig: GatewayRig) -> None:
    call = {"type": "ModelCallCompleted", "run_id": "r", "occurred_at": OCCURRED_US, "input_tokens": 3, "latency_ms": 7}
    assert rig.client.post("/v1/events", json=call).status_code == 200
    [event] = rig.events
    assert isinstance(event, ModelCallCompleted)
    assert (event.input_tokens, event.output_tokens, event.latency_ms) == (3, None, 7.0)


# --- who may send ---------------------------------------------------------------------------------------------------


def post(rig: GatewayRig, authorization: str | None) -> tuple[int, str]:
    """Status and reason of an event sent under this header."""
    rig.client.headers.pop("Authorization", None)
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = rig.client.post("/v1/events", json=DECIDED, headers=headers)
    return answer.status_code, answer.json().get("error", {}).get("reason", "")


def test_without_a_valid_key_nothing_is_taken(rig: GatewayRig) -> None:
    wrong_secret = rig.key[:-1] + ("A" if rig.key[-1] != "A" else "B")
    unknown = "alk_" + "0" * 12 + rig.key[16:]
    for given in (None, "", "Bearer", "Bearer x", f"Basic {rig.key}", f"Bearer {wrong_secret}", f"Bearer {unknown}"):
        assert post(rig, given) == (401, "unauthorised")
    assert post(rig, f"bearer  {rig.key} ") == (200, "")
    assert len(rig.events) == 1


def test_a_key_without_the_scope_may_not_ingest(rig: GatewayRig) -> None:
    reader, text = new_api_key("reader", "acme", ["read", "admin"], now_us=NOW_US)
    rig.keys.change(lambda keys: keys.update({reader.key_id: reader}))
    assert post(rig, f"Bearer {text}") == (403, "scope_missing")


def test_keys_that_cannot_be_read_open_nothing(rig: GatewayRig) -> None:
    rig.keys.is_down = True
    assert post(rig, f"Bearer {rig.key}") == (503, "keys_unreadable")
    with pytest.raises(StoreError):
        rig.keys.listed()


def test_an_expired_key_opens_nothing(rig: GatewayRig) -> None:
    short, text = new_api_key("short", "acme", ["ingest"], now_us=NOW_US, expires_at=NOW_US + 10)
    rig.keys.change(lambda keys: keys.update({short.key_id: short}))
    assert post(rig, f"Bearer {text}") == (200, "")
    rig.now_us += 10
    assert post(rig, f"Bearer {text}") == (401, "unauthorised")


# --- when there is too much, or no Kafka ----------------------------------------------------------------------------


def test_kafka_that_is_away_is_a_503_and_the_same_may_be_sent_again() -> None:
    rig = GatewayRig(up=False, ack_wait_s_max=0.01)
    answer = rig.client.post("/v1/events", json=[DECIDED, DECIDED, DECIDED | {"verdit": ""}])
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert [item["status"] for item in answer.json()["results"]] == ["unanswered", "unanswered", "rejected"]
    rig.producer.come_back()
    assert rig.client.post("/v1/events", json=DECIDED).status_code == 200
    assert rig.producer.records[0] == rig.producer.records[1]


def test_what_kafka_refuses_is_said() -> None:
    rig = GatewayRig()
    rig.producer.refuse("TOPIC_AUTHORIZATION_FAILED: no")
    answer = rig.client.post("/v1/events", json=DECIDED)
    assert (answer.status_code, first(answer)["message"]) == (503, "TOPIC_AUTHORIZATION_FAILED: no")


def test_a_full_queue_is_a_503_before_the_body_is_read() -> None:
    rig = GatewayRig(up=False, ack_wait_s_max=0.01, queue_records_max=2)
    assert rig.client.post("/v1/events", json=[DECIDED, DECIDED | {"step": 1}]).status_code == 503
    answer = rig.client.post("/v1/events", content=b"never read")
    assert (answer.status_code, answer.json()["error"]["reason"], answer.headers["Retry-After"]) == (503, "busy", "5")


def test_a_queue_that_fills_in_the_middle_of_a_batch_says_what_was_not_taken() -> None:
    rig = GatewayRig(up=False, ack_wait_s_max=0.01, records_max=1)
    answer = rig.client.post("/v1/events", json=[DECIDED, DECIDED | {"step": 1}])
    assert [item["message"] for item in answer.json()["results"]][1] == "the queue to Kafka is full"


def test_a_key_that_sends_too_much_waits() -> None:
    rig = GatewayRig(events_per_s_max=10)
    assert rig.client.post("/v1/events", json=[DECIDED | {"step": step} for step in range(45)]).status_code == 200
    answer = rig.client.post("/v1/events", json=DECIDED)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (429, "rate_exceeded")
    wait_s = int(answer.headers["Retry-After"])
    assert wait_s == 3
    rig.now_us += wait_s * 1_000_000
    assert rig.client.post("/v1/events", json=DECIDED).status_code == 200


def test_bodies_under_way_need_room() -> None:
    rig = GatewayRig(held_bytes_max=10)
    for _ in range(2):
        assert rig.client.post("/v1/events", json=DECIDED).json()["error"]["reason"] == "busy"


def test_what_became_of_events_is_counted() -> None:
    rig = GatewayRig()
    rig.client.post("/v1/events", json=[DECIDED, DECIDED, 3])
    text = rig.client.get("/metrics").text
    for result in ("accepted", "duplicate", "rejected"):
        assert f'agentledger_gateway_events_total{{result="{result}"}} 1.0' in text
    assert 'agentledger_gateway_requests_total{route="/v1/events",status="207"} 1.0' in text
