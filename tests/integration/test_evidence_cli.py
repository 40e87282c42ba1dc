"""`agentledger keys`, `signer`, `verify`, `proof` and `verify-proof` as somebody calls them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
from confluent_kafka import Producer
from moto.server import ThreadedMotoServer

from agentledger.infra.cli import main
from agentledger.schemas.notes import SignerKey, VerifierKey
from agentledger.sinks.tables import BATCHES, LEDGER
from tests.evidence_rig import EvidenceRig
from tests.witness_server import Witness, served

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
    for table in (LEDGER, BATCHES):
        rig.command(f"TRUNCATE TABLE {table}")
    rig.places.clear()
    broker = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    (address,) = broker.list_topics(timeout=10).brokers.values()
    monkeypatch.setenv("AGENTLEDGER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("AGENTLEDGER_CLICKHOUSE_URL", rig.url)
    monkeypatch.setenv("AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS", f"{address.host}:{address.port}")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        printed = capsys.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, printed.out, printed.err)

    yield call
    broker.flush(1)


def first_event(rig: EvidenceRig) -> str:
    """An event's id, with others before and behind it in its log."""
    return str(rig.rows(f"SELECT toString(event_id) FROM {LEDGER} WHERE log_index = 2")[0][0])


def test_from_a_key_to_a_proof_in_an_empty_folder(rig: EvidenceRig, cli: Cli, tmp_path: Path) -> None:
    made = cli("keys", "new", "example.com/ledger")
    assert made.code == 0
    key = made.out.splitlines()[0]
    assert re.fullmatch(r"example\.com/ledger\+[0-9a-f]{8}\+\S+", key)
    assert (tmp_path / "signer" / "signer.key").stat().st_mode & 0o077 == 0
    assert cli("keys", "new").code == 2
    assert cli("keys", "show").out.strip() == key
    rig.write(rig.place(), rig.events(9))
    assert "signed a checkpoint of size 3" in cli("signer", "--once").out
    assert "nothing new to sign" in cli("signer", "--once").out

    verified = cli("verify", "--all")
    assert verified.code == 0, verified.out
    assert verified.out.startswith("VERIFIED: 1 logs, 9 rows (9 checked byte by byte), 1 signed heads rebuilt")
    assert "9/9 rows" in verified.err

    event_id = first_event(rig)
    proven = cli("proof", event_id)
    assert proven.code == 0, proven.err
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    proof = (tmp_path / f"{event_id}.tlog-proof").rename(elsewhere / "p")
    assert proof.read_text("utf-8").startswith("c2sp.org/tlog-proof@v1\nextra ")
    checked = cli("verify-proof", str(proof), "--key", key)
    assert checked.code == 0, checked.err
    assert checked.out.startswith(f"PROVEN: event {event_id} is in the ledger of example.com/ledger")
    facts = json.loads(cli("verify-proof", str(proof), "--key", key, "--json").out)
    assert (facts["proven"], facts["log_index"], facts["partition"]) == (True, 2, 0)


def test_a_proof_without_its_value_and_one_that_was_edited(rig: EvidenceRig, cli: Cli, tmp_path: Path) -> None:
    key = cli("keys", "new", "example.com/ledger").out.splitlines()[0]
    rig.write(rig.place(), rig.events(9))
    cli("signer", "--once")
    event_id = first_event(rig)
    cli("proof", event_id, "--without-value", "--out", "short")
    cli("proof", event_id, "--out", "long")
    short, long = (tmp_path / name for name in ("short", "long"))
    assert len(short.read_bytes()) < len(long.read_bytes())
    assert json.loads(cli("verify-proof", "short", "--key", key, "--json").out)["value_bytes"] is None
    text = short.read_text("utf-8")
    for place in range(0, len(text) - 1, 37):
        char = "A" if text[place] != "A" else "B"
        short.write_text(text[:place] + char + text[place + 1 :], "utf-8")
        done = cli("verify-proof", "short", "--key", key)
        assert done.code == 1, text[place - 20 : place + 20]
        assert done.err.startswith("agentledger: ")
        assert done.err.count("\n") == 1
    rotated = cli("keys", "rotate").out.strip()
    assert cli("verify-proof", "long", "--key", rotated).code == 1
    assert cli("keys", "show").out.splitlines() == [key, rotated]
    rig.write(rig.place(), rig.events(2))
    assert cli("signer", "--once").code == 0
    assert cli("verify", "--all").code == 0


