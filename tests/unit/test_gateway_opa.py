"""POST /v1/opa/logs: decisions as Open Policy Agent uploads them."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import Any

import pytest

from agentledger.schemas.events import PolicyDecided
from tests.gateway_rig import GatewayRig

# As the documentation of OPA describes an upload ("Decision Logs", service API): an array, gzipped, with these members.
DECISION: dict[str, Any] = {
    "labels": {"app": "refund-agent", "id": "1780d507-aea2-45cc-ae50-fa153c8e4a5a", "version": "1.4.2"},
    "decision_id": "4ca636c1-55e4-417a-b1d8-4aceb67960d1",
    "trace_id": "0af7651916cd43dd8448eb211c80319c",
    "span_id": "b7ad6b7169203331",
    "bundles": {"authz": {"revision": "W3sibCI6InN5cy9jYXRhbG9nIiwicyI6NDA3MX1d"}},
    "path": "refunds/allow",
    "input": {"run_id": "run-7", "agent_id": "support-bot", "action": "create_refund", "resource": "order:A-1"},
    "result": True,
    "requested_by": "[::1]:59943",
    "timestamp": "2026-11-21T10:00:00.123456789Z",
    "metrics": {"timer_rego_query_eval_ns": 154_000, "timer_server_handler_ns": 2_500_000},
    "erased": ["/input/password"],
    "req_id": 7,
}


def upload(rig: GatewayRig, *decisions: Any) -> Any:
    """The answer to an upload as OPA sends it."""
    body = gzip.compress(json.dumps(list(decisions)).encode())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    return rig.client.post("/v1/opa/logs", content=body, headers=headers)


def decided(change: dict[str, Any]) -> PolicyDecided:
    """What becomes of the decision with this change."""
    rig = GatewayRig()
    assert upload(rig, DECISION | change).status_code == 200
    [event] = rig.events
    assert isinstance(event, PolicyDecided)
    return event


def test_a_decision_becomes_a_fact() -> None:
    event = decided({})
    assert (event.engine, event.policy, event.verdict, event.run_id) == ("opa", "refunds/allow", "allow", "run-7")
    assert (event.agent_id, event.action, event.target) == ("support-bot", "create_refund", "order:A-1")
    assert event.policy_version == "authz=W3sibCI6InN5cy9jYXRhbG9nIiwicyI6NDA3MX1d"
    assert (event.occurred_at, event.latency_ms) == (1_795_255_200_123_456, 2.5)
    assert (event.trace_id, event.span_id) == (DECISION["trace_id"], DECISION["span_id"])
    canonical = json.dumps(DECISION["input"], sort_keys=True, separators=(",", ":")).encode()
    assert event.input_digest == f"sha256:{hashlib.sha256(canonical).hexdigest()}"
    assert event.labels["opa_decision_id"] == DECISION["decision_id"]
    assert event.labels["opa_erased"] == "/input/password"
    assert event.labels["opa_label_app"] == "refund-agent"


def test_the_decision_id_is_the_identity() -> None:
    rig = GatewayRig()
    upload(rig, DECISION)
    upload(rig, DECISION)
    upload(rig, DECISION | {"decision_id": "other"})
    ids = [event.event_id for event in rig.events]
    assert ids[0] == ids[1] != ids[2]
    assert rig.producer.records[0] == rig.producer.records[1]


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        ({"result": False}, "deny", ""),
        ({"result": {"allow": True}}, "allow", ""),
        ({"result": {"allowed": False, "reason": "too much"}}, "deny", "too much"),
        ({"result": {"decision": True}}, "allow", ""),
        ({"result": {"decision": "require_approval"}}, "require_approval", ""),
        ({"result": {"deny": []}}, "allow", ""),
        ({"result": {"deny": ["over the cap", "no ticket"]}}, "deny", "over the cap; no ticket"),
        ({"result": {"allow": True, "deny": True}}, "deny", ""),
        ({"result": "ALLOW"}, "allow", ""),
        ({"result": {"roles": ["a"]}}, "", ""),
        ({"result": True, "error": {"code": "x", "message": "eval conflict"}}, "error", "eval conflict"),
    ],
)
def test_verdicts_in_their_usual_forms(change: dict[str, Any], verdict: str, reason: str) -> None:
    event = decided(change)
    assert (event.verdict, event.reason) == (verdict, reason)


def test_an_undefined_decision_is_no_permission() -> None:
    rig = GatewayRig()
    upload(rig, {name: value for name, value in DECISION.items() if name != "result"})
    [event] = rig.events
    assert isinstance(event, PolicyDecided)
    assert event.verdict == "undefined"


def test_an_authzen_request_names_subject_action_and_resource() -> None:
    asked = {
        "subject": {"type": "user", "id": "ann"},
        "action": {"name": "can_refund"},
        "resource": {"type": "order", "id": "A-1"},
        "context": {"run_id": "run-8"},
    }
    event = decided({"input": asked, "result": {"decision": False, "context": {}}})
    assert (event.run_id, event.actor, event.action, event.target) == ("run-8", "user:ann", "can_refund", "order:A-1")


def test_a_decision_outside_of_any_run_has_one_of_its_own() -> None:
    assert decided({"input": None}).run_id == f"opa:{DECISION['decision_id']}"


def test_200_says_that_all_of_it_is_durable() -> None:
    away = GatewayRig(up=False, ack_wait_s_max=0.01)
    answer = upload(away, DECISION)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    rig = GatewayRig()
    for wrong in ({"decision_id": ""}, {"timestamp": "yesterday"}, {"timestamp": None}):
        assert upload(rig, DECISION, DECISION | wrong).status_code == 400
    assert upload(rig, DECISION, 3).json()["error"]["message"] == "decision 1: a decision is a JSON object"
    assert rig.events == []


def test_what_is_too_long_is_cut_so_that_opa_can_go_on() -> None:
    event = decided({"path": "p" * 100_000, "labels": {"x" * 1000: "y" * 10_000}, "input": {"run_id": "r" * 5000}})
    assert len(event.policy.encode()) <= 4096
    assert len(event.run_id) <= 512
