"""Fields of an event as JSON gives them, checked against the record's Avro schema. Wrong ones are refused, not mended.

Texts are bounded as the SDK bounds them. It cuts what is longer, because the agent that made it is gone by then; here
somebody reads the answer, so what is longer is refused.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import cache
from typing import Any

from agentledger.producers.bounds import (
    CONTENT_BYTES_MAX,
    LABEL_NAME_BYTES_MAX,
    LABEL_VALUE_BYTES_MAX,
    LABELS_MAX,
    LIST_ITEM_BYTES_MAX,
    LIST_ITEMS_MAX,
    RUN_ID_BYTES_MAX,
    TEXT_BYTES_MAX,
)
from agentledger.producers.gateway.refusals import RefusedEventError, pointer
from agentledger.schemas.catalogue import current_schemas
from agentledger.schemas.encoding import INT64_MAX, INT64_MIN

# What happened, as clients may tell it. Conclusions (charges, alerts, holds, controls …) are made by our own programs.
FACTS = (
    "ApprovalDecided", "ApprovalRequested", "EvidenceRetrieved", "ModelCallCompleted", "OutcomeRecorded",
    "PolicyDecided", "RunFinished", "RunStarted", "StateChanged", "ToolCallCompleted", "ValidationCompleted",
)  # fmt: skip
NEVER_EMPTY = ("run_id", "producer_id")
TIME_US_MAX = 7_258_118_399_999_999  # the end of 2199: later times fit no column, and nobody's clock
FLOAT_WHOLE_MAX = 2**53  # above it a float no longer tells one whole number from the next
SHOWN_CHARS_MAX = 60  # of what a client sent, in an answer
Check = Callable[[Any], Any]  # the value as the event holds it; raises ValueError with what was expected
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def check_fields(record: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as the event holds them. Raises RefusedEventError for the first that is unknown or wrong."""
    checks = field_checks(record)
    checked = {}
    for name, value in fields.items():
        check = checks.get(name)
        if check is None:
            raise _unknown_field(record, name, checks)
        try:
            checked[name] = check(value)
        except ValueError as error:
            raise RefusedEventError("wrong_value", pointer(name), f"{name}: {error}") from None
    return checked


@cache
def field_checks(record: str) -> dict[str, Check]:
    """Field name to its check, for every field of a record."""
    return {field["name"]: _check_of(field["name"], field["type"]) for field in current_schemas()[record]["fields"]}


def text_chars_max(name: str) -> int:
    """The bound of a text field, characters."""
    if name == "run_id":
        return RUN_ID_BYTES_MAX
    return CONTENT_BYTES_MAX if name.endswith("_redacted") else TEXT_BYTES_MAX


def time_us(value: Any) -> int:
    """Microseconds since 1970 of an RFC 3339 text or a count of microseconds. Raises ValueError."""
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        try:
            count: int | None = (datetime.fromisoformat(value.upper()) - _EPOCH) // timedelta(microseconds=1)
        except (ValueError, OverflowError):
            count = None
    else:
        count = whole_number(value)
    if count is None or not 0 <= count <= TIME_US_MAX:
        raise ValueError("expected a time from 1970 to 2199: RFC 3339 text with a zone, or microseconds since 1970")
    return count


def text(value: Any, chars_max: int = TEXT_BYTES_MAX) -> str:
    """A text within its bound. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"expected a text, not {_shown(value)}")
    if len(value) > chars_max:
        raise ValueError(f"{len(value):,} characters are more than the {chars_max:,} that it may have")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half of a surrogate pair, which is no character") from None
    return value


def _check_of(name: str, avro_type: Any) -> Check:
    if isinstance(avro_type, list):
        check = _check_of(name, avro_type[1])
        return lambda value: None if value is None else check(value)
    logical = avro_type.get("logicalType") if isinstance(avro_type, dict) else None
    kind = avro_type["type"] if isinstance(avro_type, dict) else avro_type
    if kind == "string" and not logical:
        chars_max, may_be_empty = text_chars_max(name), name not in NEVER_EMPTY
        return lambda value: _not_empty(text(value, chars_max), may_be_empty)
    named: dict[tuple[str, str | None], Check] = {
        ("string", "uuid"): _uuid,
        ("long", "timestamp-micros"): time_us,
        ("long", None): _int64,
        ("double", None): _double,
        ("boolean", None): _boolean,
        ("map", None): _labels,
        ("array", None): _texts,
    }
    return named[kind, logical]


def _not_empty(value: str, may_be_empty: bool) -> str:
    if not value and not may_be_empty:
        raise ValueError("it must not be empty")
    return value


def _uuid(value: Any) -> str:
    if isinstance(value, str) and len(value) == 36:
        try:
            found = str(uuid.UUID(value))
        except ValueError:
            found = ""
        if found == value.lower():
            return found
    raise ValueError(f"expected a UUID of 36 characters, not {_shown(value)}")


def _int64(value: Any) -> int:
    number = whole_number(value)
    if number is None:
        raise ValueError(f"expected a whole number of 64 bits, not {_shown(value)}")
    return number


def whole_number(value: Any) -> int | None:
    """The whole number of 64 bits, which JSON may also write as 3.0; None for anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) < FLOAT_WHOLE_MAX:
        return int(value)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and INT64_MIN <= value <= INT64_MAX else None


def _double(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, not {_shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("the number is too large")
    return number


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, not {_shown(value)}")
    return value


def _labels(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object of texts, not {_shown(value)}")
    if len(value) > LABELS_MAX:
        raise ValueError(f"{len(value):,} labels are more than {LABELS_MAX}")
    return {text(name, LABEL_NAME_BYTES_MAX): text(value[name], LABEL_VALUE_BYTES_MAX) for name in sorted(value)}


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"expected an array of texts, not {_shown(value)}")
    if len(value) > LIST_ITEMS_MAX:
        raise ValueError(f"{len(value):,} items are more than {LIST_ITEMS_MAX}")
    return [text(item, LIST_ITEM_BYTES_MAX) for item in value]


def _unknown_field(record: str, name: str, checks: Mapping[str, Check]) -> RefusedEventError:
    near = get_close_matches(name[:SHOWN_CHARS_MAX], checks, 1)
    return RefusedEventError(
        "unknown_field", pointer(name[:SHOWN_CHARS_MAX]), f"a {record} has no field {_shown(name)}",
        next_step=f"did you mean {near[0]}?" if near else "what has no field goes into labels",
    )  # fmt: skip


def _shown(value: Any) -> str:
    """What was sent, cut, as it may stand in an answer: never a lone surrogate."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    shown = ascii(value[:SHOWN_CHARS_MAX]) if isinstance(value, str) else repr(value)
    return shown if len(shown) <= SHOWN_CHARS_MAX else shown[:SHOWN_CHARS_MAX] + "…"
