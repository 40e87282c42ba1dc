"""Gathers what `agentledger doctor` judges: asks Kafka, ClickHouse, registry and files, changes nothing."""

from __future__ import annotations

import contextlib
import shutil
import stat
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # left out of its stubs

from agentledger.infra.doctor import ClickHouseFacts, DiskFacts, Facts, GatewayFacts, NotifyFacts, TopicFacts
from agentledger.infra.doctor_notify import notify_facts, notify_lag_s
from agentledger.infra.endpoints import admin_login, clickhouse_url, kafka_config
from agentledger.infra.group_positions import GroupPositions
from agentledger.infra.ledger_setup import open_clickhouse
from agentledger.infra.settings import Settings
from agentledger.processors.offsets import GroupOffsets
from agentledger.processors.stage_lag import STAGES
from agentledger.schemas.errors import AgentledgerError, BrokerError, StoreError, UnknownSchemaError
from agentledger.schemas.registry import open_registry
from agentledger.schemas.topics import ALL_TOPICS
from agentledger.sinks.access import ROLES, role_name, views
from agentledger.sinks.key_files import KeyFolder
from agentledger.sinks.tables import BATCHES, CLAIMS, DATABASE, EVIDENCE, LEDGER, PAYLOADS, PURGED, typed_columns

REQUEST_S = 10.0
T = TypeVar("T")


def gather_facts(settings: Settings) -> Facts:
    """All facts that can be had; what doesn't answer is said in `failures` and hides nothing else."""
    failures: dict[str, str] = {}

    def attempt(subject: str, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except AgentledgerError as error:
            failures[subject] = f"{error.what} ({error.where})" if error.where else error.what
            return None

    topics = attempt("Kafka", lambda: topic_facts(kafka_config(settings)))
    lags = attempt("lag", lambda: stage_lags(kafka_config(settings), topics)) if topics is not None else {}
    notify = attempt("notify", lambda: notify_facts(settings))
    if topics is not None and notify is not None and notify.runs:
        lag_s = attempt("notify", lambda: notify_lag_s(settings, kafka_config(settings)))
        lags = {**(lags or {}), **({} if lag_s is None else {"notify": lag_s})}
    server = attempt("ClickHouse", lambda: clickhouse_facts(_client(settings)))
    if settings.schema_registry_url:
        auth = settings.schema_registry_basic_auth.get_secret_value()
        attempt("schema registry", lambda: _ask_registry(settings.schema_registry_url, auth))
    return Facts(
        partitions=settings.kafka_partitions,
        gateway=gateway_facts(settings),
        topics=topics,
        clickhouse=server,
        stage_lag_s=lags or {},
        file_modes=file_modes(secret_files(settings)),
        disks=local_disks(Path(settings.data_dir).expanduser()),
        notify=notify or NotifyFacts(has_file=False),
        failures=failures,
        has_registry=bool(settings.schema_registry_url),
    )


def topic_facts(kafka: dict[str, Any]) -> dict[str, TopicFacts]:
    """Our topics as the broker has them. Raises BrokerError where it doesn't answer."""
    admin = AdminClient(kafka)
    try:
        found = admin.list_topics(timeout=REQUEST_S).topics
    except KafkaException as error:
        raise BrokerError(f"it does not answer: {error.args[0].str()}", where=kafka["bootstrap.servers"]) from error
    ours = [topic.name for topic in ALL_TOPICS if topic.name in found]
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in ours]
    asked = admin.describe_configs(resources, request_timeout=REQUEST_S) if resources else {}
    settings = {resource.name: _settings_of(future) for resource, future in asked.items()}
    return {name: TopicFacts(len(found[name].partitions), settings.get(name)) for name in ours}


def _settings_of(future: Any) -> dict[str, str] | None:
    try:
        return {name: entry.value for name, entry in future.result(REQUEST_S).items()}
    except (KafkaException, TimeoutError):
        return None  # such as: no right to ask


def stage_lags(kafka: dict[str, Any], topics: dict[str, TopicFacts] | None) -> dict[str, float]:
    """Per stage the age of the oldest record that it has not acknowledged, seconds. Raises BrokerError."""
    positions = GroupPositions(kafka)
    worst: dict[str, float] = {}
    for stage, group, topic in STAGES:
        facts = (topics or {}).get(topic)
        if facts is None:
            continue
        standings = GroupOffsets(kafka, group, topic).standing(range(facts.partitions))
        ages = [positions.age_s(topic, partition, *standing) for partition, standing in standings.items()]
        worst[stage] = max([worst.get(stage, 0.0), *ages])
    return worst


