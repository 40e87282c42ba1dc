"""Somebody with every right on ClickHouse, and with a hand in the signer's folders, changes the trail: it is found, by
`verify` or by the signer, with the line that says where. An untouched ledger never gives a line.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agentledger.schemas.compact_range import CompactRange
from agentledger.schemas.errors import IntegrityError
from agentledger.schemas.event_proof import verify_event_proof
from agentledger.schemas.heads import Bundle, LogId, TopicLine
from agentledger.schemas.notes import sign_note
from agentledger.sinks import leaves as leaves_module
from agentledger.sinks import proofs as proofs_module
from agentledger.sinks import verify as verify_module
from agentledger.sinks.chain import read_chain
from agentledger.sinks.checkpoint_places import FolderPlace
from agentledger.sinks.key_files import KeyFolder
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.proofs import prove_event
from agentledger.sinks.signer import Signer
from agentledger.sinks.signer_state import SignerState
from agentledger.sinks.tables import BATCHES, LEDGER, typed_columns
from agentledger.sinks.verify import Verification, VerifyReport, VerifyRequest
from tests.evidence_rig import CODEC, NOW_US, REGISTRY, EvidenceRig, event

pytestmark = pytest.mark.integration

EVENTS, SPEND = "agentledger.events.v1", "agentledger.spend.v1"


class World:
    """A signed ledger of three logs, its signer's folders, and what a verifier holds."""

    def __init__(self, rig: EvidenceRig, folder: Path) -> None:
        self.rig = rig
        self.folder = folder
        self.keys = KeyFolder(folder / "keys")
        self.keys.new("example.com/ledger")
        self.place = FolderPlace(folder / "checkpoints")
        self.state_path = folder / "state"
        self.clock = itertools.count(NOW_US, 1_000_000)
        for table in (LEDGER, BATCHES):
            rig.command(f"TRUNCATE TABLE {table}")
        rig.places.clear()
        self.logs = [rig.place(EVENTS, 0), rig.place(EVENTS, 1), rig.place(SPEND, 0)]
        self.signer = self.new_signer()
        for _ in range(3):
            self.grow()

    def new_signer(self, **changes: Any) -> Signer:
        """A signer that starts from the state file."""
        state = SignerState.load(self.state_path, self.keys.public()) or SignerState()
        return Signer(
            ClickHouseLeafReader(self.rig.url), self.place, self.keys, state=state,
            save=lambda new: new.save(self.state_path, self.keys.active()), clock=lambda: next(self.clock), **changes,
        )  # fmt: skip

    def grow(self) -> None:
        """One more flush in each log, and a checkpoint over it."""
        self.rig.write_all({log: [*self.rig.events(8), b"junk", None] for log in self.logs})
        assert self.signer.step() is not None

    def verify(self, **changes: Any) -> VerifyReport:
        """What `agentledger verify --all` finds."""
        request = VerifyRequest(self.place.folder, self.keys.public(), **changes)
        reader = ClickHouseLeafReader(self.rig.url)
        return Verification(reader, REGISTRY, request).run(lambda _rows: None, lambda _rows: None)

    def lines(self, **changes: Any) -> list[str]:
        """The lines of the report."""
        return [problem.line() for problem in self.verify(**changes).problems]

    def at(self, log: int, index: int) -> str:
        """A condition for one row."""
        place = self.logs[log]
        return f"topic_id = '{place.topic_id}' AND partition = {place.partition} AND log_index = {index}"

    def update(self, what: str, where: str) -> None:
        """Change rows."""
        self.rig.command(f"ALTER TABLE {LEDGER} UPDATE {what} WHERE {where}")

    def refusal(self, signer: Signer | None = None) -> str:
        """What the signer says when it refuses."""
        before = list(self.place.files())
        with pytest.raises(IntegrityError) as caught:
            (signer or self.new_signer()).step()
        assert list(self.place.files()) == before
        return str(caught.value)


