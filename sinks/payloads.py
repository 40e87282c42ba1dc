"""Payloads: content that was asked to be kept, from its topic into a table of its own, for a short time.

They are no part of the trail. An event names the digest of each of its payloads, so that what is found here is known to
be what was sent. A chunk that comes twice is stored twice until parts are merged, and read once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import Consumer, KafkaException, Message

from agentledger.schemas import Codec, digest_bytes
from agentledger.schemas.errors import AgentledgerError, BrokerError, StoreError, UsageError
from agentledger.schemas.events import PayloadChunk
from agentledger.schemas.ready import say_ready
from agentledger.schemas.topics import PAYLOADS
from agentledger.sinks.payload_metrics import PayloadMetrics
from agentledger.sinks.queries import Client, query
from agentledger.sinks.retention import Policy
from agentledger.sinks.tables import PAYLOADS as TABLE

GROUP = "agentledger-payloads"
BATCH_RECORDS_MAX = 64  # of up to 512 KiB each: 32 MiB in memory at once
LINGER_S_MAX = 1.0
EXPIRE_EVERY_S = 3600.0
ATTEMPTS_MAX = 8  # 40 s with the pauses below; then the program ends and is started again where it stood
PAUSE_S_MAX = 10.0
COLUMNS = (
    "tenant_id", "run_id", "payload_event_id", "part", "payload_digest", "payload_bytes", "chunk", "chunks", "content",
    "ledger_time",
)  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PayloadsConfig:
    """What the program needs. `kafka` holds librdkafka's settings; `keep_from_us` says, of a tenant, from which ledger
    time on its payloads stay (microseconds since 1970), or None where a legal hold keeps all."""

    kafka: dict[str, Any] = field(repr=False)
    keep_from_us: Callable[[str], int | None]
    metrics: PayloadMetrics = field(default_factory=PayloadMetrics, repr=False, compare=False)


class Payload(NamedTuple):
    """One payload, whole. `is_as_sent`: it has the digest that it was sent with."""

    part: str
    digest: str
    text: str
    is_as_sent: bool


def run_payloads(config: PayloadsConfig, client: Any, codec: Codec, stop: threading.Event) -> None:
    """Write payloads until `stop` is set. Raises BrokerError, StoreError."""
    consumer = Consumer({
        "enable.partition.eof": False, **config.kafka, "group.id": GROUP, "enable.auto.commit": False,
        "auto.offset.reset": "earliest", "queued.max.messages.kbytes": 32_768,
    })  # fmt: skip
    expired_at = 0.0
    try:
        consumer.subscribe([PAYLOADS.name])
        say_ready()
        while not stop.is_set():
            messages = consumer.consume(BATCH_RECORDS_MAX, LINGER_S_MAX)
            rows = rows_of(messages, codec)
            if rows:
                insert(client, rows, stop, config.metrics.count_store_error)
            if messages:
                _commit(consumer)
                newest_s = max(message.timestamp()[1] for message in messages) / 1000
                config.metrics.note_batch(len(rows), len(messages) - len(rows), newest_s)
            if time.monotonic() - expired_at > EXPIRE_EVERY_S or not expired_at:
                expired_at = time.monotonic()
                if _expire_or_warn(client, config.keep_from_us):
                    config.metrics.note_expiry()
    except KafkaException as error:
        raise BrokerError(f"payloads can't be read: {error.args[0].str()}", where=PAYLOADS.name) from None
    finally:
        consumer.close()


def rows_of(messages: Sequence[Message], codec: Codec) -> list[tuple[Any, ...]]:
    """The rows of what was read. What is no chunk is logged with its place and left out: it's no part of the trail."""
    rows = []
    for message in messages:
        error = message.error()
        if error is not None:
            raise BrokerError(f"payloads can't be read: {error.str()}", where=PAYLOADS.name)
        place = f"{message.topic()}, partition {message.partition()}, offset {message.offset()}"
        try:
            event = codec.decode(message.value() or b"")
        except AgentledgerError as unreadable:
            log.warning("a payload was left out: %s (%s)", unreadable, place)
            continue
        if not isinstance(event, PayloadChunk):
            log.warning("a %s is no payload and was left out (%s)", type(event).__name__, place)
            continue
        rows.append((
            event.tenant_id, event.run_id, UUID(event.payload_event_id), event.part, event.payload_digest,
            event.payload_bytes, event.chunk, event.chunks, event.content, message.timestamp()[1] * 1000,
        ))  # fmt: skip
    return rows


