"""Stage 1, kind by kind: does the condition of a rule hold for a run, and is it over. Pure.

Each takes the rules of its kind that apply to the run, and returns what is to be said.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from agentledger.processors.rules.conditions import Found, is_counted, is_open, resolve, say, short
from agentledger.processors.rules.memory import RunFacts, RunMemory, Said
from agentledger.processors.rules.models import (
    ClockSkew,
    Conflict,
    CostMismatch,
    CyclingToolCalls,
    DenialsInRun,
    IdenticalToolCalls,
    RepeatedWork,
    RetryStorm,
    SilentFailure,
    SlowApproval,
    StepCount,
    StuckRun,
    UnpricedModel,
    UnsafeAction,
    WriteWithoutDecision,
)
from agentledger.processors.rules.normals import Normals
from agentledger.processors.rules.trackers import cycle, hash_of
from agentledger.schemas.events import (
    ConflictDetected,
    Event,
    ModelCallCompleted,
    OutcomeRecorded,
    PolicyDecided,
    RunFinished,
    ToolCallCompleted,
)
from agentledger.schemas.money import format_usd

AWAITED_MAX = 16  # decisions that a run's calls name and that have not come; of more, the call counts as undecided


def identical_calls(
    rules: Iterable[IdenticalToolCalls], run: RunFacts, memory: RunMemory, call: ToolCallCompleted
) -> list[Said]:
    """The same tool with the same arguments, so many times."""
    said: list[Said] = []
    for rule in rules:
        times = _times_seen(rule, memory) if call.effect in rule.effects else 0
        subject = call.tool[:200] if rule.dedup == "tool" else ""
        in_time = not rule.window_us or run.last_time_us - memory.streak_since_us <= rule.window_us
        if times >= rule.calls and run.tool_calls >= rule.min_volume and (in_time or is_open(memory, rule, subject)):
            ending = " with the same result" if rule.same_result else ""
            text = f"tool {short(call.tool)} called {times} times with the same arguments{ending}"
            said += say(run, memory, Found(rule, text, subject, times, float(times), float(rule.calls)), call.event_id)
        elif times < rule.calls and rule.resolve == "condition_ends" and memory.alerts:
            said += resolve(run, memory, rule, "condition_ended")
    return said


def _times_seen(rule: IdenticalToolCalls, memory: RunMemory) -> int:
    if rule.consecutive:
        return memory.same_streak if rule.same_result else memory.streak
    if not memory.recent or not memory.streak:
        return 0
    if not rule.same_result:
        return memory.recent.count(memory.recent[-1])
    last = (memory.recent[-1], memory.recent_results[-1])
    return sum(pair == last for pair in zip(memory.recent, memory.recent_results, strict=True))


def cycles(rules: Iterable[CyclingToolCalls], run: RunFacts, memory: RunMemory, call: ToolCallCompleted) -> list[Said]:
    """A sequence of calls that goes round and round."""
    said: list[Said] = []
    for rule in rules:
        found = cycle(memory, rule.period_max)
        if found is not None and found[1] >= rule.repeats and run.tool_calls >= rule.min_volume:
            period, times = found
            text = f"the same {period} tool calls {times} times over, last {short(call.tool)}"
            said += say(run, memory, Found(rule, text, "", times, float(times), float(rule.repeats)), call.event_id)
        elif found is None and rule.resolve == "condition_ends" and memory.alerts:
            said += resolve(run, memory, rule, "condition_ended")
    return said


def repeated_work(
    rules: Iterable[RepeatedWork], run: RunFacts, memory: RunMemory, call: ToolCallCompleted
) -> list[Said]:
    """Calls that were made before, with the results that they had before."""
    said: list[Said] = []
    for rule in rules:
        seen = (memory.repeats & ((1 << rule.last) - 1)).bit_count()
        if seen >= rule.repeats and run.tool_calls >= rule.min_volume:
            text = f"{seen} of the last {rule.last} tool calls brought nothing new, last {short(call.tool)}"
            said += say(run, memory, Found(rule, text, "", None, seen, rule.repeats), call.event_id)
        elif not seen and rule.resolve == "condition_ends" and memory.alerts:
            said += resolve(run, memory, rule, "condition_ended")
    return said


def tool_retries(rules: Iterable[RetryStorm], run: RunFacts, memory: RunMemory, call: ToolCallCompleted) -> list[Said]:
    """One tool that fails again and again."""
    said: list[Said] = []
    for rule in rules:
        if "tool" not in rule.of:
            continue
        subject = f"tool:{call.tool[:200]}" if rule.dedup == "tool" else "tool"
        said += _retries(
            rule, run, memory, call, failures=memory.tool_failures, name=f"tool {short(call.tool)}", subject=subject
        )
    return said


def model_retries(
    rules: Iterable[RetryStorm], run: RunFacts, memory: RunMemory, call: ModelCallCompleted
) -> list[Said]:
    """Model calls that fail, or are rejected, again and again."""
    said: list[Said] = []
    for rule in rules:
        if "model" in rule.of:
            name = f"model {short(call.answered_model or call.requested_model)}"
            said += _retries(rule, run, memory, call, failures=memory.model_failures, name=name, subject="model")
    return said


def _retries(
    rule: RetryStorm,
    run: RunFacts,
    memory: RunMemory,
    call: ToolCallCompleted | ModelCallCompleted,
    *,
    failures: int,
    name: str,
    subject: str,
) -> list[Said]:
    if run.tool_calls + run.model_calls < rule.min_volume:
        return []
    if failures >= rule.errors:
        text = f"{name} failed {failures} times in a row{f': {short(call.error_type)}' if call.error_type else ''}"
        return say(run, memory, Found(rule, text, subject, failures, failures, rule.errors), call.event_id)
    if call.attempt >= rule.attempts:
        text = f"{name}: attempt {call.attempt} of one call"
        return say(run, memory, Found(rule, text, subject, call.attempt, call.attempt, rule.attempts), call.event_id)
    if failures == 0 and rule.resolve == "condition_ends" and memory.alerts:
        return resolve(run, memory, rule, "condition_ended", subject)
    return []


def steps(rules: Iterable[StepCount], run: RunFacts, memory: RunMemory, event: Event, normals: Normals) -> list[Said]:
    """Far more steps than this workflow's finished runs took."""
    said: list[Said] = []
    taken = run.model_calls + run.tool_calls
    for rule in rules:
        limit = steps_limit(rule, run, normals)
        known = normals.of(run.last_time_us, run.tenant_id, run.workflow).runs
        are_enough = known >= rule.min_volume or memory.repeats.bit_count() >= rule.few_repeats
        if taken > limit and are_enough and not run.finished:
            if is_counted(run, memory, rule, taken):
                continue
            percent = rule.quantile_percent if known >= rule.min_volume else 50
            usual = normals.steps(run.last_time_us, run.tenant_id, run.workflow, percent)
            text = (
                f"{taken} model and tool calls, and still going: {percent} % of the {known} known runs of workflow "
                f"{short(run.workflow) or '(none)'} end within {usual}"
            )
            said += say(run, memory, Found(rule, text, "", taken, float(taken), float(limit)), event.event_id)
    return said


