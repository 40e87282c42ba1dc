"""What an anomaly rule is: one model per kind, as a rules file (YAML) has it. Pure data, read-only.

In a file durations are texts (`30s`, `10m`, `1h`, `3d`), money is dollars; here they are microseconds and nano-dollars.
Kinds in `RUN_KINDS` are decided in stage 1, run by run (`rules.run_rules`); kinds in `SCOPE_KINDS` in stage 2, over all
runs of a tenant (`scope_*`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from agentledger.schemas.money import NANOUSD_PER_USD

RECENT_CALLS = 12  # calls of tools whose digests are kept of a run: 130 bytes
RESULTS_KEPT: Final = 24  # calls with their results that are kept of a run: 270 bytes
REPEATS_SEEN: Final = 30  # calls of which is kept whether they brought anything new: a number
RECENT_DENIALS = 50  # times of denials that are kept of a run
VERSION_CHARS = 12  # of a rule's digest: 48 bits tell the versions of one rule apart
_UNIT_US = {"ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000}
_DURATION = re.compile(r"(\d{1,9})(ms|s|m|h|d|w)")

Severity = Literal["info", "warning", "critical"]
Effect = Literal["read", "write", "irreversible", ""]
# When an alert is over: its condition no longer holds, its run has ended, or it was not seen again for `quiet`.
Resolve = Literal["condition_ends", "run_ends", "quiet", "never"]


def _duration_us(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("write a duration as a number with its unit, such as 30s, 10m, 1h or 3d")
    found = _DURATION.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"{value!r} is no duration: write 30s, 10m, 1h or 3d")
    return int(found[1]) * _UNIT_US[found[2]]


def _usd_nanousd(value: Any) -> Any:
    try:
        amount = Decimal(str(value)) * NANOUSD_PER_USD
    except InvalidOperation:
        raise ValueError(f"{value!r} is no amount of dollars: write 0.35") from None
    if not amount.is_finite() or amount != int(amount):
        raise ValueError(f"{value!r} has more than 9 places after the point: a nano-dollar is the smallest amount")
    return int(amount)


DurationUs = Annotated[int, BeforeValidator(_duration_us)]
Nanousd = Annotated[int, BeforeValidator(_usd_nanousd), Field(ge=0)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Percent = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Times = Annotated[float, Field(gt=1, le=1e6, allow_inf_nan=False)]
Scope = Annotated[str, StringConstraints(pattern=r"^(tenant|team|agent|workflow|user|label:.{1,200})$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_max_length=1000)


class Where(_Model):
    """Which runs or scopes a rule is for: names, `*` stands for any text. An empty list lets everything through."""

    tenant: tuple[str, ...] = ()
    workflow: tuple[str, ...] = ()
    agent: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()

    def matches(self, *, tenant: str, workflow: str = "", agent: str = "", environment: str = "") -> bool:
        """True where each list that names anything names this."""
        return (
            _named(self.tenant, tenant)
            and _named(self.workflow, workflow)
            and _named(self.agent, agent)
            and _named(self.environment, environment)
        )


def _named(patterns: Iterable[str], name: str) -> bool:
    patterns = tuple(patterns)
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


class _Common(_Model):
    """What every rule has. A kind narrows these and adds its own."""

    name: Name
    enabled: bool = True
    severity: Severity = "warning"
    where: Where = Where()
    runbook_url: str = ""
    # Conditions seen at least so often (in the unit of the kind) before the rule says anything.
    min_volume: int = Field(default=0, ge=0, le=1_000_000_000)
    resolve: Resolve = "condition_ends"
    quiet_us: DurationUs = Field(default=_UNIT_US["h"], validation_alias="quiet", gt=0)


class _RunRule(_Common):
    """A rule on one run. Its alerts: one per run, and per `dedup` subject where that is finer."""

    scope: Literal["run"] = "run"
    dedup: Literal["run", "tool", "model"] = "run"
    imports: bool = True  # also for runs that were imported; their ledger time is that of the import


class IdenticalToolCalls(_RunRule):
    """The same tool with the same arguments, `calls` times.

    `consecutive`: with no other call of a tool in between, and so often within `window` of ledger time after the first
    (0s: however long it takes). Otherwise: among the run's last RECENT_CALLS calls of tools.
    """

    kind: Literal["identical_tool_calls"]
    calls: int = Field(default=4, ge=2, le=1000)
    window_us: DurationUs = Field(default=0, validation_alias="window", ge=0)
    consecutive: bool = True
    same_result: bool = False  # True: only calls that also gave the same result count as the same
    effects: tuple[Effect, ...] = ("read", "write", "irreversible", "")

    @model_validator(mode="after")
    def _can_be_seen(self) -> IdenticalToolCalls:
        if not self.consecutive and self.calls > RECENT_CALLS:
            raise ValueError(f"without consecutive, calls can be {RECENT_CALLS} at most: so many calls are remembered")
        if not self.consecutive and self.window_us:
            raise ValueError("window is for consecutive calls")
        return self


class CyclingToolCalls(_RunRule):
    """A sequence of 2 to `period_max` calls, not all the same, that is seen `repeats` times, one after the other."""

    kind: Literal["cycling_tool_calls"]
    period_max: int = Field(default=4, ge=2, le=4)
    repeats: int = Field(default=3, ge=2, le=1000)


class RepeatedWork(_RunRule):
    """`repeats` of the last `last` calls of tools brought nothing new: each had the result of the same call before.

    Before: among the RESULTS_KEPT calls before it. Other calls may lie between, so it sees circles of any form.
    """

    kind: Literal["repeated_work"]
    repeats: int = Field(default=6, ge=2, le=REPEATS_SEEN)
    last: int = Field(default=12, ge=2, le=REPEATS_SEEN)

    @model_validator(mode="after")
    def _can_be_reached(self) -> RepeatedWork:
        if self.repeats > self.last:
            raise ValueError("repeats can't be more than last: so many calls are looked at")
        return self


class RetryStorm(_RunRule):
    """Attempts of one call, or failed calls of one tool or model in a row."""

    kind: Literal["retry_storm"]
    attempts: int = Field(default=5, ge=2, le=1000)
    errors: int = Field(default=5, ge=2, le=1000)
    of: tuple[Literal["tool", "model"], ...] = ("tool", "model")


class StepCount(_RunRule):
    """More model and tool calls than `times` the quantile of the workflow's finished runs, and than `floor`.

    `min_volume` is how many of those must be known. They are those of the run's partition. The quantile should lie near
    the end, which holds the workflow's own spread, but short of it: one runaway must not be the next one's norm.

    A quantile near the end of few runs is the largest of them. So while fewer are known, but `few_volume` are, more
    than Q3 + `few_spread` (Q3 - Q1) and twice the median are too many, of a run that has another sign of getting
    nowhere: `few_repeats` of its last REPEATS_SEEN calls of tools brought nothing new. So few runs prove little alone.
    """

    kind: Literal["step_count"]
    times: Times = 1.3
    quantile_percent: int = Field(default=98, ge=1, le=100)
    floor: int = Field(default=20, ge=1)
    min_volume: int = Field(default=20, ge=5, le=1_000_000)
    few_volume: int = Field(default=8, ge=5, le=1_000_000)
    few_spread: float = Field(default=4, ge=1, le=100, allow_inf_nan=False)
    few_repeats: int = Field(default=4, ge=0, le=REPEATS_SEEN)


class DenialsInRun(_RunRule):
    """Policies denied so many actions of one run within `window` (0s: over the whole run)."""

    kind: Literal["denials_in_run"]
    denials: int = Field(default=5, ge=2, le=RECENT_DENIALS)
    window_us: DurationUs = Field(default=0, validation_alias="window", ge=0)


class UnsafeAction(_RunRule):
    """A policy denied a risky action, or the action was done in spite of it.

    Risky: the decision's risk tier is one of `risk_tiers`, or the denied call's effect one of `effects`.
    """

    kind: Literal["unsafe_action"]
    risk_tiers: tuple[str, ...] = ("high", "critical")
    effects: tuple[Effect, ...] = ("write", "irreversible")
    resolve: Resolve = "quiet"


class WriteWithoutDecision(_RunRule):
    """A call that changes something, without a policy decision in its run that allows it. Dry runs are left out.

    Which runs are held to it: `always` all; `seen` those in which a policy decided something before; `workflow` those
    too whose workflow is under policy: at least half of its finished runs have decisions, of `min_volume` or more.
    A decision that the call names may come up to `grace` later: policy engines send their logs at their own pace.
    """

    kind: Literal["write_without_decision"]
    effects: tuple[Effect, ...] = ("write", "irreversible")
    policy_in_use: Literal["seen", "workflow", "always"] = "workflow"
    grace_us: DurationUs = Field(default=_UNIT_US["m"], validation_alias="grace", ge=0)
    min_volume: int = Field(default=20, ge=1, le=1_000_000)
    resolve: Resolve = "quiet"


class SlowApproval(_RunRule):
    """A request for approval without an answer for longer than `window`."""

    kind: Literal["slow_approval"]
    window_us: DurationUs = Field(default=15 * _UNIT_US["m"], validation_alias="window", gt=0)
    imports: bool = False


class SilentFailure(_RunRule):
    """The run says that it succeeded; its outcome says that it did not."""

    kind: Literal["silent_failure"]


class StuckRun(_RunRule):
    """A run that has started and not ended, unheard of for `window`. One that waits for a person is not stuck."""

    kind: Literal["stuck_run"]
    window_us: DurationUs = Field(default=15 * _UNIT_US["m"], validation_alias="window", gt=0)
    imports: bool = False


class CostMismatch(_RunRule):
    """What the provider reported for a run's calls and what we make of them differ by `percent` and by `floor`.

    Only calls with both amounts are compared; `min_volume` is how many those must be.
    """

    kind: Literal["cost_mismatch"]
    percent: float = Field(default=5.0, gt=0, le=1e6, allow_inf_nan=False)  # of what was reported
    floor_nanousd: Nanousd = Field(default=10_000_000, validation_alias="floor_usd")
    min_volume: int = Field(default=3, ge=1, le=1_000_000)


class ClockSkew(_RunRule):
    """A producer's clock is `ahead` of the ledger, or its events come more than `behind` after they happened."""

    kind: Literal["clock_skew"]
    ahead_us: DurationUs = Field(default=2 * _UNIT_US["m"], validation_alias="ahead", gt=0)
    behind_us: DurationUs = Field(default=6 * _UNIT_US["h"], validation_alias="behind", gt=0)
    min_volume: int = Field(default=3, ge=1, le=1_000_000)  # events in the run
    imports: Literal[False] = False


