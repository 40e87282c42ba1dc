"""Laws of the two stages: order across partitions, batching, repetitions and crashes change nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from agentledger.processors import scope_fold
from agentledger.processors.partial_records import decode_partial, read_head
from agentledger.processors.rules.models import RuleSet
from agentledger.processors.run_fold import DerivedRecord
from agentledger.processors.scope_rules import watches_of
from agentledger.processors.scope_watch import RuleWatch
from agentledger.processors.scopes import joined
from agentledger.schemas.events import (
    BudgetExceeded,
    BudgetThresholdCrossed,
    Event,
    ModelCallCompleted,
    PolicyDecided,
    RunStarted,
    ToolCallCompleted,
)
from tests.run_logs import CODEC
from tests.scope_rig import (
    Happened,
    budget,
    declarations,
    happened,
    home_of,
    mixed,
    run_stage2,
    stage1,
    tick,
)

LIMIT = 10_000
END_MS = 200_000
# One partition of partials: so every tenant lives in it, and the law is about all that stage 2 does.
SOURCES = 3


def all_rules() -> list[RuleWatch[Any]]:
    """One rule of each kind, so sharp that little is needed to fire it."""
    items = [
        {
            "name": "errors",
            "kind": "error_rate",
            "window": "20s",
            "percent": 30,
            "resolve_percent": 10,
            "min_volume": 2,
        },
        {"name": "models", "kind": "error_rate", "scope": "model", "window": "1m", "percent": 30, "min_volume": 2},
        {"name": "slow", "kind": "latency", "window": "30s", "limit": "100ms", "min_volume": 2},
        {
            "name": "slower",
            "kind": "latency",
            "window": "30s",
            "limit": "1ms",
            "times": 2,
            "baseline": "1m",
            "min_volume": 1,
        },
        {
            "name": "denials",
            "kind": "denial_burst",
            "window": "30s",
            "denials": 2,
            "dedup": "target",
            "resolve": "quiet",
            "quiet": "15s",
        },
        {"name": "gaps", "kind": "sequence_gap", "window": "5s"},
        {"name": "new", "kind": "new_version", "window": "10s", "quiet": "20s"},
        {"name": "unpriced", "kind": "unpriced_model", "scope": "model", "quiet": "30s"},
        {"name": "spike", "kind": "spend_spike", "floor_usd": "0.000001", "min_volume": 1},
        {
            "name": "burn",
            "kind": "spend_burn_rate",
            "period": "1h",
            "windows": [{"long": "1m", "short": "10s", "rate": 1.5}],
        },
    ]
    return watches_of(RuleSet.model_validate({"rules": items}).rules)


@st.composite
def a_record(draw: st.DrawFn, at_ms: int, producer_id: str, seq: int) -> Happened:
    """A call of a model or tool, a denial or a start, with what the rules look at."""
    common: dict[str, Any] = {
        "tenant_id": draw(st.sampled_from(["acme", "acme", "globex"])),
        "agent_id": draw(st.sampled_from(["a", "b", "c"])),
        "producer_id": producer_id,
        "producer_seq": 3 * seq if draw(st.booleans()) else seq,
    }
    kind = draw(st.sampled_from([ModelCallCompleted, ModelCallCompleted, ToolCallCompleted, PolicyDecided, RunStarted]))
    if kind is PolicyDecided:
        return happened(at_ms, kind=kind, verdict="deny", action=draw(st.sampled_from(["x", "y"])), **common)
    if kind is RunStarted:
        return happened(at_ms, kind=kind, prompt_version=draw(st.sampled_from(["p1", "p2", "p3"])), **common)
    status, latency_ms = draw(st.sampled_from(["ok", "ok", "error"])), draw(st.sampled_from([None, 5.0, 900.0]))
    record = happened(at_ms, draw(st.integers(0, 4000)), kind=kind, status=status, latency_ms=latency_ms, **common)
    return (
        replace(record, unpriced_model=draw(st.sampled_from(["", "tuned"]))) if kind is ModelCallCompleted else record
    )


@st.composite
def logs(draw: st.DrawFn) -> list[list[Happened]]:
    """Calls of two tenants and three agents on three partitions, and ticks to the end."""
    found: list[list[Happened]] = []
    for source in range(SOURCES):
        times = sorted(draw(st.lists(st.integers(0, 150_000), max_size=25)))
        calls = [draw(a_record(at_ms, f"sdk-{source % 2}", seq)) for seq, at_ms in enumerate(times)]
        ticks = [tick(at_ms) for at_ms in range(0, END_MS, draw(st.sampled_from([5_000, 20_000])))]
        found.append(sorted([*calls, *ticks, tick(END_MS)], key=lambda record: record.time_us))
    return found


def said_of(tenant_id: str, derived: list[DerivedRecord]) -> list[DerivedRecord]:
    """What was derived of a tenant, each once, in order."""
    return [record for record in dict.fromkeys(derived) if CODEC.decode(record.value).tenant_id == tenant_id]


def declared() -> list[tuple[int, bytes]]:
    """Budgets over windows of all kinds, one changed and one ended on the way; ticks to the end."""
    items: list[tuple[int, Event]] = [
        (0, budget(LIMIT)),
        (0, budget(LIMIT // 4, budget_id="each", scope="agent", scope_value="", window="hour", on_exceeded="halt")),
        (0, budget(LIMIT // 2, budget_id="slides", window="sliding", window_ms=30_000)),
        (0, budget(3, budget_id="calls", scope="workflow", scope_value="refund", metric="model_calls", window="total")),
        (40_000, budget(LIMIT * 2, budget_version=2)),
        (60_000, budget(LIMIT // 4, budget_id="each", scope="agent", window="hour", retired=True)),
        *((at_ms, tick(at_ms).event) for at_ms in range(0, END_MS + 1, 7_000)),
        (END_MS, tick(END_MS).event),
    ]
    return declarations(sorted(items, key=lambda item: item[0]))


@settings(max_examples=100, deadline=None)
@given(logs(), st.integers(0, 2**32))
def test_any_order_batching_repetition_and_crash_give_the_same(found: list[list[Happened]], seed: int) -> None:
    note(f"seed {seed}")
    rng = random.Random(seed)
    plain = [stage1(log, source, partitions=1) for source, log in enumerate(found)]
    holds = declared()
    wanted = run_stage2([record.value for records in plain for record in records], holds, all_rules, sources=SOURCES)
    rough = [stage1(log, source, rng, partitions=1) for source, log in enumerate(found)]
    holds = sorted([*holds, *rng.sample(holds, 3)], key=lambda item: item[0])  # some are repeated
    got = run_stage2(mixed(rough, rng), holds, all_rules, rng, sources=SOURCES)
    for tenant_id in ("acme", "globex"):
        assert said_of(tenant_id, got.derived) == said_of(tenant_id, wanted.derived)
        if wanted.fold.state_of(0, tenant_id) is not None:
            assert got.state_bytes(tenant_id) == wanted.state_bytes(tenant_id)


@settings(max_examples=40, deadline=None)
@given(logs(), st.integers(0, 2**32))
def test_repetitions_of_stage_1_are_the_same_bytes(found: list[list[Happened]], seed: int) -> None:
    note(f"seed {seed}")
    rng = random.Random(seed)
    for source, log in enumerate(found):
        plain, rough = stage1(log, source), stage1(log, source, rng)
        assert list(dict.fromkeys(rough)) == plain


@settings(max_examples=40, deadline=None)
@given(logs())
def test_partials_add_up_to_what_happened(found: list[list[Happened]]) -> None:
    for source, log in enumerate(found):
        for tenant_id in ("acme", "globex"):
            values = [
                record.value
                for record in stage1(log, source)
                if record.partition == home_of(tenant_id, SOURCES) and record.key == tenant_id.encode()
            ]
            ours = [record for record in log if record.event.tenant_id == tenant_id]
            partials = [decode_partial(value) for value in values]
            assert [read_head(value).source for value in values] == [source] * len(values)
            assert sum(partial.events for partial in partials) == len(ours)
            if not partials:
                continue
            total = joined(partials)
            assert sum(amounts[0] for amounts in total.usage.values()) == sum(record.cost_nanousd for record in ours)
            model_calls = sum(isinstance(record.event, ModelCallCompleted) for record in ours)
            assert sum(amounts[2] for amounts in total.usage.values()) == model_calls
            assert sum(calls[0] for calls in total.models.values()) == model_calls
            slots = [sum(calls[2].values()) for named in (total.models, total.tools) for calls in named.values()]
            assert sum(slots) == sum(getattr(record.event, "latency_ms", None) is not None for record in ours)
            seqs = {(record.event.producer_id, record.event.producer_seq) for record in ours}
            bits = sum(bin(bits).count("1") for blocks in total.seqs.values() for bits in blocks.values())
            assert bits == len(seqs)


@settings(max_examples=40, deadline=None)
@given(logs())
def test_derived_events_have_dense_numbers_and_ids_of_their_own(found: list[list[Happened]]) -> None:
    plain = [stage1(log, source, partitions=1) for source, log in enumerate(found)]
    got = run_stage2([record.value for records in plain for record in records], declared(), all_rules, sources=SOURCES)
    events = got.events()
    assert len({event.event_id for event in events}) == len(events)
    for tenant_id in ("acme", "globex"):
        seqs = [event.producer_seq for event in events if event.tenant_id == tenant_id]
        assert seqs == list(range(len(seqs)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4 * 3_600_000), st.integers(0, 5000)), min_size=1, max_size=40))
def test_a_window_is_never_changed_after_it_closed(calls: list[tuple[int, int]]) -> None:
    """Hour by hour, what a window held when the next one began is what it holds for good, and what was spent in it."""
    hour_us = 3_600_000_000
    log = sorted((happened(at_ms, cost) for at_ms, cost in calls), key=lambda record: record.time_us)
    spent: dict[int, int] = {}
    for record in log:
        start = record.time_us // hour_us * hour_us
        spent[start] = spent.get(start, 0) + record.cost_nanousd
    ending = [*log, tick(6 * 3_600_000)]
    holds = declarations([(0, budget(10**12, window="hour")), (6 * 3_600_000, tick(0).event)])
    closed: dict[int, int] = {}
    for upto in range(1, len(ending) + 1):
        records = stage1(ending[:upto], 0, partitions=1)
        stage = run_stage2([record.value for record in records], holds, sources=1)
        state = stage.fold.state_of(0, "acme")
        if state is None or "b1\x1fcost_nanousd" not in state.budgets:
            continue
        used = state.budgets["b1\x1fcost_nanousd"].values.get("acme")
        if used is not None and used.closed:
            start, total = used.closed
            assert closed.setdefault(start, total) == total == spent[start]


def test_lines_are_said_once_and_in_order() -> None:
    log = [happened(1000 * second, 1000, producer_seq=second) for second in range(15)]
    records = [stage1([*log, tick(30_000)], 0, partitions=1)]
    stage = run_stage2(
        [record.value for record in records[0]],
        declarations([(0, budget(10_000)), (30_000, tick(0).event)]),
        sources=1,
    )
    said: list[Any] = stage.events(BudgetThresholdCrossed, BudgetExceeded)
    assert [getattr(event, "threshold_percent", None) for event in said] == [50, 80, 100, None]
    assert [event.used_amount for event in said] == [5000, 8000, 10_000, 11_000]
    assert all(CODEC.decode_strictly(record.value) for record in stage.derived)


def test_a_state_too_large_to_write_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log = [happened(1000 * second, 1000, producer_seq=second) for second in range(60)]
    partials = [record.value for record in stage1([*log, tick(90_000)], 0, partitions=1)]
    holds = declarations([(0, budget(10_000)), (90_000, tick(0).event)])
    wanted = run_stage2(partials, holds, sources=1)
    monkeypatch.setattr(scope_fold, "STATE_BYTES_MAX", 10)
    got = run_stage2(partials, holds, rng=random.Random(1), sources=1)
    assert list(dict.fromkeys(got.derived)) == wanted.derived
    assert not any(key.startswith(b"t") for key in got.changelog)
