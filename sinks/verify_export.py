"""Checks an export of an agentledger ledger. Needs this file, Python 3.11, `cryptography` and the ledger's public key:

    python verify_export.py DIR --key KEY_OR_FILE [--previous DIR]

No network, no database. It takes nothing for granted but the key. Checked is: the manifest's signature; name, size and
SHA-256 of each file, and that there is no other; the signature of the checkpoint; that each log's head is under it
(RFC 6962 inclusion); that the records in the evidence files, with the hashes of what is not shown, give each head's
root; and that the records before and behind a range of time lie outside of it, so that nothing in it is missing.

The data files (parquet, jsonl, csv, avro) are there to be worked with: they are what the exporter signed. The records
as they were received, which is what the logs commit to, are in the evidence files, base 64.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import re
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "agentledger.export.v1"
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
NAME = re.compile(r"(data|evidence|hidden)-[0-9]{6}\.(parquet|jsonl|csv|avro)|README\.txt|verify_export\.py")
EVENT_ID = re.compile(rb"\x48([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")
NO_SCHEMA = "0" * 64
LINE_BYTES_MAX = 64 * 1024 * 1024
FILE_BYTES_MAX = 256 * 1024 * 1024  # of the manifest, which is read whole


class BadExportError(Exception):
    """The export is not what was signed, or proves nothing: the message says where and why."""


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
    for line in signatures.splitlines():
        dash, _, rest = line.partition(" ")
        name, _, material = rest.partition(" ")
        raw = decode(material)
        for key in keys:
            if (dash, name, raw[:4]) == ("\u2014", key.name, key.key_id):
                if not key.has_signed(text, raw[4:]):
                    raise BadExportError(f"the signature of {what} by {name} is wrong")
                return text
    raise BadExportError(f"{what} is not signed by a key that you trust")


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
    numbers, hashes = struct.Struct(">IqIqIq"), struct.Struct(">I32sI32sI32sI32s")

    def leaf(index: int, offset: int, time_us: int, event_id: bytes, digests: Sequence[bytes]) -> bytes:
        schema, key, headers, value = digests
        return sha256(
            prefix, numbers.pack(8, offset, 8, index, 8, time_us), len(event_id).to_bytes(4, "big"), event_id,
            hashes.pack(32, schema, 32, key, 32, headers, 32, value),
        )  # fmt: skip

    return leaf


class Log:
    """One log of the export, as it is rebuilt from the evidence files."""

    def __init__(self, manifest: dict[str, Any], given: dict[str, Any], checkpoint: tuple[int, bytes]) -> None:
        words = given["head"].split(" ")
        self.name = f"{words[1]}/{words[3]}"
        size, root = checkpoint
        if words[0] != "agentledger.head.v1" or len(words) != 7:
            raise BadExportError(f"this is no head of a log: {given['head'][:80]!r}")
        proof = [decode(one, 32) for one in given["head_hashes"]]
        if root_of_inclusion(given["head_place"], size, sha256(b"\x00", given["head"].encode()), proof) != root:
            raise BadExportError(f"the head of {self.name} is not under the checkpoint")
        self.topic_id, self.partition, self.size, self.root = (
            words[2],
            int(words[3]),
            int(words[4]),
            decode(words[5], 32),
        )
        self.leaf = leaf_maker(self.topic_id, self.partition)
        self.first, self.behind = given["first"], given["behind"]
        if not 0 <= self.first <= self.behind <= self.size:
            raise BadExportError(f"{self.name} has {self.size} records, not those from {self.first} to {self.behind}")
        query = manifest["query"]
        self.from_us, self.to_us = query["from_us"], query["to_us"]
        self.tree = self._begin(given)
        self.right = given
        self.shown = 0
        self.time_us = 0

    def _begin(self, given: dict[str, Any]) -> Tree:
        """The leaves before the range; the last of them must be of a time before it."""
        before = given.get("before")
        known = self.first - (1 if before else 0)
        tree = Tree(0, known, [decode(one, 32) for one in given["left"]])
        if before:
            if self.from_us is None or before[2] >= self.from_us:
                raise BadExportError(f"{self.name}: the record before the range is not of a time before it")
            tree.add(0, self._boundary(before, known))
        elif self.first:
            raise BadExportError(f"{self.name}: the record before index {self.first} is not shown")
        return tree

    def _boundary(self, line: list[Any], index: int) -> bytes:
        found, offset, time_us, event_id, *digests = line
        if found != index:
            raise BadExportError(f"{self.name}: index {found} stands where {index} must")
        return self.leaf(index, offset, time_us, event_id.encode(), [bytes.fromhex(one) for one in digests])

    def hide(self, first: int, behind: int, hashes: list[str]) -> None:
        """Take the hashes of records that the export does not show."""
        if behind > self.behind:
            raise BadExportError(f"{self.name}: hashes up to {behind} go beyond the range, which ends at {self.behind}")
        self.tree.merge(Tree(first, behind, [decode(one, 32) for one in hashes]))

    def show(self, line: list[Any]) -> None:
        """Take a record that the export shows."""
        index, offset, time_us, schema, key, headers, value64 = line
        if index != self.tree.behind or index >= self.behind:
            raise BadExportError(f"{self.name}: index {index} stands where {self.tree.behind} must")
        if time_us < self.time_us or (self.from_us is not None and time_us < self.from_us):
            raise BadExportError(
                f"{self.name} index {index}: its time is before that of the range or of an earlier record"
            )
        if self.to_us is not None and time_us >= self.to_us:
            raise BadExportError(f"{self.name} index {index}: its time is behind the range")
        self.time_us = time_us
        value = decode(value64)
        match = EVENT_ID.match(value, 5) if schema != NO_SCHEMA else None
        digests = [*(bytes.fromhex(one) for one in (schema, key, headers)), sha256(value)]
        self.tree.add(0, self.leaf(index, offset, time_us, match.group(1) if match else b"", digests))
        self.shown += 1

    def finish(self) -> None:
        """Check that the root is the one that was signed. Raises BadExportError."""
        if self.tree.behind != self.behind:
            raise BadExportError(
                f"{self.name}: the records from index {self.tree.behind} to {self.behind - 1} are missing"
            )
        after = self.right.get("after")
        if after:
            if self.to_us is None or after[2] < self.to_us:
                raise BadExportError(f"{self.name}: the record behind the range is not of a time behind it")
            self.tree.add(0, self._boundary(after, self.behind))
        elif self.behind < self.size:
            raise BadExportError(f"{self.name}: the record behind index {self.behind - 1} is not shown")
        self.tree.merge(Tree(self.tree.behind, self.size, [decode(one, 32) for one in self.right["right"]]))
        if self.tree.root() != self.root:
            raise BadExportError(f"{self.name}: the records do not give the root that was signed for size {self.size}")


# --- the export ---


def read_manifest(folder: Path, keys: Sequence[Key]) -> dict[str, Any]:
    """The manifest, once its signature is checked. Raises BadExportError."""
    try:
        raw = (folder / MANIFEST).read_bytes()
        signature = (folder / SIGNATURE).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise BadExportError(f"{folder} holds no finished export: {MANIFEST} or {SIGNATURE} is missing") from None
    if len(raw) > FILE_BYTES_MAX:
        raise BadExportError(f"{MANIFEST} is larger than {FILE_BYTES_MAX} bytes")
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


def lines_of(folder: Path, manifest: dict[str, Any], kind: str) -> Iterator[list[Any]]:
    """The lines of all files of a kind, in order."""
    for file in manifest["files"]:
        if file["name"].startswith(f"{kind}-"):
            with (folder / file["name"]).open("rb") as stream:
                while line := stream.readline(LINE_BYTES_MAX):
                    yield json.loads(line)


def record_types(manifest: dict[str, Any]) -> dict[str, str]:
    """The record that each schema in the manifest is of, by the schema's SHA-256. Raises BadExportError."""
    types = {NO_SCHEMA: "unreadable"}
    for digest, text in manifest["schemas"].items():
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
    except (KeyError, TypeError, ValueError, IndexError, struct.error, OverflowError, RecursionError) as error:
        raise BadExportError(f"the export has not the form of one: {type(error).__name__} {error}") from None


