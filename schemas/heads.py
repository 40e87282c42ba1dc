"""The heads log: the one log that is signed. Its leaves are the heads of all logs, and the keys that sign it. Pure.

Each leaf is a line of text:

    agentledger.head.v1 TOPIC TOPIC_ID PARTITION SIZE ROOT AT_US
    agentledger.topic.v1 TOPIC TOPIC_ID AT_US
    agentledger.key.v1 VKEY AT_US

A head says that a log (topic id, partition) had SIZE leaves and this root (base 64) when the signer read it back at
AT_US (microseconds since 1970, the signer's clock). A topic line comes before the first head of a topic id: a topic of
the same name with another id is one that was deleted and made again, which takes a person's word. A key line names the
key that signs from then on; the checkpoint over it is signed by the key before it, too. As a head once signed can't
leave the log, a partition that vanishes shows.

What is published is a `Bundle`: the new leaves, a blank line, and the C2SP checkpoint over all leaves up to them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from agentledger.schemas.checkpoints import Checkpoint, parse_decimal, parse_hash
from agentledger.schemas.compact_range import CompactRange
from agentledger.schemas.errors import ProofError
from agentledger.schemas.merkle import hash_leaf
from agentledger.schemas.notes import Note, VerifierKey, encode_base64

HEAD, TOPIC, KEY = "agentledger.head.v1", "agentledger.topic.v1", "agentledger.key.v1"
BUNDLE = "agentledger.heads.v1"
LINES_MAX = 100_000  # of one bundle: two per log at most


class LogId(NamedTuple):
    """One log. `topic_id` is canonical UUID text."""

    topic_id: str
    partition: int


class Head(NamedTuple):
    """The head of one log, as the signer found it."""

    topic: str
    log: LogId
    size: int
    root: bytes
    at_us: int

    def line(self) -> str:
        """The leaf's text."""
        root = encode_base64(self.root)
        return f"{HEAD} {self.topic} {self.log.topic_id} {self.log.partition} {self.size} {root} {self.at_us}"


class TopicLine(NamedTuple):
    """A topic id that is part of the ledger from then on."""

    topic: str
    topic_id: str
    at_us: int

    def line(self) -> str:
        """The leaf's text."""
        return f"{TOPIC} {self.topic} {self.topic_id} {self.at_us}"


class KeyLine(NamedTuple):
    """The key that signs from then on."""

    key: VerifierKey
    at_us: int

    def line(self) -> str:
        """The leaf's text."""
        return f"{KEY} {self.key} {self.at_us}"


Leaf = Head | TopicLine | KeyLine


def parse_leaf(line: str) -> Leaf:
    """The leaf of a line, in its one spelling. Raises ProofError."""
    kind, *words = line.split(" ")
    leaf: Leaf | None = None
    if kind == HEAD and len(words) == 6:
        log = LogId(words[1], parse_decimal(words[2], "a partition"))
        size, root = parse_decimal(words[3], "a size"), parse_hash(words[4])
        leaf = Head(words[0], log, size, root, parse_decimal(words[5], "a time"))
    elif kind == TOPIC and len(words) == 3:
        leaf = TopicLine(words[0], words[1], parse_decimal(words[2], "a time"))
    elif kind == KEY and len(words) == 2:
        leaf = KeyLine(VerifierKey.parse(words[0]), parse_decimal(words[1], "a time"))
    if leaf is None or leaf.line() != line:
        raise ProofError(f"this is no leaf of a heads log: {line[:80]!r}")
    return leaf


@dataclass(frozen=True)
class Bundle:
    """What is published at once: leaves from `first` on, and the signed checkpoint over all up to them."""

    first: int
    lines: tuple[str, ...]
    note: str

    @property
    def size(self) -> int:
        """Leaves under its checkpoint."""
        return self.first + len(self.lines)

    def text(self) -> str:
        """The bundle as it is published."""
        return "\n".join([f"{BUNDLE} {self.first}", *self.lines, "", self.note])

    @staticmethod
    def parse(text: str) -> Bundle:
        """The bundle in a published text; nothing is verified yet. Raises ProofError."""
        head, blank, note = text.partition("\n\n")
        lines = head.split("\n")
        kind, _, first = lines[0].partition(" ")
        if not blank or kind != BUNDLE:
            raise ProofError(f"this is no published checkpoint: it does not begin with {BUNDLE}")
        if not 1 < len(lines) <= LINES_MAX:
            raise ProofError(f"a published checkpoint has 1 to {LINES_MAX} leaves")
        return Bundle(parse_decimal(first, "an index"), tuple(lines[1:]), note)


