"""What attempts achieve and what an outcome costs, by any dimension, and whether two groups differ by more than noise.

An attempt is a top-level run with its sub-runs: a row of the view `run_trees`. Sums come exact from ClickHouse, and
every figure names its confidence interval. Definitions and formulas: infra/docs/COST_PER_OUTCOME.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agentledger.schemas.errors import UsageError
from agentledger.sinks.intervals import (
    CONFIDENCE,
    Interval,
    PairSums,
    difference_interval,
    is_more_than_noise,
    mean_interval,
    median_interval,
    rate_interval,
    ratio_interval,
)
from agentledger.sinks.queries import Client, query

DIMENSIONS = {
    "workflow": "workflow",
    "tenant": "tenant_id",
    "agent": "agent_id",
    "agent_version": "agent_version",
    "model": "model",
    "prompt_version": "prompt_version",
    "policy_version": "policy_version",
    "toolset_version": "toolset_version",
    "environment": "environment",
    "day": "toString(toDate(started_at))",
}
LABEL = "label:"  # dimension prefix: label:team groups by the label `team`
MONEY_PARTS = ("model", "tool", "human", "wasted", "retry", "validation")


@dataclass(frozen=True)
class Selection:
    """Which attempts count: all that match what is given. Times are microseconds since 1970, of the attempt's start."""

    by: str = "workflow"
    workflow: str | None = None
    tenant_id: str | None = None
    agent_id: str | None = None
    model: str | None = None
    since_us: int | None = None
    until_us: int | None = None


@dataclass(frozen=True)
class AttemptGroup:
    """The attempts with one value of the dimension, of one tenant: `row` holds counts and exact sums of the query."""

    tenant_id: str
    value: str
    row: Mapping[str, Any] = field(repr=False)

    def interval(self, name: str, confidence: float = CONFIDENCE) -> Interval | None:
        """One of METRICS with its interval; None where nothing is known of it."""
        return METRICS[name].of(self.row, confidence)


class Metric(NamedTuple):
    """A figure of a group: `kind` is rate, money (nano-dollars), time (milliseconds) or number."""

    label: str
    kind: str
    of: Callable[[Mapping[str, Any], float], Interval | None]


class Difference(NamedTuple):
    """One metric of two groups, and `other` minus `base`; None where nothing is known of it."""

    name: str
    base: Interval | None
    other: Interval | None
    change: Interval | None

    @property
    def more_than_noise(self) -> bool | None:
        """True where the interval of the change leaves out 0; None without a change."""
        return None if self.change is None else is_more_than_noise(self.change)


@dataclass(frozen=True)
class Comparison:
    """Two groups of one dimension, and each metric's difference at this confidence."""

    by: str
    base: AttemptGroup
    other: AttemptGroup
    differences: list[Difference]
    confidence: float = CONFIDENCE


def _rate(hits: str, *trials: str) -> Callable[[Mapping[str, Any], float], Interval | None]:
    return lambda row, confidence: rate_interval(row[hits], sum(row[name] for name in trials), confidence)


def _mean(total: str, squares: str) -> Callable[[Mapping[str, Any], float], Interval | None]:
    return lambda row, confidence: mean_interval(row["attempts"], row[total], row[squares], confidence)


def _per_attempt(cost: str) -> Callable[[Mapping[str, Any], float], Interval | None]:
    def of(row: Mapping[str, Any], confidence: float) -> Interval | None:
        if row[cost] is None:
            return None
        return mean_interval(row["attempts"], row[cost], row[f"{cost}_squares"], confidence)

    return of


def _per_success(cost: str) -> Callable[[Mapping[str, Any], float], Interval | None]:
    def of(row: Mapping[str, Any], confidence: float) -> Interval | None:
        if row[cost] is None:
            return None
        wins = row["successes"]
        with_cost = row[f"{cost}_of_successes"]
        sums = PairSums(row["attempts"], row[cost], wins, row[f"{cost}_squares"], with_cost, wins)
        return ratio_interval(sums, confidence)

    return of


METRICS = {
    "completion_rate": Metric("completed", "rate", _rate("completed", "attempts")),
    "success_rate": Metric("success", "rate", _rate("successes", "successes", "failures")),
    "unaccounted_rate": Metric("unaccounted", "rate", _rate("unaccounted", "attempts")),
    "silent_failure_rate": Metric("silent failure", "rate", _rate("silent_failures", "completed_known")),
    "escalation_rate": Metric("escalated", "rate", _rate("escalations", "attempts")),
    "containment_rate": Metric("contained", "rate", _rate("contained", "ended")),
    "tool_calls_per_run": Metric("tool calls per run", "number", _mean("tool_calls", "tool_calls_squares")),
    "denials_per_run": Metric("denials per run", "number", _mean("denials", "denials_squares")),
    "resolution_ms": Metric(
        "time to resolution", "time", lambda row, confidence: median_interval(row["resolutions_ms"], confidence)
    ),
    "cost_per_attempt": Metric("cost per attempt", "money", _per_attempt("cost_nanousd")),
    "cost_per_success": Metric("cost per success", "money", _per_success("cost_nanousd")),
    "reported_cost_per_attempt": Metric("reported per attempt", "money", _per_attempt("reported_cost_nanousd")),
    "reported_cost_per_success": Metric("reported per success", "money", _per_success("reported_cost_nanousd")),
}

