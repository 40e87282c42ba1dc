"""Compact ranges: the roots of the whole subtrees that cover a range of a log's leaves, a few hashes in place of all.

A range that begins at 0 gives the tree's root, and can be extended by leaves without the earlier ones; two ranges side
by side merge into one. At most 64 hashes for each border.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from agentledger.schemas.errors import ProofError
from agentledger.schemas.merkle import EMPTY_ROOT, HASH_BYTES, hash_children

_sha256 = hashlib.sha256


def node_levels(first: int, behind: int) -> list[int]:
    """The levels of the subtrees that cover leaves `first` to `behind` - 1, from left to right."""
    levels = []
    while first < behind:
        aligned = (first & -first).bit_length() - 1 if first else 64
        level = min(aligned, (behind - first).bit_length() - 1)
        levels.append(level)
        first += 1 << level
    return levels


class CompactRange:
    """Leaves `first` to `behind` - 1 of a log, as the hashes of the subtrees that cover them."""

    __slots__ = ("_hashes", "_levels", "behind", "first")

    def __init__(self, first: int = 0, behind: int | None = None, hashes: Sequence[bytes] = ()) -> None:
        """A range with these hashes, from left to right. Raises ProofError where their number or size is wrong."""
        self.first = first
        self.behind = first if behind is None else behind
        self._levels = node_levels(first, self.behind) if 0 <= first <= self.behind else [-1]
        self._hashes = list(hashes)
        if len(self._levels) != len(self._hashes) or any(len(found) != HASH_BYTES for found in hashes):
            raise ProofError(
                f"a range from {first} to {self.behind} is not covered by {len(self._hashes)} hashes",
                next_step="it was cut or changed: build it again from the leaves",
            )

    def __len__(self) -> int:
        return self.behind - self.first

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CompactRange):
            return NotImplemented
        return (self.first, self.behind, self._hashes) == (other.first, other.behind, other._hashes)

    def __hash__(self) -> int:
        return hash((self.first, self.behind, *self._hashes))

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """The hashes from left to right."""
        return tuple(self._hashes)

    def copy(self) -> CompactRange:
        """The same range, to be extended on its own."""
        return CompactRange(self.first, self.behind, self._hashes)

    def append(self, leaf_hash: bytes) -> None:
        """Add the next leaf."""
        self._push(0, leaf_hash)

    def extend(self, leaf_hashes: Iterable[bytes]) -> None:
        """Add the next leaves, each a hash of 32 bytes: one hash per leaf, level by level."""
        nodes = list(leaf_hashes)
        left: list[tuple[int, bytes]] = []
        right: list[tuple[int, bytes]] = []
        place, level, sha256 = self.behind, 0, _sha256
        while nodes:
            if place & 1:  # its sibling is in what was there before, or in no range of ours
                left.append((level, nodes[0]))
                del nodes[0]
                place += 1
            if len(nodes) & 1:
                right.append((level, nodes.pop()))
            pairs = iter(nodes)
            nodes = [sha256(b"\x01" + one + two).digest() for one, two in zip(pairs, pairs, strict=True)]
            place >>= 1
            level += 1
        for level, node in left:
            self._push(level, node)
        for level, node in reversed(right):
            self._push(level, node)

    def merge(self, other: CompactRange) -> None:
        """Add the range that begins where this one ends. Raises ProofError where it doesn't."""
        if other.first != self.behind:
            raise ProofError(f"a range from {other.first} does not follow one up to {self.behind}")
        for level, node in zip(other._levels, other._hashes, strict=True):
            self._push(level, node)

    def root(self) -> bytes:
        """The root of the tree of all leaves so far. Raises ProofError for a range that doesn't begin at 0."""
        if self.first:
            raise ProofError(f"a range from {self.first} has no root: leaves before it are missing")
        if not self._hashes:
            return EMPTY_ROOT
        root = self._hashes[-1]
        for node in reversed(self._hashes[:-1]):
            root = hash_children(node, root)
        return root

    def to_bytes(self) -> bytes:
        """The hashes in one: what is kept where first and behind are known."""
        return b"".join(self._hashes)

    @staticmethod
    def from_bytes(first: int, behind: int, raw: bytes) -> CompactRange:
        """The range of `to_bytes`. Raises ProofError where the bytes can't be one of these bounds."""
        return CompactRange(
            first, behind, [raw[start : start + HASH_BYTES] for start in range(0, len(raw), HASH_BYTES)]
        )

    def _push(self, level: int, node: bytes) -> None:
        """Add a whole subtree behind the range, and join what is whole then."""
        levels, hashes = self._levels, self._hashes
        place = self.behind >> level
        self.behind += 1 << level
        while place & 1 and levels and levels[-1] == level:
            node = hash_children(hashes.pop(), node)
            levels.pop()
            level += 1
            place >>= 1
        levels.append(level)
        hashes.append(node)
