"""Halt and resume: a command needs a reason and the right admin, and is an event of the ledger like all else."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.responses import RedirectResponse, Response

from agentledger.schemas.control import is_control_scope
from agentledger.schemas.errors import UsageError
from agentledger.sinks.console.ports import Command
from agentledger.sinks.console.visits import Visit

COMMANDS = ("halt", "resume")
EXPIRES_S = {"": None, "15m": 900, "1h": 3_600, "1d": 86_400, "7d": 7 * 86_400}


def give_command(visit: Visit) -> Response:
    """The form of /commands: it answers when the broker has the command. Raises UsageError, BrokerError."""
    command = command_of(visit)
    visit.ports.issue(command)
    said = urlencode({"sent": f"{command.command} of {command.scope} {command.scope_value}"})
    return RedirectResponse(f"/budgets?{said}#halts", 303)


def command_of(visit: Visit) -> Command:
    """What the form asks for. Raises UsageError where something is missing."""
    name, scope = visit.field("command"), visit.field("scope")
    value, reason, expires = visit.field("scope_value"), visit.field("reason"), visit.field("expires")
    tenant_id = visit.visitor.tenant_id
    if name not in COMMANDS or expires not in EXPIRES_S:
        raise UsageError("this is no command", next_step="send the form of the page Budgets")
    if scope == "tenant":
        value = tenant_id  # one's own: another's is nobody's business here
    if not is_control_scope(scope) or not value:
        raise UsageError("nothing says whom this is about", next_step="give a scope and which one of it")
    if not reason:
        raise UsageError(f"a {name} needs a reason", next_step="say why: whoever is stopped reads it")
    lapse_s = EXPIRES_S[expires] if name == "halt" else None
    return Command(
        name, tenant_id, scope, value, reason, f"console:{visit.visitor.name}",
        None if lapse_s is None else lapse_s * 1_000_000,
    )  # fmt: skip
