"""Answers to pages: only what is signed becomes events, and what comes twice makes the same ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from agentledger.schemas.errors import BrokerError
from agentledger.schemas.events import AlertAcknowledged, AlertResolved, Event
from agentledger.sinks.notify.desk import Desk
from agentledger.sinks.notify.incoming_server import incoming_app
from agentledger.sinks.notify.settings import Incoming
from agentledger.sinks.notify.state import NotifyState
from tests.signed_answers import HOOK_SECRET, OTHER_SECRET, PAGERDUTY_SECRET, incident_event, pagerduty_signed, signed
from tests.unit.test_notify_desk import T0, desk_of, event, raised


class Answering:
    """The endpoint on a state with one page of two alerts."""

    def __init__(self, folder: Path, *, has_broker: bool = True) -> None:
        self.said: list[Event] = []
        self.has_broker = has_broker
        self.desk: Desk = desk_of({"name": "r", "channels": ["oncall"]})
        self.desk.take(raised("a"), T0)
        self.desk.take(raised("b"), T0)
        [incident] = self.desk.incidents.values()
        self.key = incident.dedup_key
        state = NotifyState(folder / "n.sqlite")
        state.keep(self.desk)
        state.close()
        for name, secret in (("standard", HOOK_SECRET), ("pagerduty", PAGERDUTY_SECRET)):
            (folder / name).write_text(secret)
        incoming = Incoming(secret=f"file:{folder / 'standard'}", pagerduty_secret=f"file:{folder / 'pagerduty'}")
        self.client = TestClient(incoming_app(incoming, folder / "n.sqlite", self.announce))

    def announce(self, said: Sequence[Event]) -> None:
        """Keep them, or fail as without a broker."""
        if not self.has_broker:
            raise BrokerError("no broker can be reached")
        self.said.extend(said)

    def body(self, kind: str = "alert.acknowledged", **own: object) -> str:
        """A message about the page."""
        return json.dumps({"type": kind, "data": {"dedup_key": self.key, "by": "ann\u202e", "reason": "mine", **own}})


def test_an_acknowledgement_becomes_an_event_per_alert_and_the_same_ones_again(tmp_path: Path) -> None:
    answering = Answering(tmp_path)
    body = answering.body()
    for _ in range(2):
        answer = answering.client.post("/v1/answers", content=body, headers=signed(body))
        assert (answer.status_code, answer.text) == (202, "2 alerts\n")
    assert {type(one) for one in answering.said} == {AlertAcknowledged}
    assert len({one.event_id for one in answering.said}) == 2
    assert answering.said[0].actor == "ann"
    answering.desk.take(answering.said[0], T0)
    assert next(iter(answering.desk.incidents.values())).acknowledged_by == "ann"


def test_a_resolution_ends_the_alerts(tmp_path: Path) -> None:
    answering = Answering(tmp_path)
    body = answering.body("alert.resolved")
    assert answering.client.post("/v1/answers", content=body, headers=signed(body)).status_code == 202
    for one in answering.said:
        assert isinstance(one, AlertResolved)
        answering.desk.take(one, T0)
    assert answering.desk.alerts == {}


@pytest.mark.parametrize("wrong", ["another secret", "too old", "another body", "no headers", "no base64"])
def test_what_is_not_signed_changes_nothing(wrong: str, tmp_path: Path) -> None:
    answering = Answering(tmp_path)
    body = answering.body()
    headers = {
        "another secret": signed(body, secret=OTHER_SECRET),
        "too old": signed(body, age_s=600),
        "another body": signed(body + " "),
        "no headers": {},
        "no base64": {**signed(body), "webhook-signature": "v1,a b,c"},
    }[wrong]
    answer = answering.client.post("/v1/answers", content=body, headers=headers)
    assert (answer.status_code, answering.said) == (401, [])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{}", 400),
        ("[]", 400),
        ('{"type": "alert.deleted", "data": {"dedup_key": "k"}}', 400),
        ('{"type": ["x"], "data": {"dedup_key": "k"}}', 400),
        ('{"type": "alert.resolved", "data": {"dedup_key": 1}}', 400),
        ('{"type": "alert.resolved", "data": {"dedup_key": "unknown"}}', 404),
        ("x" * 20_000, 413),
    ],
)
def test_what_is_signed_and_makes_no_sense_is_refused(body: str, status: int, tmp_path: Path) -> None:
    answering = Answering(tmp_path)
    assert answering.client.post("/v1/answers", content=body, headers=signed(body)).status_code == status
    assert answering.said == []


def test_what_a_person_does_at_pagerduty_becomes_the_same_events_each_time(tmp_path: Path) -> None:
    answering = Answering(tmp_path)
    body = incident_event(answering.key)
    for _ in range(2):
        answer = answering.client.post("/v1/answers/pagerduty", content=body, headers=pagerduty_signed(body))
        assert (answer.status_code, answer.text) == (202, "2 alerts\n")
    assert len({one.event_id for one in answering.said}) == 2
    first = answering.said[0]
    assert isinstance(first, AlertAcknowledged)
    assert (first.acknowledged_by, first.reason, first.via) == ("Ann", "PagerDuty incident 2", "pagerduty")
    body = incident_event(answering.key, "incident.resolved")
    answering.client.post("/v1/answers/pagerduty", content=body, headers=pagerduty_signed(body))
    last = answering.said[-1]
    assert isinstance(last, AlertResolved)
    assert last.resolved_by == "Ann"


@pytest.mark.parametrize(
    "own",
    [
        {"event_type": "incident.triggered"},
        {"agent": None},  # a timer of PagerDuty's
        {"agent": {"id": "PI", "type": "integration_reference"}},  # our own event, come back
        {"data": {"type": "service"}},
        {"data": {"incident_key": "another service's"}},
    ],
)
def test_what_no_person_did_about_a_page_of_ours_changes_nothing(own: dict[str, object], tmp_path: Path) -> None:
    answering = Answering(tmp_path)
    body = incident_event(answering.key, **own)
    answer = answering.client.post("/v1/answers/pagerduty", content=body, headers=pagerduty_signed(body))
    assert (answer.status_code, answering.said) == (202, [])


@pytest.mark.parametrize(
    ("own", "wrong", "status"),
    [
        ({}, "another secret", 401),
        ({}, "another body", 401),
        ({}, "no signature", 401),
        ({"occurred_at": "2020-10-02T18:45:22.169Z"}, "", 400),
        ({"occurred_at": "soon"}, "", 400),
        ({"data": []}, "", 400),
        ({"id": 7}, "", 400),
        ({"x": "x" * 300_000}, "", 413),
    ],
)
def test_a_webhook_that_pagerduty_did_not_send_changes_nothing(
    own: dict[str, object], wrong: str, status: int, tmp_path: Path
) -> None:
    answering = Answering(tmp_path)
    body = incident_event(answering.key, **own)
    headers = {
        "": pagerduty_signed(body),
        "another secret": pagerduty_signed(body, secret="x"),
        "another body": pagerduty_signed(body + " "),
        "no signature": {},
    }[wrong]
    answer = answering.client.post("/v1/answers/pagerduty", content=body, headers=headers)
    assert (answer.status_code, answering.said) == (status, [])


def test_without_a_broker_the_sender_is_told_to_come_again(tmp_path: Path) -> None:
    answering = Answering(tmp_path, has_broker=False)
    body = answering.body()
    assert answering.client.post("/v1/answers", content=body, headers=signed(body)).status_code == 503


def test_the_state_is_the_same_after_a_restart_and_belongs_to_one_program(tmp_path: Path) -> None:
    first = desk_of({"name": "r", "channels": ["oncall"]})
    again = raised("a")
    for one in (again, raised("b", rule="other"), event(AlertResolved, "a")):
        first.take(one, T0)
    [delivery] = first.due(T0, {"oncall": 1})
    path = tmp_path / "n.sqlite"
    state = NotifyState(path)
    state.keep(first, "log", {0: 7}, said=[b"x"])
    state.close()
    state = NotifyState(path)
    second = desk_of({"name": "r", "channels": ["oncall"]})
    state.load(second)
    assert (second.alerts, second.incidents, second.closed) == (first.alerts, first.incidents, first.closed)
    assert second.interrupted()[0][0] == delivery
    assert (state.positions("log"), state.positions("another"), state.next_seq) == ({0: 7}, {}, 1)
    second.take(again, T0)
    assert again.alert_id not in second.alerts
    with pytest.raises(Exception, match="another agentledger notify uses this file"):
        NotifyState(path)
    state.close()
