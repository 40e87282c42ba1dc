"""What /openapi.json says beyond the routes themselves: bodies, answers, refusals, the key, each event's schema."""

from __future__ import annotations

from typing import Any

from agentledger.producers.gateway.json_schemas import TIME, JsonSchema, cloud_event_schema, event_schemas

REFUSALS = {
    400: "Nothing was recorded: the body is not what its type says, or every event was rejected",
    401: "No valid API key",
    403: "The key has not the scope ingest",
    408: "The body did not arrive in time",
    413: "The body, inflated or not, or the number of events is over its bound",
    415: "The content type or encoding is not understood",
    429: "The key has sent too many events; Retry-After says when to go on",
    503: "Kafka has not acknowledged everything, or too much waits; Retry-After says when to send the same again",
}
_REFUSAL: JsonSchema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["reason", "message"],
            "properties": {"reason": {"type": "string"}, "message": {"type": "string"}},
        }
    },
}
_RESULT: JsonSchema = {
    "type": "object",
    "required": ["index", "status"],
    "properties": {
        "index": {"type": "integer", "minimum": 0, "description": "Place in the request, from 0."},
        "event_id": {"type": "string", "format": "uuid"},
        "status": {
            "enum": ["accepted", "duplicate", "rejected", "unanswered"],
            "description": "accepted: Kafka has it. duplicate: it is the same as one before it in this request. "
            "rejected: it is not recorded. unanswered: send it again, it counts once.",
        },
        "reason": {"type": "string", "description": "One word for programs."},
        "path": {"type": "string", "description": "JSON pointer into the item."},
        "message": {"type": "string"},
    },
}
_COUNT: JsonSchema = {"type": "integer", "minimum": 0}
_ANSWER: JsonSchema = {
    "type": "object",
    "required": ["accepted", "duplicate", "rejected", "unanswered", "results"],
    "properties": {
        **dict.fromkeys(("accepted", "duplicate", "rejected", "unanswered"), _COUNT),
        "results": {"type": "array", "items": {"$ref": "#/components/schemas/Result"}},
    },
}
_OPA_DECISION: JsonSchema = {
    "type": "object",
    "required": ["decision_id", "timestamp"],
    "properties": {
        "decision_id": {"type": "string", "minLength": 1},
        "timestamp": TIME["anyOf"][0],
        **{name: {} for name in ("labels", "path", "bundles", "input", "result", "metrics")},  # as OPA says it
    },
}


def request_body(content: dict[str, JsonSchema]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body itself."""
    return {
        "security": [{"apiKey": []}],
        "requestBody": {"required": True, "content": {name: {"schema": schema} for name, schema in content.items()}},
    }


def answers(*, partial: bool) -> dict[int | str, dict[str, Any]]:
    """The answers of a route that takes events; `partial` where one event may be rejected alone."""
    per_event = {"application/json": {"schema": ref("Answer")}}
    refused = {"application/json": {"schema": {"anyOf": [ref("Refusal"), ref("Answer")]}}}
    found: dict[int | str, dict[str, Any]] = {200: {"description": "Kafka has all of it", "content": per_event}}
    if partial:
        found[207] = {
            "description": "Kafka has what is accepted, and not what is rejected",
            "content": per_event,
        }
    for status, description in REFUSALS.items():
        found[status] = {"description": description, "content": refused}
    return found


def ref(name: str) -> JsonSchema:
    """A reference to a component."""
    return {"$ref": f"#/components/schemas/{name}"}


def components() -> dict[str, Any]:
    """Every schema that the routes refer to, and how a key is sent."""
    events = event_schemas()
    return {
        "schemas": {
            **events,
            "Event": {"oneOf": [ref(name) for name in events]},
            "CloudEvent": {"oneOf": [cloud_event_schema(name) for name in events]},
            "OpaDecision": _OPA_DECISION,
            "Answer": _ANSWER,
            "Result": _RESULT,
            "Refusal": _REFUSAL,
        },
        "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer", "bearerFormat": "alk_…"}},
    }
