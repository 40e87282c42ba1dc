"""What gets compiled is what runs uncompiled: the same sources, found under the same names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from setuptools.errors import LinkError

from agentledger.infra import compilation
from agentledger.processors.conclusions import CONCLUDED
from agentledger.processors.run_reading import READ
from agentledger.schemas import written
from agentledger.schemas.errors import ConfigurationError
from agentledger.schemas.written import define, module_of
from tests.traces import ROOT

ASKS_WHERE = """
from agentledger.processors.run_reading import RunReading
from agentledger.schemas import Codec, open_registry
from tests.bench.sample import sample_records
reading = RunReading(Codec(open_registry()))
for _, value in sample_records(3):
    print(reading.reader(value).read.__module__)
"""


# Says which of its modules is compiled, and what it takes.
TRAINING = """
from pathlib import Path
from agentledger.schemas import identity
Path({told!r}).write_text(identity.__file__)
for number in range(1000):
    identity.uuid7(number, bytes(10))
"""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One module is all that there is to compile."""
    monkeypatch.setattr(compilation, "MODULES", {"schemas": ("identity",)})
    monkeypatch.setattr(compilation, "write_sources", lambda _folder: [])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of our sources, nothing of it compiled."""
    compilation.copy_sources(tmp_path / "copy")
    return tmp_path / "copy"


def test_every_module_that_is_named_is_there(folder: Path) -> None:
    for area, names in compilation.MODULES.items():
        for name in names:
            assert (folder / "agentledger" / area / f"{name}.py").is_file(), name


def test_functions_made_from_schemas_are_found_in_the_copy(folder: Path) -> None:
    assert len(compilation.write_sources(folder)) == len(READ) + len(CONCLUDED)
    found = subprocess.run(
        [sys.executable, "-c", ASKS_WHERE],
        env={"PYTHONPATH": f"{folder}:{ROOT}"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert [line.rpartition(".")[0] for line in found.stdout.split()] == [written.PACKAGE] * 3


def test_a_folder_is_current_while_the_sources_are_those_that_were_compiled(folder: Path) -> None:
    assert not compilation.is_current(folder)
    (folder / compilation.MARK).touch()
    assert compilation.is_current(folder)
    (folder / "agentledger" / "processors" / "runs.py").write_text("")
    assert not compilation.is_current(folder)


def test_a_function_that_was_not_written_before_is_made() -> None:
    source = "def twice(number: int) -> int:\n    return 2 * number\n"
    assert define(source, "twice")(21) == 42
    assert module_of(source) != module_of(source.replace("2", "3"))


def test_another_training_asks_for_compiling_anew(folder: Path, tmp_path: Path) -> None:
    training = tmp_path / "training.py"
    training.write_text("pass")
    (folder / compilation.MARK).write_text("pass")
    assert compilation.is_current(folder, training)
    assert not compilation.is_current(folder)
    training.write_text("1 + 1")
    assert not compilation.is_current(folder, training)


@pytest.mark.usefixtures("small")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc isn't there")
def test_what_is_trained_is_compiled_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "gcc")
    training, told, folder = tmp_path / "training.py", tmp_path / "told", tmp_path / "copy"
    training.write_text(TRAINING.format(told=str(told)))
    train, counts = compilation._train, []

    def library() -> bytes:
        return next((folder / "agentledger" / "schemas").glob("compiled__mypyc*")).read_bytes()

    def looks(program: Path) -> None:
        assert b"gcov" in library()
        train(program)
        counts.extend((folder / "build").rglob(compilation.COUNTED))

    monkeypatch.setattr(compilation, "_train", looks)
    compilation.compile_into(folder, training)
    assert told.read_text().endswith(".so")
    assert counts
    assert b"gcov" not in library()
    assert compilation.is_current(folder, training)
    assert not (folder / "build").exists()


def test_a_training_that_fails_is_named(tmp_path: Path) -> None:
    training = tmp_path / "training.py"
    training.write_text("raise SystemExit('no sample')")
    with pytest.raises(ConfigurationError, match=r"exit code 1: no sample.*training\.py"):
        compilation._train(training)


def test_a_training_that_does_not_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "TRAINING_S_MAX", 0.2)
    training = tmp_path / "training.py"
    training.write_text("import time; time.sleep(60)")
    with pytest.raises(ConfigurationError, match=r"not ended after 0\.2 s.*training\.py"):
        compilation._train(training)


def test_where_the_compiler_cannot_count_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def links_nothing(_extensions: object, *options: str) -> None:
        if compilation.COUNTING in options:
            raise LinkError("no library that counts")

    monkeypatch.setattr(compilation, "_compile", links_nothing)
    assert compilation._as_trained([], tmp_path / "never-run.py") == ()


@pytest.mark.usefixtures("small")
def test_a_training_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compilation.main([str(tmp_path / "copy"), str(tmp_path / "none.py")]) == 1
    assert "none.py" in capsys.readouterr().err


@pytest.mark.usefixtures("small")
def test_without_a_compiler_there_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "no-compiler"))
    with pytest.raises(ConfigurationError, match=r"C compiler failed.*\binstall gcc or clang"):
        compilation.compile_into(tmp_path / "copy")


def test_one_folder_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert compilation.main([]) == 2
    assert "usage" in capsys.readouterr().err
