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
    """What a set's README counts. Costs in nano-dollars; None where the README has no such figure."""

    format: str
    path: str
    runs: int
    model_calls: int
    tool_calls: int
    successes: int | None
    cost_nanousd: int | None
    tool_errors: int | None = None
    tokens: tuple[int, int] | None = None


EXPECTED = {
    "tau2-retail": Expected("tau2", "tau2-retail", 215, 2258, 1667, 181, 2_945_004_000),
    "tau2-policy-trials": Expected("tau2", "tau2-policy-trials", 85, 896, 656, 50, 19_685_526_000),
    "swe-django": Expected("mini-swe", "swe-django", 90, 3700, 3497, 68, 44_270_019_750, 254),
    "otel-any-agent": Expected("otel-json", "otel-any-agent", 68, 210, 141, None, 12_860_500, tokens=(68203, 5985)),
    "tau2-events": Expected("tau2-events", "tau2-events", 19, 78, 48, 11, 44_340_800),
}
