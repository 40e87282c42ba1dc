"""Exports of a real ledger: what they hold and prove, that changes are found, and what a death in the middle leaves."""

from __future__ import annotations

import csv
import hashlib
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from urllib3.exceptions import ProtocolError

from agentledger.infra.cli import main
from agentledger.schemas.compact_range import CompactRange
from agentledger.schemas.errors import BrokerError, IntegrityError, StoreError, UsageError
from agentledger.schemas.events import RunStarted
from agentledger.schemas.hashing import canonical_json
from agentledger.schemas.heads import LogId
from agentledger.schemas.notes import SignerKey, sign_note
from agentledger.sinks import export_plan, export_proofs
from agentledger.sinks import leaves as leaves_module
from agentledger.sinks.export_check import RowCheck
from agentledger.sinks.export_event import ExportFacts
from agentledger.sinks.export_plan import FORMATS, ExportRequest
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.retention import carry_out
from agentledger.sinks.tables import LEDGER
from agentledger.sinks.tombstones import PlannedLog, PurgePlan
from agentledger.sinks.verify_export import BadExportError, Key, describe, read_manifest
from tests.evidence_rig import CODEC, EvidenceRig, event
from tests.export_rig import SignedLedger

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def other_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EvidenceRig]:
    """Another, for ledgers that are changed: each test empties it."""
    with EvidenceRig(tmp_path_factory.mktemp("other")) as running:
        yield running


@pytest.fixture(scope="module")
def kept(rig: EvidenceRig, tmp_path_factory: pytest.TempPathFactory) -> SignedLedger:
    """A signed ledger of 3 logs with 30 records each, that no test changes, exported as CSV to `whole`."""
    ledger = SignedLedger(rig, tmp_path_factory.mktemp("kept"))
    awkward = [
        CODEC.encode(event(900, RunStarted, tenant_id=text, task=text, run_id="awkward", actor="=1+1"))
        for text in ("=HYPERLINK()", "it's 100%_", 'NUL\x00\\N\t\n"', "'; DROP TABLE x; --", "＠sum")
    ]
    for values in (awkward, (), ()):
        ledger.grow(values)
    ledger.export("whole", file_format="csv")
    return ledger


@pytest.fixture
def out(kept: SignedLedger, tmp_path: Path) -> Path:
    """A copy of the export of everything."""
    return Path(shutil.copytree(kept.folder / "whole", tmp_path / "export"))


def verify(kept: SignedLedger, folder: Path) -> dict[str, Any]:
    """What the installed `verify-export` finds."""
    keys = [Key(str(key)) for key in kept.keys.public()]
    return kept.verify(str(folder)) | {"rows": RowCheck(folder, read_manifest(folder, keys)).run()}


@pytest.mark.parametrize("file_format", sorted(FORMATS))
def test_every_format_holds_all_and_says_what_the_bytes_say(
    kept: SignedLedger, tmp_path: Path, file_format: str
) -> None:
    found = kept.export(str(tmp_path / "out"), file_format=file_format)
    assert (found["complete"], found["records"], found["logs"], found["hidden"]) == (True, 105, 3, 0)
    assert found["counts"] == {"ModelCallCompleted": 24, "RunStarted": 39, "ToolCallCompleted": 24, "unreadable": 18}
    assert verify(kept, tmp_path / "out") == {**found, "rows": 87}
    told = kept.told[-1]
    assert told.found == found
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("file_format", sorted(FORMATS))
def test_the_lines_of_the_readme_open_the_data(kept: SignedLedger, tmp_path: Path, file_format: str) -> None:
    kept.export(str(tmp_path / "out"), file_format=file_format, run_id="run-3")
    lines = [line.strip() for line in (tmp_path / "out/README.txt").read_text("utf-8").splitlines()]
    [command] = [line for line in lines if line.startswith("python -c") and "duckdb" not in line]
    done = subprocess.run(
        ["sh", "-c", command.replace("python", sys.executable, 1)], cwd=tmp_path / "out", capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "RunStarted" in done.stdout or "10 rows" in done.stdout


def test_the_single_file_needs_nothing_else(kept: SignedLedger, out: Path) -> None:
    [key] = kept.keys.public()
    command = [sys.executable, "-I", "verify_export.py", ".", "--key", str(key)]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, env={}, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("VERIFIED: 105 records of 3 logs of example.com/ledger")
    (out / "README.txt").write_text("nothing here", "utf-8")
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, env={}, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("NOT VERIFIED: README.txt has 12 bytes, expected ")


def test_a_range_of_time_proves_that_nothing_in_it_is_missing(kept: SignedLedger, tmp_path: Path) -> None:
    from_us, to_us = kept.time_us(0, 5), kept.time_us(0, 15)
    found = kept.export(str(tmp_path / "out"), from_us=from_us, to_us=to_us)
    assert (found["complete"], found["records"]) == (True, 30)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text("utf-8"))
    assert [(log["first"], log["behind"]) for log in manifest["logs"]] == [(5, 15)] * 3
    assert verify(kept, tmp_path / "out")["complete"]


