"""What the console needs of the rest: the ledger as reader and as analyst, the control topic, the record of looks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from agentledger.infra import alert_trial
from agentledger.infra.cli.evidence import read_approvers
from agentledger.infra.console_exports import ConsoleExports, open_export
from agentledger.infra.control_commands import lapsing, publish_command
from agentledger.infra.endpoints import (
    clickhouse_url,
    configured_registry,
    kafka_config,
    login_as,
    open_codec,
    reader_login,
)
from agentledger.infra.ledger_setup import open_clickhouse
from agentledger.infra.recorded_reads import BEST_EFFORT_S_MAX, REQUIRED_S_MAX
from agentledger.infra.settings import Settings
from agentledger.processors.budget_windows import window_of
from agentledger.processors.rules.loading import parse_rules
from agentledger.processors.scope_rules import watches_of
from agentledger.producers.halts import Command as ControlCommand
from agentledger.schemas import uuid7
from agentledger.schemas.api_key_file import FileApiKeys
from agentledger.schemas.api_keys import SCOPES
from agentledger.schemas.errors import BrokerError, ConfigurationError
from agentledger.schemas.events import Event
from agentledger.schemas.price_books import open_prices
from agentledger.schemas.subject_keys import FileSubjectKeys
from agentledger.schemas.topics import ALERTS, INTEGRITY
from agentledger.sinks.announcing import Announcer
from agentledger.sinks.console.oidc import CALLBACK, OidcConfig
from agentledger.sinks.console.ports import Command, ConsolePorts, Look, TrialAsked
from agentledger.sinks.key_files import KeyFolder
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.queries import Client
from agentledger.sinks.read_event import ReadFacts, read_event
from agentledger.sinks.replay_source import ReplaySource
from agentledger.sinks.verify import Verification, VerifyRequest

TRIAL_ALERTS_SHOWN = 200  # of a trial, on a page
TRIAL_WARM_UP_US = 86_400_000_000  # as of `agentledger alerts try`

log = logging.getLogger("agentledger.infra.console")


def console_ports(settings: Settings) -> ConsolePorts:
    """The console's outside. Raises ConfigurationError, StoreError where the ledger isn't there."""
    url, reader = clickhouse_url(settings), reader_login(settings)
    analyst = login_as(settings, "analyst")
    folder = settings.subject_keys_folder()

    @cache
    def open_analyst() -> Client:
        client: Client = open_clickhouse(url, settings, database="agentledger", login=analyst)
        return client

    def client_of_analyst(tenant_id: str) -> Client | None:
        # A user of the server whose row policy lets this tenant's rows through; of other tenants there is none here.
        if tenant_id != settings.tenant_id or analyst[0] != "analyst":
            return None
        return open_analyst()

    return ConsolePorts(
        client=open_clickhouse(url, settings, database="agentledger", login=reader),
        keys=FileApiKeys(settings.api_keys_path()),
        issue=lambda command: issue(settings, command),
        publish_alert=lambda event: publish_alert(settings, event),
        record=LookRecorder(settings, reader[0]).record,
        window_of=window_of,
        analyst=client_of_analyst,
        verify=lambda start, progress: verify_all(settings, start, progress),
        try_rules=lambda asked, start, progress: try_rules(settings, reader, asked, progress),
        exports=ConsoleExports(settings.exports_folder(), lambda asked, folder: open_export(settings, asked, folder)),
        subject_keys=FileSubjectKeys(folder) if folder.is_dir() else None,
    )


def oidc_config(settings: Settings) -> OidcConfig | None:
    """The issuer with which people sign in; None without one. Raises ConfigurationError where something is missing."""
    if not settings.console_oidc_issuer:
        return None
    unknown = sorted({scope for scopes in settings.console_oidc_roles.values() for scope in scopes} - set(SCOPES))
    if unknown:
        raise ConfigurationError(
            f"AGENTLEDGER_CONSOLE_OIDC_ROLES names a right that isn't one: {unknown[0]!r}",
            next_step=f"some of {', '.join(SCOPES)}",
        )
    own = settings.console_public_url or f"http://{settings.console_host}:{settings.console_port}"
    return OidcConfig(
        issuer=settings.console_oidc_issuer,
        client_id=settings.console_oidc_client_id,
        client_secret=settings.console_oidc_client_secret.get_secret_value(),
        redirect_url=f"{own}{CALLBACK}",
        roles={role: tuple(scopes) for role, scopes in settings.console_oidc_roles.items()},
        roles_claim=settings.console_oidc_roles_claim,
        tenant_claim=settings.console_oidc_tenant_claim,
        tenant_id=settings.tenant_id,
    )


def verify_all(settings: Settings, start: Callable[[int], None], progress: Callable[[int], None]) -> Mapping[str, Any]:
    """The report on every row of the ledger. Raises ConfigurationError where nothing is signed, StoreError."""
    folder = KeyFolder(settings.signer_folder())
    request = VerifyRequest(
        settings.checkpoints_folder(), folder.public(), approvers=read_approvers(settings, None)
    )  # fmt: skip
    reader = ClickHouseLeafReader(clickhouse_url(settings), *reader_login(settings))
    return Verification(reader, configured_registry(settings), request).run(start, progress).as_json()


def issue(settings: Settings, command: Command) -> None:
    """Send a halt or a resume, and wait until the broker has it. Raises BrokerError."""
    told = ControlCommand(
        command.command, command.tenant_id, command.scope, command.scope_value, command.reason, command.issued_by
    )
    told = lapsing(told, time.time_ns() // 1000, command.expires_us)
    publish_command(kafka_config(settings), told, open_codec(settings))


def publish_alert(settings: Settings, event: Event) -> None:
    """Put what a person says of an alert where alerts are, and wait until the broker has it. Raises BrokerError."""
    Announcer(kafka_config(settings), open_codec(settings)).announce(event, ALERTS.name, key=event.run_id)


def try_rules(
    settings: Settings, login: tuple[str, str], asked: TrialAsked, progress: Callable[[int], None]
) -> Mapping[str, Any]:
    """When these rules would have fired. Raises ConfigurationError where they are no rules, StoreError."""
    rules = parse_rules(asked.rules.encode(), where="your rules")
    watches_of(rules)
    client = open_clickhouse(clickhouse_url(settings), settings, database="agentledger", login=login)
    try:
        tried = alert_trial.try_rules(
            ReplaySource(client), open_codec(settings), rules, open_prices(settings.prices_file), from_us=asked.from_us,
            to_us=asked.to_us, warm_up_us=TRIAL_WARM_UP_US, tenant_id=asked.tenant_id, report=progress,
        )  # fmt: skip
    finally:
        client.close()
    report = alert_trial.as_json(tried)
    return {**report, "alerts": report["alerts"][:TRIAL_ALERTS_SHOWN]}


class LookRecorder:
    """Puts each look into the ledger. Where Kafka is away, a setting decides: nothing is shown, or a line is logged."""

    def __init__(self, settings: Settings, clickhouse_user: str) -> None:
        self._settings = settings
        self._clickhouse_user = clickhouse_user
        self._lock = threading.Lock()
        self._announcer: Announcer | None = None

    def record(self, look: Look) -> None:
        """Tell the ledger. Raises BrokerError where it must be told and can't be."""
        facts = ReadFacts(
            look.asked, look.tenant_id, look.who, self._clickhouse_user, look.began_us, look.duration_ms, look.reads,
            look.error,
        )  # fmt: skip
        event = read_event(facts, str(uuid7(look.began_us)), with_text=self._settings.read_events_with_text)
        try:
            with self._lock:
                self._announcer = self._announcer or self._connect()
                self._announcer.announce(event, INTEGRITY.name)
        except BrokerError as error:
            if self._settings.reads_must_be_recorded:
                raise
            log.warning("a look at the ledger is not recorded: %s", error.what)

    def _connect(self) -> Announcer:
        wait_s_max = REQUIRED_S_MAX if self._settings.reads_must_be_recorded else BEST_EFFORT_S_MAX
        return Announcer(kafka_config(self._settings), open_codec(self._settings), wait_s_max)
