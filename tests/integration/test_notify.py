"""`agentledger notify run` against real Kafka, a real Alertmanager and a server in place of PagerDuty and Slack: a
storm in the middle of which the program is killed, and an incident from its page to its end."""

from __future__ import annotations

import json
import signal
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from agentledger.infra.doctor_notify import notify_lag_s
from agentledger.infra.settings import load_settings
from agentledger.infra.stack.kafka import KafkaService
from agentledger.infra.stack.ports import free_port
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.events import AlertAcknowledged, AlertDelivered, AlertRaised, AlertResolved, Event
from agentledger.schemas.topics import ALERTS, INTEGRITY
from agentledger.sinks.notify.channels import AT_ONCE_MAX, AT_ONCE_WITHOUT_KEY
from agentledger.sinks.notify.state import read_status
from tests.kafka_broker import events_on, kafka_broker
from tests.notify_rig import Notify, alertmanager, end, firing, wait_for
from tests.page_receiver import Answer, Got, page_receiver
from tests.signed_answers import HOOK_SECRET, PAGERDUTY_SECRET, incident_event, pagerduty_signed, signed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
CODEC = Codec(open_registry())
ALERTS_SENT, KINDS, KILLS = 10_000, 50, 3
KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaService]:
    with kafka_broker(tmp_path_factory.mktemp("kafka")) as service:
        yield service


def about(kind: type[Event], name: str, tenant: str, **own: Any) -> Event:
    """An event about the alert of this name."""
    return kind(
        event_id=str(uuid.uuid4()), tenant_id=tenant, producer_id="test", producer_seq=-1, run_id=name,
        occurred_at=time.time_ns() // 1000, alert_id=str(uuid.uuid5(uuid.NAMESPACE_URL, tenant + name)), **own,
    )  # fmt: skip


def send(servers: str, events: list[Event]) -> None:
    """Put them on the alerts' topic."""
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 5})
    for event in events:
        producer.produce(ALERTS.name, CODEC.encode(event), event.run_id.encode())
        producer.poll(0)
    assert producer.flush(30) == 0


STORM_FILE = """
channels:
  oncall: {{kind: pagerduty, routing_key: env:PD, url: "{url}/pd", allow_private: true, pages_per_minute_max: 600}}
  team: {{kind: slack, url: env:SLACK, allow_private: true, pages_per_minute_max: 600}}
  am: {{kind: alertmanager, url: "{url}/am", pages_per_minute_max: 600}}
  hook: {{kind: webhook, url: "{url}/hook", secret: env:HOOK, allow_private: true, pages_per_minute_max: 600}}
  phone: {{kind: apprise, url: env:PHONE, pages_per_minute_max: 600}}
routes:
- {{name: storm, match: {{tenant: [storm]}}, channels: [oncall, team, am, hook, phone]}}
- {{name: rest, channels: []}}
"""


KEYED = ("/pd", "/am/api/v2/alerts", "/hook")  # by path: targets that know a page again
UNKEYED = {"/s": "team", "/message": "phone"}  # those that don't, with their channels