def steps_limit(rule: StepCount, run: RunFacts, normals: Normals) -> float:
    """More steps than this are too many, or too many to need no other sign; infinite where too few runs are known."""
    known = normals.of(run.last_time_us, run.tenant_id, run.workflow).runs
    if known < min(rule.few_volume, rule.min_volume):
        return inf
    if known >= rule.min_volume:
        return max(rule.floor, _usual_steps(run, normals, rule.quantile_percent) * rule.times)
    low, median, high = (_usual_steps(run, normals, percent) for percent in (25, 50, 75))
    return max(rule.floor, 2 * median, high + rule.few_spread * (high - low))


def _usual_steps(run: RunFacts, normals: Normals, percent: int) -> int:
    return normals.steps(run.last_time_us, run.tenant_id, run.workflow, percent) or 0


def denials(
    rules: Iterable[DenialsInRun], run: RunFacts, memory: RunMemory, event: PolicyDecided | ToolCallCompleted
) -> list[Said]:
    """Policies deny one action after another; `event` is a denial, noted already."""
    said: list[Said] = []
    for rule in rules:
        since = run.last_time_us - rule.window_us if rule.window_us else -1
        seen = sum(at >= since for at in memory.denials)
        if seen >= max(rule.denials, rule.min_volume):
            what = event.action if isinstance(event, PolicyDecided) else event.tool
            text = f"{seen} actions denied, last {short(what) or '(unnamed)'}"
            said += say(run, memory, Found(rule, text, "", seen, seen, rule.denials), event.event_id)
    return said


