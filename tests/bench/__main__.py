"""`python -m tests.bench [SECTION…]`: measure, print a table, write bench.json."""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

from agentledger.schemas.errors import UsageError
from tests.bench.report import Figure, write_report

SECTIONS = (
    "emit", "writer", "worker", "latency", "holds", "control", "watched", "takeover", "evidence", "export", "replay",
)  # fmt: skip
REPORT = Path(__file__).parents[2] / "bench.json"


def main(names: list[str]) -> None:
    """Run the named sections, or all."""
    unknown = set(names) - set(SECTIONS)
    if unknown:
        raise UsageError(f"no section is called {', '.join(sorted(unknown))}", next_step=f"one of {SECTIONS}")
    figures: list[Figure] = []
    for name in names or SECTIONS:
        sys.stderr.write(f"measuring {name} …\n")
        with tempfile.TemporaryDirectory(prefix=f"agentledger-bench-{name}-") as folder:
            figures += importlib.import_module(f"tests.bench.{name}").measure(Path(folder))
    write_report(figures, REPORT)


if __name__ == "__main__":
    main(sys.argv[1:])
