"""Budgets over many runs on a whole local stack: declared, crossed, halted, told once, also when stage 2 is killed."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from agentledger.processors.partial_records import PARTIAL, decode_partial, read_head
from agentledger.processors.rules.loading import default_rules
from agentledger.processors.scope_rules import watches_of
from agentledger.producers import Ledger
from agentledger.schemas.events import (
    AlertRaised,
    BudgetExceeded,
    BudgetThresholdCrossed,
    ControlIssued,
    Event,
)
from agentledger.schemas.topics import HOLDS, PARTIALS
from tests.processes import kill_hard
from tests.run_logs import CODEC
from tests.running_stack import RunningStack
from tests.scope_programs import ScopeRig
from tests.scope_rig import budget

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

TENANT = "acme"
AGENTS = ("refunds", "triage")
RUNS = 12
CALLS = 30
TOOL_CALLS_MAX = 60  # of each agent; both make more


def declare(servers: str) -> None:
    """A tenant's dollars for good, and every agent's tool calls."""
    producer = Producer({"bootstrap.servers": servers})
    for declared in (
        budget(200_000_000, tenant_id=TENANT, scope_value=TENANT, window="total", on_exceeded="halt"),
        budget(
            TOOL_CALLS_MAX,
            tenant_id=TENANT,
            budget_id="tools",
            scope="agent",
            scope_value="",
            metric="tool_calls",
            window="total",
        ),
    ):
        producer.produce(HOLDS.name, CODEC.encode(declared), TENANT.encode())
    assert producer.flush(30) == 0


def work(servers: str, agent: str) -> None:
    """Runs of one agent, one after the other: model and tool calls over some 15 s."""
    with Ledger(agent_id=agent, tenant_id=TENANT, bootstrap_servers=servers, control="off") as ledger:
        for number in range(RUNS // 2):
            with ledger.run(workflow="refund", run_id=f"{agent}-{number}") as run:
                for _ in range(CALLS):
                    run.record_model_call(
                        model="gpt-4.1", provider="openai", status="ok", input_tokens=300, output_tokens=50
                    )
                    run.record_tool_call("get_order", status="ok")
                    time.sleep(0.08)


def said_by_scopes(rig: ScopeRig) -> dict[str, set[bytes]]:
    """Event id to contents of what stage 2 derived."""
    return {
        event_id: values
        for event_id, values in rig.said()[0].items()
        if any(CODEC.decode(value).producer_id.startswith("scopes:") for value in values)
    }


def test_a_budget_over_many_runs_is_told_once_through_kills(stack: RunningStack, tmp_path: Path) -> None:
    servers = stack.endpoints()["kafka_bootstrap_servers"]
    declare(servers)
    workers = [threading.Thread(target=work, args=(servers, agent)) for agent in AGENTS]
    for worker in workers:
        worker.start()
    kills = 0
    while any(worker.is_alive() for worker in workers):
        time.sleep(4)
        kill_hard(stack.pid("scopes"), signal.SIGKILL)
        kills += 1
    assert kills >= 3
    counted = stack.settle(
        f"""SELECT (SELECT count() FROM events WHERE tenant_id = '{TENANT}' AND event_type = 'BudgetExceeded') AS over,
            (SELECT count() FROM events WHERE tenant_id = '{TENANT}' AND event_type = 'ControlIssued') AS halts,
            (SELECT count() FROM charges WHERE tenant_id = '{TENANT}') AS charges,
            (SELECT count() FROM model_calls WHERE tenant_id = '{TENANT}') AS model_calls""",
        lambda row: row["over"] == 3 and row["halts"] == 1 and row["charges"] == row["model_calls"],
    )
    assert counted == {"over": 3, "halts": 1, "charges": RUNS * CALLS, "model_calls": RUNS * CALLS}

    rig = ScopeRig(servers, tmp_path)
    wanted = rig.wanted(lambda: watches_of(default_rules()))
    deadline = time.monotonic() + 60
    while said_by_scopes(rig) != {event_id: {value} for event_id, value in wanted.items()}:
        assert time.monotonic() < deadline, "what was derived is not what the pure fold derives from the same log"
        time.sleep(1)
    events: list[Event] = [CODEC.decode(value) for value in wanted.values()]
    ours = [event for event in events if event.tenant_id == TENANT]
    exceeded = {(event.budget_id, event.scope_value): event for event in ours if isinstance(event, BudgetExceeded)}
    assert exceeded.keys() == {("b1", TENANT), ("tools", "refunds"), ("tools", "triage")}
    assert all(event.used_amount > event.limit_amount for event in exceeded.values())
    crossed = [event for event in ours if isinstance(event, BudgetThresholdCrossed) and event.budget_id == "b1"]
    assert [event.threshold_percent for event in crossed] == [50, 80, 100]
    [halt] = [event for event in ours if isinstance(event, ControlIssued)]
    assert (halt.command, halt.scope, halt.scope_value) == ("halt", "tenant", TENANT)
    raised = [event for event in ours if isinstance(event, AlertRaised) and event.rule == "budget_exceeded"]
    assert len(raised) == 3
    assert stack.one(f"SELECT count() AS c FROM alerts WHERE tenant_id = '{TENANT}' AND rule = 'budget_exceeded'") == {
        "c": 3
    }
    charged = stack.one(f"SELECT sum(cost_nanousd) AS cost FROM charges WHERE tenant_id = '{TENANT}'")
    assert summed(rig) == charged["cost"], "stage 1's sums are not what was charged"


def summed(rig: ScopeRig) -> int:
    """What all partials together say was spent, nano-dollars."""
    values = {value for records in rig.read(PARTIALS.name).values() for *_, value in records if value}
    partials = [decode_partial(value) for value in values if read_head(value).kind == PARTIAL]
    return sum(amounts[0] for partial in partials if partial.tenant_id == TENANT for amounts in partial.usage.values())
