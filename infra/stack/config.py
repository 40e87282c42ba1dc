"""What a stack is asked to be, and where its parts then listen."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agentledger.infra.stack.files import read_json, write_json
from agentledger.infra.stack.jars import default_cache_dir
from agentledger.infra.stack.ports import check_port_free, free_port, is_free
from agentledger.schemas.errors import StackError

Broker = Literal["kafka", "memory"]
OPTIONS = {
    "kafka": "--kafka-port",
    "clickhouse_http": "--clickhouse-http-port",
    "clickhouse_native": "--clickhouse-native-port",
    "gateway": "--gateway-port",
    "console": "--console-port",
}
GATEWAY_URL = "AGENTLEDGER_GATEWAY_URL"
CONSOLE_URL = "AGENTLEDGER_CONSOLE_URL"
PORTS_FILE = "ports.json"


@dataclass(frozen=True)
class StackConfig:
    """A local stack: its data folder, its broker, its ports (None: the last one used if it's free, else a free one)."""

    data_dir: Path
    broker: Broker = "kafka"
    kafka_port: int | None = None
    clickhouse_http_port: int | None = None
    clickhouse_native_port: int | None = None
    gateway_port: int | None = None
    console_port: int | None = None
    cache_dir: Path = field(default_factory=default_cache_dir)
    users_xml: str = ""  # ClickHouse's users file; empty: the user default alone
    clickhouse_login: tuple[str, str] = field(default=("default", ""), repr=False)  # may stop its queries
    clickhouse_nice: int = 0  # how far it steps back where the cores are busy
    metrics_programs: tuple[str, ...] = ()  # those that show metrics on a port of their own


@dataclass(frozen=True)
class Endpoints:
    """Where the stack's broker, its ClickHouse, its gateway and its console (empty: it has none) are reached."""

    kafka_bootstrap_servers: str
    clickhouse_url: str
    gateway_url: str = ""
    console_url: str = ""

    def env(self) -> dict[str, str]:
        """The same as environment variables for our own programs."""
        named = {
            "AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS": self.kafka_bootstrap_servers,
            "AGENTLEDGER_CLICKHOUSE_URL": self.clickhouse_url,
            GATEWAY_URL: self.gateway_url,
            CONSOLE_URL: self.console_url,
        }
        return {name: value for name, value in named.items() if value}


def metrics_port_name(program: str) -> str:
    """Under which name the port of a program's metrics is kept."""
    return f"metrics_{program}"


def choose_ports(config: StackConfig) -> dict[str, int]:
    """A port per listener: the one given (refused if it's used), else last time's if it's free, else a free one."""
    given = {
        "clickhouse_http": config.clickhouse_http_port,
        "clickhouse_native": config.clickhouse_native_port,
        "gateway": config.gateway_port,
        "console": config.console_port,
        **{metrics_port_name(program): None for program in config.metrics_programs},
    }
    if config.broker == "kafka":
        given |= {"kafka": config.kafka_port, "kafka_controller": None}
    elif config.kafka_port is not None:
        raise StackError("the memory broker picks its own port", next_step="leave --kafka-port out")
    last = read_json(config.data_dir / PORTS_FILE) or {}
    ports: dict[str, int] = {}
    for name in sorted(
        given, key=lambda name: given[name] is None
    ):  # those given first, so that none is taken from them
        ports[name] = _choose(name, given[name], last.get(name), set(ports.values()))
    return ports


def _choose(name: str, given: int | None, last: object, taken: set[int]) -> int:
    if given is not None:
        if given in taken:
            raise StackError(f"port {given} is given twice", next_step=f"choose another with {OPTIONS[name]}")
        check_port_free(name, given, OPTIONS[name])
        return given
    if isinstance(last, int) and 0 < last < 65536 and last not in taken and is_free(last):
        return last
    return free_port(taken)


def remember_ports(data_dir: Path, ports: dict[str, int]) -> None:
    """Keep the ports for the next start of this data folder; those of a broker not used now are kept as they were."""
    known = read_json(data_dir / PORTS_FILE) or {}
    write_json(data_dir / PORTS_FILE, known | ports)
