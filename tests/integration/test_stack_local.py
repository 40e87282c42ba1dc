"""The local stack as it is: a real Kafka, a real ClickHouse, a real supervisor, killed as a machine would kill them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from agentledger.infra.stack import (
    Endpoints,
    Program,
    Stack,
    StackConfig,
    StackState,
    find_running,
    restarts,
    spawn_detached,
    status,
    stop_running,
)
from agentledger.infra.stack.ports import free_port, is_free
from agentledger.infra.stack.processes import ProcessId, wait_gone
from agentledger.infra.stack.programs import ProgramService
from agentledger.infra.stack.state import load_state
from agentledger.schemas.errors import AgentledgerError, StackError

pytestmark = pytest.mark.integration

# What `agentledger up` does, less the command line. The ready hook leaves a mark that the test looks for.
UP = """
import sys
import threading
from pathlib import Path
from agentledger.infra.stack import Stack, StackConfig
from agentledger.schemas.errors import AgentledgerError

data_dir = Path(sys.argv[1])
def prepare(endpoints):
    (data_dir / "prepared").write_text(endpoints.kafka_bootstrap_servers)
try:
    Stack(StackConfig(data_dir, broker=sys.argv[2]), prepare=prepare).run(lambda line: print(line, flush=True))
except AgentledgerError as error:
    sys.exit(str(error))
