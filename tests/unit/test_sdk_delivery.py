"""Nothing an agent records stops it, and whatever is lost is counted and announced."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from agentledger.producers import DeliveryCounters, EmitProblem, Ledger
from agentledger.producers.delivery import GAPS_MAX, TRIES_MAX, Gap, GapList
from agentledger.producers.envelope import RunEnvelope
from agentledger.producers.event_ids import new_event_id
from agentledger.producers.publisher import DEFAULT_BOOTSTRAP_SERVERS, kafka_config_from_env
from agentledger.producers.quiet_log import OncePerMinute
from agentledger.producers.recorder import wall_clock_us
from agentledger.schemas import events
from agentledger.schemas.codec import Codec
from agentledger.schemas.registry import open_registry
from agentledger.schemas.testing.record_producer import FakeRecordProducer
from agentledger.schemas.topics import EVENTS, INTEGRITY

CODEC = Codec(open_registry())


def adds_up(counters: DeliveryCounters) -> bool:
    lost = counters.failed + sum(counters.dropped.values())
    return counters.emitted == counters.delivered + lost + counters.waiting and counters.waiting >= 0


def arrived(producer: FakeRecordProducer) -> list[int]:
    """producer_seq of what arrived on the events topic."""
    return [CODEC.decode(record.value).producer_seq for record in producer.records if record.topic == EVENTS.name]


def gaps(producer: FakeRecordProducer) -> list[events.GapDetected]:
    decoded = [CODEC.decode(record.value) for record in producer.records if record.topic == INTEGRITY.name]
    return [event for event in decoded if isinstance(event, events.GapDetected)]


def missing(producer: FakeRecordProducer) -> list[int]:
    return [seq for gap in gaps(producer) for seq in range(gap.first_missing_seq, gap.last_missing_seq + 1)]


def record(ledger: Ledger, calls: int) -> None:
    with ledger.run("w", run_id="r") as run:
        for _ in range(calls):
            with run.tool_call("t"):
                pass


def test_while_the_broker_is_away_everything_waits_and_then_arrives() -> None:
    producer = FakeRecordProducer(up=False)
    ledger = Ledger.for_testing(producer=producer)
    record(ledger, 10_000)
    assert producer.records == []
    assert ledger.counters == DeliveryCounters(10_002, 0, 0, {}, 10_002, 0, 0)
    assert ledger.flush(0.01) == 10_002
    producer.come_back()
    assert ledger.flush(5) == 0
    assert arrived(producer) == list(range(10_002))
    assert ledger.counters == DeliveryCounters(10_002, 10_002, 0, {}, 0, 0, 0)


def test_what_finds_the_queue_full_is_counted_and_announced_when_there_is_room() -> None:
    producer = FakeRecordProducer(up=False, records_max=100)
    problems: list[EmitProblem] = []
    ledger = Ledger.for_testing(producer=producer, on_emit_problem=problems.append)
    record(ledger, 248)
    counters = ledger.counters
    assert (counters.dropped, counters.waiting, counters.gaps_unannounced) == ({"queue_full": 150}, 100, 1)
    assert {problem.reason for problem in problems} == {"queue_full"}
    producer.come_back()
    assert ledger.flush(5) == 0
    (gap,) = gaps(producer)
    assert (gap.first_missing_seq, gap.last_missing_seq, gap.reason) == (100, 249, "queue_full")
    assert gap.gap_producer_id == ledger.emitter.producer_id
    assert gap.producer_id != gap.gap_producer_id
    assert (gap.run_id, gap.tenant_id) == ("r", "default")
    assert arrived(producer) == list(range(100))
    assert ledger.counters.gaps_announced == 1


def test_five_megabytes_of_anything_stop_nothing() -> None:
    huge = "x" * 5_000_000
    ledger = Ledger.for_testing(agent_id=huge, keep_content=True)
    with ledger.run(huge, task=huge, labels={huge: huge}, run_id=huge, actor=huge) as run:
        with run.tool_call(huge, arguments=huge, target=huge, evidence_ids=[huge] * 5000) as call:
            call.result({"text": huge})
        with pytest.raises(ValueError, match="xxx"), run.tool_call("t"):
            raise ValueError(huge)
        run.policy_decision(policy=huge, verdict=huge, reason=huge)
        run.fail(huge)
    counters = ledger.counters
    assert (counters.emitted, counters.delivered) == (5, 5)
    tool = ledger.events[1]
    assert isinstance(tool, events.ToolCallCompleted)
    assert (tool.arguments_bytes, tool.arguments_redacted) == (5_000_002, None)
    assert len(tool.target.encode()) == 4096


def test_an_event_that_is_too_large_all_the_same_is_accounted_for() -> None:
    producer = FakeRecordProducer()
    ledger = Ledger.for_testing(producer=producer, on_emit_problem=lambda problem: 1 / 0)
    envelope = RunEnvelope("r")
    envelope.labels = b"\x02\x02a" + b"\x80\xad\xe2\x04" + b"x" * 5_000_000 + b"\x00"  # past every bound of the SDK
    kind = ledger.emitter.kinds["RunStarted"]
    body = events.RunStarted(event_id="", tenant_id="", producer_id="", producer_seq=0, run_id="", occurred_at=0)
    facts: dict[str, Any] = {"parent_event_id": None, "span_id": "", "occurred_at": wall_clock_us()}
    ledger.emitter.emit(kind, envelope, body, event_id=new_event_id(5), **facts)
    record(ledger, 1)
    assert (ledger.counters.dropped, ledger.counters.delivered) == ({"too_large": 1}, 3)
    assert [(gap.first_missing_seq, gap.reason) for gap in gaps(producer)] == [(0, "too_large")]


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("_MSG_TIMED_OUT: timed out", "expired"),
        ("TOPIC_AUTHORIZATION_FAILED: no", "rejected"),
        ("MSG_SIZE_TOO_LARGE: no", "too_large"),
    ],
)
def test_what_the_broker_refuses_is_counted_and_announced(why: str, reason: str) -> None:
    producer = FakeRecordProducer(up=False)
    ledger = Ledger.for_testing(producer=producer)
    record(ledger, 8)
    producer.refuse(why)
    producer.deliver(4)
    producer.refuse(None)
    producer.come_back()
    assert ledger.flush(5) == 0
    assert (ledger.counters.failed, ledger.counters.delivered) == (4, 6)
    assert missing(producer) == [0, 1, 2, 3]
    assert {gap.reason for gap in gaps(producer)} == {reason}


def test_an_announcement_that_is_refused_for_good_is_given_up() -> None:
    producer = FakeRecordProducer()
    producer.refuse("TOPIC_AUTHORIZATION_FAILED: no")
    ledger = Ledger.for_testing(producer=producer)
    record(ledger, 3)
    ledger.flush(0.2)
    assert ledger.counters.failed == 5
    assert ledger.counters.gaps_announced == 0
    assert ledger.counters.gaps_unannounced > 0
    assert adds_up(ledger.counters)


class HostileProducer:
    """Raises whatever is asked of it."""

    def send(self, topic: str, key: bytes, value: bytes, on_delivery: object) -> bool:
        raise RuntimeError("broken")

    def flush(self, timeout_s: float) -> int:
        return 0

    def waiting(self) -> int:
        return 0


def test_a_producer_that_raises_does_not_reach_the_agent() -> None:
    ledger = Ledger(producer=HostileProducer())
    record(ledger, 3)
    assert ledger.counters.dropped == {"rejected": 5}
    ledger.close()


@given(
    steps=st.lists(st.sampled_from(["record", "away", "back", "refuse", "accept", "deliver", "flush"]), max_size=40),
    records_max=st.integers(1, 6),
)
def test_each_event_arrives_or_is_accounted_for(steps: list[str], records_max: int) -> None:
    producer = FakeRecordProducer(records_max=records_max)
    ledger = Ledger.for_testing(producer=producer, on_emit_problem=lambda problem: None)
    actions: dict[str, Callable[[], object]] = {
        "record": lambda: record(ledger, 2),
        "away": producer.go_away,
        "back": producer.come_back,
        "refuse": lambda: producer.refuse("NO: no"),
        "accept": lambda: producer.refuse(None),
        "deliver": lambda: producer.deliver(1),
        "flush": lambda: ledger.flush(0),
    }
    for step in steps:
        actions[step]()
        assert adds_up(ledger.counters)
    producer.refuse(None)
    producer.come_back()
    assert ledger.flush(5) == 0
    counters = ledger.counters
    assert adds_up(counters)
    assert counters.waiting == 0
    seen = arrived(producer)
    assert len(seen) == len(set(seen)) == counters.delivered
    if counters.gaps_unannounced == 0:
        assert sorted(seen + missing(producer)) == list(range(counters.emitted))
    gap_seqs = [gap.producer_seq for gap in gaps(producer)]
    assert len(gap_seqs) == len(set(gap_seqs))


def test_the_list_of_gaps_is_bounded_and_counts_what_it_forgets() -> None:
    found = GapList()
    for seq in range(0, 2 * GAPS_MAX + 20, 2):
        found.add(seq, "queue_full", "r")
    assert (len(found), found.lost_count) == (GAPS_MAX, 10)
    found = GapList()
    for seq in (5, 6, 4, 7):
        found.add(seq, "rejected", "r")
    found.add(8, "rejected", "other")
    assert (found.take(), found.take(), found.take()) == (
        Gap(4, 7, "rejected", "r"), Gap(8, 8, "rejected", "other"), None,
    )  # fmt: skip
    gap = Gap(1, 1, "x", "r")
    for _ in range(TRIES_MAX):
        found.put_back(gap, failed=True)
    assert found.lost_count == 1


def test_a_forked_child_is_another_producer() -> None:
    producer = FakeRecordProducer()
    ledger = Ledger.for_testing(producer=producer)
    with ledger.run("w", run_id="r") as run:
        with run.tool_call("t"):
            pass
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                with run.tool_call("t"):
                    pass
                event = CODEC.decode(producer.records[-1].value)
                os.write(writing, f"{event.producer_id} {event.producer_seq} {event.event_id}".encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            producer_id, seq, event_id = answer.read().split()
    assert producer_id != ledger.emitter.producer_id
    assert str(child) in producer_id
    assert seq == "0"
    assert event_id not in {event.event_id for event in ledger.events}
    assert [event.producer_seq for event in ledger.events] == [0, 1, 2]


def test_a_forked_child_sends_and_exits_by_itself() -> None:
    host = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    servers = ",".join(f"{broker.host}:{broker.port}" for broker in host.list_topics(timeout=10).brokers.values())
    program = """
