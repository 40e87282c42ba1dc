"""What is normal for a workflow: how many steps its finished runs took, and how many of them were under policy.

Known per source partition, in bounded space. Ledger time is cut into epochs of ten minutes, and a run is compared with
what was known when the epoch before the present one ended, so the answer is the same within an epoch.

A redelivery asks the same questions and gets the same answers, though the finished runs that it brings are counted
already: a dumped state still holds what was known in each epoch since the batch began for which it is dumped.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final, NamedTuple

from agentledger.processors.sketch import Sketch, merge, quantile, slot_of
from agentledger.schemas.errors import CodecError

STATE_VERSION = b"\x01"
EPOCH_US: Final = 600_000_000
WORKFLOWS_MAX = 200  # per partition, known at a time: those unused for longest give way; about 150 bytes each
RUNS_KEPT = 2000  # at twice as many, all counts are halved: what is normal changes
_HEAD = struct.Struct(">qq")
_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Normal(NamedTuple):
    """Of one workflow: finished runs, those of them with policy decisions, and a sketch of their steps."""

    runs: int
    under_policy: int
    steps: Sketch


_UNKNOWN = Normal(0, 0, {})
_Book = dict[str, Normal]  # tenant and workflow to what is normal; the one used last comes last


class Normals:
    """Of one source partition. `add` and `of` take the offset and ledger time of the record that asks."""

    def __init__(self) -> None:
        self.folded_up_to = -1
        self._epoch = -1
        self._books: list[tuple[int, _Book]] = [(-1, {})]  # what is known from this epoch on, until the next entry's
        self._new: _Book = {}  # of this epoch
        self._quantiles: dict[tuple[int, str, int], int | None] = {}
        self.limits: dict[Any, tuple[int, float]] = {}  # whoever asks may keep here, by epoch, what it made of answers

    def add(self, offset: int, ledger_time_us: int, tenant: str, workflow: str, steps: int, *, policy: bool) -> None:
        """Count a finished run. One at or before `folded_up_to` was counted before."""
        if offset <= self.folded_up_to:
            return
        self.folded_up_to = offset
        self._pass_time(ledger_time_us)
        slot, key = slot_of(max(0, steps)), _key(tenant, workflow)
        known = self._new.pop(key, None)
        if known is None or known.runs >= 2 * RUNS_KEPT:
            _count(self._new, key, Normal(1, int(policy), {slot: 1}), known or _UNKNOWN)
            return
        known.steps[slot] = known.steps.get(slot, 0) + 1  # nobody else has it yet
        self._new[key] = Normal(known.runs + 1, known.under_policy + int(policy), known.steps)

    def of(self, ledger_time_us: int, tenant: str, workflow: str) -> Normal:
        """What was normal when the epoch before that of this time ended."""
        return self._book(ledger_time_us).get(_key(tenant, workflow), _UNKNOWN)

    def steps(self, ledger_time_us: int, tenant: str, workflow: str, percent: int) -> int | None:
        """A quantile of the steps of its finished runs; None where there are none."""
        at = (ledger_time_us // EPOCH_US, _key(tenant, workflow), percent)
        if at not in self._quantiles:
            if len(self._quantiles) > WORKFLOWS_MAX:
                self._quantiles.clear()
            self._quantiles[at] = quantile(self.of(ledger_time_us, tenant, workflow).steps, percent)
        return self._quantiles[at]

    def dump(self) -> bytes:
        """The partition's state, for the changelog. What only this batch could still ask for is dropped after it."""
        text = _to_json([self._books, self._new])
        state = STATE_VERSION + _HEAD.pack(self.folded_up_to, self._epoch) + text.encode()
        del self._books[:-1]
        return state

    @classmethod
    def load(cls, state: bytes) -> Normals:
        """The inverse of `dump`. Raises CodecError for other bytes."""
        if state[:1] != STATE_VERSION:
            raise CodecError(
                f"state version {state[:1].hex() or 'missing'} is unknown",
                where="changelog, what is normal for workflows",
                next_step="run the release that wrote it, or rebuild the state from the ledger",
            )
        normals = cls()
        normals.folded_up_to, normals._epoch = _HEAD.unpack_from(state, 1)
        books, new = json.loads(state[1 + _HEAD.size :])
        normals._books = [(epoch, _book_of(book)) for epoch, book in books]
        normals._new = _book_of(new)
        return normals

    def _book(self, ledger_time_us: int) -> _Book:
        self._pass_time(ledger_time_us)
        epoch = ledger_time_us // EPOCH_US
        for since, book in reversed(self._books):
            if since <= epoch:
                return book
        return self._books[0][1]

    def _pass_time(self, ledger_time_us: int) -> None:
        epoch = ledger_time_us // EPOCH_US
        if epoch <= self._epoch:
            return
        if self._new:
            known = dict(self._books[-1][1])
            for key, normal in self._new.items():
                _count(known, key, normal, known.pop(key, _UNKNOWN))
            self._books.append((self._epoch + 1, known))
            self._new = {}
            self._quantiles.clear()
            self.limits.clear()
        self._epoch = epoch


def _key(tenant: str, workflow: str) -> str:
    return f"{tenant}\x1f{workflow}"


def _book_of(items: dict[str, Any]) -> _Book:
    return {key: _normal(value) for key, value in items.items()}


def _normal(items: list[Any]) -> Normal:
    runs, under_policy, steps = items
    return Normal(runs, under_policy, {int(slot): count for slot, count in steps.items()})


def _count(book: _Book, key: str, more: Normal, known: Normal) -> None:
    """Put the sum of both into the book, as the one used last."""
    steps = dict(known.steps)
    merge(steps, more.steps)
    total = Normal(known.runs + more.runs, known.under_policy + more.under_policy, steps)
    if total.runs > 2 * RUNS_KEPT:
        halved = {slot: count // 2 for slot, count in steps.items() if count > 1}
        total = Normal(sum(halved.values()), total.under_policy // 2, halved)
    book[key] = total
    while len(book) > WORKFLOWS_MAX:
        del book[next(iter(book))]
