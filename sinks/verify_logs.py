"""Rebuilds the tree of one log from its rows and holds it against the heads that were signed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from agentledger.schemas.compact_range import CompactRange
from agentledger.schemas.errors import IntegrityError
from agentledger.schemas.heads import Head
from agentledger.schemas.notes import encode_base64
from agentledger.sinks.chain import Problem
from agentledger.sinks.tombstones import NOTHING_PURGED, PurgedNodes
from agentledger.sinks.verify_rows import CheckedPart

PART_ROWS_MAX = 50_000  # rows at a time: some 50 MB with columns and bytes
PROBLEMS_MAX = 50  # of one log: more of them say nothing new

CheckParts = Callable[[Iterable[tuple[int, int]]], Iterator[CheckedPart]]
ReadLeaves = Callable[[int, int], list[bytes]]
Progress = Callable[[int], None]


class LogReport(NamedTuple):
    """What one log's verification found."""

    problems: list[Problem]
    rows_checked: int
    heads_checked: int
    server_verdicts: int  # rows that are unreadable by the word of the server alone
    unsigned: int  # rows behind the last signed head: nothing outside the database vouches for them yet
    purged: int  # rows that a tombstone stands for


class LogVerifier:
    """Verifies one log of `size` rows against its heads."""

    def __init__(
        self,
        name: str,
        size: int,
        heads: Sequence[Head],
        *,
        check: CheckParts,
        read_leaves: ReadLeaves,
        is_wanted: Callable[[int, int], bool],
        progress: Progress,
        purged: PurgedNodes = NOTHING_PURGED,
    ) -> None:
        self._name = name
        self._size = size
        self._heads = [head for head in heads if head.size <= size]
        self._missing_heads = [head for head in heads if head.size > size]
        self._check = check
        self._read_leaves = read_leaves
        self._is_wanted = is_wanted
        self._progress = progress
        self._purged = purged
        self._heads_unseen = 0  # of sizes within a purged range
        self._problems: list[Problem] = []
        self._computed = CompactRange()
        self._stored: CompactRange | None = None  # only where a leaf_hash is not what the bytes give
        self._next_head = 0
        self._proven = 0  # rows that a signed head holds
        self._can_be_proven = True

    def verify(self) -> LogReport:
        """Check every row that is wanted and every head."""
        if self._missing_heads:
            last = self._missing_heads[-1]
            what = "the log has vanished" if self._size == 0 else "the newest rows are gone"
            self._add(
                "missing", self._size, f"{what}: expected {last.size} rows, signed with root {encode_base64(last.root)}"
            )
        rows = server_verdicts = 0
        parts = [
            (first, min(self._size, first + PART_ROWS_MAX)) for first in range(0, self._size, PART_ROWS_MAX)
        ]  # fmt: skip
        wanted = {part for part in parts if self._is_wanted(*part)}
        checked = self._check(part for part in parts if part in wanted)
        for first, behind in parts:
            if (first, behind) in wanted:
                part = next(checked)
                rows += behind - first - (part.leaves.count(None) if self._purged else 0)
                server_verdicts += part.server_verdicts
                self._take(part)
            else:
                self._take_leaves(first, behind)
            self._progress(behind - first)
        heads_checked = self._next_head - self._heads_unseen
        unsigned = self._size - self._proven
        return LogReport(self._problems, rows, heads_checked, server_verdicts, unsigned, self._purged.rows)

    def _take_leaves(self, first: int, behind: int) -> None:
        for start, end, node in self._purged.pieces(first, behind):
            if node is not None:
                self._bury(node)
                continue
            try:
                leaves = self._read_leaves(start, end)
            except IntegrityError as error:
                self._add("missing", None, error.what)
                self._can_be_proven = False
                return
            self._grow(start, leaves, {})

    def _take(self, part: CheckedPart) -> None:
        for problem in part.problems:
            self._add(problem.kind, problem.log_index, problem.text)
        behind, rest = part.first + len(part.leaves), list(part.leaves)
        for first, end, node in self._purged.pieces(part.first, behind):
            if node is not None:
                self._bury(node)
                continue
            self._take_rows(first, part.leaves[first - part.first : end - part.first], part.stored)
            rest[first - part.first : end - part.first] = [None] * (end - first)
        left = [part.first + place for place, leaf in enumerate(rest) if leaf is not None] if self._purged else []
        for first, last in runs_of(left):
            text = f"{last - first + 1} rows are still there that a tombstone says are gone: run the purge again"
            self._add("purge", first, text)

    def _take_rows(self, start: int, found: Sequence[bytes | None], stored: dict[int, bytes]) -> None:
        """Rows from `start` on that all must be there."""
        leaves = [leaf for leaf in found if leaf is not None]
        if len(leaves) == len(found):
            self._grow(start, leaves, stored)
            return
        for first, last in runs_of(start + place for place, leaf in enumerate(found) if leaf is None):
            what = "the row is missing" if first == last else f"the rows up to index {last} are missing"
            self._add("missing", first, f"{what}, expected {last - first + 1} at {first} to {last}")
        self._can_be_proven = False

    def _bury(self, node: CompactRange) -> None:
        """Extend the tree by a purged subtree. Heads of sizes within it can't be rebuilt any more; those behind can."""
        if not self._can_be_proven:
            return
        for tree in (self._computed, self._stored):
            if tree is not None:
                tree.merge(node)
        while self._next_head < len(self._heads) and self._heads[self._next_head].size < node.behind:
            self._next_head += 1
            self._heads_unseen += 1
        if self._next_head < len(self._heads) and self._heads[self._next_head].size == node.behind:
            self._next_head += 1
            self._hold_against(self._heads[self._next_head - 1])

    def _grow(self, first: int, leaves: Sequence[bytes], stored: dict[int, bytes]) -> None:
        """Extend the tree by leaves from `first` on, and look at each head on the way."""
        if not self._can_be_proven:
            return
        done, behind = first, first + len(leaves)
        while self._next_head < len(self._heads) and self._heads[self._next_head].size <= behind:
            head = self._heads[self._next_head]
            self._extend(done, leaves[done - first : head.size - first], stored)
            done = head.size
            self._next_head += 1
            if not self._hold_against(head):
                return
        self._extend(done, leaves[done - first :], stored)

    def _extend(self, first: int, leaves: Sequence[bytes], stored: dict[int, bytes]) -> None:
        changed = {index: leaf for index, leaf in stored.items() if first <= index < first + len(leaves)}
        if changed and self._stored is None:
            self._stored = self._computed.copy()
        if self._stored is not None:
            self._stored.extend(changed.get(first + place, leaf) for place, leaf in enumerate(leaves))
        self._computed.extend(leaves)

    def _hold_against(self, head: Head) -> bool:
        """Compare both trees with a signed head. False where neither is the one that was signed."""
        if self._computed.root() == head.root:
            self._proven, self._stored = head.size, None
            return True
        if self._stored is not None and self._stored.root() == head.root:
            # The leaf hashes are those that were signed, so it is the rows beside them that were changed.
            self._computed, self._stored, self._proven = self._stored, None, head.size
            return True
        since = f"rows {self._proven} to {head.size - 1}" if self._proven else f"the first {head.size} rows"
        self._add(
            "root", head.size - 1,
            f"{since} are not those that were signed: expected root {encode_base64(head.root)} for size {head.size}, "
            f"the rows give {encode_base64(self._computed.root())}",
        )  # fmt: skip
        self._can_be_proven = False
        return False

    def _add(self, kind: str, index: int | None, text: str) -> None:
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(Problem(kind, self._name, index, text))
        elif len(self._problems) == PROBLEMS_MAX:
            self._problems.append(Problem(kind, self._name, index, "and more: this is the last line about this log"))


def runs_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending numbers as (first, last) of each run without a hole."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs
