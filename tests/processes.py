"""Pulling the plug on processes."""

from __future__ import annotations

import contextlib
import os


def kill_hard(pid: int, number: int) -> None:
    """Send a signal; a process that is gone already is no failure (it is being started again)."""
    if pid > 0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
