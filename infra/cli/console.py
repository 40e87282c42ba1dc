"""`agentledger console`: the ledger as pages."""

from __future__ import annotations

from urllib.parse import urlsplit

import click

from agentledger.infra.cli.programs import start_logging, stop_on_signal
from agentledger.infra.settings import Settings, load_settings
from agentledger.schemas.errors import MissingLibraryError
from agentledger.schemas.ready import say_ready


@click.command("console")
@click.option("--host", help="Where to listen. Default: AGENTLEDGER_CONSOLE_HOST, or 127.0.0.1.")
@click.option("--port", type=click.IntRange(1, 65535), help="Default: AGENTLEDGER_CONSOLE_PORT, or 8391.")
def console(host: str | None, port: int | None) -> None:
    """Show the ledger in a browser: runs, budgets, alerts; halt and resume."""
    given = {"console_host": host, "console_port": port}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    start_logging(settings)
    serve(settings)


def serve(settings: Settings) -> None:
    """Run the console until it is told to stop. Raises ConfigurationError, StoreError."""
    try:
        from agentledger.infra.console_metrics import ConsoleMetrics, counted
        from agentledger.infra.console_wiring import console_ports, oidc_config
        from agentledger.infra.metrics_listener import serve_metrics
        from agentledger.sinks.console import ConsoleConfig, run_console
    except ModuleNotFoundError as error:
        raise MissingLibraryError(error.name or "a library of the console", "console") from None

    config = ConsoleConfig(
        host=settings.console_host,
        port=settings.console_port,
        local_tenant_id=settings.tenant_id if settings.console_keys == "not_on_loopback" else "",
        session_secret=settings.console_session_secret.get_secret_value(),
        public_host=urlsplit(settings.console_public_url).hostname or "",
        oidc=oidc_config(settings),
    )
    metrics = ConsoleMetrics()
    ports = counted(console_ports(settings), metrics)
    serve_metrics(settings, metrics.registry)
    run_console(config, ports, stop_on_signal(), say_ready)


COMMANDS: dict[str, click.Command] = {"console": console}
