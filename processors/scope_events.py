"""How stage 2 says what it concluded of a tenant: envelopes, and alerts that are raised once, updated and resolved."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from agentledger.processors.partial_records import BUCKET_US
from agentledger.processors.scope_state import Alert, TenantState
from agentledger.schemas.events import AlertRaised, AlertResolved, AlertUpdated, Event
from agentledger.schemas.identity import content_id

ALERTS_MAX = 1000  # conditions remembered per tenant; those closed for longest are forgotten first
ALERTS_OPEN_MAX = 500  # open at a time; what would be more is told by these
SUMMARY_NAME_CHARS = 80
_RANK = {"info": 1, "warning": 2, "critical": 3}


class Finding(NamedTuple):
    """A condition that holds: what a rule found about one scope value."""

    rule: str
    severity: str
    scope: str
    scope_value: str
    summary: str
    subject: str = ""  # tells conditions of one rule and scope value apart
    rule_version: str = ""
    runbook_url: str = ""
    observed: float | None = None
    expected: float | None = None
    window_start_us: int | None = None
    window_end_us: int | None = None


class Conclusions:
    """Derived events of one tenant in one second, in order. Times are the end of that second.

    `sources` is the number of partitions of the runs' events, which are told what is declared for each run.
    """

    def __init__(self, state: TenantState, second: int, sources: int = 0) -> None:
        self.state = state
        self.second = second
        self.sources = sources
        self.now_us = (second + 1) * BUCKET_US
        self.events: list[Event] = []
        self.touched: dict[str, set[str]] = {}  # rule to the subjects about which this second said something

    def envelope(self, event_id: str, scope: str = "", scope_value: str = "") -> dict[str, Any]:
        """The envelope of the next derived event."""
        seq = self.state.derived_seq
        self.state.derived_seq = seq + 1
        return {
            "event_id": event_id,
            "tenant_id": self.state.tenant_id,
            "producer_id": f"scopes:{self.state.tenant_id}",
            "producer_seq": seq,
            "run_id": "",
            "agent_id": scope_value if scope == "agent" else "",
            "workflow": scope_value if scope == "workflow" else "",
            "actor": scope_value if scope == "user" else "",
            "occurred_at": self.now_us,
        }

    def say(self, finding: Finding) -> str:
        """Raise the alert of this condition, or count it where it is raised already; the alert's id."""
        alert_id = alert_id_of(self.state.tenant_id, finding)
        alert = self.state.alerts.get(alert_id)
        if alert is not None and alert.is_open:
            alert.count += 1
            is_worse = _RANK.get(finding.severity, 0) > _RANK.get(alert.severity, 0)
            if is_worse:
                alert.severity = finding.severity
            if is_worse or is_power_of_ten(alert.count):
                self._update(alert_id, alert, finding)
            return alert_id
        if sum(known.is_open for known in self.state.alerts.values()) >= ALERTS_OPEN_MAX:
            return alert_id
        generation = alert.generation + 1 if alert is not None else 1
        self.state.alerts[alert_id] = Alert(
            finding.rule, finding.severity, finding.scope, finding.scope_value, generation
        )
        self._forget_some()
        event_id = content_id(self.now_us, "AlertRaised", alert_id, str(generation))
        self.events.append(
            AlertRaised(
                **self.envelope(event_id, finding.scope, finding.scope_value),
                alert_id=alert_id,
                rule=finding.rule,
                severity=finding.severity,
                summary=finding.summary,
                scope=finding.scope,
                scope_value=finding.scope_value,
                runbook_url=finding.runbook_url,
                rule_version=finding.rule_version,
                observed=finding.observed,
                expected=finding.expected,
                window_start=finding.window_start_us,
                window_end=finding.window_end_us,
            )
        )
        return alert_id

    def is_open(self, alert_id: str) -> bool:
        """True where this alert is raised and not resolved."""
        alert = self.state.alerts.get(alert_id)
        return alert is not None and alert.is_open

    def resolve(self, alert_id: str, reason: str = "condition_ended") -> None:
        """Say that the condition of this alert is over, if it was raised."""
        alert = self.state.alerts.get(alert_id)
        if alert is None or not alert.is_open:
            return
        alert.is_open, alert.closed_at = False, self.second
        event_id = content_id(self.now_us, "AlertResolved", alert_id, str(alert.generation))
        self.events.append(
            AlertResolved(
                **self.envelope(event_id, alert.scope, alert.scope_value),
                alert_id=alert_id,
                rule=alert.rule,
                reason=reason,
                resolved_by=alert.rule,
            )
        )

    def memory(self, rule: str, version: str) -> dict[str, Any]:
        """What a rule remembers of the tenant. A rule that was changed starts anew."""
        known = self.state.rules.get(rule)
        if known is None or known["version"] != version:
            if known is not None:
                self._forget_rule(rule, "rule_changed")
            known = self.state.rules[rule] = {"version": version, "open": {}}
        return known

    def forget_rules(self, kept: Iterable[str]) -> None:
        """Drop what rules remember that are no longer there."""
        for rule in sorted(self.state.rules.keys() - set(kept)):
            self._forget_rule(rule, "rule_removed")

    def _forget_rule(self, rule: str, reason: str) -> None:
        for alert_id, _ in sorted(self.state.rules.pop(rule)["open"].values()):
            self.resolve(alert_id, reason)

    def _update(self, alert_id: str, alert: Alert, finding: Finding) -> None:
        event_id = content_id(self.now_us, "AlertUpdated", alert_id, str(alert.generation), str(alert.count))
        self.events.append(
            AlertUpdated(
                **self.envelope(event_id, finding.scope, finding.scope_value),
                alert_id=alert_id,
                rule=finding.rule,
                severity=finding.severity,
                summary=finding.summary,
                count=alert.count,
                observed=finding.observed,
                expected=finding.expected,
            )
        )

    def _forget_some(self) -> None:
        alerts = self.state.alerts
        if len(alerts) <= ALERTS_MAX:
            return
        closed = sorted((alert.closed_at, alert_id) for alert_id, alert in alerts.items() if not alert.is_open)
        for _, alert_id in closed[: len(alerts) - ALERTS_MAX]:
            del alerts[alert_id]


def alert_id_of(tenant_id: str, finding: Finding) -> str:
    """One id per condition: rule, tenant, scope, scope value and subject."""
    parts = (finding.rule, tenant_id, finding.scope, finding.scope_value)
    return content_id(0, "alert", *parts, *([finding.subject] if finding.subject else []))


def is_power_of_ten(count: int) -> bool:
    """True for 10, 100, 1000 and so on."""
    return count >= 10 and str(count).strip("0") == "1"


def short(text: str) -> str:
    """A name as it fits into a line."""
    return text if len(text) <= SUMMARY_NAME_CHARS else text[: SUMMARY_NAME_CHARS - 1] + "…"
