"""A broker to try things out with: librdkafka's mock cluster, hosted by confluent-kafka. Nothing is kept.

It makes each topic on first use with 4 partitions, knows no CreateTopics, and picks its own port at each start: so a
broker that died can't come back for those who knew it, and the whole stack stops.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from confluent_kafka import Producer

from agentledger.infra.stack.files import write_atomically
from agentledger.infra.stack.service import Service, python_module

STOPS = {signal.SIGTERM, signal.SIGINT}


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
        return python_module("agentledger.infra.stack.memory_broker", str(self._ready_file))

    def is_ready(self) -> bool:
        return bool(self.endpoint)


def main() -> int:
    """Host the cluster until SIGTERM or SIGINT, and write its address to the file named by the first argument."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    host = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    brokers = host.list_topics(timeout=10).brokers.values()
    write_atomically(Path(sys.argv[1]), ",".join(f"{broker.host}:{broker.port}" for broker in brokers) + "\n")
    signal.sigwait(STOPS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
