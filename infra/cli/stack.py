"""`agentledger up`, `down`, `status`: the local stack."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.table import Table

from agentledger.infra.local_stack import local_stack
from agentledger.infra.settings import Settings, load_settings
from agentledger.infra.stack import StackConfig, find_running, spawn_detached, status, stop_running
from agentledger.schemas.errors import StackError

data_dir_option = click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder of data, logs and state."
)


def settings_for(data_dir: Path | None) -> Settings:
    """The settings, with the folder of the command line before that of the environment."""
    return load_settings(**({"data_dir": data_dir} if data_dir else {}))


@click.command()
@data_dir_option
@click.option("--detach", is_flag=True, help="Return when everything is ready and leave it running.")
@click.option("--broker", type=click.Choice(["kafka", "memory"]), default="kafka", show_default=True)
@click.option("--kafka-port", type=click.IntRange(1, 65535), help="Default: the last one, or a free one.")
@click.option("--clickhouse-http-port", type=click.IntRange(1, 65535), help="Default: the last one, or a free one.")
@click.option("--clickhouse-native-port", type=click.IntRange(1, 65535), help="Default: the last one, or a free one.")
@click.option("--gateway-port", type=click.IntRange(1, 65535), help="Default: the last one, or a free one.")
@click.option("--console-port", type=click.IntRange(1, 65535), help="Default: the last one, or a free one.")
def up(data_dir: Path | None, detach: bool, **options: Any) -> None:
    """Start Kafka, ClickHouse, the processors, the writer, the gateway and the console on this machine."""
    settings = settings_for(data_dir)
    folder = settings.data_dir.expanduser().resolve()
    running = find_running(folder, click.echo)
    if running is not None:
        click.echo(f"already running: supervisor pid {running.supervisor.pid}, {folder} (agentledger status)")
        return
    if detach:
        spawn_detached(
            [sys.executable, "-m", "agentledger.infra.cli", *_up_arguments(folder, options)], folder, click.echo
        )
        started = find_running(folder, click.echo)
        if started is not None and started.endpoints is not None and started.endpoints.console_url:
            click.echo(f"the console is at {started.endpoints.console_url}")
        click.echo("ready: agentledger status shows it, agentledger down stops it")
        return
    config = StackConfig(data_dir=folder, cache_dir=settings.cache_dir.expanduser(), **options)
    local_stack(config, settings).run(click.echo)


def _up_arguments(folder: Path, options: dict[str, Any]) -> list[str]:
    given = [(name, value) for name, value in options.items() if value is not None]
    return ["up", "--data-dir", str(folder), *(f"--{name.replace('_', '-')}={value}" for name, value in given)]


@click.command()
@data_dir_option
def down(data_dir: Path | None) -> None:
    """Stop the local stack in order; its data stays."""
    folder = settings_for(data_dir).data_dir.expanduser().resolve()
    click.echo("stopped" if stop_running(folder, click.echo) else f"nothing runs on {folder}")


@click.command("status")
@data_dir_option
def show_status(data_dir: Path | None) -> int:
    """Show what runs; exit code 3 where something is missing."""
    folder = settings_for(data_dir).data_dir.expanduser().resolve()
    services = status(folder)
    if not services:
        click.echo(f"nothing runs on {folder}: agentledger up starts it")
        return 3
    table = Table(box=None, header_style="bold")
    for column in ("service", "state", "pid", "endpoint", "metrics", "up for"):
        table.add_column(column, justify="right" if column in {"pid", "up for"} else "left")
    for service in services:
        table.add_row(
            service.name, service.state, str(service.pid), service.endpoint, _port_of(service.metrics_url),
            f"{service.uptime:.0f} s",
        )  # fmt: skip
    Console().print(table)
    return 0 if all(service.state in {"running", "ready"} for service in services) else 3


def _port_of(metrics_url: str) -> str:
    """As a table has room for: on this machine, under /metrics."""
    return f":{urlsplit(metrics_url).port}" if metrics_url else ""


@click.command()
@data_dir_option
def env(data_dir: Path | None) -> None:
    """Print where the local stack listens, as shell exports: eval "$(agentledger env)"."""
    folder = settings_for(data_dir).data_dir.expanduser().resolve()
    running = find_running(folder, lambda line: click.echo(line, err=True))
    if running is None or running.endpoints is None:
        raise StackError(f"nothing runs on {folder}", next_step="agentledger up --detach starts it")
    for name, value in running.endpoints.env().items():
        click.echo(f"export {name}={shlex.quote(value)}")


COMMANDS = {"up": up, "down": down, "status": show_status, "env": env}
