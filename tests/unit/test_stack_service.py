"""One process under supervision: its start, its death in one line, its stop; its log, its folder, its restarts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agentledger.infra.local_stack import local_stack
from agentledger.infra.settings import load_settings
from agentledger.infra.stack import Program, StackConfig
from agentledger.infra.stack.files import check_free_space, file_lock, make_data_dir
from agentledger.infra.stack.kafka import server_properties
from agentledger.infra.stack.logs import open_log, telling_line
from agentledger.infra.stack.processes import ProcessId, wait_gone
from agentledger.infra.stack.programs import ProgramService
from agentledger.infra.stack.restarts import Restarts
from agentledger.infra.stack.service import Service, StackStoppedError
from agentledger.schemas.errors import StackError

READY = "import os, time; open('ready', 'w').close(); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {READY}"


class Script(Service):
    """A service of a line of Python, ready when it has made the file `ready`."""

    def __init__(self, data_dir: Path, code: str) -> None:
        super().__init__("script", data_dir)
        self.code = code

    @property
    def working_folder(self) -> Path:
        return self.run_dir

    def prepare(self) -> None:
        (self.run_dir / "ready").unlink(missing_ok=True)

    def command(self) -> list[str]:
        return [sys.executable, "-c", self.code]

    def is_ready(self) -> bool:
        return (self.run_dir / "ready").exists()


def soon() -> float:
    return time.monotonic() + 20


def test_a_service_starts_restarts_and_stops(tmp_path: Path) -> None:
    service = Script(tmp_path, READY)
    assert not service.alive()
    service.stop()
    service.start()
    service.wait_ready(soon())
    first = service.pid
    assert service.alive()
    service.restart()
    service.wait_ready(soon())
    assert service.pid != first
    service.stop()
    assert not service.alive()


def test_one_that_ignores_sigterm_is_killed_after_the_timeout(tmp_path: Path) -> None:
    service = Script(tmp_path, STUBBORN)
    service.start()
    service.wait_ready(soon())
    service.stop(timeout=0.2)
    assert not service.alive()
    assert "SIGKILL" in str(service.death("died"))


def test_a_full_disk_is_said_in_the_line_about_the_death(tmp_path: Path) -> None:
    code = "raise SystemExit('x\\njava.io.IOException: No space left on device\\n\\tat Foo.bar(Foo.java:1)')"
    service = Script(tmp_path, code)
    service.start()
    with pytest.raises(StackError) as caught:
        service.wait_ready(soon())
    line = str(caught.value)
    assert line.startswith("script died while starting (exit code 1), the disk is full: java.io.IOException: No space")
    assert str(service.log) in line
    assert "\n" not in line


def test_only_the_last_run_is_quoted(tmp_path: Path) -> None:
    service = Script(tmp_path, "raise SystemExit('old reason')")
    for reason in ("old reason", "new reason"):
        service.code = f"raise SystemExit({reason!r})"
        service.start()
        with pytest.raises(StackError, match=reason):
            service.wait_ready(soon())
    service.code = "raise SystemExit(3)"
    service.start()
    with pytest.raises(StackError, match=r"died while starting \(exit code 3\): its log"):
        service.wait_ready(soon())


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    class Missing(Script):
        def command(self) -> list[str]:
            return ["no-such-program-anywhere"]

    service = Missing(tmp_path, "")
    service.start()
    with pytest.raises(StackError, match="no-such-program-anywhere: No such file"):
        service.wait_ready(soon())


def test_one_that_is_never_ready_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    service = Script(tmp_path, "import time; time.sleep(60)")
    service.start()
    with pytest.raises(StackError, match="didn't get ready in time"):
        service.wait_ready(time.monotonic() + 0.2)
    with pytest.raises(StackStoppedError):
        service.wait_ready(soon(), lambda: True)
    service.stop()


def test_a_service_has_a_session_of_its_own_and_no_terminal(tmp_path: Path) -> None:
    service = Script(tmp_path, f"import os; assert os.getsid(0) == os.getpid() and os.read(0, 1) == b''; {READY}")
    service.start()
    service.wait_ready(soon())
    service.stop()


def test_a_service_that_only_keeps_the_record_steps_back(tmp_path: Path) -> None:
    group = "group = pathlib.Path('/proc/self/autogroup')"
    shown = "pathlib.Path('shown').write_text(f'{os.nice(0)} ' + (group.read_text() if group.exists() else ''))"
    service = Script(tmp_path, f"import os, pathlib; {group}; {shown}; {READY}")
    service.nice = os.nice(0) + 3
    service.start()
    service.wait_ready(soon())
    service.stop()
    own, _, session = (service.run_dir / "shown").read_text("utf-8").strip().partition(" ")
    assert int(own) == os.nice(0) + service.nice
    assert not session or session.endswith(f" nice {service.nice}")


def test_on_the_local_stack_what_keeps_the_record_steps_back(tmp_path: Path) -> None:
    stack = local_stack(StackConfig(tmp_path), load_settings(data_dir=tmp_path, keeping_nice=7))
    assert stack.config.clickhouse_nice == 7
    nice = {program.name: program.nice for program in stack.programs}
    assert {name for name, value in nice.items() if value} == {"writer", "payloads", "signer", "reconcile"}
    assert nice["writer"] == 7


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_a_service_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    code = f"""
import sys, time, pathlib
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_stack_service import READY, Script, soon
service = Script(pathlib.Path({str(tmp_path)!r}), READY)
service.start()
service.wait_ready(soon())
print(service.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = ProcessId.of(int(parent.stdout.readline()))
        assert child.alive()
        parent.send_signal(signal.SIGKILL)
    assert wait_gone(child, 10)


def test_a_program_is_ready_when_it_has_written_its_ready_file(tmp_path: Path) -> None:
    class Toy(ProgramService):
        def command(self) -> list[str]:
            write = "os.environ['A'] + os.environ['B'] + os.environ['C']"
            return [
                sys.executable,
                "-c",
                f"import os, time; open(os.environ['AGENTLEDGER_READY_FILE'], 'w').write({write}); time.sleep(60)",
            ]

    service = Toy(Program("writer", ["write"], {"B": "own", "C": "c"}), tmp_path, {"A": "a", "B": "b"})
    service.start()
    service.wait_ready(soon())
    ready = tmp_path / "run" / "writer" / "ready"
    end = soon()
    while ready.read_text() != "aownc" and time.monotonic() < end:
        time.sleep(0.01)
    assert ready.read_text() == "aownc"
    service.stop()
    service.prepare()
    assert not service.is_ready()


def test_a_program_runs_our_command_line(tmp_path: Path) -> None:
    command = ProgramService(Program("writer", ["write", "--once"]), tmp_path, {}).command()
    assert command[0] == sys.executable
    assert command[-4:] == ["-m", "agentledger.infra.cli", "write", "--once"]


def test_the_wait_before_a_restart_doubles_to_a_limit_and_ends() -> None:
    restarts = Restarts()
    waits = [restarts.died(now) for now in range(10)]
    assert waits == [0.5, 1, 2, 4, 8, 10, 10, 10, 10, 10]
    assert restarts.died(10) is None


def test_deaths_of_long_ago_are_forgotten() -> None:
    restarts = Restarts()
    assert {restarts.died(now * 200.0) for now in range(50)} == {0.5}


def test_a_full_disk_is_refused_with_one_line(tmp_path: Path) -> None:
    check_free_space(tmp_path, lambda _: 1024**3)
    with pytest.raises(StackError) as caught:
        check_free_space(tmp_path, lambda _: 1024**3 - 1)
    line = str(caught.value)
    assert "the disk is full: 1023 MiB free" in line
    assert "--data-dir" in line
    assert "\n" not in line


def test_a_data_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match="the data folder can't be used: Not a directory"):
        make_data_dir(tmp_path / "file" / "data")
    make_data_dir(tmp_path / "new" / "data")
    assert list((tmp_path / "new" / "data").iterdir()) == []


