"""W3C trace context, as far as a run needs it (Trace Context, section 3.2)."""

from __future__ import annotations

import re

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_TRACE_ID = re.compile(r"[0-9a-f]{32}")


def trace_id_of(given: str) -> str:
    """The trace id in a `traceparent` header or in a bare trace id; empty where the text is neither."""
    text = given.strip().lower()
    match = _TRACEPARENT.fullmatch(text)
    trace_id = match.group(1) if match else text if _TRACE_ID.fullmatch(text) else ""
    return "" if trace_id == "0" * 32 else trace_id
