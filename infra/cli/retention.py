"""`agentledger retention`: how long records are kept, legal holds, and purges that two people approve."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from agentledger.infra.settings import Settings, load_settings
from agentledger.schemas.errors import ProofError, UsageError

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
key_option = click.option(
    "--key", "key_file", required=True, type=_FILE, metavar="FILE", help="Your private key: retention key makes one."
)
tenant_option = click.option("--tenant", "tenant_id", help="Whose records; default: AGENTLEDGER_TENANT_ID.")
class_option = click.option("--class", "data_class", type=click.Choice(["trail", "payloads"]), default="trail")
checkpoints_option = click.option(
    "--checkpoints", type=click.Path(path_type=Path), metavar="DIR", help="Published checkpoints."
)


@click.group("retention")
def retention() -> None:
    """How long records are kept: periods, legal holds, purges."""


@retention.command("key")
@click.argument("name")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
def new_key(name: str, out: Path) -> None:
    """Make an approver's key. Each person keeps one; their public lines go to approvers.pub, which verifiers hold."""
    from agentledger.schemas.notes import SignerKey
    from agentledger.sinks.key_files import write_private

    if out.exists():
        raise UsageError("there is a file already", where=str(out), next_step="choose another name")
    key = SignerKey.generate(name)
    write_private(out, key.secret_text() + "\n")
    click.echo(key.verifier)
    click.echo(f"add the line above to {load_settings().signer_folder() / 'approvers.pub'}", err=True)


@retention.command("show")
@tenant_option
def show(tenant_id: str | None) -> None:
    """Print the periods and holds of a tenant, and the tombstones of its purges."""
    settings = load_settings()
    policy = policy_in_force(settings, tenant_id or settings.tenant_id)
    for data_class, days in policy.days.items():
        click.echo(f"{data_class}: {days} days, records from before {_utc(policy.before_us(data_class, _now_us()))}")
    for name, reason in sorted(policy.holds.items()):
        click.echo(f"LEGAL HOLD {name}: {reason}")
    for line in policy.ignored:
        click.echo(f"counts for nothing: {line}")
    for stone in _tombstones(settings, settings.checkpoints_folder()).found:
        if stone.plan.tenant_id == policy.tenant_id:
            click.echo(
                f"purged: {stone.plan.rows:,} rows of {stone.plan.data_class} before {_utc(stone.plan.before_us)}, "
                f"approved by {' and '.join(stone.approvers)}, tombstone {stone.plan.sha256()}"
            )


@retention.command("set")
@tenant_option
@class_option
@click.option("--days", required=True, type=click.IntRange(1, 36_500), help="From the ledger time on.")
@click.option("--reason", default="")
@key_option
def set_period(tenant_id: str | None, data_class: str, days: int, reason: str, key_file: Path) -> None:
    """Set how long a class of a tenant's records is kept, as a signed event."""
    settings = load_settings()
    floor = _floors(settings)[data_class]
    if days < floor:
        raise UsageError(
            f"class {data_class} is kept for {floor} days at least",
            next_step=f"AGENTLEDGER_RETENTION_{data_class.upper()}_DAYS_MIN is the floor",
        )
    _decide(settings, key_file, "period", tenant_id, data_class=data_class, days=days, reason=reason)


@retention.command("hold")
@click.argument("name")
@tenant_option
@click.option("--reason", required=True, help="Such as the case.")
@key_option
def hold(name: str, tenant_id: str | None, reason: str, key_file: Path) -> None:
    """Stop every purge of a tenant's records until the hold is released."""
    _decide(load_settings(), key_file, "hold", tenant_id, name=name, reason=reason)


@retention.command("release")
@click.argument("name")
@tenant_option
@click.option("--reason", required=True)
@key_option
def release(name: str, tenant_id: str | None, reason: str, key_file: Path) -> None:
    """Lift a legal hold."""
    settings = load_settings()
    held = policy_in_force(settings, tenant_id or settings.tenant_id).holds
    if name not in held:
        raise UsageError(
            f"no legal hold {name!r} is in force for tenant {tenant_id or settings.tenant_id!r}",
            next_step=f"in force: {', '.join(sorted(held)) or 'none'}; one that was just set shows a second later",
        )
    _decide(settings, key_file, "release", tenant_id, name=name, reason=reason)