@pytest.fixture
def world(rig: EvidenceRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A signed ledger, as it is before anybody touches it."""
    monkeypatch.setattr(verify_module, "UNFINISHED_S_MAX", 1.5)
    return World(rig, tmp_path)


def only(lines: list[str], *parts: str) -> None:
    """There is one line, and it says all this."""
    assert len(lines) == 1, lines
    for part in parts:
        assert part in lines[0]


def test_an_untouched_ledger_gives_no_line(world: World) -> None:
    report = world.verify()
    assert report.problems == []
    assert (report.logs, report.rows, report.rows_checked, report.heads_checked) == (3, 90, 90, 9)
    assert report.unsigned_rows == 0
    world.rig.write(world.logs[0], world.rig.events(3))
    assert world.verify().unsigned_rows == 3
    assert world.lines() == []
    assert world.new_signer().step() is not None
    assert world.lines() == []


def test_one_byte_of_the_bytes(world: World) -> None:
    world.update("raw = concat(substring(raw, 1, length(raw) - 1), 'X')", world.at(0, 12))
    lines = world.lines()
    assert any(line.startswith(f"BYTES {EVENTS}/0 index 12: SHA-256 of the value is") for line in lines)
    assert all("index 12" in line for line in lines)


def test_one_byte_of_a_poison_record(world: World) -> None:
    world.update("raw = 'junK'", world.at(1, 8))
    only(world.lines(), f"BYTES {EVENTS}/1 index 8: SHA-256 of the value is", "expected")


def test_a_typed_column(world: World) -> None:
    world.update("run_id = 'run-of-another'", world.at(0, 3))
    only(world.lines(), f"COLUMN {EVENTS}/0 index 3", "column run_id is 'run-of-another', expected 'run-")


def test_a_typed_column_that_the_record_does_not_have(world: World) -> None:
    world.update("cost_nanousd = 5", world.at(2, 3))
    only(world.lines(), f"COLUMN {SPEND}/0 index 3", "doesn't have holds something")


def test_a_leaf_hash(world: World) -> None:
    world.update("leaf_hash = reverse(leaf_hash)", world.at(0, 17))
    only(world.lines(), f"LEAF {EVENTS}/0 index 17", "give the leaf", "expected")


def test_a_ledger_time_set_back(world: World) -> None:
    rig, where = world.rig, world.at(0, 14)
    rig.command("CREATE TABLE IF NOT EXISTS agentledger.held AS agentledger.ledger ENGINE = Memory")
    rig.command("TRUNCATE TABLE agentledger.held")
    rig.command(f"INSERT INTO agentledger.held SELECT * REPLACE (ledger_time - INTERVAL 1 DAY AS ledger_time) "
                f"FROM {LEDGER} WHERE {where}")  # fmt: skip
    rig.command(f"ALTER TABLE {LEDGER} DELETE WHERE {where}")
    rig.command(f"INSERT INTO {LEDGER} SELECT * FROM agentledger.held")
    only(world.lines(), f"LEAF {EVENTS}/0 index 14", "the row's fields and bytes give the leaf")


def test_an_event_rewritten_with_all_its_hashes(world: World) -> None:
    place = world.logs[0]
    rows = world.rig.rows(
        f"SELECT offset, log_index, toUnixTimestamp64Micro(ledger_time), raw, hex(schema_sha256), hex(key_sha256), "
        f"hex(headers_sha256) FROM (SELECT * REPLACE (hex(raw) AS raw) FROM {LEDGER}) WHERE {world.at(0, 13)}"
    )
    from hashlib import sha256

    from agentledger.schemas.hashing import LeafHasher

    offset, index, time_us, raw, *hashes = rows[0]
    forged = bytes.fromhex(raw)[:-1] + b"Z"
    schema, key, headers = (bytes.fromhex(one) for one in hashes)
    hasher = LeafHasher(bytes.fromhex(place.topic_id.replace("-", "")), place.partition)
    value_hash = sha256(forged).digest()
    leaf = hasher.leaf(offset, index, time_us, forged[6:42], schema, key, headers, value_hash)
    world.update(
        f"raw = unhex('{forged.hex()}'), value_sha256 = unhex('{value_hash.hex()}'), leaf_hash = unhex('{leaf.hex()}')",
        world.at(0, 13),
    )
    lines = world.lines()
    assert any(
        line.startswith(f"ROOT {EVENTS}/0 index 19: rows 10 to 19 are not those that were signed: expected root")
        for line in lines
    )
    assert all(f"{EVENTS}/0" in line for line in lines)


def test_an_event_hidden_as_a_duplicate(world: World) -> None:
    world.update("occurrence = 'duplicate'", world.at(0, 2))
    only(world.lines(), f"OCCURRENCE {EVENTS}/0 index 2", "0 rows marked first, expected 1")


def test_the_later_of_two_conflicting_events_made_the_one_that_counts(world: World) -> None:
    first = event(50_000, agent_version="1")
    other = CODEC.encode(dataclasses.replace(first, agent_version="2"))
    world.rig.write(world.logs[0], [CODEC.encode(first), other, CODEC.encode(first)])
    assert world.lines() == []
    where = f"event_id = '{first.event_id}'"
    world.update("occurrence = if(log_index = 31, 'first', 'conflict')", where)
    only(world.lines(), f"OCCURRENCE {EVENTS}/0 index 31", "marked first here, and 1 of its rows are before")
    world.update("occurrence = if(log_index = 30, 'first', 'conflict')", where)
    only(world.lines(), f"OCCURRENCE {EVENTS}/0 index 30", "1 rows whose occurrence is not what their bytes say")


def test_an_event_hidden_as_unreadable(world: World) -> None:
    world.update("event_type = '', poison_reason = 'unreadable'", world.at(0, 2))
    lines = world.lines()
    assert any(
        line.startswith(f"TYPE {EVENTS}/0 index 2: the bytes can be read as a RunStarted, the row says unreadable")
        for line in lines
    )
    assert all("index 2:" in line for line in lines)


def test_an_event_hidden_as_unreadable_with_all_its_columns_emptied(world: World) -> None:
    emptied = ", ".join(
        f"`{name}` = defaultValueOfTypeName('{column.type.replace(chr(39), chr(92) + chr(39))}')"
        for name, column in typed_columns().items()
        if name not in {"tenant_id", "agent_id"}  # of the sorting key: a row with others must be made anew
    )
    for changes in (emptied, "event_type = '', poison_reason = 'unreadable: cut'"):
        world.update(changes, world.at(0, 2))
    assert any(line.startswith(f"TYPE {EVENTS}/0 index 2: the bytes can be read as a") for line in world.lines())


def test_an_event_shown_as_another_type(world: World) -> None:
    world.update("event_type = 'RunFinished'", world.at(0, 2))
    only(world.lines(), f"TYPE {EVENTS}/0 index 2", "the row says event_type 'RunFinished'")


def test_an_event_moved_to_another_topic_name(world: World) -> None:
    world.update(f"topic = '{SPEND}'", world.at(0, 2))
    only(world.lines(), f"COLUMN {EVENTS}/0 index 2", f"column topic is '{SPEND}', expected '{EVENTS}'")


def test_a_row_deleted(world: World) -> None:
    world.rig.command(f"ALTER TABLE {LEDGER} DELETE WHERE {world.at(0, 11)}")
    only(world.lines(), f"MISSING {EVENTS}/0 index 11: the row is missing")


def test_rows_deleted_while_only_leaves_are_looked_at(world: World) -> None:
    world.rig.command(f"ALTER TABLE {LEDGER} DELETE WHERE {world.at(0, 11)}")
    last = list(world.place.files())[-1]
    only(world.lines(since_checkpoint=last), f"MISSING {EVENTS}/0: the row of index 11 is missing")


def test_a_batch_deleted(world: World) -> None:
    place = world.logs[1]
    log = f"topic_id = '{place.topic_id}' AND partition = {place.partition}"
    world.rig.command(f"ALTER TABLE {LEDGER} DELETE WHERE {log} AND log_index BETWEEN 10 AND 19")
    lines = world.lines()
    only(lines, f"MISSING {EVENTS}/1 index 10: the rows up to index 19 are missing, expected 10")
    world.rig.command(f"ALTER TABLE {BATCHES} DELETE WHERE {log} AND first_index = 10")
    lines = world.lines()
    assert any(line.startswith(f"FLUSH {EVENTS}/1 index 20:") and "flush from 10 on" in line for line in lines)
    assert "flushes were deleted or doubled" in world.refusal()


def test_the_newest_rows_deleted(world: World) -> None:
    place = world.logs[0]
    log = f"topic_id = '{place.topic_id}' AND partition = {place.partition}"
    world.rig.command(f"ALTER TABLE {LEDGER} DELETE WHERE {log} AND log_index >= 20")
    world.rig.command(f"ALTER TABLE {BATCHES} DELETE WHERE {log} AND first_index >= 20")
    only(world.lines(), f"MISSING {EVENTS}/0 index 20: the newest rows are gone: expected 30 rows")
    assert "30 rows were signed, and 20 are there: the ledger was rolled back" in world.refusal()


def test_the_newest_rows_replaced_by_others(world: World) -> None:
    place = world.logs[0]
    log = f"topic_id = '{place.topic_id}' AND partition = {place.partition}"
    world.rig.command(f"ALTER TABLE {LEDGER} DELETE WHERE {log} AND log_index >= 20")
    world.rig.command(f"ALTER TABLE {BATCHES} DELETE WHERE {log} AND first_index >= 20")
    world.rig.write(place, world.rig.events(12))
    only(world.lines(), f"ROOT {EVENTS}/0 index 29: rows 20 to 29 are not those that were signed: expected root")
    assert "the row of index 29 is not the one that was signed" in world.refusal()


def test_two_rows_swapped(world: World) -> None:
    place = world.logs[0]
    log = f"topic_id = '{place.topic_id}' AND partition = {place.partition}"
    world.update("log_index = if(log_index = 11, 12, 11)", f"{log} AND log_index IN (11, 12)")
    lines = world.lines()
    for index in (11, 12):
        assert any(line.startswith(f"LEAF {EVENTS}/0 index {index}:") for line in lines)


def test_a_row_inserted_behind_the_end(world: World) -> None:
    world.rig.command(f"INSERT INTO {LEDGER} SELECT * REPLACE (toUInt64(30) AS log_index) "
                      f"FROM (SELECT * FROM {LEDGER} WHERE {world.at(0, 29)})")  # fmt: skip
    assert f"INSERTED {EVENTS}/0 index 30: this row is in no flush of the writer, expected none here" in world.lines()


def test_a_row_inserted_in_the_middle(world: World) -> None:
    world.rig.command(f"INSERT INTO {LEDGER} SELECT * FROM {LEDGER} WHERE {world.at(0, 5)}")
    lines = world.lines()
    assert any(line.startswith(f"DOUBLE {EVENTS}/0 index 5: another row has this index") for line in lines)


def test_a_row_inserted_into_a_log_that_does_not_exist(world: World) -> None:
    world.rig.command(f"INSERT INTO {LEDGER} SELECT * REPLACE (toUInt32(9) AS partition) "
                      f"FROM (SELECT * FROM {LEDGER} WHERE {world.at(0, 5)})")  # fmt: skip
    assert any(line.startswith(f"INSERTED {EVENTS}/9 index 5") for line in world.lines())


def test_an_old_data_folder_copied_back(world: World, tmp_path: Path) -> None:
    rig, data = world.rig, world.rig.data_dir / "clickhouse"
    rig.stop()
    shutil.copytree(data, tmp_path / "old", symlinks=True)
    rig.start()
    world.grow()
    world.grow()
    rig.stop()
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "old", data, symlinks=True)
    rig.start()
    lines = world.lines()
    assert len(lines) == 3
    for line, log in zip(lines, world.logs, strict=True):
        assert line.startswith(
            f"MISSING {log.topic}/{log.partition} index 30: the newest rows are gone: expected 50 rows"
        )
    assert "the ledger was rolled back" in world.refusal()


def test_a_topic_made_again(world: World) -> None:
    old = world.logs[0].topic_id
    place = world.rig.place(EVENTS, 0, anew=True)
    world.rig.write(place, world.rig.events(4))
    only(world.lines(), f"TOPIC {EVENTS}/0: the topic has the id {place.topic_id}, expected {old}: it was deleted")
    assert f"has the id {place.topic_id}, but {old} was signed: it was deleted and made again" in world.refusal()
    assert world.new_signer(accepted_topic_ids=[place.topic_id]).step() is not None
    assert world.lines() == []


def test_a_partitions_log_dropped(world: World) -> None:
    place = world.logs[1]
    for table in (LEDGER, BATCHES):
        world.rig.command(f"ALTER TABLE {table} DELETE WHERE topic_id = '{place.topic_id}' AND partition = 1")
    only(world.lines(), f"MISSING {EVENTS}/1 index 0: the log has vanished: expected 30 rows")
    assert "30 rows were signed, and none is there: the log has vanished" in world.refusal()


def changed(path: Path, old: str, new: str) -> None:
    """Change a file that was made to be left alone."""
    text = path.read_text("utf-8")
    assert old in text
    path.chmod(0o644)
    path.write_text(text.replace(old, new, 1), "utf-8")


def test_a_checkpoint_edited(world: World) -> None:
    path = list(world.place.files())[1]
    bundle = Bundle.parse(path.read_text("utf-8"))
    changed(path, f"\n{bundle.size}\n", f"\n{bundle.size + 1}\n")
    lines = world.lines()
    assert lines[0].startswith(f"CHECKPOINT {path}: the checkpoint says size {bundle.size + 1}")


def test_a_head_in_a_checkpoint_edited(world: World) -> None:
    path = list(world.place.files())[1]
    changed(path, f" {world.logs[0].topic_id} 0 20 ", f" {world.logs[0].topic_id} 0 19 ")
    assert world.lines()[0].startswith(f"CHECKPOINT {path}: the checkpoint says size")


def test_a_signature_edited(world: World) -> None:
    path = list(world.place.files())[-1]
    signature = path.read_text("utf-8").splitlines()[-1]
    place = len(signature) - 20
    spoiled = signature[:place] + ("A" if signature[place] != "A" else "B") + signature[place + 1 :]
    changed(path, signature, spoiled)
    assert "the signature of example.com/ledger" in world.lines()[0]
    assert "was changed or removed" in world.refusal()


def test_a_checkpoint_removed(world: World) -> None:
    path = list(world.place.files())[1]
    path.unlink()
    assert "do not follow a heads log of size" in world.lines()[0]
    list(world.place.files())[-1].unlink()
    assert "was changed or removed" in world.refusal()


def test_a_history_forged_with_another_key(world: World, tmp_path: Path) -> None:
    forger = KeyFolder(tmp_path / "forger")
    forger.new("example.com/ledger")
    place = FolderPlace(tmp_path / "forged")
    forged = Signer(ClickHouseLeafReader(world.rig.url), place, forger, state=SignerState(),
                    save=lambda _: None, clock=lambda: next(world.clock))  # fmt: skip
    assert forged.step() is not None
    held = list(world.place.files())[-1]
    request = VerifyRequest(place.folder, world.keys.public())
    reader = ClickHouseLeafReader(world.rig.url)
    report = Verification(reader, REGISTRY, request).run(lambda _: None, lambda _: None)
    only(
        [problem.line() for problem in report.problems],
        "signed by example.com/ledger+",
        "none of which is a trusted key",
    )
    # Put behind the signer's own: it is of another key, and no signer goes on behind it.
    bundle = Bundle.parse(held.read_text("utf-8"))
    state = SignerState.load(world.state_path, world.keys.public())
    assert state is not None
    line = TopicLine("agentledger.alerts.v1", "0" * 8, NOW_US * 2).line()
    heads = state.heads.copy()
    heads.tree.append(b"\0" * 32)
    note = sign_note(f"example.com/ledger\n{bundle.size + 1}\n{'A' * 43}=\n", [forger.active()])
    assert world.place.publish(bundle.size, Bundle(bundle.size, (line,), note).text())
    assert "published checkpoint from leaf" in world.refusal()
    assert any(problem.startswith("CHECKPOINT") for problem in world.lines())


def test_a_held_checkpoint_that_is_of_another_history(world: World) -> None:
    held = world.folder / "held"
    last = list(world.place.files())[-1]
    shutil.copy(last, held)
    assert world.lines(since_checkpoint=held) == []
    bundle = Bundle.parse(last.read_text("utf-8"))
    fork = f"example.com/ledger\n{bundle.size}\n{'A' * 43}=\n"
    held.chmod(0o644)
    held.write_text(sign_note(fork, [world.keys.active()]), "utf-8")
    assert any("another root" in line and "a fork" in line for line in world.lines(since_checkpoint=held))
    last.unlink()
    shutil.copy(list(world.place.files())[-1], held)
    held.chmod(0o644)
    held.write_text(bundle.text(), "utf-8")
    assert any(f"no checkpoint of size {bundle.size}" in line for line in world.lines(since_checkpoint=held))


def test_the_signers_state_edited(world: World) -> None:
    changed(world.state_path, '"checkpoints":3', '"checkpoints":2')
    with pytest.raises(IntegrityError, match="the signer's state was changed"):
        world.new_signer()


def test_the_signers_state_rolled_back_or_lost_does_no_harm(world: World) -> None:
    old = world.state_path.read_bytes()
    world.grow()
    world.state_path.write_bytes(old)
    world.rig.write(world.logs[0], world.rig.events(2))
    assert world.new_signer().step() is not None
    world.state_path.unlink()
    world.rig.write(world.logs[0], world.rig.events(2))
    assert world.new_signer().step() is not None
    assert world.lines() == []
    assert world.verify().checkpoints == 6


def test_the_state_lost_and_the_ledger_changed(world: World) -> None:
    world.update("leaf_hash = reverse(leaf_hash)", world.at(0, 4))
    world.state_path.unlink()
    assert "rows below index 10 are not those that were signed" in world.refusal()


def test_two_signers_at_once_do_no_harm(world: World, tmp_path: Path) -> None:
    other = Signer(
        ClickHouseLeafReader(world.rig.url), world.place, world.keys, state=SignerState(),
        save=lambda state: state.save(tmp_path / "other", world.keys.active()), clock=lambda: next(world.clock),
    )  # fmt: skip
    for turn in range(4):
        world.rig.write(world.logs[turn % 3], world.rig.events(2))
        first, second = (world.signer, other) if turn % 2 else (other, world.signer)
        assert first.step() is not None
        assert second.step() is None
    assert world.lines() == []


def test_a_signer_that_signs_at_the_same_moment_gives_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = world.new_signer()
    world.rig.write(world.logs[0], world.rig.events(2))
    publish = world.place.publish

    def later(first: int, text: str) -> bool:
        monkeypatch.undo()
        assert world.signer.step() is not None
        return publish(first, text)

    monkeypatch.setattr(world.place, "publish", later)
    before = slow.state
    assert slow.step() is None
    assert slow.state is before
    assert slow.step() is None
    assert slow.state.heads.tree == world.signer.state.heads.tree
    assert world.lines() == []


def test_a_key_rotated_in_the_middle(world: World) -> None:
    old = world.keys.public()
    world.keys.rotate()
    world.grow()
    world.grow()
    assert world.lines() == []
    request = VerifyRequest(world.place.folder, old)
    report = Verification(ClickHouseLeafReader(world.rig.url), REGISTRY, request).run(lambda _: None, lambda _: None)
    assert report.problems == []


@pytest.mark.parametrize("block", [1, 2, 4, 8, 16, 64])
def test_python_and_sql_give_the_same_root(world: World, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(leaves_module, "BLOCK_LEAVES", block)
    monkeypatch.setattr(leaves_module, "SQL_LEAVES_MAX", 2 * block)
    log = LogId(world.logs[0].topic_id, world.logs[0].partition)
    reader = ClickHouseLeafReader(world.rig.url)
    leaves = reader.leaves(log, 0, 30)
    for size in range(1, 31):
        whole, of_blocks = CompactRange(), CompactRange()
        whole.extend(leaves[:size])
        of_blocks.extend(reader.block_roots(log, size))
        assert of_blocks.root() == whole.root()
    assert whole.root() == world.signer.state.logs[log].tree.root()


def test_sql_gives_no_root_where_a_row_is_missing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves_module, "BLOCK_LEAVES", 4)
    world.rig.command(f"ALTER TABLE {LEDGER} DELETE WHERE {world.at(0, 11)}")
    log = LogId(world.logs[0].topic_id, world.logs[0].partition)
    with pytest.raises(IntegrityError, match="the row of index 11 is missing"):
        ClickHouseLeafReader(world.rig.url).block_roots(log, 30)


@pytest.mark.parametrize("is_kept", [False, True])
def test_every_event_can_be_proven(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_kept: bool
) -> None:
    kept = tmp_path / "kept" if is_kept else None
    for module in (leaves_module, proofs_module):
        monkeypatch.setattr(module, "BLOCK_LEAVES", 4)
    chain, _ = read_chain(world.place.folder, world.keys.public())
    reader = ClickHouseLeafReader(world.rig.url)
    ids = world.rig.rows(f"SELECT toString(event_id), log_index FROM {LEDGER} WHERE event_type != ''")
    assert len(ids) == 72
    for event_id, index in ids[::5]:
        text = prove_event(reader, chain, world.keys.public(), event_id, kept_in=kept)
        assert verify_event_proof(text, world.keys.public()).record.log_index == index
    for path in kept.iterdir() if kept is not None else ():
        assert len(path.read_bytes()) % 32 == 0
        path.write_bytes(bytes(7 * 32))
        assert prove_event(reader, chain, world.keys.public(), ids[0][0], kept_in=kept)
    world.update("raw = concat(raw, 'X')", world.at(0, 3))
    changed_id = world.rig.rows(f"SELECT toString(event_id) FROM {LEDGER} WHERE {world.at(0, 3)}")[0][0]
    with pytest.raises(IntegrityError, match="the ledger isn't what was signed"):
        prove_event(reader, chain, world.keys.public(), changed_id, kept_in=kept)


def test_state_is_small_and_signed(world: World) -> None:
    text = world.state_path.read_text("utf-8")
    assert json.loads(text.split("\n")[1])["checkpoints"] == 3
    assert world.state_path.stat().st_mode & 0o077 == 0
