"""A replay equals what live folds concluded, whatever their batches, delays and repetitions; and names what doesn't."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from agentledger.infra.replay import ReplayReport, replay
from agentledger.infra.replay_compare import Comparison, Expected
from agentledger.infra.replay_partials import PartialReader, PartialWriter
from agentledger.infra.replay_report import print_comparison
from agentledger.infra.replay_unmatched import Unmatched
from agentledger.infra.replay_verdict import conclude
from agentledger.infra.replay_wanted import Wanted
from agentledger.processors.partial_records import encode_watermark
from agentledger.schemas.errors import ConfigurationError, LedgerConflictError, UsageError
from agentledger.schemas.events import (
    BudgetDeclared,
    ControlIssued,
    CostRated,
    Event,
    HoldDecided,
    HoldReported,
    HoldRequested,
    OutcomeCosted,
    Ticked,
)
from agentledger.schemas.topics import EVENTS, SPEND
from agentledger.sinks.replay_source import RecordBlock
from agentledger.sinks.rows import FIRST, LogPlace
from tests.hold_logs import HoldLog
from tests.replay_rig import PARTITIONS, MemoryLedger, MemoryWiring, lived, of_kind
from tests.run_logs import CODEC, T0_US, Author, interleaved, some_run

SEEDS = st.integers(0, 2**32)
DERIVED = ("processor:", "holds:", "scopes:")


def facts(rng: random.Random, runs: int = 6) -> list[Event]:
    return interleaved([some_run(number, rng) for number in range(runs)], rng)


def holds(rng: random.Random, requests: int = 12) -> list[Event]:
    """Declarations, requests, reports and ticks of two tenants."""
    authors = [HoldLog("acme"), HoldLog("globex")]
    declared = {"budget_id": "b", "budget_version": 1, "scope": "tenant", "metric": "cost_nanousd", "limit_amount": 300}
    how = {"window": "total", "thresholds_percent": ["50"], "on_exceeded": "halt", "enforcement": "hold"}
    events: list[Event] = [
        author.event(BudgetDeclared, T0_US, scope_value=author.tenant_id, **declared, **how) for author in authors
    ]
    watched = declared | how | {"budget_id": "w", "limit_amount": 3_000_000, "enforcement": "watch", "window": "day"}
    events.append(authors[0].event(BudgetDeclared, T0_US, scope_value="acme", **watched))
    per_run = watched | {"budget_id": "r", "limit_amount": 4, "metric": "tool_calls", "window": "run"}
    events.append(authors[0].event(BudgetDeclared, T0_US, scope_value="acme", **per_run))
    for number in range(requests):
        author = rng.choice(authors)
        asked = {"hold_id": f"{author.tenant_id}-{number}", "ask_cost_nanousd": rng.randint(1, 90), "ttl_ms": 60_000}
        events.append(author.event(HoldRequested, T0_US, **asked))
        if rng.random() < 0.7:
            said = {"action": "settle", "actual_cost_nanousd": rng.randint(0, 99), "hold_id": asked["hold_id"]}
            events.append(author.event(HoldReported, T0_US, **said))
        if rng.random() < 0.2:
            events.append(author.event(Ticked, T0_US, tenant_id="", run_id="tick", interval_ms=1000))
    return events


def a_ledger(seed: int = 1, *, settle: bool = True) -> MemoryLedger:
    rng = random.Random(seed)
    return lived(facts(rng), holds(rng), seed, settle=settle)


def looked_at(ledger: MemoryLedger, wanted: Wanted = Wanted()) -> ReplayReport:  # noqa: B008 - frozen
    return replay(MemoryWiring(ledger), wanted)


def printed(report: ReplayReport) -> str:
    text = io.StringIO()
    print_comparison(Console(file=text, width=120), report)
    return text.getvalue()


def derived_rows(ledger: MemoryLedger) -> int:
    return sum(
        row.occurrence == FIRST and CODEC.decode(row.value).producer_id.startswith(DERIVED) for row in ledger.rows()
    )


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_a_replay_equals_what_was_concluded_live(seed: int) -> None:
    ledger = a_ledger(seed)
    report = looked_at(ledger)
    assert report.is_equal, report.differences
    assert report.equal.total() == report.expected == derived_rows(ledger) > 0
    assert not report.not_yet
    assert not report.ahead


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_what_is_not_written_yet_is_no_difference(seed: int) -> None:
    ledger = a_ledger(seed, settle=False)
    report = looked_at(ledger)
    assert report.is_equal, report.differences
    assert report.equal.total() + report.not_yet.total() == report.expected
    assert report.equal.total() == derived_rows(ledger)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, data=st.data())
def test_any_change_of_a_conclusion_is_named(seed: int, data: st.DataObject) -> None:
    ledger = a_ledger(seed)
    rows = [row for row in ledger.rows() if row.occurrence == FIRST and row.topic not in (EVENTS.name,)]
    rows = [row for row in rows if CODEC.decode(row.value).producer_id.startswith(DERIVED)]
    row = data.draw(st.sampled_from(rows))
    event = CODEC.decode(row.value)
    changed = data.draw(st.sampled_from([{"workflow": "other"}, {"step": event.step + 1}, {"occurred_at": 7}]))
    ledger.change(row.topic, row.partition, row.log_index, replace(event, **changed))
    report = looked_at(ledger)
    assert report.different == 1
    [found] = report.differences
    assert (found.kind, found.topic, found.partition, found.log_index) == (
        "changed", row.topic, row.partition, row.log_index,
    )  # fmt: skip
    [name] = changed
    assert [(one.name, one.in_ledger, one.replayed) for one in found.fields] == [
        (name, changed[name], getattr(event, name))
    ]


def test_a_changed_id_is_found_by_its_place_in_the_sequence() -> None:
    ledger = a_ledger()
    row, charge = of_kind(ledger, CostRated)
    ledger.change(row.topic, row.partition, row.log_index, replace(charge, event_id=Author("x").start().event_id))
    [found] = looked_at(ledger).differences
    assert (found.kind, found.producer_id, found.producer_seq) == ("changed", charge.producer_id, charge.producer_seq)
    assert [one.name for one in found.fields] == ["event_id"]


def test_a_conclusion_that_was_removed_is_missing() -> None:
    ledger = a_ledger()
    values = [row.value for row in ledger.rows(SPEND.name)]
    row = next(row for row in ledger.rows(SPEND.name) if values.count(row.value) == 1)
    charge = CODEC.decode(row.value)
    ledger.remove(row.topic, row.partition, row.log_index)
    [found] = looked_at(ledger).differences
    assert (found.kind, found.event_id, found.log_index) == ("missing", charge.event_id, None)


def test_a_conclusion_that_follows_from_nothing_is_unexpected() -> None:
    ledger = a_ledger()
    _, charge = of_kind(ledger, CostRated)
    forged = replace(charge, event_id=Author("x").start().event_id, producer_seq=999, cost_nanousd=1)
    row = ledger.append(SPEND.name, charge.run_id.encode(), CODEC.encode(forged))
    [found] = looked_at(ledger).differences
    assert (found.kind, found.log_index, found.producer_seq) == ("unexpected", row.log_index, 999)


def test_a_second_content_under_an_id_is_a_conflict() -> None:
    ledger = a_ledger()
    _, charge = of_kind(ledger, CostRated)
    row = ledger.append(SPEND.name, charge.run_id.encode(), CODEC.encode(replace(charge, cost_nanousd=1)))
    [found] = looked_at(ledger).differences
    assert (found.kind, found.log_index) == ("conflict", row.log_index)


def test_a_changed_event_changes_what_follows_from_it() -> None:
    ledger = a_ledger()
    row, _ = of_kind(ledger, CostRated)
    rated = CODEC.decode(row.value).rated_event_id.encode()
    [fact] = [one for one in ledger.rows(EVENTS.name) if one.occurrence == FIRST and one.value[6:42] == rated]
    ledger.change(fact.topic, fact.partition, fact.log_index, replace(CODEC.decode(fact.value), input_tokens=77))
    report = looked_at(ledger)
    assert report.differences[0].event_type == "CostRated"
    assert "cost_nanousd" in [one.name for one in report.differences[0].fields]


def test_a_removed_event_is_refused() -> None:
    ledger = a_ledger()
    (_, partition), log = next(item for item in ledger.logs.items() if item[0][0] == EVENTS.name)
    ledger.remove(EVENTS.name, partition, len(log) // 2)
    with pytest.raises(LedgerConflictError):
        looked_at(ledger)


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, data=st.data())
def test_a_range_looks_at_what_was_concluded_in_it_and_at_nothing_else(seed: int, data: st.DataObject) -> None:
    ledger = a_ledger(seed)
    times = st.integers(T0_US - 5000, ledger.now_us + 5000)
    from_us, to_us = sorted((data.draw(times), data.draw(times)))
    events = [
        CODEC.decode(row.value)
        for row in ledger.rows()
        if row.occurrence == FIRST and CODEC.decode(row.value).producer_id.startswith(DERIVED)
    ]
    inside = sum(from_us <= event.occurred_at < to_us for event in events)
    report = looked_at(ledger, Wanted(from_us, to_us))
    assert report.is_equal, report.differences
    assert report.equal.total() == report.expected == inside


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_one_run_and_one_tenant_can_be_looked_at(seed: int) -> None:
    ledger = a_ledger(seed)
    _, outcome = of_kind(ledger, CostRated)
    of_run = looked_at(ledger, Wanted(run_id=outcome.run_id))
    assert of_run.is_equal, of_run.differences
    assert "left out   stage scopes" in printed(of_run)
    assert 0 < of_run.equal.total() < derived_rows(ledger)
    assert of_run.folded < sum(len(log) for (topic, _), log in ledger.logs.items() if topic == EVENTS.name)
    of_tenant = looked_at(ledger, Wanted(tenant_id="globex"))
    assert "left out" not in printed(of_tenant)
    decided = [CODEC.decode(row.value) for row in ledger.rows() if row.occurrence == FIRST]
    wanted = sum(one.tenant_id == "globex" and one.producer_id.startswith("holds:") for one in decided)
    assert of_tenant.is_equal
    assert of_tenant.equal.total() == wanted


def test_of_a_run_what_was_said_in_other_partitions_is_compared_too() -> None:
    ledger = a_ledger()
    events = [CODEC.decode(row.value) for row in ledger.rows() if row.occurrence == FIRST]
    of_run = [one for one in events if one.run_id == "run-1" and one.producer_id.startswith(DERIVED)]
    assert any(isinstance(one, ControlIssued) for one in of_run)
    report = looked_at(ledger, Wanted(run_id="run-1"))
    assert (report.different, report.not_yet.total(), report.ahead) == (0, 0, 0)
    assert report.equal.total() == report.expected == len(of_run)


def test_other_prices_are_named_as_the_likely_cause() -> None:
    ledger = a_ledger()
    row, charge = of_kind(ledger, CostRated)
    ledger.change(row.topic, row.partition, row.log_index, replace(charge, price_version="march"))
    assert isinstance(charge, CostRated)
    text = printed(looked_at(ledger))
    assert f"prices     charges in the ledger are of march, the replay has {charge.price_version}" in text
    ledger.change(row.topic, row.partition, row.log_index, replace(charge, workflow="other"))
    assert "prices  " not in printed(looked_at(ledger))


def test_all_of_nothing_is_not_called_equal() -> None:
    ledger = a_ledger()
    with pytest.raises(UsageError, match=r"no record of run 'run-x' of tenant 'globex' is in the ledger"):
        looked_at(ledger, Wanted(run_id="run-x", tenant_id="globex"))
    with pytest.raises(UsageError, match="no record of tenant 'globax'"):
        looked_at(ledger, Wanted(tenant_id="globax"))


def test_hold_decisions_are_replayed() -> None:
    ledger = a_ledger()
    row, decided = of_kind(ledger, HoldDecided)
    ledger.change(row.topic, row.partition, row.log_index, replace(decided, verdict="refused", reason="limit"))
    [found] = looked_at(ledger).differences
    assert (found.event_type, found.fields[0].name) == ("HoldDecided", "verdict")


def test_more_partitions_than_are_set_are_refused() -> None:
    ledger = a_ledger()
    with pytest.raises(ConfigurationError, match="AGENTLEDGER_KAFKA_PARTITIONS"):
        replay(MemoryWiring(ledger, partitions=PARTITIONS - 2), Wanted())


def test_what_follows_from_an_event_that_is_not_in_the_ledger_yet_is_no_difference() -> None:
    ledger = a_ledger()
    _, outcome = of_kind(ledger, OutcomeCosted)
    later = replace(outcome, event_id=Author("y").start().event_id, producer_seq=999, occurred_at=ledger.now_us + 5)
    ledger.append(SPEND.name, outcome.run_id.encode(), CODEC.encode(later))
    report = looked_at(ledger)
    assert report.is_equal
    assert report.ahead == 1


@given(count=st.integers(0, 40), in_memory_max=st.integers(1, 10), seed=SEEDS)
@settings(deadline=None, max_examples=15)
def test_what_waits_in_a_file_is_found_again(count: int, in_memory_max: int, seed: int) -> None:
    waiting = Unmatched(in_memory_max)
    keys = [number.to_bytes(4, "big") for number in range(count)]
    for key in keys:
        assert waiting.add(key, ("item", key))
    random.Random(seed).shuffle(keys)
    half = keys[: count // 2]
    assert [waiting.pop(key) for key in half] == [("item", key) for key in half]
    assert [waiting.pop(key) for key in half] == [None] * len(half)
    assert sorted(item for _, item in waiting.items()) == sorted(keys[count // 2 :])
    waiting.close()


def test_parts_that_hold_each_others_counterparts_are_matched_in_the_end() -> None:
    ledger = a_ledger()
    row, _ = of_kind(ledger, CostRated)
    mine, theirs = Comparison(), Comparison()
    mine.expect(Expected(row.topic, row.value, 0, 1, T0_US))
    theirs.meet(row)
    verdict = conclude(CODEC, [mine.rest(), theirs.rest()])
    assert (verdict.equal.total(), verdict.count) == (1, 0)


@given(count=st.integers(1, 30), in_memory_max=st.integers(1, 40), seed=SEEDS)
@settings(deadline=None, max_examples=30)
def test_law_rows_in_any_order_with_repetitions_are_matched_once(count: int, in_memory_max: int, seed: int) -> None:
    rng, author = random.Random(seed), Author()
    values = [CODEC.encode(author.model_call(1)) for _ in range(count)]
    ledger = MemoryLedger()
    order = rng.sample(values, count) if rng.random() < 0.5 else values
    for value in order:
        ledger.append(SPEND.name, b"", value, 0)
        if rng.random() < 0.3:
            ledger.append(SPEND.name, b"", value, 0)
    comparison, rows = Comparison(in_memory_max), ledger.logs[SPEND.name, 0]
    changed = rng.randrange(len(rows))
    changed_to = CODEC.encode(replace(CODEC.decode(rows[changed].value), step=10**6))
    is_first = rows[changed].occurrence == FIRST
    rows[changed] = rows[changed]._replace(value=changed_to)
    met = expected = 0
    while met < len(rows) or expected < count:
        if expected < count and (met == len(rows) or rng.random() < 0.5):
            ahead = range(expected, min(count, expected + rng.randint(1, 5)))
            comparison.expect_all([Expected(SPEND.name, values[number], 0, number, T0_US) for number in ahead])
            expected = ahead.stop
        else:
            behind = min(len(rows), met + rng.randint(1, 5))
            _, _, *columns = zip(*rows[met:behind], strict=True)
            comparison.meet_all(RecordBlock(LogPlace(SPEND.name, "id", 0), *columns))
            met = behind
    assert comparison.expected == count
    assert comparison.equal.total() == count - is_first
    assert comparison.unequal == is_first
    assert comparison.repeated == len(rows) - count
    assert (comparison.rest().expected, comparison.rest().met) == ([], [])
    comparison.close()


def test_partials_come_back_source_by_source_up_to_a_time(tmp_path: Path) -> None:
    values = {source: [encode_watermark(source, second) for second in range(5)] for source in range(2)}
    for source, mine in values.items():
        writer = PartialWriter(tmp_path, source)
        for value in mine:
            writer.write(1, value)
        writer.close()
    reader = PartialReader(tmp_path, 1)
    assert list(reader.read(1_999_999)) == [*values[0][:2], *values[1][:2]]
    assert list(reader.read(1_999_999)) == []
    assert list(reader.read(2**62)) == [*values[0][2:], *values[1][2:]]
