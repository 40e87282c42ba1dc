"""What the targets say about their payloads, as JSON schemas.

- Alertmanager: its own API description, `golden/published/alertmanager-api-v2.json` (`.ci/alertmanager-api` fetches
  it), with what it leaves out and the server refuses: other keys, and names of labels that are none.
- PagerDuty: Events API v2, field by field after the openapi file that PagerDuty publishes, which has no licence to
  keep a copy; narrower by the limits that only its pages name (keys, 1,024 characters). The types of its own client
  hold the payloads, too, in `integration/test_page_types.py`.
- Slack: Block Kit, section block and text object, by its pages; slack-sdk's checks and Slack's types hold them, too.
- Webhooks: Standard Webhooks, "payload structure".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_URL = {"type": "string", "pattern": "^https?://"}
_TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"}
PAGERDUTY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["routing_key", "event_action"],
    "properties": {
        "routing_key": {"type": "string", "minLength": 32, "maxLength": 32},
        "event_action": {"enum": ["trigger", "acknowledge", "resolve"]},
        "dedup_key": {"type": "string", "minLength": 1, "maxLength": 255},
        "payload": {
            "type": "object",
            "required": ["summary", "source", "severity"],
            "properties": {
                "summary": {"type": "string", "minLength": 1, "maxLength": 1024},
                "source": {"type": "string", "minLength": 1},
                "severity": {"enum": ["critical", "error", "warning", "info"]},
                "timestamp": _TIME,
                "component": {"type": "string"},
                "group": {"type": "string"},
                "class": {"type": "string"},
                "custom_details": {"type": "object"},
            },
            "additionalProperties": False,
        },
        "client": {"type": "string"},
        "client_url": _URL,
        "links": {
            "type": "array",
            "items": {"type": "object", "required": ["href"], "properties": {"href": _URL, "text": {"type": "string"}}},
        },
        "images": {"type": "array"},
    },
    "additionalProperties": False,
    "if": {"properties": {"event_action": {"const": "trigger"}}},
    "then": {"required": ["payload"]},
    "else": {"required": ["dedup_key"]},
}


def _text(chars_max: int) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", "text"],
        "properties": {
            "type": {"enum": ["plain_text", "mrkdwn"]},
            "text": {"type": "string", "minLength": 1, "maxLength": chars_max},
            "emoji": {"type": "boolean"},
            "verbatim": {"type": "boolean"},
        },
        "additionalProperties": False,
    }


SLACK_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["text"],
    "properties": {
        "text": {"type": "string", "minLength": 1, "maxLength": 40_000},
        "blocks": {
            "type": "array",
            "maxItems": 50,
            "items": {
                "type": "object",
                "required": ["type"],
                "properties": {
                    "type": {"const": "section"},
                    "block_id": {"type": "string", "maxLength": 255},
                    "text": _text(3000),
                    "fields": {"type": "array", "minItems": 1, "maxItems": 10, "items": _text(2000)},
                },
                "anyOf": [{"required": ["text"]}, {"required": ["fields"]}],
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}

_PUBLISHED = json.loads((Path(__file__).parent / "golden/published/alertmanager-api-v2.json").read_text("utf-8"))
_LABEL_NAMES = {"propertyNames": {"pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"}}
ALERTMANAGER_SCHEMA: dict[str, Any] = {
    "definitions": _PUBLISHED["definitions"],
    "allOf": [{"$ref": "#/definitions/postableAlerts"}],
    "items": {
        "properties": {
            "labels": _LABEL_NAMES, "annotations": _LABEL_NAMES, "startsAt": True, "endsAt": True, "generatorURL": True,
        },
        "additionalProperties": False,
    },
}  # fmt: skip

WEBHOOK_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "timestamp", "data"],
    "properties": {
        "type": {"type": "string", "pattern": "^[a-zA-Z0-9_]+(\\.[a-zA-Z0-9_]+)*$"},
        "timestamp": _TIME,
        "data": {"type": "object"},
    },
    "additionalProperties": False,
}
