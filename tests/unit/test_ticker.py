"""Ticks, and the lag of stages as the ticker sees it."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer

from agentledger.processors.offsets import Standing
from agentledger.processors.rules.loading import RulesFileError, parse_rules
from agentledger.processors.rules.models import StageLag
from agentledger.processors.stage_lag import WRITER_GROUP, LagAlerts, Standings, alert_id_of, said_before
from agentledger.processors.ticker import QUIET_AFTER_S, Activity, tick_of
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.events import AlertRaised, AlertResolved, AlertUpdated
from agentledger.schemas.topics import ALERTS
from agentledger.sinks import writer

NOW_US = 1_750_000_000_400_000


def test_all_tickers_say_the_same_in_a_second_and_another_thing_in_the_next() -> None:
    codec = Codec(open_registry())
    one = codec.encode(tick_of("t", 0, NOW_US, 1000))
    assert one == codec.encode(tick_of("t", 0, NOW_US + 500_000, 1000))
    others = [tick_of("t", 1, NOW_US, 1000), tick_of("u", 0, NOW_US, 1000), tick_of("t", 0, NOW_US + 600_000, 1000)]
    assert len({one, *map(codec.encode, others)}) == 4
    assert tick_of("t", 0, NOW_US + 600_000, 1000).producer_seq == tick_of("t", 0, NOW_US, 1000).producer_seq + 1


def test_a_tick_belongs_to_no_tenant_and_to_a_run_of_its_own() -> None:
    tick = tick_of("agentledger.events.v1", 3, NOW_US, 1000)
    assert (tick.tenant_id, tick.run_id) == ("", "tick:agentledger.events.v1:3")
    assert tick.occurred_at == 1_750_000_000_000_000


def test_lag_is_the_age_of_what_is_not_acknowledged() -> None:
    lag = Standings()
    assert lag.note(0, {0: Standing(10, 10), 1: Standing(5, 5)}) == 0
    assert lag.note(5, {0: Standing(10, 20), 1: Standing(5, 5)}) == 0  # it has just been written
    assert lag.note(10, {0: Standing(10, 30), 1: Standing(5, 5)}) == 5
    assert lag.note(15, {0: Standing(20, 40), 1: Standing(5, 5)}) == 5  # what stood at 5 s is done, at 10 s not
    assert lag.note(20, {0: Standing(40, 40), 1: Standing(5, 5)}) == 0


def lag_rules(text: bytes) -> LagAlerts:
    return LagAlerts(rule for rule in parse_rules(text, where="test") if isinstance(rule, StageLag))


def test_a_stage_that_stands_still_is_told_once_again_as_it_grows_and_when_it_has_caught_up() -> None:
    alerts = lag_rules(b"{name: late, kind: stage_lag, severity: warning, window: 30s, resolve_below: 10s}")
    lags = (0.0, 29.0, 31.0, 40.0, 300.0, 310.0, 15.0, 9.0, 0.0, 40.0)
    said = [event for lag_s in lags for event in alerts.conclude("worker", lag_s, NOW_US)]
    assert [type(event) for event in said] == [AlertRaised, AlertUpdated, AlertResolved, AlertRaised]
    assert [event.producer_seq for event in said] == [0, 1, 2, 3]
    raised, updated, *_ = said
    assert isinstance(raised, AlertRaised)
    assert (raised.rule, raised.severity, raised.expected) == ("late", "warning", 30.0)
    assert raised.rule_version
    assert isinstance(updated, AlertUpdated)
    assert updated.count == 10
    assert {event.alert_id for event in said} == {alert_id_of("late", "worker")}
    assert alerts.conclude("packer", 50, NOW_US)


def test_who_watches_next_goes_on_with_what_was_left_open() -> None:
    rule = b"{name: late, kind: stage_lag, window: 30s, resolve_below: 10s}"
    first, second, third = (lag_rules(rule) for _ in range(3))
    said = [*first.conclude("worker", 31.0, NOW_US), *first.conclude("worker", 300.0, NOW_US)]
    said += first.conclude("packer", 31.0, NOW_US)
    second.take_up([tick_of("t", 0, NOW_US, 1000), *said], NOW_US)
    assert second.conclude("worker", 2999.0, NOW_US) == []
    assert second.conclude("packer", 9.0, NOW_US + 9_999_999) == []  # it has watched for less than it would take to see
    seen_us = NOW_US + 10_000_000
    more = [*second.conclude("worker", 3000.0, seen_us), *second.conclude("packer", 9.0, seen_us)]
    assert [type(event) for event in more] == [AlertUpdated, AlertResolved]
    third.take_up([*said, *more], NOW_US)
    assert third.conclude("packer", 9.0, seen_us) == []
    [resolved] = third.conclude("worker", 9.0, seen_us)
    assert isinstance(resolved, AlertResolved)


def test_what_was_said_of_the_stages_is_read_from_the_end_of_the_alerts_topic() -> None:
    host = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    [broker] = host.list_topics(timeout=10).brokers.values()
    kafka = {"bootstrap.servers": f"{broker.host}:{broker.port}", "log_level": 0}
    partitions = len(host.list_topics(ALERTS.name, timeout=10).topics[ALERTS.name].partitions)
    codec = Codec(open_registry())
    assert list(said_before(kafka, codec, partitions)) == []
    said = lag_rules(b"{name: late, kind: stage_lag, window: 30s}").conclude("worker", 300.0, NOW_US)
    sender = Producer({**kafka, "partitioner": "consistent"})
    for key, value in [
        ("acme", b"of another"),
        ("worker", b"no event"),
        *(("worker", codec.encode(one)) for one in said),
    ]:
        sender.produce(ALERTS.name, value, key.encode())
    assert sender.flush(10) == 0
    assert list(said_before(kafka, codec, partitions)) == said


def test_each_rule_on_lag_has_its_stages_and_its_limit() -> None:
    alerts = lag_rules(
        b"""
        rules:
          - {name: slow_holds, kind: stage_lag, stages: [holds], window: 5s, resolve_below: 1s}
          - {name: late, kind: stage_lag, severity: info}
        """
    )
    rules = {stage: [event.rule for event in alerts.conclude(stage, 6, NOW_US)] for stage in ("holds", "writer")}  # type: ignore[attr-defined]
    assert rules == {"holds": ["slow_holds"], "writer": []}
    assert [event.rule for event in alerts.conclude("holds", 60, NOW_US)] == ["slow_holds", "late"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrong", ["resolve_below: 1m", "where: {tenant: [a]}", "stages: [kitchen]", "window: 2h"])
def test_a_rule_on_lag_that_cannot_be_is_refused(wrong: str) -> None:
    with pytest.raises(RulesFileError):
        lag_rules(b"{name: late, kind: stage_lag, %s}" % wrong.encode())


def test_only_ticks_for_a_while_is_quiet_and_one_event_ends_it() -> None:
    activity, places = Activity(), [("events", 0), ("events", 1), ("holds", 0)]
    ends = dict.fromkeys(places, 100)
    for second in range(QUIET_AFTER_S):
        assert not activity.is_quiet(second * 1_000_000)
        activity.note(second * 1_000_000, {place: end + 2 * second for place, end in ends.items()})  # two tickers
    now_us = QUIET_AFTER_S * 1_000_000
    ends = {place: end + 2 * QUIET_AFTER_S for place, end in ends.items()}
    activity.note(now_us, ends)
    assert activity.is_quiet(now_us)
    activity.note(now_us + 1, ends | {("events", 1): ends["events", 1] + 1})
    assert not activity.is_quiet(now_us + 1)


def test_a_broker_that_does_not_say_is_not_quiet() -> None:
    activity = Activity()
    for second in range(2 * QUIET_AFTER_S):
        activity.note(second * 1_000_000, {})
    assert not activity.is_quiet(2 * QUIET_AFTER_S * 1_000_000 - 1_000_000)


def test_the_writer_is_watched_under_its_own_name() -> None:
    assert writer.GROUP == WRITER_GROUP
