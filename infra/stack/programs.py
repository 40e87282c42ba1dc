"""Our own programs (the workers, the writer) as services of the stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentledger.infra.stack.ports import HOST
from agentledger.infra.stack.service import Service, python_module
from agentledger.schemas.ready import READY_FILE_VARIABLE

METRICS_PORT_VARIABLE = "AGENTLEDGER_METRICS_PORT"


@dataclass(frozen=True)
class Program:
    """A command of ours to keep running: `agentledger ARGS...`."""

    name: str
    args: list[str]
    env: Mapping[str, str] = field(default_factory=dict)
    endpoint_variable: str = ""  # of its environment, where it listens
    has_metrics: bool = True  # on a port of their own
    nice: int = 0  # how far it steps back where the cores are busy


class ProgramService(Service):
    """Runs `agentledger ARGS...`; ready when it has written the file that AGENTLEDGER_READY_FILE names."""

    module = "agentledger.infra.cli"

    def __init__(self, program: Program, data_dir: Path, env: Mapping[str, str], metrics_port: int = 0) -> None:
        super().__init__(program.name, data_dir)
        self.program = program
        self.nice = program.nice
        self._metrics_port = metrics_port
        self._ready_file = self.run_dir / "ready"
        own = {READY_FILE_VARIABLE: str(self._ready_file), METRICS_PORT_VARIABLE: str(metrics_port)}
        self._env = {**env, **program.env, **own}

    @property
    def env(self) -> Mapping[str, str]:
        return self._env

    @property
    def endpoint(self) -> str:
        return self._env.get(self.program.endpoint_variable, "")

    @property
    def metrics_url(self) -> str:
        return f"http://{HOST}:{self._metrics_port}/metrics" if self._metrics_port else ""

    def prepare(self) -> None:
        self._ready_file.unlink(missing_ok=True)

    def command(self) -> list[str]:
        return python_module(self.module, *self.program.args)

    def is_ready(self) -> bool:
        return self._ready_file.exists()
