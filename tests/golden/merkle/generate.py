"""Generates the proof vectors again: `python -m tests.golden.merkle.generate` (see README.md beside this file).

Tree hash, PATH and PROOF are the recursive definitions of RFC 9162, section 2.1, and share no code with the project.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
LEAVES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
SOME_HASH = bytes.fromhex("abacaba000000000000000000000000000000000000000000060061e00123456")
EMPTY_TREE = hashlib.sha256(b"").digest()
UINT64 = 2**64
INCLUSION = ((0, 1), (0, 8), (5, 8), (2, 3), (1, 5))
CONSISTENCY = ((1, 1), (1, 8), (6, 8), (2, 5), (6, 7))
Case = dict[str, Any]
Proof = list[bytes]


def tree_hash(leaves: list[bytes]) -> bytes:
    """MTH of section 2.1.1."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = _k(len(leaves))
    return hashlib.sha256(b"\x01" + tree_hash(leaves[:k]) + tree_hash(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> Proof:
    """PATH of section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = _k(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), tree_hash(leaves[k:])]
    return [*path(m - k, leaves[k:]), tree_hash(leaves[:k])]


def proof(m: int, leaves: list[bytes], *, known: bool = True) -> Proof:
    """SUBPROOF of section 2.1.4.1."""
    if m == len(leaves):
        return [] if known else [tree_hash(leaves)]
    k = _k(len(leaves))
    if m <= k:
        return [*proof(m, leaves[:k], known=known), tree_hash(leaves[k:])]
    return [*proof(m - k, leaves[k:], known=False), tree_hash(leaves[:k])]


def _k(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def inclusion_cases() -> list[Case]:
    """The 98 inclusion cases."""
    cases = []
    for index, size in INCLUSION:
        root, leaf = tree_hash(LEAVES[:size]), hashlib.sha256(b"\x00" + LEAVES[index]).digest()
        cases += _spoiled_inclusion(index, size, root, leaf, path(index, LEAVES[:size]))
    for index, size in ((0, 0), (0, 1), (1, 0), (2, 1)):
        cases += [
            _inclusion(index, size, b"", SOME_HASH, [], "random leaf"),
            _inclusion(index, size, EMPTY_TREE, b"", [], "empty root"),
            _inclusion(index, size, EMPTY_TREE, SOME_HASH, [], "empty root and random leaf"),
        ]
    data = hashlib.sha256(b"\x00data").digest()
    return [
        *cases,
        _inclusion(0, 1, data, data, [], "matching root and leaf", error=False),
        _inclusion(0, 1, data, b"", [], "empty leaf"),
        _inclusion(0, 1, b"", data, [], "empty root"),
        _inclusion(0, 1, b"", b"", [], "empty root and leaf"),
    ]


def _spoiled_inclusion(index: int, size: int, root: bytes, leaf: bytes, good: Proof) -> list[Case]:
    cases = [
        _inclusion(index, size, root, leaf, good, "happy path", error=False),
        _inclusion((index - 1) % UINT64, size, root, leaf, good, "leafIdx sub @1"),
        _inclusion(index + 1, size, root, leaf, good, "leafIdx plus @1"),
        _inclusion(index ^ 2, size, root, leaf, good, "leafIdx XOR @2"),
        _inclusion(index, size * 2, root, leaf, good, "treeSize mul @2"),
        _inclusion(index, size // 2, root, leaf, good, "treeSize div @2"),
        _inclusion(index, size, root, b"WrongLeaf", good, "wrong leaf"),
        _inclusion(index, size, EMPTY_TREE, leaf, good, "empty root"),
        _inclusion(index, size, SOME_HASH, leaf, good, "random root"),
        _inclusion(index, size, root, leaf, [*good, b""], "trailing garbage"),
        _inclusion(index, size, root, leaf, [*good, root], "trailing root"),
        _inclusion(index, size, root, leaf, [b"", *good], "preceding garbage"),
        _inclusion(index, size, root, leaf, [root, *good], "preceding root"),
    ]
    cases += [
        _inclusion(index, size, root, leaf, _flipped(good, place, 8), f"modified proof[{place}] bit @3")
        for place in range(len(good))
    ]
    if good:
        cases.append(_inclusion(index, size, root, leaf, good[:-1], "removed component"))
    if len(good) > 1:
        cases.append(_inclusion(index, size, root, leaf, [good[0], SOME_HASH, *good[1:]], "inserted component"))
    return cases


def consistency_cases() -> list[Case]:
    """The 98 consistency cases."""
    cases = []
    for size1, size2 in CONSISTENCY:
        root1, root2 = tree_hash(LEAVES[:size1]), tree_hash(LEAVES[:size2])
        cases += _spoiled_consistency(size1, size2, root1, root2, proof(size1, LEAVES[:size2]))
    one, two = b"don't care 1", b"don't care 2"
    cases += [
        _consistency(0, 0, one, two, [], "sizes are equal (zero) but roots are not"),
        _consistency(1, 1, one, two, [], "sizes are equal (one) but roots are not"),
        _consistency(0, 0, one, one, [], "sizes are equal (zero) and proof is empty"),
        _consistency(0, 1, one, two, [], "size1 is zero and does not equal size2"),
        _consistency(1, 1, two, two, [], "sizes are equal (one) and proof is empty", error=False),
        _consistency(1, 0, one, two, [], "size1 is greater than size2"),
        _consistency(2, 1, one, two, [], "size1 is greater than size2 again"),
        _consistency(1, 2, one, two, [], "sizes do not match and proof is empty"),
        _consistency(0, 0, EMPTY_TREE, two, [], "roots do not match and sizes are zero"),
        _consistency(1, 1, EMPTY_TREE, two, [], "roots do not match and sizes are one"),
        _consistency(0, 0, EMPTY_TREE, EMPTY_TREE, [EMPTY_TREE], "sizes are zero but proof is not empty"),
        _consistency(1, 1, EMPTY_TREE, EMPTY_TREE, [EMPTY_TREE], "sizes are one but proof is not empty"),
        _consistency(0, 1, EMPTY_TREE, two, [], "size1 is zero and size2 is not zero"),
        _consistency(0, 1, EMPTY_TREE, EMPTY_TREE, [EMPTY_TREE], "size1 is zero: the check is useless"),
    ]
    return cases


def _spoiled_consistency(size1: int, size2: int, root1: bytes, root2: bytes, good: Proof) -> list[Case]:
    cases = [_consistency(size1, size2, root1, root2, good, "happy path", error=False)]
    if not good:
        return cases
    cases += [
        _consistency(size1 - 1, size2, root1, root2, good, "size1 sub @1"),
        _consistency(size1 + 1, size2, root1, root2, good, "size1 plus @1"),
        _consistency(size1 ^ 2, size2, root1, root2, good, "size1 XOR @2"),
        _consistency(size1, size2 * 2, root1, root2, good, "size2 mul @2"),
        _consistency(size1, size2 // 2, root1, root2, good, "size2 div @2"),
        _consistency(size1, size2, b"WrongRoot", root2, good, "wrong root1"),
        _consistency(size1, size2, root1, b"WrongRoot", good, "wrong root2"),
        _consistency(size1, size2, root2, root1, good, "swapped roots"),
        _consistency(size1, size2, root1, root2, [], "empty proof"),
        _consistency(size1, size2, root1, root2, [*good, b""], "trailing garbage"),
        _consistency(size1, size2, root1, root2, [*good, root1], "trailing root1"),
        _consistency(size1, size2, root1, root2, [*good, root2], "trailing root2"),
        _consistency(size1, size2, root1, root2, [b"", *good], "preceding garbage"),
        _consistency(size1, size2, root1, root2, [root1, *good], "preceding root1"),
        _consistency(size1, size2, root1, root2, [root2, *good], "preceding root2"),
        _consistency(size1, size2, root1, root2, [good[0], *good], "preceding proof @0"),
        _consistency(size1, size2, root1, root2, good[:-1], "truncated proof"),
    ]
    for place in range(len(good)):
        spoiled = _flipped(good, place, 16)
        cases.append(_consistency(size1, size2, root1, root2, spoiled, f"modified proof@{place} bit @4"))
    return cases


def _flipped(good: Proof, place: int, bits: int) -> Proof:
    node = good[place]
    return [*good[:place], bytes([node[0] ^ bits]) + node[1:], *good[place + 1 :]]


def _inclusion(  # noqa: PLR0917 (a table of cases reads better without names)
    index: int, size: int, root: bytes, leaf: bytes, nodes: Proof, desc: str, *, error: bool = True
) -> Case:  # fmt: skip
    return {
        "leafIdx": index, "treeSize": size, "root": _text(root), "leafHash": _text(leaf),
        "proof": [_text(node) for node in nodes], "desc": desc, "wantErr": error,
    }  # fmt: skip


def _consistency(  # noqa: PLR0917 (as above)
    size1: int, size2: int, root1: bytes, root2: bytes, nodes: Proof, desc: str, *, error: bool = True
) -> Case:  # fmt: skip
    return {
        "size1": size1, "size2": size2, "root1": _text(root1), "root2": _text(root2),
        "proof": [_text(node) for node in nodes], "desc": desc, "wantErr": error,
    }  # fmt: skip


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def render(cases: list[Case]) -> str:
    """The file's text: one case per line."""
    return "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n"


def main() -> None:
    """Write both files."""
    (FOLDER / "inclusion.json").write_text(render(inclusion_cases()), "utf-8")
    (FOLDER / "consistency.json").write_text(render(consistency_cases()), "utf-8")


if __name__ == "__main__":
    main()
