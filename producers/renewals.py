"""Which holds of calls under way have to be renewed, and when. Pure: the time is an argument, monotonic seconds.

A hold lapses when nobody has spoken of it for its `ttl_s`. It must do so when its process has died, and not because a
call takes long: so it is renewed, RENEWALS_PER_TTL times in that time, until the call ends, takes longer than
`renewed_s_max`, or is dropped without having ended.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentledger.producers.holds import Hold, HoldSettings

if TYPE_CHECKING:
    from agentledger.producers.envelope import RunEnvelope

RENEWALS_PER_TTL = 3  # so that one that is lost, or late, does no harm
LOOKS_PER_RENEWAL = 10  # a renewal comes a tenth of its interval late, at most


@dataclass(slots=True)
class _UnderWay:
    hold: weakref.ref[Hold]  # the call owns it: one that was dropped takes its hold along
    envelope: RunEnvelope
    renew_at_s: float
    until_s: float


class Renewals:
    """The holds of one process's calls under way. Safe for threads."""

    def __init__(self, settings: HoldSettings) -> None:
        self._every_s = settings.ttl_s / RENEWALS_PER_TTL
        self._renewed_s_max = settings.renewed_s_max
        self._look_at_s = 0.0
        self._lock = threading.Lock()
        self._under_way: dict[str, _UnderWay] = {}

    def begin(self, hold: Hold, envelope: RunEnvelope, now_s: float) -> None:
        """A call begins under this hold."""
        item = _UnderWay(weakref.ref(hold), envelope, now_s + self._every_s, now_s + self._renewed_s_max)
        with self._lock:
            self._under_way[hold.hold_id] = item

    def end(self, hold: Hold) -> None:
        """The call has ended, or is not made after all."""
        with self._lock:
            self._under_way.pop(hold.hold_id, None)

    def due(self, now_s: float) -> list[tuple[Hold, RunEnvelope]]:
        """The holds to be renewed now. Cheap enough to be asked every time that a record is read."""
        if now_s < self._look_at_s:
            return []
        self._look_at_s = now_s + self._every_s / LOOKS_PER_RENEWAL
        found = []
        with self._lock:
            for hold_id, item in list(self._under_way.items()):
                hold = item.hold()
                if hold is None or now_s >= item.until_s:
                    del self._under_way[hold_id]
                elif now_s >= item.renew_at_s:
                    item.renew_at_s = now_s + self._every_s
                    found.append((hold, item.envelope))
        return found
