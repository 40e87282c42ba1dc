"""A span as every way in delivers it: from a recording, from an OTLP request, from a running OpenTelemetry SDK."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OK, ERROR, UNSET = "ok", "error", "unset"
SERVER = "server"
TRACE_ID_DIGITS, SPAN_ID_DIGITS = 32, 16


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened during a span, such as an exception or a message."""

    name: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """One span: ids in lower-case hexadecimal, times in microseconds since 1970, `status` ok, error or unset.

    Attribute values are JSON's: texts, booleans, integers, decimals, lists and objects. `kind` is OpenTelemetry's in
    lower case: internal, client, server, producer, consumer. `parent_is_remote`: the parent is of another process.
    `copy` counts spans of one id that came together.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    started_us: int
    ended_us: int | None
    status: str
    status_text: str
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    kind: str = ""
    parent_is_remote: bool = False
    events: tuple[SpanEvent, ...] = ()
    copy: int = 0

    @property
    def completed_us(self) -> int:
        """When it ended; where that isn't known, when it began."""
        return self.started_us if self.ended_us is None else self.ended_us

    @property
    def latency_ms(self) -> float | None:
        """How long it took; None where its end isn't known."""
        return None if self.ended_us is None else max(0, self.ended_us - self.started_us) / 1000


def hex_id(value: Any, digits: int) -> str:
    """A trace or span id in hexadecimal; empty where there is none. Ids come as numbers or as hexadecimal text."""
    if isinstance(value, str) and value:
        try:
            value = int(value.removeprefix("0x"), 16)
        except ValueError:
            return ""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 16**digits:
        return ""
    return f"{value:0{digits}x}"
