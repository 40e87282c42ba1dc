"""`agentledger alerts try`: rules on history, without a word to anybody."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console

from agentledger.infra.alert_trial import Tried, as_json, firing_lines, summary_table, try_rules
from agentledger.processors.rules.models import RuleSet
from agentledger.schemas.events import Event, Ticked
from agentledger.schemas.topics import EVENTS, HOLDS
from agentledger.sinks.record_filter import EVERYTHING, RecordFilter
from agentledger.sinks.replay_source import LedgerRecord, LogSpan
from tests.replay_rig import MemoryLedger, MemorySource
from tests.run_logs import CODEC, PRICES, T0_US, Author
from tests.scope_rig import budget

LOOP = {"name": "loop", "kind": "identical_tool_calls", "calls": 4}
ERRORS = {"name": "errors", "kind": "error_rate", "window": "1m", "percent": 50, "min_volume": 5}
STUCK = {"name": "stuck", "kind": "stuck_run", "window": "15m"}
MINUTE_US = 60_000_000


class Source(MemorySource):
    """A ledger in memory that can be read in one go."""

    def read(self, spans: Sequence[LogSpan], wanted: RecordFilter = EVERYTHING) -> Iterator[list[LedgerRecord]]:
        reader = self.reader(spans, wanted)
        for window in self.windows(spans):
            for block in reader.read(window):
                yield block.records()


def ledger_of(*events: Event, first: MemoryLedger | None = None) -> MemoryLedger:
    """A ledger with these events, a millisecond apart."""
    ledger = first or MemoryLedger()
    for event in events:
        ledger.append(EVENTS.name, event.run_id.encode(), CODEC.encode(event))
    return ledger


def loops(author: Author, count: int) -> list[Event]:
    return [author.tool_call(arguments_digest="sha256:1", result_digest="r", status="error") for _ in range(count)]


def tried(ledger: MemoryLedger, *rules: dict[str, Any], **options: Any) -> Tried:
    bounds = {"from_us": T0_US, "to_us": ledger.now_us + 2_000_000} | options
    return try_rules(Source(ledger), CODEC, RuleSet.model_validate({"rules": rules}).rules, PRICES, **bounds)


def printed(found: Tried) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(summary_table(found))
    return "\n".join([console.file.getvalue(), *firing_lines(found)])  # type: ignore[attr-defined]


def test_it_says_which_rules_would_have_fired_when_and_for_what() -> None:
    author, other = Author(), Author("run-2", seed=2)
    ledger = ledger_of(author.start(), *loops(author, 12), author.finish(), other.start(), *loops(other, 3))
    found = tried(ledger, LOOP, LOOP | {"name": "longer", "calls": 50})
    [firing] = found.firings
    assert (firing.rule, firing.run_id, firing.count, firing.updates) == ("loop", "run-1", 10, 1)
    assert firing.raised_us == T0_US + 5000
    assert (firing.resolve_reason, found.fired) == ("run_ended", 1)
    assert as_json(found)["rules"] == {"loop": 1, "longer": 0}
    text = printed(found)
    assert "never" in text
    assert "1 run " in text
    assert "loop (warning)  run run-1: tool get_order called 10 times with the same arguments (10 times); over" in text


def test_rules_over_all_runs_are_tried_too_whatever_partition_the_runs_are_in() -> None:
    events: list[Event] = []
    for number in range(6):
        author = Author(f"run-{number}", seed=number)
        events += [author.start(), *loops(author, 3)]
    ledger = ledger_of(*events)
    assert len({record.partition for record in ledger.rows()}) > 1
    [firing] = tried(ledger, ERRORS).firings
    assert (firing.rule, firing.scope, firing.scope_value) == ("errors", "tool", "get_order")


def test_what_was_raised_during_the_warm_up_is_left_out() -> None:
    author = Author()
    ledger = ledger_of(author.start(), *loops(author, 6))
    later_us = ledger.now_us
    ledger_of(*loops(author, 2), first=ledger)
    assert tried(ledger, LOOP).fired == 1
    found = tried(ledger, LOOP, from_us=later_us, warm_up_us=MINUTE_US)
    assert (found.fired, found.firings) == (0, [])


def test_a_silent_run_is_stuck_by_the_ticks_of_the_ledger() -> None:
    author = Author()
    ledger = ledger_of(author.start())
    assert tried(ledger, STUCK, to_us=ledger.now_us + 60 * MINUTE_US).fired == 0  # the log says no more of the time
    [partition] = {record.partition for record in ledger.rows()}
    ledger.now_us += 16 * MINUTE_US
    tick = Ticked(
        event_id=author.start().event_id,
        tenant_id="",
        producer_id="t",
        producer_seq=0,
        run_id="tick",
        occurred_at=T0_US,
    )
    ledger.append(EVENTS.name, b"tick", CODEC.encode(tick), partition)
    assert [firing.rule for firing in tried(ledger, STUCK).firings] == ["stuck"]


def test_budgets_declared_before_the_range_are_known() -> None:
    ledger = MemoryLedger()
    declared = budget(1_000_000_000, window="total")
    ledger.append(HOLDS.name, b"acme", CODEC.encode(declared))
    author = Author()
    ledger_of(author.start(), *(author.model_call(200_000) for _ in range(2)), first=ledger)
    burn = {
        "name": "burn", "kind": "spend_burn_rate",
        "windows": [{"long": "1h", "short": "5m", "rate": 14.4, "severity": "critical"}],
    }  # fmt: skip
    monthly = budget(1_000_000_000, window="month", budget_id="m")
    assert tried(ledger, burn).fired == 0
    later = MemoryLedger()
    later.append(HOLDS.name, b"acme", CODEC.encode(monthly))
    ledger_of(author.start(), *(author.model_call(200_000) for _ in range(2)), first=later)
    [firing] = tried(later, burn, from_us=T0_US + 2000).firings
    assert (firing.rule, firing.severity) == ("burn", "critical")


def test_rules_that_are_off_and_an_empty_ledger_say_nothing() -> None:
    author = Author()
    ledger = ledger_of(author.start(), *loops(author, 6))
    assert tried(ledger, LOOP | {"enabled": False}).fired == 0
    empty = tried(MemoryLedger(), LOOP, ERRORS)
    assert (empty.fired, empty.records) == (0, 0)
