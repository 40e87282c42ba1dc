"""What a later command makes of DIR/stack.json: a live stack, a stale one, an unreadable one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentledger.infra.stack import Endpoints, StackState, find_running, spawn_detached, status, stop_running
from agentledger.infra.stack.files import file_lock
from agentledger.infra.stack.processes import ProcessId, end_process
from agentledger.infra.stack.state import LOCK_FILE, ServiceStatus, load_state
from agentledger.schemas.errors import StackError

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def state_of(supervisor: ProcessId, *services: ServiceStatus) -> StackState:
    endpoints = Endpoints("127.0.0.1:1", "http://127.0.0.1:2")
    return StackState("ready", supervisor, time.time() - 5, "kafka", {"kafka": 1}, endpoints, list(services))


def dead_process() -> ProcessId:
    with subprocess.Popen(SLEEP) as process:
        identity = ProcessId.of(process.pid)
        process.kill()
    return identity


def test_a_state_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    me = ProcessId.of(os.getpid())
    state = state_of(me, ServiceStatus("kafka", "running", me.pid, "127.0.0.1:1", 1.0, me.started))
    state.save(tmp_path)
    assert load_state(tmp_path) == state


def test_a_live_supervisor_is_found(tmp_path: Path) -> None:
    state = state_of(ProcessId.of(os.getpid()))
    state.save(tmp_path)
    assert find_running(tmp_path) == state
    [line] = status(tmp_path)
    assert (line.name, line.state, line.pid) == ("supervisor", "ready", os.getpid())
    assert 5 <= line.uptime < 60


def test_nothing_is_found_where_nothing_was(tmp_path: Path) -> None:
    assert find_running(tmp_path / "no such folder") is None
    assert not stop_running(tmp_path)
    assert status(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_dead_supervisors_state_is_removed_with_one_line(tmp_path: Path) -> None:
    gone = dead_process()
    state_of(gone).save(tmp_path)
    assert status(tmp_path) == []
    said: list[str] = []
    assert find_running(tmp_path, said.append) is None
    assert said == [f"removed the state of a stack that is gone (supervisor pid {gone.pid})"]
    assert load_state(tmp_path) is None
    assert find_running(tmp_path, said.append) is None
    assert len(said) == 1


def test_a_pid_that_was_handed_out_again_is_not_the_supervisor(tmp_path: Path) -> None:
    state_of(ProcessId(os.getpid(), "another start")).save(tmp_path)
    assert find_running(tmp_path) is None


def test_an_unreadable_state_is_removed(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text('{"phase": "ready"')
    said: list[str] = []
    assert find_running(tmp_path, said.append) is None
    assert said == ["removed an unreadable stack.json"]


def test_a_stale_state_is_left_to_the_up_that_holds_the_lock(tmp_path: Path) -> None:
    state_of(dead_process()).save(tmp_path)
    with file_lock(tmp_path / LOCK_FILE, wait=False) as locked:
        assert locked
        assert find_running(tmp_path) is None
        assert load_state(tmp_path) is not None
    find_running(tmp_path)
    assert load_state(tmp_path) is None


def test_a_service_that_outlived_its_supervisor_is_stopped(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP) as orphan:
        identity = ProcessId.of(orphan.pid)
        service = ServiceStatus("kafka", "running", orphan.pid, "", 0.0, identity.started)
        state_of(dead_process(), service).save(tmp_path)
        said: list[str] = []
        find_running(tmp_path, said.append)
        assert not identity.alive()
        assert "stopping kafka, which outlived its supervisor" in said[1]


def test_a_process_of_another_start_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP) as other:
        service = ServiceStatus("kafka", "running", other.pid, "", 0.0, "another start")
        state_of(dead_process(), service).save(tmp_path)
        find_running(tmp_path)
        assert other.poll() is None
        other.kill()


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen(SLEEP)
    identity = ProcessId.of(process.pid)
    assert identity.alive()
    end_process(identity, 5)
    assert not identity.alive()
    process.wait()


def test_a_status_line_of_a_dead_service_says_so(tmp_path: Path) -> None:
    gone = dead_process()
    service = ServiceStatus("kafka", "running", gone.pid, "127.0.0.1:1", 0.0, gone.started)
    state_of(ProcessId.of(os.getpid()), service).save(tmp_path)
    assert [line.state for line in status(tmp_path)] == ["ready", "dead"]


def test_a_detached_start_that_fails_gives_its_last_line(tmp_path: Path) -> None:
    script = "print('starting'); raise SystemExit('port 9 is used')"
    said: list[str] = []
    with pytest.raises(StackError, match=r"the stack didn't start: port 9 is used.*supervisor\.log"):
        spawn_detached([sys.executable, "-c", script], tmp_path, said.append)
    assert said == ["starting", "port 9 is used"]