class Conflict(_RunRule):
    """An event id came with other content."""

    kind: Literal["conflict"]
    severity: Severity = "critical"
    resolve: Resolve = "quiet"


class UnpricedModel(_Common):
    """A model call without a price. Scope `model`: one alert for a tenant and model, over all runs (stage 2).

    Scope `run`: one for each run and model, at once (stage 1).
    """

    kind: Literal["unpriced_model"]
    scope: Literal["model", "run"] = "run"
    dedup: Literal["model"] = "model"
    imports: bool = True
    min_volume: int = Field(default=1, ge=1, le=1_000_000)  # calls
    resolve: Resolve = "quiet"
    quiet_us: DurationUs = Field(default=24 * _UNIT_US["h"], validation_alias="quiet", gt=0)


class _ScopeRule(_Common):
    """A rule over all runs of a tenant: one alert per value of `scope`, and per `dedup` subject where that is finer."""


class BurnWindows(_Model):
    """Spending at `rate` times what the budget allows on average, over the long window and still over the short one."""

    long_us: DurationUs = Field(validation_alias="long", gt=0)
    short_us: DurationUs = Field(validation_alias="short", gt=0)
    rate: float = Field(gt=0, le=1e6, allow_inf_nan=False)
    severity: Severity = "warning"

    @model_validator(mode="after")
    def _short_is_shorter(self) -> BurnWindows:
        if self.short_us >= self.long_us:
            raise ValueError("the short window must be shorter than the long one")
        return self