def test_the_lock_is_held_by_one(tmp_path: Path) -> None:
    with file_lock(tmp_path / "lock", wait=False) as first, file_lock(tmp_path / "lock", wait=False) as second:
        assert (first, second) == (True, False)
    with file_lock(tmp_path / "lock", wait=False) as third:
        assert third


def test_the_lock_can_be_waited_for(tmp_path: Path) -> None:
    got = threading.Event()

    def wait() -> None:
        with file_lock(tmp_path / "lock", wait=True):
            got.set()

    waiter = threading.Thread(target=wait)
    with file_lock(tmp_path / "lock", wait=False):
        waiter.start()
        assert not got.wait(0.1)
    waiter.join(10)
    assert got.is_set()


def test_a_large_log_is_put_aside_and_three_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "kafka.log"
    for number in range(6):
        with open_log(path, rotate_bytes=10) as log:
            log.write(f"{number} is longer than ten bytes\n".encode())
    kept = {file.name: file.read_text()[0] for file in path.parent.iterdir()}
    assert kept == {"kafka.log": "5", "kafka.log.1": "4", "kafka.log.2": "3", "kafka.log.3": "2"}


def test_a_small_log_is_appended_to(tmp_path: Path) -> None:
    for _ in range(2):
        with open_log(tmp_path / "a.log") as log:
            log.write(b"x\n")
    assert (tmp_path / "a.log").read_text() == "x\nx\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("one\ntwo\n\n", "two"),
        ("2026 ERROR first (a)\n2026 INFO later (b)\n", "2026 ERROR first (a)"),
        ("a.BootException: a\n\tat x.Y(Z:1)\nCaused by: b.RealError: b\n\tat q\n", "Caused by: b.RealError: b"),
        ('Traceback (most recent call last):\n  File "x", line 1\nValueError: no\n', "ValueError: no"),
        ("DB::Exception: Address already in use: :1\nx.Error: y\n", "DB::Exception: Address already in use: :1"),
        ("2026 INFO Kafka Server started (k)\n", ""),
    ],
)
def test_the_telling_line_of_a_log(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "a.log"
    path.write_text(text)
    assert telling_line(path) == line


def test_there_is_no_telling_line_without_a_log(tmp_path: Path) -> None:
    assert telling_line(tmp_path / "none.log") == ""


def test_kafkas_settings_name_the_loopback_address_only() -> None:
    lines = server_properties(Path("/data/kä fka"), 1111, 2222).splitlines()
    assert "listeners=PLAINTEXT://127.0.0.1:1111,CONTROLLER://127.0.0.1:2222" in lines
    assert "log.dirs=/data/k\\u00e4 fka" in lines
    assert "auto.create.topics.enable=false" in lines
    with pytest.raises(StackError, match="no comma"):
        server_properties(Path("/data/a,b"), 1111, 2222)
