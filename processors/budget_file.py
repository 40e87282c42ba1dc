"""A file of budgets, in YAML: a tree of scopes with limits. Reading is strict; each problem says its line and path.

`SHAPE` shows every key. What a budget doesn't say of window, time zone, thresholds, enforcement, `fail` and
`on_exceeded` it has from the budget that it stands under. There is a short form, too: one `agent` with `max_…` limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agentledger.processors.budget_windows import SLIDING_MS_MAX, WINDOWS, zone
from agentledger.schemas.errors import ConfigurationError
from agentledger.schemas.yaml_file import YamlFile, YamlFileError, parse_yaml, read_bounded

TOOL_RETRIES_USUAL = 2  # of the short form: a tool call and its two retries have failed
SHAPE = """\
tenant: acme                       # without it: AGENTLEDGER_TENANT_ID
budgets:
  - id: acme                       # names the budget for good; of each metric it has one limit
    scope: tenant                  # tenant, team, agent, workflow, user, run, or label:NAME
    window: month                  # run, hour, day, month, sliding 24h (or 90m, 7d), total
    time_zone: Europe/Zurich       # of days and months; without it: UTC
    limits: {usd: 500}             # usd, tokens, model_calls, tool_calls; per run wall_clock_seconds, tool_retries
    thresholds_percent: [50, 80, 100]
    on_exceeded: halt              # warn, ask_human, halt, escalate
    enforcement: hold              # hold: asked for before each call; watch: summed from what was rated, seconds late
    fail: closed                   # of holds, while nobody can be asked: closed refuses calls, open makes them
    budgets:                       # what stands under it has what it doesn't say from here
      - id: acme-red
        scope: team
        scope_value: red           # without it: each team by itself
        limits: {usd: 200, tool_calls: 100000}
      - id: acme-runs
        scope: agent
        window: run                # each run by itself
        limits: {usd: 0.35, tool_calls: 8, wall_clock_seconds: 90}
        on_exceeded: escalate
"""
BYTES_MAX = 1024 * 1024
BUDGETS_MAX = 1000  # per tenant, as those that are watched
DEPTH_MAX = 8
ON_EXCEEDED = ("warn", "ask_human", "halt", "escalate")
METRIC_OF = {
    "usd": "cost_nanousd",
    "tokens": "tokens",
    "model_calls": "model_calls",
    "tool_calls": "tool_calls",
    "wall_clock_seconds": "wall_clock_ms",
    "tool_retries": "tool_retries",
}
SCOPE = re.compile(r"tenant|team|agent|workflow|user|run|label:[^\s\x00-\x1f]{1,200}")
_WINDOW = re.compile(r"sliding (\d{1,6})([mhd])")
_UNIT_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
_HANDOFFS = {"handoff_to_human": "escalate"}


class BudgetFileError(YamlFileError):
    """A file of budgets is wrong."""

    advice = "agentledger budgets shape prints every key"


def _exact(value: Decimal, places: int) -> Decimal:
    if value.as_tuple().exponent not in range(-places, 13):
        raise ValueError(f"has more than {places} decimals")
    return value


def _a_window(text: str) -> str:
    if text in WINDOWS and text != "sliding":
        return text
    match = _WINDOW.fullmatch(text)
    if match is None or not 0 < int(match[1]) * _UNIT_MS[match[2]] <= SLIDING_MS_MAX:
        raise ValueError("use run, hour, day, month, total, or a length of time such as sliding 24h")
    return text


def _a_scope(text: str) -> str:
    if not SCOPE.fullmatch(text):
        raise ValueError("use tenant, team, agent, workflow, user, run, or label:NAME")
    return text


def _a_zone(text: str) -> str:
    try:
        zone(text)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    return text


Count = Annotated[int, Field(ge=0, le=2**53, strict=True)]
Usd = Annotated[Decimal, Field(ge=0, le=10**9, allow_inf_nan=False), AfterValidator(lambda value: _exact(value, 9))]
Seconds = Annotated[Decimal, Field(ge=0, le=10**9), AfterValidator(lambda value: _exact(value, 3))]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
OnExceeded = Literal["warn", "ask_human", "halt", "escalate"]
Action = Literal["warn", "ask_human", "halt", "escalate", "handoff_to_human"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Strict):
    """At most so much; None: no limit on it."""

    usd: Usd | None = None
    tokens: Count | None = None
    model_calls: Count | None = None
    tool_calls: Count | None = None
    wall_clock_seconds: Seconds | None = None
    tool_retries: Count | None = None

    def amounts(self) -> dict[str, int]:
        """Metric to its limit, in the metric's unit."""
        factors = {"usd": 10**9, "wall_clock_seconds": 1000}
        said = {name: getattr(self, name) for name in METRIC_OF if getattr(self, name) is not None}
        return {METRIC_OF[name]: int(value * factors.get(name, 1)) for name, value in said.items()}


class Entry(_Strict):
    """One budget as it stands in the file; None: as the one above says."""

    id: Name
    scope: Annotated[str, AfterValidator(_a_scope)]
    scope_value: Annotated[str, Field(max_length=1024)] = ""
    limits: Limits
    window: Annotated[str, AfterValidator(_a_window)] | None = None
    time_zone: Annotated[str, AfterValidator(_a_zone)] | None = None
    thresholds_percent: tuple[Annotated[int, Field(gt=0, le=1000, strict=True)], ...] | None = None
    on_exceeded: OnExceeded | None = None
    enforcement: Literal["hold", "watch"] | None = None
    fail: Literal["open", "closed"] | None = None
    budgets: tuple[Entry, ...] = ()


