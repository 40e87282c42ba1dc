"""What the console needs of others: the ledger, the keys, and whoever issues commands and records looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from agentledger.schemas.events import Event
from agentledger.schemas.ports import ApiKeys, SubjectKeys
from agentledger.sinks.console.jobs import Say, Work
from agentledger.sinks.queries import Client
from agentledger.sinks.read_event import CountedReads


class Command(NamedTuple):
    """A halt or a resume that somebody gave. `expires_us`: it lapses after so many microseconds; None: never."""

    command: str
    tenant_id: str
    scope: str
    scope_value: str
    reason: str
    issued_by: str
    expires_us: int | None = None


class Look(NamedTuple):
    """That somebody looked at what agents did. `asked` says at what, with the name of the command."""

    asked: Mapping[str, Any]
    tenant_id: str
    who: str
    began_us: int
    duration_ms: float
    reads: CountedReads
    error: str = ""


class TrialAsked(NamedTuple):
    """Rules (the YAML of a rules file) to try on a tenant's records of these ledger times, microseconds."""

    tenant_id: str
    rules: str
    from_us: int
    to_us: int


class ExportAsked(NamedTuple):
    """A tenant's records of these ledger times (microseconds; None: without an end) and this run (empty: all)."""

    tenant_id: str
    file_format: str
    from_us: int | None
    to_us: int | None
    run_id: str
    asked_by: str
    asked_us: int


class ExportFile(NamedTuple):
    """An export that is kept. `made_us`: when, microseconds since 1970."""

    name: str
    size_bytes: int
    made_us: int


class Exports(Protocol):
    """Where exports are made and kept. Raises StoreError where it can't be read or written."""

    def make(self, asked: ExportAsked, start: Say, progress: Say) -> Mapping[str, Any]:
        """Make one, recorded in the ledger; its name and how many records it has. Raises AgentledgerError."""

    def listed(self, tenant_id: str) -> list[ExportFile]:
        """What is kept for the tenant, the newest first."""

    def path(self, tenant_id: str, name: str) -> Path | None:
        """The file of this name; None where the tenant has none."""


class Window(Protocol):
    """From `start_us` to before `end_us`; None is without an end on that side."""

    @property
    def start_us(self) -> int | None:
        """Microseconds since 1970."""

    @property
    def end_us(self) -> int | None:
        """Microseconds since 1970."""


class WindowOf(Protocol):
    """The window of a budget in which a time falls. Raises ConfigurationError for an unknown kind or time zone."""

    def __call__(self, kind: str, time_us: int, *, time_zone: str = "", window_ms: int | None = None) -> Window:
        """Times are microseconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class ConsolePorts:
    """The outside of the console. Each may be called from several threads at a time.

    `issue` sends a command and returns when the broker has it (BrokerError where it hasn't); `publish_alert` does so
    with what a person says of an alert. `record` puts a look into the ledger; it raises BrokerError only where the
    ledger demands it: then nothing may be shown. `analyst` gives the client for a tenant's own SQL, which sees this
    tenant's rows alone; None where there is none. `verify` checks the whole ledger against its signed heads, and gives
    the report. `try_rules` says when rules would have fired.
    """

    client: Client
    keys: ApiKeys
    issue: Callable[[Command], None]
    publish_alert: Callable[[Event], None]
    record: Callable[[Look], None]
    window_of: WindowOf
    analyst: Callable[[str], Client | None]
    verify: Work | None = None
    try_rules: Callable[[TrialAsked, Say, Say], Mapping[str, Any]] | None = None
    exports: Exports | None = None
    subject_keys: SubjectKeys | None = None
