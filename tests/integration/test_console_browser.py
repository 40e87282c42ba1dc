"""The console as people use it: in a real Chromium, on a real ClickHouse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentledger.infra.console_exports import ConsoleExports
from agentledger.schemas import events as e
from agentledger.schemas.errors import UsageError
from agentledger.sinks.console.ports import Command, ExportAsked
from tests.console_browser import (
    WAIT_MS_MAX,
    leaves_its_loop,
    needs_chromium,
    running_chromium,
    serious_problems,
    window,
)
from tests.console_rig import HOSTILE, NOW_S, Outside, add_day, console_on
from tests.ledger_rows import Ledger, clickhouse_with_views

pytestmark = [pytest.mark.integration, needs_chromium, leaves_its_loop]

PAGES = {
    "now": "/",
    "runs": "/runs",
    "run": "/run?id=refund-004",
    "long": "/run?id=coding-long",
    "hostile": "/run?id=hostile",
    "running": "/run?id=ops-running",
    "budgets": "/budgets",
    "alerts": "/alerts?state=all",
    "rule": "/alerts?state=all&rule=spend_spike",
    "outcomes": "/outcomes?by=prompt_version&base=v1&other=v2",
    "policy": "/policy",
    "evidence": "/evidence",
    "query": "/query",
}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="module")
def outside() -> Outside:
    return Outside()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ledger, Any]]:
    """The rows, and a client of the ClickHouse that holds them."""
    with clickhouse_with_views(tmp_path_factory.mktemp("clickhouse")) as (client, _):
        ledger = Ledger()
        add_day(ledger)
        ledger.write(client)
        yield ledger, client


def nothing_signed(_asked: ExportAsked, _folder: Path) -> Any:
    raise UsageError("nothing is signed yet")


@pytest.fixture(scope="module")
def served(written: tuple[Ledger, Any], outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    exports = ConsoleExports(tmp_path_factory.mktemp("exports"), nothing_signed)
    ports = outside.ports(written[1], verify=lambda *_: {}, try_rules=lambda *_: {}, exports=exports)
    with console_on(ports) as url:
        yield url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with running_chromium() as browser:
        yield browser


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_every_page_opens_without_a_complaint_and_is_accessible(
    chromium: Any, served: str, outside: Outside, screenshots: Path, look: str
) -> None:
    options: dict[str, Any] = {"color_scheme": "dark" if look == "dark" else "light"}
    options |= {"viewport": PHONE} if look == "phone" else {"viewport": {"width": 1360, "height": 900}}
    # The check itself is put into the page, which the page's own policy forbids.
    with window(chromium, served, outside.key("acme", "read", "export", "admin"), **options, bypass_csp=True) as opened:
        page, problems = opened
        for name, path in PAGES.items():
            page.goto(path)
            page.wait_for_selector("h1")
            page.screenshot(path=screenshots / f"{name}-{look}.png", full_page=name not in {"long"})
            if look != "phone":  # the same page in the same colours
                assert serious_problems(page) == [], (name, look)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, "wider than the window")
        assert problems == []


def test_hostile_text_stays_text(chromium: Any, served: str, outside: Outside) -> None:
    with window(chromium, served, outside.key("acme", "read")) as (page, problems):
        for path in ("/run?id=hostile", "/runs", "/alerts?state=all", "/budgets", "/"):
            page.goto(path)
            assert "agentledger" in page.title()
            assert page.locator("main script, main img, main a[href^='javascript']").count() == 0
        page.goto("/run?id=hostile")
        assert HOSTILE in page.locator("h1").inner_text()
        for summary in page.locator(".steps .what > details > summary").all():
            summary.click()
        page.wait_for_selector(".steps .fields")
        assert page.locator("main script, main img").count() == 0
        assert problems == []


def test_a_step_opens_with_the_keyboard_and_shows_its_output(chromium: Any, served: str, outside: Outside) -> None:
    with window(chromium, served, outside.key("acme", "read")) as (page, problems):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.goto("/runs")
        page.keyboard.press("/")
        page.keyboard.type("coding")
        page.keyboard.press("Enter")
        page.wait_for_url("**/runs?text=coding**")
        page.get_by_role("link", name="coding-long").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector(".steps")
        assert page.locator(".steps tbody tr").count() == 292
        page.locator(".steps .what > details > summary").nth(142).focus()
        page.keyboard.press("Enter")
        page.wait_for_selector(".steps details[open] pre")
        shown = page.locator(".steps details[open] pre").first
        assert len(shown.inner_text()) > 140_000
        assert shown.bounding_box()["height"] < 500
        assert problems == []


def test_what_is_new_appears_by_itself_but_not_where_somebody_reads(
    chromium: Any, served: str, outside: Outside, written: tuple[Ledger, Any]
) -> None:
    ledger, client = written
    with window(chromium, served, outside.key("acme", "read")) as (page, problems):
        reading = page.context.new_page()
        reading.goto("/")
        reading.get_by_role("link", name="ops-running").focus()
        page.wait_for_function("document.body.getAttribute('sse-connect') !== null")
        page.wait_for_timeout(1_000)  # until both have their stream
        ledger.add(e.RunStarted, "late", NOW_S - 1, source="sdk", run_id="just-begun", producer_id="late")
        ledger.write(client)
        # The runs in flight are a sum that is kept: on a slow machine it rests for as much longer as it took.
        page.get_by_role("link", name="just-begun").wait_for(timeout=3 * WAIT_MS_MAX)
        assert reading.get_by_role("link", name="just-begun").count() == 0
        assert problems == []


def test_halt_from_the_run_s_page(chromium: Any, served: str, outside: Outside) -> None:
    outside.commands.clear()
    with window(chromium, served, outside.key("acme", "read", "admin")) as (page, problems):
        page.goto("/run?id=ops-running")
        page.get_by_label("Halt this run, because").fill("it spends too much")
        page.keyboard.press("Enter")
        page.wait_for_url("**/budgets**")
        assert "The broker has the halt of run ops-running" in page.locator(".notice").inner_text()
        assert problems == []
    assert outside.commands == [
        Command("halt", "acme", "run", "ops-running", "it spends too much", "console:tester", None)
    ]


def test_who_may_only_read_is_not_asked_to_halt(chromium: Any, served: str, outside: Outside) -> None:
    with window(chromium, served, outside.key("acme", "read")) as (page, _):
        page.goto("/budgets")
        assert page.get_by_role("button", name="Halt").count() == 0


def test_an_alert_is_taken_on_and_an_export_that_fails_says_why(chromium: Any, served: str, outside: Outside) -> None:
    outside.answers.clear()
    with window(chromium, served, outside.key("acme", "read", "export", "admin")) as (page, problems):
        page.goto("/alerts?rule=tool_error_rate")
        page.get_by_label("Reason, of tool_error_rate").fill("looking at it")
        page.get_by_role("button", name="Acknowledge").press("Enter")
        page.get_by_text("The broker has the acknowledge of tool_error_rate").wait_for()
        page.goto("/evidence")
        page.get_by_role("button", name="Export").press("Enter")
        page.get_by_text("nothing is signed yet").wait_for()
        assert problems == []
    [answer] = outside.answers
    assert isinstance(answer, e.AlertAcknowledged)
    assert answer.reason == "looking at it"
