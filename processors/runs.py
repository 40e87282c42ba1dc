"""The fold over the events of one run: charges, budget lines, alerts and cost per outcome. Pure.

Decisions that hold here:

- Events count by their place in the log. An entry at or before `last_offset` was folded before and derives nothing.
- An event id counts once; with other content too, the first counts (the writer reports the conflict).
- Every call is rated, by whomever it was made, and the run's totals hold all charges. A run's budget is the agent's:
  calls with requestor "user" (a simulated user) do not use it up.
- A call without a price uses up the budget by what the provider reported for it, if anything.
- Wall-clock time is ledger time from RunStarted to the last event up to RunFinished.
- The budget is the one of the first RunStarted. Where that comes late, lines already crossed are reported then.
- OutcomeCosted comes with the outcome, and again with the next revision when the outcome or any total changes.
- Ids of derived events follow from what was concluded; their content is a function of the log alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from agentledger.processors.budgets import Crossing, crossings, declared_limits
from agentledger.processors.run_state import ID_BYTES, RunState
from agentledger.schemas.events import (
    AlertRaised,
    BudgetExceeded,
    BudgetThresholdCrossed,
    CostRated,
    Event,
    ModelCallCompleted,
    OutcomeCosted,
    OutcomeRecorded,
    RunFinished,
    RunStarted,
    ToolCallCompleted,
)
from agentledger.schemas.identity import content_id, derived_id
from agentledger.schemas.money import format_usd
from agentledger.schemas.ports import Charge, PriceBook
from agentledger.schemas.prices import rate_model_call, usage_of

INT64_MAX = 2**63 - 1
NAME_CHARS_MAX = 1024  # what is copied into each derived event is cut here, so that those always fit their topic
LABELS_CHARS_MAX = 8192
ALERTED_MODELS_MAX = 64  # per run; an agent that calls more unpriced models than this has said so often enough
COST, TOKENS, MODEL_CALLS, TOOL_CALLS, WALL_CLOCK = range(5)  # places in budgets.METRICS


class Entry(NamedTuple):
    """An event with its place in the source partition and the broker's append time (microseconds)."""

    offset: int
    ledger_time_us: int
    event: Event


def is_foldable(event: Event) -> bool:
    """False for an event that no conclusion can name: its id is no UUID, or an id is too long for a key."""
    return (
        _id_bytes(event.event_id) is not None
        and len(event.run_id) <= NAME_CHARS_MAX
        and len(event.tenant_id) <= NAME_CHARS_MAX
    )


def fold(state: RunState | None, entry: Entry, prices: PriceBook) -> tuple[RunState, list[Event]]:
    """The run after this entry, and what follows from it, in order.

    `state` is None before the run's first event, and is used up: go on with the one returned. The event must be
    `is_foldable`.
    """
    offset, ledger_time_us, event = entry
    if state is None:
        state = _new_state(event, offset, ledger_time_us)
    elif offset <= state.last_offset:
        return state, []
    state.last_offset = offset
    state.last_time_us = max(state.last_time_us, ledger_time_us)  # the broker's clock may step back
    if not state.seen.add(_id_hash(event.event_id), event.producer_id, event.producer_seq):
        return state, []
    derived: list[Event] = []
    if isinstance(event, ModelCallCompleted):
        _fold_model_call(state, event, prices, derived)
    elif isinstance(event, ToolCallCompleted):
        _fold_tool_call(state, event, derived)
    elif isinstance(event, RunStarted):
        _fold_start(state, event)
    elif isinstance(event, OutcomeRecorded):
        state.outcome_event_id, state.outcome_success = event.event_id, event.success
    if state.started_us is not None:
        if not state.finished and not isinstance(event, OutcomeRecorded):
            state.used[WALL_CLOCK] = (state.last_time_us - state.started_us) // 1000
        for crossing in crossings(state.limits, state.used, state.crossed):
            derived += _crossing_events(state, event, crossing)
    if isinstance(event, RunFinished):
        state.finished, state.run_status = True, _cut(event.status)
    if state.outcome_event_id is not None:
        _state_outcome(state, event, derived)
    return state, derived


def _new_state(event: Event, offset: int, ledger_time_us: int) -> RunState:
    state = RunState(
        tenant_id=event.tenant_id,
        run_id=event.run_id,
        base_event_id=event.event_id,
        last_offset=offset,
        last_time_us=ledger_time_us,
    )
    _take_context(state, event)
    return state


