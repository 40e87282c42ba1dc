"""Stage 2, the fold over one tenant: a second of everything that happened in it, in; what follows from it, out. Pure.

Seconds come in order, complete, and only where something happened or is due. What is due without any event (a window
ends, an alert has been quiet for long enough) is said in a second that follows from the state alone (`deadline`), so
it doesn't matter how many seconds are folded at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from agentledger.processors import scope_budgets
from agentledger.processors.partial_records import Partial
from agentledger.processors.scope_events import Conclusions
from agentledger.processors.scope_state import NEVER, TenantState
from agentledger.processors.sketch import merge
from agentledger.schemas.events import BudgetDeclared, Event


class Watch(Protocol):
    """An anomaly rule over a tenant. What it remembers is JSON under its name in the state (`Conclusions.memory`)."""

    @property
    def name(self) -> str:
        """The rule's name."""

    def observe(self, out: Conclusions, second: Partial, added: dict[str, dict[str, int]]) -> None:
        """Take in what happened in one second. `added` is what budgets counted, by budget key and scope value."""

    def pass_time(self, out: Conclusions) -> None:
        """Conclude what follows from the second being over. Called after `observe`, and in each due second."""

    def deadline(self, out: Conclusions) -> int:
        """The next second after this one in which `pass_time` is due without any event; NEVER for none."""


def fold_second(
    state: TenantState,
    second: int,
    declared: Iterable[BudgetDeclared],
    partials: Sequence[Partial],
    rules: Sequence[Watch],
    *,
    sources: int,
) -> list[Event]:
    """Fold one second in, which lies after `state.folded`. `state` is changed; what follows is returned, in order.

    `sources` is the number of partitions of the runs' events.
    """
    derived = advance(state, second, rules)
    out = Conclusions(state, second, sources)
    for event in declared:
        scope_budgets.declare(out, event)
    if partials:
        everything = joined(partials)
        added = scope_budgets.use(out, everything.usage.items())
        for rule in rules:
            rule.observe(out, everything, added)
    _finish(out, rules)
    return derived + out.events


def advance(state: TenantState, before: int, rules: Sequence[Watch]) -> list[Event]:
    """Let time pass up to this second, which is not folded itself: what was due before it, in order."""
    derived: list[Event] = []
    while state.deadline < before:
        out = Conclusions(state, state.deadline)
        _finish(out, rules)
        derived += out.events
    return derived


def _finish(out: Conclusions, rules: Sequence[Watch]) -> None:
    if out.state.rules.keys() - {rule.name for rule in rules}:
        out.forget_rules(rule.name for rule in rules)
    if out.second >= out.state.deadline:
        scope_budgets.pass_time(out)
    for rule in rules:
        rule.pass_time(out)
    out.state.folded = out.second
    out.state.deadline = min([scope_budgets.deadline(out), NEVER, *(rule.deadline(out) for rule in rules)])


def joined(partials: Sequence[Partial]) -> Partial:
    """The sum of what several source partitions, or several parts of one, say of the same tenant and second."""
    if len(partials) == 1:
        return partials[0]
    total = Partial(partials[0].tenant_id)
    for item in partials:
        total.events += item.events
        for group, amounts in item.usage.items():
            known = total.usage.get(group)
            total.usage[group] = amounts if known is None else [a + b for a, b in zip(known, amounts, strict=True)]
        for mine, theirs in ((total.models, item.models), (total.tools, item.tools)):
            for name, calls in theirs.items():
                if name not in mine:
                    mine[name] = calls
                    continue
                mine[name][0] += calls[0]
                mine[name][1] += calls[1]
                merge(mine[name][2], calls[2])
        for counts, more in (
            (total.denials, item.denials),
            (total.unpriced, item.unpriced),
            (total.versions, item.versions),
        ):
            for key, count in more.items():
                counts[key] = counts.get(key, 0) + count
        for producer, blocks in item.seqs.items():
            known_blocks = total.seqs.setdefault(producer, {})
            for block, bits in blocks.items():
                known_blocks[block] = known_blocks.get(block, 0) | bits
    return total
