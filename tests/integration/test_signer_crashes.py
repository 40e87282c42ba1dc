"""A signer that is killed (SIGKILL) before each thing it does to a file, and one that has no disk, no place, no server:
it goes on, nothing is signed twice or wrongly, and every checkpoint is told of once.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from agentledger.schemas import Codec
from agentledger.schemas.errors import ConfigurationError, IntegrityError, StoreError
from agentledger.schemas.events import AlertRaised, CheckpointSigned
from agentledger.schemas.topics import ALERTS, INTEGRITY
from agentledger.sinks.chain import read_chain
from agentledger.sinks.checkpoint_places import FolderPlace
from agentledger.sinks.key_files import KeyFolder
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.signing import SignerConfig, SignerProgram, sign_once
from agentledger.sinks.tables import BATCHES, LEDGER
from agentledger.sinks.verify import Verification, VerifyRequest
from tests.evidence_rig import REGISTRY, EvidenceRig

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

STEPS_MAX = 40  # more file operations than one signing has
# Kills itself before the Nth operation on a file in the signer's folders. What is not yet on disk is not lost by that:
# a crash of the machine is for the fsyncs, which the order of operations can't show.
CHILD = """
import json, os, signal, sys
from pathlib import Path
from agentledger.sinks.signing import SignerConfig, sign_once

given = json.loads(sys.argv[1])
folder, left = given.pop("folder"), [given.pop("kill_at")]
paths = {name: Path(folder, given.pop(name)) for name in ("keys_dir", "state_path", "checkpoints_dir")}
WATCHED = {"open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.chmod"}

def hook(name, args):
    if name in WATCHED and folder in str(args[0]):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

