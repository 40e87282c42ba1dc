"""Checks an export of an agentledger ledger. Needs this file, Python 3.11, `cryptography` and the ledger's public key:

    python verify_export.py DIR --key KEY_OR_FILE [--previous DIR]

No network, no database. It takes nothing for granted but the key. Checked is: the manifest's signature; name, size and
SHA-256 of each file, and that there is no other; the signature of the checkpoint; that each log's head is under it
(RFC 6962 inclusion); that the records in the evidence files, with the hashes of what is not shown, give each head's
root; and that the records before and behind a range of time lie outside of it, so that nothing in it is missing.

The data files (parquet, jsonl, csv, avro, ocsf.jsonl) are there to be worked with; that they say the same as the
evidence files is the exporter's word, and what `agentledger verify-export` checks row by row. The records as they were
received, which is what the logs commit to, are in the evidence files.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import mmap
import re
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "agentledger.export.v1"
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
NAME = re.compile(
    r"data-[0-9]{6}\.(parquet|jsonl|csv|avro|ocsf\.jsonl)|(evidence|hidden)-[0-9]{6}\.bin|README\.txt|verify_export\.py"
)
EVENT_ID = re.compile(rb"\x48([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")
NO_SCHEMA = bytes(32)
RECORD = struct.Struct("<IQqq32s32s32s")
HIDDEN = struct.Struct("<IQ32s")
LEAVES_MAX = 8192  # kept before they go into the tree
MANIFEST_BYTES_MAX = 256 * 1024 * 1024  # it is read whole


class BadExportError(Exception):
    """The export is not what was signed, or proves nothing: the message says where and why."""


# What reading something raises that has not the form of an export
BROKEN = BadExportError, KeyError, TypeError, ValueError, IndexError, struct.error, OverflowError, RecursionError


def sha256(*parts: bytes) -> bytes:
    """SHA-256 of the parts in one."""
    return hashlib.sha256(b"".join(parts)).digest()


def decode(text: Any, size: int | None = None) -> bytes:
    """The bytes of base 64. Raises BadExportError."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise BadExportError(f"this is not base 64: {str(text)[:40]!r}") from None
    if size is not None and len(raw) != size:
        raise BadExportError(f"{len(raw)} bytes where {size} are expected")
    return raw


# --- keys and signed notes (c2sp.org/signed-note) ---


