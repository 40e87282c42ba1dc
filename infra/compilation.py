"""Compiles the folds with mypyc: `python -m agentledger.infra.compilation FOLDER [TRAINING]`.

It needs mypy and a C compiler. The folder gets a copy of all our sources with compiled modules beside them. Whoever
runs with it as the first entry of PYTHONPATH runs the compiled folds. The sources that it was copied from are left as
they are, so nothing compiled can be older than what is being edited; without a compiler everything runs as it is, only
slower.

TRAINING is a program that runs the folds on what is typical. With it all is compiled twice: first so that it counts
which way the program goes, then for those ways (profile-guided optimisation, as gcc does it).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from copy import copy
from importlib import import_module
from pathlib import Path
from typing import Any

from agentledger.processors import run_fold
from agentledger.processors.conclusions import CONCLUDED, ENVELOPE_FIELDS
from agentledger.processors.run_reading import FIRST_FIELD, READ, REPEATED
from agentledger.schemas import written
from agentledger.schemas.catalogue import current_schemas
from agentledger.schemas.decoding import reader_source
from agentledger.schemas.errors import AgentledgerError, ConfigurationError
from agentledger.schemas.writing import tail_writer_source

AREAS = ("schemas", "producers", "processors", "sinks", "infra")
# Everything that runs for each event of a run. Pure and typed throughout, or mypyc refuses it.
MODULES = {
    "schemas": (
        "decoding", "encoding", "events", "genai_tariffs", "identity", "partitioning", "ports", "prices", "tool_prices",
        "writing",
    ),
    "processors": (
        "budgets", "charges", "conclusions", "packing", "partial_records", "partial_sums", "partials",
        "run_budget_book", "run_budgets", "run_fold", "run_places", "run_reading", "run_state", "runs", "sketch",
    ),
    "processors/rules": (
        "conditions", "deadlines", "judgements", "memory", "normals", "run_rules", "trackers",
    ),
}  # fmt: skip
# The compiled modules share one library; its name is that of a module.
LIBRARY = "agentledger.schemas.compiled"
# Nothing outside calls the functions of the library by name: so they are called without a look-up, and inlined.
CALLED_FROM_WITHIN = "-fvisibility=hidden"
COUNTING = "-fprofile-generate"
# Nothing is counted of a module that the training never loads: that is no mistake.
AS_COUNTED = ("-fprofile-use", "-Wno-missing-profile")
COUNTED = "*.gcda"  # what programs that gcc compiled leave beside the objects; clang's leave another thing, not used
TRAINING_S_MAX = 900  # many times what ours takes
MARK = "compiled"  # a file that says that all went well, and what it was trained with
# Types are checked elsewhere, strictly: here mypy only has to find them.
MYPY = ("--namespace-packages", "--explicit-package-bases", "--ignore-missing-imports", "--follow-imports=silent")


def is_compiled() -> bool:
    """True where this process runs compiled folds."""
    return not str(run_fold.__file__).endswith(".py")


def compile_into(folder: Path, training: Path | None = None) -> None:
    """Fill the folder, which is replaced; nothing is done where it holds these very sources already, trained the same.

    Raises ConfigurationError where mypyc or a C compiler is missing, or the training fails.
    """
    if is_current(folder, training):
        return
    trained = _text(training)  # now: it may be edited while all is compiled
    copy_sources(folder)
    names = [f"agentledger/{area}/{name}.py" for area, modules in MODULES.items() for name in modules]
    names += write_sources(folder)
    before = Path.cwd()
    os.chdir(folder)  # mypyc names modules by where they are
    try:
        _build(names, training)
    finally:
        os.chdir(before)
    (folder / MARK).write_bytes(trained)


def is_current(folder: Path, training: Path | None = None) -> bool:
    """True where our sources are those that were compiled into the folder, and this the training."""
    trained = _text(training)
    if not (folder / MARK).exists() or (folder / MARK).read_bytes() != trained:
        return False
    copies = folder / "agentledger"
    for area in AREAS:
        for path in _source(area).rglob("*.py"):
            copy = copies / area / path.relative_to(_source(area))
            if not copy.exists() or copy.read_bytes() != path.read_bytes():
                return False
    return True


def copy_sources(folder: Path) -> None:
    """Copy our sources, as packages, into the folder, which is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    for area in AREAS:
        shutil.copytree(_source(area), folder / "agentledger" / area, ignore=shutil.ignore_patterns("__pycache__"))


