"""What people do with a page comes back as a signed webhook, and becomes events: acknowledged, or resolved by a person.

The message is as Standard Webhooks says: `type` is alert.acknowledged or alert.resolved, `data` has the page's
`dedup_key`, and may have `by` and `reason`. A message that comes twice makes the same events, which count once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from standardwebhooks import Webhook, WebhookVerificationError

from agentledger.schemas import content_id
from agentledger.schemas.errors import UsageError
from agentledger.schemas.events import AlertAcknowledged, AlertResolved
from agentledger.sinks.notify.alerts import NAME_CHARS_MAX, TEXT_CHARS_MAX, Alert, plain

BODY_BYTES_MAX = 16 * 1024  # a key, a name and a reason
UNCOUNTED = -1  # the producer_seq of events that nobody counted
Answered = Literal["acknowledged", "resolved"]


class SignatureError(UsageError):
    """The message isn't signed by whoever knows the secret, or is older or newer than five minutes."""


class PageAnswer(NamedTuple):
    """What a person said of a page. `via` says by which way it came."""

    message_id: str
    answered: Answered
    dedup_key: str
    by: str
    reason: str
    via: str = "webhook"


def read_answer(webhook: Webhook, headers: Mapping[str, str], body: bytes) -> PageAnswer:
    """The answer in a signed message. Raises SignatureError, UsageError where it says nothing that is known here."""
    try:
        webhook.verify(body, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError):  # ValueError: parts of the header that aren't base64, or not text
        raise SignatureError("the signature doesn't hold", next_step="sign with the secret of incoming") from None
    try:
        message = json.loads(body)
        kind, said = message["type"], message["data"]
        key = said["dedup_key"]
        by, reason = said.get("by", ""), said.get("reason", "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError("the message has no type and data.dedup_key", next_step="see ALERTING.md") from None
    answers: dict[object, Answered] = {"alert.acknowledged": "acknowledged", "alert.resolved": "resolved"}
    answered = answers.get(kind) if isinstance(kind, str) else None
    if answered is None or not all(isinstance(text, str) for text in (key, by, reason)):
        raise UsageError("the type is neither alert.acknowledged nor alert.resolved, or a field is no text")
    message_id = next(value for name, value in headers.items() if name.lower() == "webhook-id")
    return PageAnswer(message_id, answered, key, plain(by, NAME_CHARS_MAX), plain(reason, TEXT_CHARS_MAX))


def answer_events(answer: PageAnswer, alerts: Sequence[Alert], now_us: int) -> list[AlertAcknowledged | AlertResolved]:
    """An event for each open alert of the page. `now_us`: now, microseconds since 1970."""
    return [_event(answer, alert, now_us) for alert in alerts]


def _event(answer: PageAnswer, alert: Alert, now_us: int) -> AlertAcknowledged | AlertResolved:
    # Timed by the raise, so that the id follows from what was said and not from when it came.
    event_id = content_id(alert.raised_us, "PageAnswer", answer.message_id, answer.answered, alert.alert_id)
    if answer.answered == "acknowledged":
        return AlertAcknowledged(
            event_id=event_id, tenant_id=alert.tenant_id, producer_id="notify-incoming", producer_seq=UNCOUNTED,
            run_id=alert.run_id, workflow=alert.workflow, actor=answer.by, occurred_at=now_us, alert_id=alert.alert_id,
            dedup_key=answer.dedup_key, acknowledged_by=answer.by, reason=answer.reason, via=answer.via,
        )  # fmt: skip
    return AlertResolved(
        event_id=event_id, tenant_id=alert.tenant_id, producer_id="notify-incoming", producer_seq=UNCOUNTED,
        run_id=alert.run_id, workflow=alert.workflow, actor=answer.by, occurred_at=now_us, alert_id=alert.alert_id,
        rule=alert.rule, reason=answer.reason or "resolved by a person", resolved_by=answer.by or answer.via,
    )  # fmt: skip
