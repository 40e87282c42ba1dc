"""Rules about calls over all runs of a tenant: error rate and latency per tool and model, bursts of denials, prices."""

from __future__ import annotations

from typing import Any

from agentledger.processors.partial_records import Partial, names_of
from agentledger.processors.rules.models import DenialBurst, ErrorRate, Latency, UnpricedModel
from agentledger.processors.scope_events import Conclusions, Finding, short
from agentledger.processors.scope_watch import (
    WINDOW_SLOTS,
    Memory,
    RuleWatch,
    add_to_slot,
    slot_width_s,
    subject_of,
    sum_since,
)
from agentledger.processors.sketch import quantile

BASELINE_SLOTS = 8


class ErrorRateWatch(RuleWatch[ErrorRate]):
    """Subjects are tools or models; memory: subject to [[slot, calls, errors], …]."""

    def observe(self, out: Conclusions, second: Partial, added: dict[str, dict[str, int]]) -> None:
        """Count calls and errors."""
        if not self.applies(out):
            return
        subjects = self.memory(out).setdefault("subjects", {})
        slot = out.second // self.step_s()
        for name, (calls, errors, _) in (second.tools if self.rule.scope == "tool" else second.models).items():
            slots = subject_of(subjects, name, [], is_idle=lambda known: known[-1][0] < slot - WINDOW_SLOTS)
            if slots is not None:
                add_to_slot(slots, slot, slot - WINDOW_SLOTS, [calls, errors])
                self.touch(out, name)

    def holds(self, out: Conclusions, memory: Memory, subject: str) -> Finding | None:
        """The share of errors is too high; while it is open, not yet down at `resolve_percent`."""
        slots = memory.get("subjects", {}).get(subject, [])
        oldest = out.second // self.step_s() - WINDOW_SLOTS
        calls, errors = sum_since(slots, oldest), sum_since(slots, oldest, 2)
        is_open = subject in memory["open"]
        if calls < (1 if is_open else self.rule.min_volume):
            return None
        share = 100 * errors / calls
        if share < self.rule.percent and not (is_open and share > self.rule.resolve_percent):
            return None
        summary = f"{self.rule.scope} {short(subject)}: {errors:,} of {calls:,} calls failed ({share:.0f} %)"
        return self.finding(self.rule.scope, subject, summary, observed=share, expected=self.rule.percent)

    def step_s(self) -> int:
        """A slot."""
        return slot_width_s(self.rule.window_us)


