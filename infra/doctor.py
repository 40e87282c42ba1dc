"""What an installation must be like: pure checks over gathered facts, each with what to do where it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from agentledger.infra.topic_admin import topic_settings
from agentledger.schemas.topics import ALL_TOPICS

LAG_S_WARN, LAG_S_FAIL = 30.0, 300.0  # a flush or a commit takes seconds; after five minutes a stage stands still
CHECKPOINT_S_WARN, CHECKPOINT_S_FAIL = 180.0, 3600.0  # an idle ledger is signed once a minute
CLOCK_S_WARN, CLOCK_S_FAIL = 1.0, 30.0  # a second is what stage 2 waits for; signed times are read by people
DISK_FREE_WARN, DISK_FREE_FAIL = 0.15, 0.05  # of the whole; a merge needs room for the parts that it joins
CLICKHOUSE_OLDEST = (24, 8)
WAITING_EVENTS_WARN = 1000  # of notify: it says 100 at once, so Kafka hasn't taken any for a while

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What one check found. `next_step` is empty where there is nothing to do."""

    check: str
    level: Level
    what: str
    next_step: str = ""


@dataclass(frozen=True)
class TopicFacts:
    """A topic as the broker has it; `settings` is None where the broker doesn't tell them."""

    partitions: int
    settings: Mapping[str, str] | None


@dataclass(frozen=True)
class DiskFacts:
    """Space of one disk, bytes."""

    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class ClickHouseFacts:
    """What a ClickHouse server says of itself. `roles` is None where we may not ask."""

    version: str
    clock_ahead_s: float  # of this machine's
    missing_tables: tuple[str, ...]  # tables, views, and columns as TABLE.COLUMN
    missing_roles: tuple[str, ...] | None
    disks: Mapping[str, DiskFacts]
    checkpoint_age_s: float | None  # None: none was ever signed


@dataclass(frozen=True)
class GatewayFacts:
    """How the gateway is set up."""

    is_on_loopback: bool
    asks_for_keys: bool
    has_certificate: bool
    has_private_key: bool


@dataclass(frozen=True)
class NotifyFacts:
    """How people are told of alerts. `problem`: the notify file can't be read; `missing`: a secret or library isn't
    here; `runs` is None where notify has left no trace on this machine; `given_up_lately`: pages of the last day."""

    has_file: bool
    problem: str = ""
    missing: str = ""
    runs: bool | None = None
    given_up_lately: int = 0
    waiting_events: int = 0


@dataclass(frozen=True)
class Facts:
    """All that is known of an installation. What could not be asked is an entry of `failures`: subject to why."""

    partitions: int
    gateway: GatewayFacts
    topics: Mapping[str, TopicFacts] | None = None
    clickhouse: ClickHouseFacts | None = None
    stage_lag_s: Mapping[str, float] = field(default_factory=dict)  # age of the oldest record that it hasn't read
    file_modes: Mapping[str, int] = field(default_factory=dict)  # permission bits of what only its owner may read
    disks: Mapping[str, DiskFacts] = field(default_factory=dict)
    notify: NotifyFacts = NotifyFacts(has_file=False)
    failures: Mapping[str, str] = field(default_factory=dict)
    has_registry: bool = False


def examine(facts: Facts) -> list[Finding]:
    """Every finding, in the order of the checks."""
    return [finding for check in CHECKS for finding in check(facts)]


def worst_level(findings: list[Finding]) -> Level:
    """The worst of them; ok where there is none."""
    levels = {finding.level for finding in findings}
    return "fail" if "fail" in levels else "warn" if "warn" in levels else "ok"


def _failures(facts: Facts) -> Iterator[Finding]:
    for subject, why in facts.failures.items():
        yield Finding(subject, "fail", why, f"bring {subject} back, then run agentledger doctor again")


def _topics(facts: Facts) -> Iterator[Finding]:
    if facts.topics is None:
        return
    wrong = False
    for topic in ALL_TOPICS:
        found = facts.topics.get(topic.name)
        name = f"topic {topic.name}"
        if found is None:
            wrong = True
            yield Finding(name, "fail", "it isn't there", "agentledger init creates it")
            continue
        if found.partitions != facts.partitions:
            wrong = True
            step = f"set AGENTLEDGER_KAFKA_PARTITIONS={found.partitions}: the count is fixed for good"
            yield Finding(name, "fail", f"it has {found.partitions} partitions, not {facts.partitions}", step)
        for setting, value in topic_settings(topic).items():
            if found.settings is not None and (actual := found.settings.get(setting)) != value:
                wrong = True
                level: Level = "fail" if setting == "message.timestamp.type" else "warn"
                yield Finding(name, level, f"{setting} is {actual}", f"set it to {value} with kafka-configs")
    if any(found.settings is None for found in facts.topics.values()):
        yield Finding("topics", "warn", "the broker doesn't tell their settings", "grant DescribeConfigs on the topics")
    elif not wrong:
        yield Finding("topics", "ok", f"{len(ALL_TOPICS)} topics of {facts.partitions} partitions, set as they must be")


def _registry(facts: Facts) -> Iterator[Finding]:
    if "schema registry" not in facts.failures:
        what = "it answers" if facts.has_registry else "none is configured: the bundled lock file gives the ids"
        yield Finding("schema registry", "ok", what)