class Key:
    """A public key, as `NAME+ID+BASE64` spells it."""

    def __init__(self, text: str) -> None:
        parts = text.strip().split("+", 2)
        raw = decode(parts[-1]) if len(parts) == 3 else b""
        if len(raw) != 33 or raw[0] != 1:
            raise BadExportError(f"this is no public key: {text[:80]!r}")
        self.name, self.public = parts[0], raw[1:]
        self.key_id = sha256(self.name.encode(), b"\n", raw)[:4]
        if self.key_id.hex() != parts[1]:
            raise BadExportError(f"the id of key {self.name} is {self.key_id.hex()}, not {parts[1]}")

    def has_signed(self, text: str, signature: bytes) -> bool:
        """Whether this key has signed the text."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True


def read_keys(given: str) -> list[Key]:
    """The keys in a file, one a line, or the key itself."""
    path = Path(given)
    is_file = len(given) < 1000 and path.is_file()
    lines = path.read_text("utf-8").splitlines() if is_file else [given]
    return [Key(line) for line in lines if line.strip() and not line.startswith("#")]


def open_note(note: str, keys: Sequence[Key], what: str) -> str:
    """The text of a note that one of the keys has signed. Raises BadExportError."""
    text, blank, signatures = note.rpartition("\n\n")
    text += "\n"
    if not blank:
        raise BadExportError(f"{what} is no signed note")
    others = []
    for line in signatures.splitlines():
        dash, _, rest = line.partition(" ")
        name, _, material = rest.partition(" ")
        raw = decode(material)
        others.append(f"{name}+{raw[:4].hex()}")
        for key in keys:
            if (dash, name, raw[:4]) == ("\u2014", key.name, key.key_id):
                if not key.has_signed(text, raw[4:]):
                    raise BadExportError(f"the signature of {what} by {name} is wrong")
                return text
    raise BadExportError(
        f"{what} is not signed by a key that you trust, but by {', '.join(others)[:200]!r}: a ledger whose key was "
        "rotated has several, which belong into one file, one a line"
    )


# --- Merkle trees (RFC 6962) ---


class Tree:
    """The whole subtrees that cover leaves `first` to `behind` - 1."""

    def __init__(self, first: int, behind: int, hashes: Sequence[bytes]) -> None:
        self.first = self.behind = first
        self.nodes: list[tuple[int, bytes]] = []
        levels: list[int] = []
        at = first
        while at < behind:
            level = min((at & -at).bit_length() - 1 if at else 64, (behind - at).bit_length() - 1)
            levels.append(level)
            at += 1 << level
        if len(levels) != len(hashes):
            raise BadExportError(f"{len(hashes)} hashes do not cover the leaves {first} to {behind - 1}")
        for level, node in zip(levels, hashes, strict=True):
            self.add(level, node)

    def add(self, level: int, node: bytes) -> None:
        """Add a whole subtree of 2**level leaves behind the others."""
        self.behind += 1 << level
        while self.nodes and self.nodes[-1][0] == level and (self.behind - (2 << level)) % (2 << level) == 0:
            node = sha256(b"\x01", self.nodes.pop()[1], node)
            level += 1
        self.nodes.append((level, node))

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Add leaves behind the others: level by level, as far as they are whole subtrees."""
        nodes, level, right, digest = list(leaves), 0, [], hashlib.sha256
        while nodes:
            if self.behind >> level & 1:
                self.add(level, nodes.pop(0))
            if len(nodes) & 1:
                right.append((level, nodes.pop()))
            pairs = iter(nodes)
            nodes = [digest(b"\x01" + one + two).digest() for one, two in zip(pairs, pairs, strict=True)]
            level += 1
        for level_of, node in reversed(right):
            self.add(level_of, node)

    def merge(self, other: Tree) -> None:
        """Add the leaves of another tree, which begin behind these."""
        if other.first != self.behind:
            raise BadExportError(f"leaves from {other.first} on do not follow those up to {self.behind}")
        for level, node in other.nodes:
            self.add(level, node)

    def root(self) -> bytes:
        """The root of leaves from 0 on."""
        if not self.nodes:
            return sha256(b"")
        root = self.nodes[-1][1]
        for _, node in reversed(self.nodes[:-1]):
            root = sha256(b"\x01", node, root)
        return root


