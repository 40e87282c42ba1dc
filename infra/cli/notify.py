"""`agentledger notify`: alerts that reach people, by the channels and routes of the notify file."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from agentledger.infra.settings import Settings, load_settings
from agentledger.schemas.errors import ConfigurationError, UsageError

EXIT_NOT_SENT = 1


@click.group("notify")
def notify() -> None:
    """Tell people of alerts: Alertmanager, PagerDuty, Slack, webhooks, mail."""


@notify.command("run")
def run() -> None:
    """Deliver alerts until told to stop."""
    from agentledger.infra.cli.programs import start_logging, stop_on_signal
    from agentledger.infra.endpoints import kafka_config, open_codec
    from agentledger.infra.metrics_listener import serve_metrics
    from agentledger.sinks.notify.program import NotifyConfig, run_notify
    from agentledger.sinks.notify.settings import read_notify_file

    settings = load_settings()
    start_logging(settings)
    config = NotifyConfig(
        kafka=kafka_config(settings),
        open_codec=lambda: open_codec(settings),
        kafka_instance=settings.kafka_instance,
        state_path=settings.notify_state_path(),
        file=read_notify_file(_notify_path(settings)),
    )
    serve_metrics(settings, config.metrics.registry)
    run_notify(config, stop_on_signal())


@notify.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> int:
    """Say every wrong place of a notify file, one a line. Exit code 2 where there is one."""
    from agentledger.sinks.notify.settings import NotifyFileError, read_notify_file

    try:
        found = read_notify_file(file)
    except NotifyFileError as error:
        for problem in error.problems:
            click.echo(problem)
        return error.exit_code
    click.echo(f"{file}: {len(found.channels)} channels, {len(found.routes)} routes")
    return 0


@notify.command("test")
@click.argument("channel")
def test(channel: str) -> int:
    """Send a page that says that it is a test, and resolve it. Exit code 1 where the channel didn't take it."""
    from agentledger.sinks.notify.channels import open_channel
    from agentledger.sinks.notify.settings import read_notify_file
    from agentledger.sinks.notify.trial import trial_pages

    file = read_notify_file(_notify_path(load_settings()))
    if channel not in file.channels:
        raise UsageError(f"there is no channel {channel}", next_step=f"choose of {', '.join(sorted(file.channels))}")
    send = open_channel(channel, file.channels[channel])
    for told in trial_pages(time.time_ns() // 1000, file.console_url):
        outcome = send(told)
        answer = f"HTTP {outcome.http_status}" if outcome.http_status else "no HTTP answer"
        click.echo(f"{channel} {told.action}: {outcome.fault or 'sent'} ({answer})")
        if outcome.fault:
            return EXIT_NOT_SENT
    return 0


@notify.command("status")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
def status(form: str) -> None:
    """Show what is open, what waits, and what was given up."""
    from agentledger.sinks.notify.state import read_status

    incidents, given_up, unsaid = read_status(load_settings().notify_state_path())
    pages = [
        {
            "channel": name, "told": page.told, "attempt": page.waiting.attempt if page.waiting else None,
            "rule": incident.shown.rule, "tenant_id": incident.shown.tenant_id, "alerts": incident.alerts,
            "open_alerts": incident.open_alerts, "acknowledged_by": incident.acknowledged_by,
            "dedup_key": incident.dedup_key,
        }
        for incident in incidents
        for name, page in incident.pages.items()
    ]  # fmt: skip
    if form == "json":
        click.echo(json.dumps({"pages": pages, "given_up": given_up, "events_waiting": unsaid}, indent=2))
        return
    for page in pages:
        said = page["told"] or "not told yet"
        click.echo(f"{page['channel']}: {said}, {page['rule']} of {page['tenant_id']}, {page['alerts']} alerts")
    for lost in given_up:
        at = f"{datetime.fromtimestamp(lost['at_us'] / 1_000_000, UTC):%Y-%m-%d %H:%M:%S}"
        click.echo(f"given up {at} UTC: {lost['channel']} {lost['action']}, {lost['rule']}: {lost['fault']}")
    click.echo(f"{len(pages)} pages, {len(given_up)} given up, {unsaid} events wait for Kafka")


def _notify_path(settings: Settings) -> Path:
    if settings.notify_file is None:
        raise ConfigurationError("no notify file is known", next_step="set AGENTLEDGER_NOTIFY_FILE")
    return settings.notify_file.expanduser()


COMMANDS: dict[str, click.Command] = {"notify": notify}
