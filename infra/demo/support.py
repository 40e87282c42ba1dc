"""What the support agent does: refunds with a cap that a policy guards, and changes of address."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from agentledger.infra.demo.acts import ask_model, use_tool
from agentledger.producers import Ledger, Run

if TYPE_CHECKING:
    from agentledger.infra.demo.workload import StoryClock

MODEL = "gpt-4.1-mini"
REFUND_CAP_USD = 100
POLICY = "refunds-2026-03"


def refund_request(ledger: Ledger, clock: StoryClock, rng: random.Random) -> None:
    """Look the order up, ask the policy, refund or hand over to a person."""
    order = f"A-{rng.randint(10_000, 99_999)}"
    amount_usd = round(rng.lognormvariate(3.6, 0.6), 2)
    labels = {"team": "care", "tier": rng.choice(["basic", "plus"])}
    budget = {"tool_calls": 8, "cost_usd": 0.05}
    with ledger.run(
        workflow="refund_request", task=f"refund {order}", budget=budget, policy_version=POLICY, labels=labels
    ) as run:
        ask_model(run, clock, rng, MODEL, "openai", input_tokens=900, cached_tokens=0, output_tokens=80)
        use_tool(run, clock, rng, "lookup_order", {"order_id": order}, effect="read", fail_rate=0.06)
        ask_model(run, clock, rng, MODEL, "openai", input_tokens=700, cached_tokens=900, output_tokens=120)
        refund(run, clock, rng, order, amount_usd)
        ask_model(run, clock, rng, MODEL, "openai", input_tokens=300, cached_tokens=1500, output_tokens=60)
        run_id = run.run_id
    if rng.random() < 0.94:  # the rest is never followed up: unaccounted
        clock.pass_ms(rng.uniform(1, 48) * 3_600_000)
        ledger.outcome(
            run_id, success=amount_usd <= REFUND_CAP_USD and rng.random() < 0.93, verified_by="refund ledger"
        )


def refund(run: Run, clock: StoryClock, rng: random.Random, order: str, amount_usd: float) -> None:
    """Ask the policy, then refund; a denial is handed over to a person."""
    verdict = "allow" if amount_usd <= REFUND_CAP_USD else "deny"
    decision = run.policy_decision(
        engine="opa", policy="refunds", policy_version=POLICY, rule="refund_amount_cap", verdict=verdict,
        enforced="allowed" if verdict == "allow" else "blocked", action="create_refund", target=f"order:{order}",
        reason="" if verdict == "allow" else f"{amount_usd} is over the cap of {REFUND_CAP_USD}",
    )  # fmt: skip
    if verdict == "deny":
        if rng.random() < 0.6:
            run.escalate("refund over the cap")
        return
    arguments = {"order_id": order, "amount_usd": amount_usd}
    use_tool(
        run, clock, rng, "create_refund", arguments, effect="write", target=f"order:{order}",
        policy_decision_id=decision, idempotency_key=f"refund-{order}", fail_rate=0.04,
    )  # fmt: skip
    run.validation(rule="refund_amount_cap", result="pass")


def address_change(ledger: Ledger, clock: StoryClock, rng: random.Random) -> None:
    """Find the customer, change the address, say so."""
    customer = f"C-{rng.randint(1000, 9999)}"
    with ledger.run(workflow="address_change", task=f"address of {customer}", budget={"tool_calls": 6}) as run:
        ask_model(run, clock, rng, MODEL, "openai", input_tokens=600, cached_tokens=0, output_tokens=50)
        use_tool(run, clock, rng, "find_customer", {"customer_id": customer}, effect="read", fail_rate=0.03)
        run.evidence(source="address register", evidence_ids=[f"addr-{rng.randint(1, 10**6)}"])
        decision = run.policy_decision(
            engine="opa", policy="accounts", rule="own_account", verdict="allow", action="set_address"
        )
        arguments = {"customer_id": customer, "zip": str(rng.randint(10_000, 99_999))}
        use_tool(run, clock, rng, "set_address", arguments, effect="write", policy_decision_id=decision)
        ask_model(run, clock, rng, MODEL, "openai", input_tokens=200, cached_tokens=700, output_tokens=40)
        run.outcome(success=rng.random() < 0.97, verified_by="customer record")


def unpriced_model(ledger: Ledger, clock: StoryClock, rng: random.Random) -> None:
    """Somebody tries a model that no price book knows: its cost is unknown, and an alert says so."""
    with ledger.run(workflow="refund_request", task="trial of an in-house model") as run:
        ask_model(run, clock, rng, "in-house-7b-v2", "in-house", input_tokens=1200, cached_tokens=0, output_tokens=90)
        run.outcome(success=True, verified_by="reviewer")
