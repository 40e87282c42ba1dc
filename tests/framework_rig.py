"""What the tests of all framework integrations share: a ledger in memory, and answers as providers send them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from agentledger.producers import EmitProblem, Ledger
from agentledger.schemas.events import Event, RunFinished
from agentledger.schemas.testing.record_producer import FakeRecordProducer

E = TypeVar("E", bound=Event)
EVENT_S_MAX = 20.0  # what an event may take that another thread tells of
SECRET = "hunter2-sk-4f1c9d"  # planted wherever content can be; must never be among the bytes that leave


class RecordingLedger(Ledger):
    """A ledger in memory that also remembers its problems and can show its bytes."""

    def __init__(self, **settings: Any) -> None:
        self.problems: list[EmitProblem] = []
        self.records = FakeRecordProducer()
        super().__init__(agent_id="bot", producer=self.records, on_emit_problem=self.problems.append, **settings)

    def every(self, kind: type[E]) -> list[E]:
        """The events of this kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def only(self, kind: type[E]) -> E:
        """The one event of this kind."""
        found = self.every(kind)
        assert len(found) == 1, [type(event).__name__ for event in self.events]
        return found[0]

    def names(self) -> list[str]:
        """The kinds of all events, in order."""
        return [type(event).__name__ for event in self.events]

    def wait_for(self, kind: type[E], count: int = 1) -> list[E]:
        """The events of this kind, once there are so many and a run is over: for what is told in other threads."""
        deadline = time.monotonic() + EVENT_S_MAX
        while time.monotonic() < deadline:
            if len(self.every(kind)) >= count and self.every(RunFinished):
                break
            time.sleep(0.01)
        return self.every(kind)

    @property
    def emitted(self) -> bytes:
        """All that left: keys and values of all records, and what was said in the log."""
        said = "".join(f"{problem.reason} {problem.what}" for problem in self.problems).encode()
        return b"".join((record.key or b"") + record.value for record in self.records.records) + said


def event_stream(events: Iterable[Any], name_of: Callable[[Any], str] | None = None, end: str = "") -> bytes:
    """A server-sent-event stream of these JSON values; `name_of` gives the `event:` line, `end` is the last line."""
    lines = []
    for event in events:
        if name_of is not None:
            lines.append(f"event: {name_of(event)}")
        lines += [f"data: {json.dumps(event)}", ""]
    return "\n".join([*lines, *([f"data: {end}", ""] if end else []), ""]).encode()
