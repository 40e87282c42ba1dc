"""Retention on a real ClickHouse, through the command line: decided, planned, approved by two, purged, verified."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import Producer

from agentledger.infra.cli import main
from agentledger.infra.decisions import retention_event
from agentledger.producers import Ledger
from agentledger.producers.personal import PersonalFields
from agentledger.schemas.errors import StoreError
from agentledger.schemas.events import ToolCallCompleted
from agentledger.schemas.subject_keys import FileSubjectKeys
from agentledger.schemas.testing.record_producer import FakeRecordProducer
from agentledger.schemas.topics import INTEGRITY
from agentledger.sinks.key_files import read_private
from agentledger.sinks.retention import Decision, decide
from agentledger.sinks.tables import BATCHES, LEDGER, PURGED
from tests.evidence_rig import CODEC, EvidenceRig, event

pytestmark = pytest.mark.integration


class Done(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str


Cli = Callable[..., Done]


@pytest.fixture
def cli(
    rig: EvidenceRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Cli]:
    """The command line on an empty ledger with a signer's key and the approvers ann and bob; eve's key counts for
    nothing. What the rig writes is two months old."""
    for table in (LEDGER, BATCHES, PURGED):
        rig.command(f"TRUNCATE TABLE {table}")
    rig.places.clear()
    broker = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    (address,) = broker.list_topics(timeout=10).brokers.values()
    monkeypatch.setenv("AGENTLEDGER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("AGENTLEDGER_CLICKHOUSE_URL", rig.url)
    monkeypatch.setenv("AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS", f"{address.host}:{address.port}")
    monkeypatch.setenv("AGENTLEDGER_TENANT_ID", "acme")
    monkeypatch.setenv("AGENTLEDGER_RETENTION_TRAIL_DAYS_MIN", "40")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        printed = capsys.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, printed.out, printed.err)

    assert call("keys", "new", "example.com/ledger").code == 0
    public = [call("retention", "key", name, "--out", f"{name}.key").out for name in ("ann", "bob", "eve")]
    (tmp_path / "signer" / "approvers.pub").write_text("".join(public[:2]), "utf-8")
    yield call
    broker.flush(1)


def tool_call(sequence: int, tenant: str, content: str | None = None) -> bytes:
    return CODEC.encode(
        event(
            sequence, ToolCallCompleted, tenant_id=tenant, tool="t", result_digest="sha256:0", result_redacted=content
        )
    )


def fill(rig: EvidenceRig, cli: Cli) -> None:
    """Two logs, rows of two tenants in turn, all signed; of each, acme has 11: two events are there twice, one of
    them in the last row, which no purge may touch, and so the first row of that event stays, too."""
    for partition in (0, 1):
        place = rig.place(partition=partition)
        values = [tool_call(100 * partition + at, "acme" if at % 3 else "other", "x" * (at % 2)) for at in range(12)]
        rig.write(place, [*values, values[4], tool_call(100 * partition + 50, "acme"), values[5]])
        assert cli("signer", "--once").code == 0


def decided(rig: EvidenceRig, tmp_path: Path, who: str, **facts: Any) -> None:
    """A decision in the ledger, as the writer writes it."""
    at_us = time.time_ns() // 1000
    given: dict[str, Any] = {"data_class": "", "days": None, "name": "", "reason": "", "tenant_id": "acme"} | facts
    note = decide(Decision(at_us=at_us, **given), read_private(tmp_path / f"{who}.key"))
    rig.write(
        rig.place(INTEGRITY.name),
        [CODEC.encode(retention_event(given["kind"], given["tenant_id"], note, at_us=at_us, reason=given["reason"]))],
    )


def approve(cli: Cli, *names: str, plan: str = "plan") -> None:
    for name in names:
        assert cli("retention", "approve", plan, "--key", f"{name}.key").code == 0


def report(cli: Cli) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli("verify", "--all", "--json").out)
    return found


def rows(rig: EvidenceRig, tenant: str) -> int:
    return int(rig.rows(f"SELECT count() FROM {LEDGER} WHERE tenant_id = '{tenant}'")[0][0])


def test_a_purge_by_two_leaves_a_ledger_that_verifies(
    rig: EvidenceRig, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(rig, cli)
    planned = cli("retention", "plan", "--out", "plan")
    assert planned.code == 0, planned.err
    assert "18 rows go" in planned.out
    for names in ((), ("ann",), ("ann",), ("eve",)):
        approve(cli, *names)
        refused = cli("retention", "purge", "plan")
        assert refused.code != 0
        assert rows(rig, "acme") == 22
        assert not (tmp_path / "checkpoints" / "tombstones").exists()
    approve(cli, "bob")
    done = cli("retention", "purge", "plan")
    assert done.code == 0, done.err
    assert "purged, approved by ann, bob" in done.out
    assert (rows(rig, "acme"), rows(rig, "other")) == (4, 8)

    found = report(cli)
    assert (found["problems"], found["purged_rows"], found["heads_checked"]) == ([], 18, 2)
    assert "18 rows are purged" in cli("verify", "--all").out
    with monkeypatch.context() as patch:
        patch.setattr("agentledger.sinks.verify_logs.PART_ROWS_MAX", 4)
        assert report(cli)["problems"] == []
        assert json.loads(cli("verify", "--from", "2026-09-21T14:13:20.008", "--json").out)["problems"] == []
    assert "approved by ann and bob" in cli("retention", "show").out
    assert cli("retention", "purge", "plan").code == 0  # again changes nothing
    [(event_id,)] = rig.rows(f"SELECT toString(any(event_id)) FROM {LEDGER} WHERE tenant_id = 'other'")
    assert cli("proof", event_id, "--out", "proof").code == 0
    assert cli("verify-proof", "proof", "--key", "signer/signer.pub").code == 0
    (tmp_path / "signer" / "state").unlink()  # a signer without its state reads all logs again
    rig.write(rig.place(), [tool_call(900, "acme")])
    assert "signed a checkpoint" in cli("signer", "--once").out
    assert report(cli)["verified"]


def test_rows_taken_away_without_a_tombstone_are_found(rig: EvidenceRig, cli: Cli, tmp_path: Path) -> None:
    fill(rig, cli)
    assert cli("retention", "plan", "--out", "plan").code == 0
    approve(cli, "ann", "bob")
    assert cli("retention", "purge", "plan").code == 0
    approvers = tmp_path / "signer" / "approvers.pub"
    kept = approvers.read_text("utf-8")
    approvers.write_text(kept.splitlines()[0] + "\n", "utf-8")
    kinds = {problem["kind"] for problem in report(cli)["problems"]}
    assert kinds == {"tombstone", "missing"}  # who doesn't trust both approvers is told
    approvers.write_text(kept, "utf-8")
    rig.command(f"ALTER TABLE {LEDGER} DELETE WHERE partition = 1 AND log_index = 3")
    [problem] = report(cli)["problems"]
    assert (problem["kind"], problem["log_index"], problem["where"]) == ("missing", 3, "agentledger.events.v1/1")


def test_a_changed_row_beside_purged_ones_is_found(rig: EvidenceRig, cli: Cli) -> None:
    fill(rig, cli)
    assert cli("retention", "plan", "--out", "plan").code == 0
    approve(cli, "ann", "bob")
    assert cli("retention", "purge", "plan").code == 0
    rig.command(f"ALTER TABLE {LEDGER} UPDATE target = 'x' WHERE partition = 0 AND log_index = 6")
    [problem] = report(cli)["problems"]
    assert (problem["kind"], problem["log_index"]) == ("column", 6)


def test_content_goes_earlier_than_the_trail(rig: EvidenceRig, cli: Cli) -> None:
    fill(rig, cli)
    planned = cli("retention", "plan", "--class", "payloads", "--out", "content")
    assert planned.code == 0, planned.err
    assert "rows lose their bytes and content" in planned.out
    approve(cli, "ann", "bob", plan="content")
    assert cli("retention", "purge", "content").code == 0
    asked = f"SELECT count(), countIf(result_redacted IS NOT NULL), countIf(raw != '') FROM {LEDGER} WHERE tenant_id = "
    assert rig.rows(asked + "'acme'") == [(22, 2, 4)]  # one row a log has no content, and the last stays as it is
    assert rig.rows(asked + "'other'") == [(8, 8, 8)]
    found = report(cli)
    assert (found["problems"], found["purged_rows"]) == ([], 18)
    assert cli("retention", "plan", "--out", "plan").code == 0
    approve(cli, "ann", "bob")
    assert cli("retention", "purge", "plan").code == 0
    assert rows(rig, "acme") == 4
    found = report(cli)
    assert (found["problems"], found["purged_rows"]) == ([], 20)  # of one row a log, the content alone


def test_a_legal_hold_and_a_longer_period_stop_a_purge(rig: EvidenceRig, cli: Cli, tmp_path: Path) -> None:
    fill(rig, cli)
    assert cli("retention", "plan", "--out", "plan").code == 0
    approve(cli, "ann", "bob")
    decided(rig, tmp_path, "eve", kind="hold", name="void", reason="not hers to say")
    assert "counts for nothing" in cli("retention", "show").out
    decided(rig, tmp_path, "ann", kind="hold", name="case-7", reason="a lawsuit")
    for command in (("plan", "--out", "other"), ("purge", "plan")):
        refused = cli("retention", *command)
        assert refused.code == 2
        assert "case-7: a lawsuit" in refused.err
    assert "LEGAL HOLD case-7: a lawsuit" in cli("retention", "show").out
    decided(rig, tmp_path, "bob", kind="release", name="case-7", reason="settled")
    decided(rig, tmp_path, "bob", kind="period", data_class="trail", days=400)
    refused = cli("retention", "purge", "plan")
    assert (refused.code, "kept for 400 days" in refused.err) == (2, True)
    assert rows(rig, "acme") == 26  # with the decisions
    decided(rig, tmp_path, "bob", kind="period", data_class="trail", days=1)  # under the floor: the floor holds
    assert "trail: 40 days" in cli("retention", "show").out
    assert cli("retention", "purge", "plan").code == 0


def test_a_plan_that_no_longer_fits_and_a_ledger_that_was_changed_are_refused(rig: EvidenceRig, cli: Cli) -> None:
    fill(rig, cli)
    assert cli("retention", "plan", "--out", "plan").code == 0
    approve(cli, "ann", "bob")
    rig.command(
        f"ALTER TABLE {LEDGER} UPDATE leaf_hash = unhex(repeat('00', 32)) WHERE partition = 0 AND log_index = 3"
    )
    refused = cli("retention", "purge", "plan")
    assert (refused.code, "ROOT" in refused.err) == (3, True), refused.err
    rig.command(f"ALTER TABLE {LEDGER} DELETE WHERE partition = 0 AND log_index = 2")
    refused = cli("retention", "purge", "plan")
    assert "are not those that were planned" in refused.err
    assert rows(rig, "acme") == 21


def test_what_is_asked_wrongly_gets_one_line(rig: EvidenceRig, cli: Cli, tmp_path: Path) -> None:
    fill(rig, cli)
    (tmp_path / "junk").write_text("{}", "utf-8")
    for arguments, said in (
        (("plan", "--out", "p", "--before", "2026-11-01"), "are kept for 40 days"),
        (("plan", "--out", "p", "--tenant", "nobody'); --"), "nothing is old enough"),
        (("plan", "--out", "p", "--before", "yesterday"), "is no time"),
        (("set", "--days", "3", "--key", "ann.key"), "40 days at least"),
        (("hold", "h", "--reason", "r", "--key", "eve.key"), "no approver's"),
        (("release", "case-9", "--reason", "r", "--key", "ann.key"), "no legal hold 'case-9' is in force"),
        (("approve", "junk", "--key", "ann.key"), "no purge plan"),
        (("purge", "junk"), "no purge plan"),
        (("key", "ann", "--out", "ann.key"), "there is a file already"),
    ):
        done = cli("retention", *arguments)
        assert done.code in {1, 2}, arguments
        assert said in done.err, done.err
        assert done.err.count("\n") == 1


def test_a_decision_is_published(cli: Cli) -> None:
    done = cli("retention", "set", "--days", "400", "--reason", "law", "--key", "ann.key")
    assert done.code == 0, done.err
    assert "recorded, signed by ann" in done.out


def recorded(rig: EvidenceRig, personal: PersonalFields) -> None:
    """A run about the customers ann and bob, as the SDK sends it."""
    producer = FakeRecordProducer()
    with (
        Ledger(producer=producer, tenant_id="acme", keep_content=True, personal=personal, control="off") as ledger,
        ledger.run(run_id="run-about-two") as run,
    ):
        for customer in ("ann", "bob"):
            sealed = personal.seal(f"{customer}@example.com", tenant_id="acme", subject=customer)
            with run.tool_call("send", arguments={"customer": customer, "phone": "5550100"}, target=f"mail:{sealed}"):
                pass
    rig.write(rig.place(), [record.value for record in producer.records if record.topic == rig.place().topic])


def test_an_erased_subject_is_gone_and_every_proof_holds(
    rig: EvidenceRig, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = FileSubjectKeys(tmp_path / "subjects")
    recorded(rig, PersonalFields(keys, {"phone"}, subject=lambda value: value["customer"]))
    assert cli("signer", "--once").code == 0
    monkeypatch.setenv("COLUMNS", "200")
    shown = cli("run", "run-about-two").out
    assert "ann@example.com" in shown
    assert "bob@example.com" in shown
    before = rig.rows(f"SELECT * FROM {LEDGER} ORDER BY log_index")
    assert not any("5550100" in str(row) or "@example" in str(row) for row in before)
    [(event_id,)] = rig.rows(f"SELECT toString(event_id) FROM {LEDGER} WHERE tool = 'send' ORDER BY log_index LIMIT 1")

    decided(rig, tmp_path, "ann", kind="hold", name="case-7", reason="a lawsuit")
    assert "case-7" in cli("subjects", "erase", "ann", "--reason", "DSR 12", "--yes").err
    decided(rig, tmp_path, "ann", kind="release", name="case-7", reason="settled")
    monkeypatch.setenv("AGENTLEDGER_ERASURE", "forbidden")
    refused = cli("subjects", "erase", "ann", "--reason", "DSR 12", "--yes")
    assert (refused.code, "nothing of this ledger may be erased" in refused.err) == (2, True)
    monkeypatch.setenv("AGENTLEDGER_ERASURE", "allowed")
    assert "ann@example.com" in cli("run", "run-about-two").out

    done = cli("subjects", "erase", "ann", "--reason", "DSR 12", "--yes", "--key", "bob.key")
    assert done.code == 0, done.err
    assert json.loads(done.out)["erased"]
    assert "ann" not in done.out
    shown = cli("run", "run-about-two").out
    assert "ann@example.com" not in shown
    assert "mail:[erased]" in shown
    assert "bob@example.com" in shown
    assert rig.rows(f"SELECT * FROM {LEDGER} WHERE event_type != 'RetentionRecorded' ORDER BY log_index") == before
    assert report(cli)["verified"]
    assert cli("proof", event_id, "--out", "proof").code == 0
    assert cli("verify-proof", "proof", "--key", "signer/signer.pub").code == 0
    assert "erased already" in cli("subjects", "erase", "ann", "--reason", "again", "--yes").out


def test_a_purge_that_was_killed_is_told_and_goes_on(
    rig: EvidenceRig, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(rig, cli)
    assert cli("retention", "plan", "--out", "plan").code == 0
    approve(cli, "ann", "bob")
    with monkeypatch.context() as patch:
        patch.setattr("agentledger.sinks.retention.carry_out", lambda *_: (_ for _ in ()).throw(StoreError("killed")))
        assert "killed" in cli("retention", "purge", "plan").err
    assert {problem["kind"] for problem in report(cli)["problems"]} == {"purge"}
    assert cli("retention", "purge", "plan").code == 0
    assert report(cli)["verified"]


def test_a_row_moved_to_the_purged_ones_is_missed_wherever_one_looks(
    rig: EvidenceRig, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(rig, cli)
    columns, row = "topic_id, partition, log_index, ledger_time, leaf_hash", "partition = 0 AND log_index = 3"
    rig.command(f"INSERT INTO {PURGED} ({columns}) SELECT {columns} FROM {LEDGER} WHERE {row}")
    rig.command(f"ALTER TABLE {LEDGER} DELETE WHERE {row}")
    monkeypatch.setattr("agentledger.sinks.verify_logs.PART_ROWS_MAX", 4)
    for asked in (["--all"], ["--run", "run-1"], ["--from", "2026-09-21T14:13:20.008"]):
        found = json.loads(cli("verify", *asked, "--json").out)
        assert [problem["kind"] for problem in found["problems"]] == ["missing"], asked
    assert found["rows_checked"] < found["rows"]  # the last one looks at leaves alone where the row was