config = SignerConfig(**given, **paths)
sys.addaudithook(hook)
print(sign_once(config))
"""


class Signing:
    """A ledger of one log, a broker, and the folders of a signer."""

    def __init__(self, rig: EvidenceRig, folder: Path) -> None:
        self.rig, self.folder = rig, folder
        for table in (LEDGER, BATCHES):
            rig.command(f"TRUNCATE TABLE {table}")
        rig.places.clear()
        self.log = rig.place()
        rig.write(self.log, rig.events(5))
        self._broker = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        (broker,) = self._broker.list_topics(timeout=10).brokers.values()
        self.kafka = {"bootstrap.servers": f"{broker.host}:{broker.port}"}
        self.keys = KeyFolder(folder / "keys")
        self.keys.new("example.com/ledger")
        self.config = SignerConfig(
            kafka=self.kafka, clickhouse_url=rig.url, keys_dir=folder / "keys", state_path=folder / "state",
            checkpoints_dir=folder / "checkpoints",
        )  # fmt: skip

    def killed_at(self, step: int) -> bool:
        """Sign in a process that is killed at this step; whether it came so far."""
        given = {"kafka": self.kafka, "clickhouse_url": self.rig.url, "folder": str(self.folder), "kill_at": step,
                 "keys_dir": "keys", "state_path": "state", "checkpoints_dir": "checkpoints"}  # fmt: skip
        done = subprocess.run([sys.executable, "-c", CHILD, json.dumps(given)], capture_output=True, check=False)
        assert done.returncode in {0, -signal.SIGKILL}, done.stderr.decode()
        return done.returncode != 0

    def told(self, topic: str) -> list[Any]:
        """The events on a topic, each once, in the order in which they came first."""
        consumer = Consumer({**self.kafka, "group.id": "test", "enable.partition.eof": False})
        events: dict[str, Any] = {}
        with contextlib.closing(consumer):
            known = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            for partition in known:
                _, behind = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
                consumer.assign([TopicPartition(topic, partition, 0)])
                for _ in range(behind):
                    message = consumer.poll(10)
                    assert message is not None
                    event = Codec(REGISTRY).decode(message.value())
                    assert events.setdefault(event.event_id, event) == event
        return list(events.values())

    def problems(self) -> list[str]:
        """What a verifier finds."""
        request = VerifyRequest(self.folder / "checkpoints", self.keys.public())
        verification = Verification(ClickHouseLeafReader(self.rig.url), REGISTRY, request)
        return [problem.line() for problem in verification.run(lambda _: None, lambda _: None).problems]


@pytest.fixture
def signing(rig: EvidenceRig, tmp_path: Path) -> Signing:
    return Signing(rig, tmp_path)


def test_a_signer_killed_at_every_step_goes_on(signing: Signing) -> None:
    killed = 0
    for step in itertools.count(1):
        assert step < STEPS_MAX
        signing.rig.write(signing.log, signing.rig.events(2))
        if not signing.killed_at(step):
            break
        killed += 1
        sign_once(signing.config)  # without that, the next would be the same
    assert killed > 8
    assert signing.problems() == []
    chain, problems = read_chain(signing.folder / "checkpoints", signing.keys.public())
    assert problems == []
    assert chain.heads[next(iter(chain.heads))][-1].size == 5 + 2 * (killed + 1)
    told = signing.told(INTEGRITY.name)
    assert all(isinstance(event, CheckpointSigned) for event in told)
    assert sorted(event.producer_seq for event in told) == list(range(len(chain.bundles)))
    assert [event.checkpoint for event in sorted(told, key=lambda event: event.producer_seq)] == [
        bundle.note for bundle in chain.bundles
    ]
    left_over = [path for path in signing.folder.rglob(".*") if path.is_file()]
    assert len(left_over) <= 2 * killed  # what a killed one had begun; never one that counts


def test_two_signers_in_processes_of_their_own_give_one_history(signing: Signing) -> None:
    other = signing.folder / "other"
    second = SignerConfig(
        kafka=signing.kafka, clickhouse_url=signing.rig.url, keys_dir=signing.folder / "keys",
        state_path=other / "state", checkpoints_dir=signing.folder / "checkpoints",
    )  # fmt: skip
    with contextlib.closing(SignerProgram(signing.config)) as one, contextlib.closing(SignerProgram(second)) as two:
        signed = []
        for turn in range(6):
            signing.rig.write(signing.log, signing.rig.events(1))
            pair = (one, two) if turn % 2 else (two, one)
            signed += [bundle for program in pair if (bundle := program.step()) is not None]
    assert len(signed) == 6
    assert signing.problems() == []
    assert sorted(event.producer_seq for event in signing.told(INTEGRITY.name)) == list(range(6))


def test_two_signers_on_one_state_file(signing: Signing) -> None:
    with (
        contextlib.closing(SignerProgram(signing.config)),
        pytest.raises(ConfigurationError, match="another signer works with this state file"),
    ):
        SignerProgram(signing.config)
    sign_once(signing.config)


def test_no_room_for_the_state(signing: Signing, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_once(signing.config)
    signing.rig.write(signing.log, signing.rig.events(2))
    with monkeypatch.context() as patch:
        patch.setattr("agentledger.sinks.signer_state.write_private", _full)
        with pytest.raises(OSError, match="No space left"):
            sign_once(signing.config)
    assert sign_once(signing.config) is None  # it was published, and is only taken note of
    signing.rig.write(signing.log, signing.rig.events(2))
    assert sign_once(signing.config) is not None
    assert signing.problems() == []
    assert len(signing.told(INTEGRITY.name)) == 3


def test_no_room_at_the_place(signing: Signing, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("agentledger.sinks.checkpoint_places.os.link", _full)
        with pytest.raises(StoreError, match="a checkpoint can't be written: No space left"):
            sign_once(signing.config)
    assert list(FolderPlace(signing.folder / "checkpoints").files()) == []
    assert sign_once(signing.config) is not None
    assert signing.problems() == []


def test_no_clickhouse_in_the_middle(signing: Signing, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ClickHouseLeafReader, "leaves", _gone)
        with pytest.raises(StoreError, match="gone"):
            sign_once(signing.config)
    assert list(FolderPlace(signing.folder / "checkpoints").files()) == []
    assert sign_once(signing.config) is not None


def test_a_refusal_is_an_alert_once(signing: Signing) -> None:
    sign_once(signing.config)
    signing.rig.command(f"TRUNCATE TABLE {LEDGER}")
    signing.rig.command(f"TRUNCATE TABLE {BATCHES}")
    for _ in range(2):
        with pytest.raises(IntegrityError, match="the log has vanished"):
            sign_once(signing.config)
    [alert] = signing.told(ALERTS.name)
    assert isinstance(alert, AlertRaised)
    assert (alert.severity, alert.scope_value) == ("critical", "example.com/ledger")
    assert "the log has vanished" in alert.summary


def _full(*_args: object) -> None:
    raise OSError(28, "No space left on device")


def _gone(*_args: object) -> None:
    raise StoreError("ClickHouse: gone")
