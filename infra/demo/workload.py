"""A believable day of support, coding and ops agents: retries, loops, denials, escalations, late outcomes.

Everything is drawn from one seeded generator and a clock of its own, so that a seed always gives the same story;
nothing sleeps. The agents are invented; they record through the SDK exactly as a user's agent would.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agentledger.infra.demo import coding, ops, support
from agentledger.producers import Ledger

DAY_US = 86_400_000_000


class StoryClock:
    """The agents' clock, microseconds since 1970: it moves when the story says so."""

    def __init__(self, start_us: int) -> None:
        self.now_us = start_us

    def __call__(self) -> int:
        return self.now_us

    def pass_ms(self, milliseconds: float) -> None:
        """Let time pass."""
        self.now_us += int(milliseconds * 1000)


@dataclass(frozen=True)
class Story:
    """One run to tell: which agent's, and how."""

    agent_id: str
    tell: Callable[[Ledger, StoryClock, random.Random], None]


def stories(runs: int, rng: random.Random) -> list[Story]:
    """`runs` runs in the mix of an ordinary day, and the few that are not ordinary."""
    day = [Story("support-bot", support.refund_request)] * (runs * 5 // 10)
    day += [Story("support-bot", support.address_change)] * (runs * 2 // 10)
    day += [Story("coder", coding.fix_issue)] * (runs * 2 // 10)
    day += [Story("ops-bot", ops.restart_service)] * (runs - len(day))
    rng.shuffle(day)
    odd = [
        Story("coder", coding.overspend),
        Story("coder", coding.halted_by_its_budget),
        Story("support-bot", support.unpriced_model),
        Story("ops-bot", ops.silent_failure),
    ]
    for place, story in enumerate(odd, start=1):
        day.insert(place * len(day) // (len(odd) + 1), story)
    return day


def tell(
    day: list[Story], ledgers: dict[str, Ledger], clock: StoryClock, rng: random.Random
) -> Iterator[tuple[int, Story]]:
    """Record one story after another, spread over a day; yields how many are told."""
    pause_ms = DAY_US / 1000 / max(len(day), 1)
    for told, story in enumerate(day, start=1):
        begin_us = clock.now_us
        story.tell(ledgers[story.agent_id], clock, rng)
        clock.now_us = begin_us  # agents work side by side: the next run starts when it does, not after this one
        clock.pass_ms(pause_ms * rng.uniform(0.5, 1.5))
        yield told, story
