"""`agentledger demo`: the whole thing on this machine, with a believable workload and a scoreboard."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from agentledger.infra.demo.show import run_demo
from agentledger.infra.settings import load_settings


@click.command()
@click.option("--runs", type=click.IntRange(1, 100_000), default=300, show_default=True, help="How many runs to tell.")
@click.option("--seed", type=int, default=7, show_default=True, help="The same seed tells the same story.")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Default: .agentledger/demo.")
@click.option("--broker", type=click.Choice(["kafka", "memory"]), default="kafka", show_default=True)
def demo(runs: int, seed: int, data_dir: Path | None, broker: str) -> None:
    """Start a local stack, record a day of three agents, print what it cost and what came of it, stop."""
    settings = load_settings()
    folder = (data_dir or settings.data_dir / "demo").expanduser().resolve()
    run_demo(Console(), settings, folder, runs=runs, seed=seed, broker="memory" if broker == "memory" else "kafka")


COMMANDS = {"demo": demo}
