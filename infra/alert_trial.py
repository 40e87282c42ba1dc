"""`agentledger alerts try`: folds a part of the ledger through anomaly rules and says when each would have fired."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from rich.table import Table

from agentledger.infra.replay_stages import SpilledStates
from agentledger.processors.rule_trial import Firing, RuleTrial
from agentledger.processors.rules.models import Rule
from agentledger.schemas.codec import Codec
from agentledger.schemas.events import BudgetDeclared
from agentledger.schemas.ports import PriceBook
from agentledger.schemas.topics import EVENTS, HOLDS
from agentledger.sinks.record_filter import EVERYTHING, RecordFilter
from agentledger.sinks.replay_source import LedgerRecord, LogSpan
from agentledger.sinks.rows import FIRST

SECOND_US = 1_000_000
EXAMPLES_SHOWN = 20  # alerts of each rule that are listed one by one


class RecordSource(Protocol):
    """Where history is read: `sinks.replay_source.ReplaySource`, or a fake."""

    def spans(self, topics: Sequence[str] = (), *, from_us: int = ..., to_us: int = ...) -> list[LogSpan]:
        """The part of each log of these topics in that ledger time."""

    def read(self, spans: Sequence[LogSpan], wanted: RecordFilter = ...) -> Iterator[list[LedgerRecord]]:
        """The records in blocks: those of one log in its order."""


@dataclass(frozen=True)
class Tried:
    """What a trial gave: alerts raised in the range, in order of time. `records` counts those of the warm-up, too."""

    rules: tuple[Rule, ...]
    firings: list[Firing]
    fired: int
    records: int
    from_us: int
    to_us: int


def try_rules(
    source: RecordSource,
    codec: Codec,
    rules: Sequence[Rule],
    prices: PriceBook,
    *,
    from_us: int,
    to_us: int,
    warm_up_us: int = 0,
    tenant_id: str = "",
    report: Callable[[int], None] = lambda _more: None,
) -> Tried:
    """What the rules say between these ledger times, after `warm_up_us` before them in which they only watch.

    Raises LedgerConflictError where a record of the range is missing, StoreError where ClickHouse can't be reached.
    """
    spans = source.spans([EVENTS.name], from_us=from_us - warm_up_us, to_us=to_us)
    wanted = RecordFilter(tenant_id=tenant_id, with_ticks=True) if tenant_id else EVERYTHING
    states = SpilledStates()
    try:
        trial = RuleTrial(rules, prices, codec, (span.place.partition for span in spans), states)
        trial.declare(_declarations(source, codec, to_us))
        last_us = 0
        for block in source.read(spans, wanted):
            for record in block:
                trial.take(record.partition, record.ledger_time_us, record.value)
                last_us = max(last_us, record.ledger_time_us)
            report(len(block))
        trial.end(min(to_us, last_us + SECOND_US))  # so that the last second is over, and no more: time is the log's
    finally:
        states.close()
    firings = [firing for firing in trial.firings if firing.raised_us >= from_us]
    firings.sort(key=lambda firing: (firing.raised_us, firing.rule, firing.alert_id))
    before = len(trial.firings) - len(firings)
    enabled = tuple(rule for rule in rules if rule.enabled)
    return Tried(enabled, firings, trial.fired - before, trial.records, from_us, to_us)


def _declarations(source: RecordSource, codec: Codec, to_us: int) -> Iterator[tuple[int, BudgetDeclared]]:
    spans = source.spans([HOLDS.name], to_us=to_us)
    for block in source.read(spans, RecordFilter(event_types=("BudgetDeclared",))):
        for record in block:
            event = codec.decode(record.value) if record.value is not None and record.occurrence == FIRST else None
            if isinstance(event, BudgetDeclared):
                yield record.ledger_time_us, event


def summary_table(tried: Tried) -> Table:
    """One line per rule."""
    table = Table(box=None, header_style="bold")
    for column in ("rule", "severity", "fired", "for", "updated", "resolved", "first", "last"):
        table.add_column(column, justify="right" if column in {"fired", "for", "updated", "resolved"} else "left")
    by_rule = _by_rule(tried)
    for rule in tried.rules:
        firings = by_rule.get(rule.name, [])
        subjects = len({(firing.tenant_id, firing.scope, firing.scope_value) for firing in firings})
        table.add_row(
            rule.name,
            rule.severity,
            f"{len(firings):,}",
            f"{subjects:,} {rule.scope}{'s' * (subjects != 1)}" if firings else "",
            f"{sum(firing.updates for firing in firings):,}" if firings else "",
            f"{sum(firing.resolved_us is not None for firing in firings):,}" if firings else "",
            _time(firings[0].raised_us) if firings else "never",
            _time(firings[-1].raised_us) if firings else "",
        )
    return table


def firing_lines(tried: Tried) -> Iterator[str]:
    """The first EXAMPLES_SHOWN alerts of each rule, a line for each: names stay whole on any width."""
    for firings in _by_rule(tried).values():
        for firing in firings[:EXAMPLES_SHOWN]:
            over = "" if firing.resolved_us is None else f"; over {_time(firing.resolved_us)}"
            times = f" ({firing.count:,} times)" if firing.count > 1 else ""
            which = f"{firing.scope} {firing.scope_value}"
            what = f"{firing.summary}{times}{over}"
            yield f"{_time(firing.raised_us)}  {firing.rule} ({firing.severity})  {which}: {what}"


def as_json(tried: Tried) -> dict[str, Any]:
    """All of it, for JSON. Times are microseconds since 1970."""
    return {
        "from_us": tried.from_us,
        "to_us": tried.to_us,
        "records": tried.records,
        "fired": tried.fired,
        "rules": {rule.name: len(_by_rule(tried).get(rule.name, [])) for rule in tried.rules},
        "alerts": [asdict(firing) for firing in tried.firings],
    }


def _by_rule(tried: Tried) -> dict[str, list[Firing]]:
    found: dict[str, list[Firing]] = defaultdict(list)
    for firing in tried.firings:
        found[firing.rule].append(firing)
    return found


def _time(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
