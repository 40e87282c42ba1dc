"""What the ops agent does: restarts services, with approvals for production."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from agentledger.infra.demo.acts import ask_model, use_tool
from agentledger.producers import Ledger, Run

if TYPE_CHECKING:
    from agentledger.infra.demo.workload import StoryClock

MODEL = "gemini-2.5-flash"
SERVICES = ("billing", "search", "checkout", "mail")


def restart_service(ledger: Ledger, clock: StoryClock, rng: random.Random) -> None:
    """Look at the metrics, ask for approval where it is production, restart."""
    service = rng.choice(SERVICES)
    production = rng.random() < 0.4
    labels = {"team": "platform", "stage": "production" if production else "staging"}
    with ledger.run(workflow="restart_service", task=f"restart {service}", labels=labels) as run:
        ask_model(run, clock, rng, MODEL, "google", input_tokens=1500, cached_tokens=0, output_tokens=90, reasoning=200)
        use_tool(run, clock, rng, "get_metrics", {"service": service}, effect="read", fail_rate=0.08)
        decision = run.policy_decision(
            engine="cedar", policy="change-control", rule="production_needs_approval",
            verdict="require_approval" if production else "allow", action="restart", target=f"service:{service}",
        )  # fmt: skip
        approved = not production or ask_person(run, clock, rng, service)
        if not approved:
            run.escalate("not approved")
        else:
            use_tool(
                run, clock, rng, "restart", {"service": service}, effect="irreversible", target=f"service:{service}",
                policy_decision_id=decision, fail_rate=0.05,
            )  # fmt: skip
            run.state_changed(resource=f"service:{service}", reversible="no")
        run.outcome(success=approved and rng.random() < 0.9, verified_by="health check")


def ask_person(run: Run, clock: StoryClock, rng: random.Random, service: str) -> bool:
    """Ask the person on call; most say yes, some minutes later."""
    approval_id = f"approval-{rng.randint(1, 10**9)}"
    run.approval_requested(
        approval_id=approval_id, action="restart", target=f"service:{service}", requested_from="on call"
    )
    clock.pass_ms(rng.uniform(1, 30) * 60_000)
    verdict = "approved" if rng.random() < 0.8 else "rejected"
    run.approval_decided(approval_id=approval_id, verdict=verdict, decided_by="on call")
    return verdict == "approved"


def silent_failure(ledger: Ledger, clock: StoryClock, rng: random.Random) -> None:
    """The agent reports success; three days later somebody finds that nothing was restarted."""
    with ledger.run(workflow="restart_service", task="restart mail") as run:
        ask_model(run, clock, rng, MODEL, "google", input_tokens=1500, cached_tokens=0, output_tokens=60)
        run.outcome(success=True, verified_by="the agent itself")
        run_id = run.run_id
    clock.pass_ms(3 * 86_400_000)
    ledger.outcome(run_id, success=False, verified_by="incident review", reason="the service was never restarted")
