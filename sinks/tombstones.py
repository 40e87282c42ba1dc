"""Tombstones: what a purge leaves, so that the rows that are left still verify.

A purge plan names, per log, the ranges of rows that go, each as the hashes of the subtrees that cover it (a compact
range). Two people sign it with keys of their own; plan and signatures are the tombstone. The hashes can't be made up:
with a wrong one no signed root comes out. The signatures say that it was not the database's administrator alone who
took the rows away. Each tombstone is a pair of files in the folder `tombstones` beside the checkpoints.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from agentledger.schemas.compact_range import CompactRange, node_levels
from agentledger.schemas.errors import ProofError
from agentledger.schemas.hashing import canonical_json
from agentledger.schemas.heads import LogId
from agentledger.schemas.notes import Note, VerifierKey, decode_base64, encode_base64, open_note
from agentledger.sinks.chain import Problem
from agentledger.sinks.key_files import write_synced

FOLDER = "tombstones"
APPROVERS_MIN = 2
PLAN_VERSION = 1
PLAN_HEADER = "agentledger.purge.v1"
PLAN_BYTES_MAX = 256 * 1024 * 1024  # a million ranges and more; one file is read whole


class PlannedLog(NamedTuple):
    """What goes of one log."""

    topic: str
    log: LogId
    ranges: tuple[CompactRange, ...]

    @property
    def rows(self) -> int:
        """How many rows go."""
        return sum(len(one) for one in self.ranges)


@dataclass(frozen=True)
class PurgePlan:
    """Which rows of a tenant go. `data_class` is trail (whole rows) or payloads (their bytes and content)."""

    tenant_id: str
    data_class: str
    before_us: int  # ledger time
    made_at_us: int
    logs: tuple[PlannedLog, ...]

    @property
    def rows(self) -> int:
        """How many rows go."""
        return sum(log.rows for log in self.logs)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        logs = [
            {
                "topic": one.topic,
                "topic_id": one.log.topic_id,
                "partition": one.log.partition,
                "ranges": [[r.first, r.behind, *(encode_base64(h) for h in r.hashes)] for r in one.ranges],
            }
            for one in self.logs
        ]
        return canonical_json(
            {
                "version": PLAN_VERSION,
                "tenant_id": self.tenant_id,
                "data_class": self.data_class,
                "before_us": self.before_us,
                "made_at_us": self.made_at_us,
                "rows": self.rows,
                "logs": logs,
            }
        )

    @staticmethod
    def from_bytes(raw: bytes) -> PurgePlan:
        """The plan in these bytes, in their one spelling. Raises ProofError."""
        try:
            found = json.loads(raw)
            plan = PurgePlan(
                str(found["tenant_id"]), str(found["data_class"]), int(found["before_us"]), int(found["made_at_us"]),
                tuple(_planned_log(one) for one in found["logs"]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ProofError(f"this is no purge plan: {type(error).__name__}") from None
        if plan.to_bytes() != raw:
            raise ProofError("this is no purge plan: it isn't spelled as one")
        return plan

    def statement(self) -> str:
        """The text that approvers sign: what goes, and the hash of the whole plan."""
        raw = self.to_bytes()
        said = {
            "tenant_id": self.tenant_id, "data_class": self.data_class, "before_us": self.before_us,
            "rows": self.rows, "plan_sha256": hashlib.sha256(raw).hexdigest(),
        }  # fmt: skip
        return f"{PLAN_HEADER}\n{canonical_json(said).decode()}\n"

    def sha256(self) -> str:
        """The plan's name, hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def _planned_log(found: Any) -> PlannedLog:
    ranges = []
    behind = 0
    for first, last, *hashes in found["ranges"]:
        if not isinstance(first, int) or not isinstance(last, int) or first < behind or last <= first:
            raise ProofError("this is no purge plan: its ranges overlap or are empty")
        ranges.append(CompactRange(first, last, [decode_base64(text, "a hash") for text in hashes]))
        behind = last
    return PlannedLog(str(found["topic"]), LogId(str(found["topic_id"]), int(found["partition"])), tuple(ranges))


def approvers_of(plan: PurgePlan, note: str, trusted: Sequence[VerifierKey]) -> list[VerifierKey]:
    """Who of the trusted has signed exactly this plan. Raises ProofError where a signature is wrong."""
    if open_note(note, trusted) != plan.statement():
        raise ProofError("the approvals are for another plan")
    return Note.parse(note).signers(trusted)


