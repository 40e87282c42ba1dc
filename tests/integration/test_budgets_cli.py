"""Budgets as a user has them: declared from a file on a running stack, held to by the SDK, and all sums agreeing."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from agentledger.producers import Ledger
from agentledger.schemas import Codec, open_registry, uuid7
from agentledger.schemas.errors import HoldRefusedError
from agentledger.schemas.events import CostRated
from agentledger.schemas.topics import SPEND
from tests.running_stack import RunningStack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

FILE = """
tenant: acme
budgets:
  - id: acme
    scope: tenant
    window: total
    limits: {usd: 1}
    on_exceeded: halt
    enforcement: hold
    fail: closed
    budgets:
      - {id: runs, scope: run, window: run, limits: {tool_calls: 3}, on_exceeded: ask_human}
"""

SHORT = """
tenant: globex
agent:
  name: careful
  max_tool_calls: 2
  max_wall_clock_seconds: 6
  enforcement: watch
  escalation: {on_budget_exceeded: handoff_to_human}
"""


def add_a_nano_dollar(stack: RunningStack, servers: str) -> None:
    """Charge a settled call once more: the command finds it, and the program raises one alert about it."""
    sql = (
        "SELECT toString(rated_event_id) AS call_id, run_id FROM agentledger.charges WHERE priced AND cost_nanousd > 0"
    )
    [call] = stack.query(sql)
    now_us = time.time_ns() // 1000
    drift = CostRated(
        event_id=uuid7(now_us), tenant_id="acme", producer_id="wrong", producer_seq=0, run_id=call["run_id"],
        occurred_at=now_us, rated_event_id=call["call_id"], kind="model", priced=True, cost_nanousd=1,
    )  # fmt: skip
    producer = Producer({"bootstrap.servers": servers})
    producer.produce(SPEND.name, Codec(open_registry()).encode(drift), call["run_id"].encode())
    assert producer.flush(10) == 0
    sql = (
        "SELECT count() AS alerts, any(summary) AS summary FROM agentledger.alerts WHERE rule = 'reconciliation_drift'"
    )
    found = stack.settle(sql, lambda row: int(row["alerts"]) > 0)
    assert int(found["alerts"]) == 1
    assert "settled_as_charged: 1 of " in found["summary"]
    assert "-1 nano-dollars in all" in found["summary"]
    checked = stack.cli("reconcile", "--last", "1h", check=False)
    assert checked.returncode == 3
    assert "settled_as_charged: hold " in checked.stdout


def answer_from_the_command_line(stack: RunningStack) -> None:
    """The budget of runs has asked for more: a person says no to a question that isn't there, and yes to the one."""
    asked = "SELECT count() AS n FROM approvals WHERE action = 'raise_budget' AND tenant_id = 'acme'"
    stack.settle(asked, lambda row: int(row["n"]) > 0)
    shown = json.loads(stack.cli("budgets", "show", "--tenant", "acme", "--json").stdout)
    assert [one["used"] for one in shown["standings"] if one["budget_id"] == "runs"] == [3]
    [question] = [one["approval_id"] for one in shown["questions"] if one["change"]["budget_id"] == "runs"]
    assert stack.cli("budgets", "deny", "nothing", "--tenant", "acme", "--reason", "no", check=False).returncode == 2
    wanted = ["--tenant", "acme", "--reason", "a large order", "--by", "maria", "--limit", "5"]
    said = stack.cli("budgets", "approve", question, *wanted).stdout
    assert "has 5 tool calls, it had 3 tool calls (version 2)" in said
    sql = f"SELECT max(decided_by) AS decided_by, max(reason) AS reason FROM approvals WHERE approval_id = '{question}'"
    answered = stack.settle(sql, lambda row: bool(row["decided_by"]))
    assert (answered["decided_by"], answered["reason"]) == ("maria", "a large order")