@retention.command("plan")
@tenant_option
@class_option
@click.option(
    "--before", "before_text", default="", metavar="TIME", help="Ledger time (UTC); default: all that may go."
)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@checkpoints_option
def plan(tenant_id: str | None, data_class: str, before_text: str, out: Path, checkpoints: Path | None) -> None:
    """Write which rows would go, for two people to look at and to approve. Nothing is changed."""
    from agentledger.infra.cli.evidence import microseconds
    from agentledger.sinks.key_files import write_synced
    from agentledger.sinks.retention import make_plan

    settings = load_settings()
    policy = policy_in_force(settings, tenant_id or settings.tenant_id)
    before_us = microseconds(before_text, "--before")
    now_us = _now_us()
    made = make_plan(
        _reader(settings), _chain(settings, checkpoints), policy, data_class,
        before_us=policy.before_us(data_class, now_us) if before_us is None else before_us, now_us=now_us,
    )  # fmt: skip
    write_synced(out, made.to_bytes().decode(), 0o644)
    _describe(made)
    click.echo(f"{out}: two people approve it with: agentledger retention approve {out} --key FILE")


@retention.command("approve")
@click.argument("plan_file", type=_FILE, metavar="PLAN")
@key_option
def approve(plan_file: Path, key_file: Path) -> None:
    """Sign a plan. The signatures are in the file PLAN.note, which the next person signs, too."""
    from agentledger.schemas.notes import Note, sign_note
    from agentledger.sinks.key_files import read_private, write_synced
    from agentledger.sinks.tombstones import read_plan

    found, key = read_plan(plan_file), read_private(key_file)
    note = Note.parse(sign_note(found.statement(), [key]))
    path = _note_path(plan_file)
    others = Note.parse(path.read_text("utf-8")) if path.exists() else note
    if others.text != note.text:
        raise ProofError("the approvals here are for another plan", where=str(path), next_step="remove that file")
    kept = [one for one in others.signatures if one not in note.signatures]
    write_synced(path, str(Note(note.text, (*kept, *note.signatures))), 0o644)
    _describe(found)
    click.echo(f"{path}: signed by {', '.join(one.name for one in (*kept, *note.signatures))}")


@retention.command("purge")
@click.argument("plan_file", type=_FILE, metavar="PLAN")
@checkpoints_option
def purge(plan_file: Path, checkpoints: Path | None) -> None:
    """Carry out a plan that two people have approved. What is left still verifies. Can be repeated after a crash."""
    from agentledger.infra.decisions import publish, retention_event
    from agentledger.infra.endpoints import admin_login, kafka_config
    from agentledger.sinks.retention import carry_out, check_plan, rows_left
    from agentledger.sinks.tombstones import check_approved, keep_tombstone, read_plan

    settings = load_settings()
    folder = checkpoints or settings.checkpoints_folder()
    found = read_plan(plan_file)
    note_path = _note_path(plan_file)
    note = note_path.read_text("utf-8") if note_path.exists() else ""
    if not note:
        raise UsageError(
            "nobody has approved this plan", next_step=f"agentledger retention approve {plan_file} --key FILE"
        )
    signed = check_approved(found, note, _approvers(settings))
    stones, reader = _tombstones(settings, folder), _reader(settings, admin_login(settings))
    policy = policy_in_force(settings, found.tenant_id)
    if any(stone.plan == found for stone in stones.found):
        policy.check_no_hold()  # it was begun before: all else was checked then
    else:
        check_plan(reader, _chain(settings, folder), policy, found, stones=stones, now_us=_now_us())
        keep_tombstone(folder, found, note)
    carry_out(reader, found)
    left = rows_left(reader, found)
    if left:
        raise UsageError(f"{left} rows are still there", next_step="give the command again")
    names = ", ".join(sorted(key.name for key in signed))
    event = retention_event(
        "purge", found.tenant_id, note, at_us=found.made_at_us, data_class=found.data_class, issued_by=names,
        reason=f"{found.rows} rows before {_utc(found.before_us)}",
    )  # fmt: skip
    publish(kafka_config(settings), event, *_registry(settings))
    _describe(found)
    click.echo(f"purged, approved by {names}; tombstone {found.sha256()}")