def test_hashes_outside_the_range_come_from_whole_blocks(
    kept: SignedLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaves_module, "BLOCK_LEAVES", 4)
    monkeypatch.setattr(leaves_module, "SQL_LEAVES_MAX", 8)
    monkeypatch.setattr(export_proofs, "BLOCK_LEAVES", 4)
    for first, behind in ((0, 3), (5, 6), (13, 22), (24, 29), (29, 30)):
        name = str(tmp_path / str(first))
        found = kept.export(name, from_us=kept.time_us(0, first), to_us=kept.time_us(0, behind))
        assert (found["records"], kept.verify(name)) == (3 * (behind - first), found)


def test_a_filter_shows_what_was_asked_for_and_the_hashes_of_the_rest(kept: SignedLedger, tmp_path: Path) -> None:
    for number, asked in enumerate([{"run_id": "run-3"}, {"event_types": ("ToolCallCompleted",)}, {"tenant_id": "t"}]):
        found = kept.export(str(tmp_path / str(number)), **asked)
        assert (found["complete"], found["records"] + found["hidden"]) == (False, 105)
        assert verify(kept, tmp_path / str(number))["rows"] == found["records"]
        assert "FILTERED" in (tmp_path / str(number) / "README.txt").read_text("utf-8")


def test_parts_are_bounded_and_each_is_checked(
    kept: SignedLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_plan, "BLOCK_ROWS", 4)
    monkeypatch.setattr(export_plan, "PART_ROWS_MAX", 10)
    monkeypatch.setattr(export_plan, "CHUNK_ROWS_MAX", 8)
    for name, asked in (("all", {}), ("one", {"run_id": "run-3"})):
        found = kept.export(str(tmp_path / name), **asked)
        assert verify(kept, tmp_path / name) == {**found, "rows": 87 if name == "all" else found["records"]}
    assert len(list((tmp_path / "all").glob("evidence-*"))) > 10
    assert all(len(file.read_text("utf-8").splitlines()) <= 10 for file in (tmp_path / "all").glob("data-*"))


def test_what_is_not_signed_yet_is_left_out_and_counted(other_rig: EvidenceRig, tmp_path: Path) -> None:
    ledger = SignedLedger(other_rig, tmp_path)
    ledger.grow()
    other_rig.write(ledger.logs[0], other_rig.events(14))
    assert ledger.export("all") == ledger.verify("all")
    found = ledger.export("one", event_types=("RunStarted",))
    assert (found["records"] + found["hidden"], ledger.verify("one")) == (30, found)
    assert ledger.unsigned == 14
    assert "10 signed" in (tmp_path / "all/README.txt").read_text("utf-8")


def test_a_key_that_was_rotated(other_rig: EvidenceRig, tmp_path: Path) -> None:
    ledger = SignedLedger(other_rig, tmp_path)
    ledger.grow()
    ledger.keys.rotate()
    found = ledger.export("before")
    text = (tmp_path / "before/README.txt").read_text("utf-8")
    assert [f"{key.name}+{key.key_id.hex()}" in text for key in ledger.keys.public()] == [True, True]
    ledger.grow()
    assert ledger.export("after", previous=tmp_path / "before")["continues_previous"]
    assert (ledger.verify("before"), ledger.verify("after")["records"]) == (found, 60)