def test_a_storm_killed_in_the_middle_pages_each_kind_once_and_loses_none(tmp_path: Path, kafka: KafkaService) -> None:
    """Killed while pages are under way, on a channel of each kind: where a key tells that it is the same page, it may
    come twice under that key; where there is none (Slack, Apprise), each page came once, or is listed as given up."""

    gate, held = threading.Event(), Counter[str]()  # by path: requests that came and got no answer
    lock = threading.Lock()

    def when_let(got: Got) -> None:
        with lock:
            held[got.path] += 1
        gate.wait(60)
        with lock:
            held[got.path] -= 1

    storm = [
        about(AlertRaised, f"run-{number}", "storm", rule=f"rule-{number % KINDS}", severity="critical", summary="!")
        for number in range(ALERTS_SENT)
    ]
    with page_receiver(Answer(200), before=when_let) as receiver:
        phone = receiver.url.replace("http://", "gotify://") + "/token?rto=60"
        env = {"PD": KEY, "SLACK": receiver.url + "/s", "HOOK": HOOK_SECRET, "PHONE": phone}
        notify = Notify(tmp_path / "storm", kafka.endpoint, STORM_FILE.format(url=receiver.url), **env)
        process = notify.start()
        send(kafka.endpoint, storm)
        for kill in range(KILLS):
            gate.set()
            wanted = len(receiver.got) + 10
            wait_for(lambda wanted=wanted: len(receiver.got) >= wanted)
            gate.clear()
            full = dict.fromkeys(KEYED, AT_ONCE_MAX) | dict.fromkeys(UNKEYED, AT_ONCE_WITHOUT_KEY)
            wait_for(lambda full=full: dict(held) == full)  # all under way, none answered
            end(process, signal.SIGKILL)
            gate.set()
            wait_for(lambda: not any(held.values()))
            process = notify.start()
            assert process.poll() is None, f"kill {kill}"

        def all_settled() -> bool:
            told = notify.told()
            return told["trigger"] + told["given_up"] == (len(KEYED) + len(UNKEYED)) * KINDS

        wait_for(all_settled)
        incidents, given_up, _ = read_status(notify.state_path)
        wait_for(lambda: read_status(notify.state_path)[2] == 0)  # Kafka has what was said
        end(process)
        pages = {path: {key_of(got) for got in receiver.got if got.path == path} for path in KEYED}
        texts = {path: Counter(rule_in(got) for got in receiver.got if got.path == path) for path in UNKEYED}

    assert sum(incident.open_alerts for incident in incidents) == ALERTS_SENT  # none lost
    rules = {f"rule-{number}" for number in range(KINDS)}
    assert {path: len(keys) for path, keys in pages.items()} == dict.fromkeys(KEYED, KINDS)  # one page of each kind
    for path, channel in UNKEYED.items():
        lost = {one["rule"] for one in given_up if one["channel"] == channel}
        assert set(texts[path].values()) == {1}  # none twice
        assert len(lost) == KILLS * AT_ONCE_WITHOUT_KEY  # what was under way each time
        assert texts[path].keys() | lost == rules  # none lost
    assert {(one["channel"], one["fault"]) for one in given_up} == {("team", "unsure"), ("phone", "unsure")}

    said = [event for event in events_on(kafka.endpoint, INTEGRITY.name) if isinstance(event, AlertDelivered)]
    by_id = {event.event_id: event for event in said}
    assert sorted(event.producer_seq for event in by_id.values()) == list(range(len(by_id)))  # dense: none lost
    final = Counter((event.channel, event.status) for event in by_id.values() if event.status != "failed")
    assert [final[channel, "sent"] for channel in ("oncall", "am", "hook")] == [KINDS] * 3
    for channel in UNKEYED.values():
        assert final[channel, "given_up"] == KILLS * AT_ONCE_WITHOUT_KEY
        assert final[channel, "sent"] == KINDS - final[channel, "given_up"]


def key_of(got: Got) -> str:
    """What tells a target with keys that a page is the same."""
    if got.path == "/hook":
        return got.headers["webhook-id"]
    return str(got.json["dedup_key"] if got.path == "/pd" else got.json[0]["labels"]["agentledger_page"])


def rule_in(got: Got) -> str:
    """The rule that a message is about, at Slack or by Apprise."""
    if got.path == "/message":
        lines = str(got.json["message"]).splitlines()
    else:
        lines = [field["text"] for block in got.json["blocks"] for field in block.get("fields", [])]
    return next(text.removeprefix("rule: ") for text in lines if text.startswith("rule: "))


NOTIFY_FILE = """
channels:
  am: {{kind: alertmanager, url: "{alertmanager}"}}
  oncall: {{kind: pagerduty, routing_key: env:PD, url: "{url}/pd", allow_private: true}}
routes:
- {{name: live, match: {{tenant: [live]}}, channels: [am, oncall]}}
- {{name: rest, channels: []}}
incoming: {{port: {port}, secret: env:HOOK, pagerduty_secret: env:PD_HOOK}}
"""


