"""What the rules remember of one run, and what they say of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Protocol

from agentledger.schemas.events import AlertRaised, AlertResolved, AlertUpdated


class RunFacts(Protocol):
    """What the rules read of a run, as it is after the event in question. `RunState` is one."""

    tenant_id: str
    run_id: str
    agent_id: str
    workflow: str
    environment: str
    started_us: int | None
    last_time_us: int
    finished: bool
    run_status: str
    outcome_success: bool | None
    model_calls: int
    tool_calls: int


class Said(NamedTuple):
    """An event that follows, without its envelope. Its id: `derived_id(run's base event, *id_parts)`."""

    record: type[AlertRaised] | type[AlertUpdated] | type[AlertResolved]
    id_parts: tuple[str, ...]
    fields: dict[str, Any]


@dataclass(slots=True)
class RunMemory:
    """Of one run. All of it is JSON as it stands: `dump`. Sizes are bounded; a run without tools has some 60 bytes."""

    imported: bool | None = None  # None before RunStarted
    streak: int = 0  # the last so many calls of tools were the same
    same_streak: int = 0  # and gave the same result
    last_result: int = 0
    streak_since_us: int = 0
    last_calls: list[int] = field(default_factory=list)  # hashes of the last 4 calls, newest last
    matches: list[int] = field(default_factory=lambda: [0, 0, 0])  # calls in a row like the one 2, 3, 4 before
    recent: list[int] = field(default_factory=list)  # hashes of the last calls, where a rule asks for them
    recent_results: list[int] = field(default_factory=list)
    failed_tool: int = 0  # hash of the tool that failed last
    tool_failures: int = 0  # in a row
    model_failures: int = 0  # in a row
    policy_seen: bool = False
    allowed: list[int] = field(default_factory=list)  # hashes of the ids of decisions, newest last
    denied: list[int] = field(default_factory=list)
    to_approve: list[int] = field(default_factory=list)
    forgot_decisions: bool = False
    awaited: dict[str, list[Any]] = field(default_factory=dict)  # decision to [since when, tool, event id]
    approvals: dict[str, int] = field(default_factory=dict)  # that are pending, to when they were asked for
    compared: int = 0  # calls with our cost and the provider's
    cost_nanousd: int = 0
    reported_nanousd: int = 0
    skewed: int = 0  # events whose time was off, in a row
    is_counted: bool = False  # among the finished runs of its workflow
    results: list[int] = field(default_factory=list)  # hashes of the last calls with their results, newest last
    repeats: int = 0  # bits: which of the last calls brought nothing new, the newest lowest
    denials: list[int] = field(default_factory=list)  # when policy denied something, newest last
    alerts: dict[str, list[int]] = field(default_factory=dict)  # to [generation, is open, count, last seen]
    applicable: Any = field(default=None, compare=False, repr=False)  # the rules for this run; found anew after a load

    def dump(self) -> list[Any]:
        """For JSON. What is as in a new memory at the end is left out."""
        values = [getattr(self, name) for name in _NAMES]
        while values and values[-1] == _EMPTY[len(values) - 1]:
            values.pop()
        return values

    @classmethod
    def load(cls, values: list[Any]) -> RunMemory:
        """The inverse of `dump`. A longer list is of a later release: what is unknown is dropped."""
        return cls(*values[: len(_NAMES)])


_NAMES = tuple(entry.name for entry in fields(RunMemory) if entry.name != "applicable")
_EMPTY = [getattr(RunMemory(), name) for name in _NAMES]