def purge(ledger: SignedLedger, data_class: str, log: int, *indexes: tuple[int, int]) -> None:
    """Take rows away as `agentledger retention purge` does."""
    reader = ClickHouseLeafReader(ledger.rig.url)
    place = ledger.logs[log]
    log_id = LogId(place.topic_id, place.partition)
    ranges = []
    for first, behind in indexes:
        ranges.append(CompactRange(first))
        ranges[-1].extend(reader.leaves(log_id, first, behind))
    carry_out(
        reader, PurgePlan("t", data_class, 2**52, 1, (PlannedLog(place.topic, log_id, tuple(ranges)),))
    )  # fmt: skip


def test_what_was_purged_is_left_out_and_its_hashes_are_shown(other_rig: EvidenceRig, tmp_path: Path) -> None:
    ledger = SignedLedger(other_rig, tmp_path)
    ledger.grow()
    ledger.grow()
    times = [ledger.time_us(0, index) for index in range(20)]
    assert ledger.export("before")["complete"]
    purge(ledger, "trail", 0, (0, 2), (4, 7))
    purge(ledger, "trail", 1, (10, 19))
    purge(ledger, "payloads", 2, (3, 4), (5, 8))
    found = ledger.export("all", file_format="csv")
    assert (found["complete"], found["records"], found["hidden"]) == (False, 42, 18)
    assert verify(ledger, tmp_path / "all") == {**found, "rows": 42 - 11}
    assert "BUT FOR WHAT WAS PURGED" in (tmp_path / "all/README.txt").read_text("utf-8")
    assert describe(found).endswith("not shown, but for their hashes: the exporter says that they were purged.")
    for first, behind in ((0, 1), (1, 5), (5, 6), (7, 9), (6, 12), (12, 15), (15, 20), (3, 4)):
        name = f"{first}-{behind}"
        asked = {"from_us": times[first], "to_us": times[behind] if behind < 20 else None}
        found = ledger.export(name, **asked)
        assert ledger.verify(name) == found
        assert found["records"] > 0
    found = ledger.export("filtered", run_id="run-3")
    assert (ledger.verify("filtered"), found["records"] + found["hidden"]) == (found, 60)
    other_rig.command("DROP TABLE agentledger.ledger_purges")
    other_rig.command("TRUNCATE TABLE agentledger.ledger_purged")


def test_cells_of_a_csv_are_never_formulas(out: Path) -> None:
    with next(out.glob("data-*.csv")).open(encoding="utf-8", newline="") as file:
        cells = [row for row in csv.DictReader(file) if row["run_id"] == "awkward"]
    assert len(cells) == 15
    assert {row["actor"] for row in cells} == {"'=1+1"}
    assert {row["tenant_id"] for row in cells} >= {"'=HYPERLINK()", "it's 100%_", "''; DROP TABLE x; --", "'＠sum"}


# --- who changes an export is found ---


def change(path: Path, what: Callable[[bytes], bytes]) -> None:
    path.write_bytes(what(path.read_bytes()))


def edit(raw: bytes) -> bytes:
    place = len(raw) // 2
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


def reorder(raw: bytes) -> bytes:
    half = len(raw) // 2
    return raw[half:] + raw[:half]


