"""The fold over the events of one run: charges, budget lines, alerts and cost per outcome. Pure.

Decisions that hold here:

- Events count by their place in the log. An entry at or before `last_offset` was folded before and derives nothing.
- An event id counts once; with other content too, the first counts (the writer reports the conflict).
- Every call is rated, by whomever it was made, and the run's totals hold all charges. A run's budget is the agent's:
  calls with requestor "user" (a simulated user) do not use it up, and people's time doesn't either.
- A call without a price uses up the budget by what the provider reported for it, if anything.
- Wall-clock time is ledger time from RunStarted to the last event up to RunFinished. Lines of it are crossed by ticks
  as well, while the run is silent, unless it was imported: its ledger time is that of the import.
- The run's own budget is the one of the first RunStarted. Where that comes late, lines already crossed are reported
  then. Beside it count the budgets that are declared for each run of its scope: see `run_budgets`.
- A run that exceeds a limit whose budget says halt, escalate or ask_human is halted, once for each limit.
- OutcomeCosted comes with the outcome, and again with the next revision when the outcome or any total changes.
- Ids of derived events follow from what was concluded; their content is a function of the log alone.
"""

from __future__ import annotations

import re
from typing import Any, Final

from agentledger.processors.budgets import (
    NO_LIMITS,
    Amounts,
    declared_limits,
    declared_thresholds,
    next_lines,
)
from agentledger.processors.charges import (
    add_charge,
    clamped,
    cut,
    human_charge,
    model_charge,
    tool_charge,
)
from agentledger.processors.conclusions import NAME_CHARS_MAX, Conclusion
from agentledger.processors.rules.memory import Said
from agentledger.processors.rules.normals import Normals
from agentledger.processors.rules.run_rules import RunRules
from agentledger.processors.rules.trackers import hash_of
from agentledger.processors.run_budget_book import RunBudgetBook
from agentledger.processors.run_budgets import cross_by_clock, cross_lines, end_alerts, has_halted, take_declared
from agentledger.processors.run_state import NOTHING_DECLARED, RunState, id_tail
from agentledger.schemas.events import (
    ApprovalDecided,
    Event,
    ModelCallCompleted,
    OutcomeCosted,
    OutcomeRecorded,
    RunFinished,
    RunStarted,
    ToolCallCompleted,
)
from agentledger.schemas.identity import derived_id
from agentledger.schemas.ports import Charge, PriceBook
from agentledger.schemas.prices import rate_model_call
from agentledger.schemas.tool_failures import FAILED, note_attempt

LABELS_CHARS_MAX = 8192
# Places in RunState.costs.
MODEL: Final = 0
TOOL: Final = 1
HUMAN: Final = 2
_TOOL_ERRORS: Final = frozenset({"error", "timeout", "denied"})
_STOPPED: Final = frozenset({"halted", "escalated"})
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


class Entry:
    """An event with its place in the source partition and the broker's append time (microseconds).

    `tail` is the `id_tail` of its id, where known, `value` its bytes, unless the codec read them. Folding it in notes
    what else it says of a call: `cost_nanousd` (ours; None without a price), `unpriced_reason` and `unpriced_model`
    (empty unless the missing price is worth an alert).
    """

    __slots__ = (
        "cost_nanousd", "event", "ledger_time_us", "offset", "tail", "unpriced_model", "unpriced_reason", "value",
    )  # fmt: skip

    def __init__(
        self, offset: int, ledger_time_us: int, event: Event, tail: str = "", value: bytes | None = None
    ) -> None:
        self.offset = offset
        self.ledger_time_us = ledger_time_us
        self.event = event
        self.tail = tail
        self.value = value
        self.cost_nanousd: int | None = None
        self.unpriced_reason = ""
        self.unpriced_model = ""


class Basis:
    """What conclusions rest on beside the log."""

    __slots__ = ("budgets", "normals", "prices", "rules")

    def __init__(self, prices: PriceBook, rules: RunRules, normals: Normals, budgets: RunBudgetBook) -> None:
        self.prices = prices
        self.rules = rules
        self.normals = normals
        self.budgets = budgets


def is_foldable(event: Event) -> bool:
    """False for an event that no conclusion can name: its id is no UUID, or an id is too long for a key."""
    return (
        _UUID.fullmatch(event.event_id) is not None
        and len(event.run_id) <= NAME_CHARS_MAX
        and len(event.tenant_id) <= NAME_CHARS_MAX
    )


def new_state(entry: Entry) -> RunState:
    """The run before its first event."""
    event = entry.event
    state = RunState(
        event.tenant_id,
        event.run_id,
        base_event_id=event.event_id,
        last_offset=-1,
        last_time_us=entry.ledger_time_us,
    )
    _take_context(state, event)
    return state


