"""`agentledger init`, `config`, `schemas`: setting up and looking at an installation."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from agentledger.infra.settings import ENV_PREFIX, Settings, load_settings, shown_value
from agentledger.schemas.catalogue import current_schemas
from agentledger.schemas.errors import UsageError
from agentledger.schemas.registry import bundled_lock


@click.command("init")
@click.option("--with-roles", is_flag=True, help="Create ClickHouse's roles, too: as agentledger access apply does.")
def init(*, with_roles: bool) -> None:
    """Create topics and tables on the configured Kafka and ClickHouse; what exists is left alone."""
    from agentledger.infra.endpoints import admin_login, clickhouse_url, kafka_config
    from agentledger.infra.ledger_setup import prepare_clickhouse, prepare_kafka

    settings = load_settings()
    created = prepare_kafka(
        kafka_config(settings),
        partitions=settings.kafka_partitions,
        replication_factor=settings.kafka_replication_factor,
    )
    click.echo(f"topics created: {', '.join(created) or 'none, all were there'}")
    prepare_clickhouse(clickhouse_url(settings), settings, admin_login(settings))
    click.echo("tables and views are up to date")
    if with_roles:
        from agentledger.infra.cli.access import apply_roles

        apply_roles()


@click.command("config")
@click.option("--json", "as_json", is_flag=True, help="Print name and value as JSON.")
def show_config(as_json: bool) -> None:
    """Print every setting, its effective value (secrets hidden) and what it means."""
    settings = load_settings()
    values = {f"{ENV_PREFIX}{name.upper()}": shown_value(settings, name) for name in Settings.model_fields}
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    table = Table(box=None, header_style="bold")
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("what it is")
    for name, field in Settings.model_fields.items():
        variable = f"{ENV_PREFIX}{name.upper()}"
        table.add_row(variable, values[variable], field.description or "")
    Console().print(table)


@click.group("schemas")
def schemas() -> None:
    """The event catalogue: list, show, lock and check its schemas."""


@schemas.command("list")
def list_schemas() -> None:
    """Print every locked schema: id, version, subject."""
    for entry in bundled_lock():
        click.echo(f"{entry.id:>4}  v{entry.version}  {entry.subject}")


@schemas.command("show")
@click.argument("name")
def show_schema(name: str) -> None:
    """Print one record's fields, types and docs."""
    schema = current_schemas().get(name)
    if schema is None:
        raise UsageError(f"no record is called {name}", next_step=f"one of {', '.join(current_schemas())}")
    click.echo(f"{schema['namespace']}.{name}: {schema['doc']}\n")
    for field in schema["fields"]:
        click.echo(f"  {field['name']}: {_type_name(field['type'])}\n      {field['doc']}")


def _type_name(avro_type: Any) -> str:
    if isinstance(avro_type, list):
        return f"{_type_name(avro_type[1])} or null"
    if isinstance(avro_type, dict):
        return str(avro_type.get("logicalType", avro_type["type"]))
    return str(avro_type)


@schemas.command("lock")
def lock_schemas() -> None:
    """Append changed schemas to the lock file, if they are FULL_TRANSITIVE compatible. For developers."""
    from agentledger.infra.schema_lock import append_missing

    for entry in append_missing():
        click.echo(f"locked {entry.subject} version {entry.version} as id {entry.id}")


@schemas.command("check")
def check_schemas() -> None:
    """Check that every schema is locked and every locked version is compatible with the current one."""
    from agentledger.infra.schema_lock import check_lock

    click.echo(f"{check_lock()} locked schemas, all compatible with the catalogue")


COMMANDS: dict[str, click.Command] = {"init": init, "config": show_config, "schemas": schemas}
