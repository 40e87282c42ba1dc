"""Ports of the local stack: a free one, last time's, or one clear line about the one that's used."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentledger.infra.stack.config import StackConfig, choose_ports, remember_ports
from agentledger.infra.stack.ports import HIGHEST, LOWEST, RANGE_VARIABLE, accepts, check_port_free, free_port, is_free
from agentledger.schemas.errors import ConfigurationError, StackError


@pytest.fixture
def used_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(autouse=True)
def own_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RANGE_VARIABLE)


def test_a_free_port_is_free_and_outside_the_range_of_outgoing_connections() -> None:
    port = free_port()
    assert LOWEST <= port <= HIGHEST
    assert is_free(port)
    assert not accepts(port)


def test_a_free_port_is_none_of_those_taken() -> None:
    taken = set(range(LOWEST, HIGHEST + 1)) - {LOWEST + 7, LOWEST + 8}
    with pytest.raises(StackError, match="no free port"):
        free_port(taken | {LOWEST + 7, LOWEST + 8})


def test_a_range_of_ones_own_is_kept_to_and_no_port_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RANGE_VARIABLE, f"{LOWEST}-{LOWEST + 99}")
    given = [free_port() for _ in range(20)]
    assert len(set(given)) == 20
    assert LOWEST <= min(given) <= max(given) < LOWEST + 100


def test_a_seed_that_a_test_sets_does_not_choose_the_port() -> None:
    ports = []
    for _ in range(3):
        random.seed(1)
        ports.append(free_port())
    assert len(set(ports)) == 3


@pytest.mark.parametrize("given", ["x", "21000", "21000-", "0-100", "22000-21000", "20000-70000", "20000-20001 "])
def test_what_is_no_range_is_one_line(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RANGE_VARIABLE, given)
    with pytest.raises(ConfigurationError, match=r"is no range of ports.* such as 21000-21999"):
        free_port()


def test_a_used_port_is_one_line_with_the_port_and_its_option(used_port: int) -> None:
    assert not is_free(used_port)
    assert accepts(used_port)
    with pytest.raises(StackError) as caught:
        check_port_free("kafka", used_port, "--kafka-port")
    line = str(caught.value)
    assert f"port {used_port} for kafka" in line
    assert "--kafka-port" in line
    assert "\n" not in line


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(StackError, match="not a port for clickhouse"):
        check_port_free("clickhouse", port)


def test_the_ports_of_last_time_are_taken_again(tmp_path: Path) -> None:
    config = StackConfig(tmp_path)
    first = choose_ports(config)
    assert set(first) == {"kafka", "kafka_controller", "clickhouse_http", "clickhouse_native", "gateway", "console"}
    assert len(set(first.values())) == 6
    remember_ports(tmp_path, first)
    assert choose_ports(config) == first


def test_a_port_of_last_time_that_is_used_now_gives_way(tmp_path: Path, used_port: int) -> None:
    remember_ports(tmp_path, {"kafka": used_port})
    assert choose_ports(StackConfig(tmp_path))["kafka"] != used_port


def test_a_given_port_goes_before_the_remembered_one(tmp_path: Path) -> None:
    given = free_port()
    remember_ports(tmp_path, {"clickhouse_native": given})
    ports = choose_ports(StackConfig(tmp_path, kafka_port=given))
    assert ports["kafka"] == given
    assert ports["clickhouse_native"] != given


def test_a_given_port_that_is_used_is_refused(tmp_path: Path, used_port: int) -> None:
    with pytest.raises(StackError, match=f"port {used_port} for clickhouse_http .*--clickhouse-http-port"):
        choose_ports(StackConfig(tmp_path, clickhouse_http_port=used_port))


def test_one_port_for_two_is_refused(tmp_path: Path) -> None:
    port = free_port()
    with pytest.raises(StackError, match="given twice"):
        choose_ports(StackConfig(tmp_path, clickhouse_http_port=port, clickhouse_native_port=port))


def test_the_memory_broker_takes_no_port(tmp_path: Path) -> None:
    assert set(choose_ports(StackConfig(tmp_path, broker="memory"))) == {
        "clickhouse_http",
        "clickhouse_native",
        "gateway",
        "console",
    }
    with pytest.raises(StackError, match="picks its own port"):
        choose_ports(StackConfig(tmp_path, broker="memory", kafka_port=free_port()))


def test_a_broken_ports_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text('{"kafka": "x", "clickhouse_http": 99999999')
    assert len(choose_ports(StackConfig(tmp_path))) == 6
