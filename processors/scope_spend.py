"""Rules about spending over all runs of a tenant: budgets burnt too fast, and hours that cost far more than usual."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from agentledger.processors.budget_windows import window_ms_usual, zone
from agentledger.processors.budgets import amount_text
from agentledger.processors.partial_records import Partial, group_fields
from agentledger.processors.rules.models import BurnWindows, SpendBurnRate, SpendSpike
from agentledger.processors.scope_budgets import scope_value_of
from agentledger.processors.scope_events import Conclusions, Finding, short
from agentledger.processors.scope_state import NEVER
from agentledger.processors.scope_watch import (
    Memory,
    RuleWatch,
    add_to_slot,
    seconds,
    subject_of,
    sum_since,
)
from agentledger.schemas.money import format_usd

SHORT_SLOTS = 4  # of a short window; the long one, usually 12 times as long, is summed in the same slots
LONG_SLOTS_MAX = 200
IDLE_HOURS_MAX = 5 * 168  # hours without spending that are learnt one by one; what was longer ago counts as unknown
_HOUR_S = 3600
_MILLI = 1000
_SEPARATOR = "\x1e"


class BurnRateWatch(RuleWatch[SpendBurnRate]):
    """Subjects are scope values of budgets; memory: {"last", "slots": [[slot, amount], …] per pair}."""

    where_known = frozenset({"workflow", "agent"})

    def observe(self, out: Conclusions, second: Partial, added: dict[str, dict[str, int]]) -> None:
        """Add up what budgets counted."""
        if not self.applies(out):
            return
        subjects = self.memory(out).setdefault("subjects", {})

        def is_idle(known: dict[str, Any]) -> bool:
            return bool(known["last"] + seconds(self.rule.period_us) < out.second)

        for key, sums in sorted(added.items()):
            widths = self._widths(out, key)
            if not widths or not self._is_meant(out, key):
                continue
            for value, amount in sorted(sums.items()):
                subject = _SEPARATOR.join((key, str(self._period_us(out, key)), value))
                known = subject_of(subjects, subject, {"last": 0, "slots": [[] for _ in widths]}, is_idle=is_idle)
                if known is None:
                    continue
                known["last"] = out.second
                for slots, (width_s, _, long_slots) in zip(known["slots"], widths, strict=True):
                    slot = out.second // width_s
                    add_to_slot(slots, slot, slot - long_slots, [amount])
                self.touch(out, subject)

    def holds(self, out: Conclusions, memory: Memory, subject: str) -> Finding | None:
        """Both windows of some pair are over its rate; the first such pair, those with the worst severity first."""
        key, period, value = subject.split(_SEPARATOR, 2)
        watched, widths = out.state.budgets.get(key), self._widths(out, key)
        known = memory.get("subjects", {}).get(subject)
        period_us = self._period_us(out, key)
        if watched is None or not widths or known is None or period != str(period_us):
            return None
        limit = watched.declared["limit_amount"]
        found: Finding | None = None
        for pair, slots, (width_s, short_slots, long_slots) in zip(
            self.rule.windows, known["slots"], widths, strict=True
        ):
            now = out.second // width_s
            short_sum, long_sum = sum_since(slots, now - short_slots), sum_since(slots, now - long_slots)
            if short_slots * width_s * 1_000_000 < self.rule.short_min_us or long_sum < max(1, self.rule.min_volume):
                continue
            rate = round(pair.rate * _MILLI)
            if not all(
                amount * period_us * _MILLI >= rate * limit * window_us
                for amount, window_us in (
                    (short_sum, short_slots * width_s * 1_000_000),
                    (long_sum, long_slots * width_s * 1_000_000),
                )
            ):
                continue
            if found is None or (pair.severity == "critical" and found.severity != "critical"):
                observed = long_sum * period_us / (limit * long_slots * width_s * 1_000_000)
                seen = {"used": long_sum, "observed": observed, "long_s": long_slots * width_s}
                found = self._found(watched.declared, value, pair, **seen)
        return found

    def step_s(self) -> int:
        """The shortest slot that any budget may have; looked at only while an alert is open."""
        return 10

    def _found(self, declared: dict[str, Any], value: str, pair: BurnWindows, **seen: Any) -> Finding:
        amount, rate = amount_text(declared["metric"], seen["used"]), seen["observed"]
        what = f"{declared['scope']} {short(value)} burns budget {short(declared['budget_id'])}"
        return self.finding(
            declared["scope"],
            value,
            f"{what} {rate:.1f} times too fast: {amount} in {seen['long_s']:,} s",
            subject=f"{declared['budget_id']}\x1f{declared['metric']}",
            severity=pair.severity,
            observed=rate,
            expected=pair.rate,
        )

    def _is_meant(self, out: Conclusions, key: str) -> bool:
        declared, where = out.state.budgets[key].declared, self.rule.where
        named = {declared["scope"]: declared["scope_value"]}
        return where.matches(
            tenant=out.state.tenant_id, workflow=named.get("workflow", ""), agent=named.get("agent", "")
        )

    def _period_us(self, out: Conclusions, key: str) -> int:
        watched = out.state.budgets.get(key)
        if watched is None or watched.declared["limit_amount"] <= 0:
            return 0
        period_ms = window_ms_usual(watched.declared["window"], watched.declared["window_ms"])
        return (period_ms or 0) * 1000

    def _widths(self, out: Conclusions, key: str) -> list[tuple[int, int, int]]:
        """Per pair of windows, scaled to the budget's period: slot width in seconds, slots of the short and long one.

        Nothing shorter than a second can be told apart: the windows of a budget of less than a day are longer than
        scaled, the rates the same.
        """
        period_us = self._period_us(out, key)
        if not period_us:
            return []
        widths = []
        for pair in self.rule.windows:
            short_us = pair.short_us * period_us // self.rule.period_us
            width_s = max(1, short_us // SHORT_SLOTS // 1_000_000)
            short_slots = max(1, -(-short_us // (width_s * 1_000_000)))
            long_slots = min(LONG_SLOTS_MAX, max(short_slots + 1, short_slots * pair.long_us // pair.short_us))
            widths.append((width_s, short_slots, long_slots))
        return widths


class SpikeWatch(RuleWatch[SpendSpike]):
    """Subjects are scope values; memory: {"hour", "spent", "usual": {hour of week: [weeks, mean, dev.]}, "spiked"}.

    Mean and deviation are moving averages over the weeks (EWMA, deviation of the absolute error), in nano-dollars. An
    hour counts at most `clip_deviations` off, so that one spike doesn't make the next one usual. Hours without
    spending count as zero from the first one seen on.
    """

    where_known = frozenset({"workflow", "agent", "environment"})

    def observe(self, out: Conclusions, second: Partial, added: dict[str, dict[str, int]]) -> None:
        """Add up the hour's spending."""
        sums: dict[str, int] = {}
        for group, amounts in second.usage.items():
            fields, value = group_fields(group), scope_value_of(self.rule.scope, group, out.state.tenant_id)
            if value is not None and self.rule.where.matches(
                tenant=out.state.tenant_id,
                workflow=fields.workflow,
                agent=fields.agent_id,
                environment=fields.environment,
            ):
                sums[value] = sums.get(value, 0) + amounts[0]
        if not sums:
            return
        subjects = self.memory(out).setdefault("subjects", {})
        hour = out.second // _HOUR_S
        for value, amount in sorted(sums.items()):
            empty = {"hour": hour, "spent": 0, "usual": {}, "spiked": -1}
            known = subject_of(subjects, value, empty, is_idle=lambda item: item["hour"] < hour - IDLE_HOURS_MAX)
            if known is not None:
                self._turn(known, hour)
                known["spent"] += amount
                if known["spent"] > self._usual_and_limit(known)[1]:
                    known["spiked"] = hour
                    self.touch(out, value)

    def holds(self, out: Conclusions, memory: Memory, subject: str) -> Finding | None:
        """The hour is far over what is usual; while it is open: it, or the hour before it, was."""
        known = memory.get("subjects", {}).get(subject)
        if known is None:
            return None
        # An open alert outlasts the next hour, in which it may go on.
        if known["spiked"] < 0 or (out.second + 1) // _HOUR_S > known["spiked"] + 1:
            return None
        hour, spent = known["hour"], known["spent"]
        mean, limit = self._usual_and_limit(known)
        text = f"{self.rule.scope} {short(subject)} spent {format_usd(spent)} in this hour, usually {format_usd(mean)}"
        return self.finding(
            self.rule.scope,
            subject,
            text,
            observed=float(spent),
            expected=None if limit == NEVER else float(limit),
            window_start_us=hour * _HOUR_S * 1_000_000,
            window_end_us=(hour + 1) * _HOUR_S * 1_000_000,
        )

    def step_s(self) -> int:
        """An hour: the last second of it is where an alert ends."""
        return _HOUR_S

    def deadline(self, out: Conclusions) -> int:
        """The last second of an hour."""
        due = super().deadline(out)
        return due if not self._ends_itself() or due % _HOUR_S else max(out.second + 1, due - 1)

    def _usual_and_limit(self, known: dict[str, Any]) -> tuple[int, int]:
        """What this hour of the week usually costs, and what is too much; NEVER while too little is known."""
        weeks, mean, deviation = known["usual"].get(self._hour_of_week(known["hour"]), (0, 0, 0))
        if weeks < self.rule.min_volume:
            return mean, NEVER
        far = mean + round(self.rule.deviations * _MILLI) * deviation // _MILLI
        return mean, max(self.rule.floor_nanousd, far, round(self.rule.times * _MILLI) * mean // _MILLI)

    def _turn(self, known: dict[str, Any], hour: int) -> None:
        """Learn the hours that are over."""
        first = max(known["hour"], hour - IDLE_HOURS_MAX)
        for over in range(first, hour):
            self._learn(known["usual"], self._hour_of_week(over), known["spent"] if over == known["hour"] else 0)
        if hour > known["hour"]:
            known["hour"], known["spent"] = hour, 0

    def _learn(self, usual: dict[str, Any], name: str, spent: int) -> None:
        weeks, mean, deviation = usual.get(name, (0, 0, 0))
        if not weeks:
            usual[name] = [1, spent, 0]
            return
        alpha = round(self.rule.alpha * _MILLI)
        if weeks >= self.rule.min_volume and deviation:
            most = round(self.rule.clip_deviations * _MILLI) * deviation // _MILLI
            spent = min(max(spent, mean - most), mean + most)
        off = spent - mean
        usual[name] = [
            weeks + 1,
            mean + off * alpha // _MILLI,
            deviation + (abs(off) - deviation) * alpha // _MILLI,
        ]

    def _hour_of_week(self, hour: int) -> str:
        local = datetime.fromtimestamp(hour * _HOUR_S, UTC).astimezone(zone(self.rule.time_zone))
        return str(local.weekday() * 24 + local.hour)
