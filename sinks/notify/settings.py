"""The notify file (YAML): channels, and routes that say which alerts go to them. Reading is strict; each problem says
its line. Secrets stand in it by reference alone: `env:NAME` or `file:PATH`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agentledger.schemas.errors import ConfigurationError
from agentledger.schemas.yaml_file import YamlFile, YamlFileError, parse_yaml, read_bounded

BYTES_MAX = 256 * 1024
CHANNELS_MAX = 32  # each may have requests of its own under way
ROUTES_MAX = 200
SECRET_BYTES_MAX = 4096
PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_.-]+$")]
Pattern = Annotated[str, Field(min_length=1, max_length=200)]
Severity = Literal["info", "warning", "critical"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
GroupField = Literal["tenant", "workflow", "team", "rule", "severity", "scope", "scope_value", "run"]
WORK_WEEK: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _a_reference(text: str) -> str:
    if not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+", text):
        raise ValueError("secrets don't stand in this file: write env:NAME or file:PATH")
    return text


def _an_http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
        raise ValueError("give it as http(s)://host, without a user")
    return text.rstrip("/")


def _a_zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{text!r} is no time zone") from None
    return text


Reference = Annotated[str, AfterValidator(_a_reference)]
HttpUrl = Annotated[str, Field(max_length=2000), AfterValidator(_an_http_url)]
TimeOfDay = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class QuietHours(_Strict):
    """From when to when a channel rests; pages of these severities wait until it is over, unless theirs is."""

    begin: TimeOfDay = Field(alias="from")
    end: TimeOfDay = Field(alias="to")
    days: tuple[Day, ...] = Field(WORK_WEEK, min_length=1)
    time_zone: Annotated[str, AfterValidator(_a_zone)] = "UTC"
    severities: tuple[Severity, ...] = ("info", "warning")


class _Channel(_Strict):
    pages_per_minute_max: int = Field(60, ge=1, le=600)
    attempts_max: int = Field(10, ge=1, le=20)
    retry_pause_s: float = Field(1.0, ge=0.01, le=60)  # doubled with each attempt, up to PAUSE_S_MAX
    quiet_hours: tuple[QuietHours, ...] = Field((), max_length=20)


class AlertmanagerChannel(_Channel):
    """Prometheus Alertmanager, API v2. It stands in one's own network, mostly."""

    kind: Literal["alertmanager"]
    url: HttpUrl
    allow_private: bool = True


class PagerDutyChannel(_Channel):
    """PagerDuty, Events API v2."""

    kind: Literal["pagerduty"]
    routing_key: Reference
    url: HttpUrl = PAGERDUTY_URL
    allow_private: bool = False


class SlackChannel(_Channel):
    """An incoming webhook of Slack; its address is a secret."""

    kind: Literal["slack"]
    url: Reference
    when_unsure: Literal["give_up", "repeat"] = "give_up"
    allow_private: bool = False


class WebhookChannel(_Channel):
    """Somebody's own address, signed as Standard Webhooks says."""

    kind: Literal["webhook"]
    url: HttpUrl
    secret: Reference
    allow_private: bool = False


class AppriseChannel(_Channel):
    """E-mail and everything else that Apprise speaks; its address holds secrets."""

    kind: Literal["apprise"]
    url: Reference
    when_unsure: Literal["give_up", "repeat"] = "give_up"


Channel = Annotated[
    AlertmanagerChannel | PagerDutyChannel | SlackChannel | WebhookChannel | AppriseChannel, Field(discriminator="kind")
]


class Match(_Strict):
    """Lists of names; `*` stands for any text. A list that isn't there lets all through."""

    severity: tuple[Severity, ...] = ()
    tenant: tuple[Pattern, ...] = ()
    workflow: tuple[Pattern, ...] = ()
    team: tuple[Pattern, ...] = ()
    rule: tuple[Pattern, ...] = ()


class Escalation(_Strict):
    """Whom else to tell where nobody has acknowledged, so long after the first page."""

    after_minutes: float = Field(gt=0, le=10_080)
    channels: tuple[Name, ...] = Field(min_length=1, max_length=CHANNELS_MAX)


