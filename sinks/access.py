"""Who may do what in ClickHouse: five roles, as SQL for a server and as its users file for the local stack.

| role | may |
|---|---|
| agentledger_writer | INSERT and SELECT on the writer's tables, nothing else |
| agentledger_payloads | INSERT, SELECT and DELETE on the payloads; SELECT on the trail, for decisions on retention |
| agentledger_signer | SELECT on the trail and on what its flushes say |
| agentledger_analyst | SELECT on the views and on the rows of the tenants that it was given; without one, on no row |
| agentledger_auditor | SELECT on everything in the database, of every tenant |

A view reads with the rights of who asks (SQL SECURITY INVOKER, ClickHouse's default), so an analyst is also granted the
table beneath, and one row policy on that table holds for every view and for the table itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from agentledger.schemas.errors import UsageError
from agentledger.sinks.migrations import view_statements
from agentledger.sinks.tables import BATCHES, CLAIMS, DATABASE, LEDGER, PAYLOADS, PURGED, TRIAL

ROLES = ("writer", "payloads", "signer", "analyst", "auditor")
NAME_CHARS_MAX = 64  # of a user's name: a bound for what goes into SQL and XML, far above any login
TENANT_CHARS_MAX = 200  # as for the setting AGENTLEDGER_TENANT_ID
_USER_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_.-]{{0,{NAME_CHARS_MAX - 1}}}")
_VIEW = re.compile(r"CREATE OR REPLACE VIEW (agentledger\.\w+)")


@dataclass(frozen=True)
class User:
    """Somebody who signs in with a password: what is known of it is its SHA-256, hex."""

    name: str
    role: str
    password_sha256: str
    tenants: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_user_name(self.name)
        if self.role not in ROLES:
            raise UsageError(f"no role is called {self.role!r}", next_step=f"one of {', '.join(ROLES)}")
        if self.role == "analyst" and not self.tenants:
            raise UsageError(f"analyst {self.name} has no tenant", next_step="say whose rows it may read: --tenant")
        if self.role != "analyst" and self.tenants:
            raise UsageError(f"a {self.role} has no tenant of its own", next_step="only an analyst has")
        for tenant in self.tenants:
            _check_tenant(tenant)


def role_name(role: str) -> str:
    """The role's name in ClickHouse."""
    return f"agentledger_{role}"


def views() -> list[str]:
    """The names of all views, with the database."""
    return [found[1] for statement in view_statements() if (found := _VIEW.match(statement))]


def grants(role: str) -> list[str]:
    """What a role is granted, as `PRIVILEGE ON OBJECT`."""
    if role == "writer":
        tables = [f"SELECT, INSERT ON {table}" for table in (LEDGER, BATCHES, CLAIMS, TRIAL)]
        # It looks for its own INSERTs that are still under way; of other users' queries the server shows it none.
        return [*tables, "SELECT ON system.processes"]
    if role == "payloads":
        return [f"SELECT, INSERT, ALTER DELETE ON {PAYLOADS}", f"SELECT ON {LEDGER}"]
    if role == "signer":
        return [f"SELECT ON {table}" for table in (LEDGER, BATCHES, PURGED)]
    if role == "analyst":
        return [f"SELECT ON {name}" for name in (LEDGER, *views())]
    return [f"SELECT ON {DATABASE}.*"]


def role_statements() -> list[str]:
    """SQL that makes the roles what this release says they are. Each can be repeated; needs ACCESS MANAGEMENT."""
    found = []
    for role in ROLES:
        name = role_name(role)
        found += [f"CREATE ROLE IF NOT EXISTS {name}", f"REVOKE ALL ON *.* FROM {name}"]
        found += [f"GRANT {grant} TO {name}" for grant in grants(role)]
    seeing_all = ", ".join(role_name(role) for role in ROLES if role != "analyst")
    return [
        *found,
        # Policies are permissive: what one of them lets through is seen. An analyst without a tenant sees no row.
        f"CREATE ROW POLICY OR REPLACE agentledger_all ON {LEDGER} USING 1 TO {seeing_all}",
        f"CREATE ROW POLICY OR REPLACE agentledger_none ON {LEDGER} USING 0 TO {role_name('analyst')}",
    ]


