"""Where signed checkpoints go outside the database: places that take each one once, and never another in its stead.

A bundle is named by its first leaf. The first to publish under a name wins; that is what keeps two signers from signing
two histories: the second one finds the name taken, and goes on behind what is there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from agentledger.schemas.errors import StoreError
from agentledger.sinks.key_files import sync_folder

BUNDLES_PER_FOLDER = 10_000
SUFFIX = ".checkpoint"


class CheckpointPlace(Protocol):
    """Keeps bundles by the index of their first leaf. Raises StoreError where it can't be reached."""

    def publish(self, first: int, text: str) -> bool:
        """Keep this text under its name for good. False where something else is there; nothing is changed then."""

    def read(self, first: int) -> str | None:
        """What is kept under this name."""


def bundle_name(first: int) -> str:
    """The name of the bundle that begins with this leaf, with its folder."""
    return f"{first // BUNDLES_PER_FOLDER:012d}/{first:016d}{SUFFIX}"


class FolderPlace:
    """A folder that the database's administrators can't write: on another machine, or owned by another user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, first: int) -> Path:
        """The file of the bundle that begins with this leaf."""
        return self.folder / bundle_name(first)

    def publish(self, first: int, text: str) -> bool:
        """Keep this text under its name for good. False where something else is there; nothing is changed then."""
        path = self.path(first)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o444)
            try:
                os.link(temporary, path)  # unlike a rename, this fails where the name is taken
            except FileExistsError:
                return self.read(first) == text
            sync_folder(path.parent)
            sync_folder(self.folder)
        except OSError as error:
            raise self._failed("written", error) from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return True

    def read(self, first: int) -> str | None:
        """What is kept under this name."""
        try:
            return self.path(first).read_text("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise self._failed("read", error) from None

    def files(self) -> Iterator[Path]:
        """All bundles, in the order of their first leaves."""
        yield from sorted(self.folder.glob(f"*/*{SUFFIX}"), key=lambda path: path.name)

    def _failed(self, what: str, error: Exception) -> StoreError:
        return StoreError(
            f"a checkpoint can't be {what}: {getattr(error, 'strerror', error)}",
            where=str(self.folder), next_step="make room, or the folder reachable: the signer tries again",
        )  # fmt: skip