class SpendBurnRate(_ScopeRule):
    """A declared budget is used up too fast (SRE workbook, multi-window, multi-burn-rate).

    The windows are those for a budget of the length `period`; for one of another length they are scaled by it.
    Which scopes: those of the budgets. The severity of an alert is that of the windows that fired.
    """

    kind: Literal["spend_burn_rate"]
    scope: Literal["budget"] = "budget"
    dedup: Literal["budget"] = "budget"
    period_us: DurationUs = Field(default=30 * _UNIT_US["d"], validation_alias="period", gt=0)
    windows: tuple[BurnWindows, ...] = Field(min_length=1, max_length=8)
    # Scaled windows whose short one is shorter are left out: in seconds, a single call is a high rate.
    short_min_us: DurationUs = Field(default=0, validation_alias="short_min", ge=0)
    min_volume: int = Field(default=0, ge=0, le=10**15)  # used in the long window, in the budget's unit


class SpendSpike(_ScopeRule):
    """An hour costs far more than this hour of the week usually does: mean and deviation by EWMA, outliers clipped."""

    kind: Literal["spend_spike"]
    scope: Scope = "workflow"
    dedup: Literal["scope"] = "scope"
    alpha: float = Field(default=0.3, gt=0, lt=1, allow_inf_nan=False)  # weight of the newest week
    deviations: float = Field(default=4.0, gt=0, le=1000, allow_inf_nan=False)
    clip_deviations: float = Field(default=3.0, gt=0, le=1000, allow_inf_nan=False)  # an hour counts at most so far off
    times: Times = 2.0  # and at least so many times the mean
    floor_nanousd: Nanousd = Field(default=1_000_000_000, validation_alias="floor_usd")
    min_volume: int = Field(default=3, ge=1, le=100)  # weeks known for the hour of week
    time_zone: str = "UTC"


