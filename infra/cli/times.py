"""Days and times as people give them on the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from agentledger.schemas.errors import UsageError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DURATION = re.compile(r"(\d{1,6})(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def moment_of(text: str) -> datetime:
    """The day or time in UTC; without a time zone it is meant in UTC. Raises UsageError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no day or time", next_step="such as 2026-01-31 or 2026-01-31T16:00") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def moment_us(text: str | None) -> int | None:
    """The day or time in microseconds since 1970; None for None. Raises UsageError."""
    return None if text is None else (moment_of(text) - EPOCH) // datetime.resolution


def duration_us(text: str) -> int:
    """A length of time such as 30m, 6h or 7d in microseconds. Raises UsageError."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is no length of time", next_step="such as 30m, 6h, 1d or 3w; 0s for none")
    return int(found[1]) * _SECONDS[found[2]] * 1_000_000


def utc_text(time_us: int) -> str:
    """A time in microseconds since 1970 for people, to the minute, in UTC."""
    return f"{EPOCH + timedelta(microseconds=time_us):%Y-%m-%d %H:%M}"
