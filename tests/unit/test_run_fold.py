"""The fold of runs: what follows from which events, and the laws that hold for any log, batching and crash."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentledger.processors import run_fold
from agentledger.processors.packing import PackedRecord, pack
from agentledger.processors.partial_records import PARTIAL, decode_partial, read_head
from agentledger.processors.rules.loading import default_rules, parse_rules
from agentledger.processors.run_places import PARTIALS_KEY, stored_key
from agentledger.processors.run_state import encode_state
from agentledger.schemas.events import (
    AlertRaised,
    BudgetExceeded,
    BudgetThresholdCrossed,
    CostRated,
    Event,
    OutcomeCosted,
    PolicyDecided,
    RunBudgetDeclared,
    Ticked,
)
from agentledger.schemas.identity import derived_id, event_time_ms
from agentledger.schemas.testing.price_book import FixedPriceBook
from tests.run_logs import (
    CODEC,
    T0_US,
    Author,
    Folded,
    folded,
    interleaved,
    records_of,
    some_run,
    some_run_budgets,
    ticked,
    timed_records,
)
from tests.run_logs import run as fold_run
from tests.strategies import any_event

UNPRICED = parse_rules(b"{kind: unpriced_model, name: unpriced_model, scope: run}", where="test")


RULES = default_rules()
PARTITIONS = 3
OPEN_BUCKET = stored_key(0, PARTIALS_KEY)
PRICED_ALL = FixedPriceBook(
    {"sold": (2000, 500, 2500, 8000, 8000), "cheap": (100, 10, 100, 400, 400)},
    tools={"search": 5_000_000},
    human_nanousd_per_hour=36_000_000_000,
)


def everything() -> Folded:
    """A fold with all that the worker switches on."""
    return Folded(PRICED_ALL, rules=RULES, partitions=PARTITIONS)


def only_state(result: Folded) -> Any:
    [state] = result.runs().values()
    return state


# --- charges


def test_a_priced_call_gives_a_charge_that_names_its_price_book_and_carries_the_run() -> None:
    author = Author()
    start, call = author.start(), author.model_call(1000, output_tokens=10, span_id="00f067aa0ba902b7")
    [charge] = folded([start, call]).events()
    assert charge == CostRated(
        event_id=derived_id(call.event_id, "CostRated"),
        tenant_id="acme",
        producer_id="processor:run-1",
        producer_seq=0,
        run_id="run-1",
        step=call.step,
        parent_event_id=call.event_id,
        span_id="00f067aa0ba902b7",
        agent_id="refunds",
        agent_version="1.2",
        workflow="refund",
        environment="production",
        occurred_at=T0_US + 1000,
        labels={"team": "payments"},
        rated_event_id=call.event_id,
        kind="model",
        model="sold",
        priced=True,
        cost_nanousd=2_080_000,
        input_cost_nanousd=2_000_000,
        output_cost_nanousd=80_000,
        cache_read_cost_nanousd=0,
        cache_write_cost_nanousd=0,
        reasoning_cost_nanousd=0,
        price_source="fixed",
        price_version="1",
    )


@pytest.mark.parametrize(("status", "attempt"), [("error", 1), ("rejected", 1), ("cancelled", 1), ("ok", 3)])
def test_failed_and_repeated_calls_cost_what_they_used(status: str, attempt: int) -> None:
    result = fold_run(lambda author: [author.model_call(1000, status=status, attempt=attempt)])
    assert [charge.cost_nanousd for charge in result.events(CostRated)] == [2_000_000]


def test_a_call_without_a_price_is_unpriced_and_not_free() -> None:
    result = fold_run(lambda author: [author.model_call(10, "tuned", provider="openai", reported_cost_nanousd=0)])
    [charge] = result.events(CostRated)
    assert (charge.priced, charge.cost_nanousd, charge.input_cost_nanousd) == (False, None, None)
    assert (charge.unpriced_reason, charge.reported_cost_nanousd, charge.model) == ("unknown_model", 0, "tuned")
    assert (charge.price_source, charge.provider) == ("fixed", "openai")
    assert only_state(result).unpriced_model_calls == 1


def test_a_call_without_usage_is_unpriced() -> None:
    [charge] = fold_run(lambda author: [author.model_call(None)]).events(CostRated)
    assert (charge.priced, charge.unpriced_reason, charge.cost_nanousd) == (False, "no_usage", None)


def test_a_tool_call_is_charged_where_it_says_what_it_cost() -> None:
    result = fold_run(lambda author: [author.tool_call(), author.tool_call(reported_cost_nanousd=5)])
    [charge] = result.events()
    assert (charge.kind, charge.priced, charge.cost_nanousd) == ("tool", True, 5)
    assert (charge.price_source, charge.reported_cost_nanousd) == ("reported", 5)


# --- alerts


@pytest.mark.parametrize(
    ("fields", "alarmed"),
    [
        ({"tokens": 10, "model": "tuned"}, True),
        ({"tokens": 10, "model": "tuned", "reported_cost_nanousd": 7}, True),
        ({"tokens": None}, True),
        ({"tokens": None, "reported_cost_nanousd": 7}, False),
        ({"tokens": None, "status": "error"}, False),
        ({"tokens": -1, "status": "error"}, True),
        ({"tokens": 10}, False),
    ],
)
def test_an_alert_says_that_money_is_unknown(fields: dict[str, Any], alarmed: bool) -> None:
    alerts = folded([Author().model_call(**fields)], rules=UNPRICED).events(AlertRaised)
    assert [alert.rule for alert in alerts] == ["unpriced_model"] * alarmed


def test_an_unpriced_model_is_told_once_for_each_run_and_model() -> None:
    events = [Author(run).model_call(10, model) for run in ("a", "b") for model in ("x", "y", "x")]
    for number, event in enumerate(events):
        event.event_id = derived_id(event.event_id, str(number))
        event.producer_seq = number
    alerts = folded(events, rules=UNPRICED).events(AlertRaised)
    assert [(alert.run_id, "model x" in alert.summary) for alert in alerts] == [
        ("a", True), ("a", False), ("b", True), ("b", False),
    ]  # fmt: skip
    assert len({alert.event_id for alert in alerts}) == len({alert.alert_id for alert in alerts}) == 4


# --- budgets


def test_a_budget_is_told_at_each_line_once_with_an_alert_when_it_is_exceeded() -> None:
    result = fold_run(
        lambda author: [
            author.start(budget_tool_calls=10, on_budget_exceeded="halt"),
            *(author.tool_call() for _ in range(14)),
        ]
    )
    told = [(type(event).__name__, getattr(event, "threshold_percent", None)) for event in result.events()]
    crossed = "BudgetThresholdCrossed"
    assert told == [
        (crossed, 50), (crossed, 80), (crossed, 100), ("BudgetExceeded", None), ("AlertRaised", None),
        ("ControlIssued", None),
    ]  # fmt: skip
    [exceeded] = result.events(BudgetExceeded)
    assert (exceeded.metric, exceeded.limit_amount, exceeded.used_amount) == ("tool_calls", 10, 11)
    assert (exceeded.scope, exceeded.scope_value, exceeded.on_exceeded) == ("run", "run-1", "halt")
    [alert] = result.events(AlertRaised)
    assert (alert.rule, alert.severity) == ("budget_exceeded", "critical")
    assert alert.trigger_event_ids == [exceeded.trigger_event_id]


@pytest.mark.parametrize(
    ("budget", "metric", "used"),
    [
        ({"budget_cost_nanousd": 4_000_000}, "cost_nanousd", 4_000_007),
        ({"budget_tokens": 1999}, "tokens", 2000),
        ({"budget_model_calls": 1}, "model_calls", 2),
        ({"budget_tool_calls": 0}, "tool_calls", 1),
        ({"budget_wall_clock_ms": 2}, "wall_clock_ms", 3),
    ],
)
def test_every_metric_has_its_budget(budget: dict[str, int], metric: str, used: int) -> None:
    def write(author: Author) -> list[Event]:
        calls = [author.model_call(1000), author.model_call(1000), author.tool_call(reported_cost_nanousd=7)]
        return [author.start(**budget), *calls]

    [exceeded] = fold_run(write).events(BudgetExceeded)
    assert (exceeded.metric, exceeded.used_amount) == (metric, used)


def test_a_call_without_a_price_uses_the_budget_by_its_reported_cost() -> None:
    def write(author: Author) -> list[Event]:
        return [author.start(budget_cost_nanousd=10), author.model_call(5, "tuned", reported_cost_nanousd=11)]

    [exceeded] = fold_run(write).events(BudgetExceeded)
    assert exceeded.used_amount == 11


def test_calls_of_a_simulated_user_are_charged_and_counted_but_use_no_budget() -> None:
    def write(author: Author) -> list[Event]:
        calls = [author.model_call(1000, requestor="user"), author.tool_call(requestor="user", reported_cost_nanousd=3)]
        budget = {"budget_cost_nanousd": 0, "budget_tokens": 0, "budget_model_calls": 0, "budget_tool_calls": 0}
        return [author.start(**budget), *calls, author.outcome()]

    result = fold_run(write)
    assert result.events(BudgetThresholdCrossed, BudgetExceeded) == []
    [stated] = result.events(OutcomeCosted)
    assert (stated.cost_nanousd, stated.model_calls, stated.tool_calls) == (2_000_003, 1, 1)


def test_a_start_that_comes_late_tells_the_lines_already_crossed() -> None:
    author = Author()
    events = [author.tool_call() for _ in range(5)]
    [*_, exceeded, alert] = folded([*events, author.start(budget_tool_calls=4)]).events()
    assert isinstance(exceeded, BudgetExceeded)
    assert isinstance(alert, AlertRaised)
    assert exceeded.used_amount == 5


def test_a_second_start_changes_nothing() -> None:
    author = Author()
    events = [author.start(budget_tool_calls=9), author.start(budget_tool_calls=1), author.tool_call()]
    assert folded(events).events() == []


def test_time_after_the_end_uses_no_budget() -> None:
    author = Author()
    events = [author.start(budget_wall_clock_ms=3), author.finish(), *(author.outcome() for _ in range(9))]
    assert folded(events).events(BudgetExceeded, BudgetThresholdCrossed) == []


# --- cost per outcome


def test_an_outcome_is_stated_with_the_runs_full_cost_and_again_when_either_changes() -> None:
    author = Author()
    log = [
        author.start(),
        author.model_call(1000, status="error"),
        author.model_call(1000, attempt=2),
        author.model_call(1000, "tuned", reported_cost_nanousd=9),
        author.tool_call(status="timeout"),
        author.finish("failed"),
    ]
    assert folded(log).events(OutcomeCosted) == []
    first = author.outcome(True)
    stated = folded([*log, first]).events(OutcomeCosted)
    facts = {"cost_nanousd": 4_000_000, "reported_cost_nanousd": 9, "model_calls": 3, "unpriced_model_calls": 1}
    facts |= {"tool_calls": 1, "tool_errors": 1, "run_status": "failed", "success": True, "revision": 1}
    [one] = stated
    assert {name: getattr(one, name) for name in facts} == facts
    assert one.outcome_event_id == first.event_id
    log += [first, author.outcome(False), author.model_call(1000), author.write(PolicyDecided)]
    again = folded(log).events(OutcomeCosted)
    assert [(item.revision, item.success, item.cost_nanousd) for item in again] == [
        (1, True, 4_000_000),
        (2, False, 4_000_000),
        (3, False, 6_000_000),
    ]


def test_an_outcome_may_come_first_and_without_anything_else() -> None:
    [stated] = fold_run(lambda author: [author.outcome(None)]).events()
    assert (stated.success, stated.cost_nanousd, stated.run_status, stated.model_calls) == (None, None, "", 0)


# --- identity


def test_repeated_events_derive_nothing_and_of_two_contents_the_first_counts() -> None:
    author = Author()
    call = author.model_call(1000)
    other = dataclasses.replace(call, input_tokens=5)
    result = folded([call, call, other, author.outcome()])
    assert [charge.cost_nanousd for charge in result.events(CostRated)] == [2_000_000]
    assert only_state(result).cost_nanousd == 2_000_000


def test_what_lies_before_the_last_offset_was_folded_before_whatever_its_id() -> None:
    author = Author()
    first, second, unseen = records_of([author.model_call(), author.model_call(), author.model_call()])
    result = Folded().take([first, second])
    before = (list(result.derived), result.run_states())
    result.take([PackedRecord(first.offset, first.timestamp_ms, unseen.value), second])
    assert (result.derived, result.run_states()) == before


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_stay_within_64_bits(sign: int) -> None:
    cost = sign * (2**63 - 1)
    result = fold_run(
        lambda author: [
            author.start(budget_cost_nanousd=5, budget_tokens=5),
            *(author.tool_call(reported_cost_nanousd=cost) for _ in range(2)),
            *(author.model_call(2**63 - 1, reported_cost_nanousd=cost) for _ in range(2)),
            author.outcome(),
        ]
    )
    [stated] = result.events(OutcomeCosted)
    assert stated.cost_nanousd == stated.reported_cost_nanousd == cost


def test_two_tenants_may_use_the_same_run_id() -> None:
    mine, theirs = Author().model_call(1000), Author(seed=2).model_call(10)
    theirs.tenant_id = "other"
    result = folded([mine, theirs])
    assert [(charge.tenant_id, charge.cost_nanousd) for charge in result.events(CostRated)] == [
        ("acme", 2_000_000),
        ("other", 20_000),
    ]
    assert len(result.runs()) == 2


@pytest.mark.parametrize(
    "event_id",
    ["", "x", "g" * 36, "0" * 36, " 1970000-0000-7000-8000-00000000000", "0197-0000000-7000-8000-000000000000"],
)
def test_an_event_whose_id_is_no_uuid_is_skipped(event_id: str) -> None:
    call = Author().model_call()
    call.event_id = event_id
    result = folded([call])
    assert (result.derived, result.run_states()) == ([], {})
    assert result.fold.skipped == {"unusable id": 1}


def test_records_that_cannot_be_read_are_counted_and_skipped() -> None:
    call = CODEC.encode(Author().model_call())
    values = [None, b"", b"\x00\x00\x00\xff\xff" + call[5:], call[:20], call + b"\x00", b"{}", call]
    records = [PackedRecord(offset, T0_US // 1000, value) for offset, value in enumerate(values)]
    result = Folded().take([*records, PackedRecord(7, T0_US // 1000, None, True)])
    assert result.fold.folded == 1
    assert result.fold.skipped == {"tombstone": 1, "unreadable": 4, "unknown schema": 1, "oversized": 1}
    assert len(result.events(CostRated)) == 1


def test_what_is_copied_into_derived_events_is_bounded() -> None:
    call = Author().model_call(10, "m" * 400_000)
    call.agent_id = "a" * 400_000
    call.labels = {"small": "kept", "big": "x" * 100_000}
    result = folded([call])
    assert max(len(record.value) for record in result.derived) < 20_000
    assert result.events(CostRated)[0].labels == {"small": "kept"}


def test_ledger_time_never_goes_back_within_a_run() -> None:
    author = Author()
    values = [CODEC.encode(author.model_call()) for _ in range(3)]
    records = [PackedRecord(offset, 1000 - 300 * offset, value) for offset, value in enumerate(values)]
    assert [charge.occurred_at for charge in Folded().take(records).events()] == [1_000_000] * 3


def test_states_dropped_from_memory_come_back_from_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_fold, "LIVE_RUNS_MAX", 1)
    log = some_log(7)
    small = Folded()
    for record in records_of(log):
        small.take([record])
        assert len(small.fold._places[0].live) <= 1
    assert small.by_id() == folded(log).by_id()


# --- laws


def some_log(seed: int, runs: int = 4, repeated: float = 0.15) -> list[Event]:
    rng = random.Random(seed)
    declared: list[Event] = list(some_run_budgets(rng))
    return interleaved([*(some_run(number, rng) for number in range(runs)), declared], rng, repeated)


@given(st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_law_money_in_is_money_out(seed: int) -> None:
    """What was charged call by call is what a run cost, in all, by part, and in the partials that stage 2 sums."""
    rng = random.Random(seed)
    result = Folded(PRICED_ALL, rules=RULES, partitions=PARTITIONS).take(timed_records(some_log(seed), rng))
    last_ms = max(record.timestamp_ms for record in timed_records(some_log(seed), random.Random(seed)))
    result.take([PackedRecord(10**6, last_ms + 2000, CODEC.encode(ticked(last_ms + 2000)))])
    used = 0
    for state in result.runs().values():
        charges = [charge for charge in result.events(CostRated) if charge.run_id == state.run_id]
        assert state.cost_nanousd == sum(charge.cost_nanousd or 0 for charge in charges)
        assert sum(state.charges) == sum(charge.priced for charge in charges)
        assert state.unpriced_model_calls == sum(not charge.priced for charge in charges)
        for charge in charges:
            if charge.kind == "model" and charge.priced:
                assert charge.cost_nanousd == charge.input_cost_nanousd + charge.output_cost_nanousd
        used += state.used.cost_nanousd
        stated = [item for item in result.events(OutcomeCosted) if item.run_id == state.run_id]
        assert [item.revision for item in stated] == list(range(1, len(stated) + 1))
        for last in stated[-1:]:
            assert (last.cost_nanousd or 0) == state.cost_nanousd
            parts = {"model": last.model_cost_nanousd, "tool": last.tool_cost_nanousd, "human": last.human_cost_nanousd}
            assert sum(part or 0 for part in parts.values()) == state.cost_nanousd
            for kind, part in parts.items():
                of_kind = [charge.cost_nanousd for charge in charges if charge.kind == kind and charge.priced]
                assert part == (sum(of_kind) if of_kind else None)
            assert max(last.wasted_cost_nanousd or 0, last.retry_cost_nanousd or 0) <= state.cost_nanousd
    sums = [decode_partial(item.value) for item in result.partials() if read_head(item.value).kind == PARTIAL]
    assert sum(usage[0] for item in sums for usage in item.usage.values()) == used


@given(st.integers(0, 2**32))
def test_law_derived_events_are_dense_per_run_with_ids_of_their_own_and_in_time_order_of_their_cause(seed: int) -> None:
    log = some_log(seed)
    times = {event_time_ms(event.event_id) for event in log}
    seqs = defaultdict(list)
    events = folded(log).events()
    for event in events:
        seqs[event.producer_id].append(event.producer_seq)
        assert event_time_ms(event.event_id) in times
    assert all(found == list(range(len(found))) for found in seqs.values())
    assert len({event.event_id for event in events}) == len(events)


@given(st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_law_repetitions_change_nothing(seed: int) -> None:
    log = some_log(seed, repeated=0)
    once, twice = folded(log, rules=RULES), folded([*log, *log], rules=RULES)
    assert twice.derived == once.derived
    for key, state in once.runs().items():
        again = twice.runs()[key]
        again.last_offset, again.last_time_us = state.last_offset, state.last_time_us
        again.seen = state.seen
        assert encode_state(again, 0) == encode_state(state, 0)


@given(st.integers(0, 2**32))
def test_law_a_run_is_folded_by_itself(seed: int) -> None:
    rng = random.Random(seed)
    runs = [some_run(number, rng) for number in range(3)]
    alone = [event for run in runs for event in folded(run).by_id()]
    assert sorted(folded(interleaved(runs, rng, repeated=0)).by_id()) == sorted(alone)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_law_any_batches_and_any_crashes_give_the_same_bytes(data: st.DataObject) -> None:
    """A crash may come after part of a batch's derived events, after part of its states, or before the commit.

    With all that is switched on: the shipped rules, partials, ticks, runs that are forgotten, what comes later.
    """
    seed = data.draw(st.integers(0, 2**32))
    rng = random.Random(seed)
    records = timed_records(some_log(seed), rng, forgetting=data.draw(st.booleans()))
    expected = everything().take(records)
    worker = everything()
    committed = 0
    for _ in range(data.draw(st.integers(0, 12))):
        if committed >= len(records):
            break
        start = data.draw(st.integers(max(0, committed - 5), committed), label="packed again from")
        end = data.draw(st.integers(committed, len(records)), label="up to")
        sent = worker.fold.take_packed(0, pack(records[start:end]))
        changed = worker.fold.take_changed()
        stage = data.draw(st.sampled_from(["derived", "states", "commit", "done"]), label="crash after")
        worker.derived += sent[: data.draw(st.integers(0, len(sent)))] if stage == "derived" else sent
        if stage != "derived":
            worker.store(changed[: data.draw(st.integers(0, len(changed)))] if stage == "states" else changed)
        if stage == "done":
            committed = end
        else:
            worker.fold.forget()
    worker.take(records[committed:])
    assert worker.by_id() == expected.by_id()
    assert worker.partials() == expected.partials()
    assert worker.run_states() == expected.run_states()
    assert worker.states.get(OPEN_BUCKET) == expected.states.get(OPEN_BUCKET)


@given(st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_law_the_trail_gives_what_the_stream_gave(seed: int) -> None:
    """The broker's clock may step back; the trail has each partition's highest time so far, and folds to the same."""
    records = timed_records(some_log(seed), random.Random(seed))
    highest = itertools.accumulate((record.timestamp_ms for record in records), max)
    trail = [record._replace(timestamp_ms=time_ms) for record, time_ms in zip(records, highest, strict=True)]
    assert everything().take(records).derived == everything().take(trail).derived


@given(st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_law_partitions_may_come_in_any_order(seed: int) -> None:
    """Each partition keeps its order; how their records are mixed, and into which batches, changes nothing."""
    rng = random.Random(seed)
    logs = {
        part: timed_records(interleaved([some_run(2 * part, rng), some_run(2 * part + 1, rng)], rng), rng)
        for part in range(PARTITIONS)
    }
    expected, mixed = everything(), everything()
    for part, records in logs.items():
        expected.take(records, part)
    rest = {part: list(records) for part, records in logs.items()}
    while any(rest.values()):
        part = rng.choice([part for part, records in rest.items() if records])
        count = rng.randint(1, 8)
        mixed.derived += mixed.fold.take_packed(part, pack(rest[part][:count]))
        del rest[part][:count]
        if rng.random() < 0.5:
            mixed.store(mixed.fold.take_changed())
    mixed.store(mixed.fold.take_changed())
    assert mixed.by_id() == expected.by_id()
    assert mixed.partials() == expected.partials()
    assert mixed.run_states() == expected.run_states()


@given(st.lists(any_event(), max_size=12), st.lists(st.integers(-(2**40), 2**40), min_size=12, max_size=12))
@settings(max_examples=100, deadline=None)
def test_law_whatever_comes_it_is_folded_and_what_follows_can_be_written(events: list[Event], times: list[int]) -> None:
    for event in events:
        event.run_id, event.tenant_id = "r", "t"
    records = [
        PackedRecord(offset, times[offset], CODEC.encode(event)) for offset, event in enumerate([*events, *events][:12])
    ]
    result = everything().take(records)
    others = sum(isinstance(event, Ticked | RunBudgetDeclared) for event in [*events, *events][:12])
    assert result.fold.folded + result.fold.skipped["forgotten run"] == len(records) - others
    assert everything().take(records).derived == result.derived
    for state in result.runs().values():
        assert abs(state.cost_nanousd) < 2**63