class ErrorRate(_ScopeRule):
    """The share of failed calls of one tool or model over `window`; over once it is at most `resolve_percent`."""

    kind: Literal["error_rate"]
    scope: Literal["tool", "model"] = "tool"
    dedup: Literal["scope"] = "scope"
    window_us: DurationUs = Field(default=10 * _UNIT_US["m"], validation_alias="window", gt=0)
    percent: Percent = 25.0
    resolve_percent: Percent = 15.0
    min_volume: int = Field(default=20, ge=1, le=1_000_000_000)  # calls in the window

    @model_validator(mode="after")
    def _resolves_below(self) -> ErrorRate:
        if self.resolve_percent > self.percent:
            raise ValueError("resolve_percent must not be above percent")
        return self


class Latency(_ScopeRule):
    """A quantile of how long calls of one tool or model take, over `window`, is above `limit`.

    With `times`: above that many times the same quantile over the `baseline` before the window (and above `limit`).
    """

    kind: Literal["latency"]
    scope: Literal["tool", "model"] = "tool"
    dedup: Literal["scope"] = "scope"
    window_us: DurationUs = Field(default=10 * _UNIT_US["m"], validation_alias="window", gt=0)
    quantile_percent: int = Field(default=95, ge=1, le=100)
    limit_us: DurationUs = Field(default=30 * _UNIT_US["s"], validation_alias="limit", gt=0)
    times: Times | None = None
    baseline_us: DurationUs = Field(default=24 * _UNIT_US["h"], validation_alias="baseline", gt=0)
    min_volume: int = Field(default=20, ge=1, le=1_000_000_000)  # calls in the window


class DenialBurst(_ScopeRule):
    """Policies denied `denials` actions within `window`."""

    kind: Literal["denial_burst"]
    scope: Literal["agent", "tenant"] = "agent"
    dedup: Literal["scope", "target"] = "scope"  # target: apart by tool or action
    window_us: DurationUs = Field(default=5 * _UNIT_US["m"], validation_alias="window", gt=0)
    denials: int = Field(default=10, ge=1, le=1_000_000)


class SequenceGap(_ScopeRule):
    """A producer's numbers have a hole that wasn't filled for `window`: events are lost, or very late."""

    kind: Literal["sequence_gap"]
    scope: Literal["producer"] = "producer"
    dedup: Literal["scope"] = "scope"
    window_us: DurationUs = Field(default=_UNIT_US["m"], validation_alias="window", gt=0)
    min_volume: int = Field(default=1, ge=1, le=1_000_000)  # missing events


