"""How many events a key may send: a token bucket each, which may go into debt by one request."""

from __future__ import annotations

import math
from collections import OrderedDict

BUCKETS_MAX = (
    10_000  # keys with a bucket of their own; those unheard of for longest are forgotten, and begin full again
)
BURST_S = 2  # how many seconds' worth may come at once
_SECOND_US = 1_000_000


class RateLimits:
    """Token buckets by key id. A request is let in while its bucket isn't empty, and then pays for all of its events:
    so a batch larger than a bucket gets through, and the next one waits for it."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, tuple[float, int]] = OrderedDict()  # tokens, and the time they were counted at

    def wait_s(self, key_id: str, per_s_max: int, now_us: int) -> int:
        """Whole seconds until the key may send again; 0 where it may now."""
        tokens = self._tokens(key_id, per_s_max, now_us)
        return 0 if tokens > 0 else max(1, math.ceil((1 - tokens) / per_s_max))

    def pay(self, key_id: str, per_s_max: int, events: int, now_us: int) -> None:
        """Take the events of a request that was let in off the key's bucket."""
        self._buckets[key_id] = self._tokens(key_id, per_s_max, now_us) - events, now_us
        self._buckets.move_to_end(key_id)
        while len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)

    def _tokens(self, key_id: str, per_s_max: int, now_us: int) -> float:
        full = float(per_s_max * BURST_S)
        tokens, counted_at = self._buckets.get(key_id, (full, now_us))
        return min(full, tokens + max(0, now_us - counted_at) * per_s_max / _SECOND_US)
