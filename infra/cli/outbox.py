"""`agentledger outbox`: what waits on this host's disk for Kafka, and sending what dead processes have left."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import click

from agentledger.schemas.errors import BrokerError, UsageError

_FOLDER = click.option(
    "--dir", "folder", type=click.Path(path_type=Path), default=None, metavar="DIR",
    help="The outbox's folder; default: AGENTLEDGER_OUTBOX_DIR, else DATA_DIR/outbox.",
)  # fmt: skip


@click.group("outbox")
def outbox() -> None:
    """Events of this host that wait for Kafka."""


@outbox.command("status")
@_FOLDER
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(*, folder: Path | None, as_json: bool) -> None:
    """What waits, for each process that runs or is gone."""
    from rich.console import Console
    from rich.table import Table

    from agentledger.producers.outbox.survey import survey

    path = _folder(folder)
    reports = survey(path)
    if as_json:
        click.echo(json.dumps([asdict(report) for report in reports], indent=2))
        return
    if not reports:
        click.echo(f"nothing waits in {path}")
        return
    table = Table(box=None, header_style="bold")
    for column in ("outbox", "tenant", "process", "events", "announcements", "damaged", "bytes"):
        is_text = column in {"outbox", "tenant", "process"}
        table.add_column(column, justify="left" if is_text else "right", overflow="fold")
    for report in reports:
        table.add_row(
            report.name, report.tenant_id, "in use" if report.is_in_use else "gone", f"{report.events:,}",
            f"{report.announcements:,}", f"{report.damaged:,}", f"{report.bytes_on_disk:,}",
        )  # fmt: skip
    Console().print(table)


@outbox.command("flush")
@_FOLDER
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0, 86_400), default=60.0, show_default=True, help="Seconds."
)
def flush(*, folder: Path | None, timeout_s: float) -> None:
    """Send what processes that are gone have left; those that run send their own. Fails where some is left."""
    from agentledger.infra.endpoints import configured_registry, kafka_config
    from agentledger.infra.settings import load_settings
    from agentledger.producers.emitter import Emitter
    from agentledger.producers.outbox import Outbox, OutboxSettings
    from agentledger.producers.outbox.survey import survey
    from agentledger.producers.publisher import KafkaRecordProducer

    path, settings = _folder(folder), load_settings()
    if not any(not report.is_in_use for report in survey(path)):
        click.echo(f"no process that is gone has left anything in {path}")
        return
    producer = KafkaRecordProducer(kafka_config(settings))
    sender = Outbox(OutboxSettings(folder=path), producer)
    Emitter(
        producer, configured_registry(settings), tenant_id=settings.tenant_id,
        clock=lambda: time.time_ns() // 1000, on_problem=lambda problem: click.echo(problem.what, err=True),
        outbox=sender,
    )  # fmt: skip
    is_done = sender.flush(timeout_s, with_orphans=True)
    sender.close()
    producer.close()
    click.echo(f"sent {sender.recovered:,} events")
    if not is_done:
        raise BrokerError(
            f"not everything was sent within {timeout_s:g} s", where=str(path),
            next_step="see that Kafka can be reached, and flush again: nothing is lost",
        )  # fmt: skip


@outbox.command("inspect")
@_FOLDER
@click.argument("name", default="")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="Most events shown.")
def inspect(*, folder: Path | None, name: str, limit: int) -> None:
    """The events that wait in one process's outbox, or in all, one JSON line each: what they are, not what they say."""
    from agentledger.producers.outbox.survey import survey, waiting_records
    from agentledger.schemas.codec import Codec
    from agentledger.schemas.registry import open_registry

    path, codec = _folder(folder), Codec(open_registry())
    names = [report.name for report in survey(path) if name in {"", report.name}]
    if name and not names:
        raise UsageError(f"there is no outbox {name}", where=str(path), next_step="see agentledger outbox status")
    shown = 0
    for found in names:
        for record in waiting_records(path / found):
            if shown == limit:
                click.echo(f"more than {limit} events wait: --limit shows more", err=True)
                return
            shown += 1
            if record is None:
                click.echo(json.dumps({"outbox": found, "damaged": True}))
                continue
            event = codec.decode(record.value)
            click.echo(
                json.dumps(
                    {
                        "outbox": found, "event": type(event).__name__, "event_id": event.event_id,
                        "tenant_id": event.tenant_id, "run_id": event.run_id, "producer_id": event.producer_id,
                        "producer_seq": event.producer_seq, "occurred_at": event.occurred_at,
                        "bytes": len(record.value),
                    }
                )
            )  # fmt: skip


def _folder(given: Path | None) -> Path:
    from agentledger.producers.outbox.settings import default_folder

    return (given or default_folder()).expanduser().absolute()


COMMANDS = {"outbox": outbox}
