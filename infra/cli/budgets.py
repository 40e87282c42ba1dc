"""`agentledger budgets`: check and apply a file, list what is declared, show how far it is used, answer questions."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentledger.infra.cli.budget_answers import approve, deny
from agentledger.infra.endpoints import kafka_config, open_codec, reader_login
from agentledger.infra.settings import Settings, load_settings
from agentledger.schemas.errors import UsageError

if TYPE_CHECKING:
    from agentledger.infra.budget_questions import Question
    from agentledger.infra.budget_standings import Standing

EXIT_WRONG = 2
EXIT_NOT_SEEN = 1
ACCOUNTS_SHOWN = 10  # of each limit, those that used most; --json has up to a thousand
QUESTIONS_SHOWN = 10
_FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
_TENANT = click.option("--tenant", default="", metavar="NAME", help="Whose; default: AGENTLEDGER_TENANT_ID.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")


@click.group("budgets")
def budgets() -> None:
    """Budgets: declared in a file, versioned in the ledger."""


@budgets.command("check")
@_FILE
@_TENANT
def check(file: Path, tenant: str) -> int:
    """Read FILE: every wrong place with its line, or what it declares. Exit code 2 where something is wrong."""
    from agentledger.processors.budget_file import BudgetFileError

    settings = load_settings()
    try:
        tenant_id, limits, notices = _read(file, tenant, settings)
    except BudgetFileError as error:
        return _wrong(error.problems)
    for notice in notices:
        click.echo(f"note: {notice}", err=True)
    _print_limits([{**asdict(limit), "state": ""} for limit in limits])
    click.echo(f"{file}: {len(limits)} limits for tenant {tenant_id}")
    return 0


@budgets.command("apply")
@_FILE
@_TENANT
@click.option("--prune", is_flag=True, help="End the tenant's budgets that FILE doesn't have.")
@click.option("--dry-run", is_flag=True, help="Only say what would be declared.")
@click.option("--by", default="", metavar="NAME", help="Who declares; default: user@host.")
def apply(file: Path, tenant: str, prune: bool, dry_run: bool, by: str) -> int:
    """Declare the budgets of FILE, each under a new version where it changed. Applied again, it changes nothing."""
    from agentledger.infra.budget_commands import known_budgets, new_producer_id, publish_changes, wait_visible
    from agentledger.infra.cli.analyst import connect
    from agentledger.infra.control_commands import who_am_i
    from agentledger.processors.budget_declarations import changes_of
    from agentledger.processors.budget_file import BudgetFileError

    settings = load_settings()
    try:
        tenant_id, limits, notices = _read(file, tenant, settings)
    except BudgetFileError as error:
        return _wrong(error.problems)
    for notice in notices:
        click.echo(f"note: {notice}", err=True)
    client = connect(settings)
    known = known_budgets(client, tenant_id, open_codec(settings))
    who = by or who_am_i()
    changes = changes_of(
        limits, known, tenant_id=tenant_id, now_us=time.time_ns() // 1000, declared_by=who,
        producer_id=new_producer_id(who), prune=prune,
    )  # fmt: skip
    for change in changes:
        click.echo(f"{change.kind:<8} {change.limit.budget_id} {change.limit.metric} version {change.version}")
    counts = Counter(change.kind for change in changes)
    said = ", ".join(f"{counts[kind]} {kind}" for kind in ("new", "changed", "retired", "same") if counts[kind])
    ids = {limit.budget_id for limit in limits}
    others = {event.budget_id for event in known.values() if not event.retired} - ids
    if others and not prune:
        said += f"; {len(others)} other budgets stay (--prune ends them)"
    if dry_run:
        click.echo(f"would be declared for tenant {tenant_id}: {said}")
        return 0
    events = publish_changes(kafka_config(settings), changes, open_codec(settings))
    click.echo(f"declared for tenant {tenant_id}: {said}")
    if not wait_visible(client, tenant_id, events):
        click.echo("agentledger: declared, but not in the ledger yet: see whether the writer runs", err=True)
        return EXIT_NOT_SEEN
    return 0


@budgets.command("list")
@_TENANT
@click.option("--all", "all_", is_flag=True, help="Those that ended, too.")
@_JSON
def list_(tenant: str, all_: bool, as_json: bool) -> None:
    """List the limits in force, as they were declared last."""
    from agentledger.infra.budget_commands import known_budgets
    from agentledger.infra.cli.analyst import connect
    from agentledger.infra.recorded_reads import recorded_read

    settings = load_settings()
    tenant_id = tenant or settings.tenant_id
    asked = {"command": "budgets list", "tenant_id": tenant_id}
    with recorded_read(settings, asked, reader_login(settings)[0]):
        known = known_budgets(connect(settings), tenant_id, open_codec(settings))
    rows = [_declared_row(event) for _, event in sorted(known.items()) if all_ or not event.retired]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        _print_limits(rows)
    else:
        click.echo(f"no budgets are declared for tenant {tenant_id}")


@budgets.command("show")
@click.argument("budget_id", default="")
@_TENANT
@_JSON
def show(budget_id: str, tenant: str, as_json: bool) -> None:
    """Show how far each budget is used now, and what it asks; of BUDGET_ID its versions, too."""
    from agentledger.infra.budget_commands import declared_budgets
    from agentledger.infra.budget_questions import open_questions
    from agentledger.infra.budget_standings import standings
    from agentledger.infra.cli.analyst import connect
    from agentledger.infra.recorded_reads import recorded_read

    settings = load_settings()
    tenant_id = tenant or settings.tenant_id
    look = {"command": "budgets show", "tenant_id": tenant_id, "budget_id": budget_id}
    with recorded_read(settings, look, reader_login(settings)[0]):
        client = connect(settings)
        declared = declared_budgets(client, tenant_id, open_codec(settings))
        if budget_id:
            declared = [event for event in declared if event.budget_id == budget_id]
            if not declared:
                raise UsageError(
                    f"tenant {tenant_id} has no budget {budget_id!r}",
                    next_step="agentledger budgets list --all shows all",
                )
        found = standings(client, tenant_id, declared, time.time_ns() // 1000)
        asked = [one for one in open_questions(client, tenant_id) if budget_id in ("", one.change.budget_id)]
    if as_json:
        versions = [_declared_row(event) for event in declared] if budget_id else []
        rows = [{**asdict(one), "share": one.share} for one in found]
        questions = [asdict(one) for one in asked]
        click.echo(json.dumps({"versions": versions, "standings": rows, "questions": questions}, indent=2))
        return
    if budget_id:
        _print_limits([_declared_row(event) for event in declared])
    _print_standings(found)
    _print_questions(asked)


@budgets.command("shape")
def shape() -> None:
    """Print a file of budgets with every key."""
    from agentledger.processors.budget_file import SHAPE

    click.echo(SHAPE, nl=False)


def _read(file: Path, tenant: str, settings: Settings) -> tuple[str, list[Any], tuple[str, ...]]:
    """Tenant, limits and notices of a file. Raises BudgetFileError, UsageError."""
    from agentledger.processors.budget_declarations import limits_of
    from agentledger.processors.budget_file import read_budget_file

    read = read_budget_file(file)
    if tenant and read.tenant not in {None, tenant}:
        raise UsageError(f"{file} is for tenant {read.tenant}, not {tenant}", next_step="leave --tenant out")
    tenant_id = tenant or read.tenant or settings.tenant_id
    return tenant_id, limits_of(read, tenant_id), read.notices


def _wrong(problems: tuple[str, ...]) -> int:
    for problem in problems:
        click.echo(problem, err=True)
    count = len(problems)
    click.echo(f"agentledger: {count} problem{'s' * (count != 1)}: agentledger budgets shape shows every key", err=True)
    return EXIT_WRONG


def _declared_row(event: Any) -> dict[str, Any]:
    from agentledger.processors.budget_declarations import limit_of

    return {
        **asdict(limit_of(event)),
        "version": event.budget_version,
        "state": "ended" if event.retired else "",
        "declared_by": event.declared_by,
        "declared_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(event.occurred_at / 1e6)),
        "event_id": event.event_id,
    }


def _print_limits(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from agentledger.processors.budgets import amount_text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("budget", "scope", "limit", "per", "at", "then", "by", "fail", "version", ""):
        table.add_column(heading, overflow="fold", justify="right" if heading in {"limit", "version"} else "left")
    for row in rows:
        window = f"{row['window_ms'] // 60_000} min" if row["window"] == "sliding" else row["window"]
        fail = {"allow": "open", "refuse": "closed"}[row["when_unreachable"]] if row["enforcement"] == "hold" else ""
        table.add_row(
            row["budget_id"], f"{row['scope']} {row['scope_value'] or '(each)'}",
            amount_text(row["metric"], row["limit_amount"]),
            f"{window} {row['time_zone']}".strip(), " ".join(f"{text}%" for text in row["thresholds_percent"]),
            row["on_exceeded"], row["enforcement"], fail, str(row.get("version", "")), row["state"],
        )  # fmt: skip
    Console().print(table)


def _print_standings(found: list[Standing]) -> None:
    from itertools import groupby

    from rich.console import Console
    from rich.table import Table

    if not found:
        click.echo("nothing is used yet")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("budget", "metric", "scope", "used", "held", "limit", "share", "over", "until (UTC)"):
        is_number = heading in {"used", "held", "limit", "share", "over"}
        if is_number:
            table.add_column(heading, justify="right", no_wrap=True)
        else:  # on a narrow terminal texts are folded, and each keeps enough to be read
            table.add_column(heading, overflow="fold", min_width={"scope": 14, "until (UTC)": 10}.get(heading, 6))
    for _, group in groupby(found, key=lambda one: (one.budget_id, one.metric)):
        accounts = list(group)
        for one in accounts[:ACCOUNTS_SHOWN]:
            table.add_row(*_standing_cells(one))
        if len(accounts) > ACCOUNTS_SHOWN:
            table.add_row(accounts[0].budget_id, accounts[0].metric, f"… {len(accounts) - ACCOUNTS_SHOWN} more: --json")
    Console().print(table)


def _standing_cells(one: Standing) -> tuple[str, ...]:
    from agentledger.infra.cli.times import utc_text
    from agentledger.processors.budgets import COST, METRICS
    from agentledger.schemas.money import format_usd

    amounts = (one.used, one.held, one.limit, one.over)
    used, held, limit, over = (
        format_usd(amount) if one.metric == METRICS[COST] else f"{amount:,}" for amount in amounts
    )
    return (
        one.budget_id,
        one.metric.removesuffix("_nanousd"),
        f"run {one.run}" if one.run else f"{one.scope} {one.scope_value}",
        used if one.is_exact else f"≥ {used}",  # so much when it crossed its last line
        held if one.enforcement == "hold" else "",
        limit,
        "" if one.share is None else f"{one.share:.0%}",
        over if one.over else "",
        "" if one.window_end_us is None else utc_text(one.window_end_us),
    )


def _print_questions(asked: list[Question]) -> None:
    from agentledger.infra.cli.times import utc_text
    from agentledger.processors.budgets import amount_text

    for one in asked[:QUESTIONS_SHOWN]:
        used, limit = (amount_text(one.change.metric, amount) for amount in (one.change.used, one.change.limit))
        click.echo(f"asked {utc_text(one.asked_us)}: may {one.target} have more? It used {used} of {limit}")
        click.echo(f"  agentledger budgets approve|deny {one.approval_id} --reason …")
    if len(asked) > QUESTIONS_SHOWN:
        click.echo(f"… and {len(asked) - QUESTIONS_SHOWN} more questions: --json")


budgets.add_command(approve)
budgets.add_command(deny)
COMMANDS = {"budgets": budgets}
