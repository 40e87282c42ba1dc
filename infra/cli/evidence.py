"""`agentledger keys`, `signer`, `verify`, `proof`, `verify-proof`: the trail's evidence."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agentledger.infra.settings import Settings, load_settings
from agentledger.schemas.errors import ProofError, UsageError

FOUND = 1  # exit code: something isn't what was signed


@click.group("keys")
def keys() -> None:
    """The keys that sign the ledger's heads."""


@keys.command("new")
@click.argument("name", default="")
def new_key(name: str) -> None:
    """Make the first key. NAME says whose ledger this is, such as example.com/ledger."""
    folder = key_folder(load_settings())
    key = folder.new(name or f"{socket.gethostname()}/agentledger")
    click.echo(f"{key}\nthe private key is {folder.private_path}; give the line above to whoever verifies")


@keys.command("rotate")
def rotate_key() -> None:
    """Make the next key. The signer hands over with a checkpoint that both have signed."""
    click.echo(key_folder(load_settings()).rotate())


@keys.command("show")
def show_keys() -> None:
    """Print all public keys, the oldest first."""
    for key in key_folder(load_settings()).public():
        click.echo(key)


@click.command("signer")
@click.option("--once", is_flag=True, help="Sign once and exit: 0 signed or nothing new, 3 refused.")
@click.option("--accept-topic-id", "accepted", multiple=True, metavar="UUID", help="A topic was made again on purpose.")
def signer(once: bool, accepted: tuple[str, ...]) -> None:
    """Sign the heads of all logs every few seconds, but only what extends what was signed before."""
    from agentledger.infra.cli.programs import start_logging, stop_on_signal
    from agentledger.infra.endpoints import clickhouse_url, kafka_config, login_as
    from agentledger.infra.metrics_listener import serve_metrics
    from agentledger.sinks.signer_metrics import SignerMetrics
    from agentledger.sinks.signing import SignerConfig, run_signer, sign_once

    settings = load_settings()
    start_logging(settings)
    user, password = login_as(settings, "signer")
    config = SignerConfig(
        kafka=kafka_config(settings),
        clickhouse_url=clickhouse_url(settings),
        clickhouse_user=user,
        clickhouse_password=password,
        schema_registry_url=settings.schema_registry_url,
        schema_registry_auth=settings.schema_registry_basic_auth.get_secret_value(),
        keys_dir=settings.signer_folder(),
        state_path=settings.signer_folder() / "state",
        checkpoints_dir=settings.checkpoints_folder(),
        interval_s=settings.signer_interval_s,
        accepted_topic_ids=accepted,
        bucket_url=settings.checkpoints_bucket,
        bucket_endpoint=settings.checkpoints_bucket_endpoint,
        bucket_retention_days=settings.checkpoints_bucket_retention_days,
        witnesses_file=settings.witnesses_file,
    )
    if not once:
        metrics = SignerMetrics()
        serve_metrics(settings, metrics.registry)
        run_signer(config, stop_on_signal(), metrics)
        return
    size = sign_once(config)
    click.echo("nothing new to sign" if size is None else f"signed a checkpoint of size {size}")


