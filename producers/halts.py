"""Which halts are in force: pure rules over commands, wherever they came from.

The newest command of a (tenant, scope, scope value) counts. Within a partition of the control topic that is the later
one; between partitions (two clients may place a key differently) the one with the later append time. A resume, an
expiry or a record without a value ends a halt.

An expiry is compared with this machine's clock: nothing on the control topic tells the ledger's time while nothing is
commanded. A clock that is behind keeps a halt for longer; one that is ahead ends it that much sooner, so where that
matters end a halt with a resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agentledger.schemas.control import COMMANDS, is_control_scope
from agentledger.schemas.events import ControlIssued

ANY = "*"  # as a tenant or a scope value of the halt file: each
# Commands kept. One takes some 600 bytes: a halt of a single run that is over doesn't matter any more, so the oldest go
# first, and those of wider scopes are kept apart from them.
RUN_COMMANDS_MAX = 50_000
WIDE_COMMANDS_MAX = 50_000

Subject = tuple[str, str, str]  # tenant, scope, scope value


@dataclass(frozen=True, slots=True)
class Command:
    """One command as it counts. Times are microseconds since 1970; `via` is control topic or halt file."""

    command: str
    tenant_id: str
    scope: str
    scope_value: str
    reason: str = ""
    issued_by: str = ""
    issued_at: int | None = None
    expires_at: int | None = None
    via: str = "control topic"
    on_exceeded: str = ""  # what the budget asks for that halts

    @property
    def subject(self) -> Subject:
        """What the command is about."""
        return self.tenant_id, self.scope, self.scope_value

    def is_halt_at(self, now_us: int) -> bool:
        """Whether it halts at this time."""
        return self.command == "halt" and (self.expires_at is None or now_us < self.expires_at)


@dataclass(slots=True)
class _Entry:
    partition: int
    appended_at_ms: int


def command_of(event: ControlIssued) -> Command | None:
    """The command that an event gives; None where this version knows no such command or scope."""
    if event.command not in COMMANDS or not is_control_scope(event.scope):
        return None
    return Command(
        event.command, event.tenant_id, event.scope, event.scope_value, event.reason, event.issued_by,
        event.occurred_at, event.expires_at, on_exceeded=event.on_exceeded,
    )  # fmt: skip


class CommandTable:
    """The newest command of each subject, as a compacted topic tells them. Bounded; one thread writes.

    `halts` are those that count; a halt may have lapsed already: `find_halt` looks.
    """

    def __init__(self, runs_max: int = RUN_COMMANDS_MAX, wide_max: int = WIDE_COMMANDS_MAX) -> None:
        self.halts: dict[Subject, Command] = {}
        self._runs: dict[Subject, _Entry] = {}
        self._wide: dict[Subject, _Entry] = {}
        self._runs_max = runs_max
        self._wide_max = wide_max

    def put(self, subject: Subject, command: Command | None, partition: int, appended_at_ms: int) -> bool:
        """Take in a record of the control topic, None for one without a value; whether it is its subject's newest."""
        kept, kept_max = (self._runs, self._runs_max) if subject[1] == "run" else (self._wide, self._wide_max)
        before = kept.pop(subject, None)
        if before is not None and before.partition != partition and before.appended_at_ms > appended_at_ms:
            kept[subject] = before
            return False
        if before is None and len(kept) >= kept_max:
            oldest = next(iter(kept))
            del kept[oldest]
            self.halts.pop(oldest, None)
        kept[subject] = _Entry(partition, appended_at_ms)
        if command is not None and command.command == "halt":
            self.halts[subject] = command
        else:
            self.halts.pop(subject, None)
        return True

    def drop_lapsed(self, now_us: int) -> None:
        """Forget the halts that have lapsed."""
        for subject in [subject for subject, halt in list(self.halts.items()) if not halt.is_halt_at(now_us)]:
            self.halts.pop(subject, None)


def find_halt(
    halts: Mapping[Subject, Command], tenant_id: str, names: Iterable[tuple[str, str]], now_us: int
) -> Command | None:
    """The halt that stops whoever goes by these (scope, value) pairs now; None where none does."""
    for scope, value in names:
        for subject in ((tenant_id, scope, value), (tenant_id, scope, ANY), (ANY, scope, value), (ANY, scope, ANY)):
            found = halts.get(subject)
            if found is not None and found.is_halt_at(now_us):
                return found
    return None
