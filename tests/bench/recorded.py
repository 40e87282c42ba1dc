"""The recorded runs as one long log: what real agents did, at the pace and in the mix of `sample`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from agentledger.schemas import Event, uuid7
from tests.bench.sample import START_US, side_by_side
from tests.rules_table import recorded
from tests.traces import EXPECTED


def recorded_events(count: int, seed: int = 1) -> Iterator[Event]:
    """`count` events of recorded runs side by side, each in its order and, whenever it comes again, as another run.

    Raises pytest's Skipped where there are no recordings.
    """
    runs: dict[tuple[str, str], list[Event]] = {}
    for name, expected in EXPECTED.items():
        for event in recorded(expected.path):
            runs.setdefault((name, event.run_id), []).append(event)
    rng = random.Random(seed)
    yield from side_by_side(_again_and_again(list(runs.values()), rng), count, rng)


def _again_and_again(runs: list[list[Event]], rng: random.Random) -> Iterator[Iterator[Event]]:
    number = 0
    while True:
        for events in rng.sample(runs, len(runs)):
            number += 1
            yield _as_another(events, number, rng)


def _as_another(events: list[Event], number: int, rng: random.Random) -> Iterator[Event]:
    for event in events:
        event_id = uuid7(START_US + number * 1000, rng.randbytes(10))
        run_id = f"{event.run_id}-{number}"
        yield replace(event, event_id=event_id, run_id=run_id, producer_id=f"host-7-{run_id}")