def test_what_is_found_has_a_line_and_the_exit_code_1(rig: EvidenceRig, cli: Cli) -> None:
    cli("keys", "new", "example.com/ledger")
    rig.write(rig.place(), rig.events(9))
    cli("signer", "--once")
    rig.command(f"ALTER TABLE {LEDGER} UPDATE agent_version = 'v9' WHERE log_index = 4")
    changed = cli("verify", "--all")
    assert changed.code == 1
    assert changed.out.splitlines()[0].startswith(
        "COLUMN agentledger.events.v1/0 index 4: column agent_version is 'v9'"
    )
    assert changed.out.splitlines()[-1].startswith("CHANGED: 1 problems: 1 logs, 9 rows")
    report = json.loads(cli("verify", "--all", "--json").out)
    assert report["verified"] is False
    assert report["problems"][0]["kind"] == "column"
    assert report["problems"][0]["log_index"] == 4
    for table in (LEDGER, BATCHES):
        rig.command(f"TRUNCATE TABLE {table}")
    rig.write(rig.place(), rig.events(8))
    refused = cli("signer", "--once")
    assert refused.code == 3
    assert "9 rows were signed, and 8 are there: the ledger was rolled back" in refused.err


def test_a_range_a_run_and_what_came_since_a_checkpoint(rig: EvidenceRig, cli: Cli, tmp_path: Path) -> None:
    cli("keys", "new", "example.com/ledger")
    rig.write(rig.place(), rig.events(9))
    cli("signer", "--once")
    [held] = tmp_path.glob("checkpoints/*/*.checkpoint")
    rig.write(rig.place(), rig.events(3))
    cli("signer", "--once")
    [(run_id, time)] = rig.rows(
        f"SELECT run_id, formatDateTime(ledger_time, '%FT%T') FROM {LEDGER} WHERE log_index = 2"
    )
    for selected in (["--run", run_id], ["--from", time], ["--from", "2026-01-01", "--to", "2027-01-01"]):
        done = cli("verify", *selected)
        assert done.code == 0, done.out + done.err
        assert "12 rows (12 checked byte by byte)" in done.out
    since = cli("verify", "--since-checkpoint", str(held))
    assert (since.code, since.out.startswith("VERIFIED")) == (0, True)
    rig.command(f"ALTER TABLE {LEDGER} UPDATE run_id = 'x' WHERE log_index = 10")
    assert cli("verify", "--since-checkpoint", str(held)).code == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["verify"], "say what to check"),
        (["verify", "--from", "2026-02-01", "--to", "2026-01-01"], "--from must be earlier than --to"),
        (["verify", "--from", "yesterday"], "--from 'yesterday' is no time"),
        (["verify", "--from", "2031-01-01"], "nothing to check: no row of the ledger is in this range"),
        (["verify", "--run", "' OR 1 = 1 --\x00%_"], "nothing to check"),
        (["proof", "00000000-0000-7000-8000-000000000000"], "no event has the id"),
        (["proof", "' OR 1 = 1 --"], "is no event id"),
    ],
)
def test_what_cannot_be_asked_has_one_clear_line(rig: EvidenceRig, cli: Cli, arguments: list[str], line: str) -> None:
    cli("keys", "new", "example.com/ledger")
    rig.write(rig.place(), rig.events(3))
    cli("signer", "--once")
    done = cli(*arguments)
    assert done.code == 2
    message = done.err.splitlines()[-1]
    assert message.startswith("agentledger: ")
    assert line in message


