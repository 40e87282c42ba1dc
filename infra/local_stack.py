"""Wires the local stack: which programs run on it, and what must be there before they start."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Mapping
from dataclasses import replace

from agentledger.infra.ledger_setup import prepare_clickhouse, prepare_kafka
from agentledger.infra.settings import Settings
from agentledger.infra.stack import Endpoints, Program, Stack, StackConfig
from agentledger.infra.stack.access import ADMIN, make_passwords
from agentledger.infra.stack.config import CONSOLE_URL, GATEWAY_URL
from agentledger.infra.stack.files import make_data_dir
from agentledger.infra.stack.ports import HOST
from agentledger.sinks.access import User, password_sha256, users_xml
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
    Program("payloads", ["payload-writer"]),
    Program("gateway", ["gateway"], endpoint_variable=GATEWAY_URL, has_metrics=False),  # it has them on its own port
    Program("console", ["console"], endpoint_variable=CONSOLE_URL),
)
NOTIFY = Program("notify", ["notify", "run"])  # where a notify file says whom to tell
SIGNER = Program("signer", ["signer"])  # not with the memory broker: its topics are others after each start

# What keeps or checks the record, and has seconds for it; who decides, and who answers agents and people, goes first.
KEEPING = frozenset({"writer", "payloads", "signer", "reconcile"})

# As whom a program signs in at ClickHouse; the others don't go there.
LOGINS = {"writer": "writer", "payloads": "payloads", "signer": "signer", "reconcile": "auditor"}


def local_stack(config: StackConfig, settings: Settings) -> Stack:
    """A stack on this machine with broker, ClickHouse, topics, tables, processors and writer."""
    memory = config.broker == "memory"
    make_data_dir(config.data_dir)
    passwords = make_passwords(config.data_dir)
    admin = (ADMIN, passwords[ADMIN])
    users = users_xml(local_users(passwords, settings.tenant_id), admin_sha256=password_sha256(passwords[ADMIN]))
    wanted = [*PROGRAMS, *([] if memory else [SIGNER]), *([NOTIFY] if settings.notify_file else [])]
    shown = tuple(program.name for program in wanted if program.has_metrics)
    config = replace(
        config, users_xml=users, clickhouse_login=admin, clickhouse_nice=settings.keeping_nice, metrics_programs=shown
    )
    partitions = MEMORY_BROKER_PARTITIONS if memory else settings.kafka_partitions

    instance = {"AGENTLEDGER_KAFKA_INSTANCE": str(uuid.uuid4())} if memory else {}

    def program_env(endpoints: Endpoints) -> Mapping[str, str]:
        return {
            **endpoints.env(),
            **instance,
            "AGENTLEDGER_DATA_DIR": str(config.data_dir),
            "AGENTLEDGER_KAFKA_PARTITIONS": str(partitions),
            # On this machine alone, and for its own tenant, as with everything that it starts: no key is asked for.
            "AGENTLEDGER_GATEWAY_HOST": HOST,
            "AGENTLEDGER_GATEWAY_PORT": endpoints.gateway_url.rpartition(":")[2],
            "AGENTLEDGER_GATEWAY_KEYS": "not_on_loopback",
            "AGENTLEDGER_CONSOLE_HOST": HOST,
            "AGENTLEDGER_CONSOLE_PORT": endpoints.console_url.rpartition(":")[2],
            "AGENTLEDGER_CONSOLE_KEYS": "not_on_loopback",
        }

    def prepare(endpoints: Endpoints) -> None:
        prepare_kafka(
            {"bootstrap.servers": endpoints.kafka_bootstrap_servers},
            partitions=partitions,
            replication_factor=1,
            can_create_topics=not memory,
        )
        prepare_clickhouse(endpoints.clickhouse_url, settings, admin)
        if not memory:
            keys = KeyFolder(settings.signer_dir or config.data_dir / "signer")
            if not keys.private_path.exists():
                keys.new(f"{socket.gethostname()}/agentledger")

    programs = [
        replace(_signed_in(program, passwords), nice=settings.keeping_nice if program.name in KEEPING else 0)
        for program in wanted
    ]
    return Stack(config, programs=programs, prepare=prepare, program_env=program_env)


def local_users(passwords: Mapping[str, str], tenant_id: str) -> list[User]:
    """The users of the local ClickHouse, each named as its role; the analyst sees this machine's tenant."""
    return [
        User(name, name, password_sha256(password), (tenant_id,) if name == "analyst" else ())
        for name, password in passwords.items()
        if name != ADMIN
    ]


def _signed_in(program: Program, passwords: Mapping[str, str]) -> Program:
    login = LOGINS.get(program.name)
    if login is None:
        return program
    env = {"AGENTLEDGER_CLICKHOUSE_USER": login, "AGENTLEDGER_CLICKHOUSE_PASSWORD": passwords[login]}
    return replace(program, env={**program.env, **env})