class Route(_Strict):
    """Where matching alerts go. The first route that matches counts."""

    name: Name
    match: Match = Match()
    channels: tuple[Name, ...] = Field(max_length=CHANNELS_MAX)
    group_by: tuple[GroupField, ...] = ("tenant", "rule")
    group_wait_s: float = Field(0.0, ge=0, le=600)
    update_every_s: float = Field(300.0, ge=1, le=86_400)
    escalate: tuple[Escalation, ...] = Field((), max_length=10)


class Incoming(_Strict):
    """Where answers to pages come back: a listener, and what they are signed with. `secret` is of Standard Webhooks,
    `pagerduty_secret` that of a webhook subscription at PagerDuty."""

    host: Annotated[str, Field(min_length=1, max_length=255)] = "127.0.0.1"
    port: int = Field(8392, ge=1, le=65535)
    secret: Reference | None = None
    pagerduty_secret: Reference | None = None


class NotifyFile(_Strict):
    """Everything that the file says. `console_url`: the console's address as people open it; empty: no link."""

    console_url: HttpUrl | Literal[""] = ""
    forget_after_hours: float = Field(24.0, ge=0.1, le=2160)
    channels: dict[Name, Channel] = Field(min_length=1, max_length=CHANNELS_MAX)
    routes: tuple[Route, ...] = Field(min_length=1, max_length=ROUTES_MAX)
    incoming: Incoming | None = None


class NotifyFileError(YamlFileError):
    """The notify file is wrong."""

    advice = "agentledger notify check FILE lists all"


def read_notify_file(path: Path) -> NotifyFile:
    """The file's channels and routes. Raises NotifyFileError with everything that is wrong in it."""
    return parse_notify_file(read_bounded(path, bytes_max=BYTES_MAX, error=NotifyFileError), where=str(path))


def parse_notify_file(raw: bytes, *, where: str) -> NotifyFile:
    """The same from bytes. Raises NotifyFileError."""
    file = parse_yaml(raw, where=where, bytes_max=BYTES_MAX, error=NotifyFileError)
    found = file.checked(NotifyFile)
    problems = _contradictions(found, file)
    if problems:
        raise NotifyFileError(problems)
    return found


def secret_of(reference: str, where: str) -> str:
    """What `env:NAME` or `file:PATH` stands for. Raises ConfigurationError, which never shows it."""
    kind, _, name = reference.partition(":")
    try:
        text = os.environ.get(name, "") if kind == "env" else _first_bytes(Path(name).expanduser())
    except (OSError, UnicodeDecodeError):
        text = ""
    text = text.strip()
    if not text or len(text) > SECRET_BYTES_MAX:
        raise ConfigurationError(f"{reference} holds no secret", where=where, next_step="set it for agentledger notify")
    return text


def _first_bytes(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(SECRET_BYTES_MAX + 1).decode("utf-8")


def _contradictions(found: NotifyFile, file: YamlFile) -> list[str]:
    """What no single key has wrong: unknown channels, names said twice, no last route for the rest."""
    problems = []
    names: set[str] = set()
    for number, route in enumerate(found.routes):
        place = ("routes", number)
        if route.name in names:
            problems.append(file.problem((*place, "name"), f"{route.name} is the name of another route, too"))
        names.add(route.name)
        told = [*route.channels, *(name for step in route.escalate for name in step.channels)]
        unknown = sorted(set(told) - found.channels.keys())
        problems += [file.problem(place, f"there is no channel {name}") for name in unknown]
        if route.escalate and not route.channels:
            problems.append(file.problem(place, "escalates what nobody is told of first: give it channels"))
    if found.incoming is not None and not (found.incoming.secret or found.incoming.pagerduty_secret):
        problems.append(file.problem(("incoming",), "give it a secret, a pagerduty_secret, or both"))
    if found.routes[-1].match != Match():
        problems.append(
            file.problem(("routes", len(found.routes) - 1), "the last route must match everything: leave match out")
        )
    return problems
