"""Where the recorded runs are, and what their READMEs say of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def traces_folder() -> Path:
    """The folder of recorded runs. Skips the test where there is none; fails where CI is set."""
    folder = Path(os.environ.get("AGENTLEDGER_TRACES", ROOT.parent / "shared" / "traces"))
    if not folder.is_dir():
        message = f"no recorded runs in {folder}: set AGENTLEDGER_TRACES"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@dataclass(frozen=True)
class Expected:
    """What a set holds by its README, in the terms of the runs view. Costs in nano-dollars; None where there is none.

    Two READMEs count a part of what their set holds; there the figure is the whole, and `README_PARTS` has the part.
    """

    format: str
    path: str
    runs: int
    model_calls: int
    tool_calls: int
    successes: int | None
    cost_nanousd: int | None
    tool_errors: int | None = None


EXPECTED = {
    "tau2-retail": Expected("tau2", "tau2-retail", 215, 2258, 1667, 181, 2_945_004_000),
    "tau2-policy-trials": Expected("tau2", "tau2-policy-trials", 85, 896, 656, 50, 19_685_526_000),
    "swe-django": Expected("mini-swe", "swe-django", 90, 3700, 3497, 68, 44_270_019_750, 254),
    "otel-any-agent": Expected("otel-json", "otel-any-agent", 68, 216, 145, None, 13_689_300),
    "tau2-events": Expected("tau2-events", "tau2-events", 19, 78, 48, 11, 45_680_000),
}

# otel-any-agent's README counts the spans called `call_llm` and `execute_tool`; two of its 68 traces use the older
# names, with 6 more model calls and 4 more tool calls. tau2-events' README sums `agent_cost`, which two runs leave out
# though their messages have costs.
README_PARTS = {
    "otel-any-agent": (
        "SELECT countIf(event_type = 'ModelCallCompleted') AS model_calls, "
        "countIf(event_type = 'ToolCallCompleted') AS tool_calls, "
        "sumIf(input_tokens, event_type = 'ModelCallCompleted') AS input_tokens, "
        "sumIf(output_tokens, event_type = 'ModelCallCompleted') AS output_tokens, "
        "sumIf(reported_cost_nanousd, event_type = 'ModelCallCompleted') AS cost "
        "FROM ledger WHERE occurrence = 'first' AND labels['convention'] = 'gen_ai'",
        {"model_calls": 210, "tool_calls": 141, "input_tokens": 68203, "output_tokens": 5985, "cost": 12_860_500},
    ),
    "tau2-events": (
        "SELECT sum(reported_cost_nanousd) AS cost FROM ledger WHERE occurrence = 'first' "
        "AND event_type = 'RunFinished' AND run_id IN (SELECT run_id FROM runs WHERE source = 'tau2-events')",
        {"cost": 44_340_800},
    ),
}
