"""Who is told of what, when: routes, groups, quiet hours, rates, escalation, retries. All by a clock of the test."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentledger.schemas.events import AlertAcknowledged, AlertRaised, AlertResolved, AlertUpdated, Event
from agentledger.sinks.notify import desk as desk_module
from agentledger.sinks.notify.desk import Desk
from agentledger.sinks.notify.incidents import ChannelRules, Delivery, Outcome
from agentledger.sinks.notify.routing import is_quiet
from agentledger.sinks.notify.settings import NotifyFile, NotifyFileError, QuietHours, parse_notify_file

S = 1_000_000
T0 = 1_790_000_000 * S  # a Monday, 14:13:20 UTC
CHANNELS = {
    "oncall": {"kind": "pagerduty", "routing_key": "env:K"},
    "boss": {"kind": "slack", "url": "env:U"},
    "am": {"kind": "alertmanager", "url": "http://am:9093"},
}
EVERYTHING = {"name": "rest", "channels": ["am"]}


def desk_of(*routes: dict[str, Any], rules: dict[str, ChannelRules] | None = None, **top: Any) -> Desk:
    """A desk by these routes; the last one takes the rest."""
    file = NotifyFile.model_validate({"channels": CHANNELS, "routes": [*routes, EVERYTHING], **top})
    return Desk(file, {name: ChannelRules() for name in CHANNELS} | (rules or {}))


def event(kind: type[Event], name: str, *, event_id: str = "", labels: dict[str, str] | None = None, **own: Any) -> Any:
    """An event about the alert of this name."""
    return kind(
        event_id=event_id or str(uuid.uuid4()), tenant_id=own.pop("tenant_id", "acme"), producer_id="p",
        producer_seq=0, run_id=own.pop("run_id", ""), workflow=own.pop("workflow", ""), occurred_at=T0,
        labels=labels or {}, alert_id=str(uuid.uuid5(uuid.NAMESPACE_URL, name)), **own,
    )  # fmt: skip


def raised(name: str, *, severity: str = "critical", rule: str = "loop", **own: Any) -> AlertRaised:
    """It is raised."""
    made: AlertRaised = event(AlertRaised, name, severity=severity, rule=rule, summary=f"{name} loops", **own)
    return made


def due(desk: Desk, now_us: int, room: int = 1000) -> list[Delivery]:
    """What is due on all channels."""
    return desk.due(now_us, dict.fromkeys(CHANNELS, room))


def tell(desk: Desk, now_us: int, outcome: Outcome = Outcome()) -> list[tuple[str, str]]:  # noqa: B008 - it is frozen
    """Tell everything that is due, with this outcome; channel and action of each."""
    found = due(desk, now_us)
    for delivery in found:
        desk.settle(delivery, outcome, now_us, chance=0.5)
    return [(one.channel, one.action) for one in found]


@pytest.mark.parametrize(
    ("match", "own", "goes_there"),
    [
        ({"severity": ["critical"]}, {}, True),
        ({"severity": ["warning"]}, {}, False),
        ({"tenant": ["ac*"]}, {}, True),
        ({"tenant": ["acm"]}, {}, False),
        ({"tenant": ["a[c]me", "?cme"]}, {}, False),
        ({"tenant": ["a[1]*"]}, {"tenant_id": "a[1] x"}, True),
        ({"workflow": ["refund"]}, {"workflow": "refund"}, True),
        ({"team": ["red", "blue"]}, {"labels": {"team": "blue"}}, True),
        ({"team": ["red"]}, {}, False),
        ({"rule": ["loop"], "tenant": ["other"]}, {}, False),
    ],
)
def test_the_first_route_that_matches_counts(match: dict[str, Any], own: dict[str, Any], goes_there: bool) -> None:
    desk = desk_of({"name": "first", "match": match, "channels": ["oncall"]})
    desk.take(raised("a", **own), T0)
    assert tell(desk, T0) == [("oncall" if goes_there else "am", "trigger")]


def test_a_page_is_triggered_once_updated_seldom_and_resolved_when_all_is_over() -> None:
    desk = desk_of({"name": "r", "channels": ["oncall"], "update_every_s": 60})
    for name in "abc":
        desk.take(raised(name), T0)
    [first] = due(desk, T0)
    assert desk.told(first, T0).text.title == "a loops (and 2 more)"
    assert due(desk, T0) == []  # it is being told
    desk.settle(first, Outcome(), T0, 0.5)
    desk.take(event(AlertUpdated, "a", severity="critical", summary="a goes on", count=10), T0 + S)
    assert tell(desk, T0 + 59 * S) == []
    assert tell(desk, T0 + 60 * S) == [("oncall", "update")]
    for name in "ab":
        desk.take(event(AlertResolved, name), T0 + 61 * S)
    assert tell(desk, T0 + 62 * S) == []
    desk.take(event(AlertResolved, "c"), T0 + 63 * S)
    assert tell(desk, T0 + 64 * S) == [("oncall", "resolve")]
    assert tell(desk, T0 + 65 * S) == []
    assert (desk.incidents, desk.alerts) == ({}, {})


def test_what_was_resolved_before_anybody_was_told_wakes_nobody() -> None:
    desk = desk_of({"name": "r", "channels": ["oncall"], "group_wait_s": 30})
    desk.take(raised("a"), T0)
    assert tell(desk, T0 + 29 * S) == []
    desk.take(event(AlertResolved, "a"), T0 + 29 * S)
    assert tell(desk, T0 + 31 * S) == []
    assert desk.incidents == {}


def test_an_alert_that_comes_while_the_end_is_being_told_is_told_again() -> None:
    desk = desk_of({"name": "r", "channels": ["oncall"]})
    desk.take(raised("a"), T0)
    tell(desk, T0)
    desk.take(event(AlertResolved, "a"), T0 + S)
    [end] = due(desk, T0 + S)
    desk.take(raised("b"), T0 + 2 * S)
    assert due(desk, T0 + 2 * S) == []
    desk.settle(end, Outcome(), T0 + 2 * S, 0.5)
    assert tell(desk, T0 + 3 * S) == [("oncall", "trigger")]


def test_a_raise_that_comes_twice_counts_once_even_after_its_end() -> None:
    desk = desk_of({"name": "r", "channels": ["oncall"]})
    again = raised("a")
    for _ in range(2):
        desk.take(again, T0)
    tell(desk, T0)
    assert next(iter(desk.incidents.values())).alerts == 1
    desk.take(event(AlertResolved, "a"), T0)
    tell(desk, T0)
    desk.take(again, T0)
    assert (desk.alerts, tell(desk, T0)) == ({}, [])


def test_nobody_acknowledges_so_the_next_one_is_told() -> None:
    steps = [{"after_minutes": 15, "channels": ["boss"]}]
    desk = desk_of({"name": "r", "channels": ["oncall"], "escalate": steps})
    desk.take(raised("a"), T0)
    tell(desk, T0 + S)
    assert tell(desk, T0 + 900 * S) == []
    assert tell(desk, T0 + 901 * S) == [("boss", "trigger")]
    assert tell(desk, T0 + 9999 * S) == []


def test_who_acknowledges_in_time_stops_it_and_everybody_learns() -> None:
    steps = [{"after_minutes": 15, "channels": ["boss"]}]
    desk = desk_of({"name": "r", "channels": ["oncall"], "escalate": steps})
    desk.take(raised("a"), T0)
    tell(desk, T0)
    desk.take(event(AlertAcknowledged, "a", acknowledged_by="ann"), T0 + S)
    assert tell(desk, T0 + 2 * S) == [("oncall", "acknowledge")]
    assert tell(desk, T0 + 9999 * S) == []


def test_a_page_that_nobody_got_escalates_at_once() -> None:
    steps = [{"after_minutes": 15, "channels": ["boss"]}]
    desk = desk_of({"name": "r", "channels": ["oncall"], "escalate": steps})
    desk.take(raised("a"), T0)
    assert tell(desk, T0, Outcome("refused", 400)) == [("oncall", "trigger")]
    assert tell(desk, T0 + S) == [("boss", "trigger")]


def test_retries_back_off_honour_retry_after_and_end() -> None:
    desk = desk_of({"name": "r", "channels": ["oncall"]}, rules={"oncall": ChannelRules(attempts_max=3)})
    desk.take(raised("a"), T0)
    assert tell(desk, T0, Outcome("busy", 429, 17.0)) == [("oncall", "trigger")]
    assert tell(desk, T0 + 16 * S) == []
    assert tell(desk, T0 + 17 * S, Outcome("unreachable")) == [("oncall", "trigger")]
    assert tell(desk, T0 + 18 * S) == []
    [last] = due(desk, T0 + 19 * S)
    assert last.attempt == 3
    assert desk.settle(last, Outcome("busy", 500), T0 + 19 * S, 0.5) == "given_up"
    assert tell(desk, T0 + 9999 * S) == []


@pytest.mark.parametrize(("repeats", "status"), [(True, "failed"), (False, "given_up")])
def test_what_may_have_arrived_is_repeated_only_where_that_does_no_harm(repeats: bool, status: str) -> None:
    desk = desk_of({"name": "r", "channels": ["boss"]}, rules={"boss": ChannelRules(repeats_unsure=repeats)})
    desk.take(raised("a"), T0)
    due(desk, T0)
    [(delivery, outcome)] = desk.interrupted()  # the program was killed and reads its state again
    assert desk.settle(delivery, outcome, T0, 0.5) == status


def test_a_page_that_may_have_arrived_is_resolved_all_the_same() -> None:
    desk = desk_of({"name": "r", "channels": ["oncall"]})
    desk.take(raised("a"), T0)
    tell(desk, T0, Outcome("unsure"))
    desk.take(event(AlertResolved, "a"), T0)
    assert tell(desk, T0 + S) == [("oncall", "resolve")]


def test_a_rule_that_resolves_nothing_pages_again_the_next_day() -> None:
    desk = desk_of({"name": "r", "channels": ["oncall"]}, forget_after_hours=24)
    desk.take(raised("a"), T0)
    assert tell(desk, T0) == [("oncall", "trigger")]
    assert tell(desk, T0 + 86_401 * S) == [("oncall", "resolve")]
    desk.take(raised("a"), T0 + 86_402 * S)
    assert tell(desk, T0 + 86_402 * S) == [("oncall", "trigger")]


def test_quiet_hours_hold_back_what_is_not_critical() -> None:
    quiet = {"from": "14:00", "to": "15:00", "time_zone": "UTC"}
    channels = CHANNELS | {"oncall": CHANNELS["oncall"] | {"quiet_hours": [quiet]}}
    file = NotifyFile.model_validate({"channels": channels, "routes": [{"name": "r", "channels": ["oncall"]}]})
    desk = Desk(file, {name: ChannelRules() for name in channels})
    desk.take(raised("a", severity="warning", rule="slow"), T0)
    desk.take(raised("b", severity="critical"), T0)
    assert tell(desk, T0) == [("oncall", "trigger")]
    assert tell(desk, T0 + 3600 * S)[-1] == ("oncall", "trigger")


def test_quiet_hours_over_midnight_belong_to_the_day_they_begin_on() -> None:
    hours = [QuietHours.model_validate({"from": "22:00", "to": "07:00", "days": ["mon"], "time_zone": "Europe/Zurich"})]
    monday_22_zurich = T0 + (6 * 3600 - 800) * S  # 20:00 UTC, summer
    quiet = [is_quiet(hours, "info", monday_22_zurich + hour * 3600 * S) for hour in (-1, 0, 8, 9, 24)]
    assert quiet == [False, True, True, False, False]
    assert not is_quiet(hours, "critical", monday_22_zurich)


def test_a_channel_gets_no_more_pages_a_minute_than_it_takes() -> None:
    desk = desk_of({"name": "r", "channels": ["oncall"]}, rules={"oncall": ChannelRules(pages_per_minute_max=3)})
    for number in range(7):
        desk.take(raised(f"a{number}", rule=f"rule{number}"), T0)
    assert [len(tell(desk, T0 + at * S)) for at in (0, 59, 61, 125)] == [3, 0, 3, 1]


def test_the_worst_is_told_first_and_never_more_than_there_is_room_for() -> None:
    desk = desk_of({"name": "r", "channels": ["oncall"]})
    for number, severity in enumerate(["info", "warning", "critical", "warning"]):
        desk.take(raised(f"a{number}", rule=f"rule{number}", severity=severity), T0)
    first = due(desk, T0, room=2)
    assert [desk.incidents[one.incident].severity for one in first] == ["critical", "warning"]


def test_what_comes_after_a_page_was_given_up_is_told_as_soon_as_an_update_would_be() -> None:
    desk = desk_of({"name": "r", "channels": ["oncall"], "update_every_s": 300})
    desk.take(raised("a"), T0)
    assert tell(desk, T0, Outcome("refused", 400)) == [("oncall", "trigger")]
    assert tell(desk, T0 + 999 * S) == []  # nothing new
    desk.take(raised("b"), T0 + 999 * S)
    assert tell(desk, T0 + 999 * S, Outcome("refused", 400)) == [("oncall", "trigger")]
    desk.take(raised("c"), T0 + 1000 * S)
    assert tell(desk, T0 + 1298 * S) == []
    assert tell(desk, T0 + 1299 * S) == [("oncall", "trigger")]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["raise", "resolve", "acknowledge", "tell", "wait"]),
            st.integers(0, 5),
            st.sampled_from([Outcome(), Outcome("busy", 500), Outcome("unsure"), Outcome("refused", 400)]),
        ),
        max_size=60,
    )
)
def test_every_alert_is_told_or_given_up_and_no_page_triggered_twice(
    steps: list[tuple[str, int, Outcome]],
) -> None:
    """Whatever comes in whatever order: a page is triggered at most once until it is resolved, and when all channels
    work again, everything open is told or given up, and nothing that is over is left."""
    desk = desk_of({"name": "r", "channels": ["oncall", "boss"], "group_by": ["rule"]})
    now_us, is_open = T0, set[str]()
    told: dict[tuple[str, str], str] = {}

    def send(outcome: Outcome) -> None:
        for delivery in due(desk, now_us):
            key = delivery.incident, delivery.channel
            if desk.settle(delivery, outcome, now_us, 0.5) == "sent":
                if delivery.action == "trigger":
                    assert told.get(key) != "trigger"
                if delivery.action in {"trigger", "resolve"}:
                    told[key] = delivery.action
            elif delivery.action == "resolve" and desk.incidents[delivery.incident].pages[key[1]].told == "given_up":
                told[key] = "given_up"  # a new incident, though nobody could be told the end of the old one

    for what, number, outcome in steps:
        name = f"a{number}"
        if what == "raise" and name not in is_open:
            desk.take(raised(name, rule=f"rule{number % 2}"), now_us)
            is_open.add(name)
        elif what == "resolve":
            desk.take(event(AlertResolved, name), now_us)
            is_open.discard(name)
        elif what == "acknowledge":
            desk.take(event(AlertAcknowledged, name, acknowledged_by="ann"), now_us)
        elif what == "tell":
            send(outcome)
        else:
            now_us += number * 100 * S
    for _ in range(25):
        now_us += 400 * S
        send(Outcome())
    assert len(desk.alerts) == len(is_open)
    assert {incident.open_alerts > 0 for incident in desk.incidents.values()} <= {True}
    assert sum(incident.open_alerts for incident in desk.incidents.values()) == len(is_open)
    for incident in desk.incidents.values():
        assert {page.told for page in incident.pages.values()} <= {"trigger", "acknowledge", "given_up"}


def test_a_storm_of_10000_alerts_of_50_kinds_is_50_pages() -> None:
    desk = desk_of({"name": "r", "channels": ["oncall"]})
    told: list[tuple[str, str]] = []
    for number in range(10_000):
        desk.take(raised(f"a{number}", rule=f"rule{number % 50}"), T0 + number)
        if number % 500 == 0:
            told += tell(desk, T0 + number)
    told += tell(desk, T0 + 10_000)
    assert told == [("oncall", "trigger")] * 50
    assert sum(incident.alerts for incident in desk.incidents.values()) == 10_000


def test_more_kinds_than_there_is_room_for_are_one_page_of_their_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "INCIDENTS_MAX", 5)
    desk = desk_of({"name": "r", "channels": ["oncall"]})
    for number in range(50):
        desk.take(raised(f"a{number}", rule=f"rule{number}"), T0 + number)
    assert tell(desk, T0 + S) == [("oncall", "trigger")] * 6
    [rest] = [incident for incident in desk.incidents.values() if incident.is_rest]
    assert (rest.alerts, len(desk.incidents)) == (45, 6)
    text = desk.text_of(rest)
    assert text.title.endswith("(and 44 more)")
    assert dict(text.facts)["page"].startswith("stands for all further kinds")
    for number in range(50):
        desk.take(event(AlertResolved, f"a{number}"), T0 + S)
    assert tell(desk, T0 + 2 * S) == [("oncall", "resolve")] * 6
    due(desk, T0 + 3 * S)
    assert desk.incidents == {}


def test_alerts_beyond_what_is_kept_are_told_and_their_page_stays_until_nothing_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(desk_module, "ALERTS_MAX", 10)
    desk = desk_of({"name": "r", "channels": ["oncall"]}, forget_after_hours=1)
    for number in range(30):
        desk.take(raised(f"a{number}", severity="critical" if number == 29 else "warning"), T0 + number)
    assert tell(desk, T0 + S) == [("oncall", "trigger")]
    [incident] = desk.incidents.values()
    assert (len(desk.alerts), incident.alerts, incident.open_alerts, incident.severity) == (10, 30, 30, "critical")
    for number in range(30):
        desk.take(event(AlertResolved, f"a{number}"), T0 + S)
    assert tell(desk, T0 + 2 * S) == []  # the ends of twenty were not seen
    assert tell(desk, T0 + 3601 * S) == [("oncall", "resolve")]
    due(desk, T0 + 3602 * S)
    assert (desk.incidents, desk.alerts) == ({}, {})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("channels: {}\nroutes: []\n", "channels"),
        ("channels:\n  a: {kind: slack, url: https://hooks.example/secret}\nroutes: [{name: r, channels: [a]}]\n",
         "n.yaml:2: channels.a.url: secrets don't stand in this file"),
        ("channels:\n  a: {kind: slack, url: env:U}\nroutes:\n- {name: r, channels: [b]}\n",
         "n.yaml:4: routes[0]: there is no channel b"),
        ("channels:\n  a: {kind: slack, url: env:U}\nroutes:\n- {name: r, channels: [a], match: {rule: [x]}}\n",
         "n.yaml:4: routes[0]: the last route must match everything"),
        ("channels:\n  a: {kind: slack, url: env:U, colour: red}\nroutes: [{name: r, channels: [a]}]\n",
         "n.yaml:2: channels.a.colour: there is no such key"),
        ("channels:\n  a: {kind: fax}\nroutes: [{name: r, channels: [a]}]\n", "n.yaml:2: channels.a"),
        ("channels:\n  a: {kind: slack, url: env:U}\nroutes: [{name: r, channels: [a]}]\nincoming: {port: 8392}\n",
         "n.yaml:4: incoming: give it a secret"),
        ("a: [\n", "n.yaml:2: is no YAML"),
        ("- 1\n", "n.yaml:1"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told_with_its_line_and_without_what_may_be_secret(text: str, problem: str) -> None:
    with pytest.raises(NotifyFileError) as caught:
        parse_notify_file(text.encode(), where="n.yaml")
    assert any(problem in line for line in caught.value.problems), caught.value.problems
    assert "hooks.example" not in str(caught.value)
