"""What no agent should send: nothing stops, and each record is accounted for."""

from __future__ import annotations

import uuid

import pytest
from confluent_kafka import Consumer, Producer

from agentledger.schemas import Codec, open_registry, uuid7
from agentledger.schemas.codec import HEADER_BYTES
from agentledger.schemas.events import Event, RunFinished, ToolCallCompleted
from agentledger.schemas.topics import DEAD_LETTERS, EVENTS
from tests.running_stack import RunningStack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
CODEC = Codec(open_registry())
NOW_US = 1_790_000_000_000_000


def tool_call(run_id: str, seq: int, **changes: object) -> ToolCallCompleted:
    fields: dict[str, object] = {
        "event_id": uuid7(NOW_US + seq),
        "tenant_id": "t",
        "producer_id": run_id,
        "producer_seq": seq,
        "run_id": run_id,
        "occurred_at": NOW_US + seq,
        "tool": "lookup",
        "status": "ok",
    }
    return ToolCallCompleted(**(fields | changes))  # type: ignore[arg-type]


def send(stack: RunningStack, records: list[tuple[str, bytes | None]], *, partition: int = 0) -> None:
    """Put the records on the events topic, all on one partition, and wait for the broker."""
    kafka = {"bootstrap.servers": stack.endpoints()["kafka_bootstrap_servers"], "message.max.bytes": 8_000_000}
    producer = Producer(kafka)
    for key, value in records:
        producer.produce(EVENTS.name, value, key, partition=partition)
    assert producer.flush(30) == 0


def dead_letters(stack: RunningStack, count: int) -> list[tuple[str, dict[str, str]]]:
    """Key and headers of the dead letters."""
    kafka = {"bootstrap.servers": stack.endpoints()["kafka_bootstrap_servers"], "auto.offset.reset": "earliest"}
    consumer = Consumer({**kafka, "group.id": str(uuid.uuid4())})
    consumer.subscribe([DEAD_LETTERS.name])
    found = []
    for _ in range(100):
        message = consumer.poll(0.2)
        if message is not None and not message.error():
            headers = {name: value.decode() for name, value in message.headers() or []}
            found.append(((message.key() or b"").decode(), headers))
        if len(found) == count:
            break
    consumer.close()
    return found


def cut(event: Event, count: int) -> bytes:
    return CODEC.encode(event)[:-count]


# What is sent between two good events, and what its row and its dead letter must say.
POISON: dict[str, tuple[bytes | None, str]] = {
    "no header": (b"not avro at all", "no Confluent header"),
    "empty": (b"", "no Confluent header"),
    "unknown schema id": (b"\x00\x00\x00\xff\xff" + b"x" * 50, "unknown schema id"),
    "tombstone": (None, "tombstone"),
    "cut body": (cut(tool_call("cut", 0), 3), "unreadable"),
    "body of another event's bytes too": (CODEC.encode(tool_call("long", 0)) + b"\x00\x00", "unreadable"),
    "six bytes that claim 2**34 labels": (
        CODEC.encode(tool_call("map", 0))[: HEADER_BYTES + 100] + b"\x80\x80\x80\x80\x80\x01",
        "unreadable",
    ),
    "a string of eight gigabytes": (
        CODEC.encode(tool_call("huge", 0))[: HEADER_BYTES + 37] + b"\x80\x80\x80\x80\x40",
        "unreadable",
    ),
    "only a header": (b"\x00" + (1).to_bytes(4, "big"), "no event id"),
    "an id that is no id": (CODEC.encode(tool_call("bad-id", 0, event_id="x" * 36)), "no event id"),
    "a parent that is no id": (CODEC.encode(tool_call("bad-parent", 0, parent_event_id="nobody")), "refused"),
}


def test_poison_stops_nothing_and_is_accounted_for(stack: RunningStack) -> None:
    records: list[tuple[str, bytes | None]] = []
    for seq, (value, _) in enumerate(POISON.values()):
        records += [("good", CODEC.encode(tool_call("good", seq))), ("poison", value)]
    records.append(("good", CODEC.encode(tool_call("good", len(POISON)))))
    send(stack, records)
    wanted = len(records)
    sql = "SELECT count() AS rows FROM ledger WHERE topic LIKE '%events%' AND event_type != 'Ticked'"
    row = stack.settle(sql, lambda row: row["rows"] == wanted, wait_s_max=60)
    assert row["rows"] == wanted
    assert stack.one("SELECT count() AS calls FROM tool_calls WHERE run_id = 'good'")["calls"] == len(POISON) + 1
    rows = stack.query("SELECT offset, log_index, poison_reason, value_hex FROM dead_letters ORDER BY offset")
    for place, (value, reason) in zip(rows, POISON.values(), strict=True):
        assert reason in place["poison_reason"], place
        assert place["value_hex"] == (value or b"").hex()
        assert place["log_index"] == place["offset"]
    letters = dead_letters(stack, len(POISON))
    assert sorted(key for key, _ in letters) == sorted(f"{EVENTS.name}/0/{row['offset']}" for row in rows)
    for key, headers in letters:
        assert headers["__connect.errors.topic"] == EVENTS.name
        assert key.endswith(f"/{headers['__connect.errors.partition']}/{headers['__connect.errors.offset']}")
        assert headers["__connect.errors.exception.message"]


def test_a_five_megabyte_event_is_refused_by_the_broker_and_stops_nothing(stack: RunningStack) -> None:
    huge = CODEC.encode(tool_call("huge", 0, result_redacted="x" * 5_000_000))
    kafka = {"bootstrap.servers": stack.endpoints()["kafka_bootstrap_servers"], "message.max.bytes": 8_000_000}
    reports = []
    producer = Producer(kafka)
    producer.produce(EVENTS.name, huge, "huge", on_delivery=lambda error, _: reports.append(error))
    producer.produce(EVENTS.name, CODEC.encode(tool_call("after-huge", 1)), "after-huge")
    assert producer.flush(30) == 0
    assert [error.name() for error in reports] == ["MSG_SIZE_TOO_LARGE"]
    sql = "SELECT count() AS calls FROM tool_calls WHERE run_id = 'after-huge'"
    assert stack.settle(sql, lambda row: row["calls"] == 1)["calls"] == 1


def test_the_same_event_again_counts_once_and_other_content_is_a_conflict(stack: RunningStack) -> None:
    event = tool_call("again", 0)
    other = tool_call("again", 0, event_id=event.event_id, status="error")
    later = RunFinished(
        event_id=uuid7(NOW_US + 9), tenant_id="t", producer_id="again", producer_seq=1, run_id="again",
        occurred_at=NOW_US + 9, status="succeeded",
    )  # fmt: skip
    for value in (event, event, later, other, event):  # some within one flush, some in later ones
        send(stack, [("again", CODEC.encode(value))], partition=1)
    sql = """SELECT count() AS rows, countIf(occurrence = 'duplicate') AS duplicates,
        countIf(occurrence = 'conflict') AS conflicts FROM ledger
        WHERE run_id = 'again' AND topic LIKE '%events%' AND event_type != 'ConflictDetected'"""
    row = stack.settle(sql, lambda row: row["rows"] == 5)
    assert row == {"rows": 5, "duplicates": 2, "conflicts": 1}
    assert stack.query("SELECT status FROM tool_calls WHERE run_id = 'again'") == [{"status": "ok"}]
    found = stack.settle(
        f"SELECT count() AS found FROM events WHERE topic = '{EVENTS.name}' AND event_type = 'ConflictDetected'",
        lambda row: row["found"] == 1,
    )
    assert found["found"] == 1
