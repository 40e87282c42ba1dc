"""From a file of budgets to the events that declare them: what counts for each limit, and what has to be said anew.

The same limit has the same version: it is one more than that of the last declaration only where something changed, and
then an event is due. So a file that is applied twice changes nothing the second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from agentledger.processors.budget_file import (
    BUDGETS_MAX,
    DEPTH_MAX,
    BudgetFile,
    BudgetFileError,
    Entry,
    placed,
    window_parts,
)
from agentledger.schemas.events import BudgetDeclared
from agentledger.schemas.identity import content_id

THRESHOLDS_USUAL = (50, 80, 100)
INHERITED = ("window", "time_zone", "thresholds_percent", "on_exceeded", "enforcement", "fail")
_FAIL = {"open": "allow", "closed": "refuse", None: "allow"}  # a watched budget refuses no call by itself

Key = tuple[str, str]  # budget and metric
Place = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One limit on one metric, whole. Amounts are in the metric's unit."""

    budget_id: str
    scope: str
    scope_value: str
    metric: str
    limit_amount: int
    window: str
    window_ms: int | None
    time_zone: str
    thresholds_percent: tuple[str, ...]
    on_exceeded: str
    enforcement: str
    when_unreachable: str

    @property
    def key(self) -> Key:
        """What names it within a tenant."""
        return self.budget_id, self.metric


@dataclass(frozen=True)
class Change:
    """What applying does to one limit: `event` is None where it stays."""

    kind: str  # new, changed, same, retired
    limit: Limit
    event: BudgetDeclared | None
    version: int


def limits_of(file: BudgetFile, tenant_id: str) -> list[Limit]:
    """Every limit that the file declares, in its order. Raises BudgetFileError with all that can't be."""
    whole: dict[Place, Entry] = {}
    found: list[Limit] = []
    problems: list[str] = []
    ids: dict[str, Place] = {}
    for place, said in placed(file.budgets):
        above = whole.get(place[:-2])
        entry = whole[place] = _inherit(said, above)
        wrong = _wrong(entry, tenant_id)
        if entry.id in ids:
            wrong.append(("id", f"{entry.id!r} is the id of another budget of this file"))
        if len(place) > 2 * DEPTH_MAX:
            wrong.append(("id", f"stands deeper than {DEPTH_MAX} levels"))
        wrong += [("limits", what) for what in _out_of_reach(entry, above)]
        ids[entry.id] = place
        problems += [file.problem((*place, key), what) for key, what in wrong]
        if not wrong:
            found += _limits(entry, tenant_id)
    if len(ids) > BUDGETS_MAX:
        problems.append(file.problem(("budgets",), f"are {len(ids)}: a tenant has {BUDGETS_MAX} at most"))
    if problems:
        raise BudgetFileError(problems)
    return found


def changes_of(
    limits: Sequence[Limit],
    known: Mapping[Key, BudgetDeclared],
    *,
    tenant_id: str,
    now_us: int,
    declared_by: str,
    producer_id: str,
    prune: bool = False,
    reason: str = "",
) -> list[Change]:
    """What has to be declared so that exactly `limits` hold; with `prune` also that other budgets end.

    `known` is the last declaration of each limit, retired ones too. A limit that a budget of the file no longer has
    ends in any case. Events are numbered in their order from 0 as those of `producer_id`.
    """
    wanted = {limit.key: limit for limit in limits}
    ids = {limit.budget_id for limit in limits}
    ended = [
        limit_of(event)
        for key, event in sorted(known.items())
        if key not in wanted and not event.retired and (prune or key[0] in ids)
    ]
    changes: list[Change] = []
    seq = 0
    for limit, is_ended in [*((limit, False) for limit in limits), *((limit, True) for limit in ended)]:
        last = known.get(limit.key)
        if not is_ended and last is not None and not last.retired and limit_of(last) == limit:
            changes.append(Change("same", limit, None, last.budget_version))
            continue
        version = 1 if last is None else last.budget_version + 1
        facts = {**asdict(limit), "thresholds_percent": list(limit.thresholds_percent)}
        event = BudgetDeclared(
            event_id=content_id(now_us, "BudgetDeclared", tenant_id, str(version), repr(sorted(facts.items()))),
            tenant_id=tenant_id,
            producer_id=producer_id,
            producer_seq=seq,
            run_id=f"budget:{limit.budget_id}",
            actor=declared_by,
            occurred_at=now_us,
            budget_version=version,
            retired=is_ended,
            declared_by=declared_by,
            reason=reason,
            **facts,
        )
        seq += 1
        kind = "retired" if is_ended else "new" if last is None or last.retired else "changed"
        changes.append(Change(kind, limit, event, version))
    return changes