def fold(state: RunState, entry: Entry, basis: Basis) -> list[Conclusion] | None:
    """Fold the entry into its run, which is changed; what follows from it, in order. None where it doesn't count.

    The event must be `is_foldable`.
    """
    offset, event = entry.offset, entry.event
    if offset <= state.last_offset:
        return None
    state.last_offset = offset
    if entry.ledger_time_us > state.last_time_us:  # noqa: PLR1730 - max() takes five times as long
        state.last_time_us = entry.ledger_time_us
    if not state.seen.add(entry.tail or id_tail(event.event_id), event.producer_id, event.producer_seq):
        return None
    out: list[Conclusion] = []
    _take_in(state, entry, basis.prices, out)
    kind = type(event)
    if state.started_us is not None and not state.finished and kind is not OutcomeRecorded:
        state.used.wall_clock_ms = (state.last_time_us - state.started_us) // 1000
    changed = basis.budgets.changed
    if changed and changed.get(state.tenant_id, NOTHING_DECLARED) > state.declared_at and not state.finished:
        take_declared(state, basis.budgets, offset, out)
    if state.has_limits:
        cross_lines(state, state.used, event.event_id, out)
    if kind is RunFinished:
        state.finished, state.run_status = True, cut(event.status)  # type: ignore[attr-defined]
    if state.has_limits and state.finished:
        end_alerts(state, out)
    said = basis.rules.observe(
        state,
        state.memory,
        event,
        offset=offset,
        normals=basis.normals,
        cost_nanousd=entry.cost_nanousd,
        unpriced_reason=entry.unpriced_reason,
    )
    if said:
        out += conclusions_of(state, said)
    if state.outcome_event_id is not None:
        _state_outcome(state, out)
    state.derived_seq += len(out)
    return out


def _take_in(state: RunState, entry: Entry, prices: PriceBook, out: list[Conclusion]) -> None:
    """Count what the event says into the run."""
    event = entry.event
    kind = type(event)
    if kind is ModelCallCompleted:
        _fold_model_call(state, entry, event, prices, out)  # type: ignore[arg-type]
    elif kind is ToolCallCompleted:
        _fold_tool_call(state, entry, event, prices, out)  # type: ignore[arg-type]
    elif kind is RunStarted:
        _fold_start(state, event)  # type: ignore[arg-type]
    elif kind is OutcomeRecorded:
        state.outcome_event_id, state.outcome_success = event.event_id, event.success  # type: ignore[attr-defined]
    elif kind is ApprovalDecided:
        _fold_approval(state, entry, event, prices, out)  # type: ignore[arg-type]


def pass_time(state: RunState, rules: RunRules, now_us: int) -> list[Conclusion]:
    """What follows from its being `now_us`, by the ledger, and nothing new of the run."""
    out: list[Conclusion] = []
    cross_by_clock(state, now_us, out)
    out += conclusions_of(state, rules.pass_time(state, state.memory, now_us))
    state.derived_seq += len(out)
    return out


def is_over(state: RunState) -> bool:
    """Whether all has come that is usually said of a run. Whatever still comes is folded into what was stored."""
    return state.finished and state.outcome_event_id is not None


def may_be_halted(state: RunState) -> bool:
    """Whether a halt of this run may still stand: it was stopped, exceeded its budget, or never said that it ended."""
    return not state.finished or state.run_status in _STOPPED or has_halted(state)


def conclusions_of(state: RunState, said: list[Said]) -> list[Conclusion]:
    """What rules said, with its ids."""
    return [Conclusion(item.record, derived_id(state.base_event_id, *item.id_parts), item.fields) for item in said]


def _take_context(state: RunState, event: Event) -> None:
    state.agent_id, state.agent_version = cut(event.agent_id), cut(event.agent_version)
    state.workflow, state.environment, state.actor = cut(event.workflow), cut(event.environment), cut(event.actor)
    state.labels = _few_labels(event.labels)


def _fold_start(state: RunState, event: RunStarted) -> None:
    if state.started_us is not None:
        return
    state.started_us = state.last_time_us
    state.limits = declared_limits(event)
    state.thresholds = declared_thresholds(event.thresholds_percent)
    state.lines = Amounts(next_lines(state.limits, state.crossed, state.thresholds))
    state.has_limits = state.limits != NO_LIMITS or bool(state.declared)
    state.declared_at = NOTHING_DECLARED  # the run may be another's than it seemed: what was declared is looked up anew
    state.on_exceeded = cut(event.on_budget_exceeded)
    state.parent_run_id = cut(event.parent_run_id)
    state.prompt_version, state.policy_version = cut(event.prompt_version), cut(event.policy_version)
    _take_context(state, event)


