"""What each kind of channel is sent. Pure: the texts of a page as the target's own format.

Alertmanager API v2 (its openapi.yaml), PagerDuty Events API v2, Slack Block Kit in an incoming webhook, and for
webhooks a body of our own under Standard Webhooks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agentledger.sinks.notify.alerts import PageText
from agentledger.sinks.notify.incidents import Action

REFRESH_S = 60.0  # Alertmanager forgets what it isn't told again, and keeps nothing over its restarts
ALERT_LIFE_S = 5 * REFRESH_S
SLACK_FIELDS_MAX = 10  # of a section
SLACK_TEXT_CHARS_MAX = 2900  # Slack takes 3,000 in a section
SLACK_FIELD_CHARS_MAX = 1900  # of 2,000
_SLACK_MARKS = {"critical": "🔴", "warning": "🟠", "info": "🔵"}


@dataclass(frozen=True, slots=True)
class Told:
    """One delivery as it is sent: what, under which keys, when (microseconds since 1970), and who took it on. `labels`
    stay the same from trigger to resolve."""

    delivery_id: str
    action: Action
    dedup_key: str
    text: PageText
    now_us: int
    labels: tuple[tuple[str, str], ...] = ()
    acknowledged_by: str = ""


def alertmanager_body(told: Told) -> bytes:
    """A list of one alert. Its labels name it, so they are the same from trigger to resolve."""
    end_us = told.now_us if told.action == "resolve" else told.now_us + int(ALERT_LIFE_S * 1_000_000)
    labels = {_label(name): value for name, value in told.labels if value}
    alert = {
        "labels": {"alertname": "agentledger", **labels, "agentledger_page": told.dedup_key},
        "annotations": {
            "summary": told.text.title,
            "severity": told.text.severity,
            **{_label(name): value for name, value in told.text.facts},
            **({"runbook_url": told.text.runbook_url} if told.text.runbook_url else {}),
        },
        "startsAt": _rfc3339(told.text.since_us),
        "endsAt": _rfc3339(end_us),
        **({"generatorURL": told.text.console_url} if told.text.console_url else {}),
    }
    return _json([alert])


def pagerduty_body(told: Told, routing_key: str) -> bytes:
    """An event. Acknowledge and resolve need its keys alone."""
    action = "trigger" if told.action == "update" else told.action  # the same dedup_key: no second page
    event: dict[str, Any] = {"routing_key": routing_key, "event_action": action, "dedup_key": told.dedup_key}
    if action == "trigger":
        facts = dict(told.text.facts)
        event |= {
            "payload": {
                "summary": told.text.title[:1024],
                "source": f"agentledger/{facts.get('tenant', '')}",
                "severity": told.text.severity,
                "timestamp": _rfc3339(told.text.since_us),
                "class": facts.get("rule", ""),
                "group": facts.get("workflow", ""),
                "custom_details": facts,
            },
            "client": "agentledger",
            "links": [{"href": href, "text": text} for text, href in _links(told.text)],
        }
        if told.text.console_url:
            event["client_url"] = told.text.console_url
    return _json(event)


def slack_body(told: Told) -> bytes:
    """Blocks of plain text, in which nothing is markup, and a text for notifications, where markup is escaped."""
    head = {"acknowledge": f"👀 acknowledged by {told.acknowledged_by}", "resolve": "✅ resolved"}.get(
        told.action, f"{_SLACK_MARKS[told.text.severity]} {told.text.severity}"
    )
    title = f"{head}: {told.text.title}"
    blocks: list[dict[str, Any]] = [{"type": "section", "text": _plain(title, SLACK_TEXT_CHARS_MAX)}]
    if told.action in {"trigger", "update"}:
        fields = [_plain(f"{name}: {value}", SLACK_FIELD_CHARS_MAX) for name, value in told.text.facts]
        blocks += [
            {"type": "section", "fields": fields[first : first + SLACK_FIELDS_MAX]}
            for first in range(0, len(fields), SLACK_FIELDS_MAX)
        ]
        links = " · ".join(f"<{_escaped(href)}|{text}>" for text, href in _links(told.text))
        blocks += [{"type": "section", "text": {"type": "mrkdwn", "text": links}}] if links else []
    return _json({"text": _escaped(title[: SLACK_TEXT_CHARS_MAX // 5]), "blocks": blocks})


def webhook_body(told: Told) -> bytes:
    """`type` and `data` as Standard Webhooks proposes; the facts as they are on every page."""
    data = {
        "dedup_key": told.dedup_key,
        "title": told.text.title,
        "severity": told.text.severity,
        "since": _rfc3339(told.text.since_us),
        "facts": dict(told.text.facts),
        "runbook_url": told.text.runbook_url,
        "console_url": told.text.console_url,
        "acknowledged_by": told.acknowledged_by,
    }
    return _json({"type": f"alert.{told.action}", "timestamp": _rfc3339(told.now_us), "data": data})


def plain_body(told: Told) -> str:
    """The page as lines of text, for mail and the like."""
    lines = [f"{name}: {value}" for name, value in told.text.facts]
    lines += [f"{text}: {href}" for text, href in _links(told.text)]
    return "\n".join(lines)


def plain_title(told: Told) -> str:
    """The subject of such a text."""
    said = {"resolve": "resolved", "acknowledge": "acknowledged"}.get(told.action, told.text.severity)
    return f"[{said}] {told.text.title}"


def _links(text: PageText) -> list[tuple[str, str]]:
    return [(name, href) for name, href in (("console", text.console_url), ("runbook", text.runbook_url)) if href]


def _label(name: str) -> str:
    return "".join(char if char.isascii() and char.isalnum() else "_" for char in name)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _plain(text: str, chars_max: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": text[:chars_max], "emoji": False}


def _rfc3339(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1_000_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
