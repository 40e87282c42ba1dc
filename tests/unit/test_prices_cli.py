"""`agentledger prices`: what a model costs at a time, and whether a price file is right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentledger.infra.cli import cli
from agentledger.schemas.errors import ConfigurationError, UsageError

FILE = """\
version: house
models:
  - model: house-1
    prices:
      - {input: 1, output: 2}
      - {valid_from: 2026-02-01, input: 0.50, output: 2, above: {1000: {input: 4}}, tiers: {batch: {multiply: 0.5}}}
"""


def said(*arguments: str) -> str:
    return CliRunner().invoke(cli, ["prices", *arguments], catch_exceptions=False).stdout


@pytest.fixture
def prices_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(FILE)
    monkeypatch.setenv("AGENTLEDGER_PRICES_FILE", str(path))
    return path


@pytest.mark.usefixtures("prices_file")
def test_show_says_what_counts_at_a_time() -> None:
    [before] = json.loads(said("show", "house-1", "--at", "2026-01-31T23:59", "--json"))
    assert (before["input_tokens_usd_per_million"], before["output_tokens_usd_per_million"]) == ("1", "2")
    after = json.loads(said("show", "house-1", "--at", "2026-02-01", "--json"))
    prices = {(row["tier"], row["above_input_tokens"]): row["input_tokens_usd_per_million"] for row in after}
    assert prices == {("", 0): "0.5", ("", 1000): "4", ("batch", 0): "0.25", ("batch", 1000): "2"}
    assert before["source"] == "file+genai-prices"
    assert before["version"].startswith("house@")


@pytest.mark.usefixtures("prices_file")
def test_show_knows_the_shipped_book_and_says_what_it_lacks() -> None:
    text = said("show", "claude-sonnet-4-5", "--at", "2025-11-01", "--provider", "anthropic")
    assert "anthropic/claude-sonnet-4-5 at 2025-11-01 00:00 UTC" in text
    assert "200,000" in text
    with pytest.raises(UsageError, match="no price for nobodys-model"):
        said("show", "nobodys-model")
    with pytest.raises(UsageError, match="'soon' is no day or time"):
        said("show", "house-1", "--at", "soon")


def test_check_says_what_a_file_holds_or_where_it_is_wrong(prices_file: Path) -> None:
    assert "version house" in said("check", str(prices_file))
    assert "1 models with 2 prices, 0 tools, 0 hourly rates" in said("check", str(prices_file))
    prices_file.write_text(FILE.replace("output: 2}", "outptu: 2}", 1))
    with pytest.raises(ConfigurationError, match=r"prices\.yaml:5: models\[0\]\.prices\[0\]\.outptu"):
        said("check", str(prices_file))


def test_the_shape_can_be_checked(tmp_path: Path) -> None:
    path = tmp_path / "shape.yaml"
    path.write_text(said("shape"))
    assert "1 tools, 1 hourly rates" in said("check", str(path))
