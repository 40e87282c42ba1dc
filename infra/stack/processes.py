"""Which process is meant: a pid alone is not enough, as pids are handed out again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ProcessId:
    """A pid and when that process started: together they name one process for good."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """The process that runs under `pid` now."""
        return cls(pid, start_mark(pid) or "")

    def alive(self) -> bool:
        """True while this very process runs (not a zombie, and not another one under the same pid)."""
        mark = start_mark(self.pid)
        return mark is not None and mark == self.started


def start_mark(pid: int) -> str | None:
    """A text that differs between two processes that had the same pid; None if no such process runs."""
    if pid <= 0:
        return None
    if Path("/proc/self/stat").exists():
        return _start_mark_linux(pid)
    return _start_mark_ps(pid)


def _start_mark_linux(pid: int) -> str | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rfind(")") + 2 :].split()  # the name before may hold spaces and parentheses
    state, started = fields[0], fields[19]
    return None if state in "ZX" else f"{_boot_id()}{started}"


def _boot_id() -> str:
    """Start times count from boot, so a pid and a tick can come again after a reboot: the boot is part of the mark."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8] + "-"
    except OSError:
        return ""


def _start_mark_ps(pid: int) -> str | None:
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    except OSError:
        return None
    state, _, started = answer.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()


def end_process(process: ProcessId, timeout: float) -> None:
    """Ask the process to stop; after `timeout` seconds end it and what it started. Returns once it's gone."""
    _signal(process, signal.SIGTERM)
    if wait_gone(process, timeout):
        return
    _signal(process, signal.SIGKILL)
    wait_gone(process, 10)


def wait_gone(process: ProcessId, timeout: float) -> bool:
    """Wait until the process is gone; False if it still runs after `timeout` seconds."""
    end = time.monotonic() + timeout
    while process.alive():
        if time.monotonic() >= end:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _signal(process: ProcessId, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        if process.alive():
            os.kill(process.pid, number)
