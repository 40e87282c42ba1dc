"""`agentledger export` and `verify-export`: a range of the trail that proves itself elsewhere."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agentledger.infra.cli.evidence import key_folder, microseconds
from agentledger.infra.settings import load_settings
from agentledger.schemas.errors import BrokerError, ProofError
from agentledger.sinks.verify_export import BadExportError, describe, read_keys, read_manifest
from agentledger.sinks.verify_export import verify_export as check_export


@click.command("export")
@click.option("--from", "from_text", default="", metavar="TIME", help="From this ledger time on (UTC).")
@click.option("--to", "to_text", default="", metavar="TIME", help="Before this ledger time (UTC).")
@click.option("--tenant", "tenant_id", default="", help="Records of one tenant: the export is not complete then.")
@click.option("--run", "run_id", default="", help="Records of one run: the export is not complete then.")
@click.option("--type", "types", multiple=True, help="Records of this name: the export is not complete then.")
@click.option("--format", "file_format", default="parquet", help="parquet (default), jsonl, csv, avro or ocsf.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="An empty or new folder.")
@click.option("--previous", type=click.Path(path_type=Path), metavar="DIR", help="The export before this one.")
@click.option("--checkpoints", type=click.Path(path_type=Path), metavar="DIR", help="Published checkpoints.")
def export(
    *, from_text: str, to_text: str, tenant_id: str, run_id: str, types: tuple[str, ...], file_format: str, out: Path,
    previous: Path | None, checkpoints: Path | None,
) -> None:  # fmt: skip
    """Write signed records with all that proves them to a folder. Asked again, one that was cut off goes on."""
    from agentledger.infra.control_commands import who_am_i
    from agentledger.infra.endpoints import clickhouse_url, configured_registry, kafka_config, reader_login
    from agentledger.schemas import Codec
    from agentledger.schemas.topics import INTEGRITY
    from agentledger.sinks.announcing import Announcer
    from agentledger.sinks.chain import read_chain
    from agentledger.sinks.export import Export
    from agentledger.sinks.export_event import ExportFacts, export_event
    from agentledger.sinks.export_plan import ExportRequest
    from agentledger.sinks.leaves import ClickHouseLeafReader

    settings = load_settings()
    request = ExportRequest(
        out, file_format, microseconds(from_text, "--from"), microseconds(to_text, "--to"), tenant_id, run_id, types
    )
    keys = key_folder(settings)
    chain, problems = read_chain(checkpoints or settings.checkpoints_folder(), keys.public())
    if problems:
        raise ProofError(problems[0].text, where=problems[0].where)
    reader = ClickHouseLeafReader(clickhouse_url(settings), *reader_login(settings))
    registry = configured_registry(settings)
    announcer = Announcer(kafka_config(settings), Codec(registry))

    def announce(facts: ExportFacts) -> None:
        try:
            announcer.announce(export_event(facts, who_am_i()), INTEGRITY.name)
        except BrokerError as error:
            raise BrokerError(
                f"that an export is made could not be recorded: {error.what}", where=error.where,
                next_step="ask for the same export again when Kafka is there",
            ) from None  # fmt: skip

    writing = Export(
        reader, registry, chain, request, key=keys.active(), clock=lambda: time.time_ns() // 1000,
        announce=announce, previous=previous,
    )  # fmt: skip
    columns = (TextColumn("export"), BarColumn(), MofNCompleteColumn(), TextColumn("records"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("export", total=None)
        found = writing.write(lambda rows: bar.update(task, total=rows), lambda rows: bar.advance(task, rows))
    click.echo(describe(found))
    click.echo(f"{out}: check it with: agentledger verify-export {out} --key KEY, or python verify_export.py there")
    if writing.unsigned:
        click.echo(
            f"agentledger: {writing.unsigned} records of the range are not signed yet, and not in the export", err=True
        )


@click.command("verify-export")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--key", required=True, metavar="FILE_OR_KEY", help="The public key, or a file that holds it.")
@click.option("--previous", type=click.Path(path_type=Path), metavar="DIR", help="The export before this one.")
@click.option("--without-rows", is_flag=True, help="Don't compare each row of the data files with its evidence.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def verify_export(*, folder: Path, key: str, previous: Path | None, without_rows: bool, as_json: bool) -> None:
    """Check an export with nothing but the public key: exit code 0 if it holds, 1 if not."""
    from agentledger.sinks.export_check import RowCheck

    try:
        trusted = read_keys(key)
        found = check_export(folder, trusted, previous)
        rows = None if without_rows else RowCheck(folder, read_manifest(folder, trusted)).run()
    except (BadExportError, OSError, UnicodeDecodeError) as error:
        raise ProofError(f"NOT VERIFIED: {error}") from None
    if as_json:
        click.echo(json.dumps({"verified": True, **found, "rows_compared": rows}, indent=2))
        return
    click.echo(describe(found))
    if rows is not None:
        click.echo(f"{rows} rows of the data files say what their evidence says, and fit what was asked for.")
    elif not without_rows:
        click.echo("The rows of the data files were not compared with their evidence: that takes pyarrow.")


COMMANDS: dict[str, click.Command] = {"export": export, "verify-export": verify_export}
