"""Waiting for what is done at once: as Faust waits, with fewer tasks."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from mode import Service

from agentledger.processors.transport import FirstAtOnce


class Waiting(FirstAtOnce, Service):  # type: ignore[misc]
    """A service that waits."""


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """The test as pytest calls it."""
    return functools.wraps(test)(lambda: asyncio.run(test()))


async def say(text: str) -> str:
    return text


@in_loop
async def test_what_is_done_at_once_is_told_and_nothing_else_is_begun() -> None:
    begun: list[str] = []

    async def other() -> None:
        begun.append("other")

    found = await Waiting().wait_first(say("first"), other())
    assert (found.results, found.stopped, begun) == (["first"], False, [])


@in_loop
async def test_what_takes_longer_loses_against_an_event_and_is_cancelled() -> None:
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    told = asyncio.Event()
    told.set()
    found = await Waiting().wait_first(long(), told.wait())
    await asyncio.sleep(0)
    assert (found.results, ended) == ([True], ["cancelled"])


@in_loop
async def test_what_goes_wrong_at_once_is_raised() -> None:
    async def wrong() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await Waiting().wait_first(wrong(), say("other"))


@in_loop
async def test_who_is_cancelled_while_waiting_takes_the_first_along() -> None:
    put: list[str] = []

    async def slow() -> None:
        await asyncio.sleep(0)
        put.append("a message")

    waiting = asyncio.create_task(Waiting().wait_first(slow()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    for _ in range(5):
        await asyncio.sleep(0)
    assert put == []


@in_loop
async def test_an_event_may_be_the_first() -> None:
    told = asyncio.Event()
    told.set()
    assert (await Waiting().wait_first(told)).results == [True]


@in_loop
async def test_a_service_that_was_stopped_says_so() -> None:
    stopped = Waiting()
    stopped._stopped.set()
    assert (await stopped.wait_first(say("first"))).stopped
