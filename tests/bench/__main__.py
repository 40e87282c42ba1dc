"""`python -m tests.bench [--as-it-is] [SECTION…]`: measure, print a table, write bench.json.

Where there is a C compiler, the folds are compiled first, and what is measured runs compiled. With --as-it-is,
whatever this process would import is measured.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path

from agentledger.infra.compilation import compile_into
from agentledger.schemas.errors import ConfigurationError
from tests.bench.report import Figure, write_report

SECTIONS = (
    "emit", "writer", "worker", "latency", "holds", "control", "watched", "takeover", "evidence", "export", "replay",
    "gateway", "notify", "console",
)  # fmt: skip
ROOT = Path(__file__).parents[2]
REPORT = ROOT / "bench.json"
COMPILED = ROOT / "build" / "compiled"
TRAINING = ROOT / "tests" / "bench" / "training.py"
AS_IT_IS = "--as-it-is"


def main(names: list[str]) -> None:
    """Run the named sections, or all."""
    figures: list[Figure] = []
    for name in names or SECTIONS:
        sys.stderr.write(f"measuring {name} …\n")
        with tempfile.TemporaryDirectory(prefix=f"agentledger-bench-{name}-") as folder:
            figures += importlib.import_module(f"tests.bench.{name}").measure(Path(folder))
    write_report(figures, REPORT)


def measure_compiled(names: list[str]) -> None:
    """Start again with compiled folds, if they can be compiled."""
    sys.stderr.write("compiling the folds …\n")
    try:
        compile_into(COMPILED, TRAINING)
    except ConfigurationError as error:
        sys.stderr.write(f"measuring without: {error}\n")
        return
    paths = [str(COMPILED), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    os.execve(sys.executable, [sys.executable, "-m", "tests.bench", AS_IT_IS, *names], env)


if __name__ == "__main__":
    sections = [name for name in sys.argv[1:] if name != AS_IT_IS]
    if unknown := sorted(set(sections) - set(SECTIONS)):
        sys.exit(f"no section is called {', '.join(unknown)}: choose from {', '.join(SECTIONS)}")
    if AS_IT_IS not in sys.argv:
        measure_compiled(sections)
    main(sections)
