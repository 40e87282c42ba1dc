"""What is known of an alert while it is open, and the texts of its page: bounded, without control characters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from agentledger.schemas.events import AlertRaised

TEXT_CHARS_MAX = 500
SUMMARY_CHARS_MAX = 900  # PagerDuty takes 1,024, with a count before it
NAME_CHARS_MAX = 200
URL_CHARS_MAX = 1500
SEVERITIES = ("info", "warning", "critical")


@dataclass(slots=True)
class Alert:
    """An open alert, by its last word. `raised_us` is ledger time, microseconds since 1970; `incident` its key."""

    alert_id: str
    raised_event_id: str
    tenant_id: str
    rule: str
    severity: str
    summary: str
    scope: str
    scope_value: str
    run_id: str
    workflow: str
    agent_id: str
    environment: str
    team: str
    runbook_url: str
    count: int
    observed: float | None
    expected: float | None
    raised_us: int
    last_us: int
    incident: str = ""


@dataclass(frozen=True, slots=True)
class PageText:
    """What a page says. `facts` are names and values in the order to show them; a link that isn't known is empty."""

    title: str
    severity: str
    facts: tuple[tuple[str, str], ...]
    runbook_url: str
    console_url: str
    since_us: int


def alert_of(event: AlertRaised, ledger_us: int) -> Alert:
    """The alert that this event raises."""
    return Alert(
        alert_id=event.alert_id,
        raised_event_id=event.event_id,
        tenant_id=event.tenant_id,
        rule=event.rule,
        severity=event.severity if event.severity in SEVERITIES else "critical",  # unheard of: rather wake somebody
        summary=event.summary[:SUMMARY_CHARS_MAX],
        scope=event.scope,
        scope_value=event.scope_value[:NAME_CHARS_MAX],
        run_id=event.run_id[:NAME_CHARS_MAX],
        workflow=event.workflow[:NAME_CHARS_MAX],
        agent_id=event.agent_id[:NAME_CHARS_MAX],
        environment=event.environment[:NAME_CHARS_MAX],
        team=event.labels.get("team", "")[:NAME_CHARS_MAX],
        runbook_url=event.runbook_url,
        count=event.count,
        observed=event.observed,
        expected=event.expected,
        raised_us=ledger_us,
        last_us=ledger_us,
    )


def page_text(
    alert: Alert, *, alerts: int, severity: str, since_us: int, console_url: str, is_rest: bool = False
) -> PageText:
    """The page of an incident: `alert` is the one it shows, `alerts` how many it stands for. `is_rest`: of whatever
    kinds, as too many pages are open."""
    more = f" (and {alerts - 1} more)" if alerts > 1 else ""
    named = {
        "rule": alert.rule,
        "tenant": alert.tenant_id,
        "since": f"{datetime.fromtimestamp(since_us / 1_000_000, UTC):%Y-%m-%d %H:%M:%S} UTC",
        "alerts": str(alerts),
        "page": "stands for all further kinds: too many pages are open" if is_rest else "",
        "seen": f"{alert.count} times" if alert.count > 1 else "",
        "observed": _number(alert.observed),
        "expected": _number(alert.expected),
        alert.scope or "scope": alert.scope_value,
        "run": alert.run_id,
        "workflow": alert.workflow,
        "agent": alert.agent_id,
        "team": alert.team,
        "environment": alert.environment,
    }
    return PageText(
        title=f"{plain(alert.summary, SUMMARY_CHARS_MAX) or plain(alert.rule, NAME_CHARS_MAX)}{more}",
        severity=severity,
        facts=tuple(
            (plain(name, NAME_CHARS_MAX), plain(value, TEXT_CHARS_MAX)) for name, value in named.items() if value
        ),
        runbook_url=link(alert.runbook_url),
        console_url=console_link(console_url, alert),
        since_us=since_us,
    )


def plain(text: str, chars_max: int) -> str:
    """The text on one line, without control and direction characters, cut."""
    shown = "".join(char if char.isprintable() else " " for char in text[: 4 * chars_max])
    shown = " ".join(shown.split())
    return shown if len(shown) <= chars_max else shown[: chars_max - 1] + "…"


def link(url: str) -> str:
    """The address where it is one that may be shown as a link; empty otherwise."""
    is_shown = url.startswith(("https://", "http://")) and url.isprintable() and not set(url) & set(" <>\"'`|")
    return url if is_shown and len(url) <= URL_CHARS_MAX else ""


def console_link(console_url: str, alert: Alert) -> str:
    """The console's page of the run, or of the alerts where it is no run's; empty where no console is known."""
    if not console_url:
        return ""
    if alert.run_id:
        return link(f"{console_url}/run?{urlencode({'id': alert.run_id})}")
    return f"{console_url}/alerts"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.6g}"