def _fold_model_call(
    state: RunState, entry: Entry, call: ModelCallCompleted, prices: PriceBook, out: list[Conclusion]
) -> None:
    rated = rate_model_call(call, prices, entry.ledger_time_us)
    reported = call.reported_cost_nanousd
    state.model_calls += 1
    out.append(model_charge(call, rated, prices))
    if reported is not None:
        _add_reported(state, reported)
    used = state.used
    if isinstance(rated, Charge):
        cost = rated.cost_nanousd
        add_charge(state, MODEL, cost, status=call.status, attempt=call.attempt)
        if call.requestor != "user":
            used.cost_nanousd = clamped(used.cost_nanousd + cost)
            _use_tokens(used, call)
        entry.cost_nanousd = cost
        return
    state.unpriced_model_calls += 1
    if call.requestor != "user":
        used.cost_nanousd = clamped(used.cost_nanousd + (reported or 0))
        _use_tokens(used, call)
    # A call that failed before there was any usage cost nothing anyone knows of: no alarm for those.
    if rated.reason != "no_usage" or (call.status == "ok" and reported is None):
        entry.unpriced_reason, entry.unpriced_model = rated.reason, call.requested_model or call.answered_model


def _use_tokens(used: Amounts, call: ModelCallCompleted) -> None:
    used.model_calls += 1
    plain, read, written = call.input_tokens, call.cache_read_tokens, call.output_tokens
    if plain is None and read is None and written is None:  # no usage at all: see `usage_of`
        return
    tokens = (plain or 0) + (read or 0) + (call.cache_write_tokens or 0) + (written or 0) + (call.reasoning_tokens or 0)
    if tokens > 0:
        used.tokens = clamped(used.tokens + tokens)


def _fold_tool_call(
    state: RunState, entry: Entry, call: ToolCallCompleted, prices: PriceBook, out: list[Conclusion]
) -> None:
    state.tool_calls += 1
    if call.status in _TOOL_ERRORS:
        state.tool_errors += 1
    found = tool_charge(call, prices, entry.ledger_time_us)
    cost = 0
    if found is not None:
        cost, conclusion = found
        out.append(conclusion)
        add_charge(state, TOOL, cost, status=call.status, attempt=call.attempt)
        if call.reported_cost_nanousd is not None:
            _add_reported(state, call.reported_cost_nanousd)
    if call.requestor != "user":
        state.used.tool_calls += 1
        if state.failing or call.status in FAILED:
            failures = note_attempt(state.failing, f"{hash_of(call.tool, call.arguments_digest):x}", call.status)
            state.used.tool_retries = max(state.used.tool_retries, failures)
        if cost:
            state.used.cost_nanousd = clamped(state.used.cost_nanousd + cost)


def _fold_approval(
    state: RunState, entry: Entry, decided: ApprovalDecided, prices: PriceBook, out: list[Conclusion]
) -> None:
    if decided.human_ms is None or decided.human_ms < 0:
        return
    state.human_ms = clamped((state.human_ms or 0) + decided.human_ms)
    found = human_charge(decided, decided.human_ms, prices, entry.ledger_time_us)
    if found is not None:
        cost, conclusion = found
        out.append(conclusion)
        add_charge(state, HUMAN, cost, status="", attempt=1)


def _state_outcome(state: RunState, out: list[Conclusion]) -> None:
    charged = any(state.charges)
    facts: list[Any] = [  # as in OutcomeCosted, which has the revision after the third
        state.outcome_event_id,
        state.outcome_success,
        state.run_status,
        state.cost_nanousd if charged else None,
        state.reported_nanousd if state.reported else None,
        state.model_calls,
        state.unpriced_model_calls,
        state.tool_calls,
        state.tool_errors,
        state.costs[MODEL] if state.charges[MODEL] else None,
        state.costs[TOOL] if state.charges[TOOL] else None,
        state.costs[HUMAN] if state.charges[HUMAN] else None,
        state.wasted_nanousd if charged else None,
        state.retry_nanousd if charged else None,
        state.human_ms,
        state.parent_run_id,
        state.prompt_version,
        state.policy_version,
    ]
    if facts == state.stated:
        return
    state.stated = facts
    state.revision += 1
    event_id = derived_id(state.base_event_id, "OutcomeCosted", str(state.revision))
    out.append(Conclusion(OutcomeCosted, event_id, (*facts[:3], state.revision, *facts[3:])))


def _add_reported(state: RunState, cost_nanousd: int) -> None:
    state.reported += 1
    state.reported_nanousd = clamped(state.reported_nanousd + cost_nanousd)


def _few_labels(labels: dict[str, str]) -> dict[str, str]:
    """The labels, in order, as far as they fit."""
    kept, size = {}, 0
    for name, value in labels.items():
        size += len(name) + len(value)
        if size > LABELS_CHARS_MAX:
            break
        kept[name] = value
    return kept
