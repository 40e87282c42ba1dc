"""The program `agentledger signer`: a step every few seconds, an event for each checkpoint, an alert on refusing."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentledger.schemas import Codec, open_registry
from agentledger.schemas.compact_range import CompactRange
from agentledger.schemas.errors import AgentledgerError, BrokerError, ConfigurationError, IntegrityError, StoreError
from agentledger.schemas.heads import Bundle
from agentledger.schemas.ready import say_ready
from agentledger.sinks.checkpoint_places import CheckpointPlace, FolderPlace
from agentledger.sinks.cosignatures import read_witnesses
from agentledger.sinks.followers import BucketCopies, Cosigning, Follower, FollowerPositions, Outside
from agentledger.sinks.key_files import KeyFolder
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.s3_place import open_s3_place
from agentledger.sinks.signer import Signer
from agentledger.sinks.signer_events import SignerEvents
from agentledger.sinks.signer_metrics import SignerMetrics
from agentledger.sinks.signer_state import SignerState
from agentledger.sinks.witness_client import HttpWitness

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
    bucket_url: str = ""  # s3://BUCKET/PREFIX for copies of what is published; empty: none
    bucket_endpoint: str = ""
    bucket_retention_days: int = 3650
    witnesses_file: Path | None = None


class SignerProgram:
    """A signer with its state file, its events and its patience."""

    def __init__(
        self, config: SignerConfig, place: CheckpointPlace | None = None, outside: Sequence[Outside] | None = None,
        metrics: SignerMetrics | None = None,
    ) -> None:  # fmt: skip
        self._metrics = metrics or SignerMetrics()
        self._config = config
        self._folder = FolderPlace(config.checkpoints_dir)
        self._place = place or self._folder
        self._keys = KeyFolder(config.keys_dir)
        self._origin = self._keys.active().name
        registry = open_registry(config.schema_registry_url, basic_auth=config.schema_registry_auth)
        self._events = SignerEvents(config.kafka, Codec(registry)) if config.kafka else None
        outside = outsiders(config, self._folder) if outside is None else outside
        self._lock = self._locked()  # last of what can fail: whoever holds it must be able to let go of it
        reader = ClickHouseLeafReader(config.clickhouse_url, config.clickhouse_user, config.clickhouse_password)
        self.signer = Signer(
            reader, self._place, self._keys, state=SignerState(), save=self._save,
            clock=_now_us, accepted_topic_ids=config.accepted_topic_ids,
        )  # fmt: skip
        self._is_loaded = False
        self._positions = FollowerPositions(config.keys_dir)
        known = self._positions.load()
        self._followers = [
            Follower(one, known.get(one.name, CompactRange()), _now_us, self._tell_of_follower) for one in outside
        ]

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
        self._follow()  # first: on top of what a witness contradicts nothing is signed
        bundle = self.signer.step()
        self._follow()
        self._tell()
        return bundle

    def _follow(self) -> None:
        """Bring those who follow outside up to what is published. Raises IntegrityError where one contradicts."""
        state = self.signer.state
        if not state.last_text:
            return
        newest = Bundle.parse(state.last_text)
        has_moved = [one.follow(self._folder, newest, state.heads.tree) for one in self._followers]
        if any(has_moved):
            self._positions.save(self._followers)

    def _tell_of_follower(self, name: str, what: str, since_us: int, is_back: bool) -> None:
        log.log(logging.WARNING if is_back else logging.CRITICAL, "%s", what)
        if self._events is not None:
            self._events.tell_of_follower(self._origin, name, what, since_us, _now_us(), is_back=is_back)

    def run(self, stop: threading.Event) -> None:
        """Step until told to stop. A ledger that isn't what was signed is refused, and looked at again later."""
        said_at, refused = 0.0, ""
        while not stop.is_set():
            wait_s = self._config.interval_s
            try:
                bundle = self.step()
                self._metrics.note_step(has_signed=bundle is not None, signed_us=self.signer.state.heads.at_us)
                if refused:
                    log.warning("the ledger is again what was signed: signing goes on")
                refused = ""
                say_ready()
            except IntegrityError as error:
                wait_s = max(wait_s, REFUSING_LOOK_S)
                self._metrics.note_refusal()
                if refused != str(error):
                    log.critical("REFUSED to sign: %s", error)
                    refused = str(error) if self._alarm(error) else ""
                say_ready()
            except (StoreError, BrokerError, OSError) as error:
                self._metrics.count_error()
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


def outsiders(config: SignerConfig, folder: FolderPlace) -> list[Outside]:
    """Who is to follow what is published. Raises ConfigurationError."""
    found: list[Outside] = []
    if config.bucket_url:
        place = open_s3_place(
            config.bucket_url, endpoint=config.bucket_endpoint, retention_days=config.bucket_retention_days
        )
        found.append(BucketCopies(place))
    if config.witnesses_file is not None:
        for key, url in read_witnesses(config.witnesses_file):
            found.append(Cosigning(HttpWitness(url, key), folder))
    return found


def _now_us() -> int:
    return time.time_ns() // 1000


def run_signer(config: SignerConfig, stop: threading.Event, metrics: SignerMetrics | None = None) -> None:
    """Run until `stop` is set. Raises ConfigurationError where the key can't be used."""
    with contextlib.closing(SignerProgram(config, metrics=metrics)) as program:
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
