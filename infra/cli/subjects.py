"""`agentledger subjects`: data subjects, whose personal fields are sealed under keys of their own."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from agentledger.infra.settings import load_settings
from agentledger.schemas.errors import ConfigurationError

STATEMENT_HEADER = "agentledger.erasure.v1"
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.group("subjects")
def subjects() -> None:
    """Data subjects: erase the personal fields of one for good."""


@subjects.command("erase")
@click.argument("subject")
@click.option("--tenant", "tenant_id", help="Default: AGENTLEDGER_TENANT_ID.")
@click.option("--reason", required=True, help="Such as the number of the request; it goes into the ledger.")
@click.option("--key", "key_file", type=_FILE, metavar="FILE", help="Sign the tombstone with an approver's key.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase(subject: str, tenant_id: str | None, reason: str, key_file: Path | None, yes: bool) -> None:
    """Destroy the key of SUBJECT: its sealed fields can't be read any more, and every proof still holds."""
    from agentledger.infra.cli.retention import policy_in_force
    from agentledger.infra.decisions import publish, retention_event
    from agentledger.infra.endpoints import kafka_config
    from agentledger.schemas.hashing import canonical_json
    from agentledger.schemas.notes import sign_note
    from agentledger.schemas.subject_keys import FileSubjectKeys
    from agentledger.sinks.key_files import read_private

    settings = load_settings()
    tenant = tenant_id or settings.tenant_id
    if settings.erasure == "forbidden":
        raise ConfigurationError(
            "nothing of this ledger may be erased", next_step="AGENTLEDGER_ERASURE=forbidden says so: ask who set it"
        )
    policy_in_force(settings, tenant).check_no_hold()
    keys = FileSubjectKeys(settings.subject_keys_folder())
    key_id = keys.key_id_of(tenant, subject)
    if key_id is None:
        click.echo(f"tenant {tenant!r} has no key of this subject: nothing is sealed for it, or it is erased already")
        return
    if not yes:
        click.confirm(f"destroy key {key_id} of this subject of tenant {tenant!r} for good?", abort=True)
    at_us = time.time_ns() // 1000
    said = {"at_us": at_us, "key_id": key_id, "reason": reason, "tenant_id": tenant}
    statement = f"{STATEMENT_HEADER}\n{canonical_json(said).decode()}\n"
    key = None if key_file is None else read_private(key_file)
    event = retention_event(
        "erasure", tenant, statement if key is None else sign_note(statement, [key]), at_us=at_us, reason=reason,
        issued_by="" if key is None else key.name,
    )  # fmt: skip
    # The tombstone first: a key that is gone without one could not be accounted for. Given again, this ends the same.
    registry_auth = settings.schema_registry_basic_auth.get_secret_value()
    publish(kafka_config(settings), event, settings.schema_registry_url, registry_auth)
    keys.erase(tenant, subject)
    click.echo(json.dumps({"erased": True, "key_id": key_id, "tombstone": event.event_id}))


COMMANDS: dict[str, click.Command] = {"subjects": subjects}