def denied_decision(
    rules: Iterable[UnsafeAction], run: RunFacts, memory: RunMemory, decided: PolicyDecided
) -> list[Said]:
    """A policy denied what it holds for risky."""
    said: list[Said] = []
    for rule in rules:
        if decided.verdict == "deny" and decided.risk_tier in rule.risk_tiers:
            text = f"{short(decided.action) or 'an action'} denied by {short(decided.policy) or 'policy'}"
            text += f" {short(decided.rule)}".rstrip() + f", risk {short(decided.risk_tier)}"
            said += say(run, memory, Found(rule, text), decided.event_id)
    return said


def denied_call(rules: Iterable[UnsafeAction], run: RunFacts, memory: RunMemory, call: ToolCallCompleted) -> list[Said]:
    """A call with an effect was denied; or was made though it had been."""
    said: list[Said] = []
    was_denied = call.policy_decision_id is not None and hash_of(call.policy_decision_id) in memory.denied
    for rule in rules:
        if call.effect not in rule.effects or call.dry_run:
            continue
        if call.status != "denied" and was_denied:
            text = f"{call.effect} by tool {short(call.tool)} was made though policy had denied it"
            said += say(run, memory, Found(rule, text, "done"), call.event_id)
        elif call.status == "denied" and not (was_denied and is_open(memory, rule)):
            text = f"{call.effect} by tool {short(call.tool)} was denied"
            said += say(run, memory, Found(rule, text), call.event_id)
    return said


def undecided_write(
    rules: Iterable[WriteWithoutDecision],
    run: RunFacts,
    memory: RunMemory,
    call: ToolCallCompleted,
    normals: Normals,
) -> list[Said]:
    """A call that changed something and that no decision allows; where it names one, that may still come."""
    said: list[Said] = []
    for rule in rules:
        if call.effect not in rule.effects or call.dry_run or call.status == "denied":
            continue
        named = call.policy_decision_id
        place = None if named is None else hash_of(named)
        if place is not None and (place in memory.allowed or memory.forgot_decisions):
            continue
        if place is None and not _is_under_policy(rule, run, memory, normals):
            continue
        known = place is not None and (place in memory.denied or place in memory.to_approve)
        if place is not None and not known and rule.grace_us and len(memory.awaited) < AWAITED_MAX:
            memory.awaited.setdefault(str(place), [run.last_time_us, call.tool[:80], call.event_id, call.effect])
            continue
        said += say(run, memory, Found(rule, _undecided_text(call.tool, call.effect)), call.event_id)
    return said


def awaited_decision(
    rules: Iterable[WriteWithoutDecision], run: RunFacts, memory: RunMemory, decided: PolicyDecided
) -> list[Said]:
    """A decision came that a call had named before: it allows the call, or it doesn't."""
    if not memory.awaited:
        return []
    waiting = memory.awaited.pop(str(hash_of(decided.event_id)), None)
    if waiting is None or decided.verdict == "allow":
        return []
    _, tool, event_id, effect = waiting
    said: list[Said] = []
    for rule in rules:
        if effect in rule.effects:
            said += say(run, memory, Found(rule, _undecided_text(tool, effect)), event_id)
    return said


