"""The single file that checks exports, against the library that made them: trees, proofs, leaves, keys, notes."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.schemas.compact_range import CompactRange
from agentledger.schemas.errors import ProofError
from agentledger.schemas.hashing import LeafHasher
from agentledger.schemas.merkle import (
    hash_leaf,
    prove_consistency,
    prove_inclusion,
    root_from_inclusion,
    verify_consistency,
)
from agentledger.schemas.notes import SignerKey, sign_note
from agentledger.sinks import verify_export as checker
from agentledger.sinks.proofs import nodes_of
from agentledger.sinks.verify_export import (
    HIDDEN,
    NAME,
    RECORD,
    BadExportError,
    Key,
    Tree,
    check_consistency,
    leaf_maker,
    open_note,
    read_hidden,
    read_keys,
    read_records,
    root_of_inclusion,
)

SIZES = st.integers(0, 70)
LEAVES = [hash_leaf(bytes([number])) for number in range(80)]


def range_of(first: int, behind: int) -> CompactRange:
    found = CompactRange(first)
    found.extend(LEAVES[first:behind])
    return found


@given(st.lists(SIZES, min_size=1, max_size=5))
def test_a_tree_built_in_any_steps_has_the_root_of_the_library(borders: list[int]) -> None:
    tree = Tree(0, 0, [])
    for behind in sorted(borders):
        tree.extend(LEAVES[tree.behind : behind])
        assert (tree.behind, tree.root()) == (behind, range_of(0, behind).root())


@given(SIZES, SIZES, SIZES)
def test_hashes_of_both_sides_and_the_leaves_between_give_the_root(one: int, two: int, three: int) -> None:
    first, behind, size = sorted([one, two, three])
    tree = Tree(0, first, range_of(0, first).hashes)
    tree.extend(LEAVES[first:behind])
    tree.merge(Tree(behind, size, range_of(behind, size).hashes))
    assert tree.root() == range_of(0, size).root()
    if size > behind:
        with pytest.raises(BadExportError, match="do not cover"):
            Tree(behind, size, range_of(behind, size).hashes[1:])


@given(st.integers(0, 70), st.integers(1, 70), st.integers(0, 7), st.binary(min_size=32, max_size=32))
def test_inclusion_is_taken_and_refused_as_by_the_library(index: int, size: int, cut: int, other: bytes) -> None:
    proof = prove_inclusion(index, size, nodes_of(LEAVES)) if index < size else []
    root = range_of(0, size).root()
    if index < size:
        assert root_of_inclusion(index, size, LEAVES[index], proof) == root
        assert root_of_inclusion(index, size, other, proof) != root or other == LEAVES[index]
    for changed in (proof[:cut], [*proof, other], [other, *proof[1:]]):
        try:
            expected = root_from_inclusion(index, size, LEAVES[index % 80], changed)
        except ProofError:
            with pytest.raises(BadExportError):
                root_of_inclusion(index, size, LEAVES[index % 80], changed)
        else:
            assert root_of_inclusion(index, size, LEAVES[index % 80], changed) == expected


@given(st.integers(0, 70), st.integers(0, 70), st.integers(0, 7), st.binary(min_size=32, max_size=32))
def test_consistency_is_taken_and_refused_as_by_the_library(size1: int, size2: int, cut: int, other: bytes) -> None:
    proof = prove_consistency(size1, size2, nodes_of(LEAVES)) if 0 < size1 <= size2 else []
    root1, root2 = range_of(0, size1).root(), range_of(0, size2).root()
    for changed in (proof, proof[:cut], [*proof, other], [other, *proof[1:]]):
        for old, new in ((root1, root2), (other, root2), (root1, other)):
            try:
                verify_consistency(size1, size2, changed, old, new)
            except ProofError:
                with pytest.raises(BadExportError, match="history was rewritten"):
                    check_consistency(size1, size2, changed, old, new)
            else:
                check_consistency(size1, size2, changed, old, new)


@given(
    st.integers(0, 2**31), st.tuples(*[st.integers(0, 2**62)] * 3),
    st.sampled_from([b"", b"01a0c450-6c02-7349-b683-d9afd2c15408"]),
    st.lists(st.binary(min_size=32, max_size=32), min_size=4, max_size=4),
)  # fmt: skip
def test_leaves_are_those_of_the_writer(
    partition: int, numbers: tuple[int, int, int], event_id: bytes, digests: list[bytes]
) -> None:
    index, offset, time_us = numbers
    topic_id = "5eb96861-819f-47aa-a340-ea33e1a33b5e"
    hasher = LeafHasher(bytes.fromhex(topic_id.replace("-", "")), partition)
    schema, key, headers, value = digests
    assert leaf_maker(topic_id, partition)(index, offset, time_us, event_id, *digests) == hasher.leaf(
        offset, index, time_us, event_id, schema, key, headers, value
    )


@given(values=st.lists(st.binary(max_size=300), max_size=4), cut=st.integers(0, 400))
def test_records_are_read_as_clickhouse_writes_them(
    values: list[bytes], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "records.bin"
    raw = b""
    for number, value in enumerate(values):
        length, rest = b"", len(value)
        while rest >= 128:
            length, rest = length + bytes([rest % 128 + 128]), rest // 128
        raw += RECORD.pack(0, number, number, number, *[bytes(32)] * 3) + length + bytes([rest]) + value
    path.write_bytes(raw)
    if values:
        assert [record[-1] for record in read_records(path)] == values
    path.write_bytes(raw[: max(0, len(raw) - 1 - cut)])
    with contextlib.suppress(*checker.BROKEN):
        assert len(list(read_records(path))) < max(1, len(values))


def test_hidden_leaves_are_read(tmp_path: Path) -> None:
    (tmp_path / "hidden").write_bytes(HIDDEN.pack(1, 2, LEAVES[0]) + HIDDEN.pack(1, 5, LEAVES[1]))
    assert list(read_hidden(tmp_path / "hidden")) == [(1, 2, LEAVES[0]), (1, 5, LEAVES[1])]


def test_keys_and_notes(tmp_path: Path) -> None:
    key, other = SignerKey.generate("example.com/a"), SignerKey.generate("example.com/a")
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{other.verifier}\n\n{key.verifier}\n", "utf-8")
    note = sign_note("one\ntwo\n", [key])
    assert open_note(note, read_keys(str(file)), "it") == "one\ntwo\n"
    assert open_note(note, read_keys(str(key.verifier)), "it") == "one\ntwo\n"
    with pytest.raises(BadExportError, match="not signed by a key that you trust"):
        open_note(note, read_keys(str(other.verifier)), "it")
    with pytest.raises(BadExportError, match="is wrong"):
        open_note(note.replace("two", "six"), [Key(str(key.verifier))], "it")
    for wrong in ("", "a+b", str(key.verifier)[:-4], str(key.verifier).replace("example", "elsewhere"), "a+b+AAAA"):
        with pytest.raises(BadExportError):
            read_keys(wrong or "-")


@pytest.mark.parametrize(
    "name",
    ["../data-000001.csv", "/etc/passwd", "data-000001.csv/../x", "data-1.csv", "data-000001.exe", "", ".", "a\x00b",
     "README.txt\n", "sub/README.txt"],
)  # fmt: skip
def test_a_name_cannot_leave_the_folder(name: str) -> None:
    assert NAME.fullmatch(name) is None


def test_it_is_one_file_that_needs_python_and_cryptography_alone() -> None:
    tree = ast.parse(Path(checker.__file__).read_text("utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or "."] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert imported - set(sys.stdlib_module_names) == {"cryptography"}
    assert hashlib.sha256(b"").digest() == Tree(0, 0, []).root()
