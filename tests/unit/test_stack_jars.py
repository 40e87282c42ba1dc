"""Kafka's jars: what is missing is one line with the next step, and what is half there isn't taken."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import agentledger.infra.stack.jars as jars_module
from agentledger.infra.stack.jars import KAFKA_VERSION, default_cache_dir, first_error, is_complete, kafka_classpath
from agentledger.schemas.errors import StackError

BROKER_JAR = f"kafka_2.13-{KAFKA_VERSION}.jar"
FETCHES = f"""
target = next(a.split("=", 1)[1] for a in sys.argv if a.startswith("-DoutputDirectory="))
os.makedirs(target)
open(os.path.join(target, "{BROKER_JAR}"), "w").close()
open(os.path.join(os.path.dirname(target), "pom.xml")).close()
"""
FETCHES_HALF = FETCHES.replace(BROKER_JAR, "scala-library.jar")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of one folder, and nothing in it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return folder


def put(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport os, sys\n{body}\n")
    path.chmod(0o755)


def put_java(folder: Path, version: str = "17.0.15") -> None:
    put(folder, "java", f"""sys.stderr.write('openjdk version "{version}" 2025-04-15\\n')""")


def test_a_missing_java_is_one_line_that_names_the_way_out(programs: Path, tmp_path: Path) -> None:
    with pytest.raises(StackError) as caught:
        kafka_classpath(tmp_path / "cache")
    line = str(caught.value)
    assert line.startswith("no Java found")
    assert "17 or newer" in line
    assert "--broker memory" in line
    assert "\n" not in line


def test_a_java_home_without_java_is_named(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_java(programs)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nothing"))
    with pytest.raises(StackError, match=r"no Java found \(JAVA_HOME="):
        kafka_classpath(tmp_path / "cache")


@pytest.mark.parametrize(("version", "told"), [("1.8.0_402", "Java 8"), ("11.0.2", "Java 11")])
def test_an_old_java_is_refused(programs: Path, tmp_path: Path, version: str, told: str) -> None:
    put_java(programs, version)
    with pytest.raises(StackError, match=f"{told} is too old for Kafka"):
        kafka_classpath(tmp_path / "cache")


def test_a_java_that_tells_no_version_is_refused(programs: Path, tmp_path: Path) -> None:
    put(programs, "java", "sys.exit('no runtime present')")
    with pytest.raises(StackError, match="doesn't tell its version"):
        kafka_classpath(tmp_path / "cache")


def test_a_missing_maven_is_one_line(programs: Path, tmp_path: Path) -> None:
    put_java(programs)
    with pytest.raises(StackError, match="no Maven found"):
        kafka_classpath(tmp_path / "cache")


def test_maven_is_not_needed_once_the_jars_are_there(programs: Path, tmp_path: Path) -> None:
    put_java(programs)
    folder = tmp_path / f"kafka-{KAFKA_VERSION}"
    folder.mkdir()
    (folder / BROKER_JAR).touch()
    assert kafka_classpath(tmp_path) == folder


def test_a_fetch_that_fails_gives_mavens_reason_and_leaves_nothing(programs: Path, tmp_path: Path) -> None:
    put_java(programs)
    put(programs, "mvn", "print('[ERROR] Could not transfer artifact'); print('[ERROR] Help 1'); sys.exit(1)")
    cache = tmp_path / "cache"
    with pytest.raises(StackError, match="can't be fetched: Could not transfer artifact: check the network"):
        kafka_classpath(cache)
    assert [path.name for path in cache.iterdir()] == ["kafka.lock"]


def test_a_fetch_is_whole_or_not_at_all(programs: Path, tmp_path: Path) -> None:
    put_java(programs)
    cache = tmp_path / "cache"
    killed = cache / "kafka-partial-killed" / "jars"  # what a fetch leaves that was ended by SIGKILL
    killed.mkdir(parents=True)
    (killed / BROKER_JAR).touch()
    put(programs, "mvn", FETCHES_HALF)
    with pytest.raises(StackError, match="fetched no Kafka broker"):
        kafka_classpath(cache)
    put(programs, "mvn", FETCHES)
    said: list[str] = []
    folder = kafka_classpath(cache, said.append)
    assert is_complete(folder)
    assert len(said) == 1
    assert sorted(path.name for path in cache.iterdir()) == [folder.name, "kafka.lock"]
    (programs / "mvn").unlink()
    assert kafka_classpath(cache, said.append) == folder
    assert len(said) == 1


def test_a_folder_that_lacks_the_broker_is_fetched_again(programs: Path, tmp_path: Path) -> None:
    put_java(programs)
    put(programs, "mvn", FETCHES)
    (tmp_path / f"kafka-{KAFKA_VERSION}").mkdir()
    assert is_complete(kafka_classpath(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_one_line(programs: Path, tmp_path: Path) -> None:
    put_java(programs)
    tmp_path.chmod(0o500)
    with pytest.raises(StackError, match="AGENTLEDGER_CACHE_DIR"):
        kafka_classpath(tmp_path / "cache")


def test_a_file_in_the_place_of_the_cache_is_one_line(programs: Path, tmp_path: Path) -> None:
    put_java(programs)
    (tmp_path / "cache").touch()
    with pytest.raises(StackError, match="AGENTLEDGER_CACHE_DIR"):
        kafka_classpath(tmp_path / "cache")


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENTLEDGER_CACHE_DIR", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("AGENTLEDGER_CACHE_DIR")
    assert default_cache_dir().parts[-2:] == (".cache", "agentledger")


def test_the_first_error_of_maven_is_found_among_colours() -> None:
    assert first_error("[INFO] x\n[\x1b[1;31mERROR\x1b[m] no such artifact\n[ERROR] help\n") == "no such artifact"
    assert first_error("") == "Maven gave no reason"


def test_the_pinned_version_is_the_poms() -> None:
    pom = ElementTree.parse(Path(jars_module.__file__).with_name("kafka-pom.xml"))
    space = {"m": "http://maven.apache.org/POM/4.0.0"}
    versions = {
        d.findtext("m:artifactId", "", space): d.findtext("m:version", "", space)
        for d in pom.iter(f"{{{space['m']}}}dependency")
    }
    assert versions["kafka_2.13"] == KAFKA_VERSION
    assert versions["slf4j-reload4j"].startswith("1.7.")
