"""What a call costs its thread with the Langfuse SDK and with MLflow tracing, each in an environment of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

from agentledger.infra.stack.jars import default_cache_dir
from tests.bench import tracer_program
from tests.bench.report import Figure, percentile

INSTALL_S_MAX = 300
RUN_S_MAX = 300
# MLflow looks for numpy and pandas at each span, in vain where they are missing: with them it is faster.
PINS = {
    "langfuse": ("langfuse==5.0.4",),
    "mlflow": ("mlflow-skinny==3.17.2", "numpy==2.4.6", "pandas==3.1.1"),
}


class NotMeasuredError(Exception):
    """The environment can't be made, or the library doesn't do there what it should; says why in a line."""


class Tracing(NamedTuple):
    """What calls took: of the clock, and of their thread's CPU time in the round that was disturbed least."""

    us_p50: float
    us_p99: float
    thread_us: float


def tracer_figures(name: str, folder: Path, our_thread_us: float) -> list[Figure]:
    """Microseconds of one recorded model call with this library, and ours against it by CPU time of the thread."""
    try:
        took = measure_tracer(name, folder)
    except NotMeasuredError as reason:
        names = (f"{name}_us_p50", "us"), (f"{name}_us_p99", "us"), (f"emit_vs_{name}", "ratio")
        return [Figure(figure, None, unit, not_measured=str(reason)) for figure, unit in names]
    return [
        Figure(f"{name}_us_p50", took.us_p50, "us"),
        Figure(f"{name}_us_p99", took.us_p99, "us"),
        Figure(f"emit_vs_{name}", our_thread_us / took.thread_us, "ratio"),
    ]


def measure_tracer(name: str, folder: Path) -> Tracing:
    """Run the program of this library, with a sink in `folder`. Raises NotMeasuredError."""
    folder.mkdir(parents=True, exist_ok=True)
    python = environment_of(name)
    quiet = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "OTEL_", "MLFLOW_"))}
    said = _run([str(python), str(tracer_program.__file__), name, str(folder)], RUN_S_MAX, quiet, cwd=folder)
    found = json.loads(said.splitlines()[-1])
    calls = found["call_us"]
    return Tracing(percentile(calls, 0.50), percentile(calls, 0.99), min(found["thread_us"]))


def environment_of(name: str) -> Path:
    """The Python of an environment with the pinned libraries, made in the cache folder where it isn't there yet."""
    pins = hashlib.sha256(" ".join((sys.version, *PINS[name])).encode()).hexdigest()[:12]
    place = default_cache_dir() / "bench" / f"{name}-{pins}"
    made = place / "made"  # an environment that was interrupted is made anew
    python = place / "bin" / "python"
    if not made.exists():
        sys.stderr.write(f"installing {', '.join(PINS[name])} into {place} …\n")
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place, with_pip=True)
        _run([str(python), "-m", "pip", "install", "--quiet", *PINS[name]], INSTALL_S_MAX, dict(os.environ))
        made.touch()
    return python


def _run(command: list[str], seconds: float, env: dict[str, str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotMeasuredError(f"{type(error).__name__} in {Path(command[0]).name}") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise NotMeasuredError(lines[-1][:200] if lines else f"exit code {done.returncode}")
    return done.stdout
