"""Merkle proofs and compact ranges, against the public vectors and against the RFC's own recursive definitions."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.schemas.compact_range import CompactRange, node_levels
from agentledger.schemas.errors import ProofError
from agentledger.schemas.hashing import LEAF_DOMAIN, LeafHasher
from agentledger.schemas.merkle import (
    EMPTY_ROOT,
    hash_leaf,
    prove_consistency,
    prove_inclusion,
    verify_consistency,
    verify_inclusion,
)
from tests.golden.merkle import generate

FOLDER = Path(__file__).parents[1] / "golden" / "merkle"
INCLUSION = json.loads((FOLDER / "inclusion.json").read_text("utf-8"))
CONSISTENCY = json.loads((FOLDER / "consistency.json").read_text("utf-8"))
# Of the RFC 6962 reference implementation: the roots of its eight leaves, sizes 1 to 8.
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PUBLISHED_PROOFS = {
    ("inclusion", 0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    ("inclusion", 5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    ("consistency", 6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    ("consistency", 6, 7): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}


def raw(text: str) -> bytes:
    return base64.b64decode(text)


def node_of(leaves: list[bytes]) -> Any:
    return lambda first, behind: generate.tree_hash(leaves[first:behind])


def test_vectors_are_what_the_generator_gives_and_98_of_each_kind() -> None:
    assert (FOLDER / "inclusion.json").read_text("utf-8") == generate.render(generate.inclusion_cases())
    assert (FOLDER / "consistency.json").read_text("utf-8") == generate.render(generate.consistency_cases())
    assert (len(INCLUSION), len(CONSISTENCY)) == (98, 98)
    assert sum(not case["wantErr"] for case in INCLUSION) == 6
    assert sum(not case["wantErr"] for case in CONSISTENCY) == 6


def test_generator_gives_the_published_roots_and_proofs() -> None:
    assert [generate.tree_hash(generate.LEAVES[: size + 1]).hex() for size in range(8)] == ROOTS
    for (kind, one, two), expected in PUBLISHED_PROOFS.items():
        leaves = generate.LEAVES[:two]
        found = generate.path(one, leaves) if kind == "inclusion" else generate.proof(one, leaves)
        assert [node.hex() for node in found] == expected


@pytest.mark.parametrize("case", INCLUSION, ids=lambda case: f"{case['leafIdx']}-{case['treeSize']}-{case['desc']}")
def test_inclusion_vector(case: dict[str, Any]) -> None:
    proof = [raw(node) for node in case["proof"]]
    arguments = case["leafIdx"], case["treeSize"], raw(case["leafHash"]), proof, raw(case["root"])
    if case["wantErr"]:
        with pytest.raises(ProofError):
            verify_inclusion(*arguments)
    else:
        verify_inclusion(*arguments)


@pytest.mark.parametrize("case", CONSISTENCY, ids=lambda case: f"{case['size1']}-{case['size2']}-{case['desc']}")
def test_consistency_vector(case: dict[str, Any]) -> None:
    proof = [raw(node) for node in case["proof"]]
    arguments = case["size1"], case["size2"], proof, raw(case["root1"]), raw(case["root2"])
    if case["wantErr"]:
        with pytest.raises(ProofError):
            verify_consistency(*arguments)
    else:
        verify_consistency(*arguments)


def test_proofs_of_every_small_tree_are_those_of_the_rfc_and_verify() -> None:
    leaves = [bytes([number]) for number in range(35)]
    roots = [generate.tree_hash(leaves[:size]) for size in range(36)]
    for size in range(1, 36):
        node = node_of(leaves[:size])
        for index in range(size):
            proof = prove_inclusion(index, size, node)
            assert proof == generate.path(index, leaves[:size])
            verify_inclusion(index, size, hash_leaf(leaves[index]), proof, roots[size])
        for size1 in range(1, size + 1):
            proof = prove_consistency(size1, size, node)
            assert proof == generate.proof(size1, leaves[:size])
            verify_consistency(size1, size, proof, roots[size1], roots[size])


@given(st.integers(0, 40), st.integers(1, 40), st.integers(1, 40), st.lists(st.binary(min_size=32, max_size=32)))
def test_no_other_size_or_index_takes_a_proof(index: int, size: int, other: int, extra: list[bytes]) -> None:
    leaves = [bytes([number]) for number in range(41)]
    index %= size
    proof = generate.path(index, leaves[:size])
    root, leaf = generate.tree_hash(leaves[:size]), hash_leaf(leaves[index])
    if other != index:
        with pytest.raises(ProofError):
            verify_inclusion(other, size, leaf, proof, root)
    if extra:
        with pytest.raises(ProofError):
            verify_inclusion(index, size, leaf, proof + extra, root)


@pytest.mark.parametrize("sizes", [(0, 1), (0, 0), (2, 1), (1, 2**64)])
def test_sizes_without_a_proof_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ProofError):
        verify_consistency(*sizes, [], EMPTY_ROOT, EMPTY_ROOT)
    with pytest.raises(ProofError):
        prove_consistency(*sizes, node_of([])) if sizes != (1, 2**64) else verify_inclusion(
            sizes[1], sizes[1], EMPTY_ROOT, [], EMPTY_ROOT
        )


@given(st.lists(st.integers(0, 70), max_size=6), st.integers(0, 300))
def test_a_range_is_the_same_however_it_grew(steps: list[int], first: int) -> None:
    hashes = [hashlib.sha256(bytes([number % 256, number // 256])).digest() for number in range(sum(steps))]
    one_by_one, in_steps, merged = CompactRange(first), CompactRange(first), CompactRange(first)
    for leaf in hashes:
        one_by_one.append(leaf)
    done = 0
    for step in steps:
        part = CompactRange(first + done)
        part.extend(hashes[done : done + step])
        in_steps.extend(hashes[done : done + step])
        merged.merge(part)
        done += step
    assert one_by_one == in_steps == merged
    assert hash(one_by_one) == hash(merged)
    assert len(merged) == sum(steps)
    assert CompactRange.from_bytes(first, merged.behind, merged.to_bytes()) == merged
    assert len(merged.hashes) == len(node_levels(first, merged.behind))


@given(st.integers(0, 130))
def test_root_of_a_range_is_the_tree_hash(size: int) -> None:
    leaves = [bytes([number]) for number in range(size)]
    grown = CompactRange()
    grown.extend(hash_leaf(leaf) for leaf in leaves)
    assert grown.root() == generate.tree_hash(leaves)
    copy = grown.copy()
    copy.append(hash_leaf(b"more"))
    assert (len(copy), len(grown)) == (size + 1, size)
    assert grown != copy


def test_a_range_that_is_not_whole_is_refused() -> None:
    grown = CompactRange()
    grown.extend([hash_leaf(b"a"), hash_leaf(b"b"), hash_leaf(b"c")])
    for first, behind, spoiled in ((0, 3, grown.to_bytes()[:-1]), (0, 3, grown.to_bytes() + b"\0" * 32), (0, 2, b""),
                                   (3, 2, b""), (-1, 2, b"")):  # fmt: skip
        with pytest.raises(ProofError):
            CompactRange.from_bytes(first, behind, spoiled)
    with pytest.raises(ProofError, match="does not follow"):
        grown.merge(CompactRange(5))
    with pytest.raises(ProofError, match="no root"):
        CompactRange(5).root()
    assert grown != "a range"


def test_a_leaf_of_the_ledger_is_a_leaf_hash_of_the_rfc() -> None:
    topic_id, hashes = bytes(range(16)), [bytes([number]) * 32 for number in range(4)]
    parts = [LEAF_DOMAIN, topic_id, (7).to_bytes(4, "big"), (5).to_bytes(8, "big"), (3).to_bytes(8, "big"),
             (9).to_bytes(8, "big"), b"id", *hashes]  # fmt: skip
    data = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    assert LeafHasher(topic_id, 7).leaf(5, 3, 9, b"id", *hashes) == hash_leaf(data)
