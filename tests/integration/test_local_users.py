"""The local stack's programs and commands sign in as users of their own; decisions on retention go through it live."""

from __future__ import annotations

import json
from pathlib import Path

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from agentledger.producers import Ledger
from agentledger.producers.personal import PersonalFields
from agentledger.schemas.subject_keys import FileSubjectKeys
from tests.running_stack import RunningStack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def password(stack: RunningStack, user: str) -> str:
    path = stack.data_dir / "access" / f"{user}.password"
    assert path.stat().st_mode & 0o077 == 0
    return path.read_text("utf-8").strip()


def test_each_program_signs_in_as_itself_and_works(stack: RunningStack) -> None:
    logins = {"writer": "writer", "payloads": "payloads", "signer": "signer", "reconcile": "auditor"}
    for program, user in logins.items():
        variables = Path(f"/proc/{stack.pid(program)}/environ").read_bytes().decode().split("\0")
        assert f"AGENTLEDGER_CLICKHOUSE_USER={user}" in variables
        assert f"AGENTLEDGER_CLICKHOUSE_PASSWORD={password(stack, user)}" in variables
    sql = (
        "SELECT count() > 0 AS written, countIf(event_type = 'CheckpointSigned') > 0 AS signed FROM agentledger.ledger"
    )
    assert stack.settle(sql, lambda row: row["signed"]) == {"written": 1, "signed": 1}


def test_who_only_looks_can_only_look(stack: RunningStack) -> None:
    assert stack.one("SELECT currentUser() AS user") == {"user": "auditor"}
    refused = stack.cli("query", "INSERT INTO agentledger.ledger (partition) VALUES (1)", check=False)
    assert (refused.returncode, "ACCESS_DENIED" in refused.stderr) == (1, True)
    stack.env |= {
        "AGENTLEDGER_CLICKHOUSE_USER": "analyst",
        "AGENTLEDGER_CLICKHOUSE_PASSWORD": password(stack, "analyst"),
    }
    try:
        assert stack.query("SELECT DISTINCT tenant_id FROM agentledger.ledger WHERE tenant_id != 'default'") == []
        stack.env["AGENTLEDGER_CLICKHOUSE_PASSWORD"] = "wrong"
        assert "Authentication failed" in stack.cli("query", "SELECT 1", check=False).stderr
    finally:
        del stack.env["AGENTLEDGER_CLICKHOUSE_USER"], stack.env["AGENTLEDGER_CLICKHOUSE_PASSWORD"]


def test_without_a_password_nobody_gets_in(stack: RunningStack) -> None:
    """`default` has none: the server of chdb needs it to start listening, and that is all it may do."""
    default = clickhouse_connect.get_client(dsn=stack.endpoints()["clickhouse_url"])
    for statement in (
        "SELECT count() FROM agentledger.ledger", "DROP TABLE agentledger.ledger", "CREATE TABLE t (a Int8)",
        "SELECT query FROM system.processes", "KILL QUERY WHERE 1", "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SYSTEM SHUTDOWN", "CREATE USER mallory", "SELECT * FROM agentledger.events LIMIT 1",
    ):  # fmt: skip
        with pytest.raises(ClickHouseError, match="ACCESS_DENIED"):
            default.command(statement)
    admin = clickhouse_connect.get_client(**stack.login("admin"))
    assert admin.query("SELECT currentUser(), count() > 0 FROM agentledger.ledger").result_rows == [("admin", 1)]
    assert password(stack, "admin")


def test_who_looks_is_recorded(stack: RunningStack) -> None:
    stack.cli("query", "SELECT {n:UInt8} AS looked", "--param", "n=7")
    stack.cli("run", "no-such-run", check=False)
    stack.cli("scoreboard")
    stack.cli("budgets", "list")
    stack.cli("replay", "--run", "no-such-run", check=False)
    seen = (
        "SELECT countIf(position(labels['query'], 'AS looked') > 0 AND labels['rows_returned'] = '1') AS queries, "
        "countIf(labels['command'] = 'run' AND labels['result'] = 'error') AS runs, "
        "countIf(labels['command'] = 'scoreboard' AND labels['clickhouse_user'] = 'auditor') AS scoreboards, "
        "countIf(labels['command'] = 'budgets list') AS budgets, countIf(labels['command'] = 'replay') AS replays, "
        "min(actor) LIKE '%@%' AS named FROM evidence WHERE workflow = 'read' AND position(labels['query'], 'seen') = 0"
    )
    expected = {"queries": 1, "runs": 1, "scoreboards": 1, "budgets": 1, "replays": 1, "named": 1}
    assert stack.settle(seen, lambda row: row == expected) == expected


