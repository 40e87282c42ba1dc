"""The local stack: a real Kafka and a real ClickHouse on this machine, and our own programs on top.

`Stack(config, programs=..., prepare=...).run(print)` is `agentledger up` in the foreground; `spawn_detached` puts it in
the background; `find_running`, `stop_running` and `status` look at it from outside.
"""

from typing import TYPE_CHECKING

from agentledger.schemas.lazy_facade import importing

if TYPE_CHECKING:
    from agentledger.infra.stack.config import Endpoints, StackConfig
    from agentledger.infra.stack.control import find_running, spawn_detached, status, stop_running
    from agentledger.infra.stack.jars import kafka_classpath
    from agentledger.infra.stack.programs import Program
    from agentledger.infra.stack.state import ServiceStatus, StackState
    from agentledger.infra.stack.supervisor import Stack

__all__ = [
    "Endpoints",
    "Program",
    "ServiceStatus",
    "Stack",
    "StackConfig",
    "StackState",
    "find_running",
    "kafka_classpath",
    "spawn_detached",
    "status",
    "stop_running",
]

__getattr__ = importing(
    __name__,
    {
        "Endpoints": "config",
        "Program": "programs",
        "ServiceStatus": "state",
        "Stack": "supervisor",
        "StackConfig": "config",
        "StackState": "state",
        "find_running": "control",
        "kafka_classpath": "jars",
        "spawn_detached": "control",
        "status": "control",
        "stop_running": "control",
    },
)
