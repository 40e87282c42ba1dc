"""The command line. Each command is a thin shell; a failure is one line on standard error and a non-zero exit code."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from agentledger.schemas.errors import AgentledgerError

# Command -> module of this folder that holds it, so that --help and the programs import only what they need.
_MODULES = {
    "up": "stack",
    "down": "stack",
    "status": "stack",
    "env": "stack",
    "demo": "demo",
    "import": "imports",
    "query": "analyst",
    "run": "analyst",
    "scoreboard": "analyst",
    "alerts": "alerts",
    "budgets": "budgets",
    "reconcile": "reconcile",
    "halt": "control",
    "resume": "control",
    "control": "control",
    "costs": "compare",
    "compare": "compare",
    "replay": "replay",
    "rebuild-state": "replay",
    "outbox": "outbox",
    "prices": "prices",
    "keys": "evidence",
    "verify": "evidence",
    "proof": "evidence",
    "verify-proof": "evidence",
    "export": "export",
    "verify-export": "export",
    "access": "access",
    "api-keys": "api_keys",
    "retention": "retention",
    "subjects": "subjects",
    "payload": "payloads",
    "redaction": "redaction",
    "doctor": "doctor",
    "init": "admin",
    "config": "admin",
    "schemas": "admin",
    "writer": "programs",
    "packer": "programs",
    "worker": "programs",
    "ticker": "programs",
    "scopes": "programs",
    "holds": "programs",
    "signer": "evidence",
    "payload-writer": "payloads",
    "gateway": "gateway",
    "console": "console",
    "notify": "notify",
}


class _Commands(click.Group):
    """Looks a command up in its module when it is called or described."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"agentledger.infra.cli.{_MODULES[cmd_name]}")
        command: click.Command = module.COMMANDS[cmd_name]
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="agentledger")
def cli() -> None:
    """agentledger: the flight recorder and cost ledger for AI agents that act in production."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit. A user never meets a traceback: it is one line, or AGENTLEDGER_DEBUG shows it."""
    try:
        result: Any = cli.main(args=arguments, standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except AgentledgerError as error:
        code = _fail(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush has somewhere to go
        code = 141
    except Exception as error:
        if os.environ.get("AGENTLEDGER_DEBUG"):
            raise
        code = _fail(f"{type(error).__name__}: {error}: set AGENTLEDGER_DEBUG=1 to see where", 70)
    sys.exit(code)


def _fail(text: str, code: int) -> int:
    first, *_ = text.splitlines() or [""]
    click.echo(f"agentledger: {first}", err=True)
    return code
