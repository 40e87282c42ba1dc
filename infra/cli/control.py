"""`agentledger halt`, `resume`, `control`: stop running agents, let them go on, and see what is in force."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import click

from agentledger.infra.cli.times import duration_us
from agentledger.infra.endpoints import kafka_config, open_codec
from agentledger.infra.settings import Settings, load_settings
from agentledger.producers.halt_file import VIA, HaltFile, halt_file_path
from agentledger.producers.halts import ANY, Command
from agentledger.schemas.errors import UsageError
from agentledger.schemas.scopes import LABEL_SCOPE

_F = TypeVar("_F", bound=Callable[..., Any])
NAME_CHARACTERS_MAX = 1024  # as the SDK bounds names
_NARROW = "--run, --agent, --workflow, --team, --user and --label"


def _scoped(command: _F) -> _F:
    """The options that say whom a command is about."""
    for option in reversed(
        (
            click.option("--run", default="", metavar="ID", help="One run, with its sub-runs."),
            click.option("--agent", default="", metavar="NAME", help="Every run of an agent."),
            click.option("--workflow", default="", metavar="NAME", help="Every run of a workflow."),
            click.option("--team", default="", metavar="NAME", help="Every run with this label `team`."),
            click.option("--user", default="", metavar="NAME", help="Every run on behalf of this user (the actor)."),
            click.option("--label", default="", metavar="NAME=VALUE", help="Every run with this label."),
            click.option(
                "--tenant", default="", metavar="NAME",
                help="Every run of a tenant; beside another option: whose; default: AGENTLEDGER_TENANT_ID.",
            ),
            click.option("--by", default="", metavar="NAME", help="Who does this; default: user@host."),
            click.option(
                "--local", is_flag=True, help="By this host's halt file, without Kafka; of any tenant, unless named."
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("halt")
@_scoped
@click.option("--reason", default="", metavar="TEXT", help="Why; the refused calls say it. Required.")
@click.option("--expires", default="", metavar="TIME", help="Lapses after this time, such as 90s, 30m, 2h or 7d.")
def halt(*, by: str, local: bool, reason: str, expires: str, **whom: str) -> None:
    """Refuse every next call of a run, agent, workflow, team, user, label or tenant, until it is resumed.

    With --local and nothing else: of everything on this host.
    """
    from agentledger.infra.control_commands import halt_locally, lapsing, publish_command, who_am_i

    settings = load_settings()
    if not reason.strip():
        raise UsageError("a halt needs a reason", next_step="give --reason TEXT: whoever is stopped reads it")
    expires_us = _lapses_after_us(expires)
    tenant_id, scope, value = _subject(settings, whom, local=local)
    command = Command(
        "halt", tenant_id, scope, value, reason.strip(), by or who_am_i(), via=VIA if local else "control topic"
    )
    command = lapsing(command, time.time_ns() // 1000, expires_us)
    if local:
        path = halt_file_path()
        halt_locally(path, command)
        click.echo(f"halted {_named(command)} on this host: {path}")
        return
    publish_command(kafka_config(settings), command, open_codec(settings))
    click.echo(f"halted {_named(command)}")


@click.command("resume")
@_scoped
@click.option("--reason", default="", metavar="TEXT", help="Why.")
def resume(*, by: str, local: bool, reason: str, **whom: str) -> None:
    """End every halt of a scope, people's and budgets': the calls of that run, agent, workflow, team, user, label or
    tenant are made again.

    With --local and nothing else: every halt of this host's file.
    """
    from agentledger.infra.control_commands import lapsing, publish_command, read_halts, resume_locally, who_am_i

    settings = load_settings()
    tenant_id, scope, value = _subject(settings, whom, local=local)
    if local:

        def lifts(halt: Command) -> bool:
            is_same = scope == "host" or (halt.scope, halt.scope_value) == (scope, value)
            return is_same and tenant_id in {ANY, halt.tenant_id}

        path = halt_file_path()
        count = resume_locally(path, lifts)
        click.echo(f"{count} halt{'s' * (count != 1)} lifted on this host: {path}")
        return
    now_us = time.time_ns() // 1000
    command = lapsing(Command("resume", tenant_id, scope, value, reason.strip(), by or who_am_i()), now_us, None)
    kafka = kafka_config(settings)
    halts = read_halts(kafka, now_us, open_codec(settings))
    lifted = [halt for halt in halts if halt.subject == command.subject]
    publish_command(kafka, command, open_codec(settings))
    click.echo(f"resumed {_named(command)}" + ("" if lifted else ", which no halt was in force for"))
    for halt in lifted:
        click.echo(f"  lifted the halt by {halt.issued_by}: {halt.reason}")


@click.group("control")
def control() -> None:
    """What is halted now."""


@control.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--local", is_flag=True, help="Only the halt file of this host, without Kafka.")
def list_halts(as_json: bool, local: bool) -> None:
    """List the halts in force.

    Those of the control topic, of every tenant, and those of this host's file.
    """
    from agentledger.infra.control_commands import read_halts

    settings = load_settings()
    now_us = time.time_ns() // 1000
    halts = [] if local else read_halts(kafka_config(settings), now_us, open_codec(settings))
    halts += [halt for halt in HaltFile(halt_file_path()).read() if halt.is_halt_at(now_us)]
    if as_json:
        click.echo(json.dumps([asdict(halt) for halt in halts], indent=2))
    elif not halts:
        click.echo("nothing is halted")
    else:
        _print_table(halts)


def _print_table(halts: list[Command]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in ("tenant", "scope", "which", "since", "until", "by", "reason", "through"):
        table.add_column(column, overflow="fold")
    for halt in halts:
        until = "resumed" if halt.expires_at is None else _utc(halt.expires_at)
        table.add_row(
            halt.tenant_id, halt.scope, halt.scope_value, _utc(halt.issued_at), until, halt.issued_by, halt.reason,
            halt.via,
        )  # fmt: skip
    Console().print(table)


def _subject(settings: Settings, whom: Mapping[str, str], *, local: bool) -> tuple[str, str, str]:
    """Tenant, scope and scope value of what was asked for. Raises UsageError unless it is exactly one thing."""
    for name in whom.values():
        if "\x00" in name or len(name) > NAME_CHARACTERS_MAX:
            raise UsageError(
                f"{name[:40]!r} is no name", next_step=f"give at most {NAME_CHARACTERS_MAX} printable characters"
            )
    tenant = whom["tenant"]
    given = [_place(option, name) for option, name in whom.items() if name and option != "tenant"]
    if len(given) > 1:
        raise UsageError("it is one thing at a time", next_step=f"give only one of {_NARROW}")
    if given:
        return (tenant or (ANY if local else settings.tenant_id), *given[0])
    if tenant:
        return tenant, "tenant", tenant
    if local:
        return ANY, "host", ANY
    raise UsageError("nothing says whom this is about", next_step=f"give --tenant, or one of {_NARROW}")


def _place(option: str, name: str) -> tuple[str, str]:
    """Scope and scope value of an option."""
    if option != "label":
        return option, name
    label, equals, value = name.partition("=")
    if not label or not equals or not value:
        raise UsageError(f"{name!r} is no label with its value", next_step="give --label NAME=VALUE")
    return f"{LABEL_SCOPE}{label}", value


def _lapses_after_us(text: str) -> int | None:
    """None: never. Raises UsageError."""
    if not text:
        return None
    after_us = duration_us(text)
    if not after_us:
        raise UsageError("a halt that lapses at once halts nothing", next_step="give a time such as 90s, 30m, 2h or 7d")
    return after_us


def _named(command: Command) -> str:
    if command.scope == "host":
        return "everything"
    whose = "" if command.scope == "tenant" or command.tenant_id == ANY else f" of tenant {command.tenant_id}"
    return f"{command.scope} {command.scope_value}{whose}"


def _utc(time_us: int | None) -> str:
    return "" if time_us is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_us / 1e6))


COMMANDS = {"halt": halt, "resume": resume, "control": control}
