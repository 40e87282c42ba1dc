"""The program `agentledger signer`: a step every few seconds, an event for each checkpoint, an alert on refusing."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from agentledger.schemas import Codec, content_id, open_registry
from agentledger.schemas.checkpoints import Checkpoint
from agentledger.schemas.errors import AgentledgerError, BrokerError, ConfigurationError, IntegrityError, StoreError
from agentledger.schemas.events import AlertRaised, CheckpointSigned, Event
from agentledger.schemas.heads import Bundle, parse_leaf
from agentledger.schemas.notes import Note, encode_base64
from agentledger.schemas.topics import ALERTS, INTEGRITY
from agentledger.sinks.checkpoint_places import CheckpointPlace, FolderPlace
from agentledger.sinks.key_files import KeyFolder
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.signer import Signer
from agentledger.sinks.signer_state import SignerState

RULE = "ledger_integrity"
DELIVERY_S_MAX = 20.0
REFUSING_LOOK_S = 30.0  # between two looks at a ledger that is refused
LOG_EVERY_S = 30.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SignerConfig:
    """What a signer needs. `kafka` holds librdkafka's settings; without any, no events are published."""

    kafka: dict[str, Any] = field(repr=False)
    clickhouse_url: str
    keys_dir: Path
    state_path: Path
    checkpoints_dir: Path
    clickhouse_user: str = "default"
    clickhouse_password: str = field(default="", repr=False)
    schema_registry_url: str = ""
    schema_registry_auth: str = field(default="", repr=False)
    interval_s: float = 5.0
    accepted_topic_ids: tuple[str, ...] = ()


class SignerEvents:
    """Publishes what the signer did. Ids follow from the content: published twice, it counts once."""

    def __init__(self, kafka: dict[str, Any], codec: Codec) -> None:
        self._codec = codec
        self._failure = ""
        self._producer = Producer(
            {"linger.ms": 5, **kafka, "enable.idempotence": True, "acks": "all", "delivery.timeout.ms": 15_000}
        )

    def announce(self, bundle: Bundle, number: int) -> None:
        """Publish the event of a checkpoint, the `number`th of its origin. Raises BrokerError."""
        self._send(checkpoint_event(bundle, number), INTEGRITY.name)

    def alarm(self, origin: str, error: IntegrityError, at_us: int) -> None:
        """Publish the alert that nothing is signed, once for each reason. Raises BrokerError."""
        self._send(alert_event(origin, error, at_us), ALERTS.name)

    def _send(self, event: Event, topic: str) -> None:
        self._failure = ""
        key = event.producer_id if topic == INTEGRITY.name else event.run_id
        self._producer.produce(topic, self._codec.encode(event), key.encode(), on_delivery=self._delivered)
        if self._producer.flush(DELIVERY_S_MAX) or self._failure:
            raise BrokerError(f"the event was not acknowledged: {self._failure or 'no answer'}", where=topic)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failure = error.str()


def checkpoint_event(bundle: Bundle, number: int) -> CheckpointSigned:
    """The event of a published bundle, the `number`th of its origin, from 0. Holds all of the bundle."""
    note = Note.parse(bundle.note)
    found = Checkpoint.parse(note.text)
    at_us = parse_leaf(bundle.lines[-1]).at_us
    return CheckpointSigned(
        event_id=content_id(at_us, "CheckpointSigned", found.origin, str(found.size), found.root.hex()),
        tenant_id="",
        producer_id=f"signer:{found.origin}",
        producer_seq=number,
        run_id=f"signer:{found.origin}",
        occurred_at=at_us,
        labels={"first_leaf": str(bundle.first), "leaves": "\n".join(bundle.lines)},
        origin=found.origin,
        tree_size=found.size,
        root_hash=encode_base64(found.root),
        checkpoint=bundle.note,
        key_id=note.signatures[-1].key_id.hex(),
    )


def alert_event(origin: str, error: IntegrityError, at_us: int) -> AlertRaised:
    """The alert that the ledger of this origin isn't what was signed; `at_us` is when it was last found in order."""
    return AlertRaised(
        event_id=content_id(at_us, "AlertRaised", RULE, origin, str(error)),
        tenant_id="",
        producer_id=f"signer-alerts:{origin}:{at_us}:{content_id(0, str(error))}",
        producer_seq=0,
        run_id=f"signer:{origin}",
        occurred_at=at_us,
        alert_id=content_id(0, RULE, "", "ledger", origin),
        rule=RULE,
        severity="critical",
        summary=str(error)[:1000],
        scope="ledger",
        scope_value=origin,
    )


