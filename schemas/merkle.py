"""Merkle trees of RFC 6962 and RFC 9162 (section 2.1): tree hash, inclusion and consistency proofs. Pure.

A tree is named by its size and its root. Hashes are SHA-256, 32 bytes. Proofs are lists of hashes from the bottom up.
Verification raises ProofError; what it takes is what the RFC takes: a proof of the one right length, made of whole
hashes. Section numbers are those of RFC 9162.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from agentledger.schemas.errors import ProofError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
SIZE_MAX = 2**64 - 1
NodeReader = Callable[[int, int], bytes]  # (first leaf, leaf behind the last) to the root of these leaves

_sha256 = hashlib.sha256


def hash_leaf(data: bytes) -> bytes:
    """The leaf hash of an entry (2.1.1)."""
    return _sha256(b"\x00" + data).digest()


def hash_children(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node (2.1.1)."""
    return _sha256(b"\x01" + left + right).digest()


def split_point(size: int) -> int:
    """The largest power of two below `size`, which is 2 or more: how many leaves are under a root's left child."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_path(index: int, size: int) -> list[tuple[int, int]]:
    """The nodes of the inclusion proof of a leaf (2.1.3.1), from the bottom up, each as (first leaf, leaf behind)."""
    if not 0 <= index < size:
        raise ProofError(f"there is no leaf {index} in a tree of {size}")
    nodes: list[tuple[int, int]] = []
    first, behind = 0, size
    while behind - first > 1:
        middle = first + split_point(behind - first)
        if index < middle:
            nodes.append((middle, behind))
            behind = middle
        else:
            nodes.append((first, middle))
            first = middle
    return nodes[::-1]


def consistency_path(size1: int, size2: int) -> list[tuple[int, int]]:
    """The nodes of the consistency proof between two sizes (2.1.4.1), from the bottom up; none for equal sizes."""
    if not 0 < size1 <= size2:
        raise ProofError(f"there is no consistency proof from size {size1} to {size2}")
    nodes: list[tuple[int, int]] = []
    first, behind = 0, size2
    while size1 != behind:
        middle = first + split_point(behind - first)
        if size1 <= middle:
            nodes.append((middle, behind))
            behind = middle
        else:
            nodes.append((first, middle))
            first = middle
    if first:  # where the old tree is a whole subtree on the left, the verifier has its root already
        nodes.append((first, behind))
    return nodes[::-1]


def prove_inclusion(index: int, size: int, node: NodeReader) -> list[bytes]:
    """The inclusion proof of a leaf in a tree of that size; `node` gives the roots of subtrees."""
    return [node(first, behind) for first, behind in inclusion_path(index, size)]


def prove_consistency(size1: int, size2: int, node: NodeReader) -> list[bytes]:
    """The consistency proof between two sizes of one tree; `node` gives the roots of subtrees."""
    return [node(first, behind) for first, behind in consistency_path(size1, size2)]


def root_from_inclusion(index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes]) -> bytes:
    """The root that a tree must have, if this leaf is in it at this place (2.1.3.2). Raises ProofError."""
    if not 0 <= index < size <= SIZE_MAX:
        raise ProofError(f"there is no leaf {index} in a tree of {size}")
    _check_hashes((leaf_hash, *proof))
    inner, border = _proof_shape(index, size)
    _check_length(proof, inner + border)
    return _chain_border(_chain_inner(leaf_hash, proof[:inner], index), proof[inner:])


def verify_inclusion(index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf is at this place in the tree of this size and root. Raises ProofError."""
    found = root_from_inclusion(index, size, leaf_hash, proof)
    if found != root:
        raise ProofError(f"leaf {index} gives the root {found.hex()}, not {root.hex()}", where=f"tree size {size}")


def verify_consistency(size1: int, size2: int, proof: Sequence[bytes], root1: bytes, root2: bytes) -> None:
    """Check that the tree of size2 begins with that of size1 (2.1.4.2). Raises ProofError.

    From size 0 nothing can be proven: it is refused. Equal sizes take an empty proof and equal roots.
    """
    if not 0 < size1 <= size2 <= SIZE_MAX:
        raise ProofError(f"there is no consistency proof from size {size1} to {size2}")
    if size1 == size2:
        _check_length(proof, 0)
        if root1 != root2:
            raise ProofError(f"two roots for one size: {root1.hex()} and {root2.hex()}", where=f"tree size {size1}")
        return
    _check_hashes((root1, root2, *proof))
    whole_levels = (size1 & -size1).bit_length() - 1
    inner, border = _proof_shape(size1 - 1, size2)
    inner -= whole_levels
    if size1 == 1 << whole_levels:
        seed, path = root1, proof
    elif proof:
        seed, path = proof[0], proof[1:]
    else:
        raise ProofError("the proof is empty", where=f"sizes {size1} and {size2}")
    _check_length(path, inner + border)
    place = (size1 - 1) >> whole_levels
    old = seed
    for level, sibling in enumerate(path[:inner]):
        if place >> level & 1:
            old = hash_children(sibling, old)
    if _chain_border(old, path[inner:]) != root1:
        raise ProofError("the proof does not give the old root", where=f"sizes {size1} and {size2}")
    if _chain_border(_chain_inner(seed, path[:inner], place), path[inner:]) != root2:
        raise ProofError("the proof does not give the new root", where=f"sizes {size1} and {size2}")


def _proof_shape(index: int, size: int) -> tuple[int, int]:
    """How many nodes of an inclusion proof are below the place where the paths to this leaf and the last one part,
    and how many above it, where all siblings are on the left."""
    inner = (index ^ (size - 1)).bit_length()
    return inner, (index >> inner).bit_count()


def _chain_inner(seed: bytes, proof: Sequence[bytes], index: int) -> bytes:
    for level, sibling in enumerate(proof):
        seed = hash_children(sibling, seed) if index >> level & 1 else hash_children(seed, sibling)
    return seed


def _chain_border(seed: bytes, proof: Sequence[bytes]) -> bytes:
    for sibling in proof:
        seed = hash_children(sibling, seed)
    return seed


def _check_hashes(hashes: Sequence[bytes]) -> None:
    for found in hashes:
        if len(found) != HASH_BYTES:
            raise ProofError(f"a hash has {len(found)} bytes instead of {HASH_BYTES}")


def _check_length(proof: Sequence[bytes], expected: int) -> None:
    if len(proof) != expected:
        raise ProofError(f"the proof has {len(proof)} nodes instead of {expected}")