def undecided_for_too_long(
    rules: Iterable[WriteWithoutDecision], run: RunFacts, memory: RunMemory, now_us: int
) -> list[Said]:
    """The decision that a call named has not come."""
    said: list[Said] = []
    rules = tuple(rules)
    grace_us = max((rule.grace_us for rule in rules), default=0)
    for place, (since_us, tool, event_id, effect) in list(memory.awaited.items()):
        if now_us < since_us + grace_us:
            continue
        del memory.awaited[place]
        for rule in rules:
            if effect in rule.effects:
                said += say(run, memory, Found(rule, _undecided_text(tool, effect)), event_id)
    return said


def decision_deadlines(rules: Iterable[WriteWithoutDecision], memory: RunMemory) -> list[int]:
    """When a decision that was named is given up."""
    if not memory.awaited:
        return []
    grace_us = max((rule.grace_us for rule in rules), default=0)
    return [since_us + grace_us for since_us, *_ in memory.awaited.values()]


def _undecided_text(tool: str, effect: str) -> str:
    return f"{effect} by tool {short(tool)} without a policy decision that allows it"


def _is_under_policy(rule: WriteWithoutDecision, run: RunFacts, memory: RunMemory, normals: Normals) -> bool:
    if rule.policy_in_use == "always" or memory.policy_seen:
        return True
    if rule.policy_in_use == "seen":
        return False
    normal = normals.of(run.last_time_us, run.tenant_id, run.workflow)
    return normal.runs >= rule.min_volume and 2 * normal.under_policy >= normal.runs


def slow_approvals(rules: Iterable[SlowApproval], run: RunFacts, memory: RunMemory, now_us: int) -> list[Said]:
    """A person was asked and has not answered."""
    said: list[Said] = []
    for rule in rules:
        late = [asked for asked in memory.approvals.values() if now_us >= asked + rule.window_us]
        if late and not is_open(memory, rule):
            asked = min(late)
            text = f"no answer to a request for approval for {_minutes(now_us - asked)}"
            found = Found(rule, text, "", len(late), _seconds(now_us - asked), _seconds(rule.window_us), asked, now_us)
            said += say(run, memory, found, None)
    return said


def approval_deadlines(rules: Iterable[SlowApproval], run: RunFacts, memory: RunMemory) -> list[int]:
    """When an answer is late."""
    if not memory.approvals:
        return []
    oldest = min(memory.approvals.values())
    return [oldest + rule.window_us for rule in rules if not is_open(memory, rule)]


def stuck(rules: Iterable[StuckRun], run: RunFacts, memory: RunMemory, now_us: int) -> list[Said]:
    """Nothing was heard of a run that has not ended, and nobody is asked for anything."""
    if run.started_us is None or memory.approvals:
        return []
    said: list[Said] = []
    silent_us = now_us - run.last_time_us
    for rule in rules:
        if silent_us >= rule.window_us and not is_open(memory, rule):
            text = f"nothing heard of the run for {_minutes(silent_us)}, and it has not ended"
            seconds, limit = _seconds(silent_us), _seconds(rule.window_us)
            found = Found(rule, text, "", 1, seconds, limit, run.last_time_us, now_us)
            said += say(run, memory, found, None)
    return said


def stuck_deadlines(rules: Iterable[StuckRun], run: RunFacts, memory: RunMemory) -> list[int]:
    """When a silent run is stuck."""
    if run.started_us is None or memory.approvals:
        return []
    return [run.last_time_us + rule.window_us for rule in rules if not is_open(memory, rule)]