def _source(area: str) -> Path:
    return Path(next(iter(import_module(f"agentledger.{area}").__path__)))


def write_sources(folder: Path) -> list[str]:
    """Write the functions that are made from schemas into modules of their own; their paths within the folder."""
    schemas = current_schemas()
    sources = [reader_source(schemas[kind.__name__], kind, FIRST_FIELD, READ[kind], REPEATED) for kind in READ]
    sources += [tail_writer_source(schemas[kind.__name__], ENVELOPE_FIELDS) for kind in CONCLUDED]
    package = Path(*written.PACKAGE.split("."))
    (folder / package).mkdir()
    (folder / package / "__init__.py").touch()
    paths = [package / f"{written.module_of(source)}.py" for source in sources]
    for path, source in zip(paths, sources, strict=True):
        (folder / path).write_text(source, "utf-8")
    return [path.as_posix() for path in paths]


def _text(training: Path | None) -> bytes:
    try:
        return b"" if training is None else training.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the training can't be read: {error}", next_step="name a program in Python") from None


def _build(names: list[str], training: Path | None) -> None:
    try:
        from mypyc.build import mypycify  # noqa: PLC0415 - only developers have it
        from setuptools.errors import CompileError, LinkError  # noqa: PLC0415 - as above
    except ImportError as error:
        raise ConfigurationError(f"mypyc isn't there: {error}", next_step="pip install mypy setuptools") from None
    extensions = mypycify([*MYPY, *names], group_name=LIBRARY, opt_level="2", debug_level="0")
    try:
        _compile(extensions, *([] if training is None else _as_trained(extensions, training)))
    except (CompileError, LinkError) as error:
        raise ConfigurationError(f"the C compiler failed: {error}", next_step="install gcc or clang") from None
    shutil.rmtree("build", ignore_errors=True)


def _as_trained(extensions: list[Any], training: Path) -> Sequence[str]:
    """The options with which the compiler goes by what the training took; none where it doesn't count as gcc does."""
    from setuptools.errors import LinkError  # noqa: PLC0415 - only developers have it

    try:
        _compile(extensions, COUNTING)
    except LinkError:  # what counts for clang is in a package of its own
        return ()
    _train(training)
    return AS_COUNTED if any(Path("build").rglob(COUNTED)) else ()


def _compile(extensions: list[Any], *more: str) -> None:
    """Compile with these options beside mypyc's. Objects lie where they lay before: there gcc looks for its counts."""
    from setuptools import Distribution  # noqa: PLC0415 - only developers have it

    extensions = [copy(extension) for extension in extensions]  # they are compiled again, with other options
    for extension in extensions:
        extension.extra_compile_args = [*extension.extra_compile_args, CALLED_FROM_WITHIN, *more]
        extension.extra_link_args = [*extension.extra_link_args, *more]
    build: Any = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
    build.build_lib, build.build_temp, build.force = ".", "build", True
    build.ensure_finalized()
    build.run()


def _train(training: Path) -> None:
    """Run the program on what has been compiled so far, in the folder that we are in."""
    paths = [str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    try:
        done = subprocess.run(
            [sys.executable, training], env=env, check=False, capture_output=True, text=True, timeout=TRAINING_S_MAX
        )
    except subprocess.TimeoutExpired:
        raise ConfigurationError(
            f"the training has not ended after {TRAINING_S_MAX} s", where=str(training), next_step="let it do less"
        ) from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ConfigurationError(
            f"the training ended with exit code {done.returncode}: {said}", where=str(training),
            next_step="run it by itself, it says more then",
        )  # fmt: skip


def main(arguments: list[str]) -> int:
    """Compile into the folder that is named. Exit code 0 where that went well."""
    if len(arguments) not in {1, 2}:
        sys.stderr.write("usage: python -m agentledger.infra.compilation FOLDER [TRAINING]\n")
        return 2
    try:
        compile_into(*(Path(argument).absolute() for argument in arguments))
    except AgentledgerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