class NewVersion(_ScopeRule):
    """A model, or a version of a prompt or policy, that was never seen before in its workflow (model: tenant).

    Nothing is said in the first `window` after the tenant (or workflow) was first seen: then everything is new. A rule
    that is changed starts anew, also with that; the alert says since when it has watched.
    """

    kind: Literal["new_version"]
    severity: Severity = "info"
    scope: Literal["workflow", "tenant"] = "workflow"
    dedup: Literal["version"] = "version"
    of: tuple[Literal["model", "prompt", "policy"], ...] = ("model", "prompt", "policy")
    window_us: DurationUs = Field(default=24 * _UNIT_US["h"], validation_alias="window", ge=0)
    resolve: Resolve = "quiet"


class StageLag(_ScopeRule):
    """One of our own stages hasn't acknowledged what was written `window` ago; over below `resolve_below`.

    Decided by the ticker, by its own clock. A lag of 10, 100, 1000 times `window` is told again.
    """

    kind: Literal["stage_lag"]
    severity: Severity = "critical"
    scope: Literal["stage"] = "stage"
    dedup: Literal["scope"] = "scope"
    resolve: Literal["condition_ends"] = "condition_ends"
    stages: tuple[Literal["writer", "packer", "worker", "holds", "scopes"], ...] = ()  # none: all of them
    # Twice what a worker that was killed needs to be missed and replaced. An hour of samples is kept.
    window_us: DurationUs = Field(default=30 * _UNIT_US["s"], validation_alias="window", gt=0, lt=_UNIT_US["h"])
    resolve_below_us: DurationUs = Field(default=10 * _UNIT_US["s"], validation_alias="resolve_below", gt=0)

    @model_validator(mode="after")
    def _can_end(self) -> StageLag:
        if self.resolve_below_us > self.window_us:
            raise ValueError("resolve_below must not be above window")
        if self.where != Where():
            raise ValueError("a stage serves all tenants: name stages instead of where")
        return self


RunRule = (
    IdenticalToolCalls
    | CyclingToolCalls
    | RepeatedWork
    | RetryStorm
    | StepCount
    | DenialsInRun
    | UnsafeAction
    | WriteWithoutDecision
    | SlowApproval
    | SilentFailure
    | StuckRun
    | CostMismatch
    | ClockSkew
    | Conflict
    | UnpricedModel
)
ScopeRule = SpendBurnRate | SpendSpike | ErrorRate | Latency | DenialBurst | SequenceGap | NewVersion | StageLag
Rule = Annotated[RunRule | ScopeRule, Field(discriminator="kind")]

RUN_KINDS = (
    "identical_tool_calls",
    "cycling_tool_calls",
    "repeated_work",
    "retry_storm",
    "step_count",
    "denials_in_run",
    "unsafe_action",
    "write_without_decision",
    "slow_approval",
    "silent_failure",
    "stuck_run",
    "cost_mismatch",
    "clock_skew",
    "conflict",
    "unpriced_model",
)
SCOPE_KINDS = (
    "spend_burn_rate",
    "spend_spike",
    "error_rate",
    "latency",
    "denial_burst",
    "sequence_gap",
    "new_version",
    "stage_lag",
)


class RuleSet(_Model):
    """A rules file. `RuleSet.rules` holds also those that are not enabled; their runbook links are whole."""

    runbooks: str = ""  # what a runbook link that begins with # or / is appended to
    rules: tuple[Rule, ...] = Field(max_length=500)

    @field_validator("rules", mode="after")
    @classmethod
    def _runbooks_are_whole(cls, rules: tuple[Rule, ...], info: ValidationInfo) -> tuple[Rule, ...]:
        base = info.data.get("runbooks", "")
        return tuple(
            rule.model_copy(update={"runbook_url": base + rule.runbook_url})
            if rule.runbook_url.startswith(("#", "/"))
            else rule
            for rule in rules
        )

    @model_validator(mode="after")
    def _names_differ(self) -> RuleSet:
        seen: set[str] = set()
        for rule in self.rules:
            if rule.name in seen:
                raise ValueError(f"two rules are called {rule.name!r}: an alert names its rule")
            seen.add(rule.name)
        return self


@lru_cache(maxsize=1024)  # by rule: those of one file, and of another that is tried
def rule_version(rule: BaseModel) -> str:
    """A short digest of the rule as it is, defaults included: 12 hex digits of the SHA-256 of its canonical JSON."""
    text = json.dumps(rule.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:VERSION_CHARS]
