"""The broker by itself: the first one leaves Kafka's classes as Java maps them, and all later ones start with them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agentledger.infra.stack.jars import default_cache_dir, kafka_classpath
from agentledger.infra.stack.kafka import KafkaService
from agentledger.infra.stack.ports import free_port

pytestmark = pytest.mark.integration


def service(tmp_path: Path, name: str) -> KafkaService:
    """A broker on a folder that holds the machine's jars and nothing else."""
    jars = kafka_classpath(default_cache_dir())
    folder = tmp_path / "jars"
    if not folder.exists():
        folder.mkdir()
        for jar in jars.glob("*.jar"):
            (folder / jar.name).symlink_to(jar)
    port = free_port()
    return KafkaService(tmp_path / name, port, free_port({port}), folder)


def run_once(kafka: KafkaService) -> None:
    kafka.start()
    try:
        kafka.wait_ready(time.monotonic() + 90)
    finally:
        kafka.stop()


def test_the_first_broker_that_stops_in_order_leaves_its_classes_for_all_later(tmp_path: Path) -> None:
    first = service(tmp_path, "first")
    run_once(first)
    made = first.class_archive.stat()
    assert [path.name for path in first.classpath.glob("classes*")] == [first.class_archive.name]

    second = service(tmp_path, "second")
    assert f"-XX:SharedArchiveFile={second.class_archive}" in second.command()
    second.run_dir.mkdir(parents=True)
    (second.run_dir / "classes.jsa").write_bytes(b"half of one")
    run_once(second)
    assert second.class_archive.stat().st_mtime_ns == made.st_mtime_ns
    assert "cds" not in second.log.read_text().lower()


def test_a_broker_that_is_killed_leaves_none(tmp_path: Path) -> None:
    kafka = service(tmp_path, "killed")
    kafka.start()
    kafka.wait_ready(time.monotonic() + 90)
    kafka.stop(timeout=0.0)
    assert not kafka.class_archive.exists()


@pytest.mark.parametrize("is_writable", [True, False])
def test_nothing_is_made_for_a_cache_that_cannot_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_writable: bool
) -> None:
    kafka = service(tmp_path, "kept")
    monkeypatch.setattr(os, "access", lambda *_: is_writable)
    assert any("ArchiveClassesAtExit" in option for option in kafka.command()) == is_writable


def test_an_archive_that_does_not_fit_is_done_without(tmp_path: Path) -> None:
    kafka = service(tmp_path, "unfit")
    kafka.class_archive.write_bytes(b"no archive at all")
    run_once(kafka)
    assert kafka.log_dir.joinpath("meta.properties").exists()
