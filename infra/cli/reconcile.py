"""`agentledger reconcile`: compare holds, charges and sums once, or all the time."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import click

from agentledger.infra.cli.times import duration_us
from agentledger.infra.endpoints import kafka_config, open_codec
from agentledger.infra.settings import load_settings
from agentledger.sinks.reconcile import CheckResult

EXIT_DRIFT = 3


@click.command("reconcile")
@click.option(
    "--last", default="24h", metavar="TIME", show_default=True, help="Calls and runs of the last 90m, 24h, 7d."
)
@click.option("--watch", is_flag=True, help="Go on for good, and raise alerts: the program of that name.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def reconcile(last: str, watch: bool, as_json: bool) -> int:
    """Compare holds, charges and the ledger's own sums. Exit code 3 where they are a nano-dollar apart."""
    from agentledger.infra.cli.analyst import connect
    from agentledger.infra.reconciliation import one_pass, run_passes

    settings = load_settings()
    if watch:
        from agentledger.infra.cli.programs import start_logging, stop_on_signal
        from agentledger.infra.metrics_listener import serve_metrics
        from agentledger.infra.reconcile_metrics import ReconcileMetrics

        start_logging(settings)
        kafka, metrics = kafka_config(settings), ReconcileMetrics()
        serve_metrics(settings, metrics.registry)
        run_passes(lambda: connect(settings), kafka, stop_on_signal(), open_codec(settings), metrics)
        return 0
    range_s = duration_us(last) // 1_000_000
    codec = open_codec(settings)
    results = one_pass(connect(settings), codec, now_us=time.time_ns() // 1000, range_s=range_s)
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], indent=2))
    else:
        _print(results)
    return EXIT_DRIFT if any(result.drifts for result in results) else 0


def _print(results: list[CheckResult]) -> None:
    from rich.console import Console
    from rich.table import Table

    from agentledger.infra.reconciliation import total_text

    if not results:
        click.echo("there is nothing to compare")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("check", "tenant", "compared", "expected", "found", "differ"):
        table.add_column(heading, justify="left" if heading in {"check", "tenant"} else "right", overflow="fold")
    for result in results:
        style = "red" if result.drifts else ""
        counts = f"{result.compared:,}", *total_text(result), f"{result.drifts:,}"
        table.add_row(result.check, result.tenant_id, *counts, style=style)
    Console().print(table)
    for result in results:
        for drift in result.examples:
            ids = ", ".join(drift.event_ids)
            click.echo(f"{result.check}: {drift.subject}: {drift.found} where {drift.expected} is expected ({ids})")


COMMANDS = {"reconcile": reconcile}
