"""Exports made from the console: each a folder while it is written, then one ZIP file, kept for its tenant."""

from __future__ import annotations

import re
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from agentledger.infra.endpoints import clickhouse_url, configured_registry, kafka_config, reader_login
from agentledger.infra.settings import Settings
from agentledger.schemas import Codec
from agentledger.schemas.errors import ProofError, StoreError
from agentledger.schemas.topics import INTEGRITY
from agentledger.sinks.announcing import Announcer
from agentledger.sinks.chain import read_chain
from agentledger.sinks.console.jobs import Say
from agentledger.sinks.console.ports import ExportAsked, ExportFile
from agentledger.sinks.export import Export
from agentledger.sinks.export_event import ExportFacts, export_event
from agentledger.sinks.export_plan import ExportRequest
from agentledger.sinks.key_files import KeyFolder
from agentledger.sinks.leaves import ClickHouseLeafReader

KEPT_MAX = 20  # of a tenant; the oldest makes room: whoever needs it keeps what was downloaded
_NAME = re.compile(r"export-[0-9A-Za-z-]{1,80}\.zip")


class Writing(Protocol):
    """What writes an export to a folder: `sinks.export.Export`, or a fake. `unsigned`: records that it leaves out."""

    unsigned: int

    def write(self, start: Callable[[int], None], progress: Callable[[int], None]) -> dict[str, Any]:
        """Write everything; what `verify_export` finds in it."""


class ConsoleExports:
    """The exports under one folder, by tenant. Only its owner reads them. `open_export` gives what writes one."""

    def __init__(self, folder: Path, open_export: Callable[[ExportAsked, Path], Writing]) -> None:
        self._folder = folder
        self._open_export = open_export

    def make(self, asked: ExportAsked, start: Say, progress: Say) -> Mapping[str, Any]:
        """Write, sign and pack an export; its name and what `verify_export` finds in it.

        Raises UsageError where there is nothing to export, IntegrityError, ProofError, StoreError, BrokerError.
        """
        try:
            return self._make(asked, start, progress)
        except OSError as error:
            raise StoreError(
                f"the export can't be written: {error.strerror or error}", where=str(self._folder),
                next_step="make room and ask again",
            ) from None  # fmt: skip

    def _make(self, asked: ExportAsked, start: Say, progress: Say) -> Mapping[str, Any]:
        folder = self._of(asked.tenant_id)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = datetime.fromtimestamp(asked.asked_us / 1e6, UTC).strftime("%Y%m%dT%H%M%S%f")
        name = f"export-{made}-{asked.file_format}"
        being_written = folder / f".{name}"
        try:
            writing = self._open_export(asked, being_written)
            found = writing.write(start, progress)
            packed = folder / f".{name}.zip"
            _pack(being_written, packed, name)
            packed.replace(folder / f"{name}.zip")
        finally:
            shutil.rmtree(being_written, ignore_errors=True)
            (folder / f".{name}.zip").unlink(missing_ok=True)
        for old in self._files(folder)[KEPT_MAX:]:
            old.unlink(missing_ok=True)
        return {"name": f"{name}.zip", "records": found["records"], "unsigned": writing.unsigned}

    def listed(self, tenant_id: str) -> list[ExportFile]:
        """What is kept for the tenant, the newest first."""
        found = []
        for path in self._files(self._of(tenant_id)):
            facts = path.stat()
            found.append(ExportFile(path.name, facts.st_size, facts.st_mtime_ns // 1000))
        return found

    def path(self, tenant_id: str, name: str) -> Path | None:
        """The file of this name; None where the tenant has none."""
        path = self._of(tenant_id) / name
        return path if _NAME.fullmatch(name) and path.is_file() else None

    def _of(self, tenant_id: str) -> Path:
        # A tenant's name is free text, and no name of a folder.
        return self._folder / sha256(tenant_id.encode()).hexdigest()[:32]

    def _files(self, folder: Path) -> list[Path]:
        return sorted(folder.glob("export-*.zip"), reverse=True) if folder.is_dir() else []


def open_export(settings: Settings, asked: ExportAsked, folder: Path) -> Export:
    """What writes this export to a folder. Raises ConfigurationError where nothing is signed, ProofError."""
    request = ExportRequest(folder, asked.file_format, asked.from_us, asked.to_us, asked.tenant_id, asked.run_id)
    keys = KeyFolder(settings.signer_folder())
    chain, problems = read_chain(settings.checkpoints_folder(), keys.public())
    if problems:
        raise ProofError(problems[0].text, where=problems[0].where)
    registry = configured_registry(settings)
    announcer = Announcer(kafka_config(settings), Codec(registry))

    def announce(facts: ExportFacts) -> None:
        announcer.announce(export_event(facts, asked.asked_by), INTEGRITY.name)

    return Export(
        ClickHouseLeafReader(clickhouse_url(settings), *reader_login(settings)), registry, chain, request,
        key=keys.active(), clock=lambda: time.time_ns() // 1000, announce=announce,
    )  # fmt: skip


def _pack(folder: Path, packed: Path, name: str) -> None:
    """One file of all; only its owner reads it."""
    packed.touch(mode=0o600)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{name}/{path.relative_to(folder)}")
