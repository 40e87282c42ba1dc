"""`agentledger query`, `run`, `scoreboard`: looking at the trail."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from agentledger.infra.endpoints import clickhouse_url, reader_login
from agentledger.infra.ledger_setup import open_clickhouse
from agentledger.infra.settings import Settings, load_settings


def connect(settings: Settings) -> Any:
    """A client for one who only looks: on the local stack the auditor, who can change nothing. What shows records of
    agents takes `recorded_queries` instead."""
    return open_clickhouse(clickhouse_url(settings), settings, database="agentledger", login=reader_login(settings))


@click.command()
@click.argument("sql")
@click.option("--format", "output_format", type=click.Choice(["pretty", "json", "csv"]), default="pretty")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="Fills {NAME:Type} on the server.")
def query(sql: str, output_format: str, params: tuple[str, ...]) -> None:
    """Ask the ledger in SQL (read-only). The views are in the database agentledger, which is the default."""
    from agentledger.infra.recorded_reads import recorded_queries
    from agentledger.sinks import print_result
    from agentledger.sinks import query as ask

    settings = load_settings()
    parameters = dict(_name_value(param) for param in params)
    with recorded_queries(settings, "query", sql=sql, parameters=parameters) as client:
        result = ask(
            client,
            sql,
            parameters=parameters,
            time_s_max=settings.query_time_s_max,
            rows_max=settings.query_rows_max,
        )
    print_result(Console(), result, output_format)


def _name_value(param: str) -> tuple[str, str]:
    name, equals, value = param.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{param!r} is not NAME=VALUE", param_hint="--param")
    return name, value


@click.command()
@click.argument("run_id")
@click.option("--tenant", default=None, help="Where the same run id exists for several tenants.")
def run(run_id: str, tenant: str | None) -> None:
    """Show one run as a timeline: every step, cost and decision. A unique beginning of the id is enough."""
    from agentledger.infra.recorded_reads import recorded_queries
    from agentledger.schemas.subject_keys import FileSubjectKeys
    from agentledger.sinks import read_trail, revealed
    from agentledger.sinks.timeline import timeline

    settings = load_settings()
    with recorded_queries(settings, "run", run_id=run_id, tenant_id=tenant) as client:
        trail = read_trail(client, run_id, tenant)
    folder = settings.subject_keys_folder()
    if folder.is_dir():  # elsewhere sealed fields stay sealed: that a key is not here doesn't mean that it is destroyed
        trail = revealed(trail, FileSubjectKeys(folder))
    Console().print(timeline(trail))


@click.command()
def scoreboard() -> None:
    """Show per workflow: runs, success, cost, cost per successful outcome, escalations, denials, alerts."""
    from agentledger.infra.recorded_reads import recorded_queries
    from agentledger.sinks.scoreboard import scoreboard as laid_out
    from agentledger.sinks.scoreboard import scoreboard_rows

    with recorded_queries(load_settings(), "scoreboard") as client:
        rows = scoreboard_rows(client)
    console = Console()
    console.print(laid_out(rows, console.width))


COMMANDS = {"query": query, "run": run, "scoreboard": scoreboard}
