"""Templates: every value is escaped, an unknown name is an error, and nothing in them is script or style."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.text import Text

from agentledger.schemas.money import NANOUSD_PER_USD, format_usd
from agentledger.sinks.event_text import clean, duration_text, money_text, utc

_FOLDER = Path(__file__).parent
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def render(template: str, /, **values: Any) -> str:
    """The page as HTML."""
    return _ENVIRONMENT.get_template(template).render(**values)


def when(moment: datetime | int | None) -> str:
    """A time to the second, UTC; microseconds since 1970 too."""
    if moment is None:
        return "–"
    if isinstance(moment, int):
        moment = _EPOCH + timedelta(microseconds=moment)
    return utc(moment).strftime("%Y-%m-%d %H:%M:%S")


def ago(moment: datetime | None, now_us: int) -> str:
    """How long ago that was, such as `4.0s` or `3h05m`; a dash where it never was."""
    if moment is None or utc(moment) <= _EPOCH:
        return "–"
    return duration_text(max(0, now_us // 1000 - (utc(moment) - _EPOCH) // timedelta(milliseconds=1)))


def amount(value: float | None, metric: str) -> str:
    """What a budget counts, in the unit of its metric."""
    if value is None:
        return "–"
    if metric == "cost_nanousd":
        return money(round(value))
    return duration_text(int(value)) if metric == "wall_clock_ms" else f"{round(value):,}"


def money(nanousd: int | None) -> str:
    """Dollars, or that there is no price."""
    if nanousd is None or abs(nanousd) < NANOUSD_PER_USD:
        return money_text(nanousd)
    return format_usd(nanousd, places=2)


def segments(text: Text) -> Iterator[tuple[str, str]]:
    """A coloured text as (class names, text), in order: what is bold red in the terminal is class `bold red`."""
    cuts = sorted({0, len(text.plain), *(edge for span in text.spans for edge in (span.start, span.end))})
    for start, end in pairwise(cuts):
        styles = [str(span.style) for span in text.spans if span.start <= start and span.end >= end]
        yield " ".join(styles), text.plain[start:end]


def percent(part: float | None, whole: float | None) -> str:
    """Such as `42 %`; a dash where there is no whole."""
    return "–" if part is None or not whole else f"{part * 100 / whole:.0f} %"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        money=money, when=when, amount=amount, duration=duration_text, clean=clean, segments=segments,
        path=lambda text: quote(str(text), safe=""),
    )  # fmt: skip
    environment.globals.update(ago=ago, percent=percent)
    return environment


_ENVIRONMENT = _environment()
