"""PagerDuty's own webhooks (V3) as answers to pages: incident.acknowledged and incident.resolved, done by a person.

The signature is the HMAC-SHA256 of the body under the subscription's secret; the header may hold several while secrets
change. An incident's `incident_key` is the `dedup_key` that it was triggered with.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from agentledger.schemas.errors import UsageError
from agentledger.sinks.notify.alerts import NAME_CHARS_MAX, plain
from agentledger.sinks.notify.incoming import Answered, PageAnswer, SignatureError

BODY_BYTES_MAX = 256 * 1024  # an incident with all its assignees and teams
AGE_MAX = timedelta(hours=49)  # it tries a webhook again for 48 hours; what is older is somebody's replay
AHEAD_MAX = timedelta(minutes=5)  # what its clock may be ahead of ours
_ANSWERS: dict[str, Answered] = {"incident.acknowledged": "acknowledged", "incident.resolved": "resolved"}


def read_pagerduty_answer(secret: bytes, headers: Mapping[str, str], body: bytes, now: datetime) -> PageAnswer | None:
    """The answer in a signed webhook; None where it says nothing that a person did about a page: other events, and
    what our own pages or PagerDuty's timers brought about.

    Raises SignatureError, UsageError where it is signed and can't be read, or older than PagerDuty would send.
    """
    if not _is_signed(secret, headers.get("x-pagerduty-signature", ""), body):
        raise SignatureError("the signature doesn't hold", next_step="give incoming the webhook subscription's secret")
    try:
        event = json.loads(body)["event"]
        event_id, kind, happened = event["id"], event["event_type"], datetime.fromisoformat(event["occurred_at"])
        agent, data = event.get("agent") or {}, event["data"]
        key = data.get("incident_key") or ""
        by_person, name = agent.get("type") == "user_reference", agent.get("summary") or agent.get("id") or ""
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError("the message is no event of PagerDuty's webhooks V3") from None
    if not _is_timely(happened, now):
        raise UsageError("the event is older than PagerDuty sends one, or from the future")
    answered = _ANSWERS.get(kind) if isinstance(kind, str) else None
    if answered is None or not by_person or not key:
        return None
    if not all(isinstance(text, str) for text in (event_id, key, name)):
        raise UsageError("a field of the event is no text")
    return PageAnswer(event_id, answered, key, plain(name, NAME_CHARS_MAX), _reason(data), "pagerduty")


def _is_signed(secret: bytes, header: str, body: bytes) -> bool:
    expected = b"v1=" + hmac.new(secret, body, hashlib.sha256).hexdigest().encode()
    given = [one.strip().encode("latin-1", "replace") for one in header.split(",")]
    return any(hmac.compare_digest(expected, one) for one in given)


def _is_timely(happened: datetime, now: datetime) -> bool:
    at = happened if happened.tzinfo else happened.replace(tzinfo=UTC)
    return now - AGE_MAX <= at <= now + AHEAD_MAX


def _reason(data: Mapping[str, Any]) -> str:
    """The number that people find the incident under there."""
    number = data.get("number")
    return f"PagerDuty incident {number}" if isinstance(number, int) else ""
