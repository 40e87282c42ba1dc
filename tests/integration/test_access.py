"""Roles on the real server: each may do what it is there for, and nothing else."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from agentledger.infra.stack.clickhouse import ClickHouseService
from agentledger.infra.stack.ports import free_port
from agentledger.sinks.access import ROLES, User, password_sha256, role_statements, user_statements, users_xml, views
from agentledger.sinks.clickhouse_store import ClickHouseLedgerStore
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.queries import query
from agentledger.sinks.tables import BATCHES, CLAIMS, LEDGER, TRIAL
from tests.evidence_rig import CODEC, NOW_US, EvidenceRig, event

pytestmark = pytest.mark.integration

ODD_TENANT = "o'brien \\ <x> & ]]>"
PASSWORDS = {name: f"secret of {name}" for name in ("writer", "payloads", "signer", "auditor", "ann", "odd")}
USERS = [
    *(User(role, role, password_sha256(PASSWORDS[role])) for role in ROLES if role != "analyst"),
    User("ann", "analyst", password_sha256(PASSWORDS["ann"]), ("acme", "acme-test")),
    User("odd", "analyst", password_sha256(PASSWORDS["odd"]), (ODD_TENANT,)),
]
ROWS = {"acme": 3, "acme-test": 2, "other": 4, ODD_TENANT: 1}


class AccessRig(EvidenceRig):
    """A ledger of four tenants, written by the user `writer` with the writer's own code."""

    def open_store(self) -> ClickHouseLedgerStore:
        return ClickHouseLedgerStore(self.url, "writer", PASSWORDS["writer"])


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AccessRig]:
    folder = tmp_path_factory.mktemp("access")
    running = AccessRig(folder)
    running.service = ClickHouseService(folder, free_port(), free_port(), users_xml(USERS))
    with running:
        fill(running)
        yield running


def fill(rig: AccessRig) -> None:
    tenants = [tenant for tenant, rows in ROWS.items() for _ in range(rows)]
    rig.write(rig.place(), [CODEC.encode(event(at, tenant_id=tenant)) for at, tenant in enumerate(tenants)])


def sign_in(rig: AccessRig, user: str, password: str | None = None) -> Any:
    return clickhouse_connect.get_client(
        dsn=rig.url, username=user, password=PASSWORDS[user] if password is None else password,
        autogenerate_session_id=False,
    )  # fmt: skip


def refused(rig: AccessRig, user: str, statement: str) -> bool:
    """Whether the server refuses a statement for want of rights, and not for anything else."""
    with pytest.raises(ClickHouseError) as failed:
        sign_in(rig, user).command(statement)
    return "ACCESS_DENIED" in str(failed.value)


def tenants_seen(client: Any, table: str) -> dict[str, int]:
    return dict(client.query(f"SELECT tenant_id, count() FROM {table} GROUP BY tenant_id").result_rows)


CHANGES = [
    f"ALTER TABLE {LEDGER} DELETE WHERE 1",
    f"DELETE FROM {LEDGER} WHERE 1",
    f"ALTER TABLE {LEDGER} UPDATE raw = '' WHERE 1",
    f"ALTER TABLE {LEDGER} DROP PARTITION 202609",
    f"ALTER TABLE {LEDGER} ADD COLUMN more String",
    f"TRUNCATE TABLE {LEDGER}",
    f"DROP TABLE {LEDGER}",
    f"OPTIMIZE TABLE {LEDGER} FINAL",
    f"RENAME TABLE {LEDGER} TO agentledger.gone",
    f"TRUNCATE TABLE {BATCHES}",
    "CREATE TABLE agentledger.mine (a Int64) ENGINE = Memory",
    "CREATE VIEW agentledger.mine AS SELECT 1",
    "CREATE FUNCTION mine AS (a) -> a",
    "DROP DATABASE agentledger",
    "CREATE USER mallory",
    "GRANT ALL ON *.* TO writer",
    f"SYSTEM STOP MERGES {LEDGER}",
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
    "SELECT * FROM remote('127.0.0.1:1', agentledger.ledger)",
]


@pytest.mark.parametrize("user", ["writer", "payloads", "signer", "auditor", "ann"])
def test_nobody_can_change_what_is_written(rig: AccessRig, user: str) -> None:
    before = rig.rows(f"SELECT count(), groupBitXor(cityHash64(*)) FROM {LEDGER}")
    for statement in CHANGES:
        assert refused(rig, user, statement), statement
    assert rig.rows(f"SELECT count(), groupBitXor(cityHash64(*)) FROM {LEDGER}") == before


