"""Commands that show what agents did tell the ledger of it. Where Kafka is away, a setting decides what goes first:
the answer (with a warning), or the record of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from agentledger.infra.control_commands import who_am_i
from agentledger.infra.endpoints import clickhouse_url, kafka_config, open_codec, reader_login
from agentledger.infra.ledger_setup import open_clickhouse
from agentledger.infra.settings import Settings
from agentledger.schemas import uuid7
from agentledger.schemas.errors import AgentledgerError
from agentledger.schemas.topics import INTEGRITY
from agentledger.sinks.announcing import Announcer
from agentledger.sinks.read_event import CountedReads, ReadFacts, read_event

REQUIRED_S_MAX = 20.0
BEST_EFFORT_S_MAX = 2.0  # what a person is held up at most by a broker that doesn't answer
NEXT_STEP = "AGENTLEDGER_READS_MUST_BE_RECORDED decides whether that may be"


@contextmanager
def recorded_queries(settings: Settings, command: str, **asked: Any) -> Iterator[CountedReads]:
    """A client for one who only looks. What it was asked for is an event when the block ends: show the answer after it.

    Raises BrokerError, ConfigurationError where the record is required and can't be made: then nothing may be shown.
    """
    user, _ = login = reader_login(settings)
    reads = CountedReads(open_clickhouse(clickhouse_url(settings), settings, login=login, database="agentledger"))
    with recorded_read(settings, {"command": command, **asked}, user, reads):
        yield reads


@contextmanager
def recorded_read(
    settings: Settings, asked: Mapping[str, Any], clickhouse_user: str, reads: CountedReads | None = None
) -> Iterator[None]:
    """The same for what is read otherwise."""
    announcer = _open(settings)
    began_us, began_s = time.time_ns() // 1000, time.monotonic()

    def tell(error: str = "") -> None:
        duration_ms = round((time.monotonic() - began_s) * 1000, 3)
        facts = ReadFacts(
            asked, settings.tenant_id, who_am_i(), clickhouse_user, began_us, duration_ms, reads, error
        )  # fmt: skip
        _tell(settings, announcer, facts)

    try:
        yield
    except BaseException as failed:  # also what is interrupted: something may have been shown by then
        tell(str(failed) or type(failed).__name__)
        raise
    tell()


def _open(settings: Settings) -> Announcer | None:
    """A connection to Kafka; None where none is known and none is needed."""
    is_required = settings.reads_must_be_recorded
    try:
        kafka = kafka_config(settings)
        return Announcer(kafka, open_codec(settings), REQUIRED_S_MAX if is_required else BEST_EFFORT_S_MAX)
    except AgentledgerError as error:
        if is_required:
            raise
        _warn(error)
        return None


def _tell(settings: Settings, announcer: Announcer | None, facts: ReadFacts) -> None:
    if announcer is None:
        return
    event = read_event(facts, str(uuid7(facts.began_us)), with_text=settings.read_events_with_text)
    try:
        announcer.announce(event, INTEGRITY.name)
    except AgentledgerError as error:
        if settings.reads_must_be_recorded:
            raise
        _warn(error)


def _warn(error: AgentledgerError) -> None:
    click.echo(f"agentledger: this look at the ledger is not recorded: {error.what}; {NEXT_STEP}", err=True)