def root_of_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """The root that a proof leads to (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        raise BadExportError(f"there is no leaf {index} in a tree of {size}")
    place, last, root = index, size - 1, leaf
    for node in proof:
        if last == 0:
            raise BadExportError("an inclusion proof is too long")
        if place & 1 or place == last:
            root = sha256(b"\x01", node, root)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            root = sha256(b"\x01", root, node)
        place, last = place >> 1, last >> 1
    if last:
        raise BadExportError("an inclusion proof is too short")
    return root


def check_consistency(size1: int, size2: int, proof: Sequence[bytes], root1: bytes, root2: bytes) -> None:
    """Check that a tree begins with an earlier one (RFC 9162, section 2.1.4.2). Raises BadExportError."""
    wrong = BadExportError("the checkpoint does not go on from that of the previous export: history was rewritten")
    if not 0 < size1 <= size2:
        raise wrong
    if size1 == size2:
        if proof or root1 != root2:
            raise wrong
        return
    nodes = [root1, *proof] if size1 & (size1 - 1) == 0 else list(proof)
    place, last = size1 - 1, size2 - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    if not nodes:
        raise wrong
    old = new = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            raise wrong
        if place & 1 or place == last:
            old, new = sha256(b"\x01", node, old), sha256(b"\x01", node, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = sha256(b"\x01", new, node)
        place, last = place >> 1, last >> 1
    if last or old != root1 or new != root2:
        raise wrong


# --- leaves ---


def leaf_maker(topic_id: str, partition: int) -> Callable[..., bytes]:
    """A function from what a record commits to, to its leaf in the log of this topic id and partition."""
    parts = b"agentledger.leaf.v1", bytes.fromhex(topic_id.replace("-", "")), partition.to_bytes(4, "big")
    prefix = b"\x00" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    numbers, hashes = struct.Struct(">IqIqIqI"), struct.Struct(">I32sI32sI32sI32s")
    whole, sha = struct.Struct(">IqIqIqI36sI32sI32sI32sI32s"), hashlib.sha256

    def leaf(  # noqa: PLR0917 (called once per record, where keywords would tell)
        index: int, offset: int, time_us: int, event_id: bytes, schema: bytes, key: bytes, headers: bytes, value: bytes
    ) -> bytes:
        if len(event_id) == 36:  # nearly all: at once
            parts = whole.pack(
                8, offset, 8, index, 8, time_us, 36, event_id, 32, schema, 32, key, 32, headers, 32, value
            )  # fmt: skip
        else:
            parts = numbers.pack(8, offset, 8, index, 8, time_us, len(event_id)) + event_id
            parts += hashes.pack(32, schema, 32, key, 32, headers, 32, value)
        return sha(prefix + parts).digest()

    return leaf


class Log:
    """One log of the export, as it is rebuilt from the evidence files."""

    def __init__(self, query: dict[str, Any], given: dict[str, Any], checkpoint: tuple[int, bytes]) -> None:
        size, root = checkpoint
        words = given["head"].split(" ")
        if words[0] != "agentledger.head.v1" or len(words) != 7:
            raise BadExportError(f"this is no head of a log: {given['head'][:80]!r}")
        self.name = f"{words[1]}/{words[3]}"
        proof = [decode(one, 32) for one in given["head_hashes"]]
        if root_of_inclusion(given["head_place"], size, sha256(b"\x00", given["head"].encode()), proof) != root:
            raise BadExportError(f"the head of {self.name} is not under the checkpoint")
        self.id, self.size, self.root = (words[2], int(words[3])), int(words[4]), decode(words[5], 32)
        self.leaf = leaf_maker(*self.id)
        self.first, self.behind = given["first"], given["behind"]
        if not 0 <= self.first <= self.behind <= self.size:
            raise BadExportError(f"{self.name} has {self.size} records, not those from {self.first} to {self.behind}")
        self.from_us = -1 if query["from_us"] is None else query["from_us"]
        self.to_us = query["to_us"]
        self.given = given
        self.time_us = self.from_us
        self.leaves: list[bytes] = []  # of the records since the tree was last extended
        self.next = self.first
        self.tree = self._begin(given["before"])

    def _begin(self, before: list[Any] | None) -> Tree:
        """The leaves before the range; the last of them must be of a time before it."""
        known = self.first - (1 if before else 0)
        tree = Tree(0, known, [decode(one, 32) for one in self.given["left"]])
        if before:
            if before[2] >= self.from_us:
                raise BadExportError(f"{self.name}: the record before the range is not of a time before it")
            tree.add(0, self._boundary(before, known))
        elif self.first:
            raise BadExportError(f"{self.name}: the record before index {self.first} is not named")
        return tree

    def _boundary(self, line: list[Any], index: int) -> bytes:
        found, offset, time_us, event_id, *digests = line
        if found != index:
            raise BadExportError(f"{self.name}: index {found} stands where {index} must")
        return self.leaf(index, offset, time_us, event_id.encode(), *map(bytes.fromhex, digests))

    def check_next(self, index: int) -> None:
        """Raise BadExportError unless the next record is the one with this index."""
        if index != self.next:
            raise BadExportError(f"{self.name}: index {index} stands where {self.next} must")
        if index >= self.behind:
            raise BadExportError(f"{self.name}: index {index} is behind the range, which ends at {self.behind}")

    def hide(self, leaf: bytes) -> None:
        """Take the leaf of the next record, which the export does not show."""
        self.leaves.append(leaf)
        self.next += 1
        if len(self.leaves) >= LEAVES_MAX:
            self.flush()

    def show(  # noqa: PLR0917 (as `leaf`)
        self, index: int, offset: int, time_us: int, schema: bytes, key: bytes, headers: bytes, value: bytes
    ) -> None:
        """Take the next record, which the export shows: fields of a `Record`."""
        if index != self.next or index >= self.behind:
            self.check_next(index)
        if time_us < self.time_us:
            raise BadExportError(
                f"{self.name} index {index}: its time is before that of the range or of an earlier record"
            )
        if self.to_us is not None and time_us >= self.to_us:
            raise BadExportError(f"{self.name} index {index}: its time is behind the range")
        self.time_us = time_us
        match = EVENT_ID.match(value, 5) if schema != NO_SCHEMA else None
        digest = hashlib.sha256(value).digest()
        self.leaves.append(self.leaf(index, offset, time_us, match[1] if match else b"", schema, key, headers, digest))
        self.next = index + 1

    def flush(self) -> None:
        """Put the leaves that have come into the tree: many at once, which is quicker."""
        self.tree.extend(self.leaves)
        self.leaves = []

    def finish(self) -> None:
        """Check that the root is the one that was signed. Raises BadExportError."""
        self.flush()
        if self.next != self.behind:
            raise BadExportError(f"{self.name}: the records from index {self.next} to {self.behind - 1} are missing")
        after = self.given["after"]
        if after:
            if self.to_us is None or after[2] < self.to_us:
                raise BadExportError(f"{self.name}: the record behind the range is not of a time behind it")
            self.tree.add(0, self._boundary(after, self.behind))
        elif self.behind < self.size:
            raise BadExportError(f"{self.name}: the record behind index {self.behind - 1} is not named")
        self.tree.merge(Tree(self.tree.behind, self.size, [decode(one, 32) for one in self.given["right"]]))
        if self.tree.root() != self.root:
            raise BadExportError(f"{self.name}: the records do not give the root that was signed for size {self.size}")


# --- the evidence files ---


Fields = tuple[int, int, int, int, bytes, bytes, bytes, bytes]


class Record(NamedTuple):
    """A record that the export shows: what its leaf commits to, and its bytes."""

    log: int  # which of the manifest's logs
    log_index: int
    offset: int
    time_us: int  # ledger time, microseconds since 1970
    schema: bytes  # SHA-256 of the writer schema; zeros: the record can't be read
    key: bytes
    headers: bytes
    value: bytes


def read_records(path: Path) -> Iterator[Fields]:
    """The fields of each `Record` in a file evidence-*."""
    with mapped(path) as raw:
        at, end = 0, len(raw)
        while at < end:
            fields, at = read_record(raw, at)
            yield fields


def mapped(path: Path) -> mmap.mmap:
    """The bytes of a file, without reading it whole."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def read_record(raw: bytes | mmap.mmap, at: int) -> tuple[Fields, int]:
    """The record that begins at a byte, and the byte behind it: little-endian numbers, hashes, and the value with its
    length (LEB128) before it."""
    fields = RECORD.unpack_from(raw, at)
    at += RECORD.size
    length = shift = 0
    while (byte := raw[at]) >= 0x80:
        length |= (byte & 0x7F) << shift
        shift += 7
        at += 1
    behind = at + 1 + (length | byte << shift)
    value = raw[at + 1 : behind]
    if behind > len(raw):
        raise BadExportError("an evidence file ends in the middle of a record")
    return (*fields, value), behind