def _verify(folder: Path, keys: Sequence[Key], previous: Path | None) -> dict[str, Any]:
    manifest = read_manifest(folder, keys)
    check_files(folder, manifest)
    checkpoint = check_checkpoint(manifest, keys)
    if previous is not None:
        check_previous(manifest, read_manifest(previous, keys), keys)
    hidden = lines_of(folder, manifest, "hidden")
    shown = lines_of(folder, manifest, "evidence")
    next_hidden, next_shown = next(hidden, None), next(shown, None)
    types = record_types(manifest)
    counts: dict[str, int] = {}
    total_hidden = 0
    logs = [Log(manifest, given, checkpoint) for given in manifest["logs"]]
    for number, log in enumerate(logs):
        while log.tree.behind < log.behind:
            if next_hidden and next_hidden[:2] == [number, log.tree.behind]:
                total_hidden += next_hidden[2] - next_hidden[1]
                log.hide(*next_hidden[1:])
                next_hidden = next(hidden, None)
            elif next_shown and next_shown[0] == number:
                log.show(next_shown[1:])
                kind = types[next_shown[4]]
                counts[kind] = counts.get(kind, 0) + 1
                next_shown = next(shown, None)
            else:
                break
        log.finish()
    if next_hidden or next_shown:
        raise BadExportError("the evidence files hold more than the logs of the manifest")
    if counts != manifest["counts"]:
        raise BadExportError(f"the evidence files hold {counts}, the manifest says {manifest['counts']}")
    if manifest["complete"] is not (total_hidden == 0):
        raise BadExportError("the manifest says of itself that it is complete, and records of the range are hidden")
    return {
        "origin": manifest["origin"],
        "complete": total_hidden == 0,
        "records": sum(log.shown for log in logs),
        "hidden": total_hidden,
        "logs": len(logs),
        "counts": counts,
        "query": manifest["query"],
        "checkpoint_size": checkpoint[0],
        "continues_previous": previous is not None,
    }


def describe(found: dict[str, Any]) -> str:
    """What was proven, in a sentence or two."""
    what = f"VERIFIED: {found['records']} records of {found['logs']} logs of {found['origin']} are as they were signed"
    if found["complete"]:
        return f"{what}; no record of the range is missing."
    return (
        f"{what}. {found['hidden']} records of the range are not shown: the export was filtered, and is not complete."
    )


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
