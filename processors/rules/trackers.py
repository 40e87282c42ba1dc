"""What the rules note of each event of a run: counters and a few hashes. Pure, and cheap: it runs for every event."""

from __future__ import annotations

from typing import Final
from zlib import crc32

from agentledger.processors.rules.memory import RunFacts, RunMemory
from agentledger.processors.rules.models import RECENT_CALLS, RECENT_DENIALS, REPEATS_SEEN, RESULTS_KEPT
from agentledger.schemas.control import CONTROL_ENGINE
from agentledger.schemas.events import (
    ApprovalDecided,
    ApprovalRequested,
    ModelCallCompleted,
    PolicyDecided,
    ToolCallCompleted,
)
from agentledger.schemas.identity import utf8

DECISIONS_MAX = 24  # ids of a run's decisions that are remembered, by verdict; older ones are taken for allowed
APPROVALS_MAX = 16  # pending at a time in one run
PERIODS: Final = (2, 3, 4)
FAILED: Final = frozenset({"error", "timeout"})


def hash_of(*names: str) -> int:
    """32 bits that stand for these names. Among the few that are compared, two are alike once in 300 million."""
    value = 0
    for name in names:
        value = crc32(utf8(name), value)
    return value


_REPEATS: Final = (1 << REPEATS_SEEN) - 1
_NO_MATCHES: Final = [0, 0, 0]


def note_tool_call(
    memory: RunMemory, run: RunFacts, call: ToolCallCompleted, *, keep_recent: bool, keep_results: bool
) -> bool:
    """Repetitions and failures; False where there are none. A call whose arguments aren't known is like no other."""
    is_conspicuous = False
    digest = call.arguments_digest
    if digest:
        key = crc32(utf8(f"{call.tool}\x1f{digest}"))
        result = crc32(utf8(call.status + call.result_digest), key)
        last = memory.last_calls
        if key in last:
            is_conspicuous = True
            _note_repetition(memory, key, result)
        else:
            memory.streak = memory.same_streak = 1
            if memory.matches != _NO_MATCHES:
                memory.matches = [0, 0, 0]
        if memory.streak == 1:
            memory.streak_since_us = run.last_time_us
        memory.last_result = result
        last.append(key)
        if len(last) > PERIODS[-1]:
            del last[0]
        if keep_results:
            is_conspicuous |= _note_result(memory, result, bool(call.result_digest))
        if keep_recent:
            is_conspicuous = True
            memory.recent.append(key)
            memory.recent_results.append(result)
            del memory.recent[:-RECENT_CALLS], memory.recent_results[:-RECENT_CALLS]
    else:
        memory.streak = memory.same_streak = 0
        memory.last_calls, memory.matches = [], [0, 0, 0]
    if call.status in FAILED:
        tool = hash_of(call.tool)
        memory.tool_failures = memory.tool_failures + 1 if tool == memory.failed_tool else 1
        memory.failed_tool = tool
        return True
    if memory.tool_failures:
        memory.tool_failures = 0
    return is_conspicuous


def _note_result(memory: RunMemory, result: int, is_known: bool) -> bool:
    """Whether the call brought anything new; False where none of the last did not."""
    results = memory.results
    if is_known and result in results:
        memory.repeats = (memory.repeats << 1 | 1) & _REPEATS
    elif memory.repeats:
        memory.repeats = memory.repeats << 1 & _REPEATS
    results.append(result)
    if len(results) > RESULTS_KEPT:
        del results[0]
    return memory.repeats != 0


def _note_repetition(memory: RunMemory, key: int, result: int) -> None:
    """A call that is one of the last four."""
    last = memory.last_calls
    if last[-1] == key:
        memory.streak += 1
        memory.same_streak = memory.same_streak + 1 if result == memory.last_result else 1
    else:
        memory.streak = memory.same_streak = 1
    for place, period in enumerate(PERIODS):
        repeats = len(last) >= period and last[-period] == key
        memory.matches[place] = memory.matches[place] + 1 if repeats else 0


def cycle(memory: RunMemory, period_max: int) -> tuple[int, int] | None:
    """Period of the cycle of tool calls that the run is in and how often it went round, None where there is none."""
    for place, period in enumerate(PERIODS[: period_max - 1]):
        if memory.matches[place] >= period and memory.streak < period:
            return period, memory.matches[place] // period + 1
    return None


def note_model_call(memory: RunMemory, call: ModelCallCompleted, cost_nanousd: int | None) -> None:
    """Failures in a row, and what our cost and the provider's add up to."""
    status = call.status
    if status == "ok":
        if memory.model_failures:
            memory.model_failures = 0
    elif status in {"error", "rejected"}:
        memory.model_failures += 1
    if cost_nanousd is not None and call.reported_cost_nanousd is not None:
        memory.compared += 1
        memory.cost_nanousd += cost_nanousd
        memory.reported_nanousd += call.reported_cost_nanousd


def note_decision(memory: RunMemory, decided: PolicyDecided) -> None:
    """Which decisions of the run allow, deny, or ask for an approval."""
    memory.policy_seen |= decided.engine != CONTROL_ENGINE
    place = hash_of(decided.event_id)
    kept = {"allow": memory.allowed, "deny": memory.denied, "require_approval": memory.to_approve}.get(decided.verdict)
    if kept is None:
        return
    kept.append(place)
    if len(kept) > DECISIONS_MAX:
        del kept[0]
        memory.forgot_decisions = True


def note_denial(memory: RunMemory, now_us: int) -> None:
    """When something was denied."""
    memory.denials.append(now_us)
    del memory.denials[:-RECENT_DENIALS]


def note_approval(memory: RunMemory, event: ApprovalRequested | ApprovalDecided, now_us: int) -> None:
    """Which approvals are pending. One that is given allows what the run's policy asked an approval for."""
    place = str(hash_of(event.approval_id))
    if isinstance(event, ApprovalRequested):
        if len(memory.approvals) < APPROVALS_MAX:
            memory.approvals.setdefault(place, now_us)
        return
    memory.approvals.pop(place, None)
    if event.verdict == "approved":
        memory.allowed += memory.to_approve
        memory.to_approve = []
        del memory.allowed[:-DECISIONS_MAX]
