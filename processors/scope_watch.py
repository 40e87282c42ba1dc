"""What the anomaly rules of stage 2 have in common: subjects, windows in slots, and when an alert is over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from agentledger.processors.partial_records import BUCKET_US, Partial
from agentledger.processors.rules.models import (
    DenialBurst,
    ErrorRate,
    Latency,
    NewVersion,
    SequenceGap,
    SpendBurnRate,
    SpendSpike,
    UnpricedModel,
    Where,
    rule_version,
)
from agentledger.processors.scope_events import Conclusions, Finding
from agentledger.processors.scope_state import NEVER
from agentledger.schemas.errors import ConfigurationError

SUBJECTS_MAX = 200  # per rule and tenant; what comes when so many are known is left out until some fall quiet
WINDOW_SLOTS = 5  # a window is summed in so many slots and the one under way: up to a fifth longer than said

Memory = dict[str, Any]  # JSON: texts for keys, as numbers don't survive as such
AnyScopeRule = SpendBurnRate | SpendSpike | ErrorRate | Latency | DenialBurst | SequenceGap | NewVersion | UnpricedModel
R = TypeVar("R", bound=AnyScopeRule)


class RuleWatch(ABC, Generic[R]):
    """One rule. A kind says in `observe` what a second means for its subjects, and in `holds` which are conspicuous."""

    where_known: ClassVar[frozenset[str]] = (
        frozenset()
    )  # what `where` may name beside tenants: the rest isn't known here

    def __init__(self, rule: R) -> None:
        self.rule = rule
        self.version = rule_version(rule)
        self._tenants = Where(tenant=rule.where.tenant)
        named = {name for name in ("workflow", "agent", "environment") if getattr(rule.where, name)}
        if named - self.where_known:
            name = min(named - self.where_known)
            raise ConfigurationError(
                f"rule {rule.name!r} can't be for one {name}: what a {rule.kind} looks at is counted per tenant",
                next_step="take it out of the rule's where",
            )

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.rule.name

    def memory(self, out: Conclusions) -> Memory:
        """What the rule remembers of the tenant."""
        return out.memory(self.name, self.version)

    def touch(self, out: Conclusions, subject: str) -> None:
        """This second said something about the subject: it is looked at when the second is over."""
        out.touched.setdefault(self.name, set()).add(subject)

    @abstractmethod
    def observe(self, out: Conclusions, second: Partial, added: dict[str, dict[str, int]]) -> None:
        """Take in what happened in one second."""

    @abstractmethod
    def holds(self, out: Conclusions, memory: Memory, subject: str) -> Finding | None:
        """What is conspicuous about a subject now, or None."""

    def step_s(self) -> int:
        """How often an open alert is looked at while nothing happens, seconds."""
        return 60

    def applies(self, out: Conclusions) -> bool:
        """True where the rule is for this tenant."""
        return self._tenants.matches(tenant=out.state.tenant_id)

    def pass_time(self, out: Conclusions) -> None:
        """Look at what was touched and what is open; raise, count, resolve."""
        touched = out.touched.get(self.name, set())
        if not touched and self.name not in out.state.rules:
            return
        memory = self.memory(out)
        is_open: dict[str, list[Any]] = memory["open"]
        for subject in sorted(touched | is_open.keys()):
            finding = self.holds(out, memory, subject) if subject in touched or self._ends_itself() else None
            if finding is not None and subject in touched:
                alert_id = out.say(finding)
                if self.rule.resolve != "never" and out.is_open(alert_id):
                    is_open[subject] = [alert_id, out.second]
            elif subject in is_open and self._is_over(out, is_open[subject][1], finding):
                out.resolve(is_open.pop(subject)[0], "quiet" if self.rule.resolve == "quiet" else "condition_ended")

    def deadline(self, out: Conclusions) -> int:
        """When an open alert has to be looked at without any event."""
        memory = out.state.rules.get(self.name)
        if not memory or not memory["open"]:
            return NEVER
        if self._ends_itself():
            step_s = max(1, self.step_s())
            return (out.second // step_s + 1) * step_s
        quiet_s = seconds(self.rule.quiet_us)
        soonest: int = min(last for _, last in memory["open"].values())
        return max(out.second + 1, soonest + quiet_s)

    def finding(self, scope: str, scope_value: str, summary: str, **more: Any) -> Finding:
        """A finding of this rule."""
        usual: dict[str, Any] = {
            "severity": self.rule.severity,
            "rule_version": self.version,
            "runbook_url": self.rule.runbook_url,
        }
        return Finding(rule=self.name, scope=scope, scope_value=scope_value, summary=summary, **(usual | more))

    def _ends_itself(self) -> bool:
        return self.rule.resolve in {"condition_ends", "run_ends"}

    def _is_over(self, out: Conclusions, last: int, finding: Finding | None) -> bool:
        if self._ends_itself():
            return finding is None
        return out.second - last >= seconds(self.rule.quiet_us)


def seconds(duration_us: int) -> int:
    """Whole seconds, at least one."""
    return max(1, duration_us // BUCKET_US)


def slot_width_s(window_us: int, slots: int = WINDOW_SLOTS) -> int:
    """Width of the slots of a window, seconds."""
    return max(1, -(-seconds(window_us) // slots))


def add_to_slot(slots: list[Any], slot: int, oldest: int, amounts: list[int]) -> None:
    """Add to the newest slot of [[slot, amount, …], …], and drop those before `oldest`."""
    while slots and slots[0][0] < oldest:
        slots.pop(0)
    if not slots or slots[-1][0] < slot:
        slots.append([slot, *amounts])
        return
    for place, amount in enumerate(amounts, start=1):
        slots[-1][place] += amount


def sum_since(slots: list[Any], oldest: int, place: int = 1) -> int:
    """The sum of one amount over slots from `oldest` on."""
    return sum(item[place] for item in slots if item[0] >= oldest)


def subject_of(subjects: dict[str, Any], name: str, empty: Any, *, is_idle: Any = None) -> Any:
    """What is remembered of a subject, `empty` at first; None where too many are known and none has fallen quiet."""
    known = subjects.get(name)
    if known is not None:
        return known
    if len(subjects) >= SUBJECTS_MAX and is_idle is not None:
        for other in [key for key, value in subjects.items() if is_idle(value)]:
            del subjects[other]
    if len(subjects) >= SUBJECTS_MAX:
        return None
    subjects[name] = empty
    return empty
