"""Payloads from their topic into the table: once in what is read, also after a crash; gone when their time is over."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from confluent_kafka import Producer

from agentledger.producers.payloads import chunks_of
from agentledger.schemas import uuid7
from agentledger.schemas.errors import StoreError, UsageError
from agentledger.schemas.events import PayloadChunk, RunStarted
from agentledger.schemas.hashing import canonical_json
from agentledger.schemas.topics import PAYLOADS
from agentledger.sinks.payloads import (
    COLUMNS,
    PayloadsConfig,
    expire,
    insert,
    keep_from_us,
    read_payloads,
    run_payloads,
)
from agentledger.sinks.retention import Policy
from agentledger.sinks.tables import PAYLOADS as TABLE
from tests.evidence_rig import CODEC, NOW_US, EvidenceRig, event

pytestmark = pytest.mark.integration
TEXT = canonical_json("é" * 700_000)


def chunks(event_id: str, part: str, text: bytes, tenant_id: str = "acme") -> list[bytes]:
    found = []
    for number, chunk in enumerate(chunks_of(event_id, part, text)):
        for name, value in {
            "event_id": uuid7(NOW_US + number), "tenant_id": tenant_id, "producer_id": "p", "producer_seq": number,
            "run_id": "r", "occurred_at": NOW_US,
        }.items():  # fmt: skip
            setattr(chunk, name, value)
        found.append(CODEC.encode(chunk))
    return found


class Running:
    """A mock broker, and the program over it in a thread."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.broker = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        (address,) = self.broker.list_topics(timeout=10).brokers.values()
        self.config = PayloadsConfig({"bootstrap.servers": f"{address.host}:{address.port}"}, lambda _: 0)

    def send(self, values: list[bytes]) -> None:
        for value in values:
            self.broker.produce(PAYLOADS.name, value, b"k")
        assert self.broker.flush(10) == 0

    def until(self, rows: int, client: Any = None) -> None:
        """Run the program until the table has that many rows."""
        stop = threading.Event()
        thread = threading.Thread(target=run_payloads, args=(self.config, client or self.client, CODEC, stop))
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while self.count() < rows:
                assert time.monotonic() < deadline
                assert thread.is_alive()
                time.sleep(0.1)
        finally:
            stop.set()
            thread.join(30)

    def count(self) -> int:
        return int(self.client.query(f"SELECT count() FROM {TABLE}").result_rows[0][0])


@pytest.fixture
def running(rig: EvidenceRig) -> Running:
    rig.command(f"TRUNCATE TABLE {TABLE}")
    return Running(rig.client)


def test_what_was_sent_is_read_again_also_where_it_came_twice(running: Running, rig: EvidenceRig) -> None:
    event_id = uuid7(NOW_US)
    sent = [*chunks(event_id, "arguments", TEXT), *chunks(event_id, "result", b"[1]")]
    unreadable = [b"\x00\x00\x00\x00\x01nonsense", CODEC.encode(event(1, RunStarted))]
    running.send([*sent, *unreadable, *sent])
    running.until(len(sent))
    rig.command(f"INSERT INTO {TABLE} SELECT * FROM {TABLE}")  # as after a crash: in another part
    arguments, result = read_payloads(running.client, event_id)
    assert (arguments.text.encode(), arguments.is_as_sent) == (TEXT, True)
    assert (result.text, result.part) == ("[1]", "result")
    assert [found.part for found in read_payloads(running.client, event_id, "result")] == ["result"]
    with pytest.raises(UsageError, match="no payload"):
        read_payloads(running.client, uuid7(NOW_US + 1))


def test_a_payload_that_was_changed_or_is_not_whole_is_told_apart(running: Running, rig: EvidenceRig) -> None:
    event_id = uuid7(NOW_US)
    running.send(chunks(event_id, "arguments", TEXT)[1:] + chunks(event_id, "result", b"[1]"))
    running.until(3)
    rig.command(f"ALTER TABLE {TABLE} UPDATE content = '[2]' WHERE part = 'result'")
    assert [found.is_as_sent for found in read_payloads(running.client, event_id)] == [False, False]


class Away:
    """A client whose ClickHouse is away for the first inserts."""

    def __init__(self, client: Any, failures: int) -> None:
        self._client, self.failures = client, failures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def insert(self, *arguments: Any, **settings: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("connection refused")
        self._client.insert(*arguments, **settings)


def test_what_could_not_be_written_is_written_later(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentledger.sinks.payloads.PAUSE_S_MAX", 0.05)
    event_id = uuid7(NOW_US)
    running.send(chunks(event_id, "result", b"[1]"))
    running.until(1, Away(running.client, failures=3))
    assert read_payloads(running.client, event_id)[0].text == "[1]"
    stop = threading.Event()
    with pytest.raises(StoreError, match="takes no payloads"):
        insert(Away(running.client, failures=100), [()], stop)


def test_old_payloads_go_by_tenant_and_not_under_a_legal_hold(running: Running) -> None:
    def row(tenant: str, at_us: int) -> tuple[Any, ...]:
        return (tenant, "r", uuid7(at_us), "result", "d", 3, 0, 1, "[1]", at_us)

    times = (NOW_US, NOW_US + 10)
    running.client.insert(TABLE, [row(tenant, at) for tenant in "abc" for at in times], column_names=COLUMNS)
    expire(running.client, {"a": NOW_US + 10, "b": None, "c": NOW_US + 11}.get)
    left = running.client.query(f"SELECT tenant_id, count() FROM {TABLE} GROUP BY tenant_id").result_rows
    assert sorted(left) == [("a", 1), ("b", 2)]


def policy(**facts: Any) -> Policy:
    return Policy(**({"tenant_id": "acme", "days": {"payloads": 30, "trail": 183}, "holds": {}} | facts))


def test_how_long_payloads_stay() -> None:
    month_us = 30 * 86_400_000_000
    assert keep_from_us(policy(), knows_approvers=False, now_us=NOW_US) == NOW_US - month_us
    assert keep_from_us(policy(holds={"h": "r"}), knows_approvers=True, now_us=NOW_US) is None
    unchecked = policy(ignored=["event 1: nobody trusted has signed it"])
    assert keep_from_us(unchecked, knows_approvers=False, now_us=NOW_US) is None  # it may be a legal hold
    assert keep_from_us(unchecked, knows_approvers=True, now_us=NOW_US) == NOW_US - month_us  # it is a forgery


def test_a_chunk_is_an_event_like_the_others() -> None:
    (value,) = chunks(uuid7(NOW_US), "result", b"[1]")
    assert isinstance(CODEC.decode(value), PayloadChunk)
