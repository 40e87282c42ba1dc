"""What must be there before any program starts: topics on Kafka, tables and views in ClickHouse."""

from __future__ import annotations

from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.httputil import default_pool_manager
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # its stubs leave NewTopic out

from agentledger.infra.settings import Settings, hide_password
from agentledger.infra.topic_admin import create_topics, touch_topics
from agentledger.processors import worker_topics
from agentledger.schemas.errors import StoreError
from agentledger.schemas.topics import ALL_TOPICS
from agentledger.sinks import migrate


def prepare_kafka(
    kafka: dict[str, Any], *, partitions: int, replication_factor: int, can_create_topics: bool = True
) -> list[str]:
    """Create the topics that are missing; their names. Raises BrokerError, ConfigurationError."""
    extra = [
        NewTopic(topic.name, topic.partitions, replication_factor, config=topic.config)
        for topic in worker_topics(partitions)
    ]
    if not can_create_topics:
        names = [topic.name for topic in ALL_TOPICS] + [topic.topic for topic in extra]
        touch_topics(kafka, names)
        return names
    return create_topics(kafka, partitions=partitions, replication_factor=replication_factor, extra=extra)


def prepare_clickhouse(url: str, settings: Settings, login: tuple[str, str] | None = None) -> None:
    """Create or bring up to date the tables and views. Raises StoreError."""
    migrate(open_clickhouse(url, settings, login=login))
    # `agentledger up` lives on and asks no more: a connection kept for later would hold up the server's stop for 5 s.
    default_pool_manager().clear()


def open_clickhouse(
    url: str, settings: Settings, *, database: str = "default", login: tuple[str, str] | None = None
) -> Client:
    """A client of the ClickHouse at `url`, as `login` (user, password) or else the configured user. Raises StoreError
    where it doesn't answer."""
    user, password = login or (settings.clickhouse_user, settings.clickhouse_password.get_secret_value())
    try:
        return clickhouse_connect.get_client(
            dsn=url,
            database=database,
            username=user,
            password=password,
            autogenerate_session_id=False,
        )
    except (ClickHouseError, OSError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise StoreError(
            f"ClickHouse does not answer: {reason}",
            where=hide_password(url),
            next_step="check AGENTLEDGER_CLICKHOUSE_URL, or start a local stack: agentledger up --detach",
        ) from None
