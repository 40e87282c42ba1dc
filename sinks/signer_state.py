"""What the signer remembers: how far it has signed, and the compact range of each log there. One file, itself signed.

Nothing is true only here: without the file, everything is worked out again from the published bundles and the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from agentledger.schemas import canonical_json
from agentledger.schemas.compact_range import CompactRange
from agentledger.schemas.errors import IntegrityError, ProofError
from agentledger.schemas.heads import Head, HeadsLog, LogId, parse_leaf
from agentledger.schemas.notes import SignerKey, VerifierKey, open_note, sign_note
from agentledger.sinks.key_files import write_private

TITLE = "agentledger.signer-state.v1"


class SignedLog(NamedTuple):
    """One log as far as it is signed."""

    tree: CompactRange
    last_leaf: bytes
    ledger_time_us: int  # of a flush at or before the last signed row: where to look for the next


@dataclass
class SignerState:
    """Everything that the signer needs to go on."""

    heads: HeadsLog = field(default_factory=HeadsLog)
    logs: dict[LogId, SignedLog] = field(default_factory=dict)
    last_first: int = 0  # the first leaf of the last bundle
    last_text: str = ""  # the last bundle as published
    unannounced: list[int] = field(default_factory=list)  # first leaves of bundles that have no event yet

    def save(self, path: Path, key: SignerKey) -> None:
        """Write it, signed, whole or not at all; returns when it is on disk."""
        write_private(path, sign_note(f"{TITLE}\n{canonical_json(self._as_json()).decode()}\n", [key]))

    @staticmethod
    def load(path: Path, keys: Iterable[VerifierKey]) -> SignerState | None:
        """The state in the file, None where there is no file. Raises IntegrityError where it was changed."""
        try:
            text = open_note(path.read_bytes(), keys)
            title, body = text.removesuffix("\n").split("\n", 1)
            if title != TITLE:
                raise ProofError("this is no state of a signer")
            return SignerState._of_json(json.loads(body))
        except FileNotFoundError:
            return None
        except (ProofError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"the signer's state was changed: {error}",
                where=str(path),
                next_step="find out by whom; then move the file away: the signer works it out from its checkpoints",
            ) from None

    def _as_json(self) -> dict[str, Any]:
        heads = self.heads
        return {
            "origin": heads.origin,
            "size": heads.tree.behind,
            "tree": heads.tree.to_bytes().hex(),
            "checkpoints": heads.checkpoints,
            "at_us": heads.at_us,
            "keys": [str(key) for key in heads.keys],
            "topics": heads.topics,
            "heads": [head.line() for head in heads.heads.values()],
            "logs": [
                [log.topic_id, log.partition, signed.tree.behind, signed.tree.to_bytes().hex(),
                 signed.last_leaf.hex(), signed.ledger_time_us]
                for log, signed in self.logs.items()
            ],
            "last_first": self.last_first,
            "last_text": self.last_text,
            "unannounced": self.unannounced,
        }  # fmt: skip

    @staticmethod
    def _of_json(found: dict[str, Any]) -> SignerState:
        heads = HeadsLog(
            origin=found["origin"],
            tree=CompactRange.from_bytes(0, found["size"], bytes.fromhex(found["tree"])),
            checkpoints=found["checkpoints"],
            at_us=found["at_us"],
            keys=[VerifierKey.parse(text) for text in found["keys"]],
            topics=found["topics"],
        )
        for line in found["heads"]:
            leaf = parse_leaf(line)
            if isinstance(leaf, Head):
                heads.heads[leaf.log] = leaf
        logs = {
            LogId(topic_id, partition): SignedLog(
                CompactRange.from_bytes(0, size, bytes.fromhex(tree)), bytes.fromhex(leaf), time_us
            )
            for topic_id, partition, size, tree, leaf, time_us in found["logs"]
        }
        return SignerState(heads, logs, found["last_first"], found["last_text"], found["unannounced"])