def test_budgets_from_a_file_to_the_last_nano_dollar(stack: RunningStack, tmp_path: Path) -> None:
    file = tmp_path / "budgets.yaml"
    file.write_text(FILE)
    assert "2 new" in stack.cli("budgets", "apply", str(file)).stdout
    assert stack.cli("budgets", "apply", str(file)).stdout.splitlines()[-1] == "declared for tenant acme: 2 same"
    declared = json.loads(stack.cli("budgets", "list", "--tenant", "acme", "--json").stdout)
    assert [(row["budget_id"], row["metric"], row["limit_amount"], row["version"]) for row in declared] == [
        ("acme", "cost_nanousd", 10**9, 1),
        ("runs", "tool_calls", 3, 1),
    ]
    servers = stack.endpoints()["kafka_bootstrap_servers"]
    with (
        Ledger(
            agent_id="bot",
            tenant_id="acme",
            bootstrap_servers=servers,
            holds={"when_unreachable": "refuse", "answer_s_max": 30.0, "ttl_s": 60.0},
        ) as ledger,
        ledger.run(workflow="w", run_id="spender") as run,
    ):
        for _ in range(3):
            with run.tool_call("search"):
                pass
        with run.model_call(model="gpt-4.1", provider="openai", max_tokens=100) as call:
            call.usage(input_tokens=1000, output_tokens=50)
        with pytest.raises(HoldRefusedError) as refused, run.tool_call("search"):
            raise AssertionError("the call was made")
        assert (refused.value.budget_id, refused.value.on_exceeded) == ("runs", "ask_human")
    answer_from_the_command_line(stack)
    end = time.monotonic() + 90
    while time.monotonic() < end:
        results = json.loads(stack.cli("reconcile", "--last", "1h", "--json").stdout or "[]")
        compared = {result["check"]: result for result in results}
        if "settled_as_charged" in compared:
            break
        time.sleep(2)
    assert [result for result in results if result["drifts"]] == []
    assert compared["settled_as_charged"]["expected"] == compared["settled_as_charged"]["found"] > 0
    shown = json.loads(stack.cli("budgets", "show", "acme", "--tenant", "acme", "--json").stdout)
    [standing] = shown["standings"]
    assert (standing["held"], standing["used"]) == (0, compared["settled_as_charged"]["found"])
    assert standing["over"] == 0
    assert "acme" in stack.cli("budgets", "show", "acme", "--tenant", "acme").stdout
    wrong = stack.cli("budgets", "show", "nothing", "--tenant", "acme", check=False)
    assert wrong.returncode == 2
    add_a_nano_dollar(stack, servers)
    file.write_text(FILE.replace("      - {id: runs", "      - {id: other"))
    assert "2 new" not in stack.cli("budgets", "apply", str(file), "--prune", "--dry-run").stdout
    pruned = stack.cli("budgets", "apply", str(file), "--prune").stdout
    assert "retired  runs tool_calls version 3" in pruned


def test_each_run_is_watched_without_holds_and_halted_also_while_it_hangs(stack: RunningStack, tmp_path: Path) -> None:
    file = tmp_path / "short.yaml"
    file.write_text(SHORT)
    assert "2 new" in stack.cli("budgets", "apply", str(file)).stdout
    told = "SELECT count(DISTINCT partition) AS c FROM events WHERE event_type = 'RunBudgetDeclared'"
    partitions = stack.settle(told, lambda row: row["c"] > 0)["c"]
    servers = stack.endpoints()["kafka_bootstrap_servers"]
    with Ledger(agent_id="careful", tenant_id="globex", bootstrap_servers=servers, control="off") as ledger:
        run = ledger.run(workflow="w", run_id="hangs").begin()
        for _ in range(3):
            run.record_tool_call("search", status="ok")
    found = stack.settle(
        """SELECT groupUniqArrayIf(metric, event_type = 'BudgetExceeded') AS over,
            groupUniqArrayIf(scope_value, event_type = 'ControlIssued') AS halted
        FROM agentledger.ledger WHERE tenant_id = 'globex' AND budget_id IN ('agent-careful', '')""",
        lambda row: len(row["over"]) == 2,
    )
    assert sorted(found["over"]) == ["tool_calls", "wall_clock_ms"]
    assert found["halted"] == ["hangs"]
    assert partitions == stack.one(told)["c"]
    assert stack.cli("replay", "--tenant", "globex", check=False).returncode == 0
