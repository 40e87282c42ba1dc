"""Ids for the hot path: the same UUIDv7 layout as `schemas.identity.uuid7`, from one generator per process.

Ids must be unique, not secret, so a generator seeded with 256 bits from the system serves, at a tenth of the cost of
asking the system each time. A forked child seeds anew: two processes never share a sequence.
"""

from __future__ import annotations

import os
import random
import uuid

_SEED_BYTES = 32
_RANDOM = random.Random(os.urandom(_SEED_BYTES))  # noqa: S311 - unique, not secret
_bits = _RANDOM.getrandbits


def new_event_id(now_us: int) -> str:
    """A random UUIDv7 of this time (microseconds since 1970), in canonical lower-case text."""
    time_ms = now_us // 1000
    bits = _bits(74)
    return "%08x-%04x-7%03x-%04x-%012x" % (
        (time_ms >> 16) & 0xFFFFFFFF,
        time_ms & 0xFFFF,
        bits >> 62,
        0x8000 | ((bits >> 48) & 0x3FFF),
        bits & 0xFFFFFFFFFFFF,
    )


def span_id_of(event_id: str) -> str:
    """The W3C span id that belongs to an event: the last 64 bits of its id, which are never all zero."""
    return event_id[19:23] + event_id[24:]


def new_trace_id() -> str:
    """A random W3C trace id, 32 lower-case hex digits."""
    return f"{_bits(128) | 1:032x}"


def as_event_id(value: object) -> str | None:
    """The canonical text of an event id that a caller hands back; None where it isn't one."""
    try:
        return str(uuid.UUID(str(value)))
    except ValueError:
        return None


def _seed_child() -> None:
    _RANDOM.seed(os.urandom(_SEED_BYTES))


os.register_at_fork(after_in_child=_seed_child)
