"""The desk: open alerts, incidents, and what they ask for next. Pure: no clock, no disk, no network of its own.

What was changed since it was last asked stands in `changes`, for whoever keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentledger.schemas.events import AlertAcknowledged, AlertRaised, AlertResolved, AlertUpdated, Event
from agentledger.sinks.notify.alerts import SEVERITIES, SUMMARY_CHARS_MAX, Alert, PageText, alert_of, page_text
from agentledger.sinks.notify.incidents import (
    SAMPLE_MAX,
    Action,
    ChannelRules,
    Delivery,
    Incident,
    Outcome,
    Page,
    Status,
    is_over,
    next_action,
    recall,
    settle,
)
from agentledger.sinks.notify.payloads import Told
from agentledger.sinks.notify.routing import group_key, group_labels, is_quiet, rest_key, rest_labels, route_of
from agentledger.sinks.notify.settings import NotifyFile, Route

CLOSED_MAX = 20_000  # raises remembered after their end: one that comes again is known
# Open alerts in memory, of about 1 kB each. One beyond is told with its incident, but its end isn't seen: rather a page
# that stays too long than one that is resolved while something burns.
ALERTS_MAX = 100_000
# Each step looks at every incident. An alert that would open one beyond joins the one page of its route for the rest.
INCIDENTS_MAX = 5_000
MINUTE_US = 60_000_000
_RANK = {severity: rank for rank, severity in enumerate(SEVERITIES)}


@dataclass
class Changes:
    """Keys of what was changed; a key that is no longer there was removed."""

    alerts: set[str] = field(default_factory=set)
    incidents: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)

    def any(self) -> bool:
        """Whether anything was changed."""
        return bool(self.alerts or self.incidents or self.closed)


class Desk:
    """Takes alert events, says what to tell. `rules` has an entry for each channel of the file."""

    def __init__(self, file: NotifyFile, rules: Mapping[str, ChannelRules]) -> None:
        self.file = file
        self.rules = rules
        self.alerts: dict[str, Alert] = {}
        self.incidents: dict[str, Incident] = {}
        self.closed: dict[str, None] = {}
        self.begun_us: dict[str, list[int]] = {name: [] for name in rules}
        self.changes = Changes()
        self._routes = {route.name: route for route in file.routes}

    def take(self, event: Event, ledger_us: int) -> None:
        """Fold one event of the alerts' topic. `ledger_us` is its ledger time. What is no alert is passed over."""
        if isinstance(event, AlertRaised):
            self._raised(event, ledger_us)
        elif isinstance(event, AlertUpdated):
            self._updated(event, ledger_us)
        elif isinstance(event, AlertResolved):
            self._closed(event.alert_id)
        elif isinstance(event, AlertAcknowledged):
            self._acknowledged(event)

    def leave_out_unknown_channels(self) -> None:
        """After a restart with another file: a channel that is no longer in it is told nothing more."""
        for incident in self.incidents.values():
            for name in incident.pages.keys() - self.rules.keys():
                del incident.pages[name]
                self.changes.incidents.add(incident.key)

    def due(self, now_us: int, room: Mapping[str, int]) -> list[Delivery]:
        """What has to be told now, marked as being sent: the worst first. Keep the changes before you send it.

        `room` says how many deliveries each channel takes.
        """
        self._forget(now_us)
        left = dict(room)
        found = []
        for incident in sorted(self.incidents.values(), key=lambda one: (-_RANK[one.severity], one.opened_us)):
            self._escalate(incident, now_us)
            for name, page in incident.pages.items():
                delivery = self._next(incident, name, page, now_us) if left.get(name, 0) else None
                if delivery is not None:
                    delivery.is_sending = True
                    left[name] -= 1
                    self.changes.incidents.add(incident.key)
                    found.append(delivery)
            self._drop_if_over(incident)
        return found

    def settle(self, delivery: Delivery, outcome: Outcome, now_us: int, chance: float) -> Status:
        """Take in what became of a delivery that `due` gave."""
        incident = self.incidents[delivery.incident]
        rules = self.rules[delivery.channel]
        status = settle(incident, incident.pages[delivery.channel], rules, outcome, now_us=now_us, chance=chance)
        self.changes.incidents.add(incident.key)
        return status

    def interrupted(self) -> list[tuple[Delivery, Outcome]]:
        """After a restart: what was being sent when the program ended. It may have arrived."""
        pages = (page for incident in self.incidents.values() for page in incident.pages.values())
        under_way = [page.waiting for page in pages if page.waiting is not None and page.waiting.is_sending]
        return [(delivery, Outcome("unsure")) for delivery in under_way]

    def told(self, delivery: Delivery, now_us: int) -> Told:
        """What is sent for this delivery, as things stand now."""
        incident = self.incidents[delivery.incident]
        return Told(
            delivery_id=delivery.delivery_id,
            action="update" if delivery.action == "refresh" else delivery.action,
            dedup_key=incident.dedup_key,
            text=self.text_of(incident),
            now_us=now_us,
            labels=tuple(incident.labels.items()),
            acknowledged_by=incident.acknowledged_by,
        )

    def text_of(self, incident: Incident) -> PageText:
        """What the incident's page says now."""
        return page_text(
            incident.shown,
            alerts=incident.alerts,
            severity=incident.severity,
            since_us=incident.opened_us,
            console_url=self.file.console_url,
            is_rest=incident.is_rest,
        )

    def _raised(self, event: AlertRaised, ledger_us: int) -> None:
        if event.event_id in self.closed:
            return
        alert = alert_of(event, ledger_us)
        known = self.alerts.get(alert.alert_id)
        if known is not None:
            if known.raised_event_id != alert.raised_event_id:
                self._grown(known, event.severity, event.summary, event.count, ledger_us)
            return
        route = route_of(alert, self.file.routes)
        if not route.channels:
            return
        alert.incident = group_key(alert, route)
        is_rest = len(self.incidents) >= INCIDENTS_MAX and alert.incident not in self.incidents
        if is_rest:
            alert.incident = rest_key(route)
        if len(self.alerts) < ALERTS_MAX:
            self.alerts[alert.alert_id] = alert
        self._join(alert, route, is_rest=is_rest)

    def _join(self, alert: Alert, route: Route, *, is_rest: bool) -> None:
        incident = self.incidents.get(alert.incident)
        if incident is None:
            labels = rest_labels(alert) if is_rest else group_labels(alert, route)
            incident = self.incidents[alert.incident] = Incident(
                key=alert.incident, route=route.name, dedup_key=f"{alert.incident}-{alert.raised_us}",
                severity=alert.severity, shown=alert, opened_us=alert.raised_us, last_us=alert.last_us,
                revision=0, is_rest=is_rest, labels=labels, pages={name: Page() for name in route.channels},
            )  # fmt: skip
        elif not incident.open_alerts:
            _begin_again(incident, alert)
        incident.open_alerts += 1
        incident.alerts += 1
        if len(incident.sample) < SAMPLE_MAX:
            incident.sample.append(alert.alert_id)
        self._changed(incident, alert)

    def _updated(self, event: AlertUpdated, ledger_us: int) -> None:
        alert = self.alerts.get(event.alert_id)
        if alert is not None:
            alert.observed, alert.expected = event.observed, event.expected
            self._grown(alert, event.severity, event.summary, event.count, ledger_us)

    def _grown(self, alert: Alert, severity: str, summary: str, count: int, ledger_us: int) -> None:
        alert.count = max(alert.count, count)
        alert.summary = summary[:SUMMARY_CHARS_MAX] or alert.summary
        alert.severity = severity if severity in _RANK else alert.severity
        alert.last_us = ledger_us
        self._changed(self.incidents[alert.incident], alert)

    def _changed(self, incident: Incident, alert: Alert) -> None:
        """An open alert of the incident came or grew: the page shows the worst one."""
        incident.revision += 1
        incident.last_us = max(incident.last_us, alert.last_us)
        is_worse = _RANK[alert.severity] > _RANK[incident.severity]
        incident.severity = alert.severity if is_worse else incident.severity
        shown = incident.shown.alert_id
        if is_worse or shown == alert.alert_id or shown not in self.alerts:
            incident.shown = alert
        self.changes.alerts.add(alert.alert_id)
        self.changes.incidents.add(incident.key)

    def _closed(self, alert_id: str) -> None:
        alert = self.alerts.pop(alert_id, None)
        if alert is None:
            return
        incident = self.incidents[alert.incident]
        incident.open_alerts -= 1
        self._remember(alert.raised_event_id)
        self.changes.incidents.add(incident.key)
        self.changes.alerts.add(alert_id)

    def _remember(self, raised_event_id: str) -> None:
        self.closed[raised_event_id] = None
        self.changes.closed.add(raised_event_id)
        while len(self.closed) > CLOSED_MAX:
            oldest = next(iter(self.closed))
            del self.closed[oldest]
            self.changes.closed.add(oldest)

    def _acknowledged(self, event: AlertAcknowledged) -> None:
        alert = self.alerts.get(event.alert_id)
        if alert is not None:
            incident = self.incidents[alert.incident]
            incident.acknowledged_by = (event.acknowledged_by or "somebody")[:200]
            self.changes.incidents.add(incident.key)

    def _forget(self, now_us: int) -> None:
        """End incidents of which nothing was heard for long: some rules never resolve, and the next alert must page."""
        oldest_us = now_us - int(self.file.forget_after_hours * 3600 * 1_000_000)
        quiet = {one.key: one for one in self.incidents.values() if one.last_us < oldest_us and one.open_alerts}
        if not quiet:
            return
        for alert_id in [alert.alert_id for alert in self.alerts.values() if alert.incident in quiet]:
            self._closed(alert_id)
        for incident in quiet.values():
            incident.open_alerts = 0  # those beyond ALERTS_MAX, too
            self.changes.incidents.add(incident.key)

    def _escalate(self, incident: Incident, now_us: int) -> None:
        route = self._routes.get(incident.route)
        steps = route.escalate[incident.escalations :] if route is not None else ()
        if not steps or incident.acknowledged_by or not incident.open_alerts or not incident.first_told_us:
            return
        nobody_knows = all(page.told == "given_up" for page in incident.pages.values())
        if nobody_knows or now_us - incident.first_told_us >= steps[0].after_minutes * MINUTE_US:
            for name in steps[0].channels:
                incident.pages.setdefault(name, Page())
            incident.escalations += 1
            self.changes.incidents.add(incident.key)

    def _next(self, incident: Incident, name: str, page: Page, now_us: int) -> Delivery | None:
        before = page.waiting
        recall(incident, page)
        if page.waiting is not before:
            self.changes.incidents.add(incident.key)
        if page.waiting is not None:
            return page.waiting if not page.waiting.is_sending and page.waiting.due_us <= now_us else None
        route = self._routes.get(incident.route)
        action = next_action(incident, page, self.rules[name], now_us, route.update_every_s if route else 300.0)
        if action is None or not self._may_begin(incident, name, action, route, now_us):
            return None
        page.waiting = Delivery(
            f"{incident.dedup_key}/{name}/{action}/{incident.revision}", incident.key, name, action, incident.revision
        )
        return page.waiting

    def _may_begin(self, incident: Incident, name: str, action: Action, route: Route | None, now_us: int) -> bool:
        """Triggers and updates wait for quiet hours, for their group and for the channel's rate; what ends a page
        doesn't."""
        if action not in {"trigger", "update"}:
            return True
        if is_quiet(self.file.channels[name].quiet_hours, incident.severity, now_us):
            return False
        if route is not None and now_us < incident.opened_us + route.group_wait_s * 1_000_000:
            return False
        begun = self.begun_us[name] = [at for at in self.begun_us[name] if at > now_us - MINUTE_US]
        if len(begun) >= self.rules[name].pages_per_minute_max:
            return False
        begun.append(now_us)
        return True

    def _drop_if_over(self, incident: Incident) -> None:
        if is_over(incident):
            del self.incidents[incident.key]
            self.changes.incidents.add(incident.key)


def _begin_again(incident: Incident, alert: Alert) -> None:
    """Everything was over, and somebody is still being told so: what comes now is told anew, under the same key."""
    incident.shown, incident.severity, incident.opened_us = alert, alert.severity, alert.raised_us
    incident.acknowledged_by, incident.escalations, incident.first_told_us = "", 0, 0
    incident.alerts, incident.sample = 0, []
    for page in incident.pages.values():
        page.told = "" if page.told == "given_up" else page.told