class SignerProgram:
    """A signer with its state file, its events and its patience."""

    def __init__(self, config: SignerConfig, place: CheckpointPlace | None = None) -> None:
        self._config = config
        self._place = place or FolderPlace(config.checkpoints_dir)
        self._keys = KeyFolder(config.keys_dir)
        self._origin = self._keys.active().name
        registry = open_registry(config.schema_registry_url, basic_auth=config.schema_registry_auth)
        self._events = SignerEvents(config.kafka, Codec(registry)) if config.kafka else None
        self._lock = self._locked()
        reader = ClickHouseLeafReader(config.clickhouse_url, config.clickhouse_user, config.clickhouse_password)
        self.signer = Signer(
            reader, self._place, self._keys, state=SignerState(), save=self._save,
            clock=lambda: time.time_ns() // 1000, accepted_topic_ids=config.accepted_topic_ids,
        )  # fmt: skip
        self._is_loaded = False

    def close(self) -> None:
        """Let go of the state file."""
        self._lock.close()

    def step(self) -> Bundle | None:
        """Load the state if that wasn't done, sign what has grown, and tell of it."""
        if not self._is_loaded:
            state = SignerState.load(self._config.state_path, self._keys.public())
            if state is not None:
                self.signer.state = state
            self._is_loaded = True
        bundle = self.signer.step()
        self._tell()
        return bundle

    def run(self, stop: threading.Event) -> None:
        """Step until told to stop. A ledger that isn't what was signed is refused, and looked at again later."""
        said_at, refused = 0.0, ""
        while not stop.is_set():
            wait_s = self._config.interval_s
            try:
                self.step()
                if refused:
                    log.warning("the ledger is again what was signed: signing goes on")
                refused = ""
                say_ready()
            except IntegrityError as error:
                wait_s = max(wait_s, REFUSING_LOOK_S)
                if refused != str(error):
                    log.critical("REFUSED to sign: %s", error)
                    refused = str(error) if self._alarm(error) else ""
                say_ready()
            except (StoreError, BrokerError, OSError) as error:
                if time.monotonic() - said_at > LOG_EVERY_S:
                    log.warning("waiting: %s", error)
                    said_at = time.monotonic()
            stop.wait(wait_s)

    def alarm(self, error: IntegrityError) -> None:
        """Raise the alert. Raises BrokerError."""
        if self._events is not None:
            self._events.alarm(self._origin, error, self.signer.state.heads.at_us)

    def _alarm(self, error: IntegrityError) -> bool:
        try:
            self.alarm(error)
        except AgentledgerError as failed:
            log.warning("the alert is not out yet: %s", failed)
            return False
        return True

    def _tell(self) -> None:
        """Publish the events of what is signed and has none. One that fails is tried again with the next step."""
        state = self.signer.state
        if not state.unannounced:
            return
        if self._events is not None:
            bundles = [self._place.read(first) for first in state.unannounced]
            number = state.heads.checkpoints - len(bundles)
            for text in bundles:
                if text is not None:
                    self._events.announce(Bundle.parse(text), number)
                number += 1
        state.unannounced = []
        self._save(state)

    def _save(self, state: SignerState) -> None:
        state.save(self._config.state_path, self._keys.active())

    def _locked(self) -> Any:
        """Hold the state file's lock. Raises ConfigurationError where another signer holds it."""
        self._config.state_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = self._config.state_path.with_suffix(".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ConfigurationError(
                "another signer works with this state file", where=str(self._config.state_path),
                next_step="stop it first, or give this one a folder of its own",
            ) from None  # fmt: skip
        return lock


def say_ready() -> None:
    """Tell whoever started this program that it works."""
    name = os.environ.get("AGENTLEDGER_READY_FILE")
    if name:
        Path(name).write_text(f"{os.getpid()}\n", "utf-8")


def run_signer(config: SignerConfig, stop: threading.Event) -> None:
    """Run until `stop` is set. Raises ConfigurationError where the key can't be used."""
    with contextlib.closing(SignerProgram(config)) as program:
        program.run(stop)


def sign_once(config: SignerConfig) -> int | None:
    """Make one step; the size that was signed, None where nothing is new. Raises IntegrityError after its alert."""
    with contextlib.closing(SignerProgram(config)) as program:
        try:
            bundle = program.step()
        except IntegrityError as error:
            program.alarm(error)
            raise
    return None if bundle is None else bundle.size
