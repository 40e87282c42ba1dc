"""The folder of an export: who writes in it, what is kept so that a run goes on where another was cut off, and files
that are there whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentledger.schemas.errors import UsageError
from agentledger.sinks.key_files import sync_folder, write_synced

STATE = ".export.json"

Entry = dict[str, Any]  # of a file in the manifest


class ExportFolder:
    """One folder. `state` is what an unfinished export is known by, with its query; it is empty until `taken`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: dict[str, Any] = {}

    @contextmanager
    def taken(self, wanted: Mapping[str, Any], begin: Callable[[], dict[str, Any]]) -> Iterator[None]:
        """Hold the folder while the block runs. It goes on with what was begun there, if that is what is `wanted`; in
        an empty folder `begin` gives the rest of the state. Raises UsageError where it can't be taken."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise UsageError(f"the folder can't be made: {error.strerror}", where=str(self.path)) from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError("another export is being written there", where=str(self.path)) from None
            self._load(wanted, begin)
            yield
        finally:
            os.close(lock)

    def _load(self, wanted: Mapping[str, Any], begin: Callable[[], dict[str, Any]]) -> None:
        kept = self.path / STATE
        if kept.exists():
            try:
                self.state = dict(json.loads(kept.read_text("utf-8")))
            except (ValueError, TypeError):
                raise UsageError(
                    "what an unfinished export left there can't be read", where=str(kept),
                    next_step="give an empty folder",
                ) from None  # fmt: skip
            if {name: self.state.get(name) for name in wanted} != wanted:
                raise UsageError(
                    "another export was begun in this folder", where=str(self.path),
                    next_step="ask for the same again to finish it, or give an empty folder",
                )  # fmt: skip
            return
        if any(one.name != f".{STATE}.new" for one in self.path.iterdir()):
            raise UsageError(
                "the folder is not empty", where=str(self.path), next_step="give one that is, or a new one"
            )
        self.state = {**wanted, **begin()}
        self.save()

    def save(self) -> None:
        """Keep the state."""
        write_synced(self.path / STATE, json.dumps(self.state), 0o600)

    def forget(self) -> None:
        """Keep the state no longer: the export is finished, or there is nothing to be written."""
        (self.path / STATE).unlink()
        sync_folder(self.path)

    def write(self, name: str, blocks: Iterable[bytes]) -> Entry:
        """Write a file, whole or not at all; its entry in the manifest."""
        path = self.path / name
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
        sync_folder(self.path)
        return {"name": name, "bytes": size, "sha256": digest.hexdigest()}

    def drop_halves(self) -> None:
        """Remove files that a run which was cut off has not finished."""
        for left in self.path.glob(".*.new"):
            left.unlink()
