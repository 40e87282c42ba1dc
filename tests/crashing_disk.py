"""A disk in memory for the outbox: it can be full, stop in the middle of any write, and forget what was not synced."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


class CrashedError(BaseException):
    """The process is gone: nothing that it would still do happens. Not an Exception, as nobody may catch it."""


@dataclass(slots=True)
class _Node:
    content: bytearray = field(default_factory=bytearray)
    synced: bytes | None = None  # what a loss of power leaves; None: not even the name


class CrashingDisk:
    """`OutboxDisk` in memory. A crash or a loss of power ends every handle and lock of the processes before."""

    def __init__(self) -> None:
        self.nodes: dict[Path, _Node] = {}
        self.folders: dict[Path, None] = {}  # in the order in which they were made, whatever their names
        self.free_bytes: int | None = None  # None: plenty
        self.steps_left: int | None = None  # bytes and calls until the crash; None: none is to come
        self.is_down = False
        self._locks: dict[Path, CrashingLock] = {}
        self._life = 0
        self._boot = 0

    def open(self, path: Path) -> CrashingFile:
        if path not in self.nodes:
            self.step()
            if path.parent not in self.folders:
                raise FileNotFoundError(errno.ENOENT, "no such folder", str(path))
            self.nodes[path] = _Node()
        return CrashingFile(self, self.nodes[path], self._life)

    def names(self, folder: Path) -> list[str]:
        self.check(self._life)
        files = sorted(path.name for path in self.nodes if path.parent == folder)
        return files + [path.name for path in self.folders if path.parent == folder]

    def make_folder(self, path: Path) -> None:
        self.step()
        self.folders |= dict.fromkeys((path, *path.parents))

    def rename(self, old: Path, new: Path) -> None:
        self.step()
        self.folders = {new if path == old else path: None for path in self.folders}
        self.nodes = {new / path.name if path.parent == old else path: node for path, node in self.nodes.items()}
        self._locks = {new if path == old else path: lock for path, lock in self._locks.items()}

    def remove(self, path: Path) -> None:
        self.step()
        self.nodes.pop(path, None)

    def remove_folder(self, path: Path) -> None:
        self.step()
        if self.names(path):
            raise OSError(errno.ENOTEMPTY, "not empty", str(path))
        self.folders.pop(path, None)

    def sync_folder(self, path: Path) -> None:
        self.step()

    def lock(self, folder: Path, *, make: bool = False) -> CrashingLock | None:
        path = folder / "lock"
        if path not in self.nodes:
            if not make:
                return None
            self.open(path).sync()
        if folder in self._locks:
            return None
        self._locks[folder] = CrashingLock(self)
        return self._locks[folder]

    def unlock(self, lock: CrashingLock) -> None:
        self._locks = {path: held for path, held in self._locks.items() if held is not lock}

    def restart(self) -> None:
        """All processes are gone, the machine went on: what was written is there."""
        self.is_down, self.steps_left, self._locks = False, None, {}
        self._life += 1

    def lose_power(self, kept_of: Callable[[int], int]) -> None:
        """All processes are gone with the machine: of bytes not synced, `kept_of(how many)` are there."""
        for path, node in list(self.nodes.items()):
            if node.synced is None:
                if not kept_of(1):
                    del self.nodes[path]
                continue
            grown = len(node.content) - len(node.synced)
            kept = len(node.synced) + kept_of(grown) if grown > 0 else len(node.synced)
            node.content = bytearray(node.synced) + node.content[len(node.synced) : kept]
        self._boot += 1
        self.restart()

    def boot_id(self) -> str:
        return f"boot {self._boot}"

    def check(self, life: int) -> None:
        if self.is_down or life != self._life:
            raise CrashedError

    def step(self, size: int = 0) -> int:
        """Count a call that writes so many bytes: how many of them still get there. Raises when none is left."""
        if self.is_down:
            raise CrashedError
        if self.steps_left is None:
            return size
        if self.steps_left <= 0:
            self.is_down = True
            raise CrashedError
        done = min(size, self.steps_left - 1)
        self.steps_left -= 1 + size
        return done


class CrashingFile:
    """`OutboxFile` on such a disk."""

    def __init__(self, disk: CrashingDisk, node: _Node, life: int) -> None:
        self._disk = disk
        self._node = node
        self._life = life
        self._size = len(node.content)

    @property
    def size(self) -> int:
        return self._size

    def append(self, data: bytes) -> None:
        self._disk.check(self._life)
        if self._disk.free_bytes is not None and len(data) > self._disk.free_bytes:
            raise OSError(errno.ENOSPC, "no space left on device")
        done = self._disk.step(len(data))
        self._node.content[self._size :] = data[:done]
        if done < len(data):
            self._disk.is_down = True
            raise CrashedError
        if self._disk.free_bytes is not None:
            self._disk.free_bytes -= len(data)
        self._size += len(data)

    def write_at(self, offset: int, data: bytes) -> None:
        self._disk.check(self._life)
        done = self._disk.step(len(data))
        self._node.content[offset : offset + done] = data[:done]
        if done < len(data):
            self._disk.is_down = True
            raise CrashedError

    def read(self, offset: int, length: int) -> bytes:
        self._disk.check(self._life)
        return bytes(self._node.content[offset : offset + length])

    def sync(self) -> None:
        self._disk.check(self._life)
        self._disk.step()
        self._node.synced = bytes(self._node.content)

    def close(self) -> None:
        """Nothing is held."""


class CrashingLock:
    """`FolderLock` on such a disk."""

    def __init__(self, disk: CrashingDisk) -> None:
        self._disk = disk

    def release(self) -> None:
        if not self._disk.is_down:
            self._disk.unlock(self)
