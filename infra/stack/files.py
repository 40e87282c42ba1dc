"""Files and folders of a data directory: whole or not at all, and refused early when there's no room."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agentledger.schemas.errors import StackError

MINIMUM_FREE_BYTES = 1024**3


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no such file or it isn't one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON, whole or not at all."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def make_data_dir(path: Path) -> None:
    """Make the folder and check that it can be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / ".writable", "")
        (path / ".writable").unlink()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _full(path, 0) from None
        raise StackError(
            f"the data folder can't be used: {error.strerror}",
            where=str(path),
            next_step="give another with --data-dir",
        ) from None


def check_free_space(path: Path, free_bytes: Callable[[Path], int] | None = None) -> None:
    """Refuse a disk with less than 1 GiB free: a broker that runs out of room while it writes is worse."""
    free = free_bytes(path) if free_bytes else shutil.disk_usage(path).free
    if free < MINIMUM_FREE_BYTES:
        raise _full(path, free)


def _full(path: Path, free: int) -> StackError:
    return StackError(
        f"the disk is full: {free // 1024**2} MiB free, the stack wants at least {MINIMUM_FREE_BYTES // 1024**2} MiB",
        where=str(path),
        next_step="make room, or put the data elsewhere with --data-dir",
    )


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock that goes with this process; gives False at once if another has it and `wait` is off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
