"""What the rules remember of one run, and what they say of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from agentledger.schemas.events import AlertRaised, AlertResolved, AlertUpdated


class RunFacts:
    """What the rules read of a run, as it is after the event in question. `RunState` is one."""

    __slots__ = (
        "agent_id", "environment", "finished", "last_time_us", "model_calls", "outcome_success", "run_id",
        "run_status", "started_us", "tenant_id", "tool_calls", "workflow",
    )  # fmt: skip

    def __init__(self, tenant_id: str, run_id: str, last_time_us: int) -> None:
        self.tenant_id = tenant_id
        self.run_id = run_id
        self.last_time_us = last_time_us
        self.agent_id = ""
        self.workflow = ""
        self.environment = ""
        self.started_us: int | None = None
        self.finished = False
        self.run_status = ""
        self.outcome_success: bool | None = None
        self.model_calls = 0
        self.tool_calls = 0


class Said(NamedTuple):
    """An event that follows, without its envelope. Its id: `derived_id(run's base event, *id_parts)`."""

    record: type[AlertRaised] | type[AlertUpdated] | type[AlertResolved]
    id_parts: tuple[str, ...]
    fields: dict[str, Any]


class RunMemory:
    """Of one run. All of it is JSON as it stands: `dump`. Sizes are bounded; a run without tools has some 60 bytes."""

    __slots__ = (
        "alerts", "allowed", "applicable", "approvals", "awaited", "compared", "cost_nanousd", "denials", "denied",
        "failed_tool", "forgot_decisions", "imported", "is_counted", "last_calls", "last_result", "matches",
        "model_failures", "policy_seen", "recent", "recent_results", "repeats", "reported_nanousd", "results",
        "same_streak", "skewed", "streak", "streak_since_us", "to_approve", "tool_failures",
    )  # fmt: skip

    def __init__(self) -> None:
        self.imported: bool | None = None  # None before RunStarted
        self.streak = 0  # the last so many calls of tools were the same
        self.same_streak = 0  # and gave the same result
        self.last_result = 0
        self.streak_since_us = 0
        self.last_calls: list[int] = []  # hashes of the last 4 calls, newest last
        self.matches = [0, 0, 0]  # calls in a row like the one 2, 3, 4 before
        self.recent: list[int] = []  # hashes of the last calls, where a rule asks for them
        self.recent_results: list[int] = []
        self.failed_tool = 0  # hash of the tool that failed last
        self.tool_failures = 0  # in a row
        self.model_failures = 0  # in a row
        self.policy_seen = False
        self.allowed: list[int] = []  # hashes of the ids of decisions, newest last
        self.denied: list[int] = []
        self.to_approve: list[int] = []
        self.forgot_decisions = False
        self.awaited: dict[str, list[Any]] = {}  # decision to [since when, tool, event id]
        self.approvals: dict[str, int] = {}  # that are pending, to when they were asked for
        self.compared = 0  # calls with our cost and the provider's
        self.cost_nanousd = 0
        self.reported_nanousd = 0
        self.skewed = 0  # events whose time was off, in a row
        self.is_counted = False  # among the finished runs of its workflow
        self.results: list[int] = []  # hashes of the last calls with their results, newest last
        self.repeats = 0  # bits: which of the last calls brought nothing new, the newest lowest
        self.denials: list[int] = []  # when policy denied something, newest last
        self.alerts: dict[str, list[int]] = {}  # to [generation, is open, count, last seen]
        self.applicable: Any = None  # the rules for this run; found anew after a load

    def dump(self) -> list[Any]:
        """For JSON. What is as in a new memory at the end is left out."""
        values = self._values()
        while values and values[-1] == _EMPTY[len(values) - 1]:
            values.pop()
        return values

    @staticmethod
    def load(values: list[Any]) -> RunMemory:
        """The inverse of `dump`. A longer list is of a later release: what is unknown is dropped."""
        memory = RunMemory()
        known = values + memory._values()[len(values) :]
        (
            memory.imported, memory.streak, memory.same_streak, memory.last_result, memory.streak_since_us,
            memory.last_calls, memory.matches, memory.recent, memory.recent_results, memory.failed_tool,
            memory.tool_failures, memory.model_failures, memory.policy_seen, memory.allowed, memory.denied,
            memory.to_approve, memory.forgot_decisions, memory.awaited, memory.approvals, memory.compared,
            memory.cost_nanousd, memory.reported_nanousd, memory.skewed, memory.is_counted, memory.results,
            memory.repeats, memory.denials, memory.alerts,
        ) = known[: len(_EMPTY)]  # fmt: skip
        return memory

    def _values(self) -> list[Any]:
        return [
            self.imported, self.streak, self.same_streak, self.last_result, self.streak_since_us,
            self.last_calls, self.matches, self.recent, self.recent_results, self.failed_tool,
            self.tool_failures, self.model_failures, self.policy_seen, self.allowed, self.denied,
            self.to_approve, self.forgot_decisions, self.awaited, self.approvals, self.compared,
            self.cost_nanousd, self.reported_nanousd, self.skewed, self.is_counted, self.results,
            self.repeats, self.denials, self.alerts,
        ]  # fmt: skip


_EMPTY = RunMemory()._values()