_MONEY_SUMS = ",\n    ".join(
    f"""sum(tree.{cost}) AS {cost},
    sum(toInt256(ifNull(tree.{cost}, 0)) * ifNull(tree.{cost}, 0)) AS {cost}_squares,
    sumIf(ifNull(tree.{cost}, 0), outcome = 'success') AS {cost}_of_successes"""
    for cost in ("cost_nanousd", "reported_cost_nanousd")
)
_SELECT = f"""SELECT
    tenant_id,
    {{by}} AS value,
    count() AS attempts,
    uniqExact(if(task = '', run_id, task)) AS tasks,
    arraySort(groupUniqArray(tree.model)) AS models,
    sum(tree.sub_runs) AS sub_runs,
    countIf(ended_at IS NOT NULL) AS ended,
    countIf(status = 'succeeded') AS completed,
    countIf(status = 'succeeded' AND outcome IN ('success', 'failure')) AS completed_known,
    countIf(outcome = 'success') AS successes,
    countIf(outcome = 'failure') AS failures,
    countIf(outcome IN ('unknown', 'none')) AS unaccounted,
    countIf(outcomes > 1) AS repeated_outcomes,
    countIf(outcome_reversed) AS reversed_outcomes,
    countIf(outcome_delay_ms > 86400000) AS late_outcomes,
    countIf(silent_failure) AS silent_failures,
    countIf(status = 'escalated') AS escalations,
    countIf(tree.contained) AS contained,
    sum(tree.model_calls) AS model_calls,
    sum(tree.tool_calls) AS tool_calls,
    sum(tree.tool_calls * tree.tool_calls) AS tool_calls_squares,
    sum(tree.denials) AS denials,
    sum(tree.denials * tree.denials) AS denials_squares,
    arraySort(groupArrayIf(assumeNotNull(resolution_ms), resolution_ms IS NOT NULL)) AS resolutions_ms,
    {_MONEY_SUMS},
    {", ".join(f"sum(tree.{part}_cost_nanousd) AS {part}_cost_nanousd" for part in MONEY_PARTS)},
    sum(tree.human_ms) AS human_ms,
    sum(tree.unpriced_model_calls) AS unpriced_model_calls,
    sum(outcome_value_nanousd) AS value_nanousd,
    min(started_at) AS first_started_at,
    max(started_at) AS last_started_at
FROM agentledger.run_trees AS tree
{{where}}
GROUP BY tenant_id, value
ORDER BY tenant_id, {{order}}"""
_CONDITIONS = {
    "workflow": "workflow = {workflow:String}",
    "tenant_id": "tenant_id = {tenant_id:String}",
    "agent_id": "agent_id = {agent_id:String}",
    "model": "model = {model:String}",
    "since_us": "started_at >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')",
    "until_us": "started_at < fromUnixTimestamp64Micro({until_us:Int64}, 'UTC')",
}


def attempt_groups(client: Client, selection: Selection, *, time_s_max: int = 60) -> list[AttemptGroup]:
    """The attempts by tenant and value of the dimension: oldest first, days and names in order. Raises StoreError.

    Raises UsageError where there is no such dimension.
    """
    by, parameters = _dimension(selection.by)
    where = []
    for name, condition in _CONDITIONS.items():
        wanted = getattr(selection, name)
        if wanted is not None:
            where.append(condition)
            parameters[name] = wanted
    order = "first_started_at, value" if selection.by.endswith("_version") else "value"
    sql = _SELECT.format(by=by, where=f"WHERE {' AND '.join(where)}" if where else "", order=order)
    rows = query(client, sql, parameters=parameters, time_s_max=time_s_max).records()
    return [AttemptGroup(str(row["tenant_id"]), str(row["value"]), row) for row in rows]


def _dimension(by: str) -> tuple[str, dict[str, Any]]:
    """The SQL of the dimension and its parameters."""
    if by in DIMENSIONS:
        return DIMENSIONS[by], {}
    if by.startswith(LABEL) and len(by) > len(LABEL):
        return "labels[{label:String}]", {"label": by.removeprefix(LABEL)}
    raise UsageError(f"no dimension is called {by!r}", next_step=f"one of {', '.join(DIMENSIONS)}, label:NAME")


def compare_groups(base: AttemptGroup, other: AttemptGroup, by: str, confidence: float = CONFIDENCE) -> Comparison:
    """Each of METRICS of two groups, and how `other` differs from `base`."""
    found = []
    for name in METRICS:
        before, after = base.interval(name, confidence), other.interval(name, confidence)
        change = None if before is None or after is None else difference_interval(before, after)
        found.append(Difference(name, before, after, change))
    return Comparison(by, base, other, found, confidence)


def choose_two(
    groups: Sequence[AttemptGroup], by: str, base: str | None = None, other: str | None = None
) -> tuple[AttemptGroup, AttemptGroup]:
    """The two groups to compare: those named, else the two that began last, the earlier as the base.

    Raises UsageError where there are not two, where a name is unknown, or where several tenants have attempts.
    """
    tenants = sorted({group.tenant_id for group in groups})
    if len(tenants) > 1:
        raise UsageError("several tenants have such runs", next_step=f"name one with --tenant: {', '.join(tenants)}")
    known = {group.value: group for group in groups}
    listed = ", ".join(repr(value) if value else "'' (none)" for value in known) or "none"
    for wanted in (base, other):
        if wanted is not None and wanted not in known:
            raise UsageError(f"no attempt has the {by} {wanted!r}", next_step=f"there are {listed}")
    rest = sorted(
        (group for group in groups if group.value not in {base, other}),
        key=lambda group: (group.row["first_started_at"], group.value),
    )
    if len(rest) < (base is None) + (other is None):
        raise UsageError(f"there are not two values of {by} to compare", next_step=f"there are {listed}")
    right = known[other] if other is not None else rest.pop()
    left = known[base] if base is not None else rest.pop()
    return left, right
