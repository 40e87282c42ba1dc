"""One process that the supervisor starts, waits for, stops and starts again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

from agentledger.infra.stack import child
from agentledger.infra.stack.logs import log_path, open_log, telling_line
from agentledger.infra.stack.processes import POLL_SECONDS, ProcessId
from agentledger.schemas.errors import StackError


class StackStoppedError(StackError):
    """The stack was asked to stop while it was starting."""


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours with this Python, whatever lies in the working folder."""
    return [sys.executable, "-P", "-m", module, *arguments]


class Service(ABC):
    """A process with its log, readiness check and orderly stop. Start it from the main thread (see child.py)."""

    restartable = True
    stop_seconds = 20.0
    nice = 0  # how far it steps back where the cores are busy

    def __init__(self, name: str, data_dir: Path) -> None:
        self.name = name
        self.data_dir = data_dir
        self.log = log_path(data_dir, name)
        self.started_at = 0.0
        self.process_id: ProcessId | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @abstractmethod
    def command(self) -> list[str]:
        """The program and its arguments."""

    @abstractmethod
    def is_ready(self) -> bool:
        """One look, a second or two at most: does it answer?"""

    def prepare(self) -> None:  # noqa: B027 - most have nothing to write
        """Write what the process needs before it starts."""

    @property
    def env(self) -> Mapping[str, str]:
        """What the process gets on top of this one's environment."""
        return {}

    @property
    def working_folder(self) -> Path | None:
        """Where the process runs; None for where this one does."""
        return None

    @property
    def endpoint(self) -> str:
        """Where it listens, for people to read."""
        return ""

    @property
    def metrics_url(self) -> str:
        """Where it shows metrics of its own; empty where it doesn't."""
        return ""

    @property
    def run_dir(self) -> Path:
        """A folder for files that are written anew at each start."""
        return self.data_dir / "run" / self.name

    @property
    def pid(self) -> int | None:
        """The pid of the process that was started last."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process in a session of its own; returns at once."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.prepare()
        with open_log(self.log) as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", child.__file__, str(os.getpid()), str(self.nice), *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.working_folder,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.env},
                start_new_session=True,
            )
        self.process_id = ProcessId.of(self._process.pid)
        self.started_at = time.time()

    def alive(self) -> bool:
        """True while the process runs."""
        return self._process is not None and self._process.poll() is None

    def wait_ready(self, deadline: float, stopping: Callable[[], bool] = lambda: False) -> None:
        """Wait until the service answers; a StackError if it dies first or the deadline (time.monotonic) passes."""
        while True:
            if stopping():
                raise StackStoppedError(f"stopped while {self.name} was starting")
            if not self.alive():
                raise self.death("died while starting")
            if self.is_ready():
                return
            if time.monotonic() > deadline:
                raise self.death("didn't get ready in time")
            time.sleep(POLL_SECONDS)

    def stop(self, timeout: float | None = None) -> None:
        """Ask the process to stop; after `timeout` seconds end it and what it started."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(self.stop_seconds if timeout is None else timeout)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def restart(self) -> None:
        """Stop it if it still runs, and start it again."""
        self.stop()
        self.start()

    def last_words(self) -> str:
        """The line of its log, since the last start, that tells most about its end."""
        return telling_line(self.log, self._log_start)

    def death(self, what: str) -> StackError:
        """The error that says in one line what became of this service, and where its log is."""
        words = self.last_words()
        if self._process is not None and self._process.poll() is not None:
            what += f" ({_ending(self._process.returncode)})"
        if "No space left on device" in words:
            what = f"{what}, the disk is full"
        reason = f": {words}" if words else ""
        return StackError(f"{self.name} {what}{reason}", next_step=f"its log is {self.log}")


def _ending(returncode: int) -> str:
    return signal.Signals(-returncode).name if returncode < 0 else f"exit code {returncode}"
