"""What the gateway says of itself."""

from __future__ import annotations

from tests.gateway_rig import GatewayRig


def test_it_is_healthy_and_ready_without_a_key() -> None:
    rig = GatewayRig()
    rig.client.headers.pop("Authorization")
    assert rig.client.get("/healthz").text == "ok\n"
    assert rig.client.get("/readyz").json() == {"ready": True}
    assert "agentledger_gateway_events" in rig.client.get("/metrics").text


def test_it_is_not_ready_while_too_much_waits_for_kafka() -> None:
    rig = GatewayRig(up=False, queue_records_max=1)
    rig.producer.send("t", b"k", b"v", lambda _: None)
    answer = rig.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"ready": False})


def test_what_is_not_there_is_refused_in_the_same_form() -> None:
    rig = GatewayRig()
    assert rig.client.get("/nothing").json()["error"]["reason"] == "not_found"
    assert rig.client.delete("/healthz").json()["error"]["reason"] == "method_not_allowed"
