"""What the outbox needs of a file system, as a port, and the real one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Protocol


class OutboxFile(Protocol):
    """An open file. Everything raises OSError."""

    @property
    def size(self) -> int:
        """Its length in bytes, as far as everything written to it counts."""

    def append(self, data: bytes) -> None:
        """Write at the end: all of it, or nothing counts (`size` stays)."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Write over what is there."""

    def read(self, offset: int, length: int) -> bytes:
        """At most so many bytes from there on."""

    def sync(self) -> None:
        """Return when what was written would outlast a loss of power."""

    def close(self) -> None:
        """Give the handle back. Never raises."""


class FolderLock(Protocol):
    """A folder that is ours until it is released, or this process ends, however it ends."""

    def release(self) -> None:
        """Give it up. Never raises."""


class OutboxDisk(Protocol):
    """Files and folders. Everything raises OSError."""

    def open(self, path: Path) -> OutboxFile:
        """The file, made where there is none."""

    def names(self, folder: Path) -> list[str]:
        """The names in a folder, sorted; none where there is no such folder."""

    def make_folder(self, path: Path) -> None:
        """Make it, and those above it, where they are missing."""

    def rename(self, old: Path, new: Path) -> None:
        """Give a folder another name, at once or not at all."""

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""

    def sync_folder(self, path: Path) -> None:
        """Return when the names in the folder would outlast a loss of power."""

    def boot_id(self) -> str:
        """Which start of the machine this is: what was not synced in an earlier one may be gone. Never raises."""

    def lock(self, folder: Path, *, make: bool = False) -> FolderLock | None:
        """The folder's lock (a file in it, made if asked to); None where another process has it, or there is none."""


LOCK_NAME = "lock"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_OWNER_ONLY = 0o600  # events tell what people asked for


class RealFile:
    """`OutboxFile` on a file descriptor."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, _OWNER_ONLY)
        self._size = os.fstat(self._fd).st_size

    @property
    def size(self) -> int:
        """Its length as it was opened, and what was appended since."""
        return self._size

    def append(self, data: bytes) -> None:
        """Write at the end; what a failed write left is cut off, or else is a torn end for whoever reads."""
        try:
            written = os.pwrite(self._fd, data, self._size)
            while written < len(data):
                more = os.pwrite(self._fd, data[written:], self._size + written)
                if not more:
                    raise OSError(errno.EIO, "nothing was written")
                written += more
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self._size += written

    def write_at(self, offset: int, data: bytes) -> None:
        """Write over what is there."""
        if os.pwrite(self._fd, data, offset) != len(data):
            raise OSError(errno.EIO, "only a part was written")

    def read(self, offset: int, length: int) -> bytes:
        """At most so many bytes from there on."""
        return os.pread(self._fd, length, offset)

    def sync(self) -> None:
        """fsync. Raises OSError, also where another thread has closed the file meanwhile."""
        fd = self._fd
        if fd < 0:
            raise OSError(errno.EBADF, "the file is closed")
        os.fsync(fd)

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)


class RealLock:
    """flock on a file: released by the system when the last process that has it open ends.

    A forked child inherits it: it has to close it, which does not release it.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)


class RealDisk:
    """`OutboxDisk` by system calls, for POSIX."""

    def open(self, path: Path) -> RealFile:
        """The file, readable for its owner alone."""
        return RealFile(path)

    def names(self, folder: Path) -> list[str]:
        """The names in a folder."""
        try:
            return sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths
        except FileNotFoundError:
            return []

    def make_folder(self, path: Path) -> None:
        """Make it, for its owner alone."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def rename(self, old: Path, new: Path) -> None:
        """rename(2)."""
        old.rename(new)

    def remove(self, path: Path) -> None:
        """unlink(2)."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """rmdir(2)."""
        path.rmdir()

    def sync_folder(self, path: Path) -> None:
        """fsync of the folder."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def boot_id(self) -> str:
        """As Linux says; empty where the system doesn't."""
        try:
            return _BOOT_ID.read_text().strip()
        except OSError:
            return ""

    def lock(self, folder: Path, *, make: bool = False) -> RealLock | None:
        """flock without waiting; then a look whether the file is still the one in the folder."""
        path = folder / LOCK_NAME
        try:
            fd = os.open(path, os.O_RDWR | (os.O_CREAT if make else 0), _OWNER_ONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(fd).st_ino:
                return RealLock(fd)
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None
