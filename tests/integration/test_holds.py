"""Holds on a real broker: fifty clients while deciders are killed, join and leave. Nobody overspends, nothing leaks."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka import Producer

from agentledger.processors.budget_declarations import changes_of, limits_of
from agentledger.processors.budget_file import parse_budgets
from agentledger.schemas.events import HoldDecided
from agentledger.schemas.partitioning import partition_of
from agentledger.schemas.topics import BUDGETS, HOLDS
from tests.hold_clients import TENANTS, TTL_MS
from tests.hold_rig import CODEC, Count, HoldsRig, Records, counted, folded, written
from tests.kafka_broker import PARTITIONS
from tests.worker_rig import stop_cleanly, wait_ready

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SEED = int(os.environ.get("AGENTLEDGER_TEST_SEED", time.time_ns() % 10**6))
CLIENT_PROCESSES = 5  # of ten clients each
CALLING_S = 24.0
CHANGE_S = 2.0  # a decider joins, and leaves again
# Small enough that they run out also on a machine that is busy with other things.
BUDGETS_OF_EACH = """
budgets:
  - id: all
    scope: tenant
    window: total
    limits: {usd: 0.0000025}
    on_exceeded: ask_human
    enforcement: hold
    fail: closed
    budgets:
      - {id: team, scope: team, limits: {usd: 0.0000016}}
      - {id: agent, scope: agent, limits: {usd: 0.0000012}, window: sliding 24h}
      - {id: user, scope: user, limits: {tokens: 300}}
      - {id: run, scope: run, limits: {usd: 0.0000004, tool_calls: 12}, window: run}
      - {id: tier, scope: "label:tier", scope_value: gold, limits: {tool_calls: 90}}
"""


def declare(servers: str, tenant_id: str) -> None:
    """Declare the budgets of a tenant, as `agentledger budgets apply` does."""
    limits = limits_of(parse_budgets(BUDGETS_OF_EACH.encode(), where="test"), tenant_id)
    now_us = time.time_ns() // 1000
    producer = Producer({"bootstrap.servers": servers})
    for change in changes_of(limits, {}, tenant_id=tenant_id, now_us=now_us, declared_by="test", producer_id="test"):
        assert change.event is not None
        producer.produce(HOLDS.name, CODEC.encode(change.event), tenant_id.encode())
    assert producer.flush(10) == 0


def test_fifty_clients_while_deciders_die_join_and_leave(broker: str, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    assert len({partition_of(tenant.encode(), PARTITIONS) for tenant in TENANTS}) > 1, "nothing would be moved"
    with HoldsRig(broker, tmp_path) as rig:
        for tenant_id in TENANTS:
            declare(broker, tenant_id)
        rig.ticker()
        first = rig.holds("first")
        wait_ready(first)
        clients = [rig.clients(f"p{number}", CALLING_S, SEED + number) for number in range(CLIENT_PROCESSES)]
        end, kills, joins = time.monotonic() + CALLING_S, 0, 0
        while time.monotonic() < end:
            second = rig.holds("second")
            joins += 1
            time.sleep(CHANGE_S)
            second.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
            if joins % 3 == 0:
                first = rig.newest("first")
                first.kill()
                first.wait()
                kills += 1
                rig.holds("first")
            time.sleep(CHANGE_S)
            rig.restart_failed()
        with ThreadPoolExecutor(CLIENT_PROCESSES) as reading:
            counts = [reading.submit(counted, process, 90) for process in clients]
            rig.wait_for(lambda: all(count.done() for count in counts))
        results = [count.result() for count in counts]
        assert sum(result["unanswered"] for result in results) == 0
        time.sleep(TTL_MS / 1000 + 2.5)  # owners that died: their holds are over after this, and a tick
        rig.wait_for(lambda: written(rig).keys() == folded(rig.read(HOLDS.name)).keys(), 60)
        records, contents = rig.read(HOLDS.name), written(rig)
        expected = folded(records)
        assert [ids for ids, values in contents.items() if len(values) > 1] == []
        assert {event_id: values.copy().pop() for event_id, values in contents.items()} == expected
        overshoot, granted, refused = check(records, expected)
        stop_cleanly(rig.newest("first"))
    asked = sum(result["asked"] for result in results)
    log.info(
        "seed %d: %d asked, %d granted, %d refused, at most %d nano-dollars over; %d kills, %d joins, %d restarts",
        SEED,
        asked,
        granted,
        refused,
        overshoot,
        kills,
        joins,
        rig.failures,
    )
    assert granted > 100
    assert refused > 20
    assert kills >= 2


def check(records: Records, derived: dict[str, bytes]) -> tuple[int, int, int]:
    """Count each tenant's log anew; the most that any account was over, and how many were granted and refused."""
    events = [CODEC.decode(value) for value in derived.values()]
    overshoot = granted = refused = 0
    for tenant_id in TENANTS:
        partition = partition_of(tenant_id.encode(), PARTITIONS)
        heard = [CODEC.decode(value) for *_, value in records[partition] if value is not None]
        said = sorted((e for e in events if e.tenant_id == tenant_id), key=lambda event: event.producer_seq)
        assert [event.producer_seq for event in said] == list(range(len(said)))
        count = Count([event for event in heard if event.tenant_id == tenant_id], said)
        count.check_all()
        overshoot = max(overshoot, *(account.most_over for account in count.sums.values()))
        granted += sum(event.verdict == "granted" for event in said if isinstance(event, HoldDecided))
        refused += count.refused_by_limit
    return overshoot, granted, refused


def test_the_decisions_of_a_tenant_lie_where_its_clients_read(broker: str, tmp_path: Path) -> None:
    with HoldsRig(broker, tmp_path) as rig:
        declare(broker, "acme")
        decider = rig.holds()
        wait_ready(decider)
        result = counted(rig.clients("p", 2.0, SEED), 60)
        assert result["unanswered"] == 0
        for partition, records in rig.read(BUDGETS.name).items():
            for _, _, key, value in records:
                assert partition == partition_of(key, PARTITIONS)
                assert key == CODEC.decode(value or b"").tenant_id.encode()
        stop_cleanly(decider)