def read_hidden(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number of the log, index and leaf of the records in hidden-*, which stand for those that were left out."""
    with path.open("rb") as file:
        while raw := file.read(HIDDEN.size):
            yield HIDDEN.unpack(raw)


class Records:
    """All logs of an export, rebuilt part by part."""

    def __init__(self, manifest: dict[str, Any], checkpoint: tuple[int, bytes]) -> None:
        self.logs = [Log(manifest["query"], given, checkpoint) for given in manifest["logs"]]
        if len({log.id for log in self.logs}) < len(self.logs):
            raise BadExportError("a log is in the manifest twice")
        self.types = {bytes.fromhex(digest): name for digest, name in record_types(manifest["schemas"]).items()}
        self.counts: dict[str, int] = {}
        self.hidden = 0

    def take(self, shown: Iterator[Fields], hidden: Iterator[tuple[int, int, bytes]]) -> None:
        """Take the records of one part, shown and hidden, each in order of their logs. Raises BadExportError."""
        counts: dict[bytes, int] = {}
        logs, other = self.logs, next(hidden, None)
        for number, index, offset, time_us, schema, key, headers, value in shown:
            while other and other[:2] < (number, index):
                self._hide(*other)
                other = next(hidden, None)
            logs[number].show(index, offset, time_us, schema, key, headers, value)
            counts[schema] = counts.get(schema, 0) + 1
        while other:
            self._hide(*other)
            other = next(hidden, None)
        for schema, count in counts.items():
            name = self.types[schema]
            self.counts[name] = self.counts.get(name, 0) + count
        for log in logs:
            log.flush()

    def _hide(self, number: int, index: int, leaf: bytes) -> None:
        self.logs[number].check_next(index)
        self.logs[number].hide(leaf)
        self.hidden += 1

    def finish(self) -> None:
        """Check that nothing is missing and all is as it was signed. Raises BadExportError."""
        for log in self.logs:
            log.finish()


# --- the export ---


def read_manifest(folder: Path, keys: Sequence[Key]) -> dict[str, Any]:
    """The manifest, once its signature is checked. Raises BadExportError."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            raw = file.read(MANIFEST_BYTES_MAX + 1)
        signature = (folder / SIGNATURE).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise BadExportError(f"{folder} holds no finished export: {MANIFEST} or {SIGNATURE} is missing") from None
    if len(raw) > MANIFEST_BYTES_MAX:
        raise BadExportError(f"{MANIFEST} is larger than {MANIFEST_BYTES_MAX} bytes")
    if open_note(signature, keys, SIGNATURE) != f"{FORMAT}\n{hashlib.sha256(raw).hexdigest()}\n":
        raise BadExportError(f"{MANIFEST} is not the one that was signed")
    found: dict[str, Any] = json.loads(raw)
    if found["format"] != FORMAT:
        raise BadExportError(f"the export is of the format {found['format']}, not {FORMAT}")
    return found


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Check names, sizes and hashes, and that nothing was added. Raises BadExportError."""
    names = {MANIFEST, SIGNATURE}
    for file in manifest["files"]:
        name = file["name"]
        if NAME.fullmatch(name) is None:
            raise BadExportError(f"{name!r} can't be the name of a file of an export")
        if name in names:
            raise BadExportError(f"{name} is in the manifest twice")
        names.add(name)
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise BadExportError(f"{name} is missing")
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
                size += len(block)
        if size != file["bytes"]:
            raise BadExportError(f"{name} has {size} bytes, expected {file['bytes']}")
        if digest.hexdigest() != file["sha256"]:
            raise BadExportError(f"{name} has the SHA-256 {digest.hexdigest()}, expected {file['sha256']}")
    for path in sorted(folder.iterdir()):
        if path.name not in names:
            raise BadExportError(f"{path.name} is not part of the export")


def parts_of(folder: Path, manifest: dict[str, Any]) -> Iterator[tuple[Iterator[Fields], Iterator[Any]]]:
    """What each part of the export shows and hides."""
    names = [file["name"] for file in manifest["files"]]
    numbers = sorted({name[-10:-4] for name in names if name.endswith(".bin")})
    for number in numbers:
        shown, hidden = f"evidence-{number}.bin", f"hidden-{number}.bin"
        yield (
            read_records(folder / shown) if shown in names else iter(()),
            read_hidden(folder / hidden) if hidden in names else iter(()),
        )


def record_types(schemas: dict[str, str]) -> dict[str, str]:
    """The record that each schema is of, by the schema's SHA-256. Raises BadExportError."""
    types = {NO_SCHEMA.hex(): "unreadable"}
    for digest, text in schemas.items():
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise BadExportError(f"the schema {digest} is another one")
        types[digest] = json.loads(text)["name"]
    return types


def check_checkpoint(manifest: dict[str, Any], keys: Sequence[Key]) -> tuple[int, bytes]:
    """Size and root of the signed checkpoint. Raises BadExportError."""
    lines = open_note(manifest["checkpoint"], keys, "the checkpoint").split("\n")
    if len(lines) < 4 or lines[0] != manifest["origin"]:
        raise BadExportError("the checkpoint is not of this ledger")
    return int(lines[1]), decode(lines[2], 32)


def check_as_of(manifest: dict[str, Any], checkpoint: tuple[int, bytes]) -> int:
    """When the last head under the checkpoint was read back, by the signer's clock. Raises BadExportError."""
    line, (size, root) = manifest["last_line"], checkpoint
    proof = [decode(one, 32) for one in manifest["last_line_hashes"]]
    if root_of_inclusion(size - 1, size, sha256(b"\x00", line.encode()), proof) != root:
        raise BadExportError("the last line under the checkpoint is another one")
    return int(line.rpartition(" ")[2])


def check_previous(manifest: dict[str, Any], earlier: dict[str, Any], keys: Sequence[Key]) -> None:
    """Check that this export goes on from the history of an earlier one. Raises BadExportError."""
    size1, root1 = check_checkpoint(earlier, keys)
    size2, root2 = check_checkpoint(manifest, keys)
    previous = manifest["previous"] or {}
    if size1 != size2 and previous.get("size") != size1:
        raise BadExportError("this export was not made as one that follows the given previous one")
    proof = [decode(one, 32) for one in previous.get("hashes", [])] if size1 != size2 else []
    check_consistency(size1, size2, proof, root1, root2)


def verify_export(folder: Path, keys: Sequence[Key], previous: Path | None = None) -> dict[str, Any]:
    """Check everything; what the export holds and proves. Raises BadExportError with the first thing that is wrong."""
    try:
        return _verify(folder, keys, previous)
    except BadExportError:
        raise
    except BROKEN as error:
        raise BadExportError(f"the export has not the form of one: {type(error).__name__} {error}") from None


def _verify(folder: Path, keys: Sequence[Key], previous: Path | None) -> dict[str, Any]:
    manifest = read_manifest(folder, keys)
    check_files(folder, manifest)
    checkpoint = check_checkpoint(manifest, keys)
    if previous is not None:
        check_previous(manifest, read_manifest(previous, keys), keys)
    records = Records(manifest, checkpoint)
    for shown, hidden in parts_of(folder, manifest):
        records.take(shown, hidden)
    records.finish()
    return summary(manifest, records, checkpoint, continues=previous is not None)


def summary(
    manifest: dict[str, Any], records: Records, checkpoint: tuple[int, bytes], *, continues: bool
) -> dict[str, Any]:
    """What was proven, once the manifest says the same. Raises BadExportError."""
    if records.counts != manifest["counts"]:
        raise BadExportError(f"the evidence files hold {records.counts}, the manifest says {manifest['counts']}")
    if manifest["complete"] is not (records.hidden == 0):
        raise BadExportError(f"the manifest says complete: {manifest['complete']}, and {records.hidden} are not shown")
    return {
        "origin": manifest["origin"],
        "complete": records.hidden == 0,
        "records": sum(records.counts.values()),
        "hidden": records.hidden,
        "logs": len(records.logs),
        "counts": records.counts,
        "query": manifest["query"],
        "checkpoint_size": checkpoint[0],
        "signed_us": check_as_of(manifest, checkpoint),
        "continues_previous": continues,
    }


def describe(found: dict[str, Any]) -> str:
    """What was proven, in a sentence or two."""
    what = f"VERIFIED: {found['records']} records of {found['logs']} logs of {found['origin']} are as they were signed"
    at = f"{datetime.fromtimestamp(found['signed_us'] / 1_000_000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if found["complete"]:
        what = f"{what}; of the range of time, as it was signed at {at}, no record is missing."
    else:
        what = (
            f"{what} at {at}. {found['hidden']} other records of the range of time are not shown, but for their hashes"
        )
        if any(found["query"][name] for name in ("tenant_id", "run_id", "event_types")):
            what += ": the export was filtered. That the filter left out the right ones is not proven."
        else:
            what += ": the exporter says that they were purged."
    return f"{what} It goes on from the previous export." if found["continues_previous"] else what


def main() -> int:
    """Check the export that the command line names. 0: it holds; 1: it doesn't."""
    parser = argparse.ArgumentParser(description="Check an export of an agentledger ledger.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--key", required=True, help="the ledger's public key, or a file that holds it")
    parser.add_argument("--previous", type=Path, help="the export before this one")
    given = parser.parse_args()
    try:
        found = verify_export(given.folder, read_keys(given.key), given.previous)
    except (BadExportError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"NOT VERIFIED: {error}\n")
        return 1
    sys.stdout.write(describe(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