def test_a_real_alertmanager_receives_groups_and_resolves_and_answers_become_events(
    tmp_path: Path, kafka: KafkaService
) -> None:
    answers_port = free_port()
    with page_receiver(Answer(200)) as people, alertmanager(tmp_path, people.url + "/people") as url:
        file = NOTIFY_FILE.format(url=people.url, alertmanager=url, port=answers_port)
        notify = Notify(tmp_path / "live", kafka.endpoint, file, PD=KEY, HOOK=HOOK_SECRET, PD_HOOK=PAGERDUTY_SECRET)
        process = notify.start()
        try:
            names = [("a", "loop"), ("b", "loop"), ("c", "runaway")]
            send(
                kafka.endpoint,
                [
                    about(
                        AlertRaised,
                        name,
                        "live",
                        rule=rule,
                        severity="critical",
                        summary=f"{name}: $2.10 of $2.00",
                    )
                    for name, rule in names
                ],
            )
            wait_for(lambda: {"loop", "runaway"} <= firing(people.got, "firing"))
            wait_for(lambda: len(pagerduty_keys(people.got)) == 2)
            keys = pagerduty_keys(people.got)
            body = incident_event(keys["loop"])
            answer(f"http://127.0.0.1:{answers_port}/v1/answers/pagerduty", body, pagerduty_signed(body))
            wait_for(lambda: any(one.path == "/pd" and one.json["event_action"] == "acknowledge" for one in people.got))
            body = json.dumps({"type": "alert.resolved", "data": {"dedup_key": keys["runaway"], "by": "bob"}})
            answer(f"http://127.0.0.1:{answers_port}/v1/answers", body, signed(body))
            send(kafka.endpoint, [about(AlertResolved, name, "live") for name, rule in names if rule == "loop"])
            wait_for(lambda: {"loop", "runaway"} <= firing(people.got, "resolved"))
            wait_for(lambda: not notify.told())
            settings = load_settings(data_dir=tmp_path / "live")
            assert notify_lag_s(settings, {"bootstrap.servers": kafka.endpoint}) == 0  # as the doctor sees it
            end(process)
            send(kafka.endpoint, [about(AlertRaised, "d", "live", rule="loop", severity="info", summary="unread")])
            time.sleep(0.01)
            assert notify_lag_s(settings, {"bootstrap.servers": kafka.endpoint}) > 0
        finally:
            if process.poll() is None:
                end(process)
    groups = [got.json["groupLabels"] for got in people.got if got.path == "/people"]
    assert {json.dumps(labels) for labels in groups} == {'{"tenant": "live"}'}
    page = next(got.json["alerts"][0] for got in people.got if got.path == "/people")
    assert page["labels"]["severity"] == "critical"
    assert "of $2.00" in page["annotations"]["summary"]
    actions = [(got.json["dedup_key"], got.json["event_action"]) for got in people.got if got.path == "/pd"]
    assert len(set(actions)) == len(actions) == 5  # two triggered, one acknowledged, two resolved
    assert Counter(action for _, action in actions) == {"trigger": 2, "acknowledge": 1, "resolve": 2}
    said = [one for one in events_on(kafka.endpoint, ALERTS.name) if one.producer_id == "notify-incoming"]
    acknowledged = [one for one in said if isinstance(one, AlertAcknowledged)]
    assert {(one.run_id, one.acknowledged_by, one.via) for one in acknowledged} == {
        ("a", "Ann", "pagerduty"),
        ("b", "Ann", "pagerduty"),
    }
    assert [(one.run_id, one.resolved_by) for one in said if isinstance(one, AlertResolved)] == [("c", "bob")]


def pagerduty_keys(got: list[Got]) -> dict[str, str]:
    """Rule to dedup key, of what was triggered at PagerDuty."""
    triggers = [one.json for one in got if one.path == "/pd" and one.json["event_action"] == "trigger"]
    return {one["payload"]["class"]: one["dedup_key"] for one in triggers}


def answer(url: str, body: str, headers: dict[str, str]) -> None:
    """Post a signed answer, which must be taken."""
    request = urllib.request.Request(url, body.encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as taken:
        assert taken.status == 202