@pytest.mark.parametrize("name", ["data-000001.csv", "evidence-000001.bin", "README.txt", "verify_export.py"])
@pytest.mark.parametrize(
    ("what", "line"),
    [
        (lambda raw: raw[:-1], "has {less} bytes, expected {size}"),
        (lambda raw: raw + b"\n", "has {more} bytes, expected {size}"),
        (edit, "has the SHA-256 "),
        (reorder, "has the SHA-256 "),
    ],
)
def test_a_file_that_was_changed(
    kept: SignedLedger, out: Path, name: str, what: Callable[[bytes], bytes], line: str
) -> None:
    size = (out / name).stat().st_size
    change(out / name, what)
    expected = f"{name} {line.format(size=size, less=size - 1, more=size + 1)}"
    with pytest.raises(BadExportError) as caught:
        kept.verify(str(out))
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("name", ["data-000001.csv", "evidence-000001.bin", "README.txt", "verify_export.py"])
def test_a_file_that_was_removed_added_or_linked(kept: SignedLedger, out: Path, name: str) -> None:
    (out / "data-000002.csv").write_text("more", "utf-8")
    with pytest.raises(BadExportError, match=r"^data-000002.csv is not part of the export$"):
        kept.verify(str(out))
    (out / "data-000002.csv").unlink()
    (out / name).rename(out.parent / name)
    with pytest.raises(BadExportError, match=f"^{name} is missing$"):
        kept.verify(str(out))
    (out / name).symlink_to(out.parent / name)
    with pytest.raises(BadExportError, match=f"^{name} is missing$"):
        kept.verify(str(out))


def test_the_manifest_and_its_signature(kept: SignedLedger, out: Path) -> None:
    whole = (out / "manifest.json").read_bytes()
    change(out / "manifest.json", lambda raw: raw.replace(b'"complete":true', b'"complete":null'))
    with pytest.raises(BadExportError, match=r"^manifest.json is not the one that was signed$"):
        kept.verify(str(out))
    (out / "manifest.json").write_bytes(whole)
    signature = (out / "manifest.sig").read_bytes()
    change(out / "manifest.sig", lambda raw: raw.replace(b"agentledger.export.v1", b"agentledger.export.v2"))
    with pytest.raises(BadExportError, match=r"^the signature of manifest.sig by example.com/ledger is wrong$"):
        kept.verify(str(out))
    forger = SignerKey.generate("example.com/ledger")
    (out / "manifest.sig").write_text(sign_note(signature.decode().partition("\n\n")[0] + "\n", [forger]), "utf-8")
    with pytest.raises(BadExportError, match=r"^manifest.sig is not signed by a key that you trust, but by 'ex"):
        kept.verify(str(out))
    for name in ("manifest.sig", "manifest.json"):
        (out / name).unlink()
        with pytest.raises(BadExportError, match="holds no finished export"):
            kept.verify(str(out))


