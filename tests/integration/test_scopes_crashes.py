"""Stage 2 on a real broker: killed, paused, taken over; what it derives is always that of the pure fold."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from agentledger.processors.rules.loading import load_rules
from agentledger.processors.scope_rules import watches_of
from agentledger.processors.scope_watch import RuleWatch
from agentledger.processors.topics import SCOPES_CHANGELOG
from agentledger.schemas.events import (
    AlertRaised,
    AlertResolved,
    BudgetDeclared,
    BudgetExceeded,
    BudgetThresholdCrossed,
    ControlIssued,
    GapDetected,
)
from agentledger.schemas.topics import ALERTS, BUDGETS
from tests.kafka_broker import PARTITIONS
from tests.scope_programs import TENANTS, ScopeRig, Stage1
from tests.scope_rig import budget
from tests.worker_rig import DIES_HALFWAY, stop_cleanly, wait_ready

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SEED = int(os.environ.get("AGENTLEDGER_TEST_SEED", time.time_ns() % 10**6))
RULES = """
rules:
  - {name: errors, kind: error_rate, window: 5s, percent: 40, resolve_percent: 30, min_volume: 3}
  - {name: slow, kind: latency, window: 5s, limit: 2s, min_volume: 2}
  - {name: gaps, kind: sequence_gap, window: 1s}
  - {name: burn, kind: spend_burn_rate, period: 1d, windows: [{long: 10s, short: 2s, rate: 1.2}]}
"""


@pytest.fixture(autouse=True)
def _rules(tmp_path: Path) -> None:
    """The rules of every test here, where `ScopeRig` looks for them."""
    (tmp_path / "rules.yaml").write_text(RULES)


def budgets() -> list[BudgetDeclared]:
    """Of each tenant: one per hour that halts its agents, one that slides, so that both are crossed within seconds."""
    return [
        budget(limit, tenant_id=tenant, **fields)
        for tenant in TENANTS
        for limit, fields in (
            (100_000, {"scope_value": tenant, "window": "hour", "on_exceeded": "halt"}),
            (20_000, {"budget_id": "each", "scope": "agent", "scope_value": "", "on_exceeded": "halt"}),
            (15_000, {"budget_id": "slides", "scope_value": tenant, "window": "sliding", "window_ms": 4000}),
        )
    ]


def test_kills_at_random_moments_change_nothing(broker: str, tmp_path: Path) -> None:
    """Kills fall where stage 2 has just written something: among derived events, among states, before commits.

    Where they fall is chance, but for the last: between what was derived and the states.
    """
    rng = random.Random(SEED)

    def rules() -> list[RuleWatch[Any]]:
        return watches_of(load_rules(tmp_path / "rules.yaml"))

    with ScopeRig(broker, tmp_path) as rig:
        stage1 = Stage1(broker, rng)
        stage1.declare(budgets())
        worker = threading.Thread(target=stage1.work, args=(45.0,))
        worker.start()
        topics = [BUDGETS.name, ALERTS.name, ALERTS.name, SCOPES_CHANGELOG]
        while worker.is_alive():
            rig.scopes()
            process = rig.processes[-1]
            wait_ready(process)
            topic = rng.choice(topics)
            before, deadline = records_on(broker, topic), time.monotonic() + 8
            while records_on(broker, topic) == before and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
            process.wait()
        worker.join()
        assert rig.starts >= 3
        rig.scopes(changed_by=DIES_HALFWAY)
        while rig.processes[-1].poll() is None:
            stage1.work(0.5)
        assert rig.processes[-1].returncode == -signal.SIGKILL
        stage1.finish()
        rig.scopes("one")
        rig.scopes("two")  # both have a share
        events, again = rig.settle_scopes(rules)
        assert again > 0, "what was derived before a kill was not derived once more"
        for kind in (BudgetThresholdCrossed, BudgetExceeded, ControlIssued, AlertRaised, AlertResolved, GapDetected):
            assert any(isinstance(event, kind) for event in events), kind
        assert {event.rule for event in events if isinstance(event, AlertRaised)} >= {"errors", "gaps", "burn"}
        for process in rig.processes[-2:]:
            stop_cleanly(process)


def records_on(servers: str, topic: str) -> int:
    """How many records the topic has."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "reader"})
    places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    ends = [consumer.get_watermark_offsets(place, 10)[1] for place in places]
    consumer.close()
    return sum(ends)
