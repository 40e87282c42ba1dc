"""Checkpoints and proofs of transparency logs as text: c2sp.org/tlog-checkpoint and c2sp.org/tlog-proof. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from agentledger.schemas.errors import ProofError
from agentledger.schemas.merkle import HASH_BYTES, SIZE_MAX
from agentledger.schemas.notes import decode_base64, encode_base64

PROOF_HEADER = "c2sp.org/tlog-proof@v1"
PROOF_HASHES_MAX = 64


@dataclass(frozen=True)
class Checkpoint:
    """A tree's head: whose it is, how many leaves, and the root of them all."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The text of the note that is signed."""
        return "".join(f"{line}\n" for line in (self.origin, self.size, encode_base64(self.root), *self.extensions))

    @staticmethod
    def parse(text: str) -> Checkpoint:
        """The checkpoint in the text of a note. Raises ProofError."""
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop() or not all(lines):
            raise ProofError("this is no checkpoint: it has not three lines, or an empty one")
        return Checkpoint(lines[0], parse_decimal(lines[1], "a tree size"), parse_hash(lines[2]), tuple(lines[3:]))


@dataclass(frozen=True)
class TlogProof:
    """That an entry is in a log: its index, the inclusion proof, and the signed checkpoint that it leads to."""

    index: int
    hashes: tuple[bytes, ...]
    note: str
    extra: bytes | None = None

    def text(self) -> str:
        """The proof as it is written to a file."""
        lines = [PROOF_HEADER]
        if self.extra is not None:
            lines.append(f"extra {encode_base64(self.extra)}")
        lines += [f"index {self.index}", *map(encode_base64, self.hashes), ""]
        return "\n".join(lines) + "\n" + self.note

    @staticmethod
    def parse(text: str) -> TlogProof:
        """The proof in the text of a file; nothing is verified yet. Raises ProofError."""
        head, blank, note = text.partition("\n\n")
        lines = head.split("\n")
        if not blank or lines.pop(0) != PROOF_HEADER:
            raise ProofError(f"this is no proof: it does not begin with {PROOF_HEADER}")
        extra = None
        if lines and lines[0].startswith("extra "):
            extra = decode_base64(lines.pop(0).removeprefix("extra "), "the extra data")
        if not lines or not lines[0].startswith("index "):
            raise ProofError("this is no proof: it has no index")
        index = parse_decimal(lines.pop(0).removeprefix("index "), "an index")
        if len(lines) > PROOF_HASHES_MAX:
            raise ProofError(f"a proof has {PROOF_HASHES_MAX} hashes at most")
        return TlogProof(index, tuple(parse_hash(line) for line in lines), note, extra)


def parse_decimal(text: str, what: str) -> int:
    """A number from 0 to 2**64 - 1 in its one spelling. Raises ProofError."""
    if text.isascii() and text.isdigit() and len(text) <= 20 and (text[0] != "0" or text == "0"):
        number = int(text)
        if number <= SIZE_MAX:
            return number
    raise ProofError(f"{what} is a decimal number, not {text[:30]!r}")


def parse_hash(text: str) -> bytes:
    """A SHA-256 in base 64. Raises ProofError."""
    raw = decode_base64(text, "a hash")
    if len(raw) != HASH_BYTES:
        raise ProofError(f"a hash has {len(raw)} bytes instead of {HASH_BYTES}")
    return raw
