"""Commands to running agents: what they may be about, and the one key under which the newest of each is kept.

`halt` refuses every next call of a scope until `resume`, or until the command lapses. An *order* says what becomes of
calls on whose hold nobody decides, as the budgets of a scope were declared. The control topic is compacted, so each
command needs a key that says what it is about and nothing else; orders have keys of their own beside halts.

A halt has an owner: a budget lifts its own only. What people command has no owner, and their resume lifts every halt of
the scope that was there before it. So the key names the owner as well: nobody's command takes the place of another's.
"""

from __future__ import annotations

from agentledger.schemas.scopes import LABEL_SCOPE, NAMED_SCOPES

COMMANDS = ("halt", "resume")
ALLOW_UNHELD, REFUSE_UNHELD, DEFAULT_UNHELD = "allow_unheld", "refuse_unheld", "default_unheld"
UNHELD_ORDERS = (ALLOW_UNHELD, REFUSE_UNHELD, DEFAULT_UNHELD)  # the last: no budget is held there, the client decides
# The engine of a PolicyDecided that says a halt refused a call: control decided, and no policy of the agent's own.
CONTROL_ENGINE = "agentledger"
# Owners of a run's halts: all budgets that are watched run by run, decided together; and those that are held.
RUN_BUDGETS, RUN_HOLDS = "run budgets", "run holds"
RUN_OWNERS = ("", RUN_BUDGETS, RUN_HOLDS)
_OWNED = "by"
_SEPARATOR = "\x00"  # in none of the three parts: they are names and ids that a person may type


def is_control_scope(scope: str) -> bool:
    """Whether a command may be about this scope: each one that a budget may have."""
    return scope in NAMED_SCOPES or (scope.startswith(LABEL_SCOPE) and scope != LABEL_SCOPE)


def control_key(tenant_id: str, scope: str, scope_value: str, owner: str = "") -> bytes:
    """The key of a command on the control topic. A record without a value under it takes the command away."""
    owned = (_OWNED, owner) if owner else ()
    return _SEPARATOR.join((tenant_id, scope, scope_value, *owned)).encode("utf-8", "replace")


def order_key(tenant_id: str, scope: str, scope_value: str) -> bytes:
    """The key of an order on the control topic; an empty scope value stands for each one."""
    return control_key(tenant_id, scope, _SEPARATOR.join((scope_value, "unheld")))


def control_scope_of(key: bytes | None) -> tuple[str, str, str] | None:
    """Tenant, scope and scope value of a command's key; None where it isn't one."""
    parts = _parts(key)
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 or _is_owned(parts) else None


def control_owner_of(key: bytes | None) -> str:
    """The owner in a command's key; empty for what a person commands."""
    parts = _parts(key)
    return parts[4] if _is_owned(parts) else ""


def _parts(key: bytes | None) -> list[str]:
    return (key or b"").decode("utf-8", "replace").split(_SEPARATOR)


def _is_owned(parts: list[str]) -> bool:
    return len(parts) == 5 and parts[3] == _OWNED