class _Tree(_Strict):
    tenant: Name | None = None
    budgets: tuple[Entry, ...]


class _Escalation(_Strict):
    on_budget_exceeded: Action = "halt"
    on_tool_error_retries_exhausted: Action | None = None


class _Agent(_Strict):
    name: Annotated[str, Field(max_length=200)] = ""
    max_wall_clock_seconds: Seconds | None = None
    max_tool_calls: Count | None = None
    max_model_calls: Count | None = None
    max_tokens: Count | None = None
    max_model_spend_usd: Usd | None = None
    enforcement: Literal["hold", "watch"] = "hold"
    max_tool_retries: Count | None = None
    fail: Literal["open", "closed"] | None = None
    escalation: _Escalation = _Escalation()


class _Short(_Strict):
    tenant: Name | None = None
    agent: _Agent


class BudgetFile:
    """What a file declares: `tenant` (None: not said), `budgets` at the top, each with those under it, and `notices`.

    A file in the short form has one budget, and a second one where it says what follows from failing tools.
    """

    def __init__(
        self,
        where: str,
        tenant: str | None,
        budgets: tuple[Entry, ...],
        file: YamlFile,
        *,
        is_short: bool = False,
        notices: tuple[str, ...] = (),
    ) -> None:
        self.where = where
        self.tenant = tenant
        self.budgets = budgets
        self.notices = notices
        self._file = file
        self._is_short = is_short

    def problem(self, place: tuple[str | int, ...], what: str) -> str:
        """One line about a place in this file, such as ("budgets", 0, "limits")."""
        return self._file.problem(("agent",) if self._is_short else place, what)


def read_budget_file(path: Path) -> BudgetFile:
    """The file's budgets. Raises BudgetFileError with everything that its shape has wrong."""
    return parse_budgets(read_bounded(path, bytes_max=BYTES_MAX, error=BudgetFileError), where=str(path))


def parse_budgets(raw: bytes, *, where: str) -> BudgetFile:
    """The budgets in these bytes of YAML. Raises BudgetFileError."""
    file = parse_yaml(raw, where=where, bytes_max=BYTES_MAX, error=BudgetFileError)
    content = _exact_numbers(file.content)
    if "agent" in file.content:
        return _of_short(where, file.checked(_Short, content), file)
    tree = file.checked(_Tree, content)
    if not tree.budgets:
        raise BudgetFileError([file.problem(("budgets",), "holds no budget")])
    return BudgetFile(where, tree.tenant, tree.budgets, file)


def placed(
    budgets: Sequence[Entry], above: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], Entry]]:
    """Each budget of a tree with its place in the file, those above first."""
    for number, entry in enumerate(budgets):
        place = (*above, "budgets", number)
        yield place, entry
        yield from placed(entry.budgets, place)


def window_parts(window: str) -> tuple[str, int | None]:
    """The window's kind and, of a sliding one, its length in milliseconds."""
    match = _WINDOW.fullmatch(window)
    return ("sliding", int(match[1]) * _UNIT_MS[match[2]]) if match else (window, None)


def _of_short(where: str, short: _Short, file: YamlFile) -> BudgetFile:
    agent, escalation = short.agent, short.agent.escalation
    limits = Limits(
        usd=agent.max_model_spend_usd,
        tokens=agent.max_tokens,
        model_calls=agent.max_model_calls,
        tool_calls=agent.max_tool_calls,
        wall_clock_seconds=agent.max_wall_clock_seconds,
    )
    name = f"agent-{agent.name}" if agent.name else "agent"
    entries, notices = [], []
    on_retries = escalation.on_tool_error_retries_exhausted
    if limits.amounts() or on_retries is None:
        entries.append(_each_run(name, agent, limits, escalation.on_budget_exceeded))
    if agent.fail is None and agent.enforcement == "hold":
        notices.append(file.problem(("agent",), "says nothing of fail: taken as closed; add fail: open or closed"))
    place = ("agent", "escalation", "on_tool_error_retries_exhausted")
    if on_retries is not None:
        retries = TOOL_RETRIES_USUAL if agent.max_tool_retries is None else agent.max_tool_retries
        entries.append(_each_run(f"{name}-retries", agent, Limits(tool_retries=retries), on_retries))
        if agent.max_tool_retries is None:
            notices.append(file.problem(place, f"is after {retries} retries; say max_tool_retries for another number"))
    elif agent.max_tool_retries is not None:
        what = "needs escalation.on_tool_error_retries_exhausted, which says what follows"
        raise BudgetFileError([file.problem(("agent", "max_tool_retries"), what)])
    return BudgetFile(where, short.tenant, tuple(entries), file, is_short=True, notices=tuple(notices))


def _each_run(budget_id: str, agent: _Agent, limits: Limits, action: Action) -> Entry:
    """A budget of each run of the agent."""
    return Entry(
        id=budget_id,
        scope="agent",
        scope_value=agent.name,
        limits=limits,
        window="run",
        on_exceeded=_HANDOFFS.get(action, action),  # type: ignore[arg-type]
        enforcement=agent.enforcement,
        fail=agent.fail or ("closed" if agent.enforcement == "hold" else None),
    )


def _exact_numbers(content: Any) -> Any:
    """Floats as the decimals that were written."""
    if isinstance(content, float):
        return Decimal(repr(content))
    if isinstance(content, dict):
        return {key: _exact_numbers(value) for key, value in content.items()}
    return [_exact_numbers(value) for value in content] if isinstance(content, list) else content
