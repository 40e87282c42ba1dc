"""Over what a budget's usage is summed: windows by ledger time. Pure; times are microseconds since 1970 (UTC).

- `run`: a run's own sum, without a time limit. `total`: one sum for good.
- `hour`: an hour of UTC. `day`, `month`: as they begin in the budget's time zone, so a day has 23 or 25 hours where the
  clocks change. A midnight that doesn't exist is the moment the clocks jump; of two, the second counts.
- `sliding`: the last `window_ms`, counted in SLIDING_BUCKETS buckets. Usage leaves with its whole bucket: so what is
  counted is that of the last window_ms plus at most one bucket, never less than the window. Bound of the error: the
  usage of one bucket, 1/60 of the window's time, counted too long.

Usage belongs to the window of the ledger time at which it became known: a window that closed never changes.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from agentledger.schemas.errors import ConfigurationError

WINDOWS = ("run", "hour", "day", "month", "sliding", "total")
SLIDING_BUCKETS = 60
SLIDING_MS_MAX = 366 * 86_400_000
HOUR_US = 3_600_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FOUND_LAST: dict[tuple[str, str], tuple[int, int]] = {}  # by kind and time zone, of which there are some hundreds


class Window(NamedTuple):
    """From `start_us` to before `end_us`; None is without an end on that side."""

    start_us: int | None
    end_us: int | None


FOREVER = Window(None, None)


def window_of(kind: str, time_us: int, *, time_zone: str = "", window_ms: int | None = None) -> Window:
    """The window in which this ledger time falls. Raises ConfigurationError for an unknown kind or time zone.

    A sliding window is what its sum covers as long as the time is within one bucket.
    """
    if kind in {"run", "total"}:
        return FOREVER
    if kind == "hour":
        start = time_us - time_us % HOUR_US
        return Window(start, start + HOUR_US)
    if kind in {"day", "month"}:
        return _calendar_window(kind, time_us, time_zone)
    if kind == "sliding" and window_ms:
        width, bucket = bucket_us(window_ms), bucket_of(time_us, window_ms)
        return Window((bucket - SLIDING_BUCKETS) * width, (bucket + 1) * width)
    raise ConfigurationError(f"no budget has the window {kind!r}", next_step=f"use one of {', '.join(WINDOWS)}")


def window_ms_usual(kind: str, window_ms: int | None = None) -> int | None:
    """About how long a window of this kind is, milliseconds; None where it has no end."""
    usual = {"hour": 3_600_000, "day": 86_400_000, "month": 30 * 86_400_000}
    return window_ms if kind == "sliding" else usual.get(kind)


def bucket_us(window_ms: int) -> int:
    """Width of a sliding window's buckets: at least a microsecond, and together never less than the window."""
    return max(1, -(-window_ms * 1000 // SLIDING_BUCKETS))


def bucket_of(time_us: int, window_ms: int) -> int:
    """The number of the bucket in which this time falls."""
    return time_us // bucket_us(window_ms)


def first_bucket(time_us: int, window_ms: int) -> int:
    """The oldest bucket that still counts at this time."""
    return bucket_of(time_us, window_ms) - SLIDING_BUCKETS


@lru_cache(maxsize=4096)
def zone(name: str) -> ZoneInfo:
    """The time zone of this IANA name; empty is UTC. Raises ConfigurationError."""
    try:
        return ZoneInfo(name or "UTC")
    except (ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError, see below
        raise _unknown_zone(name) from error
    except KeyError as error:
        raise _unknown_zone(name) from error


def _unknown_zone(name: str) -> ConfigurationError:
    return ConfigurationError(f"no time zone is called {name!r}", next_step="use an IANA name such as Europe/Zurich")


def _calendar_window(kind: str, time_us: int, time_zone: str) -> Window:
    """Its window. Most times fall into the one that was found last: time zones take longer than all else here."""
    start, end = _FOUND_LAST.get((kind, time_zone), (0, 0))
    if not start <= time_us < end:
        start, end = _FOUND_LAST[kind, time_zone] = _find_window(kind, time_us, time_zone)
    return Window(start, end)


def _find_window(kind: str, time_us: int, time_zone: str) -> tuple[int, int]:
    local = (_EPOCH + timedelta(microseconds=time_us)).astimezone(zone(time_zone))
    year, month, day = local.year, local.month, local.day if kind == "day" else 1
    start, end = _begin(year, month, day, time_zone), _begin(*_after(kind, year, month, day), time_zone)
    # Where the clocks go back over midnight, a time may lie before the beginning of its own date.
    if time_us < start:
        return _begin(*_before(kind, year, month, day), time_zone), start
    if time_us >= end:
        year, month, day = _after(kind, year, month, day)
        return end, _begin(*_after(kind, year, month, day), time_zone)
    return start, end


def _begin(year: int, month: int, day: int, time_zone: str) -> int:
    """The instant at which this date begins."""
    midnights = (datetime(year, month, day, tzinfo=zone(time_zone), fold=fold) for fold in (0, 1))
    # The later of both readings: in a gap the moment of the jump, where midnight comes twice the second one.
    return max((midnight.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1) for midnight in midnights)


def _after(kind: str, year: int, month: int, day: int) -> tuple[int, int, int]:
    if kind == "month":
        return (year + 1, 1, 1) if month == 12 else (year, month + 1, 1)
    following = datetime(year, month, day, tzinfo=UTC) + timedelta(days=1)
    return following.year, following.month, following.day


def _before(kind: str, year: int, month: int, day: int) -> tuple[int, int, int]:
    if kind == "month":
        return (year - 1, 12, 1) if month == 1 else (year, month - 1, 1)
    previous = datetime(year, month, day, tzinfo=UTC) - timedelta(days=1)
    return previous.year, previous.month, previous.day
