"""On a running stack: the doctor finds nothing broken, and every panel of ClickHouse's dashboard has an answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.running_stack import ROOT, RunningStack

SPEND = json.loads((Path(ROOT) / "infra/grafana/spend.json").read_text("utf-8"))
TIME_FILTER = re.compile(r"\$__timeFilter\((\w+)\)")


def test_the_doctor_finds_nothing_broken(stack: RunningStack) -> None:
    findings = json.loads(stack.cli("doctor", "--json", check=False).stdout)
    levels = {finding["check"]: finding["level"] for finding in findings if not finding["check"].startswith("disk")}
    assert {"topics", "ClickHouse", "tables", "roles", "clock", "lag of writer", "checkpoint"} <= set(levels)
    assert "fail" not in levels.values(), findings


@pytest.mark.parametrize("panel", SPEND["panels"], ids=lambda panel: str(panel["title"]))
def test_a_panel_has_an_answer(stack: RunningStack, panel: dict[str, list[dict[str, str]]]) -> None:
    for target in panel["targets"]:
        stack.query(TIME_FILTER.sub(r"\1 >= now() - INTERVAL 6 HOUR", target["rawSql"]))
