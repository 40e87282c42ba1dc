"""A broker to try things out with: librdkafka's mock cluster, hosted by confluent-kafka. Nothing is kept.

It makes each topic on first use with 4 partitions, knows no CreateTopics, and picks its own port at each start: so a
broker that died can't come back for those who knew it, and the whole stack stops.
"""

from __future__ import annotations

from pathlib import Path

from agentledger.infra.stack.service import Service, python_module


class MemoryBrokerService(Service):
    """The mock cluster in a process of its own; its address is known once it's ready."""

    restartable = False

    def __init__(self, data_dir: Path) -> None:
        super().__init__("memory-broker", data_dir)
        self._ready_file = self.run_dir / "address"

    @property
    def endpoint(self) -> str:
        try:
            return self._ready_file.read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    def prepare(self) -> None:
        self._ready_file.unlink(missing_ok=True)

    def command(self) -> list[str]:
        return python_module("agentledger.infra.stack.memory_broker_server", str(self._ready_file))

    def is_ready(self) -> bool:
        return bool(self.endpoint)
