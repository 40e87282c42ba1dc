"""A real Chromium on a console, for tests: signed-in pages, what they complain of, what keeps somebody out."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT_MS_MAX = 30_000
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
# Playwright leaves its event loop to the interpreter's end.
leaves_its_loop = pytest.mark.filterwarnings("ignore::ResourceWarning")


@contextlib.contextmanager
def running_chromium() -> Iterator[Any]:
    """The browser."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def window(chromium: Any, url: str, key: str = "", **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """A page, signed in where a key is given, and what its console complained of."""
    context = chromium.new_context(base_url=url, **options)
    page = context.new_page()
    page.set_default_timeout(WAIT_MS_MAX)
    problems: list[str] = []
    page.on("console", lambda said: problems.append(said.text) if said.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto("/")
    if key:
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
    page.wait_for_selector("nav")
    problems.clear()  # the answer 401 that asked for the key
    yield page, problems
    context.close()


def serious_problems(page: Any) -> list[Any]:
    """What axe finds that keeps somebody out, and where."""
    from axe_playwright_python.sync_playwright import Axe

    return [
        (item["id"], [node["html"][:160] for node in item["nodes"][:3]])
        for item in Axe().run(page).response["violations"]
        if item["impact"] in {"serious", "critical"}
    ]