@click.command("verify")
@click.option("--all", "is_all", is_flag=True, help="Check every row.")
@click.option("--from", "from_text", default="", metavar="TIME", help="Check rows from this ledger time on (UTC).")
@click.option("--to", "to_text", default="", metavar="TIME", help="Check rows before this ledger time (UTC).")
@click.option("--run", "run_id", default="", metavar="RUN_ID", help="Check the rows of one run.")
@click.option(
    "--since-checkpoint", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="Check the rows behind a checkpoint that you hold, and that it is part of the same history.",
)  # fmt: skip
@click.option(
    "--checkpoints", type=click.Path(path_type=Path), metavar="DIR", help="Published checkpoints that you hold."
)
@click.option("--key", "key_file", type=click.Path(path_type=Path), metavar="FILE", help="Public keys that you trust.")
@click.option(
    "--approvers", "approvers_file", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="Public keys of those who may approve a purge; default: approvers.pub in the signer's folder.",
)  # fmt: skip
@click.option(
    "--witnesses", "witnesses_file", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="Keys of witnesses who must have signed the last checkpoint, or one shortly before it.",
)  # fmt: skip
@click.option("--witnesses-min", type=click.IntRange(1), default=None, help="So many of them are enough; default: all.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def verify(
    *, is_all: bool, from_text: str, to_text: str, run_id: str, since_checkpoint: Path | None,
    checkpoints: Path | None, key_file: Path | None, approvers_file: Path | None, witnesses_file: Path | None,
    witnesses_min: int | None, as_json: bool,
) -> int:  # fmt: skip
    """Check the ledger against its signed heads: exit code 0 if it is what was signed, 1 if not.

    Rows that are not asked for are checked by their leaf hashes alone.
    """
    from agentledger.infra.endpoints import clickhouse_url, configured_registry, reader_login
    from agentledger.sinks.leaves import ClickHouseLeafReader
    from agentledger.sinks.verify import Verification, VerifyRequest, check_range

    if not (is_all or from_text or to_text or run_id or since_checkpoint):
        raise UsageError("say what to check", next_step="--all, --from and --to, --run or --since-checkpoint")
    settings = load_settings()
    from_us, to_us = microseconds(from_text, "--from"), microseconds(to_text, "--to")
    check_range(from_us, to_us)
    request = VerifyRequest(
        checkpoints_dir=checkpoints or settings.checkpoints_folder(),
        keys=_trusted(settings, key_file),
        from_us=None if is_all else from_us,
        to_us=None if is_all else to_us,
        run_id="" if is_all else run_id,
        since_checkpoint=since_checkpoint,
        approvers=read_approvers(settings, approvers_file),
        **_witnesses(witnesses_file, witnesses_min),
    )
    reader = ClickHouseLeafReader(clickhouse_url(settings), *reader_login(settings))
    registry = configured_registry(settings)
    columns = (TextColumn("verify"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("verify", total=None)
        report = Verification(reader, registry, request).run(
            lambda rows: bar.update(task, total=rows), lambda rows: bar.advance(task, rows)
        )
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        _print_report(report)
    return FOUND if report.problems else 0


@click.command("proof")
@click.argument("event_id")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Default: EVENT_ID.tlog-proof.")
@click.option("--checkpoints", type=click.Path(path_type=Path), metavar="DIR", help="Published checkpoints.")
@click.option("--without-value", is_flag=True, help="Prove the event's hash and leave its content out.")
def proof(event_id: str, out: Path | None, checkpoints: Path | None, without_value: bool) -> None:
    """Write a proof that an event is in the ledger (C2SP tlog-proof)."""
    from agentledger.infra.endpoints import clickhouse_url, reader_login
    from agentledger.infra.recorded_reads import recorded_read
    from agentledger.sinks.chain import read_chain
    from agentledger.sinks.leaves import ClickHouseLeafReader
    from agentledger.sinks.proofs import prove_event

    settings = load_settings()
    trusted = _trusted(settings, None)
    chain, problems = read_chain(checkpoints or settings.checkpoints_folder(), trusted)
    if problems:
        raise ProofError(problems[0].text, where=problems[0].where)
    reader = ClickHouseLeafReader(clickhouse_url(settings), *reader_login(settings))
    kept_in = Path(settings.data_dir).expanduser() / "proofs"
    asked = {"command": "proof", "event_id": event_id, "with_value": not without_value}
    with recorded_read(settings, asked, reader_login(settings)[0]):
        text = prove_event(reader, chain, trusted, event_id, with_value=not without_value, kept_in=kept_in)
    path = out or Path(f"{event_id.lower()}.tlog-proof")
    path.write_text(text, "utf-8")
    click.echo(f"{path}: {len(text.encode()):,} bytes; check it with: agentledger verify-proof {path} --key FILE")


@click.command("verify-proof")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--key", "key", required=True, metavar="FILE_OR_KEY", help="The public key, or a file that holds it.")
@click.option("--json", "as_json", is_flag=True, help="Print what was proven as JSON.")
def verify_proof(file: Path, key: str, as_json: bool) -> None:
    """Check a proof, with nothing but the public key: exit code 0 if it holds, 1 if not."""
    from agentledger.schemas.event_proof import verify_event_proof
    from agentledger.schemas.notes import VerifierKey
    from agentledger.sinks.key_files import read_public

    trusted = read_public(Path(key)) if Path(key).is_file() else [VerifierKey.parse(key)]
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError:
        raise ProofError("this is no proof: it is not text", where=str(file)) from None
    found = verify_event_proof(text, trusted)
    record = found.record
    facts: dict[str, Any] = {
        "event_id": record.event_id,
        "topic": found.head.topic,
        "topic_id": record.log.topic_id,
        "partition": record.log.partition,
        "offset": record.offset,
        "log_index": record.log_index,
        "ledger_time": _utc(record.ledger_time_us),
        "value_sha256": record.value_sha256.hex(),
        "value_bytes": None if record.value is None else len(record.value),
        "origin": found.checkpoint.origin,
        "signed_at": _utc(found.head.at_us),
    }
    if as_json:
        click.echo(json.dumps({"proven": True, **facts}, indent=2))
        return
    click.echo(f"PROVEN: event {record.event_id} is in the ledger of {found.checkpoint.origin}")
    for name, value in facts.items():
        click.echo(f"  {name}: {value}")


def _print_report(report: Any) -> None:
    for problem in report.problems:
        click.echo(problem.line())
    signed = f"{report.checkpoints:,} checkpoints, the last signed for {_utc(report.last_signed_at_us)}"
    what = (
        f"{report.logs} logs, {report.rows:,} rows ({report.rows_checked:,} checked byte by byte), "
        f"{report.heads_checked:,} signed heads rebuilt, {signed}; {report.unsigned_rows:,} rows are not signed yet"
    )
    if report.witnessed_size:
        what += f"; the witnesses signed up to size {report.witnessed_size:,} of the log of heads"
    if report.purged_rows:
        what += f"; {report.purged_rows:,} rows are purged, with tombstones that two approvers signed"
    click.echo(f"{'CHANGED: ' + str(len(report.problems)) + ' problems' if report.problems else 'VERIFIED'}: {what}")


def key_folder(settings: Settings) -> Any:
    from agentledger.sinks.key_files import KeyFolder

    return KeyFolder(settings.signer_folder())


def read_approvers(settings: Settings, path: Path | None) -> Any:
    """The keys of those who may approve a purge: of the file, else of approvers.pub beside the signer's keys."""
    from agentledger.sinks.key_files import read_public

    path = path or settings.signer_folder() / "approvers.pub"
    return read_public(path) if path.is_file() else []


def _witnesses(path: Path | None, at_least: int | None) -> dict[str, Any]:
    """What is asked of witnesses. Raises UsageError where more must have signed than are known."""
    from agentledger.sinks.cosignatures import read_witnesses

    keys = [key for key, _ in read_witnesses(path)] if path is not None else []
    if at_least is not None and at_least > len(keys):
        raise UsageError(f"--witnesses-min {at_least}, and --witnesses names {len(keys)}")
    return {"witnesses": keys, "witnesses_min": len(keys) if at_least is None else at_least}


def _trusted(settings: Settings, key_file: Path | None) -> Any:
    from agentledger.sinks.key_files import read_public

    return read_public(key_file or key_folder(settings).public_path)


def microseconds(text: str, option: str) -> int | None:
    """A time as 2026-11-21, 2026-11-21T08:00 or with an offset; UTC where none is given."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        return round(time.timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option} {text!r} is no time", next_step="write it as 2026-11-21 or 2026-11-21T08:00"
        ) from None


def _utc(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).isoformat(timespec="milliseconds")


COMMANDS: dict[str, click.Command] = {
    "keys": keys, "signer": signer, "verify": verify, "proof": proof, "verify-proof": verify_proof,
}  # fmt: skip
