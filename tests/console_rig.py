"""A console of one's own on rows that look like a day of work: two tenants, runs of every kind, hostile text."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from agentledger.infra.stack.ports import free_port
from agentledger.processors.budget_windows import window_of
from agentledger.schemas import events as e
from agentledger.schemas.api_keys import new_api_key
from agentledger.schemas.events import Event
from agentledger.schemas.testing.api_keys import FakeApiKeys
from agentledger.sinks.console import ConsoleConfig, ConsolePorts, run_console
from agentledger.sinks.console.ports import Command, Look
from tests.ledger_rows import START_US, Ledger, id_of

DAY_S = 86_400
NOW_S = 10.5 * 3_600  # half past ten in the morning, when the last rows were written
NOW_US = START_US + round(NOW_S * 1_000_000)
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
SECRET = b"a secret of the tests, long enough"


@dataclass
class Outside:
    """What the console was told to do, and its keys by their rights."""

    commands: list[Command] = field(default_factory=list)
    answers: list[Event] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    keys: FakeApiKeys = field(default_factory=FakeApiKeys)

    def key(self, tenant_id: str, *scopes: str, **facts: Any) -> str:
        """The text of a new key."""
        key, text = new_api_key("tester", tenant_id, scopes, now_us=START_US, **facts)
        self.keys.change(lambda keys: keys.update({key.key_id: key}))
        return text

    def ports(self, client: Any, **others: Any) -> ConsolePorts:
        """The ports, with these fakes behind them."""
        given = {
            "issue": self.commands.append, "publish_alert": self.answers.append, "record": self.looks.append,
            "analyst": lambda _: None,
        } | others  # fmt: skip
        return ConsolePorts(client=client, keys=self.keys, window_of=window_of, **given)


def add_day(ledger: Ledger) -> None:
    """A morning of tenant acme: forty runs, budgets, a halt, alerts, a run under way; and one run of tenant zeta."""
    for number in range(40):
        add_run(ledger, number)
    add_long_run(ledger)
    add_hostile_run(ledger)
    _add_running(ledger)
    _add_budgets(ledger)
    _add_holds(ledger)
    _add_alerts(ledger)
    own = {"tenant_id": "zeta", "run_id": "zeta-secret-run", "agent_id": "zeta-bot", "workflow": "zeta-flow"}
    ledger.add(e.RunStarted, "z-start", NOW_S - 900, source="sdk", task="zeta's own business", **own)
    ledger.add(
        e.AlertRaised, "z-alert", NOW_S - 800, alert_id=id_of("za"), rule="zeta_rule", severity="critical",
        summary="zeta's alert", scope="tenant", scope_value="zeta", **own,
    )  # fmt: skip


def add_run(ledger: Ledger, number: int) -> None:
    """One run of refunds: two model calls, a decision and a tool call; each fifth fails, each seventh is denied."""
    at = NOW_S - 200 * (41 - number)
    own = {"run_id": f"refund-{number:03}", "agent_id": "support-bot", "workflow": "refund_request"}
    own |= {"agent_version": f"2.{number % 2}", "producer_id": f"p{number}", "labels": {"team": "care"}}
    is_denied, is_failed = number % 7 == 6, number % 5 == 4
    ledger.add(e.RunStarted, f"{number}s", at, source="sdk", task=f"Refund order A-{1000 + number}",
               prompt_version=f"v{number % 2 + 1}", **own)  # fmt: skip
    _add_model_call(ledger, f"{number}m1", at + 4, 3_000_000 + 10_000 * number, step=1, **own)
    decided = ledger.add(
        e.PolicyDecided, f"{number}d", at + 5, policy="refunds", rule="amount_cap", policy_version="7",
        verdict="deny" if is_denied else "allow", enforced="blocked" if is_denied else "allowed",
        action="create_refund", target=f"order:A-{1000 + number}", step=2, **own,
    )  # fmt: skip
    if not is_denied:
        ledger.add(
            e.ToolCallCompleted, f"{number}t", at + 8, tool="create_refund", status="error" if is_failed else "ok",
            error_type="Timeout" if is_failed else "", effect="write", target=f"order:A-{1000 + number}",
            latency_ms=2_400.0, policy_decision_id=decided, arguments_digest=f"sha256:{number}",
            arguments_redacted='{"amount_usd": 38.5, "order_id": "A-1"}', result_redacted='{"refund_id": "R-1"}',
            step=3, **own,
        )  # fmt: skip
    _add_model_call(ledger, f"{number}m2", at + 12, 2_000_000, step=4, **own)
    ledger.add(e.RunFinished, f"{number}f", at + 13, status="failed" if is_failed else "succeeded", step=5, **own)
    if number % 3:
        ledger.add(e.OutcomeRecorded, f"{number}o", at + 40, success=not (is_failed or is_denied),
                   verified_by="refund ledger", step=6, **own)  # fmt: skip


def _add_model_call(ledger: Ledger, name: str, at_s: float, cost_nanousd: int, **own: Any) -> None:
    call = ledger.add(
        e.ModelCallCompleted, name, at_s, provider="openai", requested_model="gpt-4.1", answered_model="gpt-4.1",
        status="ok", input_tokens=1_420, output_tokens=310, latency_ms=3_100.0, **own,
    )  # fmt: skip
    ledger.add(
        e.CostRated, f"{name}c", at_s + 0.2, rated_event_id=call, kind="model", cost_nanousd=cost_nanousd,
        price_source="genai-prices", price_version="1", **{**own, "producer_id": "worker:0"},
    )  # fmt: skip


def add_long_run(ledger: Ledger) -> None:
    """A run of 145 tool calls, and in one of them an output of 150 kB."""
    own = {"run_id": "coding-long", "agent_id": "coder", "workflow": "fix_issue", "producer_id": "long"}
    at = NOW_S - 1_500
    ledger.add(e.RunStarted, "ls", at, source="mini-swe", task="Fix the failing test of the parser", **own)
    for number in range(145):
        _add_model_call(ledger, f"lm{number}", at + number * 4 + 2, 1_500_000, step=2 * number + 1, **own)
        output = "x = 1  # a line of output\n" * (5_800 if number == 70 else 3)
        ledger.add(
            e.ToolCallCompleted, f"lt{number}", at + number * 4 + 4, tool="bash", status="ok", latency_ms=900.0,
            arguments_digest=f"sha256:{number % 140}", result_redacted=output, step=2 * number + 2,
            attempt=1 + number % 2, **own,
        )  # fmt: skip
    ledger.add(e.RunFinished, "lf", at + 590, status="succeeded", step=300, **own)


def add_hostile_run(ledger: Ledger) -> None:
    """A run with a script in every field that takes text."""
    own = {"run_id": f"hostile-{HOSTILE}", "agent_id": HOSTILE, "workflow": HOSTILE, "producer_id": HOSTILE}
    own |= {"actor": HOSTILE, "environment": HOSTILE, "agent_version": HOSTILE}
    at = NOW_S - 700
    ledger.add(e.RunStarted, "hs", at, source=HOSTILE, task=HOSTILE, labels={HOSTILE: HOSTILE}, **own)
    ledger.add(
        e.ToolCallCompleted, "ht", at + 2, tool=HOSTILE, status="error", error_type=HOSTILE, error_message=HOSTILE,
        target=HOSTILE, arguments_redacted=HOSTILE, result_redacted=HOSTILE, step=1, **own,
    )  # fmt: skip
    ledger.add(e.PolicyDecided, "hp", at + 3, policy=HOSTILE, rule=HOSTILE, verdict=HOSTILE, action=HOSTILE,
               target=HOSTILE, reason=HOSTILE, enforced=HOSTILE, step=2, **own)  # fmt: skip
    ledger.add(e.AlertRaised, "ha", at + 4, alert_id=id_of("hostile"), rule=HOSTILE, severity="warning",
               summary=HOSTILE, scope=HOSTILE, scope_value=HOSTILE, runbook_url="javascript:0", **own)  # fmt: skip
    ledger.add(e.ControlIssued, "hc", at + 5, command="halt", scope="agent", scope_value=HOSTILE, reason=HOSTILE,
               issued_by=HOSTILE, **own)  # fmt: skip
    ledger.add(e.RunFinished, "hf", at + 6, status=HOSTILE, reason=HOSTILE, step=3, **own)


def _add_running(ledger: Ledger) -> None:
    own = {"run_id": "ops-running", "agent_id": "ops-bot", "workflow": "restart_service", "producer_id": "ops"}
    ledger.add(e.RunStarted, "os", NOW_S - 120, source="sdk", task="Restart the checkout service",
               budget_cost_nanousd=50_000_000, **own)  # fmt: skip
    _add_model_call(ledger, "om", NOW_S - 100, 21_000_000, step=1, **own)


def _add_budgets(ledger: Ledger) -> None:
    for number, (budget_id, scope, value, metric, limit, window) in enumerate(
        [
            ("acme-day", "tenant", "acme", "cost_nanousd", 400_000_000, "day"),
            ("agents-hour", "agent", "", "cost_nanousd", 90_000_000, "hour"),
            ("care-tokens", "team", "care", "tokens", 5_000_000, "month"),
            ("each-run", "run", "", "tool_calls", 100, "run"),
        ]
    ):
        ledger.add(
            e.BudgetDeclared, f"b{number}", 60 + number, budget_id=budget_id, scope=scope, scope_value=value,
            metric=metric, limit_amount=limit, window=window, on_exceeded="halt", enforcement="watch",
            budget_version=1, declared_by="budgets.yaml", run_id="", agent_id="", workflow="",
            producer_id=f"budgets:{number}",
        )  # fmt: skip


def _add_holds(ledger: Ledger) -> None:
    """A hold for a call under way, and one that was settled."""
    own = {"run_id": "ops-running", "agent_id": "ops-bot", "workflow": "restart_service", "producer_id": "holds:0"}
    held = {"budget_id": "acme-day", "scope": "tenant", "scope_value": "acme", "metric": "cost_nanousd"}
    for number in range(2):
        hold_id, at = f"hold-{number}", NOW_S - 60 + number
        ledger.add(
            e.HoldRequested, f"hr{number}", at, hold_id=hold_id, ask_cost_nanousd=12_000_000, ask_tokens=900, **own
        )
        ledger.add(e.HoldDecided, f"hd{number}", at + 0.1, hold_id=hold_id, verdict="granted", **own)
        ledger.add(e.BudgetHeld, f"bh{number}", at + 0.1, hold_id=hold_id, amount=12_000_000, **held, **own)
    ledger.add(e.HoldReported, "hp0", NOW_S - 40, hold_id="hold-0", action="settle", **own)
    ledger.add(e.BudgetSettled, "bs0", NOW_S - 40, hold_id="hold-0", amount=9_000_000, **held, **own)


def _add_alerts(ledger: Ledger) -> None:
    for number, (rule, severity) in enumerate(
        [("budget_exceeded", "critical"), ("tool_error_rate", "warning"), ("spend_spike", "warning")]
    ):
        ledger.add(
            e.AlertRaised, f"a{number}", NOW_S - 600 + number, alert_id=id_of(f"alert{number}"), rule=rule,
            severity=severity, summary=f"{rule} of support-bot: 12 of 40, expected 2", scope="agent",
            scope_value="support-bot", run_id="refund-004" if not number else "", count=3,
            runbook_url="https://runbooks.example/agents", producer_id="scopes:0",
        )  # fmt: skip
    ledger.add(e.AlertResolved, "ar", NOW_S - 300, alert_id=id_of("alert2"), rule="spend_spike",
               reason="back to normal", resolved_by="rule", run_id="", producer_id="scopes:0")  # fmt: skip


@contextlib.contextmanager
def console_on(ports: ConsolePorts, *, local_tenant_id: str = "") -> Iterator[str]:
    """A console that listens, as the address; its clock begins at NOW_US."""
    config = ConsoleConfig(host="127.0.0.1", port=free_port(), local_tenant_id=local_tenant_id)
    began_ns = time.monotonic_ns()

    def clock() -> int:
        return NOW_US + (time.monotonic_ns() - began_ns) // 1000

    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=run_console, args=(config, ports, stop, ready.set), kwargs={"clock": clock}, name="console"
    )
    thread.start()
    try:
        assert ready.wait(30)
        yield f"http://127.0.0.1:{config.port}"
    finally:
        stop.set()
        thread.join(30)
