"""What a place for checkpoints must do, on a folder and on a bucket; and what all who follow outside must do."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from agentledger.schemas.checkpoints import Checkpoint
from agentledger.schemas.compact_range import CompactRange
from agentledger.schemas.errors import ConfigurationError, IntegrityError, StoreError
from agentledger.schemas.heads import Bundle, HeadsLog, KeyLine
from agentledger.schemas.merkle import hash_leaf
from agentledger.schemas.notes import SignerKey, VerifierKey, sign_note
from agentledger.sinks.chain import read_chain
from agentledger.sinks.checkpoint_places import CheckpointPlace, FolderPlace
from agentledger.sinks.cosignatures import check_witnesses, cosigners, read_witnesses
from agentledger.sinks.followers import (
    AWAY_US_MAX,
    RETRY_US,
    BucketCopies,
    Cosigning,
    Follower,
    FollowerPositions,
    Outside,
    consistency_since,
)
from agentledger.sinks.s3_place import S3Place, open_s3_place
from agentledger.sinks.witness_client import HttpWitness
from tests.witness_server import Witness, served

KEY = SignerKey("example.com/ledger", b"k" * 32)
AT_US = 1_790_000_000_000_000
NUMBER = itertools.count()


class Published:
    """A folder of checkpoints as a signer leaves it: each bundle hands over to a key, which is one leaf."""

    def __init__(self, folder: Path, salt: int = 0) -> None:
        self.place = FolderPlace(folder)
        self.heads = HeadsLog()
        self.keys = [KEY]
        self.salt = salt

    def grow(self, bundles: int = 1) -> None:
        for _ in range(bundles):
            number = len(self.keys) + 1000 * self.salt
            signers = self.keys[-1:] if self.heads.keys else []
            self.keys.append(SignerKey(KEY.name, number.to_bytes(32, "big")) if self.heads.keys else KEY)
            line = KeyLine(self.keys[-1].verifier, AT_US + len(self.keys)).line()
            tree = self.heads.tree.copy()
            tree.append(hash_leaf(line.encode()))
            note = sign_note(Checkpoint(KEY.name, tree.behind, tree.root()).text(), [*signers, self.keys[-1]])
            self.newest = Bundle(tree.behind - 1, (line,), note)
            self.heads.follow(self.newest)
            assert self.place.publish(self.newest.first, self.newest.text())


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A client of an S3 that enforces object lock, in this process."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", aws_access_key_id="x",
        aws_secret_access_key="y",
    )  # fmt: skip
    yield client
    client.close()
    server.stop()


def bucket(s3: Any, *, is_locked: bool = True) -> str:
    name = f"checkpoints-{next(NUMBER)}"
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=is_locked)
    return name


@pytest.fixture(params=["folder", "bucket"])
def open_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], CheckpointPlace]:
    """Opens the same place again each time."""
    if request.param == "folder":
        return lambda: FolderPlace(tmp_path / "place")
    client = request.getfixturevalue("s3")
    name = bucket(client)
    return lambda: S3Place(client, name, "ledger", 30)


def test_a_place_takes_each_name_once(open_place: Callable[[], CheckpointPlace]) -> None:
    place = open_place()
    assert place.read(7) is None
    assert place.publish(7, "one\n")
    assert place.publish(7, "one\n")
    assert not place.publish(7, "two\n")
    assert not open_place().publish(7, "")
    assert open_place().read(7) == "one\n"
    assert open_place().read(70) is None
    assert place.publish(70, "é\n")
    assert open_place().read(70) == "é\n"


def test_nobody_takes_a_copy_out_of_the_bucket(s3: Any) -> None:
    name = bucket(s3)
    place = S3Place(s3, name, "/a/b/", 30, now=lambda: datetime.now(UTC))
    assert place.publish(0, "first\n")
    [version] = s3.list_object_versions(Bucket=name)["Versions"]
    assert version["Key"] == "a/b/000000000000/0000000000000000.checkpoint"
    named = {"Bucket": name, "Key": version["Key"], "VersionId": version["VersionId"]}
    kept = s3.head_object(**named)
    assert kept["ObjectLockMode"] == "COMPLIANCE"
    assert 29 <= (kept["ObjectLockRetainUntilDate"] - datetime.now(UTC)).days <= 30
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.delete_object(**named, BypassGovernanceRetention=True)


def test_what_is_laid_over_a_copy_hides_nothing(s3: Any) -> None:
    name = bucket(s3)
    place = S3Place(s3, name, "", 30)
    assert place.publish(0, "first\n")
    key = s3.list_object_versions(Bucket=name)["Versions"][0]["Key"]
    s3.put_object(Bucket=name, Key=key, Body=b"forged\n")
    assert place.read(0) == "first\n"
    s3.delete_object(Bucket=name, Key=key)
    assert place.read(0) == "first\n"
    assert place.publish(0, "first\n")
    assert not place.publish(0, "forged\n")


def test_a_bucket_without_lock_is_refused(s3: Any) -> None:
    with pytest.raises(ConfigurationError, match="has no object lock"):
        S3Place(s3, bucket(s3, is_locked=False), "", 30).publish(0, "x")
    with pytest.raises(StoreError, match="NoSuchBucket"):
        S3Place(s3, "no-such-bucket", "", 30).publish(0, "x")


def test_what_is_no_bucket_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for url in ("bucket", "s3://", "http://bucket/x"):
        with pytest.raises(ConfigurationError, match="is no bucket"):
            open_s3_place(url, retention_days=1)
    with pytest.raises(ConfigurationError, match="can't be used"):
        open_s3_place("s3://b", endpoint="nowhere", retention_days=1)
    assert open_s3_place("s3://b/c/", endpoint="http://127.0.0.1:9", retention_days=1).name == "s3://b/c/"


@dataclass
class Rig:
    """A signer's folder, and somebody outside who follows it."""

    published: Published
    outside: Callable[[FolderPlace], Outside]
    size: Callable[[], int]  # how far the outside has come
    now_us: int = AT_US

    def __post_init__(self) -> None:
        self.alerts: list[tuple[str, str, int, bool]] = []
        self.follower = self.open()

    def open(self, position: CompactRange | None = None) -> Follower:
        return Follower(
            self.outside(self.published.place), position or CompactRange(), lambda: self.now_us,
            lambda *alert: self.alerts.append(alert),
        )  # fmt: skip

    def follow(self, follower: Follower | None = None) -> bool:
        one = self.published
        return (follower or self.follower).follow(one.place, one.newest, one.heads.tree)


