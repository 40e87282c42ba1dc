"""Budgets of each run, as stage 2 has them: it tells every partition of the runs' events, where they are watched.

Stage 1 knows one partition each, and its order has to be found in the log by a replay. So a declaration, which comes to
the tenant's partition of the holds topic, is said again on each partition of the events topic as a RunBudgetDeclared of
its own; what comes after that in the partition's log is counted against it.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import count

from agentledger.processors.budgets import METRICS
from agentledger.processors.scope_events import Conclusions, Finding, short
from agentledger.schemas.events import BudgetDeclared, RunBudgetDeclared
from agentledger.schemas.identity import content_id
from agentledger.schemas.partitioning import partition_of

# Limits per tenant that are watched run by run: a run may fall under all of them, and its state has 100 bytes for each.
RUN_LIMITS_MAX = 100


def is_per_run(event: BudgetDeclared) -> bool:
    """True where each run is to be watched by itself."""
    return event.window == "run" and event.enforcement == "watch" and not event.retired and event.metric in METRICS


def tell_runs(out: Conclusions, event: BudgetDeclared, key: str) -> None:
    """Say a declaration to the runs' partitions where it begins, changes or ends a limit that they watch."""
    known = out.state.run_budgets
    if not is_per_run(event):
        if key in known:
            known.remove(key)
            _say(out, event, retired=True)
        return
    if key not in known:
        if len(known) >= RUN_LIMITS_MAX:
            text = f"{RUN_LIMITS_MAX} limits are watched per run; {short(event.budget_id)} is not"
            out.say(Finding("too_many_scope_values", "warning", "tenant", "", text))
            return
        known.append(key)
    _say(out, event, retired=False)


def _say(out: Conclusions, event: BudgetDeclared, *, retired: bool) -> None:
    for partition in range(out.sources):
        event_id = content_id(out.now_us, "RunBudgetDeclared", event.event_id, str(partition))
        out.events.append(
            RunBudgetDeclared(
                **out.envelope(event_id) | {"run_id": name_at(partition, out.sources)},
                parent_event_id=event.event_id,
                budget_id=event.budget_id,
                budget_version=event.budget_version,
                scope=event.scope,
                scope_value=event.scope_value,
                metric=event.metric,
                limit_amount=event.limit_amount,
                thresholds_percent=event.thresholds_percent,
                on_exceeded=event.on_exceeded,
                retired=retired,
                declared_by=event.declared_by,
                reason=event.reason,
            )
        )


@lru_cache(maxsize=4096)
def name_at(partition: int, partitions: int) -> str:
    """A name for the key of records that are to go to this partition."""
    names = (f"limits:{number}" for number in count())
    return next(name for name in names if partition_of(name.encode(), partitions) == partition)