"""
TOPIC = "stack-test"


def up_command(data_dir: Path, broker: str = "kafka") -> list[str]:
    return [sys.executable, "-c", UP, str(data_dir), broker]


def eventually(check: Callable[[], bool], what: str, seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def sql(endpoints: Endpoints | None, query: str) -> str:
    assert endpoints is not None
    with urllib.request.urlopen(endpoints.clickhouse_url, query.encode(), timeout=20) as answer:
        return str(answer.read().decode().strip())


def produce(servers: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": servers, "log_level": 0, "message.timeout.ms": 20000})
    errors: list[object] = []
    producer.produce(TOPIC, value, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(25) == 0
    assert errors == [None]


def consume(servers: str, count: int) -> list[bytes]:
    settings = {"bootstrap.servers": servers, "group.id": f"g{time.time_ns()}", "auto.offset.reset": "earliest"}
    consumer = Consumer({**settings, "log_level": 0})
    consumer.subscribe([TOPIC])
    values: list[bytes] = []
    end = time.monotonic() + 30
    while len(values) < count and time.monotonic() < end:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            values.append(message.value() or b"")
    consumer.close()
    return values


def running_pids(data_dir: Path) -> dict[str, int]:
    return {line.name: line.pid for line in status(data_dir) if line.state in {"running", "ready"}}


def processes_of(state: StackState) -> list[ProcessId]:
    return [state.supervisor, *(service.process for service in state.services)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, StackState]]:
    """A stack in the background, with a topic and a table."""
    data_dir = tmp_path_factory.mktemp("stack") / "data"
    state = spawn_detached(up_command(data_dir), data_dir)
    assert state.endpoints is not None
    admin = AdminClient({"bootstrap.servers": state.endpoints.kafka_bootstrap_servers, "log_level": 0})
    admin.create_topics([NewTopic(TOPIC, 1)])[TOPIC].result(20)
    sql(state.endpoints, "CREATE TABLE default.t (a Int64) ENGINE = MergeTree ORDER BY a")
    yield data_dir, state
    assert stop_running(data_dir)
    assert not any(process.alive() for process in processes_of(state))


def test_up_prepares_before_it_is_ready_and_tells_how_it_stands(stack: tuple[Path, StackState]) -> None:
    data_dir, state = stack
    assert state.phase == "ready"
    assert state.endpoints is not None
    assert (data_dir / "prepared").read_text() == state.endpoints.kafka_bootstrap_servers
    lines = status(data_dir)
    assert [line.name for line in lines] == ["supervisor", "kafka", "clickhouse"]
    assert [line.state for line in lines] == ["ready", "running", "running"]
    assert lines[1].endpoint == state.endpoints.kafka_bootstrap_servers
    assert lines[2].endpoint == state.endpoints.clickhouse_url
    assert all(0 < line.uptime < 600 for line in lines)


def test_a_second_up_finds_the_first(stack: tuple[Path, StackState]) -> None:
    data_dir, state = stack
    found = find_running(data_dir)
    assert found is not None
    assert found.supervisor == state.supervisor
    with pytest.raises(StackError, match="another `agentledger up` runs on this data folder"):
        Stack(StackConfig(data_dir)).up()
    assert find_running(data_dir) is not None


def test_everything_listens_on_the_loopback_address_only(stack: tuple[Path, StackState]) -> None:
    _, state = stack
    servers = {"kafka", "kafka_controller", "clickhouse_http", "clickhouse_native"}
    assert servers < set(state.ports)  # the programs' ports are kept for them; they don't run here
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("no /proc/net/tcp")
    both = table.read_text() + Path("/proc/net/tcp6").read_text()
    listening = [line.split()[1].split(":") for line in both.splitlines() if " 0A " in line]
    addresses = {int(port, 16): address for address, port in listening}
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    for server in servers:
        assert addresses[state.ports[server]] in loopback


def test_clickhouse_keeps_no_log_tables_and_its_limits_hold(stack: tuple[Path, StackState]) -> None:
    _, state = stack
    sql(state.endpoints, "SYSTEM FLUSH LOGS")
    tables = "SELECT name FROM system.tables WHERE database = 'system' AND engine LIKE '%MergeTree'"
    assert sql(state.endpoints, tables) == ""
    limits = "SELECT name, value FROM system.server_settings WHERE name IN ('max_server_memory_usage', \
'max_concurrent_queries', 'background_pool_size') ORDER BY name"
    expected = {
        "background_pool_size": "16",
        "max_concurrent_queries": "500",
        "max_server_memory_usage": str(6 * 1024**3),
    }
    assert dict(line.split("\t") for line in sql(state.endpoints, limits).splitlines()) == expected


def test_a_topic_is_not_made_by_a_first_message(stack: tuple[Path, StackState]) -> None:
    _, state = stack
    assert state.endpoints is not None
    servers = state.endpoints.kafka_bootstrap_servers
    producer = Producer({"bootstrap.servers": servers, "log_level": 0, "message.timeout.ms": 2000})
    errors: list[object] = []
    producer.produce("never-made", b"x", on_delivery=lambda error, _: errors.append(error))
    producer.flush(10)
    assert len(errors) == 1
    assert errors[0] is not None


def test_what_was_stored_is_there_after_a_kill_of_both(stack: tuple[Path, StackState]) -> None:
    data_dir, state = stack
    assert state.endpoints is not None
    servers = state.endpoints.kafka_bootstrap_servers
    produce(servers, b"one")
    assert consume(servers, 1) == [b"one"]
    sql(state.endpoints, "INSERT INTO default.t VALUES (42)")
    before = running_pids(data_dir)
    for name in ("kafka", "clickhouse"):
        os.kill(before[name], signal.SIGKILL)

    def back() -> bool:
        now = running_pids(data_dir)
        return all(now.get(name, before[name]) != before[name] for name in ("kafka", "clickhouse"))

    eventually(back, "kafka and clickhouse run again")
    assert running_pids(data_dir)["supervisor"] == before["supervisor"]
    assert consume(servers, 1) == [b"one"]
    produce(servers, b"two")
    assert consume(servers, 2) == [b"one", b"two"]
    assert sql(state.endpoints, "SELECT a FROM default.t") == "42"
    told = (data_dir / "logs" / "supervisor.log").read_text()
    assert "kafka died (SIGKILL); starting it again in 0.5 s" in told
    assert "clickhouse is back" in told


def test_down_leaves_no_process_and_the_next_up_has_the_data_on_the_same_ports(
    stack: tuple[Path, StackState],
) -> None:
    data_dir, first = stack
    sql(first.endpoints, "CREATE TABLE default.kept (a Int64) ENGINE = MergeTree ORDER BY a")
    sql(first.endpoints, "INSERT INTO default.kept VALUES (7)")
    now = load_state(data_dir)
    assert now is not None
    assert stop_running(data_dir)
    assert not any(process.alive() for process in processes_of(now))
    assert find_running(data_dir) is None
    assert status(data_dir) == []
    assert not stop_running(data_dir)
    assert all(is_free(port) for port in first.ports.values())
    second = spawn_detached(up_command(data_dir), data_dir)
    assert second.ports == first.ports
    assert sql(second.endpoints, "SELECT a FROM default.kept") == "7"
    assert second.endpoints is not None
    assert (
        "stack-test"
        in AdminClient({"bootstrap.servers": second.endpoints.kafka_bootstrap_servers, "log_level": 0})
        .list_topics(timeout=10)
        .topics
    )


def test_a_killed_supervisor_takes_its_services_along_and_the_next_up_clears_up(
    stack: tuple[Path, StackState],
) -> None:
    data_dir, _ = stack
    state = find_running(data_dir)
    assert state is not None
    os.kill(state.supervisor.pid, signal.SIGKILL)
    for process in processes_of(state):
        assert wait_gone(process, 30)
    said: list[str] = []
    spawn_detached(up_command(data_dir), data_dir, said.append)
    assert said[0] == f"removed the state of a stack that is gone (supervisor pid {state.supervisor.pid})"
    assert find_running(data_dir) is not None


def test_the_memory_broker_serves_to_try_things_out(tmp_path: Path) -> None:
    state = spawn_detached(up_command(tmp_path, "memory"), tmp_path)
    try:
        assert state.endpoints is not None
        assert [line.name for line in status(tmp_path)] == ["supervisor", "memory-broker", "clickhouse"]
        produce(state.endpoints.kafka_bootstrap_servers, b"one")
        assert consume(state.endpoints.kafka_bootstrap_servers, 1) == [b"one"]
        assert sql(state.endpoints, "SELECT 1") == "1"
        os.kill(running_pids(tmp_path)["memory-broker"], signal.SIGKILL)
        assert wait_gone(state.supervisor, 20)
        last = (tmp_path / "logs" / "supervisor.log").read_text().splitlines()[-1]
        assert last.startswith("memory-broker died (SIGKILL); it died for good, so everything stops")
        assert not any(process.alive() for process in processes_of(state))
    finally:
        stop_running(tmp_path)


def test_a_used_port_is_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(AgentledgerError, match=f"port {port} for clickhouse_http is used"):
            Stack(StackConfig(tmp_path, broker="memory", clickhouse_http_port=port)).up()
    assert not (tmp_path / "stack.json").exists()
    assert find_running(tmp_path) is None


def test_what_fails_in_prepare_stops_what_was_started(tmp_path: Path) -> None:
    def prepare(_: Endpoints) -> None:
        seen.append(json.loads((tmp_path / "stack.json").read_text()))
        raise StackError("no topics today")

    seen: list[dict[str, list[dict[str, object]]]] = []
    http = free_port()
    with pytest.raises(StackError, match="no topics today"):
        Stack(StackConfig(tmp_path, broker="memory", clickhouse_http_port=http), prepare=prepare).run()
    assert [service["state"] for service in seen[0]["services"]] == ["running", "running"]
    assert is_free(http)
    assert not (tmp_path / "stack.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_stack_in_the_foreground_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(up_command(tmp_path, "memory"), stdout=subprocess.PIPE, text=True) as process:
        eventually(lambda: bool(running_pids(tmp_path).get("clickhouse")), "clickhouse runs")
        process.send_signal(number)
        told, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert told.splitlines()[-2:] == ["clickhouse stopped", "memory-broker stopped"]
    assert not (tmp_path / "stack.json").exists()


def write_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the stack's programs be a module that's ready at once and ends after some seconds."""
    code = f"import os, time; open(os.environ['AGENTLEDGER_READY_FILE'], 'w').close(); time.sleep({seconds})"
    (tmp_path / "toy_program.py").write_text(f"{code}; raise SystemExit('the toy is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(ProgramService, "module", "toy_program")


def test_a_program_that_dies_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_toy(tmp_path, monkeypatch, 600)
    stack = Stack(StackConfig(tmp_path / "data", broker="memory"), programs=[Program("toy", [])])
    said: list[str] = []
    stack.up(said.append)
    try:
        assert said[-1].startswith("toy ready")
        first = running_pids(stack.data_dir)["toy"]
        os.kill(first, signal.SIGKILL)

        def stop_when_back() -> None:
            eventually(lambda: running_pids(stack.data_dir).get("toy", first) != first, "the toy is back")
            stack.request_stop()

        looker = threading.Thread(target=stop_when_back)
        looker.start()
        stack.watch(said.append)
        looker.join(60)
        assert said[-2] == "toy died (SIGKILL); starting it again in 0.5 s"
        assert said[-1].startswith("toy is back")
    finally:
        stack.down(said.append)
    assert said[-3:] == ["toy stopped", "clickhouse stopped", "memory-broker stopped"]


def test_a_program_that_dies_too_often_stops_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_toy(tmp_path, monkeypatch, 0.1)
    monkeypatch.setattr(restarts, "LONGEST_DELAY", 0.01)
    http = free_port()
    config = StackConfig(tmp_path / "data", broker="memory", clickhouse_http_port=http)
    said: list[str] = []
    with pytest.raises(StackError) as caught:
        Stack(config, programs=[Program("toy", [])]).run(said.append)
    reason = r"toy died \(exit code 1\): the toy is broken; it died more than 10 times in 120 s, so everything stops"
    assert re.match(reason, str(caught.value))
    assert len([line for line in said if line.startswith("toy died")]) == restarts.MOST_DEATHS
    assert is_free(http)
    assert not (tmp_path / "data" / "stack.json").exists()


def test_a_program_that_cannot_start_ends_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_program.py").write_text("raise SystemExit('no such setting: x')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(ProgramService, "module", "toy_program")
    stack = Stack(StackConfig(tmp_path / "data", broker="memory"), programs=[Program("toy", [])])
    with pytest.raises(StackError, match=r"toy died while starting \(exit code 1\): no such setting: x: its log is"):
        stack.up()
    assert find_running(stack.data_dir) is None
