"""Commands to running agents: to the control topic, from it, and into the halt file of this host."""

from __future__ import annotations

import getpass
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from agentledger.infra.stack.files import file_lock
from agentledger.producers.halt_file import HaltFile
from agentledger.producers.halts import Command, CommandTable, command_of
from agentledger.schemas import Codec, uuid7
from agentledger.schemas.control import control_key, control_owner_of, control_scope_of
from agentledger.schemas.errors import BrokerError, CodecError, ConfigurationError, SchemaError
from agentledger.schemas.events import ControlIssued
from agentledger.schemas.scopes import LABEL_SCOPE, TEAM_LABEL
from agentledger.schemas.topics import CONTROL

DELIVERY_S_MAX = 10.0  # a person waits for this; where it fails there is the halt file
READ_S_MAX = 30.0
METADATA_S = 10.0
LOCAL_STEP = "check the broker; agentledger halt --local works without it, on each host where agents run"


def who_am_i() -> str:
    """`user@host`, for who issued a command."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def control_event(command: Command, *, producer_id: str = "", now_us: int | None = None) -> ControlIssued:
    """The event that says this command, now."""
    at_us = time.time_ns() // 1000 if now_us is None else now_us
    scope, value = command.scope, command.scope_value
    label = TEAM_LABEL if scope == "team" else scope.removeprefix(LABEL_SCOPE) if scope.startswith(LABEL_SCOPE) else ""
    return ControlIssued(
        event_id=uuid7(at_us),
        tenant_id=command.tenant_id,
        producer_id=producer_id or f"control:{command.issued_by}:{secrets.token_hex(4)}",
        producer_seq=0,
        run_id=value if scope == "run" else "",
        agent_id=value if scope == "agent" else "",
        workflow=value if scope == "workflow" else "",
        actor=command.issued_by,
        occurred_at=at_us,
        labels={label: value} if label else {},
        command=command.command,
        scope=scope,
        scope_value=value,
        reason=command.reason,
        issued_by=command.issued_by,
        expires_at=command.expires_at,
        on_exceeded=command.on_exceeded,
    )


def publish_command(kafka: dict[str, Any], command: Command, codec: Codec, *, owner: str = "") -> None:
    """Send a command and wait until the broker has it; with an `owner`, about that owner's halts alone.

    Raises BrokerError, also where it takes over ten seconds.
    """
    value = codec.encode(control_event(command))
    failures: list[str] = []
    # Not idempotent: to be given a producer id can take half a second, which counts for a halt. Written twice by a
    # retry it is the same event, which the ledger knows, and the same halt.
    producer = Producer({"acks": "all", "message.timeout.ms": round(DELIVERY_S_MAX * 1000), "log_level": 0} | kafka)
    producer.produce(
        CONTROL.name,
        value,
        control_key(*command.subject, owner),
        on_delivery=lambda error, _: failures.append(error.str()) if error is not None else None,
    )
    waiting = producer.flush(DELIVERY_S_MAX + 1)
    if failures or waiting:
        raise BrokerError(
            f"the broker has not confirmed the command: {failures[0] if failures else 'no answer from the broker'}",
            next_step=LOCAL_STEP,
        )


def read_halts(kafka: dict[str, Any], now_us: int, codec: Codec) -> list[Command]:
    """Every halt in force on the control topic, of every tenant and owner. Raises BrokerError."""
    table = CommandTable()
    _read_all(kafka, lambda message: _put(codec, table, message))
    return table.all_halts(now_us)


def _read_all(kafka: dict[str, Any], take: Callable[[Any], None]) -> None:
    """Give each record of the control topic, up to its end now, to `take`."""
    reading = {"group.id": "agentledger-control", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = Consumer({**kafka, **reading, "log_level": 0})
    try:
        found = consumer.list_topics(CONTROL.name, timeout=METADATA_S).topics[CONTROL.name]
        if found.error is not None:
            raise ConfigurationError("there is no control topic", next_step="run agentledger init")
        unread = set(found.partitions)
        consumer.assign([TopicPartition(CONTROL.name, partition, OFFSET_BEGINNING) for partition in unread])
        end = time.monotonic() + READ_S_MAX
        while unread:
            message = consumer.poll(max(0.0, end - time.monotonic()))
            if message is None:
                raise BrokerError(f"the control topic could not be read in {READ_S_MAX:g} s", next_step=LOCAL_STEP)
            error = message.error()
            if error is None:
                take(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition() or 0)
    except KafkaException as error:
        raise BrokerError(f"the control topic can't be read: {error.args[0].str()}", next_step=LOCAL_STEP) from None
    finally:
        consumer.close()


def _put(codec: Codec, table: CommandTable, message: Any) -> None:
    subject, value, command = control_scope_of(message.key()), message.value(), None
    if value is not None:
        try:
            event = codec.decode(value)
        except (CodecError, SchemaError):
            return  # poison: the writer keeps it, and no agent obeys it either
        command = command_of(event) if isinstance(event, ControlIssued) else None
        if command is None:
            return
        subject = command.subject
    if subject is not None:
        table.put(subject, command, message.partition(), message.timestamp()[1], control_owner_of(message.key()))


def halt_locally(path: Path, halt: Command) -> None:
    """Add a halt to the file, in place of one of the same subject. Raises ConfigurationError."""
    _change(path, lambda halts: [*(item for item in halts if item.subject != halt.subject), halt])


def resume_locally(path: Path, lifts: Callable[[Command], bool]) -> int:
    """Take the halts away that `lifts` names; how many there were. Raises ConfigurationError."""
    taken: list[Command] = []

    def keep(halts: list[Command]) -> list[Command]:
        taken.extend(halt for halt in halts if lifts(halt))
        return [halt for halt in halts if not lifts(halt)]

    _change(path, keep)
    return len(taken)


def _change(path: Path, change: Callable[[list[Command]], list[Command]]) -> None:
    file = HaltFile(path)
    try:
        with file_lock(path.with_name(f".{path.name}.lock"), wait=True):
            file.write(change(file.read()))
    except OSError as error:
        raise ConfigurationError(
            f"the halt file can't be written: {error.strerror}",
            where=str(path),
            next_step="name another place in AGENTLEDGER_HALT_FILE, for the agents too",
        ) from None


def lapsing(command: Command, now_us: int, expires_us: int | None) -> Command:
    """The command as issued now, lapsing after so many microseconds; None: never."""
    return replace(command, issued_at=now_us, expires_at=None if expires_us is None else now_us + expires_us)
