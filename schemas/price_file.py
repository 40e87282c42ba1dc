"""A price file of one's own, in YAML: negotiated, local or newer prices, tools with a price, and people's hours.

Amounts in the file are US dollars: per million tokens, per request, per call of a tool, per hour of a person. What it
says of a model replaces what the shipped book says of that model, from its first `valid_from` on. `SHAPE` shows every
key. Reading is strict: an unknown key, a repeated one, or an amount that isn't exact is an error that says where.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from agentledger.schemas.yaml_file import YamlFileError, parse_yaml, read_bounded

SHAPE = """\
version: acme-2026-11              # charges name it
models:
  - model: claude-sonnet-4-5       # as calls name it; upper and lower case are the same
    provider: anthropic            # optional: only calls of this provider
    aliases: [claude-sonnet-4-5-20250929]
    cache_write_ttl: 5m            # which price cache writes have: 5m or 1h, as events don't tell them apart
    prices:                        # the last entry that holds at the time of the call counts
      - valid_from: 2025-09-29     # a day or a time, UTC; without it: since ever
        # hours_utc: 16:30-00:30   # optional: only between these times of the day
        source: https://…          # optional: where the price was read
        input: 3                   # US dollars per million tokens
        cache_read: 0.30           # without it: as input
        cache_write_5m: 3.75       # without it: as input
        cache_write_1h: 6          # without it: as cache_write_5m
        output: 15
        reasoning: 15              # without it: as output
        request: 0                 # US dollars per call
        above:                     # other prices for calls with more input tokens than this, cached ones included
          200000:
            {input: 6, cache_read: 0.60, cache_write_5m: 7.50, cache_write_1h: 12, output: 22.50, reasoning: 22.50}
        tiers:                     # other prices by service tier
          batch: {multiply: 0.5}   # all of the above times this, or prices key by key
tools:
  web_search:
    - {valid_from: 2026-01-01, usd_per_call: 0.01}
people:
  - {valid_from: 2026-01-01, usd_per_hour: 48}
"""
BYTES_MAX = 4 * 1024 * 1024  # the shipped book as YAML would have half of it


class PriceFileError(YamlFileError):
    """The price file is wrong."""

    advice = "agentledger prices shape shows every key"


def _as_utc_us(value: Any) -> Any:
    """A day or a time of the file as microseconds since 1970."""
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
    elif isinstance(value, date):
        moment = datetime.combine(value, time(), UTC)
    else:
        raise ValueError("give a day or a time, such as 2026-01-31 or 2026-01-31T16:00:00Z")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // datetime.resolution


def _as_hours(value: Any) -> Any:
    """Minutes of the day of `hh:mm-hh:mm`."""
    try:
        start, end = (time.fromisoformat(part.strip()) for part in str(value).split("-"))
    except ValueError:
        raise ValueError("give two times of the day, such as 16:30-00:30") from None
    return start.hour * 60 + start.minute, end.hour * 60 + end.minute


def _exact(value: Decimal) -> Decimal:
    if value.as_tuple().exponent not in range(-12, 13):
        raise ValueError("has more than 12 decimals")
    return value


def _in_nanos(value: Decimal) -> Decimal:
    if value.as_tuple().exponent not in range(-9, 13):
        raise ValueError("has more than 9 decimals")
    return value


Usd = Annotated[Decimal, Field(ge=0, le=10**6, allow_inf_nan=False), AfterValidator(_exact)]
UsdInNanos = Annotated[Decimal, Field(ge=0, le=10**6, allow_inf_nan=False), AfterValidator(_in_nanos)]
Moment = Annotated[int, BeforeValidator(_as_utc_us)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_PARTS = {"input": ("cache_read", "cache_write_5m", "cache_write_1h"), "output": ("reasoning",)}


class Dated(_Strict):
    """Something that holds from a time on."""

    valid_from: Moment = -(2**63)
    hours_utc: Annotated[tuple[int, int], BeforeValidator(_as_hours)] | None = None

    def holds_at(self, at_us: int) -> bool:
        """True where the entry counts at this time (microseconds since 1970)."""
        if at_us < self.valid_from:
            return False
        if self.hours_utc is None:
            return True
        start, end = self.hours_utc
        minute = at_us // 60_000_000 % 1440
        return start <= minute < end if start <= end else minute >= start or minute < end


class Rates(_Strict):
    """US dollars per million tokens, and per request; None where the entry doesn't say."""

    input: Usd | None = None
    cache_read: Usd | None = None
    cache_write_5m: Usd | None = None
    cache_write_1h: Usd | None = None
    output: Usd | None = None
    reasoning: Usd | None = None
    request: Usd | None = None

    def over(self, base: Rates) -> Rates:
        """These rates, with those of `base` where these don't say.

        Raises ValueError where these change the price of input or output and leave out what `base` says of the cache or
        of reasoning: that would keep its old price in silence.
        """
        said = {name: getattr(self, name) for name in Rates.model_fields if getattr(self, name) is not None}
        for name, parts in _PARTS.items():
            forgotten = [part for part in parts if part not in said and getattr(base, part) is not None]
            if name in said and forgotten:
                raise ValueError(f"says another price for {name}: say {' and '.join(forgotten)}, too")
        return Rates(**{name: getattr(base, name) for name in Rates.model_fields} | said)

    def times(self, factor: Decimal) -> Rates:
        """Every rate times a factor. Raises ValueError where a product isn't exact."""
        scaled = {name: getattr(self, name) for name in Rates.model_fields}
        return Rates(**{name: value if value is None else _exact(value * factor) for name, value in scaled.items()})


