"""Signatures of witnesses, kept beside the checkpoints that they are under: lines that stand for themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentledger.schemas.errors import ConfigurationError, ProofError
from agentledger.schemas.heads import Bundle, parse_leaf
from agentledger.schemas.notes import COSIGNATURE, Note, VerifierKey
from agentledger.sinks.chain import Chain, Problem
from agentledger.sinks.checkpoint_places import FolderPlace
from agentledger.sinks.key_files import write_synced

SUFFIX = ".cosignatures"
LAG_US_MAX = 15 * 60_000_000  # how far witnesses may be behind the last checkpoint: they are told at once, unless away


def cosignatures_path(place: FolderPlace, first: int) -> Path:
    """The file for the cosignatures of the bundle that begins with this leaf."""
    return place.path(first).with_suffix(SUFFIX)


def keep_cosignature(place: FolderPlace, first: int, line: str) -> None:
    """Keep one more signature line under a published checkpoint. Raises OSError."""
    path = cosignatures_path(place, first)
    kept = path.read_text("utf-8") if path.exists() else ""
    if line not in kept:
        write_synced(path, kept + line, 0o644)


def cosigners(place: FolderPlace, bundle: Bundle, keys: Sequence[VerifierKey]) -> list[VerifierKey]:
    """The witnesses of these keys that have signed the bundle's checkpoint. Raises ProofError where a signature of one
    of them is wrong."""
    path = cosignatures_path(place, bundle.first)
    try:
        lines = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError):
        raise ProofError("the cosignatures can't be read", where=str(path)) from None
    return Note.parse(f"{Note.parse(bundle.note).text}\n{lines}").signers(keys)


def check_witnesses(
    folder: Path, chain: Chain, keys: Sequence[VerifierKey], at_least: int
) -> tuple[int, list[Problem]]:
    """The size of the last checkpoint that enough of these witnesses have signed, 0 for none, and what is wrong: a
    signature that doesn't fit, or none for too long before the last checkpoint."""
    place = FolderPlace(folder)
    for bundle in reversed(chain.bundles):
        try:
            if len(cosigners(place, bundle, keys)) >= at_least:
                lag_us = chain.state.at_us - parse_leaf(bundle.lines[-1]).at_us
                if lag_us <= LAG_US_MAX:
                    return bundle.size, []
                text = f"{at_least} witnesses signed size {bundle.size}, {lag_us // 60_000_000} minutes before the last"
                return bundle.size, [Problem("witness", str(folder), None, text)]
        except ProofError as error:
            where = str(cosignatures_path(place, bundle.first))
            return 0, [Problem("witness", where, None, f"a cosignature doesn't hold: {error}")]
    return 0, [Problem("witness", str(folder), None, f"no checkpoint is signed by {at_least} of {len(keys)} witnesses")]


def read_witnesses(path: Path) -> list[tuple[VerifierKey, str]]:
    """Keys and addresses from a file of lines `KEY [URL]`; # begins a comment. Raises ConfigurationError."""
    found = []
    try:
        for line in path.read_text("utf-8").splitlines():
            words = [] if line.startswith("#") else line.split()
            if words:
                key = VerifierKey.parse(words[0])
                if key.kind != COSIGNATURE or len(words) > 2:
                    raise ProofError("a line is KEY URL, with a key of the kind for cosignatures")
                found.append((key, words[1] if len(words) == 2 else ""))
    except (OSError, UnicodeDecodeError, ProofError) as error:
        raise ConfigurationError(f"the witnesses can't be read: {error}", where=str(path)) from None
    if not found:
        raise ConfigurationError("no witness is in the file", where=str(path), next_step="write a line: KEY URL")
    return found
