"""Answers to pages as their senders sign them: Standard Webhooks, and PagerDuty's webhooks V3."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

from standardwebhooks import Webhook

HOOK_SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"another secret of thirty-two byte").decode()
PAGERDUTY_SECRET = "a secret of a webhook subscription"


def signed(body: str, *, secret: str = HOOK_SECRET, age_s: float = 0) -> dict[str, str]:
    """The headers of a message signed as Standard Webhooks says."""
    at = datetime.now(UTC) - timedelta(seconds=age_s)
    return {
        "webhook-id": "m1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("m1", at, body),
    }


def incident_event(key: str, kind: str = "incident.acknowledged", **own: object) -> str:
    """A webhook of PagerDuty as its documentation shows one, cut to what says something."""
    event = {
        "id": "01EVENT", "event_type": kind, "resource_type": "incident",
        "occurred_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "agent": {"id": "PLH1HKV", "summary": "Ann", "type": "user_reference"}, "client": {"name": "PagerDuty"},
        "data": {"id": "PGR0VU2", "type": "incident", "number": 2, "status": "acknowledged", "incident_key": key},
    }  # fmt: skip
    return json.dumps({"event": {**event, **own}})


def pagerduty_signed(body: str, *, secret: str = PAGERDUTY_SECRET) -> dict[str, str]:
    """Its header, with a second signature as while secrets change."""
    digest = hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest()
    return {"X-PagerDuty-Signature": f"v1={'0' * 64},v1={digest}"}
