"""`python -m tests.whole_run`: every test, three files at a time; the few that fail then run once more, alone.

Most of ours talk to real services on real clocks, and three files at a time take all of a small machine. A test that
fails there and passes alone is a defect, of the test or of what it tests, and is named at the end as one, with what it
said in the run above; but it doesn't hide from everybody else whether the rest holds. More than a few are no accident.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

AGAIN_MAX = 3  # of some 3,100: one in a run was usual when the machine was at its slowest
LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")  # pytest's own, by node id
TESTS_FAILED = 1  # pytest's exit code for that; others mean that it could not run them
# Three files at a time, also on two cores: many tests wait for services, and each file starts its own. The long
# ones, with services, come first, so that short ones fill the end.
ALL = ("--numprocesses", "3", "--dist", "loadfile", "--no-loadscope-reorder")


def main(arguments: list[str]) -> int:
    """The exit code: 0 where every test has passed, at once or alone. `arguments` go to pytest, such as paths."""
    LAST_FAILED.unlink(missing_ok=True)
    code = pytest(*ALL, *arguments)
    failed = sorted(json.loads(LAST_FAILED.read_text("utf-8"))) if LAST_FAILED.exists() else []
    if code != TESTS_FAILED or not 0 < len(failed) <= AGAIN_MAX:
        return code
    say(f"\n{len(failed)} failed among all: once more, alone")
    code = pytest(*failed)
    if code == 0:
        say("\nPASSED ALONE, FAILED AMONG ALL (each is a defect to be mended; what it said is above):")
        for name in failed:
            say(f"  {name}")
    return code


def pytest(*arguments: str) -> int:
    """pytest's exit code."""
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


def say(line: str) -> None:
    """Print it before what pytest prints next."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
