"""The real broker: Apache Kafka in KRaft mode, broker and controller in one process."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import subprocess
import uuid
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from agentledger.infra.stack.files import write_atomically
from agentledger.infra.stack.jars import find_java
from agentledger.infra.stack.logs import open_log
from agentledger.infra.stack.ports import HOST, accepts
from agentledger.infra.stack.service import Service
from agentledger.schemas.errors import StackError

FORMAT_SECONDS = 120
METADATA_SECONDS = 2.0
ORDERLY_EXIT = 143  # what Java ends with when SIGTERM has been dealt with (128 + 15)

LOG4J = """\
log4j.rootLogger=WARN, stdout
log4j.logger.kafka.server.KafkaRaftServer=INFO
log4j.appender.stdout=org.apache.log4j.ConsoleAppender
log4j.appender.stdout.layout=org.apache.log4j.PatternLayout
log4j.appender.stdout.layout.ConversionPattern=%d %p %m (%c)%n
"""

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    # A topic is made on purpose (with LogAppendTime), never by a first message.
    "auto.create.topics.enable": "false",
    "num.partitions": "4",
    # One broker: every internal topic has one replica, and few partitions to load.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # After a kill -9 the controller refuses the new broker until the old one's session is over: by default 9 s.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "1000",
    "metadata.max.idle.interval.ms": "10000",  # by default twice a second, for replicas
    "log.cleaner.dedupe.buffer.size": "33554432",  # the default of 128 MiB is a quarter of the heap below
}
# The first compiler alone: a broker for one machine spends more on the second than that saves in its life.
JVM = [
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
]
QUIET = "-Dlog4j2.StatusLogger.level=OFF"  # log4j 2 is on the classpath, unused, and complains about it


def server_properties(log_dir: Path, port: int, controller_port: int) -> str:
    """The broker's configuration file."""
    if "," in str(log_dir):
        raise StackError(
            "Kafka takes no comma in its data folder", where=str(log_dir), next_step="choose another --data-dir"
        )
    settings = SETTINGS | {
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "log.dirs": str(log_dir),
    }
    return "".join(f"{key}={_escaped(value)}\n" for key, value in settings.items())


def _escaped(value: str) -> str:
    """A value as Java's properties files want it: Latin-1 with \\u escapes."""
    text = value.replace("\\", "\\\\")
    units = text.encode("utf-16-be")
    codes = [int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2)]
    return "".join(chr(code) if 32 <= code < 127 else f"\\u{code:04x}" for code in codes)


class KafkaService(Service):
    """Apache Kafka on the loopback address, with its log under DIR/kafka."""

    stop_seconds = 30.0

    def __init__(self, data_dir: Path, port: int, controller_port: int, classpath: Path) -> None:
        super().__init__("kafka", data_dir)
        self.port = port
        self.controller_port = controller_port
        self.classpath = classpath
        # Kafka's classes as Java maps them into memory (an AppCDS archive): starting takes half the time with it. Java
        # looks itself whether it fits the jars and its own version, and does without if not.
        self.class_archive = classpath / "classes.jsa"
        self.log_dir = data_dir / "kafka"
        self._java = find_java()

    @property
    def endpoint(self) -> str:
        return f"{HOST}:{self.port}"

    def prepare(self) -> None:
        write_atomically(self.run_dir / "log4j.properties", LOG4J)
        self._new_archive.unlink(missing_ok=True)  # what a broker left that was killed while it wrote
        self._format_once()
        self._write_properties(self.log_dir)

    def command(self) -> list[str]:
        # To write them down takes seconds: not for a cache that can't keep them.
        makes_archive = not self.class_archive.exists() and os.access(self.classpath, os.W_OK)
        options = [f"-XX:ArchiveClassesAtExit={self._new_archive}"] if makes_archive else []
        return [*self._java_command(*JVM, *options), "kafka.Kafka", str(self.run_dir / "server.properties")]

    def stop(self, timeout: float | None = None) -> None:
        """Ask the broker to stop, as any service; the first one to end in order leaves the archive for all later."""
        super().stop(timeout)
        if self._process is not None and self._process.returncode == ORDERLY_EXIT:
            partial = self.class_archive.with_suffix(f".{os.getpid()}")
            with contextlib.suppress(OSError):  # none was made, or there is no room for it: starts stay slow
                shutil.move(self._new_archive, partial)  # it may be another disk, where a move is a copy
                partial.replace(self.class_archive)

    def is_ready(self) -> bool:
        """True once the broker lists itself: it has registered with the controller and is not fenced."""
        if not accepts(self.port):
            return False
        try:
            client = AdminClient({"bootstrap.servers": self.endpoint, "log_level": 0})
            return bool(client.list_topics(timeout=METADATA_SECONDS).brokers)
        except KafkaException:
            return False

    @property
    def _new_archive(self) -> Path:
        return self.run_dir / "classes.jsa"

    def _java_command(self, *options: str) -> list[str]:
        log4j = (self.run_dir / "log4j.properties").as_uri()
        if self.class_archive.exists():
            options = (f"-XX:SharedArchiveFile={self.class_archive}", *options)
        return [str(self._java), *options, QUIET, f"-Dlog4j.configuration={log4j}", "-cp", f"{self.classpath}/*"]

    def _write_properties(self, log_dir: Path) -> None:
        text = server_properties(log_dir, self.port, self.controller_port)
        write_atomically(self.run_dir / "server.properties", text)

    def _format_once(self) -> None:
        """Give the log folder its identity, once: into a folder that gets its name when the formatting is done."""
        if (self.log_dir / "meta.properties").exists():
            return
        partial = self.log_dir.with_name("kafka.partial")
        shutil.rmtree(partial, ignore_errors=True)
        self._write_properties(partial)
        self._run_format()
        if self.log_dir.exists():
            self.log_dir.rmdir()  # an empty one; one with data and no identity is not ours to throw away
        partial.replace(self.log_dir)

    def _run_format(self) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        options = ["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        tool = [
            "kafka.tools.StorageTool",
            "format",
            "-c",
            str(self.run_dir / "server.properties"),
            f"--cluster-id={cluster}",
        ]
        with open_log(self.log) as log:
            self._log_start = log.tell()
            command = [*self._java_command(*options), *tool]
            result = subprocess.run(command, stdout=log, stderr=log, check=False, timeout=FORMAT_SECONDS)
        if result.returncode != 0:
            raise self.death("can't format its data folder")