def check_approved(plan: PurgePlan, note: str, trusted: Sequence[VerifierKey]) -> list[VerifierKey]:
    """The approvers. Raises ProofError unless two different keys under two different names have signed."""
    signed = approvers_of(plan, note, trusted)
    if len({key.public for key in signed}) < APPROVERS_MIN or len({key.name for key in signed}) < APPROVERS_MIN:
        names = ", ".join(sorted({key.name for key in signed})) or "nobody"
        raise ProofError(
            f"a purge needs {APPROVERS_MIN} approvers, and {names} alone has signed",
            next_step="agentledger retention approve PLAN --key FILE, by another person",
        )
    return signed


class PurgedNodes:
    """The purged subtrees of one log, the largest where they lie inside of each other. They never overlap halfway."""

    def __init__(self, ranges: Iterable[CompactRange] = ()) -> None:
        self._nodes: dict[int, CompactRange] = {}
        for one in ranges:
            first = one.first
            for level, found in zip(node_levels(one.first, one.behind), one.hashes, strict=True):
                known = self._nodes.get(first)
                if known is None or len(known) < 1 << level:
                    self._nodes[first] = CompactRange(first, first + (1 << level), [found])
                first += 1 << level
        self._outermost: list[CompactRange] = []
        behind = 0
        for first in sorted(self._nodes):
            if first >= behind:
                self._outermost.append(self._nodes[first])
                behind = self._nodes[first].behind

    def __bool__(self) -> bool:
        return bool(self._nodes)

    @property
    def rows(self) -> int:
        """How many rows they stand for."""
        return sum(len(node) for node in self._outermost)

    def pieces(self, first: int, behind: int) -> Iterator[tuple[int, int, CompactRange | None]]:
        """The rows `first` to `behind` - 1 as pieces, from left to right: rows that must be there (None), and nodes
        that begin here, whole, even where they end beyond. Call it part by part, each behind the one before."""
        place = first
        for node in self._outermost:
            if node.behind <= first:
                continue
            if node.first >= behind:
                break
            if node.first > place:
                yield place, node.first, None
            if node.first >= first:
                yield node.first, node.behind, node
            place = node.behind
        if place < behind:
            yield place, behind, None


NOTHING_PURGED = PurgedNodes()


class Tombstone(NamedTuple):
    """A purge that was approved."""

    plan: PurgePlan
    approvers: tuple[str, ...]


@dataclass(frozen=True)
class Tombstones:
    """All tombstones beside the checkpoints that hold."""

    found: tuple[Tombstone, ...] = ()

    def nodes(self, log: LogId) -> PurgedNodes:
        """What is purged of a log."""
        ranges = [one for stone in self.found for of_log in stone.plan.logs if of_log.log == log
                  for one in of_log.ranges]  # fmt: skip
        return PurgedNodes(ranges) if ranges else NOTHING_PURGED

    def has_payloads(self, log: LogId) -> bool:
        """Whether rows of a log are there without their bytes."""
        return any(
            stone.plan.data_class == "payloads" and any(of_log.log == log for of_log in stone.plan.logs)
            for stone in self.found
        )


def keep_tombstone(checkpoints_dir: Path, plan: PurgePlan, note: str) -> Path:
    """Write plan and approvals beside the checkpoints; the plan's path. Returns when they are on disk."""
    folder = checkpoints_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{plan.sha256()}.json"
    write_synced(path.with_suffix(".note"), note, 0o444)
    write_synced(path, plan.to_bytes().decode(), 0o444)
    return path


def read_tombstones(checkpoints_dir: Path, trusted: Sequence[VerifierKey]) -> tuple[Tombstones, list[Problem]]:
    """The tombstones that two trusted keys have signed, and what is wrong with the others."""
    found, problems = [], []
    for path in sorted((checkpoints_dir / FOLDER).glob("*.json")):
        try:
            plan = read_plan(path)
            if path.stem != plan.sha256():
                raise ProofError("its name is not the hash of what it holds")
            signed = check_approved(plan, path.with_suffix(".note").read_text("utf-8"), trusted)
            found.append(Tombstone(plan, tuple(key.name for key in signed)))
        except (ProofError, OSError, UnicodeDecodeError) as error:
            problems.append(Problem("tombstone", str(path), None, f"not accepted: {error}"))
    return Tombstones(tuple(found)), problems


def read_plan(path: Path) -> PurgePlan:
    """The plan in a file. Raises ProofError."""
    try:
        if path.stat().st_size > PLAN_BYTES_MAX:
            raise ProofError("the plan is too large", where=str(path))
        return PurgePlan.from_bytes(path.read_bytes())
    except OSError as error:
        raise ProofError(f"the plan can't be read: {error.strerror}", where=str(path)) from None