def sign_again(kept: SignedLedger, out: Path, what: Callable[[dict[str, Any]], object]) -> None:
    """What somebody can do who has the key that signs exports, and nothing else: a manifest of his own."""
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    what(manifest)
    for file in manifest["files"]:
        if (out / file["name"]).is_file():
            raw = (out / file["name"]).read_bytes()
            file |= {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    raw = canonical_json(manifest)
    (out / "manifest.json").write_bytes(raw)
    digest = hashlib.sha256(raw).hexdigest()
    (out / "manifest.sig").write_text(sign_note(f"agentledger.export.v1\n{digest}\n", [kept.keys.active()]), "utf-8")


def set_log(name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["logs"][0].update({name: value})


@pytest.mark.parametrize(
    ("what", "line"),
    [
        (lambda m: m["files"][0].update(name="../data-000001.csv"), "'../data-000001.csv' can't be the name of a file"),
        (lambda m: m["files"].append(m["files"][0]), "data-000001.csv is in the manifest twice"),
        (lambda m: m["logs"].pop(), "the export has not the form of one: IndexError"),
        (lambda m: m["logs"].append(m["logs"][0]), "a log is in the manifest twice"),
        (set_log("behind", 34), "agentledger.events.v1/0: index 34 is behind the range, which ends at 34"),
        (set_log("first", 1), "0 hashes do not cover the leaves 0 to 0"),
        (set_log("head", "agentledger.head.v1 a b 0 1 c 2"), "the head of a/0 is not under the checkpoint"),
        (set_log("head_place", 99), "there is no leaf 99"),
        (lambda m: m["counts"].update(RunStarted=1), "the evidence files hold"),
        (lambda m: m.update(complete=False), "the manifest says complete: False"),
        (lambda m: m["query"].update(from_us=1_790_000_000_002_000), "its time is before that of the range"),
        (lambda m: m["query"].update(to_us=1_790_000_000_003_000), "its time is behind the range"),
        (lambda m: m.update(origin="example.com/other"), "the checkpoint is not of this ledger"),
        (lambda m: m.update(last_line="agentledger.head.v1 9"), "the last line under the checkpoint is another one"),
        (lambda m: m.pop("logs"), "the export has not the form of one: KeyError"),
        (lambda m: m.update(schemas={"00": "{}"}), "the schema 00 is another one"),
    ],
)
def test_a_manifest_that_was_signed_over_something_else(
    kept: SignedLedger, out: Path, what: Callable[[dict[str, Any]], object], line: str
) -> None:
    sign_again(kept, out, what)
    with pytest.raises(BadExportError) as caught:
        kept.verify(str(out))
    assert line in str(caught.value)


def test_evidence_that_was_changed_and_signed_again(kept: SignedLedger, out: Path) -> None:
    change(out / "evidence-000001.bin", lambda raw: raw.replace(b"it's 100%_", b"it's 200%_", 1))
    sign_again(kept, out, lambda _manifest: None)
    with pytest.raises(BadExportError, match="/0: the records do not give the root that was signed for size 35"):
        kept.verify(str(out))


def test_a_cell_that_was_changed_and_signed_again(kept: SignedLedger, out: Path) -> None:
    change(out / "data-000001.csv", lambda raw: raw.replace(b"run-3", b"run-4", 1))
    sign_again(kept, out, lambda _manifest: None)
    assert kept.verify(str(out))["complete"]
    with pytest.raises(BadExportError, match="column run_id is 'run-4', expected 'run-3'"):
        verify(kept, out)
    change(out / "data-000001.csv", lambda raw: raw.replace(b"run-4", b"run-3", 1))
    change(out / "data-000001.csv", lambda raw: b"".join(raw.splitlines(keepends=True)[:-1]))
    with pytest.raises(BadExportError, match=r"index [0-9]+ is missing"):
        RowCheck(out, json.loads((out / "manifest.json").read_text("utf-8"))).run()


# --- one export after the other ---


def test_an_export_goes_on_from_the_previous_one(other_rig: EvidenceRig, tmp_path: Path) -> None:
    ledger = SignedLedger(other_rig, tmp_path)
    ledger.grow()
    ledger.export("first")
    ledger.grow()
    found = ledger.export("second", previous=tmp_path / "first", from_us=ledger.time_us(0, 10))
    assert found["continues_previous"]
    assert ledger.verify("second", tmp_path / "first") == found
    ledger.export("alone")
    with pytest.raises(BadExportError, match="not made as one that follows"):
        ledger.verify("alone", tmp_path / "first")
    other = SignedLedger(other_rig, tmp_path / "other")
    other.grow()
    other.export("first")
    with pytest.raises(BadExportError, match="not signed by a key that you trust"):
        ledger.verify("second", tmp_path / "other/first")
    with pytest.raises(UsageError, match="the previous export can't be used"):
        ledger.export("third", previous=tmp_path / "other/first")


def test_a_ledger_that_was_changed_is_not_signed_as_an_export(other_rig: EvidenceRig, tmp_path: Path) -> None:
    ledger = SignedLedger(other_rig, tmp_path)
    ledger.grow()
    change = "raw = concat(substring(raw, 1, length(raw) - 1), 'x')"
    other_rig.command(f"ALTER TABLE {LEDGER} UPDATE {change} WHERE log_index = 4")
    with pytest.raises(IntegrityError, match="the records do not give the root"):
        ledger.export()
    with pytest.raises(BadExportError, match="holds no finished export"):
        ledger.verify()
    other_rig.command(f"ALTER TABLE {LEDGER} DELETE WHERE log_index = 4")
    with pytest.raises(IntegrityError, match="index 5 stands where 4 must"):
        ledger.export("again")
    assert ledger.told == []


# --- what can't be asked, and what is not SQL ---


def test_what_cannot_be_done_has_one_line(kept: SignedLedger, out: Path) -> None:
    for asked, line in (
        ({"from_us": 2**52}, "nothing to export: no signed record is in this range"),
        ({"run_id": "nobody"}, "nothing to export"),
    ):
        with pytest.raises(UsageError, match=line):
            kept.export("empty", **asked)
        assert not list((kept.folder / "empty").iterdir())
    with pytest.raises(UsageError, match="the folder is not empty"):
        kept.export(str(out))
    (kept.folder / "half").mkdir()
    for left in ("{", "7"):
        (kept.folder / "half/.export.json").write_text(left, "utf-8")
        with pytest.raises(UsageError, match="what an unfinished export left there can't be read"):
            kept.export("half")
    (out.parent / "file").write_text("", "utf-8")
    with pytest.raises(UsageError, match="the folder can't be made"):
        kept.export(str(out.parent / "file"))


AWKWARD = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=30),
    st.text("'\"\\`%_{}();-\x00\t\n\b\x1a*/=", max_size=12),
    st.sampled_from([
        "it's 100%_", "NUL\x00\\N\t\n\"", "' OR '1'='1", "'; DROP TABLE x; --", "%", "_", "\\", "\\'", "\\N",
        "{run_id:String}",         "t\x00", "t'", "toString(tenant_id)", "t/**/", "0x74", "=HYPERLINK()", "＠sum",
    ]),
)  # fmt: skip


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(AWKWARD, AWKWARD)
def test_a_filter_means_equality_and_nothing_else(kept: SignedLedger, tenant_id: str, run_id: str) -> None:
    known = kept.rig.rows(f"SELECT tenant_id, run_id FROM {LEDGER}")
    reader = ClickHouseLeafReader(kept.rig.url)
    for asked in ({"tenant_id": tenant_id}, {"tenant_id": tenant_id, "run_id": run_id}, {"run_id": run_id}):
        request = ExportRequest(Path("x"), "csv", **asked)
        expected = sum(
            asked.get("tenant_id", "") in {"", tenant} and asked.get("run_id", "") in {"", run} for tenant, run in known
        )
        [[found]] = reader.query(f"SELECT count() FROM {LEDGER} WHERE {request.condition()}", request.parameters())
        assert found == expected
        raw = reader.raw_query(
            f"SELECT count() FROM {LEDGER} WHERE {request.condition()}", request.parameters(), "TabSeparated"
        )
        assert int(raw) == expected