def test_roles_in_sql_are_not_for_this_server(stack: RunningStack) -> None:
    for command in (["access", "apply"], ["access", "user", "ann", "--role", "analyst", "--tenant", "acme"]):
        refused = stack.cli(*command, check=False)
        assert refused.returncode == 2
        assert "doesn't let us manage roles and users in SQL" in refused.stderr
        sql = stack.cli(*command, "--dry-run").stdout
        assert sql.startswith("CREATE ")
        assert sql.count(";\n") > 5
    assert "user auditor (users_xml)" in stack.cli("access", "show").stdout
    wrong = stack.cli("access", "user", "ann", "--role", "analyst", check=False)
    assert "analyst ann has no tenant" in wrong.stderr


def test_content_that_was_asked_for_is_found_again_from_its_event(stack: RunningStack) -> None:
    servers = stack.endpoints()["kafka_bootstrap_servers"]
    long = "é" * 1_500_000  # three megabytes: six chunks
    with (
        Ledger(agent_id="a", bootstrap_servers=servers, redaction={"default": "keep"}, payloads=True) as ledger,
        ledger.run("w", run_id="with-content") as run,
        run.tool_call("mail", arguments={"text": long}) as call,
    ):
        call.result({"sent": True})
    kept = "SELECT count() AS chunks FROM payloads WHERE run_id = 'with-content'"
    assert stack.settle(kept, lambda row: row["chunks"] >= 7) == {"chunks": 7}
    shown = stack.cli("payload", call.event_id, "--part", "arguments").stdout
    assert json.loads(shown) == {"text": long}
    assert "result (sha256:" in stack.cli("payload", call.event_id).stdout
    [said] = stack.query(f"SELECT payload_digests, arguments_digest FROM tool_calls WHERE event_id = '{call.event_id}'")
    assert said["payload_digests"]["arguments"] == said["arguments_digest"]
    missing = stack.cli("payload", ledger.emitter.producer_id, check=False)
    assert (missing.returncode, "is no event id" in missing.stderr) == (2, True)


def test_decisions_and_an_erasure_reach_the_ledger(stack: RunningStack, tmp_path: Path) -> None:
    public = [stack.cli("retention", "key", name, "--out", str(tmp_path / name)).stdout for name in ("ann", "bob")]
    (stack.data_dir / "signer" / "approvers.pub").write_text("".join(public), "utf-8")
    stack.cli("retention", "set", "--days", "400", "--reason", "law", "--key", str(tmp_path / "ann"))
    stack.cli("retention", "hold", "h", "--tenant", "acme", "--reason", "r", "--key", str(tmp_path / "bob"))
    personal = PersonalFields(
        FileSubjectKeys(stack.data_dir / "subjects"), {"email"}, subject=lambda value: value["id"]
    )
    servers = stack.endpoints()["kafka_bootstrap_servers"]
    with Ledger(agent_id="a", bootstrap_servers=servers, keep_content=True, personal=personal) as ledger:
        target = personal.seal("ann@example.com", tenant_id="default", subject="ann")
        with ledger.run("w", run_id="about-ann") as run:
            arguments = {"id": "ann", "email": "ann@example.com"}
            with run.tool_call("mail", arguments=arguments, target=target):
                pass
    decisions = (
        "SELECT countIf(event_type = 'RetentionRecorded') AS said, countIf(run_id = 'about-ann') AS facts FROM ledger"
    )
    assert stack.settle(decisions, lambda row: row["said"] == 2 and row["facts"] >= 3)["said"] == 2
    assert "trail: 400 days" in stack.cli("retention", "show").stdout
    assert "LEGAL HOLD h: r" in stack.cli("retention", "show", "--tenant", "acme").stdout
    assert "ann@example.com" in stack.cli("run", "about-ann").stdout
    erased = json.loads(stack.cli("subjects", "erase", "ann", "--reason", "request 12", "--yes").stdout)
    shown = stack.cli("run", "about-ann").stdout
    assert "[erased]" in shown
    assert "ann@example.com" not in shown
    tombstone = f"SELECT kind, reason FROM ledger WHERE event_id = '{erased['tombstone']}'"
    assert stack.settle(tombstone, bool) == {"kind": "erasure", "reason": "request 12"}
    assert "VERIFIED" in stack.cli("verify", "--all").stdout
