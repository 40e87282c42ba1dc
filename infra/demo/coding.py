"""What the coding agent does: reads, edits and tests, sometimes in circles, sometimes past its budget."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from agentledger.infra.demo.acts import ask_model, use_tool
from agentledger.producers import Ledger, Run
from agentledger.schemas.errors import BudgetExceededError

if TYPE_CHECKING:
    from agentledger.infra.demo.workload import StoryClock

MODEL = "claude-sonnet-4-5"
CONTEXT_TOKENS = 2500
TOOLS = ("read_file", "search", "edit_file", "run_tests")


def fix_issue(ledger: Ledger, clock: StoryClock, rng: random.Random) -> None:
    """Work on an issue until the tests pass or patience ends."""
    issue = f"issue-{rng.randint(100, 999)}"
    with ledger.run(
        workflow="fix_issue", task=issue, budget={"cost_usd": 2.0, "on_exceeded": "warn"}, prompt_version="p7"
    ) as run:
        work(run, clock, rng, steps=rng.randint(5, 16), loop_rate=0.08)
        if rng.random() < 0.1:
            run.fail("gave up")
        run.outcome(success=rng.random() < 0.68, verified_by="test suite")


def work(run: Run, clock: StoryClock, rng: random.Random, *, steps: int, loop_rate: float) -> None:
    """Think and act `steps` times; the context is written to the cache once and read ever after."""
    last: tuple[str, dict[str, object]] = ("read_file", {"path": "README.md"})
    for step in range(steps):
        ask_model(
            run, clock, rng, MODEL, "anthropic",
            input_tokens=150, cached_tokens=CONTEXT_TOKENS * step, cache_write_tokens=CONTEXT_TOKENS,
            output_tokens=220, error_rate=0.05,
        )  # fmt: skip
        if rng.random() >= loop_rate:  # otherwise it does the very same thing again
            last = (rng.choice(TOOLS), {"path": f"src/module_{rng.randint(1, 40)}.py", "line": rng.randint(1, 400)})
        tool, arguments = last
        effect = "write" if tool == "edit_file" else "read"
        use_tool(run, clock, rng, tool, arguments, effect=effect, fail_rate=0.2 if tool == "run_tests" else 0.02)


def overspend(ledger: Ledger, clock: StoryClock, rng: random.Random) -> None:
    """A run that goes in circles and past its budget; nothing stops it, so the stream has to notice."""
    budget = {"cost_usd": 0.35, "on_exceeded": "warn"}
    with ledger.run(workflow="fix_issue", task="issue-13", budget=budget, run_id="demo-overspending-run") as run:
        work(run, clock, rng, steps=40, loop_rate=0.7)
        run.outcome(success=False, verified_by="test suite", reason="no test passes")


def halted_by_its_budget(ledger: Ledger, clock: StoryClock, rng: random.Random) -> None:
    """A run with a hard limit on tool calls: the SDK refuses the seventh."""
    try:
        with ledger.run(workflow="fix_issue", task="issue-14", budget={"tool_calls": 6}) as run:
            work(run, clock, rng, steps=12, loop_rate=0.5)
    except BudgetExceededError:
        ledger.outcome(run.run_id, success=False, verified_by="test suite", reason="halted")
