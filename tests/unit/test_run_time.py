"""What follows from time alone: stuck runs by ticks, late answers, and runs that are forgotten."""

from __future__ import annotations

import pytest

from agentledger.processors.packing import PackedRecord, pack
from agentledger.processors.rules.loading import parse_rules
from agentledger.processors.run_places import PlaceClock
from agentledger.processors.run_state import DAY_US, FORGOTTEN_KEPT_US, RUN_KEPT_US, is_forgotten
from agentledger.schemas.control import RUN_OWNERS, control_key
from agentledger.schemas.events import AlertRaised, AlertResolved, ApprovalRequested, CostRated, Event, OutcomeCosted
from agentledger.schemas.topics import CONTROL
from tests.run_logs import CODEC, T0_US, Author, Folded, ticked

START_MS = T0_US // 1000
MINUTE_MS = 60_000
DAY_MS = DAY_US // 1000
RULES = parse_rules(
    b"""
    rules:
      - {name: stuck, kind: stuck_run, window: 10m}
      - {name: slow, kind: slow_approval, window: 30m}
    """,
    where="test",
)


class Log:
    """One partition's records, folded as they are written."""

    def __init__(self) -> None:
        self.result = Folded(rules=RULES)
        self.offset = 0

    def add(self, at_ms: int, event: Event | None = None) -> Log:
        """An event, or a tick, at so many milliseconds after the start."""
        now_ms = START_MS + at_ms
        value = CODEC.encode(ticked(now_ms) if event is None else event)
        self.result.take([PackedRecord(self.offset, now_ms, value)])
        self.offset += 1
        return self

    def told(self) -> list[tuple[str, str, int]]:
        """Alerts: what became of which rule, and when, in milliseconds after the start."""
        found = self.result.events(AlertRaised, AlertResolved)
        return [(type(event).__name__, event.rule, event.occurred_at // 1000 - START_MS) for event in found]


def test_a_silent_run_is_stuck_by_the_ticks_alone_and_heard_again() -> None:
    author, log = Author(), Log()
    log.add(0, author.start()).add(5 * MINUTE_MS).add(10 * MINUTE_MS - 1).add(10 * MINUTE_MS).add(50 * MINUTE_MS)
    assert log.told() == [("AlertRaised", "stuck", 10 * MINUTE_MS)]
    log.add(60 * MINUTE_MS, author.model_call()).add(69 * MINUTE_MS)
    assert log.told()[1:] == [("AlertResolved", "stuck", 60 * MINUTE_MS)]
    log.add(71 * MINUTE_MS)
    assert [rule for _, rule, _ in log.told()] == ["stuck"] * 3


def test_what_time_brings_has_the_time_of_its_second_and_no_cause() -> None:
    log = Log().add(0, Author().start()).add(11 * MINUTE_MS + 250)
    [alert] = log.result.events(AlertRaised)
    assert alert.occurred_at // 1000 == START_MS + 11 * MINUTE_MS
    assert (alert.parent_event_id, alert.step, alert.trace_id, alert.producer_seq) == (None, 0, "", 0)
    assert (alert.run_id, alert.workflow, alert.labels) == ("run-1", "refund", {"team": "payments"})


def test_any_record_of_the_partition_passes_time_also_one_that_cannot_be_read() -> None:
    log = Log().add(0, Author().start())
    log.result.take([PackedRecord(1, START_MS + 11 * MINUTE_MS, b"no event")])
    assert [rule for _, rule, _ in log.told()] == ["stuck"]


def test_the_event_that_ends_a_silence_comes_after_what_the_silence_meant() -> None:
    author = Author()
    log = Log().add(0, author.start()).add(11 * MINUTE_MS, author.model_call())
    assert [name for name, _, _ in log.told()] == ["AlertRaised", "AlertResolved"]
    [charge] = log.result.events(CostRated)
    assert charge.producer_seq == 1


def test_an_approval_that_hurries_a_deadline_is_not_missed() -> None:
    author = Author()
    log = Log().add(0, author.start()).add(MINUTE_MS, author.write(ApprovalRequested, approval_id="a"))
    log.add(20 * MINUTE_MS)
    assert log.told() == []  # who waits for a person is not stuck
    log.add(31 * MINUTE_MS)
    assert log.told() == [("AlertRaised", "slow", 31 * MINUTE_MS)]


def test_a_restart_forgets_no_deadline() -> None:
    log = Log().add(0, Author().start())
    log.result.fold.forget()
    assert log.add(10 * MINUTE_MS).told() == [("AlertRaised", "stuck", 10 * MINUTE_MS)]


def test_a_run_is_forgotten_and_what_comes_of_it_later_counts_for_nothing() -> None:
    author, log = Author(), Log()
    call = author.model_call()
    log.add(0, call).add(1, author.finish()).add(2 + RUN_KEPT_US // 1000 - 1000)
    assert len(log.result.runs()) == 1
    log.add(2000 + RUN_KEPT_US // 1000)
    assert log.result.runs() == {}
    [mark] = log.result.run_states().values()
    assert is_forgotten(mark)
    assert len(mark) < 25
    derived = list(log.result.derived)
    log.add(3000 + RUN_KEPT_US // 1000, call).add(4000 + RUN_KEPT_US // 1000, author.outcome())
    assert log.result.derived == derived
    assert log.result.fold.skipped == {"forgotten run": 2}
    log.add(5000 + (RUN_KEPT_US + FORGOTTEN_KEPT_US) // 1000)
    assert log.result.run_states() == {}


HALT = [(CONTROL.name, control_key("acme", "run", "run-1", owner)) for owner in RUN_OWNERS]


@pytest.mark.parametrize(
    ("status", "asks", "is_taken_away"),
    [("halted", "halt", True), ("escalated", "halt", True), (None, "halt", True), ("succeeded", "halt", False),
     ("succeeded", "escalate over", True), ("succeeded", "warn over", False)],
)  # fmt: skip
def test_the_halt_of_a_run_goes_with_the_run(status: str | None, asks: str, is_taken_away: bool) -> None:
    author, log = Author(), Log()
    on_exceeded, _, over = asks.partition(" ")
    log.add(0, author.start(budget_model_calls=0 if over else 9, on_budget_exceeded=on_exceeded))
    log.add(1, author.model_call())
    if status is not None:
        log.add(2, author.finish(status))
    log.add(RUN_KEPT_US // 1000 - 1000)
    assert log.result.taken_away() == []  # who starts it again meanwhile is halted all the same
    log.add(2000 + RUN_KEPT_US // 1000)
    assert log.result.taken_away() == (HALT if is_taken_away else [])
    log.add(4000 + (RUN_KEPT_US + FORGOTTEN_KEPT_US) // 1000)
    assert len(log.result.taken_away()) == len(HALT) * is_taken_away


def test_an_outcome_within_the_time_that_runs_are_kept_is_joined_with_the_cost() -> None:
    author, log = Author(), Log()
    log.add(0, author.start()).add(1, author.model_call()).add(2, author.finish())
    for day in range(1, 34):
        log.add(day * DAY_MS)
    [stated] = log.add(34 * DAY_MS, author.outcome()).result.events(OutcomeCosted)
    assert stated.cost_nanousd == 2_000_000


def test_a_run_that_goes_on_is_not_forgotten() -> None:
    author, log = Author(), Log()
    for day in range(0, 100, 20):
        log.add(day * DAY_MS, author.model_call())
    [state] = log.result.runs().values()
    assert state.model_calls == 5


def test_a_batch_is_ended_before_it_reaches_into_a_third_epoch() -> None:
    result = Folded(rules=RULES)
    hour_ms = 60 * MINUTE_MS

    def message(at_ms: int) -> bytes:
        return pack([PackedRecord(at_ms, START_MS + at_ms, CODEC.encode(ticked(START_MS + at_ms)))])

    assert not result.fold.must_settle(0, message(hour_ms))
    result.fold.take_packed(0, message(0))
    assert not result.fold.must_settle(0, message(10))
    assert not result.fold.must_settle(1, message(hour_ms))
    assert result.fold.must_settle(0, message(hour_ms))
    result.fold.take_changed()
    assert not result.fold.must_settle(0, message(hour_ms))


def folded_by(clock: PlaceClock, times: dict[int, int], begin: int) -> list[int]:
    """The ledger times of these records (offset to append time), folded as one batch."""
    clock.begin(begin)
    return [clock.pass_time(offset, time_us) for offset, time_us in times.items()]


def test_a_partitions_clock_is_the_same_when_records_are_folded_again() -> None:
    times = {0: 10, 1: 50, 2: 20, 3: 30, 4: 40}
    first = PlaceClock(None)
    assert folded_by(first, {0: 10, 1: 50}, 0) == [10, 50]
    first_state = first.dump(1)
    assert folded_by(first, {2: 20, 3: 30}, 2) == [50, 50]
    second_state = first.dump(3)
    assert folded_by(PlaceClock(first_state), {2: 20, 3: 30, 4: 40}, 2) == [50, 50, 50]
    again = PlaceClock(second_state)  # the second batch is folded again, from its beginning
    assert folded_by(again, {2: 20}, 2) == [50]
    assert folded_by(PlaceClock(again.dump(2)), {2: 20, 3: 30}, 2) == [50, 50]
    after = PlaceClock(second_state)  # settled records come again, and then what is new
    assert folded_by(after, {3: 30}, 3) == [50]
    assert folded_by(PlaceClock(after.dump(3)), {4: 40}, 4) == [50]
    assert folded_by(PlaceClock(None), times, 0) == [10, 50, 50, 50, 50]


def test_a_clock_that_was_stored_further_on_is_right_from_where_a_shorter_batch_ended() -> None:
    """The broker's clock stepped back after record 1. A crash came after the clock of records 0 to 3 was stored."""
    times = {0: 10, 1: 50, 2: 20, 3: 30}
    whole = PlaceClock(None)
    folded_by(whole, times, 0)
    again = PlaceClock(whole.dump(3))
    folded_by(again, {0: 10, 1: 50}, 0)  # of those, 0 and 1 are settled before the next crash
    assert folded_by(PlaceClock(again.dump(1)), {2: 20, 3: 30}, 2) == [50, 50]
