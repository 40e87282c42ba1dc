"""What is sent, tried again, given up and said in the ledger: the dispatcher by a clock of the test."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentledger.schemas import Codec, open_registry
from agentledger.schemas.events import AlertDelivered
from agentledger.sinks.notify.channels import Send
from agentledger.sinks.notify.dispatcher import Dispatcher
from agentledger.sinks.notify.incidents import ChannelRules, Outcome
from agentledger.sinks.notify.payloads import Told
from agentledger.sinks.notify.state import NotifyState, UnsaidEvents, read_status
from tests.unit.test_notify_desk import CHANNELS, T0, S, desk_of, raised

CODEC = Codec(open_registry())


class Room:
    """A dispatcher on a folder, with channels of the test and a clock that it moves."""

    def __init__(self, folder: Path, *, rules: dict[str, ChannelRules], **sends: Send) -> None:
        self.now_us = T0
        self.path = folder / "n.sqlite"
        self.desk = desk_of({"name": "r", "channels": list(sends), "group_by": ["rule"]}, rules=rules)
        everybody: dict[str, Send] = {name: sends.get(name, lambda _: Outcome()) for name in CHANNELS}
        self.dispatcher = Dispatcher(self.desk, NotifyState(self.path), everybody, CODEC, clock=lambda: self.now_us)

    def raise_alerts(self, count: int) -> None:
        """Of as many rules."""
        events = [(raised(f"a{number}", rule=f"rule{number}"), T0) for number in range(count)]
        self.dispatcher.take(events, "log", {0: count})

    def step_until(self, holds: Callable[[], bool]) -> None:
        """Step until it holds."""
        deadline = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < deadline, "it didn't come to that"
            self.dispatcher.step()
            time.sleep(0.001)

    def said(self) -> list[AlertDelivered]:
        """What waits for Kafka."""
        with contextlib.closing(UnsaidEvents(self.path)) as unsaid:
            events = [CODEC.decode(one.event) for one in unsaid.first(1000)]
        return [event for event in events if isinstance(event, AlertDelivered)]


@contextlib.contextmanager
def closing_after(gate: threading.Event, room: Room) -> Iterator[None]:
    """What waits at the gate goes on when the block is over, so that a test that fails ends."""
    try:
        yield
    finally:
        gate.set()
        room.dispatcher.close()


def test_a_page_is_tried_again_later_each_time_then_given_up_listed_and_said(tmp_path: Path) -> None:
    tries: list[int] = []
    room = Room(
        tmp_path,
        rules={"oncall": ChannelRules(attempts_max=3, retry_pause_s=2)},
        oncall=lambda _: tries.append(room.now_us) or Outcome("busy", 500),  # type: ignore[func-returns-value]
    )
    room.raise_alerts(1)
    while len(room.said()) < 3:
        room.dispatcher.step()
        room.step_until(lambda: not room.dispatcher.is_sending)
        room.now_us += S // 2
    room.dispatcher.close()
    first, second = (after - before for before, after in itertools.pairwise(tries))
    assert len(tries) == 3
    assert 1 * S <= first <= 3 * S + S
    assert 2 * S <= second <= 6 * S + S
    incidents, lost, unsaid = read_status(room.path)
    assert [(one["channel"], one["fault"], one["http_status"]) for one in lost] == [("oncall", "busy", 500)]
    assert incidents[0].pages["oncall"].told == "given_up"
    assert unsaid == 3


def test_a_channel_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    gate, told = threading.Event(), Counter[str]()

    def hang(_: Told) -> Outcome:
        gate.wait(60)
        return Outcome("unsure")

    def take(page: Told) -> Outcome:
        told[page.dedup_key] += 1
        return Outcome()

    def fail(_: Told) -> Outcome:
        return Outcome("busy", 503)

    room = Room(tmp_path, rules={"boss": ChannelRules(at_once_max=1)}, boss=hang, am=fail, oncall=take)
    with closing_after(gate, room):
        room.raise_alerts(50)
        room.step_until(lambda: len(told) == 50)
        assert set(told.values()) == {1}
        assert not gate.is_set()


@pytest.mark.parametrize("at_once_max", [1, 3])
def test_no_more_is_under_way_on_a_channel_than_it_may_have(tmp_path: Path, at_once_max: int) -> None:
    gate, lock, begun = threading.Event(), threading.Lock(), Counter[str]()

    def hang(_: Told) -> Outcome:
        with lock:
            begun["boss"] += 1
        gate.wait(60)
        return Outcome()

    room = Room(tmp_path, rules={"boss": ChannelRules(at_once_max=at_once_max)}, boss=hang)
    with closing_after(gate, room):
        room.raise_alerts(10)
        room.step_until(lambda: begun["boss"] == at_once_max)
        for _ in range(20):
            room.dispatcher.step()
        incidents, _, _ = read_status(room.path)
        waiting = [page.waiting for incident in incidents for page in incident.pages.values()]
        assert sum(one is not None and one.is_sending for one in waiting) == begun["boss"] == at_once_max


def test_what_a_library_raises_is_an_outcome(tmp_path: Path) -> None:
    def fall(_: Told) -> Outcome:
        raise RuntimeError("https://hooks.example/secret")

    room = Room(tmp_path, rules={"boss": ChannelRules(repeats_unsure=False)}, boss=fall)
    room.raise_alerts(1)
    room.step_until(lambda: bool(room.said()))
    room.dispatcher.close()
    assert [one["fault"] for one in read_status(room.path)[1]] == ["unsure"]


def test_what_kafka_has_is_said_no_more_and_the_rest_in_order(tmp_path: Path) -> None:
    state = NotifyState(tmp_path / "n.sqlite")
    state.keep(desk_of(), said=[b"0", b"1", b"2"])
    with contextlib.closing(UnsaidEvents(tmp_path / "n.sqlite")) as events:
        assert [one.event for one in events.first(2)] == [b"0", b"1"]
        events.remove(1)
        state.keep(desk_of(), said=[b"3"])
        assert [(one.seq, one.event) for one in events.first(9)] == [(2, b"2"), (3, b"3")]
        assert events.count() == 2
    state.close()