@pytest.fixture(params=["bucket", "witness"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    published = Published(tmp_path / "checkpoints")
    published.grow(3)
    if request.param == "bucket":
        client = request.getfixturevalue("s3")
        place = S3Place(client, bucket(client), "", 30)

        def stored() -> int:
            return next(size for size in itertools.count() if place.read(size) is None)

        yield Rig(published, lambda _: BucketCopies(place), stored)
        return
    witness = make_witness()
    with served(witness) as url:
        yield Rig(
            published, lambda folder: Cosigning(HttpWitness(url, witness.key), folder),
            lambda: witness.seen[KEY.name].size if witness.seen else 0,
        )  # fmt: skip


def make_witness() -> Witness:
    numbers = (*range(20), *range(1000, 1020))
    known = [KEY.verifier, *(SignerKey(KEY.name, number.to_bytes(32, "big")).verifier for number in numbers)]
    return Witness(SignerKey("witness.example/w", b"w" * 32), {KEY.name: known})


def test_it_follows_each_checkpoint(rig: Rig) -> None:
    assert rig.follow()
    assert rig.size() == 3
    assert not rig.follow()
    for _ in range(5):
        rig.published.grow()
        assert rig.follow()
        assert rig.size() == rig.published.newest.size == rig.follower.position.behind
    rig.published.grow(4)
    assert rig.follow()
    assert rig.size() == 12
    assert rig.follower.position == rig.published.heads.tree
    assert rig.alerts == []


def test_a_signer_that_starts_again_goes_on(rig: Rig, tmp_path: Path) -> None:
    rig.follow()
    kept = FollowerPositions(tmp_path)
    assert kept.load() == {}
    kept.save([rig.follower])
    rig.published.grow(2)
    again = rig.open(kept.load()[rig.follower.name])
    assert again.position.behind == 3
    assert rig.follow(again)
    assert rig.size() == 5
    forgetful = rig.open()
    rig.published.grow(2)
    assert rig.follow(forgetful)
    assert rig.size() == 7
    wrong = CompactRange(0, 6, [b"x" * 32] * 2)
    confused = rig.open(wrong)
    rig.published.grow(1)
    rig.follow(confused)
    rig.follow(confused)
    assert rig.size() == 8


def test_one_that_is_away_is_tried_again_and_missed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = rig.follower._outside

    def away(*_: Any) -> None:
        raise StoreError("it is away")

    with monkeypatch.context() as patched:
        patched.setattr(type(outside), "take", away)
        assert not rig.follow()
    assert not rig.follow(), "it isn't tried again at once"
    rig.now_us += RETRY_US
    with monkeypatch.context() as patched:
        patched.setattr(type(outside), "take", away)
        for _ in range(1 + AWAY_US_MAX // RETRY_US * 2):
            rig.follow()
            rig.now_us += RETRY_US
    [(name, what, since_us, is_back)] = rig.alerts
    assert (name, since_us, is_back) == (rig.follower.name, AT_US, False)
    assert "has not followed for ten minutes: it is away" in what
    assert rig.follow()
    assert rig.size() == 3
    assert [alert[2:] for alert in rig.alerts[1:]] == [(AT_US, True)]


def test_another_history_stops_the_signer(rig: Rig, tmp_path: Path) -> None:
    rig.follow()
    fork = Published(tmp_path / "fork", salt=1)
    fork.grow(4)
    rig.published = fork
    for position in (None, rig.follower.position):
        with pytest.raises(IntegrityError, match=r"another|forked"):
            rig.follow(rig.open(position))
    assert rig.size() == 3


def test_a_folder_that_was_rolled_back_stops_the_signer(tmp_path: Path) -> None:
    published = Published(tmp_path / "checkpoints")
    published.grow(5)
    witness = make_witness()
    with served(witness) as url:
        rig = Rig(published, lambda folder: Cosigning(HttpWitness(url, witness.key), folder), lambda: 0)
        rig.follow()
        rolled_back = Published(tmp_path / "old")
        rolled_back.grow(3)
        rig.published = rolled_back
        with pytest.raises(IntegrityError, match="has seen a checkpoint of size 5, and ours end at 3"):
            rig.follow(rig.open())


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ((404, "unknown log\n"), "it doesn't know this ledger"),
        ((403, ""), "it doesn't know the key"),
        ((500, "oops"), "it refuses (500) oops"),
        ((302, ""), "it refuses (302)"),
        ((409, "many\n"), "a size is a decimal number"),
        ((200, ""), "doesn't sign"),
        ((200, "— witness.example/w AAAA\n"), "too short"),
        ((200, "x" * 20_000), "its answer is too long"),
    ],
)
def test_a_witness_that_does_not_sign(answer: tuple[int, str], line: str, tmp_path: Path) -> None:
    class Odd:
        def add_checkpoint(self, _body: str) -> tuple[int, str]:
            return answer

    published = Published(tmp_path)
    published.grow(1)
    with served(Odd()) as url, pytest.raises(StoreError) as failed:
        HttpWitness(url, make_witness().key).add_checkpoint(0, [], published.newest.note)
    assert line in str(failed.value)
    assert not (list(tmp_path.rglob("*.cosignatures")))


def test_a_witness_whose_signature_is_of_something_else(tmp_path: Path) -> None:
    published, witness = Published(tmp_path), make_witness()
    published.grow(1)

    class Wrong:
        def add_checkpoint(self, _body: str) -> tuple[int, str]:
            return 200, witness.cosign("other\n1\nAAAA\n")

    with served(Wrong()) as url, pytest.raises(StoreError, match="does not fit the text"):
        HttpWitness(url, witness.key).add_checkpoint(0, [], published.newest.note)


def test_a_witness_over_the_network_needs_tls_and_the_right_key() -> None:
    good = make_witness().key
    HttpWitness("https://witness.example/x", good)
    for url, key in (
        ("http://witness.example/x", good),
        ("ftp://127.0.0.1/", good),
        ("https://w.example", KEY.verifier),
    ):
        with pytest.raises(ConfigurationError, match="can't be a witness"):
            HttpWitness(url, key)


def test_the_proof_for_a_witness_is_that_of_the_tree() -> None:
    from agentledger.schemas.merkle import verify_consistency

    leaves = [hash_leaf(bytes([number])) for number in range(70)]
    for old in range(1, 70):
        since = CompactRange()
        since.extend(leaves[:old])
        for new in (old, old + 1, old + 2, old + 7, 70):
            if new <= 70:
                tree = CompactRange()
                tree.extend(leaves[:new])
                verify_consistency(old, new, consistency_since(since, leaves[old:new]), since.root(), tree.root())


def test_verify_asks_for_witnesses(tmp_path: Path) -> None:
    published, witness = Published(tmp_path), make_witness()
    published.grow(3)
    other = VerifierKey("other.example/w", witness.key.public, witness.key.kind)

    def found(keys: list[VerifierKey], at_least: int) -> tuple[int, list[str]]:
        chain, problems = read_chain(tmp_path, [KEY.verifier])
        assert problems == []
        size, wrong = check_witnesses(tmp_path, chain, keys, at_least)
        return size, [problem.line() for problem in wrong]

    assert "no checkpoint is signed by 1 of 1 witnesses" in found([witness.key], 1)[1][0]
    with served(witness) as url:
        rig = Rig(published, lambda folder: Cosigning(HttpWitness(url, witness.key), folder), lambda: 0)
        rig.follow()
    assert cosigners(published.place, published.newest, [other, witness.key]) == [witness.key]
    published.grow()
    assert found([witness.key, other], 1) == (3, [])
    assert "no checkpoint is signed by 2 of 2 witnesses" in found([witness.key, other], 2)[1][0]
    path = next(tmp_path.rglob("*.cosignatures"))
    path.write_text(path.read_text("utf-8").replace("witness.example/w AA", "witness.example/w AB"), "utf-8")
    kept = path.read_text("utf-8")
    line = kept[:-8] + ("A" if kept[-8] != "A" else "B") + kept[-7:]
    path.write_text(line, "utf-8")
    assert "a cosignature doesn't hold" in found([witness.key], 1)[1][0]


def test_witnesses_are_read_from_a_file(tmp_path: Path) -> None:
    path, key = tmp_path / "witnesses", make_witness().key
    path.write_text(f"# whom we trust\n\n{key} https://w.example/x\n{key}\n", "utf-8")
    assert read_witnesses(path) == [(key, "https://w.example/x"), (key, "")]
    for wrong in ("", "# none\n", "x\n", f"{KEY.verifier}\n", f"{key} a b\n"):
        path.write_text(wrong, "utf-8")
        with pytest.raises(ConfigurationError, match="witness"):
            read_witnesses(path)
