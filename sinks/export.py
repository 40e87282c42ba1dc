"""Writes an export: files to work with, the evidence for every record in them, and a signed manifest of it all.

Every file is streamed from ClickHouse to disk and takes its name when it is whole. A run that was cut off goes on with
the first part that is missing. Before anything is signed, the evidence is read back from disk and leads to the signed
roots; the manifest's signature is written last: without it nothing verifies.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agentledger.schemas.catalogue import schema_sha256, schema_text
from agentledger.schemas.checkpoints import Checkpoint
from agentledger.schemas.errors import ConfigurationError, IntegrityError, StoreError, UsageError
from agentledger.schemas.hashing import canonical_json
from agentledger.schemas.heads import Bundle
from agentledger.schemas.notes import Note, SignerKey, sign_note
from agentledger.schemas.ports import Clock, SchemaRegistry
from agentledger.sinks import verify_export
from agentledger.sinks.chain import Chain
from agentledger.sinks.export_event import ExportFacts
from agentledger.sinks.export_folder import Entry, ExportFolder
from agentledger.sinks.export_plan import OCSF, Chunk, ExportRequest, LogRange, log_ranges, plan, source_of
from agentledger.sinks.export_proofs import ExportProofs
from agentledger.sinks.export_readme import readme
from agentledger.sinks.export_streams import ExportStreams
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.proofs import NO_SCHEMA
from agentledger.sinks.retention import PURGES
from agentledger.sinks.tables import LEDGER
from agentledger.sinks.verify_export import BROKEN, Records, read_hidden, read_records

STREAMS = 2  # from ClickHouse at a time: more would starve the writer on a small server
PARTS_AHEAD = 1  # being written while one is checked


class Export:
    """One export into one folder. `announce` is told of it before it is signed, and returns when that is durable."""

    def __init__(
        self,
        reader: ClickHouseLeafReader,
        registry: SchemaRegistry,
        chain: Chain,
        request: ExportRequest,
        *,
        key: SignerKey,
        clock: Clock,
        announce: Callable[[ExportFacts], None],
        previous: Path | None = None,
    ) -> None:
        self._reader = reader
        self._registry = registry
        self._chain = chain
        self._request = request
        self._key = key
        self._clock = clock
        self._announce = announce
        self._keys = [verify_export.Key(str(one)) for one in (key.verifier, *chain.state.keys)]
        self._previous = self._read_previous(previous) if previous is not None else None
        self._folder = ExportFolder(request.out)
        self._source = source_of(request, has_purges=False)
        self.unsigned = 0  # records of the range that are not under the checkpoint, and not in the export

    def write(self, start: Callable[[int], None], progress: Callable[[int], None]) -> dict[str, Any]:
        """Write everything; what `verify_export` finds in it. `start` is told how many records are looked at.

        Raises UsageError where the folder is in use or nothing is asked for, IntegrityError where the ledger isn't what
        was signed: then no export is left that verifies.
        """
        if not self._chain.bundles:
            raise UsageError("nothing is signed yet", next_step="agentledger signer --once")
        wanted = {"query": self._request.as_json(), "previous_size": self._previous["size"] if self._previous else 0}
        try:
            with self._folder.taken(wanted, self._begin):
                return self._write_all(start, progress)
        except OSError as error:
            raise StoreError(
                f"the export can't be written: {error.strerror or error}", where=str(self._folder.path),
                next_step="make room, and ask for the same export again: it goes on where it was",
            ) from None  # fmt: skip

    def _begin(self) -> dict[str, Any]:
        """What stays as it is now, however often the export is cut off."""
        size = self._chain.bundles[-1].size
        if self._previous and self._previous["size"] > size:
            raise UsageError("the previous export is of a later checkpoint than those at hand")
        return {"size": size, "created_us": self._clock(), "parts": {}}

    def _write_all(self, start: Callable[[int], None], progress: Callable[[int], None]) -> dict[str, Any]:
        self._source = source_of(self._request, has_purges=bool(self._reader.query(f"EXISTS TABLE {PURGES}")[0][0]))
        ranges, self.unsigned = log_ranges(
            self._reader, self._chain, self._folder.state["size"], self._request, self._source
        )
        parts = self._plan(ranges)
        start(sum(one.behind - one.first for one in ranges))
        if not any(chunk.shown for part in parts for chunk in part):
            self._folder.forget()
            raise UsageError("nothing to export: no signed record is in this range", next_step="ask for another range")
        if "schemas" not in self._folder.state:
            self._folder.state |= {"schemas": self._schemas(), "plan": parts}
            self._folder.save()
        manifest = self._manifest(ranges)
        checkpoint = Checkpoint.parse(Note.parse(manifest["checkpoint"]).text)
        with self._as_signed():
            records = Records(manifest, (checkpoint.size, checkpoint.root))
        streams = ExportStreams(self._reader, self._request, self._source, manifest)
        self._write_parts(parts, streams, records, progress)
        manifest |= {"counts": records.counts, "complete": records.hidden == 0}
        with self._as_signed():
            records.finish()
            found = verify_export.summary(
                manifest, records, (checkpoint.size, checkpoint.root), continues=self._previous is not None
            )
        self._finish(manifest, found)
        return found

    def _plan(self, ranges: list[LogRange]) -> list[list[Chunk]]:
        """The parts: those that were planned when the export was begun, whatever has been written since."""
        if "plan" in self._folder.state:
            return [[Chunk(*chunk) for chunk in part] for part in self._folder.state["plan"]]
        return plan(self._reader, ranges, self._request, self._source)

    @contextlib.contextmanager
    def _as_signed(self) -> Iterator[None]:
        """What doesn't verify here never will: the ledger is to blame, not the export."""
        try:
            yield
        except BROKEN as error:
            raise IntegrityError(
                f"the ledger isn't what was signed: {error}", where=str(self._folder.path),
                next_step="run: agentledger verify --all",
            ) from None  # fmt: skip

    def _write_parts(
        self, parts: list[list[Chunk]], streams: ExportStreams, records: Records, progress: Callable[[int], None]
    ) -> None:
        """Write the parts that aren't there, and check the evidence of all as it is on disk: ClickHouse works on the
        next parts while one is checked."""
        pool = ThreadPoolExecutor(STREAMS, "export")
        ahead: deque[tuple[int, list[Chunk], list[Future[Entry]]]] = deque()
        try:
            for number, part in enumerate(parts, 1):
                ahead.append((number, part, self._begin_part(number, part, streams, pool)))
                if len(ahead) > PARTS_AHEAD:
                    self._end_part(*ahead.popleft(), records, progress)
            while ahead:
                self._end_part(*ahead.popleft(), records, progress)
        finally:
            pool.shutdown(cancel_futures=True)

    def _begin_part(
        self, number: int, part: list[Chunk], streams: ExportStreams, pool: ThreadPoolExecutor
    ) -> list[Future[Entry]]:
        """Have the files of a part written, the evidence first; none where they are there."""
        if str(number) in self._folder.state["parts"]:
            return []
        files: list[Future[Entry]] = []
        if any(chunk.hidden for chunk in part):
            files.append(pool.submit(self._folder.write, self._name("hidden", number), streams.hidden(part)))
        if any(chunk.shown for chunk in part):
            evidence = pool.submit(self._folder.write, self._name("evidence", number), streams.evidence(part))
            data = self._ocsf(evidence, streams) if self._request.file_format == OCSF else streams.data(part)
            files += [evidence, pool.submit(self._folder.write, f"data-{number:06}.{self._request.ending}", data)]
        return files

    def _end_part(
        self, number: int, part: list[Chunk], files: list[Future[Entry]], records: Records,
        progress: Callable[[int], None],
    ) -> None:  # fmt: skip
        """Check the evidence of a part, and remember that it is done."""
        is_shown, is_hidden = any(chunk.shown for chunk in part), any(chunk.hidden for chunk in part)
        for file in files[: is_hidden + is_shown]:
            file.result()
        with self._as_signed():
            shown = read_records(self._folder.path / self._name("evidence", number)) if is_shown else iter(())
            hidden = read_hidden(self._folder.path / self._name("hidden", number)) if is_hidden else iter(())
            records.take(shown, hidden)
        if files:
            self._folder.state["parts"][str(number)] = [file.result() for file in reversed(files)]
            self._folder.save()
        progress(sum(chunk.behind - chunk.first for chunk in part))

    def _name(self, kind: str, number: int) -> str:
        return f"{kind}-{number:06}.bin"

    def _ocsf(self, evidence: Future[Entry], streams: ExportStreams) -> Iterator[bytes]:
        yield from streams.ocsf(self._folder.path / evidence.result()["name"])

    def _schemas(self) -> dict[str, str]:
        """The writer schemas of what is exported: SHA-256 to text."""
        rows = self._reader.query(
            f"SELECT schema_sha256, any(schema_id), any(topic) FROM {LEDGER} "
            f"WHERE {self._source.shown} GROUP BY schema_sha256 ORDER BY 1",
            self._request.parameters(),
        )
        found: dict[str, str] = {}
        for digest, schema_id, topic in rows:
            if bytes(digest) == NO_SCHEMA:
                continue
            schema = self._registry.schema_of(schema_id)
            if schema_sha256(schema) != bytes(digest):
                raise IntegrityError(
                    f"schema {schema_id} is not the one that records were written with", where=topic,
                    next_step="run: agentledger verify --all",
                )  # fmt: skip
            found[bytes(digest).hex()] = schema_text(schema)
        return found

    def _bundle(self) -> Bundle:
        for bundle in self._chain.bundles:
            if bundle.size == self._folder.state["size"]:
                return bundle
        raise ConfigurationError(
            "the checkpoint that this export was begun with is no longer at hand", where=str(self._folder.path),
            next_step="give the same --checkpoints, or begin in an empty folder",
        )  # fmt: skip

    def _manifest(self, ranges: list[LogRange]) -> dict[str, Any]:
        """The manifest, but for its files, and for what is known when all is read."""
        bundle = self._bundle()
        proofs = ExportProofs(self._reader, self._chain, bundle)
        manifest = {
            "format": verify_export.FORMAT, "origin": Checkpoint.parse(Note.parse(bundle.note).text).origin,
            "created_us": self._folder.state["created_us"], "query": self._request.as_json(),
            "schemas": self._folder.state["schemas"], "checkpoint": bundle.note, **proofs.of_checkpoint(),
            "previous": proofs.since(self._previous["size"]) if self._previous else None,
            "logs": [proofs.of_log(one) for one in ranges],
        }  # fmt: skip
        if self._previous:
            with self._as_signed():
                verify_export.check_previous(manifest, self._previous["manifest"], self._keys)
        return manifest

    def _finish(self, manifest: dict[str, Any], found: dict[str, Any]) -> None:
        """Write what names all files, tell of the export, and sign it."""
        parts = self._folder.state["parts"]
        files = [file for number in sorted(parts, key=int) for file in parts[number]]
        signers = [key for key in self._chain.state.keys if key != self._key.verifier]
        signers = [*Note.parse(manifest["checkpoint"]).signers(signers), self._key.verifier]
        text = readme(self._request, manifest, [file["name"] for file in files], signers)
        files.append(self._folder.write("README.txt", [text.encode()]))
        files.append(self._folder.write("verify_export.py", [Path(verify_export.__file__).read_bytes()]))
        whole = canonical_json({**manifest, "files": files})
        self._folder.write(verify_export.MANIFEST, [whole])
        digest = hashlib.sha256(whole).hexdigest()
        self._announce(ExportFacts(manifest["origin"], digest, manifest["created_us"], found))
        self._folder.drop_halves()
        signed = sign_note(f"{verify_export.FORMAT}\n{digest}\n", [self._key])
        self._folder.write(verify_export.SIGNATURE, [signed.encode()])
        self._folder.forget()

    def _read_previous(self, folder: Path) -> dict[str, Any]:
        try:
            manifest = verify_export.read_manifest(folder, self._keys)
            size, _ = verify_export.check_checkpoint(manifest, self._keys)
        except BROKEN as error:
            raise UsageError(f"the previous export can't be used: {error}", where=str(folder)) from None
        return {"manifest": manifest, "size": size}


def files_of(manifest: dict[str, Any], kind: str) -> Sequence[str]:
    """The names of an export's files of one kind: data, evidence or hidden."""
    return [file["name"] for file in manifest["files"] if file["name"].startswith(f"{kind}-")]
