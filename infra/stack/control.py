"""A stack seen from outside: find it, stop it, ask how it is, start it in the background."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agentledger.infra.stack.files import file_lock, make_data_dir
from agentledger.infra.stack.logs import log_path, open_log, telling_line
from agentledger.infra.stack.processes import POLL_SECONDS, end_process
from agentledger.infra.stack.state import (
    LOCK_FILE,
    STATE_FILE,
    ServiceStatus,
    StackState,
    load_state,
    remove_state,
)
from agentledger.schemas.errors import StackError

OnEvent = Callable[[str], None]
ORPHAN_SECONDS = 30.0
STOP_SECONDS = 120.0
DETACH_SECONDS = 1200.0  # a first start may have to fetch Kafka


def ignore(_: str) -> None:
    """The listener of one who doesn't want to know."""


def find_running(data_dir: Path, on_event: OnEvent = ignore) -> StackState | None:
    """The stack that runs on this data folder (starting, ready or stopping), or None.

    What a killed supervisor left behind is cleared away: services that outlived it are stopped, its state file is
    removed, and a line says so.
    """
    state = load_state(data_dir)
    if state is not None and state.supervisor.alive():
        return state
    if not (data_dir / STATE_FILE).exists():
        return None
    with file_lock(data_dir / LOCK_FILE, wait=False) as locked:
        if locked:  # otherwise another `up` starts right now, and clears away itself
            clear_stale(data_dir, on_event)
    return None


def clear_stale(data_dir: Path, on_event: OnEvent = ignore) -> None:
    """Stop what a dead supervisor left running and remove its state file. Hold the lock when you call this."""
    if not (data_dir / STATE_FILE).exists():
        return
    state = load_state(data_dir)
    if state is None:
        on_event(f"removed an unreadable {STATE_FILE}")
    else:
        on_event(f"removed the state of a stack that is gone (supervisor pid {state.supervisor.pid})")
        _end_orphans(state, on_event)
    remove_state(data_dir)


def _end_orphans(state: StackState, on_event: OnEvent) -> None:
    for service in reversed(state.services):
        if service.process.alive():
            on_event(f"stopping {service.name}, which outlived its supervisor (pid {service.pid})")
            end_process(service.process, ORPHAN_SECONDS)


def stop_running(data_dir: Path, on_event: OnEvent = ignore, timeout: float = STOP_SECONDS) -> bool:
    """Stop the stack on this data folder, in order; False if none runs. Returns when nothing of it is left."""
    state = find_running(data_dir, on_event)
    if state is None:
        return False
    end_process(state.supervisor, timeout)
    last = load_state(data_dir)
    if last is not None and last.supervisor == state.supervisor:  # it did not get to the end
        find_running(data_dir, on_event)
    return True


def status(data_dir: Path) -> list[ServiceStatus]:
    """A line for the supervisor and each service, in the order of their start; empty if nothing runs here."""
    state = load_state(data_dir)
    if state is None or not state.supervisor.alive():
        return []
    supervisor = state.supervisor
    first = ServiceStatus("supervisor", state.phase, supervisor.pid, "", state.since, supervisor.started)
    return [first, *(_checked(service) for service in state.services)]


def _checked(service: ServiceStatus) -> ServiceStatus:
    if service.state == "restarting" or service.process.alive():
        return service
    return replace(service, state="dead")


def spawn_detached(argv: list[str], data_dir: Path, on_event: OnEvent = ignore) -> StackState:
    """Run `argv` (an `agentledger up` in the foreground) as a session of its own, and wait until its stack is ready.

    It writes to DIR/logs/supervisor.log; those lines are passed on while it starts. If it ends instead, the StackError
    has its last line.
    """
    make_data_dir(data_dir)
    path = log_path(data_dir, "supervisor")
    with open_log(path) as log:
        start = log.tell()
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
    told = start
    end = time.monotonic() + DETACH_SECONDS
    while time.monotonic() < end:
        died = child.poll() is not None
        told = _pass_on(path, told, on_event)
        state = load_state(data_dir)
        if not died and state is not None and state.phase == "ready" and state.supervisor.alive():
            child.returncode = 0  # it goes on without us: no warning that it was not waited for
            return state
        if died:
            why = telling_line(path, start) or f"exit code {child.returncode}"
            raise StackError(f"the stack didn't start: {why}", next_step=f"its log is {path}")
        time.sleep(POLL_SECONDS)
    child.terminate()
    raise StackError(f"the stack wasn't ready after {DETACH_SECONDS:.0f} s", next_step=f"its log is {path}")


def _pass_on(path: Path, offset: int, on_event: OnEvent) -> int:
    """Tell the whole lines that a log has gained; the offset after them."""
    with path.open("rb") as file:
        file.seek(offset)
        lines, newline, _ = file.read().rpartition(b"\n")
    for line in lines.splitlines():
        on_event(line.decode("utf-8", errors="replace"))
    return offset + len(lines) + len(newline)
