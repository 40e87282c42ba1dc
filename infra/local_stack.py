"""Wires the local stack: which programs run on it, and what must be there before they start."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Mapping

from agentledger.infra.ledger_setup import prepare_clickhouse, prepare_kafka
from agentledger.infra.settings import Settings
from agentledger.infra.stack import Endpoints, Program, Stack, StackConfig
from agentledger.sinks.key_files import KeyFolder

MEMORY_BROKER_PARTITIONS = 4  # librdkafka's mock cluster makes every topic with this many

PROGRAMS = (
    Program("writer", ["writer"]),
    Program("packer", ["packer"]),
    Program("worker", ["worker"]),
    Program("holds", ["holds"]),
    Program("reconcile", ["reconcile", "--watch"]),
    Program("scopes", ["scopes"]),
    Program("ticker", ["ticker"]),
)
SIGNER = Program("signer", ["signer"])  # not with the memory broker: its topics are others after each start


def local_stack(config: StackConfig, settings: Settings) -> Stack:
    """A stack on this machine with broker, ClickHouse, topics, tables, processors and writer."""
    memory = config.broker == "memory"
    partitions = MEMORY_BROKER_PARTITIONS if memory else settings.kafka_partitions

    instance = {"AGENTLEDGER_KAFKA_INSTANCE": str(uuid.uuid4())} if memory else {}

    def program_env(endpoints: Endpoints) -> Mapping[str, str]:
        return {
            **endpoints.env(),
            **instance,
            "AGENTLEDGER_DATA_DIR": str(config.data_dir),
            "AGENTLEDGER_KAFKA_PARTITIONS": str(partitions),
        }

    def prepare(endpoints: Endpoints) -> None:
        prepare_kafka(
            {"bootstrap.servers": endpoints.kafka_bootstrap_servers},
            partitions=partitions,
            replication_factor=1,
            can_create_topics=not memory,
        )
        prepare_clickhouse(endpoints.clickhouse_url, settings)
        if not memory:
            keys = KeyFolder(settings.signer_dir or config.data_dir / "signer")
            if not keys.private_path.exists():
                keys.new(f"{socket.gethostname()}/agentledger")

    programs = PROGRAMS if memory else (*PROGRAMS, SIGNER)
    return Stack(config, programs=programs, prepare=prepare, program_env=program_env)