@dataclass
class HeadsLog:
    """All that was signed so far, as a verifier follows it: bundle by bundle, each against those before it."""

    origin: str = ""
    tree: CompactRange = field(default_factory=CompactRange)
    checkpoints: int = 0
    at_us: int = 0
    keys: list[VerifierKey] = field(default_factory=list)  # each that signed, the last one in force
    topics: dict[str, str] = field(default_factory=dict)  # topic name to the id in force
    heads: dict[LogId, Head] = field(default_factory=dict)  # the latest of each log

    def copy(self) -> HeadsLog:
        """The same state, to be followed on its own."""
        return HeadsLog(
            self.origin, self.tree.copy(), self.checkpoints, self.at_us, list(self.keys),
            dict(self.topics), dict(self.heads),
        )  # fmt: skip

    def follow(self, bundle: Bundle) -> list[Leaf]:
        """Check a bundle against all before it and go on behind it; its leaves. Raises ProofError, and then nothing of
        it counts. Whether one of `keys` is to be trusted is for the caller to say."""
        after = self.copy()
        leaves = after._add(bundle)
        for name, value in vars(after).items():
            setattr(self, name, value)
        return leaves

    def _add(self, bundle: Bundle) -> list[Leaf]:
        size_before = self.tree.behind
        if bundle.first != size_before:
            raise ProofError(f"leaves from {bundle.first} on do not follow a heads log of size {size_before}")
        leaves = [parse_leaf(line) for line in bundle.lines]
        signers = self.keys[-1:]
        for leaf in leaves:
            self._check(leaf)
            if isinstance(leaf, KeyLine):
                signers.append(leaf.key)
        self.tree.extend(hash_leaf(line.encode()) for line in bundle.lines)
        note = Note.parse(bundle.note)
        found = Checkpoint.parse(note.text)
        if found.size != self.tree.behind or found.root != self.tree.root():
            raise ProofError(
                f"the checkpoint says size {found.size}, root {encode_base64(found.root)}; the leaves give size "
                f"{self.tree.behind}, root {encode_base64(self.tree.root())}"
            )
        if found.origin != (self.origin or found.origin):
            raise ProofError(f"the checkpoint is of {found.origin}, not of {self.origin}")
        if not signers:
            raise ProofError("a heads log begins with the key that signs it")
        missing = [key for key in signers if key not in note.signers(signers)]
        if missing:
            raise ProofError(f"key {missing[0].key_id.hex()}, which must sign this checkpoint, has not")
        self.origin = found.origin
        self.checkpoints += 1
        return leaves

    def _check(self, leaf: Leaf) -> None:
        if leaf.at_us < self.at_us:
            raise ProofError(f"a leaf is of an earlier time than the one before it: {leaf.line()[:120]}")
        self.at_us = leaf.at_us
        if isinstance(leaf, KeyLine):
            self.keys.append(leaf.key)
        elif isinstance(leaf, TopicLine):
            self.topics[leaf.topic] = leaf.topic_id
        else:
            before = self.heads.get(leaf.log)
            if self.topics.get(leaf.topic) != leaf.log.topic_id:
                raise ProofError(
                    f"a head of topic id {leaf.log.topic_id} comes without its topic line", where=leaf.topic
                )
            if before is not None and (leaf.size <= before.size or leaf.topic != before.topic):
                raise ProofError(
                    f"a head of size {leaf.size} follows one of size {before.size}",
                    where=f"{leaf.topic}, partition {leaf.log.partition}",
                )
            self.heads[leaf.log] = leaf
