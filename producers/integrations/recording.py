"""What all integrations share: which run a call belongs to, and that nothing here breaks what it watches.

An error of ours inside a framework's callback is told to the ledger and goes no further. Only a refusal does: a budget,
a halt, or a hold that says no before the call is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from agentledger.producers.calls import Call, ModelCall, enclosing, leave
from agentledger.producers.runs import Run, current_run
from agentledger.schemas.errors import (
    BudgetExceededError,
    ControlUnreachableError,
    HaltedError,
    HoldUnansweredError,
    UnpricedError,
)

if TYPE_CHECKING:
    from agentledger.producers.recorder import Ledger

REFUSALS = (BudgetExceededError, ControlUnreachableError, HaltedError, HoldUnansweredError, UnpricedError)
# Calls that one integration keeps open at a time: 100 times more than an agent makes at once. One whose end never comes
# must not keep memory for good; the oldest is ended as cancelled.
OPEN_MAX = 10_000
_C = TypeVar("_C", bound=Call)


@contextmanager
def unbroken(ledger: Ledger, what: str) -> Iterator[None]:
    """What goes wrong inside is told to the ledger, by its type alone: the words may hold a prompt. Refusals pass."""
    try:
        yield
    except REFUSALS:
        raise
    except Exception as error:  # noqa: BLE001 - a ledger that fails must not break the agent
        ledger.tell("integration", f"{what}: {type(error).__name__}")


class Recorded(Generic[_C]):
    """A call under way, and the run that was opened for it alone where none was. Its end counts once."""

    def __init__(self, call: _C, own_run: Run | None) -> None:
        self.call = call
        self.own_run = own_run
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether the end was recorded."""
        return self._is_over

    def begin(self) -> None:
        """Ask for leave and begin. Raises a refusal."""
        try:
            self.call.begin()
        except REFUSALS as refusal:
            self._refused(refusal)
            raise

    async def begin_async(self) -> None:
        """Like `begin`, without blocking the event loop."""
        try:
            await self.call.begin_async()
        except REFUSALS as refusal:
            self._refused(refusal)
            raise

    @contextmanager
    def enclosing(self) -> Iterator[None]:
        """What happens inside follows from this call, where it happens in the same thread or task."""
        outer = enclosing.set(self.call)
        try:
            yield
        finally:
            leave(outer)

    def end(self, error: BaseException | None = None) -> None:
        """Record the call, and the end of its own run."""
        if self._is_over:
            return
        self._is_over = True
        self.call.end(error)
        if self.own_run is not None:
            self.own_run.end(error)

    def cancel(self) -> None:
        """Nobody waits for the end any more."""
        if not self._is_over and isinstance(self.call, ModelCall):
            self.call.status = "cancelled"
        self.end()

    def _refused(self, refusal: BaseException) -> None:
        self._is_over = True
        if self.own_run is not None:
            self.own_run.end(refusal)


def run_here(ledger: Ledger, workflow: str) -> tuple[Run, Run | None]:
    """The run that is open here, or one begun for a single call; in the second place that one, for its end."""
    run = current_run()
    if run is not None:
        return run, None
    own = ledger.run(workflow=workflow).begin()
    return own, own


def is_inside(kind: type[Call]) -> bool:
    """Whether the innermost call that is open here is of this kind."""
    return isinstance(enclosing.get(), kind)
