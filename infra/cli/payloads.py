"""`agentledger payload`, `payload-writer`: content that was asked to be kept, beside the trail."""

from __future__ import annotations

import time
import uuid

import click

from agentledger.infra.endpoints import clickhouse_url, kafka_config, login_as, open_codec
from agentledger.infra.ledger_setup import open_clickhouse
from agentledger.infra.settings import Settings, load_settings
from agentledger.schemas.errors import UsageError

EXIT_DIFFERS = 3


@click.command("payload")
@click.argument("event_id")
@click.option(
    "--part", type=click.Choice(["arguments", "result", "input", "output"]), help="One part, printed as it is."
)
def payload(event_id: str, part: str | None) -> int:
    """Print the content that was kept of a call. Exit code 3 where it isn't what was sent."""
    from agentledger.infra.recorded_reads import recorded_queries
    from agentledger.schemas.personal import reveal
    from agentledger.schemas.subject_keys import FileSubjectKeys
    from agentledger.sinks.payloads import read_payloads

    try:
        uuid.UUID(event_id)
    except ValueError:
        raise UsageError(f"{event_id!r} is no event id", next_step="agentledger run RUN_ID shows them") from None
    settings = load_settings()
    with recorded_queries(settings, "payload", event_id=event_id, part=part) as client:
        found = read_payloads(client, event_id, part or "")
    keys = settings.subject_keys_folder()
    shown = FileSubjectKeys(keys).key_of if keys.is_dir() else None  # elsewhere sealed fields stay sealed
    for one in found:
        if part is None:
            click.echo(f"{one.part} ({one.digest}):")
        click.echo(one.text if shown is None else reveal(one.text, shown))
        if not one.is_as_sent:
            click.echo(f"agentledger: {one.part} isn't what was sent: its digest is not {one.digest}", err=True)
    return 0 if all(one.is_as_sent for one in found) else EXIT_DIFFERS


@click.command("payload-writer")
def payload_writer() -> None:
    """Write payloads to ClickHouse, and delete those whose time is over."""
    from agentledger.infra.cli.programs import start_logging, stop_on_signal
    from agentledger.infra.metrics_listener import serve_metrics
    from agentledger.sinks.payloads import PayloadsConfig, run_payloads

    settings = load_settings()
    start_logging(settings)
    config = PayloadsConfig(kafka=kafka_config(settings), keep_from_us=lambda tenant: _keep_from_us(settings, tenant))
    serve_metrics(settings, config.metrics.registry)
    login = login_as(settings, "payloads")
    client = open_clickhouse(clickhouse_url(settings), settings, database="agentledger", login=login)
    run_payloads(config, client, open_codec(settings), stop_on_signal())


def _keep_from_us(settings: Settings, tenant_id: str) -> int | None:
    from agentledger.infra.cli.evidence import read_approvers
    from agentledger.infra.cli.retention import policy_in_force
    from agentledger.sinks.payloads import keep_from_us

    policy = policy_in_force(settings, tenant_id)
    now_us = time.time_ns() // 1000
    return keep_from_us(policy, knows_approvers=bool(read_approvers(settings, None)), now_us=now_us)


COMMANDS = {"payload": payload, "payload-writer": payload_writer}
