"""Questions to a person that a framework asks in one run and that are answered in another, of the same thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, NamedTuple

from agentledger.producers.integrations.recording import OPEN_MAX
from agentledger.producers.runs import Run

_YES = {"approve", "approved", "accept", "accepted", "edit", "ok", "true", "y", "yes"}
_NO = {"deny", "denied", "false", "ignore", "n", "no", "reject", "rejected"}


class _Asked(NamedTuple):
    run: Run
    thread_id: str


class Approvals:
    """What was asked and not answered yet, in this process; the oldest 10,000 at most."""

    def __init__(self) -> None:
        self._asked: OrderedDict[str, _Asked] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, run: Run, approval_id: str, change: Any, thread_id: str = "", action: str = "interrupt") -> None:
        """Record a question, once, and that the run hands over to a person."""
        with self._lock:
            if approval_id in self._asked:
                return
            self._asked[approval_id] = _Asked(run, thread_id)
            if len(self._asked) > OPEN_MAX:
                self._asked.popitem(last=False)
        run.approval_requested(approval_id=approval_id, action=action, change=change)
        run.escalate("waits for an answer")

    def waiting(self, thread_id: str) -> list[str]:
        """The questions of a thread that wait for an answer."""
        with self._lock:
            return [approval_id for approval_id, asked in self._asked.items() if asked.thread_id == thread_id]

    def decide(self, run: Run, approval_id: str, verdict: str, reason: str = "") -> None:
        """Record an answer in the run that asked; in `run` where another process did."""
        with self._lock:
            asked = self._asked.pop(approval_id, None)
        (asked.run if asked is not None else run).approval_decided(
            approval_id=approval_id, verdict=verdict, reason=reason
        )


def verdict_of(answer: Any) -> str:
    """approved or rejected, where the answer says so in one of the usual ways; empty where it is something else."""
    if isinstance(answer, dict):
        decisions = answer.get("decisions")
        if isinstance(decisions, list) and decisions:
            verdicts = {verdict_of(decision) for decision in decisions}
            return verdicts.pop() if len(verdicts) == 1 else "rejected" if "rejected" in verdicts else ""
        answer = next((answer[name] for name in ("type", "action", "decision", "approved") if name in answer), None)
    word = str(answer).strip().lower() if isinstance(answer, str | bool) else ""
    return "approved" if word in _YES else "rejected" if word in _NO else ""