class LatencyWatch(RuleWatch[Latency]):
    """Subjects are tools or models; memory: subject to [slots of the window, slots of the baseline], with sketches."""

    def observe(self, out: Conclusions, second: Partial, added: dict[str, dict[str, int]]) -> None:
        """Merge the sketches of the second."""
        if not self.applies(out):
            return
        subjects = self.memory(out).setdefault("subjects", {})
        slot, base_slot = out.second // self.step_s(), out.second // self._base_step_s()
        for name, (_, _, latency) in (second.tools if self.rule.scope == "tool" else second.models).items():
            if not latency:
                continue
            known = subject_of(subjects, name, [[], []], is_idle=lambda item: item[0][-1][0] < slot - WINDOW_SLOTS)
            if known is None:
                continue
            _merge_slot(known[0], slot, slot - WINDOW_SLOTS, latency)
            if self.rule.times is not None:
                _merge_slot(known[1], base_slot, base_slot - BASELINE_SLOTS, latency)
            self.touch(out, name)

    def holds(self, out: Conclusions, memory: Memory, subject: str) -> Finding | None:
        """The quantile over the window is above the limit, and above so many times the baseline's."""
        window, baseline = memory.get("subjects", {}).get(subject, [[], []])
        sketch = _joined_since(window, out.second // self.step_s() - WINDOW_SLOTS)
        observed = quantile(sketch, self.rule.quantile_percent)
        if observed is None or sum(sketch.values()) < self.rule.min_volume:
            return None
        limit = float(self.rule.limit_us)
        if self.rule.times is not None:
            base_slot = out.second // self._base_step_s()
            older = [item for item in baseline if item[0] < base_slot]
            usual = quantile(_joined_since(older, base_slot - BASELINE_SLOTS), self.rule.quantile_percent)
            if usual is None:
                return None
            limit = max(limit, self.rule.times * usual)
        if observed <= limit:
            return None
        text = f"p{self.rule.quantile_percent} of {short(subject)} is {observed / 1e6:.1f} s"
        return self.finding(
            self.rule.scope,
            subject,
            f"{self.rule.scope} {text}, over {limit / 1e6:.1f} s",
            observed=float(observed),
            expected=limit,
        )

    def step_s(self) -> int:
        """A slot."""
        return slot_width_s(self.rule.window_us)

    def _base_step_s(self) -> int:
        return slot_width_s(self.rule.baseline_us, BASELINE_SLOTS)


class DenialWatch(RuleWatch[DenialBurst]):
    """Subjects are agents or the tenant, with the target where `dedup` says so; memory: [[slot, denials], …]."""

    where_known = frozenset({"agent"})

    def observe(self, out: Conclusions, second: Partial, added: dict[str, dict[str, int]]) -> None:
        """Count denials."""
        if not self.applies(out) or not second.denials:
            return
        subjects = self.memory(out).setdefault("subjects", {})
        slot = out.second // self.step_s()
        for key, count in sorted(second.denials.items()):
            agent_id, target = names_of(key)
            if not self.rule.where.matches(tenant=out.state.tenant_id, agent=agent_id):
                continue
            who = agent_id if self.rule.scope == "agent" else out.state.tenant_id
            subject = f"{who}\x1f{target}" if self.rule.dedup == "target" else who
            slots = subject_of(subjects, subject, [], is_idle=lambda known: known[-1][0] < slot - WINDOW_SLOTS)
            if slots is not None:
                add_to_slot(slots, slot, slot - WINDOW_SLOTS, [count])
                self.touch(out, subject)

    def holds(self, out: Conclusions, memory: Memory, subject: str) -> Finding | None:
        """So many denials within the window."""
        slots = memory.get("subjects", {}).get(subject, [])
        denials = sum_since(slots, out.second // self.step_s() - WINDOW_SLOTS)
        if denials < max(self.rule.denials, self.rule.min_volume):
            return None
        who, _, target = subject.partition("\x1f")
        text = f"{self.rule.scope} {short(who)}: {denials:,} denials" + (f" of {short(target)}" if target else "")
        return self.finding(
            self.rule.scope, who, text, subject=target, observed=float(denials), expected=float(self.rule.denials)
        )

    def step_s(self) -> int:
        """A slot."""
        return slot_width_s(self.rule.window_us)


class UnpricedWatch(RuleWatch[UnpricedModel]):
    """Subjects are models without a price; memory: subject to calls."""

    def observe(self, out: Conclusions, second: Partial, added: dict[str, dict[str, int]]) -> None:
        """Count calls without a price."""
        if not self.applies(out) or not second.unpriced:
            return
        subjects: dict[str, Any] = self.memory(out).setdefault("subjects", {})
        for model, count in sorted(second.unpriced.items()):
            known = subject_of(subjects, model, [0])
            if known is not None:
                known[0] += count
                self.touch(out, model)

    def holds(self, out: Conclusions, memory: Memory, subject: str) -> Finding | None:
        """The model has no price."""
        calls = memory.get("subjects", {}).get(subject, [0])[0]
        if calls < self.rule.min_volume:
            return None
        text = f"no price for model {short(subject) or '(none)'}: {calls:,} calls"
        return self.finding("model", subject, text, observed=float(calls))


def _merge_slot(slots: list[Any], slot: int, oldest: int, latency: dict[int, int]) -> None:
    while slots and slots[0][0] < oldest:
        slots.pop(0)
    if not slots or slots[-1][0] < slot:
        slots.append([slot, {}])
    sketch = slots[-1][1]
    for place, count in latency.items():
        sketch[str(place)] = sketch.get(str(place), 0) + count


def _joined_since(slots: list[Any], oldest: int) -> dict[int, int]:
    joined: dict[int, int] = {}
    for slot, sketch in slots:
        if slot >= oldest:
            for place, count in sketch.items():
                joined[int(place)] = joined.get(int(place), 0) + count
    return joined
