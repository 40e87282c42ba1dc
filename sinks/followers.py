"""Who follows the published checkpoints outside: buckets that keep copies, and witnesses that cosign.

The signer's own folder comes first: there one bundle per name decides between two signers. A follower that is away
holds nothing up: it is tried again every half minute from where it was, and after ten minutes an alert says so. One
that contradicts (it holds another history) stops the signer, as a changed ledger does.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from agentledger.schemas.checkpoints import Checkpoint
from agentledger.schemas.compact_range import CompactRange, node_levels
from agentledger.schemas.errors import ConfigurationError, IntegrityError, ProofError, StoreError
from agentledger.schemas.heads import Bundle
from agentledger.schemas.merkle import hash_leaf, prove_consistency
from agentledger.schemas.notes import Note
from agentledger.schemas.ports import Clock
from agentledger.sinks.checkpoint_places import FolderPlace
from agentledger.sinks.cosignatures import keep_cosignature
from agentledger.sinks.key_files import write_private
from agentledger.sinks.s3_place import S3Place
from agentledger.sinks.witness_client import HttpWitness, OtherSizeError

BUNDLES_MAX = 100  # of one turn: what was missed is made up for while signing goes on
TRIES_MAX = 3  # its kept position may be wrong, and it may name another size
RETRY_US = 30_000_000
AWAY_US_MAX = 600_000_000  # then somebody is told: witnesses prove nothing of what they don't see
STATE = "followers.json"

Alert = Callable[[str, str, int, bool], None]  # who, what is said, since when (microseconds), whether it is back

log = logging.getLogger(__name__)


class Outside(Protocol):
    """One who follows. `starts_at_newest`: what came before its first time is of no use to it."""

    name: str
    starts_at_newest: bool

    def take(self, since: CompactRange, bundles: Sequence[Bundle]) -> None:
        """Take bundles that follow each other from `since` on. Raises StoreError where it is away, IntegrityError where
        it holds something else, OtherSizeError where it has to be told from another size on."""


class BucketCopies:
    """A bucket with a copy of each bundle."""

    starts_at_newest = False

    def __init__(self, place: S3Place) -> None:
        self._place = place
        self.name = place.name

    def take(self, since: CompactRange, bundles: Sequence[Bundle]) -> None:
        """Put the bundles there. Raises IntegrityError where something else has the name of one."""
        for bundle in bundles:
            if not self._place.publish(bundle.first, bundle.text()):
                raise IntegrityError(
                    f"the bucket keeps another checkpoint from leaf {bundle.first} on than the folder",
                    where=self.name, next_step="compare the two: one of them was forked or replaced",
                )  # fmt: skip


class Cosigning:
    """A witness whose signatures are kept beside the checkpoints."""

    starts_at_newest = True

    def __init__(self, witness: HttpWitness, place: FolderPlace) -> None:
        self._witness = witness
        self._place = place
        self.name = witness.key.name

    def take(self, since: CompactRange, bundles: Sequence[Bundle]) -> None:
        """Have the last of the bundles cosigned."""
        newest = bundles[-1]
        proof: list[bytes] = []
        if since.behind:
            leaves = [hash_leaf(line.encode()) for bundle in bundles for line in bundle.lines]
            proof = consistency_since(since, leaves)
        line = self._witness.add_checkpoint(since.behind, proof, newest.note)
        keep_cosignature(self._place, newest.first, line)


def consistency_since(since: CompactRange, leaves: Sequence[bytes]) -> list[bytes]:
    """The consistency proof from a tree, known by its compact range, to the one with these leaf hashes more."""
    covering: dict[tuple[int, int], bytes] = {}
    first = 0
    for level, found in zip(node_levels(0, since.behind), since.hashes, strict=True):
        covering[first, first + (1 << level)] = found
        first += 1 << level

    def node(first: int, behind: int) -> bytes:
        if (first, behind) in covering:
            return covering[first, behind]
        tree = CompactRange()
        tree.extend(leaves[first - since.behind : behind - since.behind])
        return tree.root()

    return prove_consistency(since.behind, since.behind + len(leaves), node)


class Follower:
    """One who follows, and how far it has come. `alert` is told when it is away too long, and when it is back."""

    def __init__(self, outside: Outside, position: CompactRange, clock: Clock, alert: Alert) -> None:
        self._outside = outside
        self.position = position
        self._clock = clock
        self._alert = alert
        self._away_since_us = 0
        self._next_try_us = 0
        self._is_told = False

    @property
    def name(self) -> str:
        return self._outside.name

    def follow(self, place: FolderPlace, newest: Bundle, tree: CompactRange) -> bool:
        """Bring it up to the newest bundle, whose tree this is; whether it has moved. Raises IntegrityError."""
        now_us = self._clock()
        if self.position.behind >= newest.size or now_us < self._next_try_us:
            return False
        before = self.position.behind
        try:
            self._take_next(place, newest, tree)
        except (StoreError, ConfigurationError, OSError) as error:
            self._is_away(str(error), now_us)
        else:
            self._is_back(now_us)
        return self.position.behind != before

    def _take_next(self, place: FolderPlace, newest: Bundle, tree: CompactRange) -> None:
        for _ in range(TRIES_MAX):
            try:
                if self._take(place, newest, tree):
                    return
            except OtherSizeError as error:
                self.position = position_at(place, error.size, newest.size, self.name)
                if self.position.behind == newest.size:
                    return
        raise StoreError(f"{self.name} names another size each time", next_step="the signer tries again")

    def _take(self, place: FolderPlace, newest: Bundle, tree: CompactRange) -> bool:
        """Take what comes next; False where its position was none of these checkpoints: then it begins again."""
        since = self.position
        if self._outside.starts_at_newest and not since.behind:
            bundles, after = [newest], tree.copy()
        else:
            bundles = bundles_from(place, since.behind, BUNDLES_MAX)
            after = extended(since, bundles)
            if not bundles or Checkpoint.parse(Note.parse(bundles[-1].note).text).root != after.root():
                self.position = CompactRange()
                return False
        self._outside.take(since, bundles)
        self.position = after
        return True

    def _is_away(self, why: str, now_us: int) -> None:
        self._next_try_us = now_us + RETRY_US
        if not self._away_since_us:
            self._away_since_us = now_us
            log.warning("signing goes on without %s: %s", self.name, why)
        elif now_us - self._away_since_us > AWAY_US_MAX and not self._is_told:
            self._alert(self.name, f"{self.name} has not followed for ten minutes: {why}", self._away_since_us, False)
            self._is_told = True

    def _is_back(self, now_us: int) -> None:
        if self._away_since_us:
            log.warning("%s follows again", self.name)
        if self._is_told:
            self._alert(self.name, f"{self.name} follows again", self._away_since_us, True)
        self._away_since_us, self._is_told, self._next_try_us = 0, False, 0


def bundles_from(place: FolderPlace, first: int, count_max: int) -> list[Bundle]:
    """The published bundles from this leaf on, at most so many."""
    found: list[Bundle] = []
    while len(found) < count_max and (text := place.read(first)) is not None:
        found.append(Bundle.parse(text))
        first = found[-1].size
    return found


def extended(tree: CompactRange, bundles: Sequence[Bundle]) -> CompactRange:
    """The tree with the leaves of these bundles."""
    after = tree.copy()
    for bundle in bundles:
        after.extend(hash_leaf(line.encode()) for line in bundle.lines)
    return after


def position_at(place: FolderPlace, size: int, newest_size: int, name: str) -> CompactRange:
    """The tree at a size that a follower has named. Raises IntegrityError where none of ours has it."""
    tree = CompactRange()
    while tree.behind < size and (bundles := bundles_from(place, tree.behind, 1)):
        tree = extended(tree, bundles)
    if tree.behind != size:
        raise IntegrityError(
            f"{name} has seen a checkpoint of size {size}, and ours end at {newest_size} without one of that size",
            next_step="the folder of checkpoints was rolled back or forked: compare it with its copies",
        )
    return tree


class FollowerPositions:
    """How far each follower has come, kept in the signer's folder; without it, it is worked out again."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / STATE

    def load(self) -> dict[str, CompactRange]:
        """By name; a file that can't be read counts as none."""
        try:
            found = json.loads(self._path.read_text("utf-8"))
            return {name: CompactRange.from_bytes(0, size, bytes.fromhex(raw)) for name, (size, raw) in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError, ProofError) as error:
            log.warning("how far buckets and witnesses have come can't be read, and is worked out again: %s", error)
            return {}

    def save(self, followers: Sequence[Follower]) -> None:
        """Write it, whole or not at all."""
        found = {one.name: [one.position.behind, one.position.to_bytes().hex()] for one in followers}
        write_private(self._path, json.dumps(found))
