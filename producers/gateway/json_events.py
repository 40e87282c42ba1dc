"""One event from its JSON: plain, or a CloudEvent. What goes to Kafka depends on nothing but the caller's client and
what it sent, so a resend gives the same bytes, through any gateway and at any time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from agentledger.producers.gateway.callers import Caller
from agentledger.producers.gateway.event_fields import FACTS, SHOWN_CHARS_MAX, check_fields
from agentledger.producers.gateway.refusals import RefusedEventError
from agentledger.schemas.catalogue import NAMESPACE
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import CodecError
from agentledger.schemas.events import EVENT_TYPES, Event
from agentledger.schemas.identity import UNCOUNTED, content_id

_NO_ID = "00000000-0000-0000-0000-000000000000"


def plain_event(item: Any, caller: Caller, codec: Codec) -> Event:
    """The event in a plain JSON object: `type` names the record, all else are its fields. Raises RefusedEventError."""
    if not isinstance(item, dict):
        raise RefusedEventError("not_an_object", "", "an event is a JSON object")
    fields = dict(item)
    return make_event(record_named(fields.pop("type", None), "/type"), fields, caller, codec)


def record_named(name: Any, path: str) -> str:
    """The record that a type names, with or without the namespace. Raises RefusedEventError."""
    short = name.removeprefix(f"{NAMESPACE}.") if isinstance(name, str) else ""
    if short in FACTS:
        return short
    if short in EVENT_TYPES:
        raise RefusedEventError(
            "not_a_fact", path, f"{short} is concluded by agentledger's own programs", next_step="send facts only"
        )
    raise RefusedEventError(
        "unknown_type",
        path,
        f"no event is called {short[:SHOWN_CHARS_MAX]!a}",
        next_step=f"one of {', '.join(FACTS)}",
    )


def make_event(
    record: str, fields: Mapping[str, Any], caller: Caller, codec: Codec, *, identity: tuple[str, ...] = ()
) -> Event:
    """The event of checked fields. Its id: the one given, or else from `identity`, or else from all of its content.

    Raises RefusedEventError.
    """
    checked = check_fields(record, fields)
    for name in ("run_id", "occurred_at"):
        if name not in checked:
            raise RefusedEventError(
                "missing_field", f"/{name}", f"{name} is missing",
                next_step="a resend is recognised by what was sent, so the time is the client's",
            )  # fmt: skip
    if checked.setdefault("tenant_id", caller.tenant_id) != caller.tenant_id:
        raise RefusedEventError("wrong_tenant", "/tenant_id", "an API key writes for its own tenant alone")
    _number(checked, caller)
    given = "event_id" in checked
    checked.setdefault("event_id", _NO_ID)
    event = EVENT_TYPES[record](**checked)
    if not given:
        named = identity or ("content", _digest(event, codec))
        event.event_id = content_id(event.occurred_at, "gateway", event.tenant_id, *named)
    return event


def _number(fields: dict[str, Any], caller: Caller) -> None:
    """Who emitted it, and its number: a client that counts gives both; of one that doesn't, no loss is claimed."""
    seq = fields.setdefault("producer_seq", UNCOUNTED)
    if seq == UNCOUNTED:
        fields.setdefault("producer_id", f"gateway:{caller.name}")
    elif seq < 0:
        raise RefusedEventError("wrong_value", "/producer_seq", "producer_seq: a count begins with 0")
    elif "producer_id" not in fields:
        raise RefusedEventError(
            "missing_field", "/producer_id", "a producer_seq counts within a producer_id, which is missing"
        )


def _digest(event: Event, codec: Codec) -> str:
    try:
        return hashlib.sha256(codec.encode(event)).hexdigest()
    except CodecError as error:
        raise RefusedEventError("wrong_value", "", error.what) from None