import os, sys
from agentledger.producers import Ledger
ledger = Ledger(bootstrap_servers=sys.argv[1])
with ledger.run("w") as run:
    with run.tool_call("t"): pass
    child = os.fork()
    for _ in range(20):
        with run.tool_call("t"): pass
if child:
    assert os.waitpid(child, 0)[1] == 0
ledger.flush()
print(ledger.emitter.producer_id, ledger.counters.delivered, ledger.counters.emitted, flush=True)
"""
    command = [sys.executable, "-c", program, servers]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = sorted(line.split()[1:] for line in done.stdout.splitlines())
    assert found == [["21", "21"], ["23", "23"]]
    assert len({line.split()[0] for line in done.stdout.splitlines()}) == 2
    host.flush(0)


def test_each_ledger_of_a_program_is_another_producer() -> None:
    assert Ledger.for_testing().emitter.producer_id != Ledger.for_testing().emitter.producer_id


def test_without_a_broker_an_agent_starts_records_and_ends_within_its_bound() -> None:
    program = """
import logging
from agentledger.producers import Ledger
logging.basicConfig(format="LOG %(message)s")
ledger = Ledger(bootstrap_servers="127.0.0.1:1", flush_wait_ms_max=300)
with ledger.run("w") as run:
    for _ in range(100):
        with run.tool_call("t"): pass
