"""Faults that no recording has, planted into recorded runs: some runs get the fault, the others its harmless twin.

So the truth is known by construction. Each fault changes the events of one run, in the order of time, and says with
each when it was appended to the ledger.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from agentledger.schemas.events import (
    ApprovalDecided,
    ApprovalRequested,
    ConflictDetected,
    Event,
    ModelCallCompleted,
    PolicyDecided,
    RunStarted,
    ToolCallCompleted,
)
from agentledger.schemas.identity import derived_id
from agentledger.schemas.ports import Charge, PriceBook
from agentledger.schemas.prices import rate_model_call

E = TypeVar("E", bound=Event)
MINUTE_US = 60_000_000
Placed = tuple[int, Event]  # ledger time, microseconds
Plant = Callable[[list[Event], bool], list[Placed]]


def live(events: list[Event]) -> list[Event]:
    """The events as an SDK would have sent them while the run went on."""
    return [dataclasses.replace(event, source="sdk") if isinstance(event, RunStarted) else event for event in events]


def _on_time(events: list[Event]) -> list[Placed]:
    return [(event.occurred_at, event) for event in events]


def _later(events: list[Event], minutes: int) -> list[Event]:
    return [dataclasses.replace(event, occurred_at=event.occurred_at + minutes * MINUTE_US) for event in events]


def _more(cause: Event, kind: type[E], name: str, **fields: Any) -> E:
    """Another event of the run, at the time of `cause`."""
    common = {entry.name: getattr(cause, entry.name) for entry in dataclasses.fields(Event)}
    return kind(**(common | {"event_id": derived_id(cause.event_id, name)} | fields))


def _middle(events: list[Event]) -> int:
    return max(2, len(events) // 2)


def _calls(events: list[Event]) -> Iterator[tuple[int, ToolCallCompleted]]:
    return ((place, event) for place, event in enumerate(events) if isinstance(event, ToolCallCompleted))


def silence(events: list[Event], is_faulty: bool) -> list[Placed]:
    """The agent dies in the middle; otherwise it pauses for ten minutes."""
    at = _middle(events)
    return _on_time(events[:at] + ([] if is_faulty else _later(events[at:], 10)))


def approval(events: list[Event], is_faulty: bool) -> list[Placed]:
    """A person answers after 40 minutes; otherwise after 5."""
    at = _middle(events)
    asked = _more(events[at - 1], ApprovalRequested, "asked", approval_id="a")
    minutes = 40 if is_faulty else 5
    answered = _more(asked, ApprovalDecided, "answered", approval_id="a", verdict="approved")
    return _on_time([*events[:at], asked, *_later([answered, *events[at:]], minutes)])


def forbidden(events: list[Event], is_faulty: bool) -> list[Placed]:
    """An irreversible call is denied by a policy for high risk; otherwise a read for low risk."""
    at, risk, effect = _middle(events), ("low", "high")[is_faulty], ("read", "irreversible")[is_faulty]
    denied = _more(events[at - 1], PolicyDecided, "denied", verdict="deny", risk_tier=risk, action="delete")
    call = _more(
        denied, ToolCallCompleted, "call", tool="delete", status="denied", effect=effect,
        policy_decision_id=denied.event_id,
    )  # fmt: skip
    return _on_time([*events[:at], denied, call, *events[at:]])


def undecided(events: list[Event], is_faulty: bool) -> list[Placed]:
    """Every call writes and names the decision that allows it; the second one of a faulty run has none."""
    made: list[Event] = []
    seen = 0
    for event in events:
        if not isinstance(event, ToolCallCompleted):
            made.append(event)
            continue
        seen += 1
        decided = _more(event, PolicyDecided, "allowed", verdict="allow", action=event.tool)
        if is_faulty and seen == 2:
            made.append(dataclasses.replace(event, effect="write"))
        else:
            made += [decided, dataclasses.replace(event, effect="write", policy_decision_id=decided.event_id)]
    return _on_time(made)


def skewed(events: list[Event], is_faulty: bool) -> list[Placed]:
    """The producer's clock is ten minutes ahead; otherwise its events arrive a minute late."""
    if is_faulty:
        return [(event.occurred_at - 10 * MINUTE_US, event) for event in events]
    return [(event.occurred_at + MINUTE_US, event) for event in events]


def conflicting(events: list[Event], is_faulty: bool) -> list[Placed]:
    """An event came again with other content; otherwise nothing."""
    at = _middle(events)
    found = _more(events[at - 1], ConflictDetected, "conflict", conflicting_event_id=events[at - 1].event_id)
    return _on_time([*events[:at], *([found] if is_faulty else []), *events[at:]])


def repeating(events: list[Event], is_faulty: bool) -> list[Placed]:
    """The last tool call is made five times more; otherwise once more, with another result."""
    place, call = list(_calls(events))[-1]
    times = 5 if is_faulty else 1
    again = [
        dataclasses.replace(
            call,
            event_id=derived_id(call.event_id, f"again {number}"),
            result_digest=call.result_digest if is_faulty else "other",
        )
        for number in range(times)
    ]
    return _on_time([*events[: place + 1], *again, *events[place + 1 :]])


def retrying(events: list[Event], is_faulty: bool) -> list[Placed]:
    """The last tool call was the seventh attempt, each a failure before it; otherwise the third."""
    place, call = list(_calls(events))[-1]
    failures = 6 if is_faulty else 2
    attempts = [
        dataclasses.replace(
            call, event_id=derived_id(call.event_id, f"attempt {number}"), attempt=number, status="timeout"
        )
        for number in range(1, failures + 1)
    ]
    return _on_time([*events[:place], *attempts, dataclasses.replace(call, attempt=failures + 1), *events[place + 1 :]])


def billed(prices: PriceBook) -> Plant:
    """The provider reports a fifth more than our prices make; otherwise the same.

    Prompts are made 50 times as long: less than a cent is not worth an alert.
    """

    def plant(events: list[Event], is_faulty: bool) -> list[Placed]:
        made: list[Event] = []
        for event in events:
            if isinstance(event, ModelCallCompleted) and event.input_tokens is not None:
                many = dataclasses.replace(event, input_tokens=event.input_tokens * 50)
                rated = rate_model_call(many, prices)
                if isinstance(rated, Charge):
                    reported = rated.cost_nanousd * 6 // 5 if is_faulty else rated.cost_nanousd
                    made.append(dataclasses.replace(many, reported_cost_nanousd=reported))
                    continue
            made.append(event)
        return _on_time(made)

    return plant


def plants(prices: PriceBook) -> dict[str, Plant]:
    """Rule to the fault that it is for."""
    return {
        "stuck_run": silence,
        "slow_approval": approval,
        "unsafe_action": forbidden,
        "write_without_decision": undecided,
        "clock_skew": skewed,
        "event_conflict": conflicting,
        "tool_call_loop": repeating,
        "retry_storm": retrying,
        "cost_mismatch": billed(prices),
    }
