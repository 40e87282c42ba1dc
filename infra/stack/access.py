"""The users of the local stack's ClickHouse: a generated password each, kept where only their owner can read them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from agentledger.infra.stack.files import write_atomically
from agentledger.schemas.errors import StackError

FOLDER = "access"
PASSWORD_BYTES = 24
ADMIN = "admin"  # may do everything
USERS = ("writer", "payloads", "signer", "auditor", "analyst", ADMIN)  # the others are each named as their role


def make_passwords(data_dir: Path) -> dict[str, str]:
    """The password of each user; what isn't there yet is made. Raises StackError."""
    folder = data_dir / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        found = {}
        for user in USERS:
            path = folder / f"{user}.password"
            if not path.exists():
                write_secret(path, secrets.token_urlsafe(PASSWORD_BYTES) + "\n")
            found[user] = path.read_text("utf-8").strip()
    except OSError as error:
        raise StackError(f"the users' passwords can't be kept: {error.strerror}", where=str(folder)) from None
    return found


def read_password(data_dir: Path, user: str) -> str:
    """The password of a local user; empty where there is none, or none that we may read."""
    try:
        return (data_dir / FOLDER / f"{user}.password").read_text("utf-8").strip()
    except OSError:
        return ""


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read: at no time could anybody else."""
    mask = os.umask(0o077)
    try:
        write_atomically(path, text)
    finally:
        os.umask(mask)