def insert(
    client: Any, rows: Sequence[tuple[Any, ...]], stop: threading.Event, on_error: Callable[[], None] = lambda: None
) -> None:
    """Insert rows, again after a failure, a bounded number of times. Raises StoreError."""
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            client.insert(TABLE, rows, column_names=COLUMNS, settings={"async_insert": 0})
            return
        except (ClickHouseError, OSError) as error:
            on_error()
            first = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("payloads could not be written (attempt %d of %d): %s", attempt, ATTEMPTS_MAX, first[:300])
            if attempt == ATTEMPTS_MAX or stop.wait(min(PAUSE_S_MAX, 0.5 * 2**attempt)):
                raise StoreError(
                    "ClickHouse takes no payloads", where=TABLE, next_step="check that it runs; nothing is lost"
                ) from None


def expire(client: Any, keep_from_us: Callable[[str], int | None]) -> None:
    """Delete payloads that are older than their tenant's period. Raises StoreError."""
    try:
        tenants = [tenant for (tenant,) in client.query(f"SELECT DISTINCT tenant_id FROM {TABLE}").result_rows]
        for tenant in tenants:
            keep_from = keep_from_us(tenant)
            if keep_from is not None:
                client.command(
                    f"DELETE FROM {TABLE} WHERE tenant_id = {{tenant:String}} "
                    "AND ledger_time < fromUnixTimestamp64Micro({keep_from:Int64}, 'UTC')",
                    parameters={"tenant": tenant, "keep_from": keep_from},
                )
    except (ClickHouseError, OSError) as error:
        raise StoreError(f"old payloads can't be deleted: {str(error)[:300]}", where=TABLE) from None


def keep_from_us(policy: Policy, *, knows_approvers: bool, now_us: int) -> int | None:
    """From which ledger time on a tenant's payloads stay; None: all of them, as under a legal hold.

    Without any approver's key a decision can't be told from a forgery. What is deleted is gone, so then a decision that
    nobody can check keeps all.
    """
    if policy.holds:
        return None
    if policy.ignored and not knows_approvers:
        log.warning(
            "payloads of tenant %s are kept: no approver's key is here to check %d decisions with (approvers.pub in "
            "the signer's folder)", policy.tenant_id, len(policy.ignored),
        )  # fmt: skip
        return None
    return policy.before_us("payloads", now_us)


def _expire_or_warn(client: Any, keep_from: Callable[[str], int | None]) -> bool:
    """Whether it was done. What can't be deleted now is deleted an hour later: writing goes on."""
    try:
        expire(client, keep_from)
        return True
    except StoreError as error:
        log.warning("%s; the next look is in %d minutes", error, EXPIRE_EVERY_S // 60)
        return False


def read_payloads(client: Client, event_id: str, part: str = "") -> list[Payload]:
    """The payloads of an event, whole, by part. Raises UsageError where there are none, StoreError."""
    rows = query(
        client,
        "SELECT part, payload_digest, chunks, groupArray(content) AS pieces FROM ("
        f"SELECT * FROM {TABLE} WHERE payload_event_id = {{event_id:UUID}} AND (part = {{part:String}} "
        "OR {part:String} = '') ORDER BY part, payload_digest, chunk LIMIT 1 BY part, payload_digest, chunk"
        ") GROUP BY part, payload_digest, chunks ORDER BY part",
        parameters={"event_id": event_id, "part": part},
    ).rows
    if not rows:
        raise UsageError(
            f"there is no payload of event {event_id}{f', part {part}' if part else ''}",
            next_step="payloads are sent only where the ledger was told to, and kept for a short time",
        )
    return [
        Payload(part, digest, text, len(pieces) == chunks and digest_bytes(text.encode()) == digest)
        for part, digest, chunks, pieces in rows
        for text in ["".join(pieces)]
    ]


def _commit(consumer: Consumer) -> None:
    try:
        consumer.commit(asynchronous=False)
    except KafkaException as error:
        log.warning("the place in the payloads could not be kept, they will be written again: %s", error.args[0].str())
