"""Other budgets for a replay: a file's limits in place of those that were declared.

A limit per run, watched or held, is declared to the runs before their first record, as one that is watched run by run:
each says its own lines, beside the budget that a run has of its own. A limit over a longer window is declared before
the first record, and watched in what was recorded; holds that were asked for are decided again by the file's held
limits. Recorded declarations of the tenant are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from agentledger.infra.replay_stages import RUNS, SCOPES, Stage, StagePlan
from agentledger.processors.budget_declarations import Limit, limits_of
from agentledger.processors.budget_file import read_budget_file
from agentledger.processors.run_fold import DerivedRecord
from agentledger.schemas.codec import HEADER_BYTES, Codec
from agentledger.schemas.errors import AgentledgerError
from agentledger.schemas.events import BudgetDeclared, Event, RunBudgetDeclared
from agentledger.schemas.identity import content_id


@dataclass(frozen=True)
class ReplacedBudgets:
    """The limits of a file for one tenant; `declared_us` is the ledger time at which they begin."""

    tenant_id: str
    limits: tuple[Limit, ...]
    declared_us: int

    def run_declarations(self) -> list[RunBudgetDeclared]:
        """What declares the limits of each run on a runs' partition."""
        return [
            RunBudgetDeclared(
                event_id=content_id(self.declared_us, "replayed per run", limit.budget_id, limit.metric),
                tenant_id=self.tenant_id,
                producer_id="replay",
                producer_seq=number,
                run_id="",
                occurred_at=self.declared_us,
                budget_id=limit.budget_id,
                budget_version=1,
                scope=limit.scope,
                scope_value=limit.scope_value,
                metric=limit.metric,
                limit_amount=limit.limit_amount,
                thresholds_percent=list(limit.thresholds_percent),
                on_exceeded=limit.on_exceeded,
            )
            for number, limit in enumerate(limit for limit in self.limits if limit.window == "run")
        ]

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
        if self._is_runs:
            self._waiting = budgets.run_declarations()
        elif is_home:
            self._waiting = budgets.declarations(watched=plan == SCOPES)
        self._shift = len(self._waiting)
        self._declares = RunBudgetDeclared if self._is_runs else BudgetDeclared
        self._declares_by_header: dict[bytes, bool] = {}

    def take(self, partition: int, offset: int, ledger_time_us: int, value: bytes | None) -> Sequence[DerivedRecord]:
        """Fold one record in, as it would have been; what follows from it."""
        derived: list[DerivedRecord] = []
        declared_us = min(self._budgets.declared_us, ledger_time_us)
        for number, event in enumerate(self._waiting):
            derived += self._stage.take(partition, number, declared_us, self._codec.encode(event))
        self._waiting = ()
        if value is None or not self._is_declaration_of_ours(value):
            derived += self._stage.take(partition, offset + self._shift, ledger_time_us, value)
        return derived

    def take_all(
        self, partition: int, offsets: Sequence[int], times_us: Sequence[int], values: Sequence[bytes | None]
    ) -> Sequence[Sequence[DerivedRecord]]:
        """Fold many records in; what follows from each."""
        return [self.take(partition, *row) for row in zip(offsets, times_us, values, strict=True)]

    def take_partial(self, partition: int, value: bytes) -> Sequence[DerivedRecord]:
        """Fold one record of the partials in."""
        return self._stage.take_partial(partition, value)

    def states(self) -> Iterator[tuple[bytes, bytes]]:
        """Every state."""
        return self._stage.states()

    def close(self) -> None:
        """Drop everything."""
        self._stage.close()

    def _is_declaration_of_ours(self, value: bytes) -> bool:
        header = value[:HEADER_BYTES]  # names the schema, so that few records are decoded
        if not self._declares_by_header.get(header, True):
            return False
        try:
            event = self._codec.decode(value)
        except AgentledgerError:
            return False
        self._declares_by_header[header] = isinstance(event, self._declares)
        return isinstance(event, self._declares) and event.tenant_id == self._budgets.tenant_id
