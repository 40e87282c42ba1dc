"""Hypothesis strategies for events: any event that the schemas allow."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import strategies as st

from agentledger.schemas.catalogue import current_schemas
from agentledger.schemas.events import EVENT_TYPES, Event

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_SIMPLE: dict[str, st.SearchStrategy[Any]] = {
    "string": TEXT,
    "long": INT64,
    "double": st.floats(allow_nan=False),
    "boolean": st.booleans(),
    "map": st.dictionaries(TEXT, TEXT, max_size=3),
    "array": st.lists(TEXT, max_size=3),
    "uuid": st.uuids().map(str),
}


def _value(avro_type: Any) -> st.SearchStrategy[Any]:
    if isinstance(avro_type, list):
        return st.none() | _value(avro_type[1])
    if isinstance(avro_type, dict):
        return _SIMPLE["uuid"] if avro_type.get("logicalType") == "uuid" else _SIMPLE[avro_type["type"]]
    return _SIMPLE[avro_type]


def events_of(name: str) -> st.SearchStrategy[Event]:
    """Any event of one record of the catalogue."""
    fields = {field["name"]: _value(field["type"]) for field in current_schemas()[name]["fields"]}
    return st.builds(EVENT_TYPES[name], **fields)


def any_event() -> st.SearchStrategy[Event]:
    """Any event of the catalogue."""
    return st.sampled_from(sorted(EVENT_TYPES)).flatmap(events_of)


def as_fields(event: Event) -> dict[str, Any]:
    """The event's fields as fastavro takes them."""
    return dataclasses.asdict(event)
