"""Control: whether a run may go on, asked before each of its calls.

Three sources can stop it: the control topic (`agentledger halt`, a budget or a rule that asks for a halt), which one
daemon thread reads whole and then follows; the halt file on the host, which needs no broker; and, where the settings
say so, a broker that has been silent for too long. `check` costs a comparison while nothing is halted.

What is bounded: the first call of a ledger waits at most `first_read_s_max` for the topic's first reading (not at all
where the broker is found to be away), no other call waits. A halt reaches the next call within the broker's delivery, a
halt file within `look_ms`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import Message

from agentledger.producers.halt_file import VIA, HaltFile, halt_file_path
from agentledger.producers.halts import Command, CommandTable, Subject, command_of, find_halt
from agentledger.producers.topic_tail import TopicTail
from agentledger.producers.unheld_orders import UnheldOrders, WhenUnreachable
from agentledger.schemas.codec import Codec
from agentledger.schemas.control import UNHELD_ORDERS, control_owner_of, control_scope_of
from agentledger.schemas.errors import AgentledgerError, ControlUnreachableError, HaltedError, UsageError
from agentledger.schemas.events import ControlIssued
from agentledger.schemas.ports import Clock
from agentledger.schemas.topics import CONTROL

if TYPE_CHECKING:
    from agentledger.producers.run_facts import RunFacts

WHEN_UNREACHABLE = ("allow", "refuse")
STALE_S_MIN = 3.0  # librdkafka's statistics come once a second; a bound below three of them would refuse by chance
FIRST_READ_S_MAX = 1.0
ENV_WHEN_UNREACHABLE = "AGENTLEDGER_CONTROL_WHEN_UNREACHABLE"
ENV_STALE_S_MAX = "AGENTLEDGER_CONTROL_STALE_S_MAX"
STALE_S_MAX = 10.0
LOOK_MS = 5
NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """How a ledger hears of halts. Raises UsageError for what makes no sense.

    - `when_unreachable`: what happens to calls while nobody can say whether they are halted, that is, while no answer
      of the brokers is younger than `stale_s_max` seconds: `allow` them (the default) or `refuse` them.
    - `first_read_s_max`: how long the first call may wait until the commands in force were read, seconds.
    - `halt_file`: the kill switch on this host; by default AGENTLEDGER_HALT_FILE, or halt.json in the data folder.
    - `look_ms`: how often the halt file is looked at, at most.
    """

    when_unreachable: WhenUnreachable = "allow"
    stale_s_max: float = STALE_S_MAX
    first_read_s_max: float = FIRST_READ_S_MAX
    halt_file: Path | str | None = None
    look_ms: int = LOOK_MS

    def __post_init__(self) -> None:
        if self.when_unreachable not in WHEN_UNREACHABLE:
            raise UsageError(
                f"control can't do {self.when_unreachable!r} when the broker is unreachable",
                next_step="use when_unreachable='allow' or 'refuse'",
            )
        if not self.stale_s_max >= STALE_S_MIN or not self.first_read_s_max >= 0 or not self.look_ms >= 0:
            raise UsageError(
                f"control can't work with stale_s_max={self.stale_s_max}, first_read_s_max={self.first_read_s_max}, "
                f"look_ms={self.look_ms}",
                next_step=f"give stale_s_max of at least {STALE_S_MIN:g}, and no negative numbers",
            )


def control_from_env(environ: Mapping[str, str] = os.environ) -> ControlSettings:
    """The settings of a ledger that was told none. Raises UsageError for a variable that makes no sense."""
    stale = environ.get(ENV_STALE_S_MAX)
    try:
        stale_s_max = float(stale) if stale else STALE_S_MAX
    except ValueError:
        raise UsageError(f"{ENV_STALE_S_MAX}={stale!r} is no number", next_step="give seconds, such as 10") from None
    when: Any = environ.get(ENV_WHEN_UNREACHABLE) or "allow"
    return ControlSettings(when_unreachable=when, stale_s_max=stale_s_max)


def to_control(given: ControlSettings | Mapping[str, Any] | str) -> ControlSettings | None:
    """The settings from what a caller gave; None is off. Raises UsageError."""
    if isinstance(given, ControlSettings):
        return given
    if isinstance(given, str):
        if given not in {"on", "off"}:
            raise UsageError(f"control={given!r} is neither on nor off", next_step="or give ControlSettings(…)")
        return ControlSettings() if given == "on" else None
    try:
        return ControlSettings(**given)
    except TypeError as error:
        raise UsageError(f"these are no control settings: {error}") from None


@dataclass(slots=True)
class Freshness:
    """When the brokers last answered, from librdkafka's statistics: pure, the time is an argument.

    Fetches are answered ten times a second even when there is nothing to read. So a broker that leads a partition of
    the control topic and has sent nothing since the last statistics is silent.
    """

    topic: str
    answered_ns: int | None = None
    _received: dict[int, int] = field(default_factory=dict)

    def note(self, statistics: str, now_ns: int) -> None:
        """Take in one set of statistics."""
        found = json.loads(statistics)
        received = {broker["nodeid"]: broker["rx"] for broker in found["brokers"].values() if broker["nodeid"] >= 0}
        partitions = found["topics"].get(self.topic, {}).get("partitions", {})
        leaders = {item["leader"] for number, item in partitions.items() if int(number) >= 0}
        if leaders and all(received.get(leader, 0) > self._received.get(leader, 0) for leader in leaders):
            self.answered_ns = now_ns
        self._received = received

    def is_stale(self, now_ns: int, stale_s_max: float) -> bool:
        """Whether no answer is younger than the bound."""
        return self.answered_ns is None or now_ns - self.answered_ns > stale_s_max * NS_PER_S


class Control:
    """What a ledger's runs ask before each call. Without `kafka` only the halt file can stop them. Safe for threads."""

    def __init__(
        self,
        settings: ControlSettings,
        *,
        tenant_id: str,
        codec: Codec,
        clock: Clock,
        kafka: Mapping[str, Any] | None,
        tell: Callable[[str, str], None] = lambda reason, what: None,
    ) -> None:
        self.settings = settings
        self._tenant_id = tenant_id
        self._codec = codec
        self._clock = clock
        self._tell = tell
        self._file = HaltFile(Path(settings.halt_file).absolute() if settings.halt_file else halt_file_path())
        self._look_ns = settings.look_ms * 1_000_000
        self._next_look_ns = 0
        self._file_halts: dict[Subject, Command] = {}
        self._table = CommandTable()
        self._topic_halts = self._table.halts
        self._orders = self._orders_read = UnheldOrders()
        self._unknown = False  # whether calls are refused because nobody can say if they are halted
        self._freshness = Freshness(CONTROL.name)
        refuses = settings.when_unreachable == "refuse"
        self._tail: TopicTail | None = None
        if kafka is not None:
            self._tail = TopicTail(
                kafka,
                CONTROL.name,
                choose=range,
                from_end=False,
                on_start=self._on_start,
                on_caught_up=self._on_caught_up,
                on_record=self._on_record,
                on_idle=self._on_idle,
                on_statistics=self._on_statistics if refuses else None,
            )

    def start(self) -> None:
        """Begin to listen, if that hasn't happened yet. Never waits."""
        if self._tail is not None:
            self._tail.start()

    def close(self) -> None:
        """Stop listening."""
        if self._tail is not None:
            self._tail.close()

    @property
    def has_read(self) -> bool:
        """Whether everything that was commanded before the start is known."""
        return self._tail is None or self._tail.caught_up.is_set()

    @property
    def must_wait(self) -> bool:
        """Whether the next call waits for the first reading."""
        tail = self._tail
        return tail is not None and not tail.was_waited_for and not tail.settled.is_set()

    def wait_first_read(self) -> None:
        """Wait, within the bound, until the commands in force are known; once for each ledger and process."""
        if self.must_wait and self._tail is not None:
            self._tail.start()
            self._tail.settled.wait(self.settings.first_read_s_max)
            self._tail.was_waited_for = True

    def when_unheld(self, scopes: Iterable[tuple[str, str]], default: WhenUnreachable) -> WhenUnreachable:
        """What becomes of a call under these scopes on whose hold nobody decides: as its budgets were declared, the
        strictest of them; `default` where nothing is known.
        """
        return self._orders.decide(scopes, default, is_known=self.has_read)

    def check(self, run: RunFacts) -> None:
        """Raise HaltedError where the run, its agent, workflow or tenant is halted; ControlUnreachableError where
        nobody can say and the settings refuse. The first call may wait for `first_read_s_max`.
        """
        now_ns = time.monotonic_ns()
        if now_ns >= self._next_look_ns:
            self._look(now_ns)
        if self._topic_halts or self._file_halts or self._unknown:
            self._refuse(run)

    def _look(self, now_ns: int) -> None:
        """What needs no look at each call: the halt file, the broker's silence, a thread that a fork has taken."""
        self._next_look_ns = now_ns + self._look_ns
        if self._file.changed():
            self._file_halts = {halt.subject: halt for halt in self._file.read()}
            if self._file_halts:
                self._tell("halt_file", f"{len(self._file_halts)} halts by {self._file.path}")
        if self._tail is not None:
            self._tail.start()
            self.wait_first_read()
            if self.settings.when_unreachable == "refuse":
                self._unknown = not self.has_read or self._freshness.is_stale(now_ns, self.settings.stale_s_max)

    def _refuse(self, run: RunFacts) -> None:
        now_us = self._clock()
        for halts in (self._file_halts, self._topic_halts):
            halt = find_halt(halts, self._tenant_id, run.halted_by, now_us) if halts else None
            if halt is not None:
                raise halted_error(halt, run.run_id, str(self._file.path))
        if self._unknown:
            raise self._unreachable(run.run_id)

    def _unreachable(self, run_id: str) -> ControlUnreachableError:
        answered_ns = self._freshness.answered_ns
        silent = "yet" if answered_ns is None else f"for {(time.monotonic_ns() - answered_ns) / NS_PER_S:.1f} s"
        return ControlUnreachableError(
            f"nobody can say whether this run is halted: the control topic hasn't been read {silent}",
            where=f"run {run_id}",
            next_step="wait for the broker, or let calls pass with ControlSettings(when_unreachable='allow')",
        )

    def _on_start(self) -> None:
        self._table = CommandTable()
        self._orders_read = UnheldOrders()

    def _on_caught_up(self) -> None:
        # Only now: an old halt must not stop a run just because the resume after it hasn't been read yet.
        self._topic_halts = self._table.halts
        self._orders = self._orders_read
        self._freshness.answered_ns = time.monotonic_ns()

    def _on_record(self, message: Message) -> None:
        subject = control_scope_of(message.key())
        value, command = message.value(), None
        try:
            event = self._codec.decode(value) if value is not None else None
        except AgentledgerError as error:
            self._tell("control", f"a command could not be read: {error}")
            return
        if isinstance(event, ControlIssued):
            if event.command in UNHELD_ORDERS:
                if event.tenant_id == self._tenant_id:
                    self._orders_read.put(event)
                return
            command = command_of(event)
            subject = command.subject if command is not None else subject
        if subject is None or subject[0] != self._tenant_id:
            return
        if value is not None and command is None:
            self._tell("control", f"a command of a kind that isn't known here was passed over: {subject}")
            return
        owner = control_owner_of(message.key())
        self._table.put(subject, command, message.partition() or 0, message.timestamp()[1], owner)

    def _on_idle(self) -> None:
        if self._topic_halts:
            self._table.drop_lapsed(self._clock())

    def _on_statistics(self, statistics: str) -> None:
        try:
            self._freshness.note(statistics, time.monotonic_ns())
        except (ValueError, KeyError, TypeError) as error:
            self._tell("control", f"librdkafka's statistics can't be read: {error!r}")


def halted_error(halt: Command, run_id: str, halt_file: str) -> HaltedError:
    """The error that a call of a halted run raises."""
    next_step = ""
    if halt.via == VIA:
        next_step = f"end the run; who may, lifts it with: agentledger resume --local, or removes {halt_file}"
    return HaltedError(
        halt.scope, "" if halt.scope == "host" else halt.scope_value, run_id=run_id, reason=halt.reason,
        issued_by=halt.issued_by, issued_at=halt.issued_at, expires_at=halt.expires_at, via=halt.via,
        next_step=next_step, on_exceeded=halt.on_exceeded,
    )  # fmt: skip
