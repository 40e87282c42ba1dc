"""Ids for the hot path: the same UUIDv7 layout as `schemas.identity.uuid7`, without asking the
system for random bits each time. They must be unique, not secret. A forked child starts anew: two processes never share
a sequence.
"""

from __future__ import annotations

import itertools
import os
import random
import uuid

_SEED_BYTES = 32
_RANDOM = random.Random(os.urandom(_SEED_BYTES))  # noqa: S311 - unique, not secret
_bits = _RANDOM.getrandbits
_VARIANT = 0x8000_0000_0000_0000
_TAIL_MASK = 0x3FFF_FFFF_FFFF_FFFF


_TAIL_DIGITS = 3  # of an id that are looked up; what stands before them is kept until they have all been used
_TAILS = [f"{tail:03x}" for tail in range(16**_TAIL_DIGITS)]
_KEPT_MAX = 1024


class _Heads(dict[int, str]):
    """Milliseconds to the first half of their ids, `tttttttt-tttt-7rrr-`; random bits of each its own. Bounded."""

    def __missing__(self, time_ms: int) -> str:
        if len(self) >= _KEPT_MAX:
            self.clear()
        head = f"{(time_ms >> 16) & 0xFFFFFFFF:08x}-{time_ms & 0xFFFF:04x}-7{_bits(12):03x}-"
        self[time_ms] = head
        return head


class _Middles(dict[int, str]):
    """What stands between head and tail, `vrrr-rrrrrrrrr`, by the counter less its last digits. Bounded."""

    def __missing__(self, count: int) -> str:
        if len(self) >= _KEPT_MAX:
            self.clear()
        digits = f"{((count << 4 * _TAIL_DIGITS) & _TAIL_MASK | _VARIANT):016x}"
        self[count] = middle = f"{digits[:4]}-{digits[4:-_TAIL_DIGITS]}"
        return middle


_heads, _middles = _Heads(), _Middles()
_counter = itertools.count(_bits(62))


def new_event_id(now_us: int) -> str:
    """A UUIDv7 of this time (microseconds since 1970), in canonical lower-case text.

    62 bits count on from a random start (RFC 9562, section 6.2, method 2): ids of one process are never equal.
    """
    count = next(_counter)
    return f"{_heads[now_us // 1000]}{_middles[count >> 12]}{_TAILS[count & 4095]}"


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
    global _counter  # noqa: PLW0603 - the one counter of the process
    _RANDOM.seed(os.urandom(_SEED_BYTES))
    _heads.clear()
    _counter = itertools.count(_bits(62))


os.register_at_fork(after_in_child=_seed_child)