def _take_context(state: RunState, event: Event) -> None:
    state.agent_id, state.agent_version = _cut(event.agent_id), _cut(event.agent_version)
    state.workflow, state.environment, state.actor = _cut(event.workflow), _cut(event.environment), _cut(event.actor)
    state.labels = _few_labels(event.labels)


def _fold_start(state: RunState, event: RunStarted) -> None:
    if state.started_us is not None:
        return
    state.started_us = state.last_time_us
    state.limits = declared_limits(event)
    state.on_exceeded = _cut(event.on_budget_exceeded)
    _take_context(state, event)


def _fold_model_call(state: RunState, call: ModelCallCompleted, prices: PriceBook, derived: list[Event]) -> None:
    rated = rate_model_call(call, prices)
    priced = isinstance(rated, Charge)
    reported = call.reported_cost_nanousd
    state.model_calls += 1
    model = _cut(rated.model if isinstance(rated, Charge) else call.requested_model or call.answered_model)
    fields: dict[str, Any] = {
        "kind": "model",
        "model": model,
        "priced": priced,
        "reported_cost_nanousd": reported,
        "price_source": prices.source,
        "price_version": prices.version,
    }
    if isinstance(rated, Charge):
        fields |= {
            "provider": rated.provider,
            "cost_nanousd": rated.cost_nanousd,
            "input_cost_nanousd": rated.input_cost_nanousd,
            "output_cost_nanousd": rated.output_cost_nanousd,
        }
        _add_charge(state, rated.cost_nanousd)
    else:
        fields |= {"provider": _cut(call.provider), "unpriced_reason": rated.reason}
        state.unpriced_model_calls += 1
    _add_reported(state, reported)
    derived.append(_rated(state, call, **fields))
    if call.requestor != "user":
        cost = rated.cost_nanousd if isinstance(rated, Charge) else reported or 0
        usage = usage_of(call)
        _use(state, COST, cost)
        _use(state, TOKENS, max(0, sum(usage)) if usage else 0)
        _use(state, MODEL_CALLS, 1)
    # A call that failed before there was any usage cost nothing anyone knows of: no alarm for those.
    if not isinstance(rated, Charge) and (rated.reason != "no_usage" or (call.status == "ok" and reported is None)):
        derived += _unpriced_alert(state, call, model, rated.reason)


def _fold_tool_call(state: RunState, call: ToolCallCompleted, derived: list[Event]) -> None:
    state.tool_calls += 1
    state.tool_errors += call.status in {"error", "timeout", "denied"}
    own_cost = call.reported_cost_nanousd
    if call.requestor != "user":
        _use(state, TOOL_CALLS, 1)
        _use(state, COST, own_cost or 0)
    if own_cost is not None:
        _add_charge(state, own_cost)
        _add_reported(state, own_cost)
        derived.append(
            _rated(
                state,
                call,
                kind="tool",
                model=_cut(call.tool),
                priced=True,
                cost_nanousd=own_cost,
                reported_cost_nanousd=own_cost,
                price_source="reported",
            )
        )


def _rated(state: RunState, call: Event, **fields: Any) -> CostRated:
    event_id = derived_id(call.event_id, "CostRated")
    return CostRated(**_envelope(state, call, event_id), rated_event_id=call.event_id, **fields)


def _crossing_events(state: RunState, event: Event, crossing: Crossing) -> Iterator[Event]:
    metric, percent, limit, used = crossing
    common: dict[str, Any] = {
        "budget_id": "run",
        "scope": "run",
        "scope_value": state.run_id,
        "metric": metric,
        "limit_amount": limit,
        "used_amount": used,
        "trigger_event_id": event.event_id,
    }
    base = state.base_event_id
    if percent is not None:
        event_id = derived_id(base, "BudgetThresholdCrossed", metric, str(percent))
        yield BudgetThresholdCrossed(**_envelope(state, event, event_id), **common, threshold_percent=percent)
        return
    event_id = derived_id(base, "BudgetExceeded", metric)
    yield BudgetExceeded(**_envelope(state, event, event_id), **common, on_exceeded=state.on_exceeded)
    yield AlertRaised(
        **_envelope(state, event, derived_id(base, "AlertRaised", "budget_exceeded", metric)),
        alert_id=derived_id(base, "alert", "budget_exceeded", metric),
        rule="budget_exceeded",
        severity="critical",
        summary=f"run {_short(state.run_id)} used {_amount(metric, used)} of {_amount(metric, limit)}",
        scope="run",
        scope_value=state.run_id,
        trigger_event_ids=[event.event_id],
    )