class TierRates(Rates):
    """What a service tier changes: all prices by a factor, or single ones."""

    multiply: Annotated[Decimal, Field(gt=0, le=100)] | None = None
    above: dict[int, Rates] = {}


class Price(Rates, Dated):
    """One entry: the prices of a model from a time on."""

    source: str = ""
    above: dict[Annotated[int, Field(gt=0)], Rates] = {}
    tiers: dict[str, TierRates] = {}

    @model_validator(mode="after")
    def _is_whole(self) -> Price:
        if self.input is None or self.output is None:
            raise ValueError("needs input and output")
        for tier in ("", *self.tiers):
            self.steps(tier)
        return self

    def steps(self, tier: str) -> list[tuple[int, Rates]]:
        """Rates by the number of input tokens above which they hold, ascending, from 0. Raises KeyError, ValueError."""
        own = [(0, _rates(self)), *((start, rates.over(_rates(self))) for start, rates in sorted(self.above.items()))]
        if not tier:
            return own
        change = self.tiers[tier]
        if change.multiply is not None:
            own = [(start, rates.times(change.multiply)) for start, rates in own]
        own = [(start, _rates(change).over(rates)) for start, rates in own]
        for start, rates in sorted(change.above.items()):
            base = [found for at, found in own if at <= start][-1]
            own = sorted([*(step for step in own if step[0] != start), (start, rates.over(base))], key=lambda s: s[0])
        return own


def _rates(entry: Rates) -> Rates:
    return Rates(**{name: getattr(entry, name) for name in Rates.model_fields})


class ModelPrices(_Strict):
    """A model with its prices over time."""

    model: Annotated[str, Field(min_length=1)]
    provider: str = ""
    aliases: list[str] = []
    cache_write_ttl: Literal["5m", "1h"] = "5m"
    prices: Annotated[list[Price], Field(min_length=1)]


class ToolPrice(Dated):
    """What a call of a tool costs from a time on."""

    usd_per_call: UsdInNanos


class PersonRate(Dated):
    """What an hour of a person costs from a time on."""

    usd_per_hour: UsdInNanos


class PriceFile(_Strict):
    """The whole file; `digest` is the SHA-256 of its bytes, hex."""

    version: Annotated[str, Field(min_length=1, max_length=100)]
    models: list[ModelPrices] = []
    tools: dict[str, list[ToolPrice]] = {}
    people: list[PersonRate] = []
    digest: str = ""

    @model_validator(mode="after")
    def _names_are_single(self) -> PriceFile:
        seen: set[tuple[str, str]] = set()
        for entry in self.models:
            for name in {entry.model.lower(), *(alias.lower() for alias in entry.aliases)}:
                if (entry.provider.lower(), name) in seen:
                    raise ValueError(f"the model {name} of provider {entry.provider or '(any)'} is listed twice")
                seen.add((entry.provider.lower(), name))
        return self


def read_price_file(path: Path) -> PriceFile:
    """The file, checked. Raises PriceFileError with every wrong place."""
    return parse_price_file(read_bounded(path, bytes_max=BYTES_MAX, error=PriceFileError), where=str(path))


def parse_price_file(raw: bytes, *, where: str = "") -> PriceFile:
    """The file from its bytes. Raises PriceFileError."""
    file = parse_yaml(raw, where=where, bytes_max=BYTES_MAX, error=PriceFileError)
    return file.checked(PriceFile, file.content | {"digest": hashlib.sha256(raw).hexdigest()})
