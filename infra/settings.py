"""Every setting of every program, read from `AGENTLEDGER_*` environment variables."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from agentledger.schemas.errors import ConfigurationError

ENV_PREFIX = "AGENTLEDGER_"
DEFAULT_DATA_DIR = Path(".agentledger")


class Settings(BaseSettings):
    """The effective settings. What each means stands in its description; `agentledger config` prints them."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="ignore", frozen=True)

    data_dir: Path = Field(DEFAULT_DATA_DIR, description="Folder of the local stack: data, logs, state.")
    cache_dir: Path = Field(
        Path("~/.cache/agentledger"), description="Folder where fetched broker jars are kept between stacks."
    )
    kafka_bootstrap_servers: str = Field(
        "", description="Kafka brokers, host:port[,host:port…]; empty: those of the running local stack."
    )
    kafka_security_protocol: str = Field("", description="Such as SASL_SSL; empty: plain text.")
    kafka_sasl_mechanism: str = Field("", description="Such as SCRAM-SHA-512; empty: no SASL.")
    kafka_sasl_username: str = Field("", description="User for SASL.")
    kafka_sasl_password: SecretStr = Field(SecretStr(""), description="Password for SASL.")
    kafka_instance: str = Field(
        "", description="Tells brokers without topic ids apart; the local stack sets it for its memory broker."
    )
    kafka_partitions: int = Field(
        4,
        ge=1,
        le=1024,
        description="Partitions of each topic when it is created: fixed for good; 24 or 48 in production.",
    )
    kafka_replication_factor: int = Field(1, ge=1, le=7, description="Copies of each topic when it is created.")
    clickhouse_url: str = Field(
        "", description="ClickHouse's HTTP address, http(s)://host:port; empty: that of the running local stack."
    )
    clickhouse_user: str = Field("default", description="ClickHouse user.")
    clickhouse_password: SecretStr = Field(SecretStr(""), description="ClickHouse password.")
    schema_registry_url: str = Field(
        "", description="A Confluent-compatible schema registry; empty: the bundled lock file of ids."
    )
    schema_registry_basic_auth: SecretStr = Field(SecretStr(""), description="user:password for the registry.")
    tenant_id: str = Field("default", min_length=1, max_length=200, description="Tenant of what this machine records.")
    environment: str = Field(
        "", description="Where agents run, such as production or staging; in production they have an outbox."
    )
    outbox_dir: Path | None = Field(
        None,
        description="Folder where agents keep events until Kafka has them; off: none; "
        "empty: DATA_DIR/outbox in production, none elsewhere.",
    )
    prices_file: Path | None = Field(
        None, description="Price file (YAML) whose prices come before the shipped ones; empty: those alone."
    )
    rules_file: Path | None = Field(
        None, description="Rules file (YAML) of anomaly alerts in place of the shipped one; empty: that."
    )
    writer_batch_rows_max: int = Field(50_000, ge=1, le=200_000, description="Records in one flush to ClickHouse.")
    writer_linger_ms_max: int = Field(
        250, ge=0, le=60_000, description="Longest wait for a flush to fill, milliseconds."
    )
    signer_dir: Path | None = Field(
        None, description="The signer's own folder: keys and state; empty: DATA_DIR/signer."
    )
    checkpoints_dir: Path | None = Field(
        None,
        description="Folder for signed checkpoints, best where the database's administrators can't write; "
        "empty: DATA_DIR/checkpoints.",
    )
    checkpoints_bucket: str = Field(
        "", description="s3://BUCKET/PREFIX with object lock, for copies of the checkpoints; empty: none."
    )
    checkpoints_bucket_endpoint: str = Field(
        "", description="Address of an S3-compatible service; empty: where boto3 finds Amazon's."
    )
    checkpoints_bucket_retention_days: int = Field(
        3650, ge=1, le=36_500, description="How long nobody can delete a copy from the bucket, days."
    )
    witnesses_file: Path | None = Field(
        None,
        description="File of witnesses (C2SP tlog-witness) that cosign checkpoints: lines KEY URL; empty: none.",
    )
    signer_interval_s: float = Field(5.0, ge=0.2, le=3600, description="Time between two signed checkpoints, seconds.")
    query_time_s_max: int = Field(60, ge=1, le=3600, description="Longest time for an analyst's query, seconds.")
    query_rows_max: int = Field(100_000, ge=1, le=10_000_000, description="Most rows that an analyst's query returns.")
    reads_must_be_recorded: bool = Field(
        False,
        description="Whether query, run, costs … show nothing where that they were asked can't be put into the ledger.",
    )
    read_events_with_text: bool = Field(
        True, description="Whether such an event holds what was asked, or its command and digest alone."
    )
    retention_trail_days_min: int = Field(
        183, ge=1, le=36_500, description="Shortest time that records are kept, days; the period where none is set."
    )
    retention_payloads_days_min: int = Field(
        30, ge=1, le=36_500, description="Shortest time that bytes and content are kept, days; also the default."
    )
    subject_keys_dir: Path | None = Field(
        None, description="Folder of the keys of data subjects; empty: DATA_DIR/subjects."
    )
    erasure: str = Field(
        "allowed", pattern="^(allowed|forbidden)$", description="Whether a subject's personal fields may be erased."
    )
    api_keys_file: Path | None = Field(
        None, description="File of the API keys' hashes (0600); empty: DATA_DIR/api_keys.json."
    )
    gateway_host: str = Field("127.0.0.1", min_length=1, description="Where the gateway listens.")
    gateway_port: int = Field(8390, ge=1, le=65535, description="The gateway's port.")
    gateway_keys: str = Field(
        "required",
        pattern="^(required|not_on_loopback)$",
        description="Whether the gateway asks for API keys; not_on_loopback: events without one are this tenant's.",
    )
    gateway_error_texts: str = Field(
        "digest",
        pattern="^(digest|keep)$",
        description="What stays of the texts of errors in spans, which may quote prompts or keys: digest, or keep.",
    )
    gateway_tls_certificate: Path | None = Field(None, description="The gateway's TLS certificate (PEM, with chain).")
    gateway_tls_private_key: Path | None = Field(None, description="The private key of that certificate (PEM).")
    gateway_tls_client_ca: Path | None = Field(
        None, description="CA (PEM) whose certificates the gateway's clients must have; empty: they need none."
    )
    gateway_events_per_s_max: int = Field(
        5_000,
        ge=1,
        le=1_000_000,
        description="Events a second of one API key, where it has no bound of its own.",
    )
    console_host: str = Field("127.0.0.1", min_length=1, description="Where the console listens.")
    console_port: int = Field(8391, ge=1, le=65535, description="The console's port.")
    console_keys: str = Field(
        "required",
        pattern="^(required|not_on_loopback)$",
        description="Whether the console asks for API keys; not_on_loopback: who has none sees this tenant's ledger.",
    )
    console_public_url: str = Field(
        "",
        description="https:// address under which others reach the console, and no other; empty: its own.",
    )
    console_session_secret: SecretStr = Field(
        SecretStr(""), description="Signs sessions, 32 characters or more; empty: a new one at each start ends them."
    )
    console_oidc_issuer: str = Field("", description="OIDC issuer with which people sign in; empty: API keys alone.")
    console_oidc_client_id: str = Field("", description="The console's client id at that issuer.")
    console_oidc_client_secret: SecretStr = Field(SecretStr(""), description="Its secret; empty: a public client.")
    console_oidc_roles: dict[str, list[str]] = Field(
        default_factory=dict, description='Rights by role, JSON: {"operators": ["read", "admin"]}; others have none.'
    )
    console_oidc_roles_claim: str = Field("groups", min_length=1, description="The claim that holds the roles.")
    console_oidc_tenant_claim: str = Field("", description="The claim that names the tenant; empty: TENANT_ID's.")
    console_exports_dir: Path | None = Field(
        None, description="Folder of the exports that are made in the console; empty: DATA_DIR/exports."
    )
    notify_file: Path | None = Field(
        None, description="Notify file (YAML): who is told of which alerts, how; empty: nobody is."
    )
    keeping_nice: int = Field(
        10,
        ge=0,
        le=19,
        description="How far ClickHouse, the writers, the signer and reconcile step back (nice) on a local stack whose "
        "cores are busy, so that holds, budgets and alerts go first; 0: not at all.",
    )
    metrics_host: str = Field("127.0.0.1", min_length=1, description="Where programs show their metrics.")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Port of a program's metrics (Prometheus), one for each program; 0: none."
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="What the programs log.")

    @field_validator(
        "outbox_dir",
        "prices_file",
        "rules_file",
        "notify_file",
        "console_exports_dir",
        "signer_dir",
        "checkpoints_dir",
        "witnesses_file",
        "subject_keys_dir",
        "api_keys_file",
        "gateway_tls_certificate",
        "gateway_tls_private_key",
        "gateway_tls_client_ca",
        mode="before",
    )
    @classmethod
    def _is_a_path_or_none(cls, path: object) -> object:
        return path or None

    @field_validator("clickhouse_url", "schema_registry_url", "console_public_url", "console_oidc_issuer")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if url and (urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname):
            raise ValueError("give it as http://host:port or https://host:port")
        return url.rstrip("/")

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _is_host_port(cls, servers: str) -> str:
        for server in filter(None, servers.split(",")):
            host, _, port = server.strip().rpartition(":")
            if not host or not port.isdigit():
                raise ValueError(f"{server!r} is not host:port")
        return servers.replace(" ", "")

    def signer_folder(self) -> Path:
        """Where the signer keeps its keys and its state."""
        return (self.signer_dir or Path(self.data_dir) / "signer").expanduser().resolve()

    def exports_folder(self) -> Path:
        """Where the exports are kept that are made in the console."""
        return (self.console_exports_dir or Path(self.data_dir) / "exports").expanduser().resolve()

    def checkpoints_folder(self) -> Path:
        """Where signed checkpoints are published."""
        return (self.checkpoints_dir or Path(self.data_dir) / "checkpoints").expanduser().resolve()

    def subject_keys_folder(self) -> Path:
        """Where the keys of data subjects are."""
        return (self.subject_keys_dir or Path(self.data_dir) / "subjects").expanduser().resolve()

    def notify_state_path(self) -> Path:
        """The file in which notify keeps what it must not forget."""
        return (self.data_dir / "notify" / "notify.sqlite").expanduser().resolve()

    def api_keys_path(self) -> Path:
        """The file of the API keys' hashes."""
        return (self.api_keys_file or Path(self.data_dir) / "api_keys.json").expanduser().resolve()

    def kafka_security(self) -> dict[str, str]:
        """The librdkafka settings for the configured security; empty for plain text."""
        named = {
            "security.protocol": self.kafka_security_protocol,
            "sasl.mechanism": self.kafka_sasl_mechanism,
            "sasl.username": self.kafka_sasl_username,
            "sasl.password": self.kafka_sasl_password.get_secret_value(),
        }
        return {name: value for name, value in named.items() if value}


def load_settings(**overrides: object) -> Settings:
    """The settings from the environment, `overrides` first. Raises ConfigurationError that lists every wrong one."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = [
            f"{ENV_PREFIX}{'_'.join(map(str, item['loc'])).upper()}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        ]
        raise ConfigurationError(
            f"{len(problems)} wrong setting{'s' if len(problems) > 1 else ''}: " + "; ".join(problems),
            next_step="correct the environment; agentledger config lists every setting",
        ) from None


def shown_value(settings: Settings, name: str) -> str:
    """A setting's value as it may be shown: secrets as stars, passwords inside URLs too."""
    value = getattr(settings, name)
    if isinstance(value, SecretStr):
        return "********" if value.get_secret_value() else ""
    text = "" if value is None else str(value)
    return hide_password(text) if name.endswith("_url") else text


def hide_password(url: str) -> str:
    """The URL without the password that it may carry."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:********@{host}"))