# --- deaths in the middle ---

_KILLED = """
import os, signal, sys
from pathlib import Path
from tests import evidence_rig, export_rig
step, after, url, folder = int(sys.argv[1]), sys.argv[2] == "after", sys.argv[3], Path(sys.argv[4])
replace, done = Path.replace, 0
def counted(self, target):
    global done
    done += 1
    if done == step and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(self, target)
    if done == step:
        os.kill(os.getpid(), signal.SIGKILL)
Path.replace = counted
ledger = export_rig.SignedLedger.__new__(export_rig.SignedLedger)
ledger.folder, ledger.keys = folder, export_rig.KeyFolder(folder / "keys")
ledger.place, ledger.told = export_rig.FolderPlace(folder / "checkpoints"), []
class Rig: pass
ledger.rig = Rig()
ledger.rig.url = url
ledger.export(sys.argv[5], run_id="run-3")
"""


def test_killed_at_every_step_it_goes_on_and_never_verifies_before_the_end(kept: SignedLedger, tmp_path: Path) -> None:
    finished, step = False, 0
    while not finished:
        step += 1
        for when in ("before", "after"):
            out = tmp_path / f"{step}-{when}"
            command = [sys.executable, "-c", _KILLED, str(step), when, kept.rig.url, str(kept.folder), str(out)]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
            assert done.returncode in {0, -9}, done.stderr
            if done.returncode == 0:
                finished = True
            else:
                with pytest.raises(BadExportError):
                    kept.verify(str(out))
                kept.export(str(out), run_id="run-3")
            assert kept.verify(str(out))["records"] == 10
    assert step > 7


class DyingReader(ClickHouseLeafReader):
    """ClickHouse goes away in the middle of the `alive`th stream and all after it."""

    def __init__(self, url: str, alive: int) -> None:
        super().__init__(url)
        self.alive = alive

    def stream(self, sql: str, parameters: dict[str, Any] | None = None) -> Any:
        self.alive -= 1
        answer = super().stream(sql, parameters)
        return answer if self.alive > 0 else _Broken(answer)


