"""Packer and worker on a real broker: killed, paused, taken over; the result is always that of the pure fold."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from agentledger.processors.packing import unpack
from agentledger.processors.topics import CHANGELOG, PACKER_GROUP, WORKER_GROUP
from agentledger.schemas.events import BudgetExceeded, CostRated, Event, OutcomeCosted
from agentledger.schemas.topics import EVENTS, PACKED, SPEND
from tests.kafka_broker import PARTITIONS
from tests.run_logs import interleaved, some_run
from tests.worker_rig import DIES_HALFWAY, SLOW_RECOVERY, Rig, stop_cleanly, wait_for, wait_ready

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

MODELS = ("gpt-4.1", "gpt-4.1-mini", "ft:gpt-4.1:org")
SEED = int(os.environ.get("AGENTLEDGER_TEST_SEED", time.time_ns() % 10**6))


def some_log(rng: random.Random, first: int, runs: int, calls_max: int = 16) -> list[Event]:
    return interleaved([some_run(first + number, rng, calls_max, MODELS) for number in range(runs)], rng)


def lag(servers: str, group: str, topic: str) -> int:
    """How many records the group has not committed yet."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False})
    waiting = 0
    for committed in consumer.committed([TopicPartition(topic, partition) for partition in range(PARTITIONS)], 10):
        low, end = consumer.get_watermark_offsets(TopicPartition(topic, committed.partition), 10)
        waiting += end - max(low, committed.offset)
    consumer.close()
    return waiting


def records_on(servers: str, topic: str) -> int:
    """How many records the topic has."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "reader"})
    places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    ends = [consumer.get_watermark_offsets(place, 10)[1] for place in places]
    consumer.close()
    return sum(ends)


def test_kills_at_random_moments_change_nothing(broker: str, tmp_path: Path) -> None:
    """Kills fall where the worker has just written something: among derived events, among states, before commits.

    Where they fall is chance, but for the last: between what was derived and the states.
    """
    rng = random.Random(SEED)
    log = some_log(rng, 0, 250)
    assert len(log) > 5000
    with Rig(broker, tmp_path) as rig:
        packer = rig.packer()
        wait_ready(packer)
        rig.produce(log[:3500])
        for _ in range(10):
            topic = rng.choice([SPEND.name, SPEND.name, CHANGELOG])
            before = records_on(broker, topic)
            worker = rig.worker()
            if rng.random() < 0.3:
                packer.kill()
                packer.wait()
                packer = rig.packer()
            deadline = time.monotonic() + 10  # it may have nothing left to write
            while records_on(broker, topic) == before and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.1))
            worker.kill()
            worker.wait()
            start = 3500 + 200 * (rig.starts % 10)
            rig.produce(log[start : start + 200] if start < len(log) else [])
        worker = rig.worker(changed_by=DIES_HALFWAY)
        rig.produce(log[3500:])  # all that is left, and some of it again
        assert worker.wait(60) == -signal.SIGKILL
        worker = rig.worker()
        expected, again = rig.settle()
        assert again > 0, "what was derived before a kill was not derived once more"
        assert len(expected.events(CostRated)) > 1500
        assert expected.events(BudgetExceeded)
        assert expected.events(OutcomeCosted)
        worker.kill()
        worker.wait()
        rig.produce(some_log(rng, 1000, 5) + rng.sample(log, 200))  # new runs, and old events once more
        worker = rig.worker()
        rig.settle()
        stop_cleanly(worker)
        stop_cleanly(packer)


def test_a_paused_worker_that_wakes_up_after_a_takeover_does_no_harm(broker: str, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    with Rig(broker, tmp_path) as rig:
        packer, first = rig.packer(), rig.worker("first")
        wait_ready(packer)
        wait_ready(first)
        log = some_log(rng, 0, 60)
        sender = threading.Thread(target=rig.produce, args=(log[: len(log) // 2], 0.02))
        sender.start()
        time.sleep(rng.uniform(0.1, 0.3))
        first.send_signal(signal.SIGSTOP)  # in the middle of its work
        sender.join()
        second = rig.worker("second")
        wait_ready(second)  # it got the partitions, as the first is silent
        rig.produce(log[len(log) // 2 :])
        wait_for(lambda: lag(broker, PACKER_GROUP, EVENTS.name) == 0 and lag(broker, WORKER_GROUP, PACKED.name) == 0)
        first.send_signal(signal.SIGCONT)
        time.sleep(3)
        rig.settle()
        second.kill()
        second.wait()
        rig.produce(some_log(rng, 1000, 10))
        rig.settle()


def test_two_workers_share_the_partitions(broker: str, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    with Rig(broker, tmp_path) as rig:
        packer, first = rig.packer(), rig.worker("first")
        wait_ready(packer)
        wait_ready(first)
        log = some_log(rng, 0, 120)
        sender = threading.Thread(target=rig.produce, args=(log, 0.2))
        sender.start()
        second = rig.worker("second")  # a rebalance under load
        wait_ready(second)
        time.sleep(1)
        first.kill()
        first.wait()
        sender.join()
        rig.settle()
        # The first may have folded everything before it died: the second takes its partitions over all the same.
        wait_for(lambda: "ready: 4 partitions" in rig.log_of("second"))


def test_a_recovery_reads_what_came_before_it_was_ready_to(broker: str, tmp_path: Path) -> None:
    """A worker gets partitions back in a rebalance that is over sooner than a fetch from before it."""
    rng = random.Random(SEED)
    with Rig(broker, tmp_path) as rig:
        packer, first = rig.packer(), rig.worker("first", changed_by=SLOW_RECOVERY)
        wait_ready(packer)
        wait_ready(first)
        rig.produce(some_log(rng, 0, 40))
        rig.settle()
        second = rig.worker("second")
        wait_ready(second)
        wait_for(lambda: rig.shares(["first", "second"]) == [2, 2])
        stop_cleanly(second)
        wait_for(lambda: rig.shares(["first"]) == [PARTITIONS], 20)
        rig.produce(some_log(rng, 1000, 10))
        rig.settle()
        assert rig.failures == 0
        stop_cleanly(first)
        stop_cleanly(packer)


def test_records_that_cannot_be_read_do_not_stop_the_others(broker: str, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    log = some_log(rng, 0, 20)
    with Rig(broker, tmp_path) as rig:
        worker, packer = rig.worker(), rig.packer()
        producer = Producer({"bootstrap.servers": broker, "message.max.bytes": 1_100_000})
        rig.produce(log[:100])
        for partition in range(PARTITIONS):
            for value in (None, b"", b"\x00\x00\x00\x00\x63poison", b"x" * 1_048_000, b"x" * 1_048_400):
                producer.produce(EVENTS.name, value, b"key", partition)
        producer.flush(10)
        rig.produce(log[100:])
        expected, _ = rig.settle()
        assert expected.fold.skipped.total() == 20
        assert expected.fold.folded == len(log)
        stop_cleanly(worker)
        stop_cleanly(packer)
        assert rig.log_of("worker").count("skipped partition") == 10  # the others are only counted
        packed = [value for records in rig.read(PACKED.name).values() for *_, value in records]
        assert sum(record.oversized for value in packed for record in unpack(value or b"")) == PARTITIONS
