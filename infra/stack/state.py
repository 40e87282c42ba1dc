"""DIR/stack.json: what runs on a data folder, for those who come later."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agentledger.infra.stack.config import Broker, Endpoints
from agentledger.infra.stack.files import read_json, write_json
from agentledger.infra.stack.processes import ProcessId

Phase = Literal["starting", "ready", "stopping"]
STATE_FILE = "stack.json"
LOCK_FILE = "stack.lock"


@dataclass(frozen=True)
class ServiceStatus:
    """One line of `agentledger status`."""

    name: str
    state: str  # starting, running, restarting, dead
    pid: int
    endpoint: str
    since: float  # unix seconds of its last start
    started: str = ""  # see ProcessId
    metrics_url: str = ""

    @property
    def uptime(self) -> float:
        """Seconds since it was last started."""
        return max(0.0, time.time() - self.since)

    @property
    def process(self) -> ProcessId:
        """The process that this line is about."""
        return ProcessId(self.pid, self.started)


@dataclass(frozen=True)
class StackState:
    """What a supervisor says of itself and its services."""

    phase: Phase
    supervisor: ProcessId
    since: float
    broker: Broker
    ports: dict[str, int] = field(default_factory=dict)
    endpoints: Endpoints | None = None
    services: list[ServiceStatus] = field(default_factory=list)

    def save(self, data_dir: Path) -> None:
        """Write DIR/stack.json."""
        write_json(data_dir / STATE_FILE, dataclasses.asdict(self))


def load_state(data_dir: Path) -> StackState | None:
    """Read DIR/stack.json; None if there is none that can be understood."""
    value = read_json(data_dir / STATE_FILE)
    if value is None:
        return None
    try:
        return _from_json(value)
    except (KeyError, TypeError):
        return None


def remove_state(data_dir: Path) -> None:
    """Take DIR/stack.json away: nothing runs here any more."""
    (data_dir / STATE_FILE).unlink(missing_ok=True)


def _from_json(value: dict[str, Any]) -> StackState:
    endpoints = value["endpoints"]
    return StackState(
        phase=value["phase"],
        supervisor=ProcessId(**value["supervisor"]),
        since=value["since"],
        broker=value["broker"],
        ports=dict(value["ports"]),
        endpoints=Endpoints(**endpoints) if endpoints else None,
        services=[ServiceStatus(**service) for service in value["services"]],
    )
