"""`agentledger doctor`: checks an installation and says what to do."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from agentledger.infra.settings import load_settings

EXIT_FAILED = 1


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool) -> int:
    """Check the whole installation, one line each: ok, warn or fail; exit code 1 where something fails."""
    from agentledger.infra.doctor import examine, worst_level
    from agentledger.infra.doctor_facts import gather_facts

    findings = examine(gather_facts(load_settings()))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for found in findings:
            click.echo(
                f"{found.level:<4}  {found.check}: {found.what}" + (f": {found.next_step}" if found.next_step else "")
            )
    return EXIT_FAILED if worst_level(findings) == "fail" else 0


COMMANDS = {"doctor": doctor}
