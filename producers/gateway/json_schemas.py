"""JSON Schemas (2020-12) of the events that the gateway takes, made from the Avro schemas of the catalogue."""

from __future__ import annotations

from functools import cache
from typing import Any

from agentledger.producers.bounds import (
    LABEL_NAME_BYTES_MAX,
    LABEL_VALUE_BYTES_MAX,
    LABELS_MAX,
    LIST_ITEM_BYTES_MAX,
    LIST_ITEMS_MAX,
)
from agentledger.producers.gateway.event_fields import FACTS, NEVER_EMPTY, TIME_US_MAX, text_chars_max
from agentledger.schemas.catalogue import current_schemas
from agentledger.schemas.encoding import INT64_MAX, INT64_MIN

DIALECT = "https://json-schema.org/draft/2020-12/schema"
JsonSchema = dict[str, Any]
REQUIRED = ("type", "run_id", "occurred_at")
TIME: JsonSchema = {
    "anyOf": [
        {"type": "string", "format": "date-time", "pattern": "^(197[1-9]|19[89][0-9]|20[0-9]{2}|21[0-8][0-9])-"},
        {"type": "integer", "minimum": 0, "maximum": TIME_US_MAX},
    ]
}
ATTRIBUTE_NAME = "[a-z0-9]{1,64}"
ATTRIBUTES_MAX = 32  # of a CloudEvent: most become labels, and an event holds 64
CLOUD_LABELS_MAX = LABELS_MAX - ATTRIBUTES_MAX  # in its data: so that both always fit
_TEXT: JsonSchema = {"type": "string", "maxLength": LABEL_VALUE_BYTES_MAX}
_EXTENSION_VALUE: JsonSchema = {
    "anyOf": [
        _TEXT,
        {"type": "integer", "minimum": INT64_MIN, "maximum": INT64_MAX},
        {"type": ["boolean", "null"]},
    ]
}
_ATTRIBUTE: JsonSchema = {**_TEXT, "minLength": 1}
# In some languages `$` matches before a last line break too: a validator there would let a name pass that is refused.
_ATTRIBUTE_NAME: JsonSchema = {"pattern": f"^{ATTRIBUTE_NAME}$", "not": {"pattern": "[^a-z0-9]"}}
_GATEWAY_DOCS = {
    "event_id": "Identity of this event everywhere. Left out: it follows from the content, so a resend counts once.",
    "producer_id": "Who emits; left out: the name of the API key.",
    "producer_seq": "Dense per producer_id, from 0: a hole is a lost event. -1 or left out: nobody counts.",
}


@cache
def event_schema(record: str) -> JsonSchema:
    """The JSON Schema of one record as /v1/events takes it."""
    avro = current_schemas()[record]
    properties = {"type": {"enum": [record, f"{avro['namespace']}.{record}"], "description": "Which event it is."}}
    for field in avro["fields"]:
        name = field["name"]
        if name == "tenant_id":
            continue  # it is the API key's
        schema = _field_schema(name, field["type"])
        properties[name] = {**schema, "description": _GATEWAY_DOCS.get(name, field["doc"])}
    return {
        "title": record,
        "description": avro["doc"],
        "type": "object",
        "properties": properties,
        "required": list(REQUIRED),
        "dependentRequired": {"producer_seq": ["producer_id"]},
        "additionalProperties": False,
    }


def event_schemas() -> dict[str, JsonSchema]:
    """Every record that the gateway takes, by name."""
    return {record: event_schema(record) for record in FACTS}


@cache
def cloud_event_schema(record: str) -> JsonSchema:
    """The JSON Schema of a CloudEvent with that record: attributes of its own may be added to it."""
    event = event_schema(record)
    fields = {name: schema for name, schema in event["properties"].items() if name != "type"}
    fields["labels"] = {**fields["labels"], "maxProperties": CLOUD_LABELS_MAX}
    return {
        "title": f"{record} as a CloudEvent",
        "type": "object",
        "properties": {
            "specversion": {"const": "1.0"},
            "type": event["properties"]["type"],
            "source": {**_ATTRIBUTE, "description": "With id the identity: the same pair is one event."},
            "id": _ATTRIBUTE,
            "time": {**_or_null(TIME["anyOf"][0]), "description": "occurred_at, where data has none."},
            "subject": {**_or_null(fields["run_id"]), "description": "run_id, where data has none."},
            "traceparent": {**_or_null(_TEXT), "description": "trace_id and span_id, where data has none."},
            "datacontenttype": {"enum": ["application/json", None]},
            "data": {
                "type": "object",
                "properties": fields,
                "dependentRequired": event["dependentRequired"],
                "additionalProperties": False,
            },
        },
        "additionalProperties": _EXTENSION_VALUE,
        "propertyNames": _ATTRIBUTE_NAME,
        "maxProperties": ATTRIBUTES_MAX,
        "required": ["specversion", "type", "source", "id", "data"],
        "allOf": [_either("time", "occurred_at"), _either("subject", "run_id")],
    }


def _either(attribute: str, field: str) -> JsonSchema:
    """It is an attribute, or a field of `data`. An attribute that is null counts as left out."""
    given = {"required": [attribute], "properties": {attribute: {"type": "string"}}}
    return {"anyOf": [given, {"properties": {"data": {"required": [field]}}}]}


def _or_null(schema: JsonSchema) -> JsonSchema:
    return {"anyOf": [schema, {"type": "null"}]}


def _field_schema(name: str, avro_type: Any) -> JsonSchema:
    if name == "producer_seq":
        return {"type": "integer", "minimum": -1, "maximum": INT64_MAX}
    if isinstance(avro_type, list):
        return _or_null(_field_schema(name, avro_type[1]))
    kind = avro_type["type"] if isinstance(avro_type, dict) else avro_type
    logical = avro_type.get("logicalType") if isinstance(avro_type, dict) else None
    if logical == "timestamp-micros":
        return dict(TIME)
    if logical == "uuid":
        return {"type": "string", "format": "uuid", "pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"}
    plain: dict[str, JsonSchema] = {
        "string": {"type": "string", "maxLength": text_chars_max(name)},
        "long": {"type": "integer", "minimum": INT64_MIN, "maximum": INT64_MAX},
        "double": {"type": "number", "minimum": -1.7976931348623157e308, "maximum": 1.7976931348623157e308},
        "boolean": {"type": "boolean"},
        "map": {
            "type": "object",
            "maxProperties": LABELS_MAX,
            "propertyNames": {"maxLength": LABEL_NAME_BYTES_MAX},
            "additionalProperties": {"type": "string", "maxLength": LABEL_VALUE_BYTES_MAX},
        },
        "array": {
            "type": "array",
            "maxItems": LIST_ITEMS_MAX,
            "items": {"type": "string", "maxLength": LIST_ITEM_BYTES_MAX},
        },
    }
    return plain[kind] | ({"minLength": 1} if name in NEVER_EMPTY else {})