def _decide(settings: Settings, key_file: Path, kind: str, tenant_id: str | None, **facts: Any) -> None:
    from agentledger.infra.decisions import publish, retention_event
    from agentledger.infra.endpoints import kafka_config
    from agentledger.sinks.key_files import read_private
    from agentledger.sinks.retention import Decision, decide

    key, at_us, tenant = read_private(key_file), _now_us(), tenant_id or settings.tenant_id
    if key.verifier not in _approvers(settings):
        raise UsageError(
            f"the key of {key.name} is no approver's: the decision would count for nothing",
            next_step=f"add its public line to {settings.signer_folder() / 'approvers.pub'}",
        )
    given = {"data_class": "", "days": None, "name": "", "reason": ""} | facts
    decision = Decision(kind=kind, tenant_id=tenant, at_us=at_us, **given)
    event = retention_event(
        kind, tenant, decide(decision, key), at_us=at_us, data_class=decision.data_class, days=decision.days,
        reason=decision.reason, issued_by=key.name,
    )  # fmt: skip
    publish(kafka_config(settings), event, *_registry(settings))
    click.echo(f"recorded, signed by {key.name}: agentledger retention show prints it when the writer has written it")


def policy_in_force(settings: Settings, tenant_id: str) -> Any:
    """Periods and holds of a tenant, as the ledger has them."""
    from agentledger.sinks.retention import policy_of

    return policy_of(_reader(settings), tenant_id, _approvers(settings), _floors(settings))


def _floors(settings: Settings) -> dict[str, int]:
    return {"trail": settings.retention_trail_days_min, "payloads": settings.retention_payloads_days_min}


def _approvers(settings: Settings) -> Any:
    from agentledger.infra.cli.evidence import read_approvers

    return read_approvers(settings, None)


def _tombstones(settings: Settings, folder: Path) -> Any:
    from agentledger.sinks.tombstones import read_tombstones

    stones, problems = read_tombstones(folder, _approvers(settings))
    for problem in problems:
        click.echo(problem.line(), err=True)
    return stones


def _chain(settings: Settings, checkpoints: Path | None) -> Any:
    from agentledger.infra.cli.evidence import key_folder
    from agentledger.sinks.chain import read_chain

    chain, problems = read_chain(checkpoints or settings.checkpoints_folder(), key_folder(settings).public())
    if problems:
        raise ProofError(problems[0].text, where=problems[0].where)
    return chain


def _reader(settings: Settings, login: tuple[str, str] | None = None) -> Any:
    from agentledger.infra.endpoints import clickhouse_url, reader_login
    from agentledger.sinks.leaves import ClickHouseLeafReader

    return ClickHouseLeafReader(clickhouse_url(settings), *(login or reader_login(settings)))


def _registry(settings: Settings) -> tuple[str, str]:
    return settings.schema_registry_url, settings.schema_registry_basic_auth.get_secret_value()


def _note_path(plan_file: Path) -> Path:
    return plan_file.with_name(f"{plan_file.name}.note")


def _describe(found: Any) -> None:
    kinds = {"trail": "rows go", "payloads": "rows lose their bytes and content"}
    click.echo(
        f"tenant {found.tenant_id!r}, class {found.data_class}: {found.rows:,} {kinds[found.data_class]}, "
        f"all from before {_utc(found.before_us)}, in {len(found.logs)} logs; plan {found.sha256()}"
    )
    for one in found.logs:
        click.echo(
            f"  {one.topic}/{one.log.partition}: {one.rows:,} rows from index {one.ranges[0].first} to "
            f"{one.ranges[-1].behind - 1}, in {len(one.ranges):,} ranges"
        )


def _now_us() -> int:
    return time.time_ns() // 1000


def _utc(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).isoformat(timespec="seconds")


COMMANDS: dict[str, click.Command] = {"retention": retention}
