"""Which route an alert takes, what it is grouped with, and whether a channel rests. Pure: the time is an argument."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from agentledger.sinks.notify.alerts import NAME_CHARS_MAX, Alert, plain
from agentledger.sinks.notify.settings import WORK_WEEK, QuietHours, Route


def route_of(alert: Alert, routes: Sequence[Route]) -> Route:
    """The first route that matches. The last one matches everything."""
    return next((route for route in routes[:-1] if _matches(alert, route)), routes[-1])


def group_key(alert: Alert, route: Route) -> str:
    """What alerts of one incident have in common: 32 hex digits. Two routes never share an incident."""
    values = [route.name, *(str(_value(alert, name)) for name in route.group_by)]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def group_labels(alert: Alert, route: Route) -> dict[str, str]:
    """The same as names and values, for targets that route on by labels; with the severity that it begins with."""
    named: dict[str, str] = {name: plain(str(_value(alert, name)), NAME_CHARS_MAX) for name in route.group_by}
    named["alertname"] = named.pop("rule", route.name)
    return {**named, "severity": alert.severity}


def rest_key(route: Route) -> str:
    """The incident of all alerts of a route for which there is no room for incidents of their own."""
    return hashlib.sha256(json.dumps([route.name, "rest", "of", "the", "route"]).encode()).hexdigest()[:32]


def rest_labels(alert: Alert) -> dict[str, str]:
    """What it is called where targets route on by labels."""
    return {"alertname": "too_many_pages", "severity": alert.severity}


def is_quiet(hours: Sequence[QuietHours], severity: str, now_us: int) -> bool:
    """Whether pages of this severity wait now. What begins on a day and ends before it began, ends on the next."""
    return any(severity in one.severities and _rests(one, now_us) for one in hours)


def _rests(hours: QuietHours, now_us: int) -> bool:
    now = datetime.fromtimestamp(now_us / 1_000_000, UTC).astimezone(ZoneInfo(hours.time_zone))
    clock = f"{now:%H:%M}"
    today, yesterday = WORK_WEEK[now.weekday()], WORK_WEEK[(now - timedelta(days=1)).weekday()]
    if hours.begin < hours.end:
        return today in hours.days and hours.begin <= clock < hours.end
    return (today in hours.days and clock >= hours.begin) or (yesterday in hours.days and clock < hours.end)


def _matches(alert: Alert, route: Route) -> bool:
    match = route.match
    wanted = (
        (match.severity, alert.severity), (match.tenant, alert.tenant_id), (match.workflow, alert.workflow),
        (match.team, alert.team), (match.rule, alert.rule),
    )  # fmt: skip
    return all(not names or any(_fits(name, value) for name in names) for names, value in wanted)


def _fits(pattern: str, value: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), value, re.DOTALL) is not None


def _value(alert: Alert, name: str) -> str:
    names = {"tenant": "tenant_id", "run": "run_id"}
    value: str = getattr(alert, names.get(name, name))
    return value