def _unpriced_alert(state: RunState, call: ModelCallCompleted, model: str, reason: str) -> Iterator[Event]:
    """Once per run and model. The alert's id is that of the tenant and model: one condition, however many runs."""
    if model in state.alerted_models or len(state.alerted_models) >= ALERTED_MODELS_MAX:
        return
    state.alerted_models.append(model)
    provider = _cut(call.provider)
    yield AlertRaised(
        **_envelope(state, call, derived_id(state.base_event_id, "AlertRaised", "unpriced_model", model)),
        alert_id=content_id(0, "alert", "unpriced_model", state.tenant_id, provider, model),
        rule="unpriced_model",
        severity="warning",
        summary=f"no price for model {_short(model) or '(none)'} of provider {_short(provider) or '(none)'}: {reason}",
        scope="model",
        scope_value=model,
        trigger_event_ids=[call.event_id],
    )


def _state_outcome(state: RunState, event: Event, derived: list[Event]) -> None:
    facts: dict[str, Any] = {
        "outcome_event_id": state.outcome_event_id,
        "success": state.outcome_success,
        "run_status": state.run_status,
        "cost_nanousd": state.cost_nanousd if state.charges else None,
        "reported_cost_nanousd": state.reported_nanousd if state.reported else None,
        "model_calls": state.model_calls,
        "unpriced_model_calls": state.unpriced_model_calls,
        "tool_calls": state.tool_calls,
        "tool_errors": state.tool_errors,
    }
    stated = list(facts.values())
    if stated == state.stated:
        return
    state.stated = stated
    state.revision += 1
    event_id = derived_id(state.base_event_id, "OutcomeCosted", str(state.revision))
    derived.append(OutcomeCosted(**_envelope(state, event, event_id), revision=state.revision, **facts))


def _envelope(state: RunState, cause: Event, event_id: str) -> dict[str, Any]:
    seq = state.derived_seq
    state.derived_seq = seq + 1
    return {
        "event_id": event_id,
        "tenant_id": state.tenant_id,
        "producer_id": f"processor:{state.run_id}",
        "producer_seq": seq,
        "run_id": state.run_id,
        "step": cause.step,
        "parent_event_id": cause.event_id,
        "trace_id": _cut(cause.trace_id),
        "span_id": _cut(cause.span_id),
        "agent_id": state.agent_id,
        "agent_version": state.agent_version,
        "workflow": state.workflow,
        "environment": state.environment,
        "actor": state.actor,
        "occurred_at": state.last_time_us,
        "labels": state.labels,
    }


def _add_charge(state: RunState, cost_nanousd: int) -> None:
    state.charges += 1
    state.cost_nanousd = _clamped(state.cost_nanousd + cost_nanousd)


def _add_reported(state: RunState, cost_nanousd: int | None) -> None:
    if cost_nanousd is not None:
        state.reported += 1
        state.reported_nanousd = _clamped(state.reported_nanousd + cost_nanousd)


def _use(state: RunState, metric: int, amount: int) -> None:
    state.used[metric] = _clamped(state.used[metric] + amount)


def _clamped(amount: int) -> int:
    """Sums stay within 64 bits: numbers that big are wrong anyway, and must not stop the partition."""
    return max(-INT64_MAX, min(amount, INT64_MAX))


def _cut(text: str) -> str:
    return text[:NAME_CHARS_MAX]


def _amount(metric: str, amount: int) -> str:
    """An amount of a metric for people."""
    return format_usd(amount) if metric == "cost_nanousd" else f"{amount:,} {metric.replace('_', ' ')}"


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"


def _few_labels(labels: dict[str, str]) -> dict[str, str]:
    """The labels, in order, as far as they fit."""
    kept, size = {}, 0
    for name, value in labels.items():
        size += len(name) + len(value)
        if size > LABELS_CHARS_MAX:
            break
        kept[name] = value
    return kept


def _id_bytes(event_id: str) -> bytes | None:
    """The 16 bytes of an id in its usual spelling; None for any other text."""
    if len(event_id) != 36 or event_id[8:24:5] != "----":
        return None
    try:
        raw = bytes.fromhex(event_id.replace("-", ""))
    except ValueError:
        return None
    return raw if len(raw) == 16 else None


def _id_hash(event_id: str) -> bytes:
    """Hashed, as an id's own bits may be far from random: old time-based UUIDs end alike."""
    return hashlib.blake2b(_id_bytes(event_id) or b"", digest_size=ID_BYTES).digest()
