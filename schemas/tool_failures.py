"""How often each tool call of a run has failed in a row: what a budget on retries goes by. Pure.

The client counts so before it asks or guards, and the worker what it reads: so both mean the same.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, TypeVar

FAILED: Final = frozenset({"error", "timeout"})
DENIED: Final = "denied"  # a call that was denied was not made: it is no attempt
CALLS_MAX: Final = 256  # failing calls of a run that are told apart; the one that failed longest ago is forgotten first

_Call = TypeVar("_Call", bound=Hashable)


def note_attempt(failing: dict[_Call, int], call: _Call, status: str) -> int:
    """A call has ended; how often it has now failed in a row, 0 where it didn't fail.

    `failing`, how often each call that failed last has failed, is brought up to date.
    """
    if status == DENIED:
        return 0
    failures = failing.pop(call, 0) + 1
    if status not in FAILED:
        return 0
    if len(failing) >= CALLS_MAX:
        del failing[next(iter(failing))]
    failing[call] = failures
    return failures
