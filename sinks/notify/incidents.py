"""Incidents and their pages: what has to be told to which channel now. Pure: time and chance are arguments.

An incident is the open alerts that one route groups together; each of its channels has one page of it, which is told at
most one thing at a time: trigger, update, acknowledge, resolve.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from agentledger.sinks.notify.alerts import Alert

Action = Literal["trigger", "update", "acknowledge", "resolve", "refresh"]
Status = Literal["sent", "failed", "given_up"]
Fault = Literal["", "refused", "busy", "unreachable", "unsure"]
PAUSE_S_MAX = 300.0  # between two attempts
RETRY_AFTER_S_MAX = 3600.0  # what a channel may ask for; more would be as good as giving up
SAMPLE_MAX = 16  # alert ids in what is said of a delivery


@dataclass(slots=True)
class Delivery:
    """One thing to be told. `is_sending`: it was begun, so it may have arrived. `was_unsure`: an attempt may have."""

    delivery_id: str
    incident: str
    channel: str
    action: Action
    revision: int
    attempt: int = 1
    due_us: int = 0
    is_sending: bool = False
    was_unsure: bool = False


@dataclass(slots=True)
class Page:
    """An incident at one channel. `told`: the last thing that arrived; "given_up" where nothing more is told until
    there is news. `told_us` and `told_revision` are of the last thing told or given up."""

    told: str = ""
    told_revision: int = 0
    told_us: int = 0
    waiting: Delivery | None = None


@dataclass(slots=True)
class Incident:
    """Alerts that are told together. `revision` grows with each change that is worth telling; `shown` is the alert
    whose facts the page carries, by its last word; `labels` what it began as. `is_rest`: it stands for all groups of
    its route that came when there were too many incidents."""

    key: str
    route: str
    dedup_key: str
    severity: str
    shown: Alert
    opened_us: int
    last_us: int
    open_alerts: int = 0
    alerts: int = 0
    revision: int = 1
    acknowledged_by: str = ""
    escalations: int = 0
    first_told_us: int = 0
    is_rest: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    sample: list[str] = field(default_factory=list)
    pages: dict[str, Page] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt. `unsure`: it may have arrived. Repeating an unsure one is up to the channel."""

    fault: Fault = ""
    http_status: int | None = None
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ChannelRules:
    """What the rules need to know of a channel. `repeats_unsure`: what may have arrived is told again; `at_once_max`:
    so many deliveries are under way together."""

    attempts_max: int = 10
    retry_pause_s: float = 1.0
    pages_per_minute_max: int = 60
    repeats_unsure: bool = True
    acknowledges: bool = True
    refresh_s: float = 0.0  # 0: the channel forgets nothing
    at_once_max: int = 4


def next_action(
    incident: Incident, page: Page, rules: ChannelRules, now_us: int, update_every_s: float
) -> Action | None:
    """What this page has to be told now; None: nothing. Quiet hours and rates are looked at by whoever asks."""
    since_s = (now_us - page.told_us) / 1_000_000
    has_news = incident.revision > page.told_revision and since_s >= update_every_s
    if page.told == "given_up":  # nobody knows of what came since: it is tried again, as seldom as an update
        return "trigger" if incident.open_alerts and has_news else None
    if page.told in {"", "resolve"}:
        return "trigger" if incident.open_alerts else None
    if not incident.open_alerts:
        return "resolve"
    if incident.acknowledged_by and rules.acknowledges and page.told != "acknowledge":
        return "acknowledge"
    if has_news:
        return "update"
    return "refresh" if rules.refresh_s and since_s >= rules.refresh_s else None


def settle(
    incident: Incident, page: Page, rules: ChannelRules, outcome: Outcome, *, now_us: int, chance: float
) -> Status:
    """Take in what became of the page's delivery. `chance` is from 0 to 1. A failed one waits for its next attempt."""
    delivery = page.waiting
    if delivery is None:
        raise ValueError("this page has nothing under way")
    if not outcome.fault:
        _arrived(incident, page, delivery, now_us)
        return "sent"
    delivery.is_sending = False
    delivery.was_unsure |= outcome.fault == "unsure"
    is_final = outcome.fault == "refused" or (outcome.fault == "unsure" and not rules.repeats_unsure)
    if is_final or delivery.attempt >= rules.attempts_max:
        _give_up(incident, page, delivery, now_us)
        return "given_up"
    delivery.attempt += 1
    pause_s = min(PAUSE_S_MAX, rules.retry_pause_s * 2 ** (delivery.attempt - 2)) * (0.5 + chance)
    delivery.due_us = now_us + int(1_000_000 * max(pause_s, min(outcome.retry_after_s, RETRY_AFTER_S_MAX)))
    return "failed"


def recall(incident: Incident, page: Page) -> None:
    """Drop a trigger that waits for another attempt where nothing is open any more. One that may have arrived is taken
    for told, so that it is resolved."""
    delivery = page.waiting
    if delivery is None or delivery.action != "trigger" or delivery.is_sending or incident.open_alerts:
        return
    page.waiting = None
    page.told = "trigger" if delivery.was_unsure else ""


def is_over(incident: Incident) -> bool:
    """Whether nothing is open and everybody who was told knows."""
    pages = incident.pages.values()
    return not incident.open_alerts and all(
        page.waiting is None and page.told in {"", "resolve", "given_up"} for page in pages
    )


def _arrived(incident: Incident, page: Page, delivery: Delivery, now_us: int) -> None:
    page.waiting = None
    page.told_us = now_us
    page.told_revision = max(page.told_revision, delivery.revision)
    if delivery.action in {"trigger", "acknowledge", "resolve"}:
        page.told = delivery.action
    incident.first_told_us = incident.first_told_us or now_us


def _give_up(incident: Incident, page: Page, delivery: Delivery, now_us: int) -> None:
    """A trigger or resolve that can't be told ends the page until there is news; after an update or acknowledgement
    others may follow."""
    page.waiting = None
    page.told_us, page.told_revision = now_us, delivery.revision
    if delivery.action in {"trigger", "resolve"}:
        page.told = "given_up"
        incident.first_told_us = incident.first_told_us or now_us  # so that it escalates
    elif delivery.action == "acknowledge":
        page.told = "acknowledge"
