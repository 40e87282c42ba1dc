"""How a condition of one run becomes alerts: raised once, updated as it grows, resolved. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from agentledger.processors.rules.memory import RunFacts, RunMemory, Said
from agentledger.processors.rules.models import RunRule, rule_version
from agentledger.schemas.events import AlertRaised, AlertResolved, AlertUpdated
from agentledger.schemas.identity import content_id

ALERTS_MAX = 32  # conditions remembered of a run; more than that many at once are told by these
GENERATIONS_MAX = 20  # how often one condition of a run is raised anew; a run that flaps more has said so
NAME_CHARS = 80
_SEPARATOR = "\x1f"
GENERATION, IS_OPEN, COUNT, LAST_US = range(4)  # places in a remembered alert


class Found(NamedTuple):
    """A condition that holds. `seen` is how often it was seen; None: once more than before."""

    rule: RunRule
    summary: str
    subject: str = ""
    seen: int | None = None
    observed: float | None = None
    expected: float | None = None
    window_start_us: int | None = None
    window_end_us: int | None = None


def is_counted(run: RunFacts, memory: RunMemory, rule: RunRule, seen: int) -> bool:
    """Count a rule's condition, without a subject, where its alert is raised and there is nothing new to `say` of it.

    For conditions that hold from event to event: what would be said needn't be put into words.
    """
    alert = memory.alerts.get(rule.name)
    if alert is None or not alert[IS_OPEN] or _passes_power_of_ten(alert[COUNT], seen):
        return False
    _count(run, alert, seen)
    return True


def say(run: RunFacts, memory: RunMemory, found: Found, event_id: str | None) -> list[Said]:
    """Raise the alert of this condition, or count it where it is raised, and update it at 10, 100, 1000 and so on."""
    key = _key(found)
    alert = memory.alerts.get(key)
    if alert is not None and alert[IS_OPEN]:
        seen = found.seen if found.seen is not None else alert[COUNT] + 1
        is_news = _passes_power_of_ten(alert[COUNT], seen)
        _count(run, alert, seen)
        return [_updated(run, alert, key, found, event_id)] if is_news else []
    if alert is None:
        if len(memory.alerts) >= ALERTS_MAX:
            return []
        alert = memory.alerts[key] = [0, 0, 0, 0]
    if alert[GENERATION] >= GENERATIONS_MAX:
        return []
    alert[:] = [alert[GENERATION] + 1, 1, found.seen or 1, run.last_time_us]
    return [_raised(run, alert, key, found, event_id)]


def resolve(run: RunFacts, memory: RunMemory, rule: RunRule, reason: str, subject: str | None = None) -> list[Said]:
    """Say that a rule's conditions are over, where they were raised: that of one subject, or all."""
    said: list[Said] = []
    for key, alert in memory.alerts.items():
        name, _, its_subject = key.partition(_SEPARATOR)
        if name == rule.name and alert[IS_OPEN] and subject in (None, its_subject):
            alert[IS_OPEN] = 0
            fields: dict[str, Any] = {
                "alert_id": alert_id_of(run, rule.name, its_subject),
                "rule": rule.name,
                "reason": reason,
                "resolved_by": rule.name,
            }
            said.append(Said(AlertResolved, ("AlertResolved", key, str(alert[GENERATION])), fields))
    return said


def resolve_quiet(run: RunFacts, memory: RunMemory, rule: RunRule, now_us: int) -> list[Said]:
    """Resolve the rule's alerts that weren't seen for as long as it says."""
    said: list[Said] = []
    for subject, alert in open_alerts(memory, rule):
        if now_us >= alert[LAST_US] + rule.quiet_us:
            said += resolve(run, memory, rule, "quiet", subject)
    return said


def open_alerts(memory: RunMemory, rule: RunRule) -> list[tuple[str, list[int]]]:
    """Subject and alert of those of the rule that are raised and not resolved."""
    found = []
    for key, alert in memory.alerts.items():
        name, _, subject = key.partition(_SEPARATOR)
        if name == rule.name and alert[IS_OPEN]:
            found.append((subject, alert))
    return found


def is_open(memory: RunMemory, rule: RunRule, subject: str = "") -> bool:
    """True where the alert is raised and not resolved."""
    alert = memory.alerts.get(rule.name + _SEPARATOR + subject if subject else rule.name)
    return alert is not None and bool(alert[IS_OPEN])


def alert_id_of(run: RunFacts, rule_name: str, subject: str) -> str:
    """One id per condition: rule, tenant, run and subject."""
    return content_id(0, "alert", rule_name, run.tenant_id, "run", run.run_id, *([subject] if subject else []))


def short(text: str) -> str:
    """A name as it fits into a line."""
    return text if len(text) <= NAME_CHARS else text[: NAME_CHARS - 1] + "…"


def _key(found: Found) -> str:
    return found.rule.name + _SEPARATOR + found.subject if found.subject else found.rule.name


def _raised(run: RunFacts, alert: list[int], key: str, found: Found, event_id: str | None) -> Said:
    rule = found.rule
    fields: dict[str, Any] = {
        "alert_id": alert_id_of(run, rule.name, found.subject),
        "rule": rule.name,
        "severity": rule.severity,
        "summary": found.summary,
        "scope": "run",
        "scope_value": run.run_id,
        "runbook_url": rule.runbook_url,
        "trigger_event_ids": [] if event_id is None else [event_id],
        "rule_version": rule_version(rule),
        "count": alert[COUNT],
        "observed": found.observed,
        "expected": found.expected,
        "window_start": found.window_start_us,
        "window_end": found.window_end_us,
    }
    return Said(AlertRaised, ("AlertRaised", key, str(alert[GENERATION])), fields)


def _updated(run: RunFacts, alert: list[int], key: str, found: Found, event_id: str | None) -> Said:
    fields: dict[str, Any] = {
        "alert_id": alert_id_of(run, found.rule.name, found.subject),
        "rule": found.rule.name,
        "severity": found.rule.severity,
        "summary": found.summary,
        "count": alert[COUNT],
        "observed": found.observed,
        "expected": found.expected,
        "trigger_event_ids": [] if event_id is None else [event_id],
    }
    return Said(AlertUpdated, ("AlertUpdated", key, str(alert[GENERATION]), str(alert[COUNT])), fields)


def _count(run: RunFacts, alert: list[int], seen: int) -> None:
    alert[LAST_US] = run.last_time_us
    alert[COUNT] = max(alert[COUNT], seen)


def _passes_power_of_ten(before: int, after: int) -> bool:
    return after > before and after >= 10 and len(str(after)) > len(str(before))