@pytest.mark.parametrize("user", ["payloads", "signer", "auditor", "ann"])
def test_only_the_writer_inserts(rig: AccessRig, user: str) -> None:
    for table in (LEDGER, BATCHES, CLAIMS, TRIAL):
        assert refused(rig, user, f"INSERT INTO {table} (partition) VALUES (0)")


@pytest.mark.parametrize("user", [*PASSWORDS])
def test_a_wrong_password_is_refused(rig: AccessRig, user: str) -> None:
    for wrong in ("", "secret", PASSWORDS[user] + " ", password_sha256(PASSWORDS[user])):
        with pytest.raises(ClickHouseError, match="Authentication failed"):
            sign_in(rig, user, wrong)


def test_the_writer_writes_and_finds_what_it_wrote(rig: AccessRig) -> None:
    client = sign_in(rig, "writer")
    assert tenants_seen(client, LEDGER) == ROWS
    assert refused(rig, "writer", "SELECT * FROM agentledger.events")
    store = rig.open_store()
    assert store.position(rig.place()).next_index == sum(ROWS.values())
    store.settle()


def test_an_analyst_sees_its_tenants_and_no_other(rig: AccessRig) -> None:
    own = {"acme": 3, "acme-test": 2}
    ann, odd = sign_in(rig, "ann"), sign_in(rig, "odd")
    for table in (LEDGER, "agentledger.events"):
        assert tenants_seen(ann, table) == own, table
        assert tenants_seen(odd, table) == {ODD_TENANT: 1}, table
    everyone = query(ann, "SELECT DISTINCT tenant_id FROM agentledger.model_calls").rows
    assert {tenant for (tenant,) in everyone} == set(own)
    assert (
        ann.query(f"SELECT throwIf(tenant_id = 'other') FROM {LEDGER}").row_count == 5
    )  # it never sees one to throw at
    assert ann.query(f"SELECT count() FROM {LEDGER} WHERE tenant_id = 'other' OR 1").result_rows == [(5,)]
    for table in (BATCHES, CLAIMS, "system.processes", "system.parts"):
        assert refused(rig, "ann", f"SELECT * FROM {table}")
    assert refused(rig, "ann", "SELECT * FROM mergeTreeIndex('agentledger', 'ledger')")


def test_an_analyst_can_read_every_view_and_an_auditor_every_row(rig: AccessRig) -> None:
    ann, auditor = sign_in(rig, "ann"), sign_in(rig, "auditor")
    for view in views():
        query(ann, f"SELECT * FROM {view} LIMIT 1")
        query(auditor, f"SELECT * FROM {view} LIMIT 1")
    assert tenants_seen(auditor, "agentledger.events") == ROWS
    assert query(auditor, f"SELECT count() FROM {BATCHES}").rows == [(1,)]


def test_the_signer_reads_what_it_signs(rig: AccessRig) -> None:
    reader = ClickHouseLeafReader(rig.url, "signer", PASSWORDS["signer"])
    ((log, stored),) = reader.logs().items()
    assert len(reader.leaves(log, 0, stored.size)) == stored.size == sum(ROWS.values())
    assert reader.has_news(log, 0, stored.size)
    assert refused(rig, "signer", "SELECT * FROM agentledger.events")


def test_every_statement_for_a_server_with_sql_users_is_sql(rig: AccessRig) -> None:
    """This server keeps its users in a file; it can still say whether it understands the statements."""
    of_users = [statement for user in USERS for statement in user_statements(user)]
    for statement in [*role_statements(), *of_users]:
        [[text]] = rig.client.query("SELECT formatQuerySingleLine({s:String})", {"s": statement}).result_rows
        assert text


def test_two_writers_as_one_user_fence_each_other(rig: AccessRig) -> None:
    from agentledger.schemas.errors import LedgerConflictError
    from agentledger.sinks.rows import LogPlace
    from agentledger.sinks.store import BatchEntry, LogPosition

    place = LogPlace("agentledger.events.v1", str(uuid.uuid4()), 7)
    first, second = rig.open_store(), rig.open_store()
    first.claim([place], NOW_US)
    second.claim([place], int(time.time() * 1e6))
    with pytest.raises(LedgerConflictError):
        first.commit([BatchEntry(place, 0, 0, 1, 0, LogPosition(1, 1, NOW_US))], NOW_US, NOW_US)


def test_the_users_file_is_private(rig: AccessRig) -> None:
    path = Path(rig.service.working_folder) / "users.xml"
    assert path.stat().st_mode & 0o077 == 0
    assert not any(password in path.read_text("utf-8") for password in PASSWORDS.values())
