"""Purged ranges: whatever is purged, and in however many steps, what is left still gives the signed roots."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.schemas.compact_range import CompactRange
from agentledger.schemas.errors import IntegrityError, ProofError
from agentledger.schemas.heads import Head, LogId
from agentledger.schemas.notes import SignerKey, encode_base64, sign_note
from agentledger.sinks.retention import ranges_of
from agentledger.sinks.tombstones import (
    PlannedLog,
    PurgedNodes,
    PurgePlan,
    check_approved,
    keep_tombstone,
    read_tombstones,
)
from agentledger.sinks.verify_logs import LogReport, LogVerifier
from agentledger.sinks.verify_rows import CheckedPart

LOG = LogId("00000000-0000-4000-8000-000000000001", 0)
ANN, BOB, EVE = (SignerKey(name, name.encode() * 10 + b"!!") for name in ("ann", "bob", "eve"))
TRUSTED = [ANN.verifier, BOB.verifier]


def leaf(index: int) -> bytes:
    return hashlib.sha256(str(index).encode()).digest()


def root(size: int) -> bytes:
    tree = CompactRange()
    tree.extend(leaf(index) for index in range(size))
    return tree.root()


def verified(
    size: int, heads: Iterable[int], rows: dict[int, bytes], purged: PurgedNodes, *, is_wanted: bool
) -> LogReport:
    def check(parts: Iterable[tuple[int, int]]) -> Iterator[CheckedPart]:
        for first, behind in parts:
            part = CheckedPart(first, behind)
            part.leaves = [rows.get(index) for index in range(first, behind)]
            yield part

    def read(first: int, behind: int) -> list[bytes]:
        if any(index not in rows for index in range(first, behind)):
            raise IntegrityError("a row is missing")
        return [rows[index] for index in range(first, behind)]

    signed = [Head("t", LOG, head, root(head), 1) for head in sorted(heads)]
    return LogVerifier(
        "t/0", size, signed, check=check, read_leaves=read, is_wanted=lambda _first, _behind: is_wanted,
        progress=lambda _rows: None, purged=purged,
    ).verify()  # fmt: skip


def purged_of(*steps: Sequence[int]) -> PurgedNodes:
    return PurgedNodes(found for step in steps for found in ranges_of((index, leaf(index)) for index in sorted(step)))


@st.composite
def purges(draw: st.DrawFn) -> tuple[int, list[int], list[set[int]]]:
    size = draw(st.integers(1, 70))
    heads = draw(st.lists(st.integers(1, size), max_size=5, unique=True))
    indexes = st.sets(st.integers(0, size - 1))
    return size, [*heads, size] if size not in heads else heads, draw(st.lists(indexes, max_size=3))


@given(purges(), st.booleans(), st.data())
def test_what_is_left_verifies_and_a_changed_row_does_not(
    case: tuple[int, list[int], list[set[int]]], is_wanted: bool, data: st.DataObject
) -> None:
    size, heads, steps = case
    gone = set().union(*steps)
    purged = purged_of(*map(sorted, steps))
    rows = {index: leaf(index) for index in range(size) if index not in gone}
    report = verified(size, heads, rows, purged, is_wanted=is_wanted)
    assert (report.problems, report.purged, report.unsigned) == ([], len(gone), 0)
    if rows:
        at = data.draw(st.sampled_from(sorted(rows)))
        changed = verified(size, heads, rows | {at: leaf(at + 1000)}, purged, is_wanted=is_wanted)
        assert [problem.kind for problem in changed.problems] == ["root"]
        without = {index: found for index, found in rows.items() if index != at}
        problems = verified(size, heads, without, purged, is_wanted=is_wanted).problems
        assert [problem.kind for problem in problems] == ["missing"]


def test_a_purge_that_is_not_finished_is_told_and_so_is_a_made_up_hash() -> None:
    rows = {index: leaf(index) for index in range(10)}
    report = verified(10, [10], rows, purged_of(range(2, 6)), is_wanted=True)
    assert [(problem.kind, problem.log_index) for problem in report.problems] == [("purge", 2)]
    made_up = CompactRange(2, 4, [leaf(99)])
    rest = {index: found for index, found in rows.items() if index not in {2, 3}}
    assert verified(10, [10], rest, PurgedNodes([made_up]), is_wanted=True).problems[0].kind == "root"


PLAN = PurgePlan(
    "acme", "trail", 5, 9, (PlannedLog("t", LOG, tuple(ranges_of((n, leaf(n)) for n in (1, 2, 3, 7)))),)
)  # fmt: skip


def signed_by(*keys: SignerKey, plan: PurgePlan = PLAN) -> str:
    return sign_note(plan.statement(), keys)


def test_a_plan_is_read_as_it_was_written_and_in_no_other_spelling() -> None:
    raw = PLAN.to_bytes()
    assert PurgePlan.from_bytes(raw) == PLAN
    assert PLAN.rows == 4
    for wrong in (b"", b"{}", b"[]", raw[:-1], raw + b" ", raw.replace(b'"rows":4', b'"rows":5'),
                  raw.replace(b"[7,8", b"[2,3"), raw.replace(b"[1,4", b"[1,5")):  # fmt: skip
        with pytest.raises(ProofError):
            PurgePlan.from_bytes(wrong)


def test_two_people_with_two_keys_must_sign_the_very_plan() -> None:
    assert {key.name for key in check_approved(PLAN, signed_by(ANN, BOB), TRUSTED)} == {"ann", "bob"}
    other_key_of_ann = SignerKey("ann", b"k" * 32)
    same_key_as_bob = SignerKey("bob", ANN.seed)
    other = dataclasses.replace(PLAN, before_us=6)
    for note, trusted in (
        (signed_by(ANN), TRUSTED),
        (signed_by(ANN, ANN), TRUSTED),
        (signed_by(ANN, EVE), TRUSTED),
        (signed_by(EVE), TRUSTED),
        (signed_by(ANN, other_key_of_ann), [*TRUSTED, other_key_of_ann.verifier]),
        (signed_by(ANN, same_key_as_bob), [ANN.verifier, same_key_as_bob.verifier]),
        (signed_by(ANN, BOB, plan=other), TRUSTED),
        (signed_by(ANN, BOB), []),
    ):
        with pytest.raises(ProofError):
            check_approved(PLAN, note, trusted)


def write_note(path: Path, text: str) -> None:
    path.with_suffix(".note").unlink()
    path.with_suffix(".note").write_text(text, "utf-8")


def write_plan(path: Path, raw: bytes) -> None:
    path.unlink()
    path.write_bytes(raw)


def exchanged(raw: bytes) -> bytes:
    return raw.replace(encode_base64(leaf(7)).encode(), encode_base64(leaf(8)).encode())


EDITS: list[Callable[[Path], object]] = [
    lambda path: (path.parent / "copy.json").write_bytes(PLAN.to_bytes()),
    lambda path: write_note(path, signed_by(ANN)),
    lambda path: write_note(path, ""),
    lambda path: write_note(path, signed_by(ANN, BOB).replace("acme", "emca")),
    lambda path: path.with_suffix(".note").unlink(),
    lambda path: write_plan(path, exchanged(path.read_bytes())),
    lambda path: write_plan(path, b"\xff"),
]


@pytest.mark.parametrize("edit", EDITS)
def test_a_tombstone_that_is_not_approved_or_was_edited_is_told(tmp_path: Path, edit: Callable[[Path], object]) -> None:
    path = keep_tombstone(tmp_path, PLAN, signed_by(ANN, BOB))
    stones, problems = read_tombstones(tmp_path, TRUSTED)
    assert (len(stones.found), problems) == (1, [])
    assert stones.nodes(LOG).rows == 4
    assert not stones.nodes(LogId(LOG.topic_id, 1))
    edit(path)
    assert [problem.kind for problem in read_tombstones(tmp_path, TRUSTED)[1]] == ["tombstone"]
    assert len(read_tombstones(tmp_path, [])[1]) >= 1
