"""Bounds on what one event carries, so that no event of the SDK can reach the broker's limit.

A small event is left as it is. One whose bytes pass `EVENT_BYTES_SOFT` has each text cut to its bound. All bounds
reached at once give under 700 KB: `topics.EVENT_BYTES_MAX` is 1,000,000.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from agentledger.producers.event_ids import as_event_id
from agentledger.schemas.catalogue import current_schemas

TEXT_BYTES_MAX = 4096  # a message, a reason, a name: more belongs into a payload store
NAME_BYTES_MAX = 1024  # an agent, a workflow, a user: what a budget or a halt may be about
CHUNK_BYTES_MAX = 512 * 1024  # of a payload: half of what a record may have, so that its envelope always fits beside it
PAYLOAD_BYTES_MAX = 16 * 1024 * 1024  # one argument, result, prompt or answer: 32 chunks; what is larger is not kept
CONTENT_BYTES_MAX = 65_536  # redacted arguments or results, each; beyond that only digest and size
LABELS_MAX = 64
LABEL_NAME_BYTES_MAX = 256
LABEL_VALUE_BYTES_MAX = 1024
LIST_ITEMS_MAX = 512
LIST_ITEM_BYTES_MAX = 256
RUN_ID_BYTES_MAX = 512  # the Kafka key of each event of the run
EVENT_BYTES_SOFT = 16_384  # thirty times a usual event; nothing is cut below
ENVELOPE_FIELDS = 16
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
_CUT = "…"
_TEXT_BYTES_MAX = {"content": CHUNK_BYTES_MAX} | dict.fromkeys(
    ("arguments_redacted", "result_redacted", "change_redacted"), CONTENT_BYTES_MAX
)


def clean_text(value: object, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """The value as text that UTF-8 can hold, at most `bytes_max` bytes long; what was cut ends in `…`. Never raises."""
    if value is None:
        return ""
    try:
        text = value if type(value) is str else str(value)
        raw = text[: bytes_max + 1].encode("utf-8", "replace")
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return f"<{type(value).__name__}>"
    if len(raw) <= bytes_max:
        return raw.decode()
    return raw[: bytes_max - len(_CUT.encode())].decode("utf-8", "ignore") + _CUT


def clean_labels(labels: Mapping[Any, Any] | None) -> dict[str, str]:
    """At most 64 labels, names and values as bounded texts; the first ones stay. Never raises."""
    try:
        items = list((labels or {}).items())[:LABELS_MAX]
    except Exception:  # noqa: BLE001 - not a mapping after all
        return {}
    return {clean_text(name, LABEL_NAME_BYTES_MAX): clean_text(value, LABEL_VALUE_BYTES_MAX) for name, value in items}


def clean_texts(items: Iterable[Any] | None) -> list[str]:
    """At most 512 bounded texts. Never raises."""
    if items is None:
        return []
    try:
        listed = [items] if isinstance(items, str) else list(items)[:LIST_ITEMS_MAX]
    except Exception:  # noqa: BLE001 - not iterable after all
        return []
    return [clean_text(item, LIST_ITEM_BYTES_MAX) for item in listed]


def clean_run_id(run_id: object) -> str:
    """The run id as a bounded text: a longer one keeps its beginning and gets a digest, so that it stays distinct."""
    raw = (run_id if isinstance(run_id, str) else clean_text(run_id)).encode("utf-8", "replace")
    if len(raw) <= RUN_ID_BYTES_MAX:
        return raw.decode()
    return raw[: RUN_ID_BYTES_MAX - 40].decode("utf-8", "ignore") + "~" + hashlib.sha256(raw).hexdigest()[:32]


def clean_int(value: Any) -> int | None:
    """The value as a 64-bit integer; None where it is none."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if INT64_MIN <= number <= INT64_MAX else None


def clean_float(value: Any) -> float | None:
    """The value as a finite float; None where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def clean_body(record_name: str, body: Any) -> None:
    """Bring every field of a record, less its envelope, to its type and within its bound, in place."""
    for field in current_schemas()[record_name]["fields"][ENVELOPE_FIELDS:]:
        name = field["name"]
        setattr(body, name, _clean_value(name, field["type"], getattr(body, name)))


@cache
def free_texts(record_name: str) -> tuple[str, ...]:
    """The fields of a record, less its envelope, that hold texts of any kind: no ids of events, no digests."""
    fields = current_schemas()[record_name]["fields"][ENVELOPE_FIELDS:]
    plain = {"string", "['null', 'string']"}
    texts = (field["name"] for field in fields if str(field["type"]) in plain or _kind(field["type"]) == "array")
    return tuple(name for name in texts if not name.endswith(("_digest", "_redacted")))


def clean_texts_of(record_name: str, body: Any, clean: Callable[[str], str]) -> None:
    """Put every free text of a record through `clean`, in place."""
    for name in free_texts(record_name):
        value = getattr(body, name)
        if isinstance(value, str):
            if value:
                setattr(body, name, clean(value))
        elif value:
            setattr(body, name, [clean(text_item) for text_item in clean_texts(value)])


def _clean_value(name: str, avro_type: Any, value: Any) -> Any:
    if isinstance(avro_type, list):
        return None if value is None else _clean_scalar(name, avro_type[1], value)
    clean = _clean_scalar(name, avro_type, value)
    return _ABSENT[_kind(avro_type)] if clean is None else clean


_ABSENT: dict[str, Any] = {"string": "", "long": 0, "double": 0.0, "boolean": False}


def _clean_scalar(name: str, avro_type: Any, value: Any) -> Any:
    kind = _kind(avro_type)
    if kind == "string":
        if isinstance(avro_type, dict):  # the only logical type on strings is uuid
            return as_event_id(value)
        return clean_text(value, _TEXT_BYTES_MAX.get(name, TEXT_BYTES_MAX))
    if kind == "long":
        return clean_int(value)
    if kind == "double":
        return clean_float(value)
    if kind == "array":
        return clean_texts(value)
    return clean_labels(value) if kind == "map" else bool(value)


def _kind(avro_type: Any) -> str:
    return str(avro_type["type"] if isinstance(avro_type, dict) else avro_type)
