"""CloudEvents 1.0 in JSON (cloudevents.io, JSON event format, sections 2 and 4), one event of ours in each.

type                     the record, such as agentledger.v1.PolicyDecided
source and id            the identity: the same pair of one tenant is one event
time, subject            occurred_at and run_id, where `data` doesn't name them
traceparent              trace_id and span_id, where `data` doesn't name them (Distributed Tracing extension)
other attributes         labels `ce_NAME`, with source and id among them
data                     the record's fields
"""

from __future__ import annotations

import re
from typing import Any

from agentledger.producers.gateway.callers import Caller
from agentledger.producers.gateway.event_fields import field_checks, text, whole_number
from agentledger.producers.gateway.json_events import make_event, record_named
from agentledger.producers.gateway.json_schemas import ATTRIBUTE_NAME, ATTRIBUTES_MAX, CLOUD_LABELS_MAX
from agentledger.producers.gateway.refusals import RefusedEventError, pointer
from agentledger.schemas.codec import Codec
from agentledger.schemas.events import Event

STANDS_FOR = {"time": "occurred_at", "subject": "run_id"}  # attribute to the field that it gives
_KNOWN = frozenset({"specversion", "type", "id", "source", "time", "subject", "traceparent", "data", "datacontenttype"})
_NAME = re.compile(ATTRIBUTE_NAME)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}.*", re.DOTALL)
_JSON_TYPE = re.compile(r"application/([a-z0-9.+-]+\+)?json\s*(;.*)?", re.IGNORECASE | re.DOTALL)


def is_cloud_event(item: Any) -> bool:
    """Whether a JSON value means to be a CloudEvent."""
    return isinstance(item, dict) and "specversion" in item


def cloud_event(item: Any, caller: Caller, codec: Codec) -> Event:
    """The event in a CloudEvent. Raises RefusedEventError; its path points into the CloudEvent."""
    if not isinstance(item, dict):
        raise RefusedEventError("not_an_object", "", "a CloudEvent is a JSON object")
    item = {name: value for name, value in item.items() if value is not None}  # null: not set (section 2.2)
    if item.get("specversion") != "1.0":
        raise RefusedEventError("wrong_value", "/specversion", "only CloudEvents of the version 1.0 are understood")
    if len(item) > ATTRIBUTES_MAX:
        raise RefusedEventError("too_many", "", f"{len(item):,} attributes are more than {ATTRIBUTES_MAX}")
    source, id_ = (_attribute(item, name) for name in ("source", "id"))
    record = record_named(item.get("type"), "/type")
    fields = _fields(item, record)
    labels = {**_extensions(item), "ce_source": source, "ce_id": id_}
    try:
        own_labels = fields.get("labels", {})
        if isinstance(own_labels, dict):
            if len(own_labels) > CLOUD_LABELS_MAX:
                said = f"{len(own_labels):,} labels are more than {CLOUD_LABELS_MAX}: attributes become labels, too"
                raise RefusedEventError("wrong_value", "/labels", said)
            fields["labels"] = labels | own_labels
        return make_event(record, fields, caller, codec, identity=("cloudevent", source, id_))
    except RefusedEventError as error:
        error.path = _path_in_cloud_event(error.path, item)
        raise


def _fields(item: dict[str, Any], record: str) -> dict[str, Any]:
    """The record's fields: those of `data`, and those that attributes stand for."""
    data = item.get("data")
    if "data_base64" in item or not isinstance(data, dict):
        raise RefusedEventError("wrong_value", "/data", f"data must be the JSON object with the fields of a {record}")
    if not _JSON_TYPE.fullmatch(str(item.get("datacontenttype", "application/json"))):
        raise RefusedEventError("wrong_value", "/datacontenttype", "data must be JSON")
    fields = dict(data)
    for attribute, name in STANDS_FOR.items():
        if attribute in item:
            _check_attribute(item, attribute, name)
            fields.setdefault(name, item[attribute])
    match = _trace(item)
    if match is not None:
        fields.setdefault("trace_id", match[1])
        fields.setdefault("span_id", match[2])
    return fields


def _extensions(item: dict[str, Any]) -> dict[str, str]:
    """Attributes without a field of their own, as labels."""
    unused = {attribute for attribute, name in STANDS_FOR.items() if name in item["data"]}
    unused |= set() if _trace(item) else {"traceparent"}
    names = sorted(item.keys() - (_KNOWN - unused))
    labels = {}
    for name in names:
        value = item[name]
        number = whole_number(value)
        if not _NAME.fullmatch(name) or not (isinstance(value, str | bool) or number is not None):
            raise RefusedEventError(
                "unknown_field", pointer(name[:64]), "it is no attribute: a-z and 0-9 name a text, integer or boolean"
            )
        labels[f"ce_{name}"] = str(value if number is None else number)
        if isinstance(value, bool):
            labels[f"ce_{name}"] = "true" if value else "false"
    return labels


def _trace(item: dict[str, Any]) -> re.Match[str] | None:
    """Trace and span in `traceparent`; None where there is none, or another form of it, which becomes a label."""
    given = item.get("traceparent", "")
    if not isinstance(given, str):
        raise RefusedEventError("wrong_value", "/traceparent", "traceparent: expected a text")
    return _TRACEPARENT.fullmatch(given)


def _check_attribute(item: dict[str, Any], attribute: str, name: str) -> None:
    """It must be right also where it isn't used."""
    try:
        field_checks("RunStarted")[name](item[attribute])
        text(item[attribute])
    except ValueError as error:
        raise RefusedEventError("wrong_value", f"/{attribute}", f"{attribute}: {error}") from None


def _attribute(item: dict[str, Any], name: str) -> str:
    try:
        value = text(item.get(name), 1024)
    except ValueError as error:
        raise RefusedEventError("wrong_value", pointer(name), f"{name}: {error}") from None
    if not value:
        raise RefusedEventError("missing_field", pointer(name), f"{name} is missing: source and id are the identity")
    return value


def _path_in_cloud_event(path: str, item: dict[str, Any]) -> str:
    """Where the wrong field was given."""
    given_by = {f"/{name}": attribute for attribute, name in STANDS_FOR.items()}.get(path)
    if given_by is not None and path[1:] not in item["data"]:
        return f"/{given_by}"
    return f"/data{path}" if path else "/data"
