"""What `make test` makes of tests that fail: a few run again, alone, and what fails there, too, fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import whole_run


class Runs:
    """Stands in for pytest: each run fails with these tests, or ends with this code."""

    def __init__(self, *ends: list[str] | int) -> None:
        self.ends = list(ends)
        self.arguments: list[tuple[str, ...]] = []

    def __call__(self, *arguments: str) -> int:
        self.arguments.append(arguments)
        end = self.ends.pop(0)
        if isinstance(end, int):
            return end
        whole_run.LAST_FAILED.write_text(json.dumps(dict.fromkeys(end, True)), "utf-8")
        return int(bool(end))


@pytest.mark.parametrize(
    ("ends", "code", "again"),
    [
        ([[]], 0, None),
        ([["a", "b"], []], 0, ("a", "b")),
        ([["a", "b"], ["b"]], 1, ("a", "b")),
        ([["a", "b", "c", "d"]], 1, None),  # no accident
        ([2], 2, None),
    ],
)  # fmt: skip
def test_a_few_failures_run_again_alone_and_are_named(
    ends: list[list[str] | int],
    code: int,
    again: tuple[str, ...] | None,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = Runs(*ends)
    monkeypatch.setattr(whole_run, "pytest", runs)
    monkeypatch.setattr(whole_run, "LAST_FAILED", tmp_path / "lastfailed")
    assert whole_run.main(["tests/unit"]) == code
    assert runs.arguments == [(*whole_run.ALL, "tests/unit"), *([again] if again else [])]
    assert ("PASSED ALONE, FAILED AMONG ALL" in capsys.readouterr().out) == (again is not None and code == 0)
