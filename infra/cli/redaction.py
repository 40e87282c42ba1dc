"""`agentledger redaction`: what a redaction policy lets through, tried on a value before it is used."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from agentledger.schemas.errors import UsageError

VALUE_BYTES_MAX = 16 * 1024 * 1024  # as one payload
_PARTS = ("arguments", "result", "input", "output", "change")


@click.group()
def redaction() -> None:
    """What may leave an agent's process."""


@redaction.command("try")
@click.argument("policy_file", type=click.Path(exists=True, dir_okay=False))
@click.option("--tool", default="", help="The tool, or the model.")
@click.option("--part", type=click.Choice(_PARTS), default="arguments", show_default=True)
@click.option("--key-file", type=click.Path(exists=True, dir_okay=False), help="The key for hashes.")
@click.option("--value", "text", help="The value as JSON; by default standard input.")
def try_(policy_file: str, tool: str, part: str, key_file: str | None, text: str | None) -> None:
    """Show what of a JSON value would leave, and what happens to each of its fields. Nothing is sent."""
    from agentledger.producers.redaction_file import load_redaction

    value = _value(text)
    rules = load_redaction(policy_file, key_file=key_file)
    shown = rules.show(value, tool=tool, part=part, tenant_id="", actor="")  # type: ignore[arg-type]
    for path, action in dict.fromkeys(shown.fields):
        click.echo(f"{action:<8} {path or '(the value)'}")
    click.echo("nothing of it leaves" if shown.value is None else json.dumps(shown.value, ensure_ascii=False, indent=2))


def _value(text: str | None) -> Any:
    raw = sys.stdin.read(VALUE_BYTES_MAX + 1) if text is None else text
    if len(raw) > VALUE_BYTES_MAX:
        raise UsageError(f"the value has more than {VALUE_BYTES_MAX:,} characters", next_step="try a smaller one")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the value is no JSON: {error}", next_step="such as --value '[1]'") from None


COMMANDS = {"redaction": redaction}
