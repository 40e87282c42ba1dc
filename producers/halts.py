"""Which halts are in force: pure rules over commands, wherever they came from.

Of each owner's commands on a (tenant, scope, scope value) the newest counts. Within a partition of the control topic
that is the later one; between partitions (owners' keys lie apart, and two clients may place a key differently) the one
with the later append time. A resume of the same owner, an expiry or a record without a value ends a halt; a person's
resume ends every older one.

An expiry is compared with this machine's clock: nothing on the control topic tells the ledger's time while nothing is
commanded. A clock that is behind keeps a halt for longer; one that is ahead ends it that much sooner, so where that
matters end a halt with a resume.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from agentledger.schemas.control import COMMANDS, is_control_scope
from agentledger.schemas.events import ControlIssued

ANY = "*"  # as a tenant or a scope value of the halt file: each
# Commands kept. One takes some 600 bytes: a halt of a single run that is over doesn't matter any more, so the oldest go
# first, and those of wider scopes are kept apart from them.
RUN_COMMANDS_MAX = 50_000
WIDE_COMMANDS_MAX = 50_000
OWNERS_MAX = 1000  # of commands on one subject: as many budgets as a tenant has

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


class _Entry(NamedTuple):
    appended_at_ms: int
    number: int  # as they were read: between two of the same millisecond the later one counts
    partition: int
    command: Command | None


def command_of(event: ControlIssued) -> Command | None:
    """The command that an event gives; None where this version knows no such command or scope."""
    if event.command not in COMMANDS or not is_control_scope(event.scope):
        return None
    return Command(
        event.command, event.tenant_id, event.scope, event.scope_value, event.reason, event.issued_by,
        event.occurred_at, event.expires_at, on_exceeded=event.on_exceeded,
    )  # fmt: skip


class CommandTable:
    """The newest command of each subject and owner, as a compacted topic tells them. Bounded; one thread writes.

    `halts` has of each subject the halt that stands the longest. It may have lapsed already: `find_halt` looks.
    """

    def __init__(self, runs_max: int = RUN_COMMANDS_MAX, wide_max: int = WIDE_COMMANDS_MAX) -> None:
        self.halts: dict[Subject, Command] = {}
        self._runs: dict[Subject, dict[str, _Entry]] = {}
        self._wide: dict[Subject, dict[str, _Entry]] = {}
        self._runs_max = runs_max
        self._wide_max = wide_max
        self._read = 0

    def put(
        self, subject: Subject, command: Command | None, partition: int, appended_at_ms: int, owner: str = ""
    ) -> bool:
        """Take in a record of the control topic, None for one without a value; whether it is its owner's newest."""
        kept, kept_max = (self._runs, self._runs_max) if subject[1] == "run" else (self._wide, self._wide_max)
        owners = kept.pop(subject, None)
        if owners is None:
            owners = {}
            if len(kept) >= kept_max:
                oldest = next(iter(kept))
                del kept[oldest]
                self.halts.pop(oldest, None)
        kept[subject] = owners
        before = owners.get(owner)
        if before is not None and before.partition != partition and before.appended_at_ms > appended_at_ms:
            return False
        if before is None and len(owners) >= OWNERS_MAX:
            del owners[next(name for name in owners if name)]
        self._read += 1
        owners[owner] = _Entry(appended_at_ms, self._read, partition, command)
        standing = _standing(owners)
        if standing:
            self.halts[subject] = max(standing, key=_lasts_until)
        else:
            self.halts.pop(subject, None)
        return True

    def all_halts(self, now_us: int) -> list[Command]:
        """Every halt in force, each owner's."""
        entries = [*self._wide.values(), *self._runs.values()]
        return [halt for owners in entries for halt in _standing(owners) if halt.is_halt_at(now_us)]

    def drop_lapsed(self, now_us: int) -> None:
        """Forget the halts that have lapsed."""
        for subject in [subject for subject, halt in list(self.halts.items()) if not halt.is_halt_at(now_us)]:
            self.halts.pop(subject, None)


def _standing(owners: Mapping[str, _Entry]) -> list[Command]:
    """The halts among the commands on one subject that no resume has ended."""
    persons = owners.get("")
    lifted = persons if persons is not None and persons.command and persons.command.command == "resume" else None
    return [
        entry.command
        for entry in owners.values()
        if entry.command is not None and entry.command.command == "halt" and (lifted is None or entry > lifted)
    ]


def _lasts_until(halt: Command) -> float:
    return math.inf if halt.expires_at is None else halt.expires_at


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
