"""Days and times as people give them on the command line."""

from __future__ import annotations

from datetime import UTC, datetime

from agentledger.schemas.errors import UsageError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
