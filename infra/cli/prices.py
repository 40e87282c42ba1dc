"""`agentledger prices`: what the price book in use says of a model, and whether a price file is right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from agentledger.infra.cli.times import moment_of
from agentledger.infra.settings import load_settings
from agentledger.schemas.errors import UsageError
from agentledger.schemas.genai_tariffs import SCALE
from agentledger.schemas.ports import ListedPrice
from agentledger.schemas.price_books import open_prices

# US dollars per million tokens are thousands of nano-dollars per token.
_PER_MTOK = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


@click.group("prices")
def prices() -> None:
    """Prices of models: what counts at a time, and files of one's own."""


@prices.command("show")
@click.argument("model")
@click.option("--provider", default="", help="As calls name it; empty: whoever sells a model of this name.")
@click.option("--at", "at", default=None, metavar="DATE", help="A day or a time, UTC. Default: now.")
@click.option("--json", "as_json", is_flag=True, help="Exact prices as JSON.")
def show(model: str, provider: str, at: str | None, as_json: bool) -> None:
    """Show what MODEL costs at a time: US dollars per million tokens, by service tier and size of the prompt."""
    book = open_prices(load_settings().prices_file)
    moment = datetime.now(UTC) if at is None else moment_of(at)
    at_us = int(moment.timestamp()) * 1_000_000
    rows = book.listed(provider, model, at_us=at_us)
    if not rows:
        raise UsageError(
            f"no price for {model} at {moment:%Y-%m-%d %H:%M} UTC",
            where=f"{book.source} {book.version}",
            next_step="its calls are unpriced; add it to AGENTLEDGER_PRICES_FILE, see agentledger prices shape",
        )
    if as_json:
        click.echo(json.dumps([_plain(row) for row in rows], indent=2))
        return
    console = Console()
    console.print(_table(rows))
    first = rows[0]
    maker = f"{first.provider}/" if first.provider else ""
    console.print(
        f"{maker}{first.model} at {moment:%Y-%m-%d %H:%M} UTC by {first.source} {first.version}; "
        "US dollars per million tokens",
        style="dim",
        highlight=False,
    )


@prices.command("check")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def check(file: Path) -> None:
    """Read FILE as a price file: every wrong place, or what it holds."""
    from agentledger.schemas.price_file import read_price_file

    read = read_price_file(file)
    dated = sum(len(entry.prices) for entry in read.models)
    click.echo(
        f"{file}: version {read.version}, sha256 {read.digest[:12]}…: {len(read.models)} models with {dated} prices, "
        f"{len(read.tools)} tools, {len(read.people)} hourly rates"
    )


@prices.command("shape")
def shape() -> None:
    """Print a price file with every key."""
    from agentledger.schemas.price_file import SHAPE

    click.echo(SHAPE, nl=False)


def _table(rows: Sequence[ListedPrice]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("tier", no_wrap=True)
    for heading in ("over", "input", "cache read", "cache write", "output", "reasoning", "call"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        costs = [_usd_per_mtok(getattr(row.tariff, name)) for name in _PER_MTOK]
        request = Decimal(row.tariff.request) / SCALE / 10**9
        table.add_row(
            row.tier or "standard",
            f"{row.above:,}" if row.above else "",
            *(f"{cost:f}" for cost in costs),
            f"{request.normalize():f}" if request else "",
        )
    return table


def _usd_per_mtok(amount: int) -> Decimal:
    """From billionths of a nano-dollar per token."""
    return (Decimal(amount) / (SCALE * 1000)).normalize()


def _plain(row: ListedPrice) -> dict[str, Any]:
    costs = {f"{name}_usd_per_million": f"{_usd_per_mtok(getattr(row.tariff, name)):f}" for name in _PER_MTOK}
    request = {"request_usd": f"{(Decimal(row.tariff.request) / SCALE / 10**9).normalize():f}"}
    return {
        "provider": row.provider, "model": row.model, "tier": row.tier, "above_input_tokens": row.above, **costs,
        **request, "source": row.source, "version": row.version,
    }  # fmt: skip


COMMANDS = {"prices": prices}
