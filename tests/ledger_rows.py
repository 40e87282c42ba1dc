"""Rows of the ledger as the writer would put them, and a ClickHouse of one's own with all views."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import clickhouse_connect

from agentledger.infra.stack.clickhouse import ClickHouseService
from agentledger.infra.stack.ports import free_port
from agentledger.schemas.events import Event
from agentledger.schemas.topics import topic_of
from agentledger.sinks.migrations import migrate

START_US = 1_767_225_600_000_000  # 2026-01-01
DAY_S = 86_400


def iso(moment_us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment_us)).strftime("%Y-%m-%d %H:%M:%S.%f")


def id_of(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


class Ledger:
    """Collects rows as the writer would put them, in ledger order."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.seqs: dict[str, int] = {}
        self.written = 0

    def add(self, kind: type[Event], name: str, at_s: float, occurrence: str = "first", /, **fields: Any) -> str:
        producer = fields.setdefault("producer_id", "p1")
        seq = fields.pop("producer_seq", self.seqs.get(producer, 0))
        if occurrence == "first":
            self.seqs[producer] = seq + 1
        occurred_us = START_US + int(at_s * 1_000_000)
        fields = {"tenant_id": "acme", "run_id": "r1", "agent_id": "bot", "workflow": "refund"} | fields
        event = kind(event_id=id_of(name), producer_seq=seq, occurred_at=occurred_us, **fields)
        self.put_event(event, at_s, occurrence)
        return event.event_id

    def put_event(self, event: Event, at_s: float, occurrence: str = "first") -> None:
        values = {key: value for key, value in dataclasses.asdict(event).items() if value is not None}
        for key in ("occurred_at", "expires_at", "window_start", "window_end"):
            if key in values:
                values[key] = iso(values[key])
        name = type(event).__name__
        self.put(values | {"topic": topic_of(name).name, "event_type": name}, at_s, occurrence)

    def put(self, values: dict[str, Any], at_s: float, occurrence: str = "first") -> None:
        ledger_time = iso(START_US + int(at_s * 1_000_000) + 5_000)
        place = {"offset": len(self.rows), "log_index": len(self.rows), "ledger_time": ledger_time}
        self.rows.append(values | place | {"batch_time": ledger_time, "occurrence": occurrence, "raw": "raw bytes"})

    def write(self, client: Any) -> None:
        """Insert all rows that were not written yet."""
        lines = "\n".join(json.dumps(row) for row in self.rows[self.written :])
        client.raw_insert("agentledger.ledger", insert_block=lines, fmt="JSONEachRow")
        self.written = len(self.rows)


@contextlib.contextmanager
def clickhouse_with_views(folder: Path) -> Iterator[tuple[Any, str]]:
    """A client of a fresh server with tables and views, and the server's address."""
    http = free_port()
    service = ClickHouseService(folder, http, free_port({http}))
    service.start()
    try:
        service.wait_ready(time.monotonic() + 60)
        client = clickhouse_connect.get_client(host="127.0.0.1", port=http, autogenerate_session_id=False)
        migrate(client)
        yield client, f"http://127.0.0.1:{http}"
        client.close()
    finally:
        service.stop()
