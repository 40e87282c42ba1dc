"""`agentledger access`: who may do what in ClickHouse."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import click
from clickhouse_connect.driver.exceptions import ClickHouseError

from agentledger.infra.settings import load_settings
from agentledger.schemas.errors import AgentledgerError, ConfigurationError, UsageError

PASSWORD_BYTES = 24
NO_RIGHT = ("ACCESS_STORAGE_FOR_INSERTION_NOT_FOUND", "ACCESS_DENIED")


@click.group("access")
def access() -> None:
    """Roles and users of ClickHouse: writer, signer, analyst (of its tenants), auditor."""


@access.command("apply")
@click.option("--dry-run", is_flag=True, help="Print the SQL and run nothing.")
def apply(dry_run: bool) -> None:
    """Create the roles on the configured server, or make them what this release says they are."""
    apply_roles(dry_run=dry_run)


def apply_roles(*, dry_run: bool = False) -> None:
    """Create the roles or bring them up to date, and say so. Raises ConfigurationError, StoreError."""
    from agentledger.sinks.access import ROLES, role_name, role_statements

    _run(role_statements(), dry_run)
    if not dry_run:
        click.echo(f"roles are up to date: {', '.join(role_name(role) for role in ROLES)}")


@access.command("user")
@click.argument("name")
@click.option("--role", required=True, type=click.Choice(["writer", "signer", "analyst", "auditor"]))
@click.option("--tenant", "tenants", multiple=True, help="Whose rows an analyst may read; may be given again.")
@click.option(
    "--password-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="Its first line is the password; by default one is made and printed.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the SQL and run nothing.")
def user(name: str, role: str, tenants: tuple[str, ...], password_file: Path | None, dry_run: bool) -> None:
    """Create a user with a role, or give one that exists this password, role and tenants."""
    from agentledger.sinks.access import User, password_sha256, user_statements

    password = secrets.token_urlsafe(PASSWORD_BYTES) if password_file is None else _first_line(password_file)
    _run(user_statements(User(name, role, password_sha256(password), tenants)), dry_run)
    click.echo(f"user {name}: {role}" + (f" of {', '.join(tenants)}" if tenants else ""), err=True)
    if password_file is None:
        click.echo(f"password (shown this once): {password}", err=True)


@access.command("show")
def show() -> None:
    """Print what each role may do, and the users that this server knows."""
    from agentledger.sinks.access import ROLES, grants, role_name

    for role in ROLES:
        click.echo(f"{role_name(role)}:")
        for grant in grants(role):
            click.echo(f"  {grant}")
    for row in _client().query("SELECT name, storage FROM system.users ORDER BY name").result_rows:
        click.echo(f"user {row[0]} ({row[1]})")
    policies = "SELECT short_name, select_filter, arrayStringConcat(apply_to_list, ', ') FROM system.row_policies"
    for name, condition, whom in _client().query(f"{policies} ORDER BY 1").result_rows:
        click.echo(f"row policy {name}: {condition} for {whom}")


def _run(statements: list[str], dry_run: bool) -> None:
    if dry_run:
        click.echo(";\n".join(statements) + ";")
        return
    client = _client()
    for statement in statements:
        try:
            client.command(statement)
        except ClickHouseError as error:
            raise _refused(error) from None


def _refused(error: Exception) -> AgentledgerError:
    from agentledger.sinks.queries import store_error

    if any(code in str(error) for code in NO_RIGHT):
        return ConfigurationError(
            "this server doesn't let us manage roles and users in SQL",
            next_step="sign in as one who may (ACCESS MANAGEMENT); the local stack has its users: DATA_DIR/access",
        )
    return store_error(error)


def _first_line(path: Path) -> str:
    lines = path.read_text("utf-8").splitlines()
    if not lines or len(lines[0]) < 12:
        raise UsageError("a password has 12 characters at least", where=str(path))
    return lines[0]


def _client() -> Any:
    from agentledger.infra.endpoints import admin_login, clickhouse_url
    from agentledger.infra.ledger_setup import open_clickhouse

    settings = load_settings()
    return open_clickhouse(clickhouse_url(settings), settings, login=admin_login(settings))


COMMANDS: dict[str, click.Command] = {"access": access}
