"""Where Kafka, its schema registry and ClickHouse are: as configured, or else as the running local stack says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentledger.infra.settings import Settings
from agentledger.infra.stack.access import ADMIN, read_password
from agentledger.infra.stack.state import load_state
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import ConfigurationError
from agentledger.schemas.ports import SchemaRegistry
from agentledger.schemas.registry import open_registry

NEXT_STEP = "start a local stack (agentledger up --detach), or set {}"


def kafka_config(settings: Settings) -> dict[str, Any]:
    """librdkafka's settings to reach the brokers. Raises ConfigurationError where none are known."""
    servers = settings.kafka_bootstrap_servers or _local(settings, "kafka_bootstrap_servers")
    if not servers:
        raise ConfigurationError("no Kafka is known", next_step=NEXT_STEP.format("AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS"))
    return {"bootstrap.servers": servers, **settings.kafka_security()}


def configured_registry(settings: Settings) -> SchemaRegistry:
    """The schema registry that is configured, with its password, or else the bundled one."""
    auth = settings.schema_registry_basic_auth.get_secret_value()
    return open_registry(settings.schema_registry_url, basic_auth=auth)


def open_codec(settings: Settings) -> Codec:
    """Reads and writes records, with the registry that is configured."""
    return Codec(configured_registry(settings))


def clickhouse_url(settings: Settings) -> str:
    """ClickHouse's HTTP address. Raises ConfigurationError where none is known."""
    url = settings.clickhouse_url or _local(settings, "clickhouse_url")
    if not url:
        raise ConfigurationError("no ClickHouse is known", next_step=NEXT_STEP.format("AGENTLEDGER_CLICKHOUSE_URL"))
    return url


def _local(settings: Settings, name: str) -> str:
    state = load_state(Path(settings.data_dir).expanduser().resolve())
    if state is None or not state.supervisor.alive() or state.endpoints is None:
        return ""
    value: str = getattr(state.endpoints, name)
    return value


def login_as(settings: Settings, user: str) -> tuple[str, str]:
    """User and password to sign in with: those configured, or else the local stack's user of that name (each is named
    as its role), if it has one whose password we may read."""
    given = (settings.clickhouse_user, settings.clickhouse_password.get_secret_value())
    if {"clickhouse_user", "clickhouse_password"} & settings.model_fields_set:
        return given
    folder = Path(settings.data_dir).expanduser().resolve()
    if settings.clickhouse_url and settings.clickhouse_url != _local(settings, "clickhouse_url"):
        return given  # another server: it doesn't know the local users
    password = read_password(folder, user)
    return (user, password) if password else given


def reader_login(settings: Settings) -> tuple[str, str]:
    """For looking at the trail: the auditor, who may read everything and change nothing."""
    return login_as(settings, "auditor")


def admin_login(settings: Settings) -> tuple[str, str]:
    """For what an administrator does: tables, purges."""
    return login_as(settings, ADMIN)
