"""Exports from the console: packed, kept for their tenant alone, and asked for within bounds."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from agentledger.infra.console_exports import KEPT_MAX, ConsoleExports
from agentledger.schemas.errors import StoreError, UsageError
from agentledger.sinks.console.app import create_app
from agentledger.sinks.console.ports import ExportAsked
from tests.console_rig import NOW_US, SECRET, Outside


class FakeWriting:
    """Writes two files, or fails in between."""

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        self.unsigned = 3
        self._folder = folder
        self._error = error

    def write(self, start: Callable[[int], None], progress: Callable[[int], None]) -> dict[str, Any]:
        (self._folder / "data").mkdir(parents=True)
        (self._folder / "manifest.json").write_text("{}")
        start(8)
        if self._error is not None:
            raise self._error
        (self._folder / "data" / "part.jsonl").write_text("{}\n")
        progress(8)
        return {"records": 8}


@pytest.fixture
def exports(tmp_path: Path) -> ConsoleExports:
    return ConsoleExports(tmp_path / "exports", lambda _, folder: FakeWriting(folder))


def asked(tenant_id: str = "acme", number: int = 0) -> ExportAsked:
    return ExportAsked(tenant_id, "jsonl", None, None, "", "console:ann", NOW_US + number)


def make(exports: ConsoleExports, wanted: ExportAsked) -> dict[str, Any]:
    return dict(exports.make(wanted, lambda _: None, lambda _: None))


def test_an_export_is_packed_whole_and_nothing_else_is_left(exports: ConsoleExports, tmp_path: Path) -> None:
    made = make(exports, asked())
    assert (made["records"], made["unsigned"]) == (8, 3)
    path = exports.path("acme", made["name"])
    assert path is not None
    assert path.stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(path) as archive:
        assert {Path(name).name for name in archive.namelist()} == {"manifest.json", "part.jsonl"}
    assert [file for file in (tmp_path / "exports").rglob("*") if file.is_file()] == [path]
    [listed] = exports.listed("acme")
    assert (listed.name, listed.size_bytes) == (made["name"], path.stat().st_size)


def test_one_that_fails_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    for error, raised in ((UsageError("nothing is signed"), UsageError), (OSError(28, "No space left"), StoreError)):
        exports = ConsoleExports(folder, lambda _, place, error=error: FakeWriting(place, error))  # type: ignore[misc]
        with pytest.raises(raised):
            make(exports, asked())
        assert [path for path in folder.rglob("*") if path.is_file()] == []
        assert exports.listed("acme") == []


def test_an_export_is_its_tenant_s_alone_and_names_lead_nowhere_else(exports: ConsoleExports, tmp_path: Path) -> None:
    name = make(exports, asked())["name"]
    (tmp_path / "exports" / "export-x.zip").write_text("not of this tenant")
    assert exports.path("zeta", name) is None
    assert exports.listed("zeta") == []
    for wrong in (f"../{name}", "../export-x.zip", "", ".", "/etc/passwd", f"{name}/", "export-..zip", name + "\n"):
        assert exports.path("acme", wrong) is None, wrong


def test_the_oldest_makes_room(exports: ConsoleExports) -> None:
    names = [make(exports, asked(number=number))["name"] for number in range(KEPT_MAX + 2)]
    assert [file.name for file in exports.listed("acme")] == names[:1:-1]


def console(outside: Outside, exports: ConsoleExports | None) -> TestClient:
    app = create_app(outside.ports(None, exports=exports), clock=lambda: NOW_US, secret=SECRET)
    return TestClient(app, base_url="http://localhost", follow_redirects=False)


def test_a_download_is_recorded_and_needs_the_right(exports: ConsoleExports) -> None:
    outside = Outside()
    path = f"/exports/file?name={make(exports, asked())['name']}"
    web = console(outside, exports)
    may = {"Authorization": f"Bearer {outside.key('acme', 'read', 'export')}"}
    answer = web.get(path, headers=may)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert answer.content[:2] == b"PK"
    assert outside.looks[0].asked["command"] == "console export download"
    assert web.get(path, headers={"Authorization": f"Bearer {outside.key('acme', 'read')}"}).status_code == 403
    other = {"Authorization": f"Bearer {outside.key('zeta', 'read', 'export')}"}
    assert web.get(path, headers=other).status_code == 400
    assert console(outside, None).get(path, headers=may).status_code == 400


@pytest.mark.parametrize(
    "wrong",
    [{"format": "docx"}, {"from": "yesterday"}, {"from": "2026-01-02", "to": "2026-01-02"}, {"from": "9999-99-99"}],
)
def test_what_can_t_be_exported_is_refused(exports: ConsoleExports, wrong: dict[str, str]) -> None:
    outside = Outside()
    headers = {"Authorization": f"Bearer {outside.key('acme', 'export')}"}
    answer = console(outside, exports).post("/exports", data={"format": "csv"} | wrong, headers=headers)
    assert answer.status_code == 400
    assert exports.listed("acme") == []
