"""Kafka's jars: fetched once with Maven into a cache folder, whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from agentledger.infra.stack.files import file_lock
from agentledger.schemas.errors import StackError

KAFKA_VERSION = "4.3.1"  # the same as in kafka-pom.xml
MINIMUM_JAVA = 17
FETCH_SECONDS = 900
WITHOUT_JAVA = "or try things out without Kafka: `agentledger up --broker memory`"


def default_cache_dir() -> Path:
    """$AGENTLEDGER_CACHE_DIR, or ~/.cache/agentledger."""
    chosen = os.environ.get("AGENTLEDGER_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "agentledger"


def find_java() -> Path:
    """The Java to run Kafka with ($JAVA_HOME, else the PATH); a StackError if it's missing or older than 17."""
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if not found or not Path(found).exists():
        raise StackError("no Java found", where=f"JAVA_HOME={home}" if home else "PATH", next_step=_install_java())
    version = java_version(found)
    if version < MINIMUM_JAVA:
        raise StackError(f"Java {version} is too old for Kafka {KAFKA_VERSION}", where=found, next_step=_install_java())
    return Path(found)


def java_version(java: str) -> int:
    """The major version of a Java program; 8 is what "1.8" means."""
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"Java can't be run: {error}", where=java, next_step=_install_java()) from None
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    if match is None:
        raise StackError("Java doesn't tell its version", where=java, next_step=_install_java())
    return int(match[1])


def _install_java() -> str:
    return f"install a Java runtime {MINIMUM_JAVA} or newer, {WITHOUT_JAVA}"


def kafka_classpath(cache_dir: Path, on_event: Callable[[str], None] = lambda _: None) -> Path:
    """The folder with Kafka's jars, fetched first if need be. What an interrupted fetch left is not taken."""
    find_java()
    folder = cache_dir / f"kafka-{KAFKA_VERSION}"
    if is_complete(folder):
        return folder
    try:
        with file_lock(cache_dir / "kafka.lock", wait=True):
            if not is_complete(folder):  # another process may have fetched it while this one waited
                on_event(f"fetching Kafka {KAFKA_VERSION} (about 45 MB, once)")
                _fetch(cache_dir, folder)
    except OSError as error:
        raise StackError(
            f"the folder for Kafka's jars can't be used: {error.strerror}",
            where=str(cache_dir),
            next_step="set AGENTLEDGER_CACHE_DIR to another",
        ) from None
    return folder


def is_complete(folder: Path) -> bool:
    """True if the folder holds the broker's jar. It gets its name only when every jar is in it."""
    return (folder / f"kafka_2.13-{KAFKA_VERSION}.jar").is_file()


def _fetch(cache_dir: Path, folder: Path) -> None:
    for left_over in cache_dir.glob("kafka-partial-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix="kafka-partial-", dir=cache_dir))
    try:
        jars = partial / "jars"
        _run_maven(partial, jars)
        if not is_complete(jars):
            raise StackError(
                "Maven fetched no Kafka broker", where=str(jars), next_step=f"run it again, {WITHOUT_JAVA}"
            )
        shutil.rmtree(folder, ignore_errors=True)
        jars.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _run_maven(folder: Path, jars: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise StackError(
            "no Maven found to fetch Kafka's jars with", where="PATH", next_step=f"install it, {WITHOUT_JAVA}"
        )
    pom = folder / "pom.xml"
    pom.write_text(resources.files(__package__).joinpath("kafka-pom.xml").read_text(encoding="utf-8"), encoding="utf-8")
    command = [maven, "-B", "-q", "-C", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
    command.append("-DincludeScope=runtime")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        raise StackError(
            f"Maven didn't finish in {FETCH_SECONDS} s", next_step=f"run it again, {WITHOUT_JAVA}"
        ) from None
    if answer.returncode != 0:
        why = first_error(answer.stdout + answer.stderr)
        raise StackError(f"Kafka's jars can't be fetched: {why}", next_step=f"check the network, {WITHOUT_JAVA}")


def first_error(output: str) -> str:
    """Maven's first error as one line."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in output.splitlines()]
    errors = [line.removeprefix("[ERROR]").strip() for line in lines if line.startswith("[ERROR]")]
    return (errors or [line.strip() for line in lines if line.strip()] or ["Maven gave no reason"])[0][:300]
