"""Declared budgets: read from the ledger, published, and how far each is used."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import Producer

from agentledger.processors.budget_declarations import Change, Key, newest
from agentledger.schemas import Codec
from agentledger.schemas.errors import BrokerError
from agentledger.schemas.events import BudgetDeclared, Event
from agentledger.schemas.topics import HOLDS
from agentledger.sinks.queries import query, store_error

DELIVERY_S_MAX = 10.0  # a person waits for this
VISIBLE_S_MAX = 15.0  # until what was declared is in the ledger; the writer takes a second

_DECLARED = """
SELECT raw FROM agentledger.ledger
WHERE event_type = 'BudgetDeclared' AND occurrence = 'first' AND tenant_id = {tenant:String}
ORDER BY partition, log_index"""
_ALL_DECLARED = """
SELECT raw, toUnixTimestamp64Micro(ledger_time) AS at_us FROM agentledger.ledger
WHERE event_type = 'BudgetDeclared' AND occurrence = 'first' ORDER BY partition, log_index"""
_VISIBLE = """
SELECT count() AS found FROM agentledger.ledger
WHERE event_type IN ('BudgetDeclared', 'ApprovalDecided') AND occurrence = 'first' AND tenant_id = {tenant:String}
    AND event_id IN {ids:Array(UUID)}"""


def declared_budgets(client: Any, tenant_id: str, codec: Codec) -> list[BudgetDeclared]:
    """Every declaration of this tenant in the ledger, in ledger order. Raises StoreError."""
    try:
        found = client.query(_DECLARED, parameters={"tenant": tenant_id}, query_formats={"String": "bytes"})
    except ClickHouseError as error:
        raise store_error(error) from None
    events = [codec.decode(bytes(raw)) for (raw,) in found.result_rows]
    return [event for event in events if isinstance(event, BudgetDeclared)]


def all_declared(client: Any, codec: Codec) -> list[tuple[int, BudgetDeclared]]:
    """Every tenant's declarations with their ledger time (microseconds), each tenant's in order. Raises StoreError."""
    try:
        found = client.query(_ALL_DECLARED, query_formats={"String": "bytes"})
    except ClickHouseError as error:
        raise store_error(error) from None
    events = [(int(at_us), codec.decode(bytes(raw))) for raw, at_us in found.result_rows]
    return [(at_us, event) for at_us, event in events if isinstance(event, BudgetDeclared)]


def known_budgets(client: Any, tenant_id: str, codec: Codec) -> dict[Key, BudgetDeclared]:
    """The last declaration of each limit, retired ones too. Raises StoreError."""
    return newest(declared_budgets(client, tenant_id, codec))


def new_producer_id(declared_by: str) -> str:
    """A producer of its own for one apply."""
    return f"budgets:{declared_by}:{secrets.token_hex(4)}"


def publish_changes(kafka: dict[str, Any], changes: Sequence[Change], codec: Codec) -> list[BudgetDeclared]:
    """Send what is due and wait until the broker has it; the events. Raises BrokerError."""
    events = [change.event for change in changes if change.event is not None]
    publish_events(kafka, events, codec)
    return events


def publish_events(kafka: dict[str, Any], events: Sequence[Event], codec: Codec) -> None:
    """Send declarations and answers to where a tenant's budgets are decided. Raises BrokerError."""
    failures: list[str] = []
    settings = {"acks": "all", "enable.idempotence": True, "message.timeout.ms": round(DELIVERY_S_MAX * 1000)}
    producer = Producer({**settings, "log_level": 0, **kafka})
    for event in events:
        producer.produce(
            HOLDS.name,
            codec.encode(event),
            event.tenant_id.encode(),
            on_delivery=lambda error, _: failures.append(error.str()) if error is not None else None,
        )
    waiting = producer.flush(DELIVERY_S_MAX + 1)
    if failures or waiting:
        raise BrokerError(
            f"not all declarations were sent: {failures[0] if failures else 'no answer from the broker'}",
            next_step="check the broker and do it again: what was sent is not sent twice",
        )


def wait_visible(client: Any, tenant_id: str, events: Sequence[Event]) -> bool:
    """Wait until the events are in the ledger, so that the next apply knows them; whether they came in time."""
    ids = [event.event_id for event in events]
    end = time.monotonic() + VISIBLE_S_MAX
    while ids and time.monotonic() < end:
        found = query(client, _VISIBLE, parameters={"tenant": tenant_id, "ids": ids})
        if found.rows[0][0] == len(ids):
            return True
        time.sleep(0.2)
    return not ids