def user_statements(user: User) -> list[str]:
    """SQL that makes a user, or gives one that exists this password, role and tenants. The password isn't in it."""
    name = _identifier(user.name)
    policy = _identifier(f"agentledger_of_{user.name}")
    found = [
        f"CREATE USER IF NOT EXISTS {name} IDENTIFIED WITH sha256_hash BY {_literal(user.password_sha256)}",
        f"ALTER USER {name} IDENTIFIED WITH sha256_hash BY {_literal(user.password_sha256)}",
        f"REVOKE ALL ON *.* FROM {name}",
        *(f"REVOKE {role_name(role)} FROM {name}" for role in ROLES if role != user.role),
        f"GRANT {role_name(user.role)} TO {name}",
        f"DROP ROW POLICY IF EXISTS {policy} ON {LEDGER}",
    ]
    if user.tenants:
        found.append(f"CREATE ROW POLICY {policy} ON {LEDGER} USING {tenant_condition(user.tenants)} TO {name}")
    return found


def tenant_condition(tenants: Sequence[str]) -> str:
    """The SQL condition that a row is of one of these tenants."""
    return f"tenant_id IN ({', '.join(_literal(tenant) for tenant in tenants)})"


def users_xml(users: Sequence[User], *, admin_sha256: str = "") -> str:
    """The users file of a server that takes no SQL for it; everybody may come from this machine only.

    With the SHA-256 of a password for it there is a user `admin` who may do everything, and `default`, who has no
    password, may only let the server of chdb listen. Without, `default` may do everything, as without a file.
    """
    entries = "".join(_user_xml(user) for user in users)
    default = ""
    if admin_sha256:
        entries += _entry("admin", admin_sha256, "")
        default = _grants_xml(("SYSTEM LISTEN ON *.*", "SELECT ON system.numbers"))
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<clickhouse>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <password></password>
      <networks><ip>127.0.0.1</ip><ip>::1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>{default}
    </default>{entries}
  </users>
</clickhouse>
"""


def _user_xml(user: User) -> str:
    policy = ""
    if user.tenants:
        table = LEDGER.partition(".")[2]
        condition = escape(tenant_condition(user.tenants))
        policy = (
            f"\n      <databases><{DATABASE}><{table}><filter>{condition}</filter></{table}></{DATABASE}></databases>"
        )
    return _entry(user.name, user.password_sha256, _grants_xml(grants(user.role)) + policy)


def _entry(name: str, sha256: str, rights: str) -> str:
    return f"""
    <{name}>
      <password_sha256_hex>{escape(sha256)}</password_sha256_hex>
      <networks><ip>127.0.0.1</ip><ip>::1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>{rights}
    </{name}>"""


def _grants_xml(found: Sequence[str]) -> str:
    queries = "".join(f"\n        <query>GRANT {escape(grant)}</query>" for grant in found)
    return f"\n      <grants>{queries}\n      </grants>"


def password_sha256(password: str) -> str:
    """What ClickHouse is told of a password."""
    return hashlib.sha256(password.encode()).hexdigest()


def check_user_name(name: str) -> None:
    """Raise UsageError where this can't be a user's name."""
    if not _USER_NAME.fullmatch(name):
        raise UsageError(
            f"{name[:80]!r} can't be a user's name",
            next_step=f"letters, digits, _ . and -, a letter first, up to {NAME_CHARS_MAX}",
        )
    if name == "default":
        raise UsageError("the user default is the server's own", next_step="choose another name")


def _check_tenant(tenant: str) -> None:
    if not tenant or len(tenant) > TENANT_CHARS_MAX or any(char < " " for char in tenant):
        raise UsageError(f"{tenant[:80]!r} can't be a tenant", next_step="see AGENTLEDGER_TENANT_ID")


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _identifier(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"
