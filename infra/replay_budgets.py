"""Other budgets for a replay: a file's limits in place of those that were declared.

A limit per run becomes the run's own budget, in its RunStarted, for every run that the limit's scope holds. A limit
over a longer window is declared before the first record, and watched in what was recorded; holds that were asked for
are decided again by the file's held limits. Recorded declarations of the tenant are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agentledger.infra.replay_stages import RUNS, SCOPES, Stage, StagePlan
from agentledger.processors.budget_declarations import Limit, limits_of
from agentledger.processors.budget_file import read_budget_file
from agentledger.processors.run_fold import DerivedRecord
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import AgentledgerError
from agentledger.schemas.events import BudgetDeclared, Event, RunStarted
from agentledger.schemas.identity import content_id
from agentledger.sinks.replay_source import LedgerRecord

_FIELD_OF = {
    "cost_nanousd": "budget_cost_nanousd",
    "tokens": "budget_tokens",
    "model_calls": "budget_model_calls",
    "tool_calls": "budget_tool_calls",
    "wall_clock_ms": "budget_wall_clock_ms",
    "tool_retries": "budget_tool_retries",
}
_WORST = ("warn", "ask_human", "escalate", "halt")  # of several limits on one run, the one that stops most decides


@dataclass(frozen=True)
class ReplacedBudgets:
    """The limits of a file for one tenant; `declared_us` is the ledger time at which they begin."""

    tenant_id: str
    limits: tuple[Limit, ...]
    declared_us: int

    def started(self, event: RunStarted) -> RunStarted:
        """The run's start with the budget that the file gives it; its own where the file says nothing of such runs."""
        per_run = [limit for limit in self.limits if limit.window == "run" and limit.metric in _FIELD_OF]
        own = [limit for limit in per_run if _holds(limit, event)]
        if event.tenant_id != self.tenant_id or not own:
            return event
        amounts: dict[str, Any] = dict.fromkeys(_FIELD_OF.values())
        for limit in own:
            name = _FIELD_OF[limit.metric]
            known = amounts[name]
            amounts[name] = limit.limit_amount if known is None else min(known, limit.limit_amount)
        asked = max((limit.on_exceeded for limit in own), key=_WORST.index)
        thresholds = list(own[0].thresholds_percent)
        return replace(event, **amounts, on_budget_exceeded=asked, thresholds_percent=thresholds)

    def declarations(self, *, watched: bool) -> list[BudgetDeclared]:
        """What declares the limits over longer windows: to be watched, or as the file says."""
        chosen = [limit for limit in self.limits if limit.window != "run"] if watched else list(self.limits)
        return [
            BudgetDeclared(
                event_id=content_id(self.declared_us, "replayed", limit.budget_id, limit.metric),
                tenant_id=self.tenant_id,
                producer_id="replay",
                producer_seq=number,
                run_id="",
                occurred_at=self.declared_us,
                budget_version=1,
                **{
                    **asdict(limit),
                    "thresholds_percent": list(limit.thresholds_percent),
                    "enforcement": "watch" if watched else limit.enforcement,
                },
            )
            for number, limit in enumerate(chosen)
        ]


def read_replaced(path: Path, tenant_id: str, declared_us: int) -> ReplacedBudgets:
    """The file's limits, for its tenant, or this one. Raises BudgetFileError."""
    file = read_budget_file(path)
    tenant = file.tenant or tenant_id
    return ReplacedBudgets(tenant, tuple(limits_of(file, tenant)), declared_us)


class BudgetedStage:
    """A stage whose input says other budgets. Offsets are moved on, to make room for the declarations.

    `is_home`: the partition is the one that decides for the tenant.
    """

    def __init__(self, stage: Stage, plan: StagePlan, codec: Codec, budgets: ReplacedBudgets, *, is_home: bool) -> None:
        self._stage = stage
        self._is_runs = plan == RUNS
        self._codec = codec
        self._budgets = budgets
        self._waiting: Sequence[Event] = ()
        if is_home and not self._is_runs:
            self._waiting = budgets.declarations(watched=plan == SCOPES)
        self._shift = len(self._waiting)

    def take(self, record: LedgerRecord) -> Sequence[DerivedRecord]:
        """Fold one record in, as it would have been; what follows from it."""
        if self._is_runs:
            if record.event_type == "RunBudgetDeclared" and self._is_ours(record):
                return ()
            return self._stage.take(self._started(record) if record.event_type == "RunStarted" else record)
        derived: list[DerivedRecord] = []
        for number, event in enumerate(self._waiting):
            time_us = min(self._budgets.declared_us, record.ledger_time_us)
            derived += self._stage.take(
                record._replace(offset=number, ledger_time_us=time_us, value=self._codec.encode(event))
            )
        self._waiting = ()
        if record.event_type == "BudgetDeclared" and self._is_ours(record):
            return derived
        derived += self._stage.take(record._replace(offset=record.offset + self._shift))
        return derived

    def take_partial(self, partition: int, value: bytes) -> Sequence[DerivedRecord]:
        """Fold one record of the partials in."""
        return self._stage.take_partial(partition, value)

    def states(self) -> Iterator[tuple[bytes, bytes]]:
        """Every state."""
        return self._stage.states()

    def close(self) -> None:
        """Drop everything."""
        self._stage.close()

    def _started(self, record: LedgerRecord) -> LedgerRecord:
        event = self._read(record)
        if not isinstance(event, RunStarted):
            return record
        return record._replace(value=self._codec.encode(self._budgets.started(event)))

    def _is_ours(self, record: LedgerRecord) -> bool:
        event = self._read(record)
        return event is not None and event.tenant_id == self._budgets.tenant_id

    def _read(self, record: LedgerRecord) -> Event | None:
        try:
            return self._codec.decode(record.value)
        except AgentledgerError:
            return None


def _holds(limit: Limit, event: RunStarted) -> bool:
    """True where the limit's scope holds this run."""
    if limit.scope == "tenant":
        return True
    label = "team" if limit.scope == "team" else limit.scope.removeprefix("label:") if ":" in limit.scope else ""
    values = {"agent": event.agent_id, "workflow": event.workflow, "user": event.actor, "run": event.run_id}
    value = event.labels.get(label, "") if label else values.get(limit.scope, "")
    return bool(value) and limit.scope_value in ("", value)
