"""Windows by ledger time: each moment lies in exactly one, also where clocks change."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.processors.budget_windows import (
    FOREVER,
    SLIDING_BUCKETS,
    Window,
    bucket_of,
    bucket_us,
    first_bucket,
    window_of,
)
from agentledger.schemas.errors import ConfigurationError

# Clocks that change at midnight, by half an hour, twice a year, and across the date line.
ZONES = ["", "Europe/Zurich", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia"]
TIMES = st.integers(946_684_800_000_000, 2_208_988_800_000_000)  # 2000 to 2040
HOUR_US = 3_600_000_000


def us(text: str, zone: str = "UTC") -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000


@pytest.mark.parametrize("kind", ["hour", "day", "month"])
@given(time_us=TIMES, zone=st.sampled_from(ZONES))
def test_windows_follow_each_other_without_gap(kind: str, time_us: int, zone: str) -> None:
    start, end = window_of(kind, time_us, time_zone=zone)
    assert start is not None
    assert end is not None
    assert start <= time_us < end
    for inside in (start, end - 1):
        assert window_of(kind, inside, time_zone=zone) == (start, end)
        assert window_of(kind, end, time_zone=zone) != (start, end)  # the window found last is remembered: another one
        assert window_of(kind, inside, time_zone=zone) == (start, end)
    assert window_of(kind, end, time_zone=zone).start_us == end
    assert window_of(kind, start - 1, time_zone=zone).end_us == start


def test_days_have_the_hours_of_their_time_zone() -> None:
    def hours(day: str, zone: str) -> float:
        start, end = window_of("day", us(f"{day}T12:00", zone), time_zone=zone)
        assert start is not None
        assert end is not None
        return (end - start) / HOUR_US

    assert hours("2026-03-29", "Europe/Zurich") == 23
    assert hours("2026-10-25", "Europe/Zurich") == 25
    assert hours("2026-06-01", "Europe/Zurich") == 24
    assert hours("2017-10-15", "America/Sao_Paulo") == 23  # midnight did not exist
    assert hours("2018-02-17", "America/Sao_Paulo") == 25  # midnight came twice
    assert hours("2026-04-05", "Australia/Lord_Howe") == 24.5


def test_months_begin_in_their_time_zone() -> None:
    assert window_of("month", us("2026-12-31T23:30"), time_zone="Europe/Zurich") == Window(
        us("2027-01-01T00:00", "Europe/Zurich"), us("2027-02-01T00:00", "Europe/Zurich")
    )
    assert window_of("month", us("2026-12-31T23:30")) == Window(us("2026-12-01T00:00"), us("2027-01-01T00:00"))


def test_run_and_total_never_end() -> None:
    assert window_of("run", 1) == window_of("total", 1) == FOREVER


@given(time_us=TIMES, window_ms=st.integers(1, 366 * 86_400_000))
def test_a_sliding_window_covers_its_length_and_at_most_a_bucket_more(time_us: int, window_ms: int) -> None:
    oldest = first_bucket(time_us, window_ms) * bucket_us(window_ms)  # the earliest time that still counts
    assert time_us - oldest >= window_ms * 1000
    assert time_us - oldest < window_ms * 1000 + bucket_us(window_ms) + SLIDING_BUCKETS  # rounding: 1 us a bucket
    assert window_of("sliding", time_us, window_ms=window_ms) == (
        oldest,
        (bucket_of(time_us, window_ms) + 1) * bucket_us(window_ms),
    )


@pytest.mark.parametrize(("kind", "zone"), [("week", ""), ("day", "Mars/Olympus"), ("day", "../etc"), ("sliding", "")])
def test_what_is_no_window_is_refused(kind: str, zone: str) -> None:
    with pytest.raises(ConfigurationError):
        window_of(kind, us("2026-01-01T00:00"), time_zone=zone)


def test_utc_is_meant_where_no_zone_is_named() -> None:
    assert window_of("day", us("2026-01-01T00:00")).start_us == round(
        datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1e6
    )
