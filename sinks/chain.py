"""The published checkpoints as a verifier holds them: followed from first to last, each against those before."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from agentledger.schemas.checkpoints import Checkpoint
from agentledger.schemas.errors import ConfigurationError, ProofError
from agentledger.schemas.heads import Bundle, Head, HeadsLog, LogId
from agentledger.schemas.merkle import hash_leaf
from agentledger.schemas.notes import Note, VerifierKey, open_note
from agentledger.sinks.checkpoint_places import FolderPlace


class Problem(NamedTuple):
    """One thing that isn't as it was signed: one line of a report."""

    kind: str
    where: str  # topic/partition, or a file
    log_index: int | None
    text: str

    def line(self) -> str:
        """The problem in one line."""
        at = "" if self.log_index is None else f" index {self.log_index}"
        return f"{self.kind.upper()} {self.where}{at}: {self.text}"


@dataclass
class Chain:
    """All heads that were signed, by log, oldest first, and what is needed to prove them."""

    heads: dict[LogId, list[Head]] = field(default_factory=dict)
    places: dict[LogId, list[int]] = field(default_factory=dict)  # of each head: its index in the heads log
    bundles: list[Bundle] = field(default_factory=list)
    state: HeadsLog = field(default_factory=HeadsLog)
    leaf_hashes: list[bytes] = field(default_factory=list)  # of the heads log

    def add(self, bundle: Bundle) -> None:
        """Follow one more bundle. Raises ProofError."""
        for number, leaf in enumerate(self.state.follow(bundle)):
            if isinstance(leaf, Head):
                self.heads.setdefault(leaf.log, []).append(leaf)
                self.places.setdefault(leaf.log, []).append(bundle.first + number)
        self.bundles.append(bundle)
        self.leaf_hashes += [hash_leaf(line.encode()) for line in bundle.lines]

    def is_trusted(self, keys: Iterable[VerifierKey]) -> bool:
        """Whether one of these keys is among those that signed: each vouches for those behind and before it."""
        return any(key in self.state.keys for key in keys)

    def bundle_of(self, place: int) -> Bundle:
        """The bundle that holds this leaf of the heads log."""
        return self.bundles[bisect.bisect_right([bundle.first for bundle in self.bundles], place) - 1]

    def heads_at(self, size: int) -> dict[LogId, Head]:
        """The heads under the checkpoint of this size."""
        found: dict[LogId, Head] = {}
        for log, places in self.places.items():
            count = bisect.bisect_left(places, size)
            if count:
                found[log] = self.heads[log][count - 1]
        return found


def read_chain(folder: Path, trusted: Sequence[VerifierKey]) -> tuple[Chain, list[Problem]]:
    """The chain in a folder of checkpoints, as far as it holds. Raises ConfigurationError where none is there."""
    place = FolderPlace(folder)
    chain, problems = Chain(), []
    files = list(place.files())
    if not files:
        raise ConfigurationError(
            "there are no signed checkpoints to compare with",
            where=str(folder),
            next_step="give the folder that the signer publishes to: --checkpoints DIR",
        )
    for path in files:
        try:
            bundle = Bundle.parse(path.read_text("utf-8"))
            if path != place.path(bundle.first):
                raise ProofError(f"it holds the leaves from {bundle.first} on, which its name does not say")
            chain.add(bundle)
        except (ProofError, OSError, UnicodeDecodeError) as error:
            problems.append(Problem("checkpoint", str(path), None, str(error)))
            break
    if chain.bundles and not chain.is_trusted(trusted):
        names = ", ".join(f"{key.name}+{key.key_id.hex()}" for key in chain.state.keys)
        problems.append(Problem("checkpoint", str(folder), None, f"signed by {names}, none of which is a trusted key"))
    return chain, problems


def read_held_checkpoint(path: Path, trusted: Sequence[VerifierKey], chain: Chain) -> tuple[int, list[Problem]]:
    """The size of the checkpoint in a file that the verifier kept, and what is wrong with it or with the chain.

    The file is a published bundle or a bare signed checkpoint.
    """
    try:
        text = path.read_text("utf-8")
        note = Bundle.parse(text).note if text.startswith("agentledger.heads.") else text
        found = Checkpoint.parse(open_note(note, [*trusted, *chain.state.keys]))
    except (ProofError, OSError, UnicodeDecodeError) as error:
        return 0, [Problem("checkpoint", str(path), None, str(error))]
    for bundle in chain.bundles:
        if bundle.size == found.size:
            here = Checkpoint.parse(Note.parse(bundle.note).text)
            if here == found:
                return found.size, []
            return 0, [
                Problem(
                    "checkpoint", str(path), None, f"the checkpoints have another root for size {found.size}: a fork"
                )
            ]
    what = f"no checkpoint of size {found.size} is among those found, which end at {chain.state.tree.behind}"
    return 0, [Problem("checkpoint", str(path), None, what)]
