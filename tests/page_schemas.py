"""What the targets say about their payloads, as JSON schemas: from their public references, as no package has them.

PagerDuty: Events API v2, "Send an event"; Slack: Block Kit, section block and text object; Alertmanager: openapi.yaml
of API v2, postableAlerts; webhooks: Standard Webhooks, "payload structure".
"""

from __future__ import annotations

from typing import Any

_URL = {"type": "string", "pattern": "^https?://"}
_TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"}
_LABELS = {
    "type": "object",
    "propertyNames": {"pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"},
    "additionalProperties": {"type": "string"},
}

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

ALERTMANAGER_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["labels"],
        "properties": {
            "labels": _LABELS,
            "annotations": _LABELS,
            "startsAt": _TIME,
            "endsAt": _TIME,
            "generatorURL": _URL,
        },
        "additionalProperties": False,
    },
}

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