def _client(settings: Settings) -> Client:
    return open_clickhouse(clickhouse_url(settings), settings, login=admin_login(settings))


def clickhouse_facts(client: Client) -> ClickHouseFacts:
    """What the server says. Raises StoreError."""
    try:
        before_s = time.time()
        version, server_s = client.query("SELECT version(), toFloat64(now64(6))").result_rows[0]
        here_s = (before_s + time.time()) / 2
        columns = _names(client, "SELECT concat(database, '.', table, '.', name) FROM system.columns", DATABASE)
        tables = _names(client, "SELECT concat(database, '.', name) FROM system.tables", DATABASE)
        disks = client.query("SELECT name, free_space, total_space FROM system.disks WHERE total_space > 0").result_rows
        missing = _missing(tables, columns)
        return ClickHouseFacts(
            version=version,
            clock_ahead_s=server_s - here_s,
            missing_tables=missing,
            missing_roles=_missing_roles(client),
            disks={f"{name} of ClickHouse": DiskFacts(free, total) for name, free, total in disks},
            checkpoint_age_s=None if LEDGER in missing else _checkpoint_age_s(client),
        )
    except (ClickHouseError, OSError) as error:
        raise StoreError(f"a question failed: {(str(error).splitlines() or [''])[0]}") from error


def _names(client: Client, sql: str, database: str) -> set[str]:
    rows = client.query(f"{sql} WHERE database = {{db:String}}", parameters={"db": database}).result_rows
    return {name for (name,) in rows}


def _missing(tables: set[str], columns: set[str]) -> tuple[str, ...]:
    wanted = [LEDGER, BATCHES, CLAIMS, PURGED, PAYLOADS, *views()]
    absent = [name for name in wanted if name not in tables]
    if LEDGER not in absent:
        names = [name for name, _ in EVIDENCE] + list(typed_columns())
        absent += [full for name in names if (full := f"{LEDGER}.{name}") not in columns]
    return tuple(absent)


def _missing_roles(client: Client) -> tuple[str, ...] | None:
    """A users file, as the local stack's, grants to users that are named as the role."""
    try:
        found = {name for (name,) in client.query("SELECT name FROM system.roles").result_rows}
        users = client.query("SELECT name FROM system.users WHERE storage = 'users_xml'").result_rows
    except ClickHouseError:
        return None
    found |= {role_name(name) for (name,) in users}
    return tuple(role_name(role) for role in ROLES if role_name(role) not in found)


def _checkpoint_age_s(client: Client) -> float | None:
    sql = (
        f"SELECT count(), dateDiff('millisecond', max(ledger_time), now64(6)) / 1000 FROM {LEDGER} "
        "WHERE event_type = 'CheckpointSigned'"
    )
    count, age_s = client.query(sql).result_rows[0]
    return float(age_s) if count else None


def _ask_registry(url: str, auth: str) -> None:
    """Raises SchemaError where it doesn't answer. To ask for the id of a record would register it: this only reads."""
    with contextlib.suppress(UnknownSchemaError):  # an answer too: nothing was registered yet
        open_registry(url, basic_auth=auth).schema_of(1)


def secret_files(settings: Settings) -> list[Path]:
    """What only its owner may read, as far as it is there."""
    keys = KeyFolder(settings.signer_folder())
    candidates = [keys.folder, keys.private_path, settings.api_keys_path(), settings.subject_keys_folder()]
    if settings.gateway_tls_private_key is not None:
        candidates.append(settings.gateway_tls_private_key.expanduser())
    return candidates


def file_modes(paths: Iterable[Path]) -> dict[str, int]:
    """Permission bits by path, of those that are there and whose folder lets us look."""
    found = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            found[str(path)] = stat.S_IMODE(path.stat().st_mode)
    return found


def local_disks(folder: Path) -> dict[str, DiskFacts]:
    """The disk that holds the data folder, if that is there."""
    if not folder.exists():
        return {}
    usage = shutil.disk_usage(folder)
    return {f"of {folder}": DiskFacts(usage.free, usage.total)}


def gateway_facts(settings: Settings) -> GatewayFacts:
    """How the gateway is set up."""
    return GatewayFacts(
        is_on_loopback=_is_loopback(settings.gateway_host),
        asks_for_keys=settings.gateway_keys == "required",
        has_certificate=settings.gateway_tls_certificate is not None,
        has_private_key=settings.gateway_tls_private_key is not None,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
