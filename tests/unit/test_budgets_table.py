"""`agentledger budgets show` on a narrow terminal: amounts whole, texts folded and still readable."""

from __future__ import annotations

import pytest

from agentledger.infra.budget_standings import Standing
from agentledger.infra.cli.budgets import _print_standings

WIDE = Standing(
    budget_id="night-shift",
    metric="cost_nanousd",
    scope="label:shift",
    scope_value="night",
    run="",
    enforcement="hold",
    used=72_340_000_000,
    held=1_000_000_000,
    limit=100_000_000_000,
    most=0,
    over=0,
    window_start_us=None,
    window_end_us=1_790_000_000_000_000,
)


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_amounts_are_whole_and_texts_are_not_one_letter_a_line(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    _print_standings([WIDE])
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 4
    for whole in ("$72.3400", "$100.0000", "73%"):
        assert whole in shown
    assert "label:shift" in shown
