"""The folders of an outbox: one for each process, locked while it lives, and taken over when it is gone."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

from agentledger.producers.outbox.disk import LOCK_NAME, FolderLock, OutboxDisk
from agentledger.producers.outbox.position import Position, PositionFile

OWNER_NAME = "owner.json"
OWNER_BYTES_MAX = 16_384
_UNFINISHED = "."  # a folder whose name begins so has no lock yet: nobody takes it over


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose events are in a folder: written once, when it is made."""

    tenant_id: str
    producer_id: str
    pid: int
    boot_id: str
    fsync: str


@dataclass(slots=True)
class Instance:
    """One folder that this process has locked. `owner` is None where nobody can say any more whose it was."""

    path: Path
    lock: FolderLock
    owner: Owner | None
    position_file: PositionFile

    def close(self) -> None:
        """Leave it to whoever comes next."""
        self.position_file.close()
        self.lock.release()


def make_instance(disk: OutboxDisk, folder: Path, owner: Owner) -> Instance:
    """A folder of one's own, locked before anybody else can see it, and synced. Raises OSError."""
    name = f"{re.sub(r'[^A-Za-z0-9.-]', '_', owner.producer_id)[:100].lstrip('.')}-{secrets.token_hex(4)}"
    unfinished, path = folder / (_UNFINISHED + name), folder / name
    disk.make_folder(unfinished)
    lock = disk.lock(unfinished, make=True)
    if lock is None:
        raise BlockingIOError(errno.EAGAIN, "somebody else has locked it", str(unfinished))
    try:
        _write_owner(disk, unfinished, owner)
        position_file = PositionFile(disk, unfinished)
        position_file.save(Position())
        position_file.sync()
        disk.sync_folder(unfinished)
        disk.rename(unfinished, path)
        disk.sync_folder(folder)
    except OSError:
        lock.release()
        raise
    return Instance(path, lock, owner, position_file)


def take_over(disk: OutboxDisk, folder: Path, *, except_for: set[Path], count_max: int) -> list[Instance]:
    """Lock at most so many of the folders whose processes are gone. Raises OSError where the outbox can't be listed."""
    taken: list[Instance] = []
    for name in disk.names(folder):
        path = folder / name
        if name.startswith(_UNFINISHED) or path in except_for:
            continue
        if len(taken) == count_max:
            break
        lock = disk.lock(path)
        if lock is None:
            if not disk.names(path):
                with contextlib.suppress(OSError):  # somebody died while removing it, or is about to
                    disk.remove_folder(path)
            continue
        try:
            taken.append(Instance(path, lock, read_owner(disk, path), PositionFile(disk, path)))
        except OSError:
            lock.release()  # it stays for a process that can read it
    return taken


def read_owner(disk: OutboxDisk, path: Path) -> Owner | None:
    """Whose folder it is; None where that is not there or can't be read."""
    if OWNER_NAME not in disk.names(path):
        return None
    file = disk.open(path / OWNER_NAME)
    try:
        return parse_owner(file.read(0, OWNER_BYTES_MAX))
    finally:
        file.close()


def parse_owner(raw: bytes) -> Owner | None:
    """The owner from the bytes of its file; None where they are damaged."""
    text, _, checksum = raw.partition(b"\n")
    try:
        return Owner(**json.loads(text)) if int(checksum, 16) == crc32(text) else None
    except (ValueError, TypeError):
        return None


def remove_instance(disk: OutboxDisk, instance: Instance) -> None:
    """Remove a folder of which nothing is needed any more; the lock goes last. Raises OSError."""
    instance.position_file.close()
    for name in disk.names(instance.path):
        if name != LOCK_NAME:
            disk.remove(instance.path / name)
    disk.remove(instance.path / LOCK_NAME)
    disk.remove_folder(instance.path)
    instance.lock.release()


def _write_owner(disk: OutboxDisk, path: Path, owner: Owner) -> None:
    file = disk.open(path / OWNER_NAME)
    try:
        text = json.dumps(asdict(owner)).encode()
        file.append(b"%b\n%08x\n" % (text, crc32(text)))
        file.sync()
    finally:
        file.close()