print(ledger.counters.waiting)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "102"
    lines = done.stderr.strip().splitlines()
    assert all(line.startswith("LOG ") for line in lines), lines
    assert any("102 events were not delivered" in line for line in lines)
    assert len(lines) <= 3  # a line a minute from each of the two loggers, whatever librdkafka has to say


def test_where_kafka_is_comes_from_the_environment() -> None:
    assert kafka_config_from_env({}) == {"bootstrap.servers": DEFAULT_BOOTSTRAP_SERVERS}
    environ = {
        "AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS": "b1:9093",
        "AGENTLEDGER_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "AGENTLEDGER_KAFKA_SASL_PASSWORD": "s",
    }
    assert kafka_config_from_env(environ) == {
        "bootstrap.servers": "b1:9093", "security.protocol": "SASL_SSL", "sasl.password": "s",
    }  # fmt: skip


def test_the_log_gets_a_line_a_minute() -> None:
    now = [0.0]
    once = OncePerMinute(lambda: now[0])
    lines = [logging.LogRecord("n", logging.WARNING, "p", 1, "away %d", (number,), None) for number in range(4)]
    passed = [once.filter(lines[0]), once.filter(lines[1]), once.filter(lines[2])]
    now[0] = 60.0
    passed.append(once.filter(lines[3]))
    assert passed == [True, False, False, True]
    assert lines[3].getMessage() == "away 3 (2 lines like this were left out)"


def test_a_closed_ledger_counts_what_comes_too_late() -> None:
    ledger = Ledger(bootstrap_servers="127.0.0.1:1", flush_wait_ms_max=0, on_emit_problem=lambda problem: None)
    record(ledger, 1)
    ledger.close()
    ledger.close()
    record(ledger, 1)
    counters = ledger.counters
    assert (counters.emitted, counters.failed, counters.waiting) == (6, 6, 0)
    assert counters.gaps_unannounced == 4  # of two runs; and their announcements came too late as well