def test_without_keys_and_without_checkpoints(cli: Cli) -> None:
    done = cli("verify", "--all")
    assert done.code == 2
    assert "the public keys can't be read" in done.err
    assert "agentledger keys new" in cli("signer", "--once").err
    cli("keys", "new", "example.com/ledger")
    done = cli("verify", "--all")
    assert done.code == 2
    assert "there are no signed checkpoints to compare with" in done.err


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket with object lock, named in the settings."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y", "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AGENTLEDGER_CHECKPOINTS_BUCKET", "s3://heads/ledger")
    monkeypatch.setenv("AGENTLEDGER_CHECKPOINTS_BUCKET_ENDPOINT", f"http://{host}:{port}")
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket="heads", ObjectLockEnabledForBucket=True)
    client.create_bucket(Bucket="unlocked")
    yield client
    client.close()
    server.stop()


def test_a_bucket_and_witnesses_follow_as_the_settings_say(
    rig: EvidenceRig, cli: Cli, tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger_key = VerifierKey.parse(cli("keys", "new", "example.com/ledger").out.splitlines()[0])
    one, other = (
        Witness(SignerKey.generate(f"witness.example/{name}"), {ledger_key.name: [ledger_key]})
        for name in ("one", "other")
    )
    file = tmp_path / "witnesses"
    monkeypatch.setenv("AGENTLEDGER_WITNESSES_FILE", str(file))
    with served(one) as url:
        file.write_text(f"# who cosigns\n{one.key} {url}\n", "utf-8")
        for count in (5, 3):
            rig.write(rig.place(), rig.events(count))
            assert cli("signer", "--once").out.startswith("signed a checkpoint")
    assert one.seen[ledger_key.name].size == 4

    copies = tmp_path / "copies"
    for found in bucket.list_objects_v2(Bucket="heads")["Contents"]:
        path = copies / found["Key"].removeprefix("ledger/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.get_object(Bucket="heads", Key=found["Key"])["Body"].read())
    assert len(list(copies.glob("*/*.checkpoint"))) == 2
    assert cli("verify", "--all", "--checkpoints", str(copies)).code == 0

    file.write_text(f"{one.key}\n{other.key}\n", "utf-8")
    enough = cli("verify", "--all", "--witnesses", str(file), "--witnesses-min", "1")
    assert enough.code == 0, enough.out
    assert "the witnesses signed up to size 4 of the log of heads" in enough.out
    lacking = cli("verify", "--all", "--witnesses", str(file))
    assert lacking.code == 1
    assert re.match(r"WITNESS .*no checkpoint is signed by 2 of 2 witnesses", lacking.out)
    assert "--witnesses-min 3, and --witnesses names 2" in cli(
        "verify", "--all", "--witnesses", str(file), "--witnesses-min", "3"
    ).err  # fmt: skip


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("CHECKPOINTS_BUCKET=heads", "'heads' is no bucket: write it as s3://BUCKET"),
        ("CHECKPOINTS_BUCKET_ENDPOINT=nowhere", "the bucket can't be used"),
        ("CHECKPOINTS_BUCKET_RETENTION_DAYS=0", "greater than or equal to 1"),
        ("WITNESSES_FILE=no-such-file", "the witnesses can't be read"),
    ],
)
def test_a_follower_that_is_set_wrongly_has_one_clear_line(
    rig: EvidenceRig, cli: Cli, monkeypatch: pytest.MonkeyPatch, setting: str, line: str
) -> None:
    cli("keys", "new", "example.com/ledger")
    rig.write(rig.place(), rig.events(3))
    name, _, value = setting.partition("=")
    monkeypatch.setenv(f"AGENTLEDGER_{name}", value)
    done = cli("signer", "--once")
    assert done.code == 2, done.out + done.err
    assert line in done.err.splitlines()[-1]
    assert done.err.splitlines()[-1].startswith("agentledger: ")


def test_a_bucket_that_locks_nothing_is_no_place_and_holds_nothing_up(
    rig: EvidenceRig, cli: Cli, bucket: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cli("keys", "new", "example.com/ledger")
    rig.write(rig.place(), rig.events(3))
    monkeypatch.setenv("AGENTLEDGER_CHECKPOINTS_BUCKET", "s3://unlocked")
    assert cli("signer", "--once").out.startswith("signed a checkpoint")
    assert "signing goes on without s3://unlocked/: the bucket for checkpoints has no object lock" in caplog.text
    assert bucket.list_objects_v2(Bucket="unlocked")["KeyCount"] == 0
