"""Fails where mypy checked fewer files than the areas hold: a wrong path would make it check none and pass."""

from __future__ import annotations

import re
import sys
from pathlib import Path

AREAS = ("schemas", "producers", "processors", "sinks", "infra")
ROOT = Path(__file__).parents[2]


def main() -> int:
    """Compare mypy's last line (the file named by the first argument) with the count of our modules."""
    summary = Path(sys.argv[1]).read_text("utf-8")
    match = re.search(r"no issues found in (\d+) source files", summary)
    expected = sum(1 for area in AREAS for _ in (ROOT / area).rglob("*.py"))
    checked = int(match.group(1)) if match else 0
    if checked < expected:
        sys.stderr.write(f"mypy checked {checked} files without issues; the areas hold {expected}\n")
        return 1
    sys.stdout.write(f"mypy checked {checked} files, the areas hold {expected}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