def silent_failure(
    rules: Iterable[SilentFailure], run: RunFacts, memory: RunMemory, event: RunFinished | OutcomeRecorded
) -> list[Said]:
    """The run says that it succeeded, the outcome that it did not."""
    said: list[Said] = []
    failed = run.finished and run.run_status == "succeeded" and run.outcome_success is False
    for rule in rules:
        if failed and not is_open(memory, rule):
            text = f"workflow {short(run.workflow) or '(none)'}: the run says it succeeded, its outcome says it failed"
            said += say(run, memory, Found(rule, text), event.event_id)
        elif not failed and rule.resolve == "condition_ends":
            said += resolve(run, memory, rule, "condition_ended")
    return said


def cost_mismatch(
    rules: Iterable[CostMismatch], run: RunFacts, memory: RunMemory, call: ModelCallCompleted
) -> list[Said]:
    """Our cost of the run's calls and the provider's are far apart."""
    said: list[Said] = []
    apart = abs(memory.cost_nanousd - memory.reported_nanousd)
    for rule in rules:
        limit = max(rule.floor_nanousd, memory.reported_nanousd * rule.percent / 100)
        if apart > limit and memory.compared >= rule.min_volume:
            if is_counted(run, memory, rule, memory.compared):
                continue
            text = f"{memory.compared} calls cost {format_usd(memory.cost_nanousd)} by our prices"
            text += f" and {format_usd(memory.reported_nanousd)} by the provider"
            found = Found(rule, text, "", memory.compared, float(memory.cost_nanousd), float(memory.reported_nanousd))
            said += say(run, memory, found, call.event_id)
        elif apart <= limit and rule.resolve == "condition_ends" and memory.alerts:
            said += resolve(run, memory, rule, "condition_ended")
    return said


def clock_skew(rules: Iterable[ClockSkew], run: RunFacts, memory: RunMemory, event: Event) -> list[Said]:
    """The producer's clock and the ledger's are far apart."""
    apart_us = event.occurred_at - run.last_time_us
    said: list[Said] = []
    off = any(apart_us > rule.ahead_us or -apart_us > rule.behind_us for rule in rules)
    if not off and not memory.skewed:
        return []
    memory.skewed = memory.skewed + 1 if off else 0
    for rule in rules:
        ahead, behind = apart_us > rule.ahead_us, -apart_us > rule.behind_us
        if (ahead or behind) and memory.skewed >= rule.min_volume:
            side, limit = ("ahead of", rule.ahead_us) if ahead else ("behind", rule.behind_us)
            text = f"the clock of producer {short(event.producer_id)} is {_minutes(abs(apart_us))} {side} the ledger's"
            found = Found(rule, text, "", memory.skewed, _seconds(apart_us), _seconds(limit))
            said += say(run, memory, found, event.event_id)
        elif not (ahead or behind) and rule.resolve == "condition_ends":
            said += resolve(run, memory, rule, "condition_ended")
    return said


def conflict(rules: Iterable[Conflict], run: RunFacts, memory: RunMemory, event: ConflictDetected) -> list[Said]:
    """An event id came with other content."""
    said: list[Said] = []
    for rule in rules:
        text = f"event {event.conflicting_event_id} came again with other content, at {short(event.place)}"
        said += say(run, memory, Found(rule, text), event.event_id)
    return said


def unpriced(
    rules: Iterable[UnpricedModel], run: RunFacts, memory: RunMemory, call: ModelCallCompleted, reason: str
) -> list[Said]:
    """A call of a model without a price."""
    said: list[Said] = []
    model = call.answered_model or call.requested_model
    for rule in rules:
        text = f"no price for model {short(model) or '(none)'} of provider {short(call.provider) or '(none)'}: {reason}"
        said += say(run, memory, Found(rule, text, model[:200]), call.event_id)
    return said


def _seconds(microseconds: int) -> float:
    return microseconds / 1_000_000


def _minutes(microseconds: int) -> str:
    seconds = microseconds // 1_000_000
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