class _Broken:
    def __init__(self, answer: Any) -> None:
        self._answer, self._reads = answer, 0

    def __enter__(self) -> _Broken:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()

    def read(self, _size: int) -> bytes:
        self._reads += 1
        if self._reads > 1:
            raise ProtocolError("Connection broken")
        return bytes(self._answer.read(100))


@pytest.mark.parametrize("alive", [1, 2, 3])
def test_clickhouse_gone_in_the_middle(kept: SignedLedger, tmp_path: Path, alive: int) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(StoreError, match="ask for the same export again"):
        kept.export(out, reader=DyingReader(kept.rig.url, alive), run_id="run-3")
    with pytest.raises(BadExportError):
        kept.verify(out)
    with pytest.raises(UsageError, match="another export was begun in this folder"):
        kept.export(out, run_id="run-4")
    assert kept.export(out, run_id="run-3") == kept.verify(out)


def test_no_room_on_the_disk(kept: SignedLedger, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StoreError, match=r"the export can't be written: File too large .*make room"):
            kept.export(out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(BadExportError):
        kept.verify(out)
    assert kept.export(out) == kept.verify(out)


def test_an_export_that_cannot_be_recorded_is_not_signed(kept: SignedLedger, tmp_path: Path) -> None:
    refused: list[ExportFacts] = []

    def refuse(facts: ExportFacts) -> None:
        refused.append(facts)
        raise BrokerError("no answer")

    out = str(tmp_path / "out")
    with pytest.raises(BrokerError):
        kept.export(out, announce=refuse)
    with pytest.raises(BadExportError, match="holds no finished export"):
        kept.verify(out)
    kept.export(out)
    assert kept.told[-1] == refused[0]  # the same manifest: it counts once


# --- as somebody calls it ---


def test_the_commands(
    kept: SignedLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from confluent_kafka import Consumer, Producer

    broker = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    (address,) = broker.list_topics(timeout=10).brokers.values()
    servers = f"{address.host}:{address.port}"
    monkeypatch.setenv("AGENTLEDGER_SIGNER_DIR", str(kept.keys.folder))
    monkeypatch.setenv("AGENTLEDGER_CHECKPOINTS_DIR", str(kept.place.folder))
    monkeypatch.setenv("AGENTLEDGER_CLICKHOUSE_URL", kept.rig.url)
    monkeypatch.setenv("AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS", servers)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    code, printed, _ = call("export", "--from", "2026-01-01", "--format", "jsonl", "--out", "day")
    assert code == 0
    assert printed.startswith("VERIFIED: 105 records")
    key = str(kept.keys.public_path)
    code, printed, _ = call("verify-export", "day", "--key", key)
    assert (code, printed.count("\n")) == (0, 2)
    assert "87 rows of the data files say what their evidence says" in printed
    assert json.loads(call("verify-export", "day", "--key", key, "--json")[1])["rows_compared"] == 87
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "g", "auto.offset.reset": "earliest"})
    consumer.subscribe(["agentledger.integrity.v1"])
    message = consumer.poll(20)
    consumer.close()
    assert message is not None
    recorded = CODEC.decode(message.value())
    assert recorded.labels["records"] == "105"  # type: ignore[attr-defined]
    change(tmp_path / "day/data-000001.jsonl", edit)
    code, _, said = call("verify-export", "day", "--key", key)
    assert code == 1
    assert said.startswith("agentledger: NOT VERIFIED: data-000001.jsonl has the SHA-256 ")
    for arguments, line in (
        (["--format", "xml"], "--format 'xml' is none"),
        (["--from", "2026-02-01", "--to", "2026-01-01"], "--from must be earlier than --to"),
        (["--from", "now"], "--from 'now' is no time"),
        (["--type", "x' OR 1=1"], "is no record"),
        (["--from", "2031-01-01"], "nothing to export"),
    ):
        code, _, said = call("export", *arguments, "--out", "other")
        assert code == 2
        assert line in said.splitlines()[-1]
    broker.flush(1)
