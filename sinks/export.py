"""Writes an export: files to work with, the evidence for every record in them, and a signed manifest of it all.

Every file is streamed from ClickHouse to disk and takes its name when it is whole. A run that was cut off goes on with
the first file that is missing. The manifest's signature is written last: without it nothing verifies.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.exceptions import ClickHouseError

from agentledger.schemas.catalogue import schema_sha256, schema_text
from agentledger.schemas.checkpoints import Checkpoint
from agentledger.schemas.compact_range import CompactRange
from agentledger.schemas.errors import IntegrityError, StoreError, UsageError
from agentledger.schemas.hashing import canonical_json
from agentledger.schemas.merkle import prove_consistency, prove_inclusion
from agentledger.schemas.notes import Note, SignerKey, encode_base64, sign_note
from agentledger.schemas.ports import SchemaRegistry
from agentledger.sinks import verify_export
from agentledger.sinks.chain import Chain
from agentledger.sinks.export_columns import data_columns
from agentledger.sinks.export_plan import FORMATS, Chunk, ExportRequest, LogRange, log_ranges, parts_of, where
from agentledger.sinks.export_readme import readme
from agentledger.sinks.key_files import sync_folder, write_synced
from agentledger.sinks.leaves import READ_LEAVES_MAX, ClickHouseLeafReader
from agentledger.sinks.proofs import NO_SCHEMA, nodes_of
from agentledger.sinks.tables import LEDGER

STATE = ".export.json"
BLOCK_BYTES = 1 << 20
SETTINGS = (
    "SETTINGS http_wait_end_of_query = 1, output_format_json_quote_64bit_integers = 0, "
    "output_format_avro_codec = 'deflate'"
)
_EVIDENCE = (
    "log_index, offset, toUnixTimestamp64Micro(ledger_time), lower(hex(schema_sha256)), lower(hex(key_sha256)), "
    "lower(hex(headers_sha256)), base64Encode(raw)"
)


class Export:
    """One export into one folder. `progress` is told how many records are done."""

    def __init__(
        self,
        reader: ClickHouseLeafReader,
        registry: SchemaRegistry,
        chain: Chain,
        request: ExportRequest,
        *,
        key: SignerKey,
        previous_size: int = 0,
    ) -> None:
        self._reader = reader
        self._registry = registry
        self._chain = chain
        self._request = request
        self._key = key
        self._previous_size = previous_size
        self._folder = request.out
        self._state: dict[str, Any] = {}

    def write(self, start: Callable[[int], None], progress: Callable[[int], None]) -> dict[str, Any]:
        """Write everything; what `verify_export` finds in it. `start` is told how many records are looked at.

        Raises UsageError where the folder is in use or nothing is asked for, IntegrityError where the ledger isn't what
        was signed: then no export is left that verifies.
        """
        self._begin()
        ranges = log_ranges(self._reader, self._chain, self._state["size"], self._request)
        parts = parts_of(ranges)
        start(sum(one.behind - one.first for one in ranges))
        kinds = self._kinds(ranges)
        if not sum(count for _, count in kinds.values()):
            self._remove_state()
            raise UsageError("nothing to export: no signed record is in this range", next_step="look at events")
        columns = data_columns(self._request.file_format, [json.loads(text) for text, _ in kinds.values() if text])
        for number, part in enumerate(parts, 1):
            if str(number) not in self._state["parts"]:
                self._state["parts"][str(number)] = self._part(number, part, ranges, columns)
                self._save()
            progress(sum(chunk.behind - chunk.first for chunk in part))
        self._finish(ranges, kinds)
        return self._checked()

    def _begin(self) -> None:
        """Take the folder, or go on with what was begun there."""
        path = self._folder / STATE
        wanted = {"query": self._request.as_json(), "previous_size": self._previous_size}
        if path.exists():
            self._state = json.loads(path.read_text("utf-8"))
            if {name: self._state[name] for name in wanted} != wanted:
                raise UsageError(
                    "another export was begun in this folder", where=str(self._folder),
                    next_step="ask for the same again to finish it, or give an empty folder",
                )  # fmt: skip
            return
        if self._folder.exists() and (not self._folder.is_dir() or self._is_used()):
            raise UsageError(
                "the folder is not empty", where=str(self._folder), next_step="give one that is, or a new one"
            )
        if not self._chain.bundles:
            raise UsageError("nothing is signed yet", next_step="agentledger signer --once")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._state = {**wanted, "size": self._chain.bundles[-1].size, "parts": {}}
        self._save()

    def _is_used(self) -> bool:
        """Whether anything is in the folder but what an export left that was killed as it began."""
        return any(path.name != f".{STATE}.new" for path in self._folder.iterdir())

    def _save(self) -> None:
        write_synced(self._folder / STATE, json.dumps(self._state), 0o600)

    def _remove_state(self) -> None:
        for left_over in (*self._folder.glob(".*.new"), self._folder / STATE):
            left_over.unlink()
        sync_folder(self._folder)

    def _part(self, number: int, part: list[Chunk], ranges: list[LogRange], columns: str) -> list[dict[str, Any]]:
        """Write the files of one part; their entries in the manifest."""
        request, condition = self._request, self._request.condition()
        places = " OR ".join(f"({_rows(ranges, chunk)})" for chunk in part)
        data_format = FORMATS[request.file_format]
        query = (
            f"SELECT {columns} FROM {LEDGER} WHERE ({places}) AND event_type != '' AND {condition} "
            f"FORMAT {data_format} {SETTINGS}"
        )
        files = [self._write(f"data-{number:06}.{request.file_format}", self._stream(query))]
        files.append(self._write(f"evidence-{number:06}.jsonl", self._evidence(part, ranges, condition)))
        if request.is_filtered:
            files.append(self._write(f"hidden-{number:06}.jsonl", self._hidden(part, ranges, condition)))
        return files

    def _evidence(self, part: list[Chunk], ranges: list[LogRange], condition: str) -> Iterator[bytes]:
        """A line for each record that is shown: what its leaf commits to, and its bytes."""
        for chunk in part:
            yield from self._stream(
                f"SELECT {chunk.log}, {_EVIDENCE} FROM {LEDGER} WHERE {_rows(ranges, chunk)} AND {condition} "
                f"ORDER BY log_index FORMAT JSONCompactEachRow {SETTINGS}"
            )

    def _hidden(self, part: list[Chunk], ranges: list[LogRange], condition: str) -> Iterator[bytes]:
        """A line for each run of records that are not shown: the hashes that stand for them."""
        for chunk in part:
            rows = self._reader.query(
                f"SELECT log_index, leaf_hash FROM {LEDGER} WHERE {_rows(ranges, chunk)} AND NOT ({condition}) "
                "ORDER BY log_index",
                self._request.parameters(),
            )
            for run in _runs(rows):
                hashes = [encode_base64(one) for one in run.hashes]
                yield canonical_json([chunk.log, run.first, run.behind, hashes]) + b"\n"

    def _stream(self, query: str) -> Iterator[bytes]:
        """A query's answer, block by block. Raises StoreError."""
        try:
            with self._reader.stream(query, self._request.parameters()) as answer:
                while block := answer.read(BLOCK_BYTES):
                    yield block
        except (ClickHouseError, OSError) as error:
            raise StoreError(
                f"ClickHouse: {str(error)[:300]}", next_step="ask for the same export again: it goes on where it was"
            ) from None

    def _write(self, name: str, blocks: Iterable[bytes]) -> dict[str, Any]:
        """Write a file, whole or not at all; its entry in the manifest."""
        path = self._folder / name
        temporary = path.with_name(f".{name}.new")
        digest, size = hashlib.sha256(), 0
        with temporary.open("wb") as file:
            for block in blocks:
                file.write(block)
                digest.update(block)
                size += len(block)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(self._folder)
        return {"name": name, "bytes": size, "sha256": digest.hexdigest()}

    def _kinds(self, ranges: list[LogRange]) -> dict[str, tuple[str, int]]:
        """By the SHA-256 of a writer schema: its text (none for unreadable records), and how many are exported."""
        found: dict[str, tuple[str, int]] = {}
        for one in ranges:
            rows = self._reader.query(
                f"SELECT schema_sha256, any(schema_id), count() FROM {LEDGER} WHERE {where(one.head)} "
                f"AND log_index >= {one.first} AND log_index < {one.behind} AND {self._request.condition()} "
                "GROUP BY schema_sha256 ORDER BY 1",
                self._request.parameters(),
            )
            for digest, schema_id, count in rows:
                text = ""
                if bytes(digest) != NO_SCHEMA:
                    schema = self._registry.schema_of(schema_id)
                    text = schema_text(schema)
                    if schema_sha256(schema) != bytes(digest):
                        raise IntegrityError(
                            f"schema {schema_id} is not the one that records were written with",
                            where=one.head.topic, next_step="run: agentledger verify --all",
                        )  # fmt: skip
                known = found.get(bytes(digest).hex(), (text, 0))
                found[bytes(digest).hex()] = text, known[1] + count
        return found

    def _finish(self, ranges: list[LogRange], kinds: dict[str, tuple[str, int]]) -> None:
        size = self._state["size"]
        bundle = next(one for one in self._chain.bundles if one.size == size)
        origin = Checkpoint.parse(Note.parse(bundle.note).text).origin
        counts: dict[str, int] = {}
        for text, count in kinds.values():
            name = json.loads(text)["name"] if text else "unreadable"
            counts[name] = counts.get(name, 0) + count
        own = Path(verify_export.__file__)
        files = [file for number in sorted(self._state["parts"], key=int) for file in self._state["parts"][number]]
        text = readme(self._request, origin, counts, [file["name"] for file in files])
        files.append(self._write("README.txt", [text.encode()]))
        files.append(self._write("verify_export.py", [own.read_bytes()]))
        nodes = nodes_of(self._chain.leaf_hashes[:size])
        previous = None
        if self._previous_size:
            hashes = prove_consistency(self._previous_size, size, nodes)
            previous = {"size": self._previous_size, "hashes": [encode_base64(one) for one in hashes]}
        total = sum(one.behind - one.first for one in ranges)
        manifest = canonical_json(
            {
                "format": verify_export.FORMAT, "origin": origin, "created_us": str(time.time_ns() // 1000),
                "query": self._request.as_json(), "complete": sum(counts.values()) == total, "counts": counts,
                "files": files, "schemas": {digest: text for digest, (text, _) in kinds.items() if text},
                "checkpoint": bundle.note, "previous": previous,
                "logs": [self._log(one, prove_inclusion(one.place, size, nodes)) for one in ranges],
            }
        )  # fmt: skip
        self._write(verify_export.MANIFEST, [manifest])
        signed = f"{verify_export.FORMAT}\n{hashlib.sha256(manifest).hexdigest()}\n"
        self._write(verify_export.SIGNATURE, [sign_note(signed, [self._key]).encode()])
        self._remove_state()

    def _log(self, one: LogRange, head_hashes: Sequence[bytes]) -> dict[str, Any]:
        """A log's entry in the manifest: its range, its head, and the hashes on both sides of the range."""
        before = self._boundary(one, one.first - 1) if one.first else None
        after = self._boundary(one, one.behind) if one.behind < one.head.size else None
        left = self._range(one, 0, one.first - (1 if before else 0))
        right = self._range(one, one.behind + (1 if after else 0), one.head.size)
        return {
            "head": one.head.line(), "head_place": one.place, "head_hashes": [encode_base64(h) for h in head_hashes],
            "first": one.first, "behind": one.behind, "before": before, "after": after,
            "left": [encode_base64(h) for h in left.hashes], "right": [encode_base64(h) for h in right.hashes],
        }  # fmt: skip

    def _range(self, one: LogRange, first: int, behind: int) -> CompactRange:
        found = CompactRange(first)
        for start in range(first, behind, READ_LEAVES_MAX):
            found.extend(self._reader.leaves(one.head.log, start, min(behind, start + READ_LEAVES_MAX)))
        return found

    def _boundary(self, one: LogRange, index: int) -> list[Any]:
        """A record next to the range: what its leaf commits to, without its bytes."""
        rows = self._reader.query(
            "SELECT log_index, offset, toUnixTimestamp64Micro(ledger_time), base64Encode(substring(raw, 6, 37)), "
            "lower(hex(schema_sha256)), lower(hex(key_sha256)), lower(hex(headers_sha256)), lower(hex(value_sha256)) "
            f"FROM {LEDGER} WHERE {where(one.head)} AND log_index = {index}"
        )
        if len(rows) != 1:
            raise IntegrityError(
                f"index {index} is there {len(rows)} times", where=one.head.topic,
                next_step="run: agentledger verify --all",
            )  # fmt: skip
        found, offset, time_us, start, *digests = rows[0]
        match = verify_export.EVENT_ID.match(verify_export.decode(start))
        event_id = match.group(1).decode() if match is not None and digests[0] != verify_export.NO_SCHEMA else ""
        return [found, offset, time_us, event_id, *digests]

    def _checked(self) -> dict[str, Any]:
        """What an auditor will find. Raises IntegrityError, and takes the signature back, where that is nothing."""
        try:
            return verify_export.verify_export(self._folder, [verify_export.Key(str(self._key.verifier))] + [
                verify_export.Key(str(key)) for key in self._chain.state.keys
            ])  # fmt: skip
        except verify_export.BadExportError as error:
            (self._folder / verify_export.SIGNATURE).unlink()
            raise IntegrityError(
                f"the ledger isn't what was signed: {error}", where=str(self._folder),
                next_step="run: agentledger verify --all",
            ) from None  # fmt: skip


def remove_unfinished(folder: Path) -> None:
    """Remove what an export left that was given up. Raises UsageError where the folder is none of these."""
    if not (folder / STATE).exists():
        raise UsageError("no export was begun here", where=str(folder))
    shutil.rmtree(folder)


def _rows(ranges: list[LogRange], chunk: Chunk) -> str:
    """The condition for the rows of a chunk."""
    return f"{where(ranges[chunk.log].head)} AND log_index >= {chunk.first} AND log_index < {chunk.behind}"


def _runs(rows: Iterable[tuple[int, bytes]]) -> Iterator[CompactRange]:
    """Ascending (index, leaf) as ranges without a hole."""
    leaves: list[bytes] = []
    first = behind = 0
    for index, leaf in rows:
        if leaves and index != behind:
            yield _range_of(first, leaves)
            leaves = []
        if not leaves:
            first = index
        leaves.append(bytes(leaf))
        behind = index + 1
    if leaves:
        yield _range_of(first, leaves)


def _range_of(first: int, leaves: list[bytes]) -> CompactRange:
    found = CompactRange(first)
    found.extend(leaves)
    return found
