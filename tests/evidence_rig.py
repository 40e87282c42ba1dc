"""A ledger in a real ClickHouse, written as the writer writes it, for tests of signer and verifier."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import clickhouse_connect
from clickhouse_connect.driver.httputil import default_pool_manager

from agentledger.infra.stack.clickhouse import ClickHouseService
from agentledger.infra.stack.ports import free_port
from agentledger.schemas import Codec, open_registry, uuid7
from agentledger.schemas.events import Event, ModelCallCompleted, RunStarted, ToolCallCompleted
from agentledger.sinks import migrate
from agentledger.sinks.batching import Batch, SourceRecord
from agentledger.sinks.clickhouse_store import ClickHouseLedgerStore
from agentledger.sinks.flushing import Flusher
from agentledger.sinks.rows import LogPlace

NOW_US = 1_790_000_000_000_000
REGISTRY = open_registry()
CODEC = Codec(REGISTRY)


class EvidenceRig:
    """One ClickHouse on a folder, and a writer's flushes into it; the server runs inside its `with` block."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.service = ClickHouseService(data_dir, free_port(), free_port())
        self.places: dict[tuple[str, int], LogPlace] = {}
        self._sequence = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, with the tables."""
        self.service.start()
        self.service.wait_ready(time.monotonic() + 60)
        self.client = clickhouse_connect.get_client(dsn=self.url, autogenerate_session_id=False)
        migrate(self.client)

    def stop(self) -> None:
        """Stop the server. It would wait five seconds for connections that are only kept for later."""
        default_pool_manager().clear()
        self.service.stop()

    @property
    def url(self) -> str:
        """The server's HTTP address."""
        return self.service.endpoint

    def place(self, topic: str = "agentledger.events.v1", partition: int = 0, *, anew: bool = False) -> LogPlace:
        """A log; `anew`: the topic was deleted and made again."""
        known = next((place for (name, _), place in self.places.items() if name == topic), None)
        topic_id = known.topic_id if known is not None and not anew else str(uuid.uuid4())
        if anew or (topic, partition) not in self.places:
            self.places[topic, partition] = LogPlace(topic, topic_id, partition)
        return self.places[topic, partition]

    def open_store(self) -> ClickHouseLedgerStore:
        """What writes."""
        return ClickHouseLedgerStore(self.url)

    def write(self, place: LogPlace, values: Sequence[bytes | None]) -> None:
        """One flush of these values."""
        self.write_all({place: values})

    def write_all(self, values: Mapping[LogPlace, Sequence[bytes | None]]) -> None:
        """One flush of values in several logs, by a writer that has just started."""
        store = self.open_store()
        store.claim(list(values), NOW_US)
        flusher = Flusher(store, REGISTRY, _nothing, lambda: NOW_US)
        flusher.flush(
            [
                SourceRecord(place, offset, NOW_US // 1000 + offset, b"run", [("h", b"\x00")], value)
                for place, of_place in values.items()
                for offset, value in enumerate(of_place, flusher.open(place).next_offset)
            ]
        )

    def events(self, count: int) -> list[bytes]:
        """Values of events of three kinds, each with an id of its own."""
        values = []
        for _ in range(count):
            self._sequence += 1
            kind = (RunStarted, ModelCallCompleted, ToolCallCompleted)[self._sequence % 3]
            values.append(CODEC.encode(event(self._sequence, kind)))
        return values

    def command(self, sql: str) -> None:
        """Run a statement with every right, and wait until it has changed what it changes."""
        self.client.command(sql, settings={"mutations_sync": 2, "alter_sync": 2})

    def rows(self, sql: str) -> list[Any]:
        """The rows of a query."""
        return list(self.client.query(sql).result_rows)


def event(sequence: int, kind: type[Event] = ModelCallCompleted, **changes: object) -> Event:
    """An event with all that its record needs."""
    fields: dict[str, Any] = {
        "event_id": uuid7(NOW_US + sequence * 1000), "tenant_id": "t", "producer_id": "p", "producer_seq": sequence,
        "run_id": f"run-{sequence % 7}", "occurred_at": NOW_US, "labels": {"ключ": "значение"},
    }  # fmt: skip
    return kind(**(fields | changes))


def _nothing(_batch: Batch) -> None:
    """The rig has no broker: nobody is told of dead letters."""