def _clickhouse(facts: Facts) -> Iterator[Finding]:
    server = facts.clickhouse
    if server is None:
        return
    is_old = _version(server.version) < CLICKHOUSE_OLDEST
    oldest = ".".join(map(str, CLICKHOUSE_OLDEST))
    step = f"upgrade it to {oldest} or later" if is_old else ""
    yield Finding("ClickHouse", "warn" if is_old else "ok", f"version {server.version}", step)
    if server.missing_tables:
        yield Finding("tables", "fail", f"missing: {_few(server.missing_tables)}", "run agentledger init")
    else:
        yield Finding("tables", "ok", "every table, column and view is there")
    if server.missing_roles is None:
        yield Finding("roles", "warn", "this user may not look at them", "run doctor as an administrator")
    elif server.missing_roles:
        yield Finding("roles", "warn", f"missing: {_few(server.missing_roles)}", "run agentledger access apply")
    else:
        yield Finding("roles", "ok", "all are there")
    step = "synchronise both machines with one time server (chrony, systemd-timesyncd)"
    ahead_s = abs(server.clock_ahead_s)
    yield _measured("clock", ahead_s, (CLOCK_S_WARN, CLOCK_S_FAIL), f"ClickHouse's is {ahead_s:.2f} s off ours", step)


def _checkpoint(facts: Facts) -> Iterator[Finding]:
    if facts.clickhouse is None:
        return
    age_s = facts.clickhouse.checkpoint_age_s
    if age_s is None:
        yield Finding("checkpoint", "warn", "none was ever signed", "agentledger keys new, then run agentledger signer")
        return
    step = "look at the signer's log: it waits, or refuses to sign (agentledger verify --all)"
    what = f"the last one is {age_s:.0f} s old"
    yield _measured("checkpoint", age_s, (CHECKPOINT_S_WARN, CHECKPOINT_S_FAIL), what, step)


def _lags(facts: Facts) -> Iterator[Finding]:
    for stage, lag_s in facts.stage_lag_s.items():
        step = f"see whether agentledger {stage} runs, and its log; add one where it can't keep up"
        what = f"its oldest unread record is {lag_s:.1f} s old" if lag_s else "it has read everything"
        yield _measured(f"lag of {stage}", lag_s, (LAG_S_WARN, LAG_S_FAIL), what, step)


def _files(facts: Facts) -> Iterator[Finding]:
    for path, mode in facts.file_modes.items():
        if mode & 0o077:
            yield Finding(f"file {path}", "fail", f"others may use it: mode {mode:04o}", f"chmod go= {path}")
        else:
            yield Finding(f"file {path}", "ok", "its owner alone may read it")


def _disks(facts: Facts) -> Iterator[Finding]:
    disks = {**facts.disks, **(facts.clickhouse.disks if facts.clickhouse else {})}
    for name, disk in disks.items():
        used = 1 - disk.free_bytes / max(1, disk.total_bytes)
        what = f"{disk.free_bytes / 1e9:.1f} GB of {disk.total_bytes / 1e9:.1f} GB are free"
        step = "make room: agentledger retention, a larger disk, or move cold parts"
        yield _measured(f"disk {name}", used, (1 - DISK_FREE_WARN, 1 - DISK_FREE_FAIL), what, step)


def _gateway(facts: Facts) -> Iterator[Finding]:
    gateway = facts.gateway
    if gateway.has_certificate != gateway.has_private_key:
        step = "set both AGENTLEDGER_GATEWAY_TLS_CERTIFICATE and AGENTLEDGER_GATEWAY_TLS_PRIVATE_KEY"
        yield Finding("gateway", "fail", "it has half of what TLS needs", step)
    elif not gateway.is_on_loopback and not gateway.has_certificate:
        step = "give it a certificate, or put a proxy with TLS before it"
        yield Finding("gateway", "warn", "it listens beyond this machine without TLS: keys travel in the clear", step)
    else:
        what = "it asks for keys" if gateway.asks_for_keys else "who is on this machine needs no key"
        yield Finding("gateway", "ok", what)


def _notify(facts: Facts) -> Iterator[Finding]:
    notify = facts.notify
    if not notify.has_file:
        yield Finding("notify", "ok", "no notify file is set: nobody is told of alerts")
        return
    if notify.problem:
        yield Finding("notify", "fail", notify.problem, "agentledger notify check FILE says all that is wrong")
        return
    if notify.missing:
        yield Finding("notify", "warn", notify.missing, "run doctor with the environment that notify has")
    if notify.runs is None:
        yield Finding("notify", "warn", "it has never run on this machine", "run doctor where it runs, or start it")
    elif not notify.runs:
        yield Finding("notify", "fail", "it doesn't run: nobody is told of alerts", "agentledger notify run")
    elif notify.given_up_lately:
        step = "agentledger notify status lists them; agentledger notify test CHANNEL tries a channel"
        yield Finding("notify", "warn", f"{notify.given_up_lately} pages were given up in the last day", step)
    elif notify.waiting_events > WAITING_EVENTS_WARN:
        step = "see the log of agentledger notify: it says what Kafka refuses"
        yield Finding("notify", "warn", f"{notify.waiting_events} events about pages wait for Kafka", step)
    else:
        yield Finding("notify", "ok", "it runs, and gave up no page in the last day")


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _failures, _topics, _registry, _clickhouse, _lags, _checkpoint, _files, _disks, _gateway, _notify,
)  # fmt: skip


def _measured(check: str, value: float, bounds: tuple[float, float], what: str, step: str) -> Finding:
    """A finding on a number: above the bounds (warn, fail) there is something to do."""
    warn, fail = bounds
    if value <= warn:
        return Finding(check, "ok", what)
    return Finding(check, "fail" if value > fail else "warn", what, step)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _few(names: tuple[str, ...], count_max: int = 5) -> str:
    rest = len(names) - count_max
    return ", ".join(names[:count_max]) + (f" and {rest} more" if rest > 0 else "")