def limit_of(event: BudgetDeclared) -> Limit:
    """The limit that an event declared."""
    said: dict[str, Any] = {field.name: getattr(event, field.name) for field in fields(Limit)}
    return Limit(**{**said, "thresholds_percent": tuple(event.thresholds_percent)})


def newest(events: Iterable[BudgetDeclared]) -> dict[Key, BudgetDeclared]:
    """The last declaration of each limit, of events in ledger order."""
    return {(event.budget_id, event.metric): event for event in events}


def _inherit(entry: Entry, above: Entry | None) -> Entry:
    if above is None:
        return entry
    missing = {name: getattr(above, name) for name in INHERITED if getattr(entry, name) is None}
    if "enforcement" not in missing and entry.enforcement == "watch":
        missing.pop("fail", None)
    if entry.window is not None and window_parts(entry.window)[0] not in {"day", "month"}:
        missing.pop("time_zone", None)
    return entry.model_copy(update=missing)


def _wrong(entry: Entry, tenant_id: str) -> list[tuple[str, str]]:
    """Keys of an entry with what is wrong with them."""
    wrong = [(name, "is said neither here nor above") for name in ("window", "on_exceeded") if not getattr(entry, name)]
    enforcement = entry.enforcement
    amounts = entry.limits.amounts()
    if enforcement is None:
        wrong.append(("enforcement", "is said neither here nor above: hold or watch"))
    if enforcement == "hold" and entry.fail is None:
        wrong.append(("fail", "has to be said: open makes calls while nobody can be asked, closed refuses them"))
    if enforcement == "watch" and entry.fail is not None:
        wrong.append(("fail", "is for holds: a watched budget is never asked"))
    if not amounts:
        wrong.append(("limits", "names no limit: usd, tokens, model_calls, tool_calls or wall_clock_seconds"))
    kind = window_parts(entry.window or "total")[0]
    if enforcement == "watch" and entry.scope == "run" and kind != "run":
        wrong.append(("window", "of a watched run is the run: window: run"))
    if enforcement == "hold" and "wall_clock_ms" in amounts and kind != "run":
        wrong.append(("limits", "wall_clock_seconds can be held per run only: window: run, or enforcement: watch"))
    if "tool_retries" in amounts and kind != "run":
        wrong.append(("limits", "tool_retries are counted run by run: window: run"))
    if entry.time_zone and kind not in {"day", "month"}:
        wrong.append(("time_zone", f"means nothing for {kind}: only days and months have one"))
    if entry.scope == "tenant" and entry.scope_value not in {"", tenant_id}:
        wrong.append(("scope_value", f"is another tenant than {tenant_id}"))
    return wrong


def _out_of_reach(entry: Entry, above: Entry | None) -> list[str]:
    """Limits that the budget above never lets anybody reach."""
    if above is None or above.on_exceeded == "warn" or entry.window != above.window or entry.window == "run":
        return []
    over = above.limits.amounts()
    return [
        f"{metric} of {amount} is over the {over[metric]} of {above.id}, under which it stands"
        for metric, amount in entry.limits.amounts().items()
        if metric in over and amount > over[metric]
    ]


def _limits(entry: Entry, tenant_id: str) -> list[Limit]:
    window, window_ms = window_parts(entry.window or "")
    percents = THRESHOLDS_USUAL if entry.thresholds_percent is None else entry.thresholds_percent
    return [
        Limit(
            budget_id=entry.id,
            scope=entry.scope,
            scope_value=tenant_id if entry.scope == "tenant" else entry.scope_value,
            metric=metric,
            limit_amount=amount,
            window=window,
            window_ms=window_ms,
            time_zone=entry.time_zone or "",
            thresholds_percent=tuple(str(percent) for percent in sorted(set(percents))),
            on_exceeded=entry.on_exceeded or "",
            enforcement=entry.enforcement or "",
            when_unreachable=_FAIL[entry.fail],
        )
        for metric, amount in entry.limits.amounts().items()
    ]
