"""`agentledger api-keys`: who may send to the gateway and ask the console, and for which tenant."""

from __future__ import annotations

import time
from dataclasses import replace

import click
from rich.console import Console
from rich.table import Table

from agentledger.infra.cli.times import duration_us, utc_text
from agentledger.infra.settings import load_settings
from agentledger.schemas.api_key_file import FileApiKeys
from agentledger.schemas.api_keys import SCOPES, ApiKey, new_api_key, rotated
from agentledger.schemas.errors import UsageError


@click.group("api-keys")
def api_keys() -> None:
    """API keys: make, list, rotate and revoke them. Kept are their hashes, in AGENTLEDGER_API_KEYS_FILE."""


@api_keys.command("new")
@click.argument("name")
@click.option("--tenant", "tenant_id", help="For whom it writes and reads. Default: AGENTLEDGER_TENANT_ID.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="Default: ingest. May be repeated.")
@click.option("--expires", metavar="TIME", help="Such as 90d; without it the key holds until it is revoked.")
@click.option("--events-per-s", type=click.IntRange(1, 1_000_000), help="Default: the gateway's setting.")
def new(
    name: str, tenant_id: str | None, scopes: tuple[str, ...], expires: str | None, events_per_s: int | None
) -> None:
    """Make a key and print it, this once. NAME is the client's: its events carry it, and it stays when keys change."""
    now_us = time.time_ns() // 1000
    settings = load_settings()
    key, text = new_api_key(
        name, tenant_id or settings.tenant_id, scopes or ("ingest",), now_us=now_us,
        expires_at=now_us + duration_us(expires) if expires else None, events_per_s_max=events_per_s,
    )  # fmt: skip

    def add(keys: dict[str, ApiKey]) -> None:
        taken = [other for other in keys.values() if _same_client(other, key) and other.valid_at(now_us)]
        if taken:
            raise UsageError(
                f"{name} of tenant {key.tenant_id} has the key {taken[0].key_id}",
                next_step=f"replace it: agentledger api-keys rotate {taken[0].key_id}; or choose another name",
            )
        keys[key.key_id] = key

    _store().change(add)
    _show_new(key, text)


@api_keys.command("list")
def list_keys() -> None:
    """Show every key, without its secret."""
    now_us = time.time_ns() // 1000
    table = Table(box=None, header_style="bold")
    for column in ("key", "name", "tenant", "scopes", "state", "made", "expires"):
        table.add_column(column)
    for key in _store().listed():
        table.add_row(
            key.key_id, key.name, key.tenant_id, ",".join(key.scopes), key.state(now_us), utc_text(key.created_at),
            "never" if key.expires_at is None else utc_text(key.expires_at),
        )  # fmt: skip
    Console().print(table)


@api_keys.command("rotate")
@click.argument("key_id")
@click.option("--overlap", default="7d", show_default=True, metavar="TIME", help="How long both keys open.")
def rotate(key_id: str, overlap: str) -> None:
    """Make a successor of KEY_ID with the same rights and print it, this once; the old one still opens for a while."""
    now_us = time.time_ns() // 1000
    made: list[tuple[ApiKey, str]] = []

    def swap(keys: dict[str, ApiKey]) -> None:
        old, successor, text = rotated(_find(keys, key_id), now_us=now_us, overlap_us=duration_us(overlap))
        keys[old.key_id], keys[successor.key_id] = old, successor
        made.append((successor, text))
        click.echo(f"{old.key_id} opens until {utc_text(old.expires_at or now_us)} UTC", err=True)

    _store().change(swap)
    _show_new(*made[0])


@api_keys.command("revoke")
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """End KEY_ID at once, for good."""
    now_us = time.time_ns() // 1000

    def end(keys: dict[str, ApiKey]) -> None:
        key = _find(keys, key_id)
        keys[key_id] = replace(key, revoked_at=key.revoked_at or now_us)

    _store().change(end)
    click.echo(f"{key_id} is revoked: gateways see it at their next request")


def _store() -> FileApiKeys:
    return FileApiKeys(load_settings().api_keys_path())


def _find(keys: dict[str, ApiKey], key_id: str) -> ApiKey:
    if key_id not in keys:
        raise UsageError(f"there is no key {key_id[:40]!r}", next_step="agentledger api-keys list shows them")
    return keys[key_id]


def _same_client(one: ApiKey, other: ApiKey) -> bool:
    return (one.name, one.tenant_id) == (other.name, other.tenant_id)


def _show_new(key: ApiKey, text: str) -> None:
    """The key alone on standard output, so that it can be piped into a secret store."""
    end = "until it is revoked" if key.expires_at is None else f"until {utc_text(key.expires_at)} UTC"
    click.echo(f"key {key.key_id} of {key.name}: {', '.join(key.scopes)} for tenant {key.tenant_id}, {end}", err=True)
    click.echo("it is shown this once:", err=True)
    click.echo(text)


COMMANDS: dict[str, click.Command] = {"api-keys": api_keys}
