"""`python -m agentledger.infra.stack.memory_broker_server ADDRESS_FILE`: librdkafka's mock cluster until SIGTERM."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from confluent_kafka import Producer

from agentledger.infra.stack.files import write_atomically

STOPS = {signal.SIGTERM, signal.SIGINT}


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
