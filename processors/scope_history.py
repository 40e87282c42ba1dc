"""Rules about what was seen before: holes in the numbers of producers, and versions that are new."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from agentledger.processors.partial_records import SEQ_BLOCK_BITS, Partial, names_of, pair
from agentledger.processors.rules.models import NewVersion, SequenceGap
from agentledger.processors.scope_events import Conclusions, Finding, short
from agentledger.processors.scope_state import NEVER
from agentledger.processors.scope_watch import Memory, RuleWatch, seconds
from agentledger.schemas.events import GapDetected
from agentledger.schemas.identity import content_id

PRODUCERS_MAX = 2000  # with numbers of their own per tenant; those unheard of for longest give way
HOLES_MAX = 16  # reported holes of a producer that are remembered, so that late events can fill them
AHEAD_BLOCKS_MAX = 256  # blocks beyond a hole: 16,384 events; a hole before more than that is reported at once
VERSIONS_MAX = 2000  # per tenant; those that come after are not told apart
_BLOCK = 1 << SEQ_BLOCK_BITS
_FULL = (1 << _BLOCK) - 1


class GapWatch(RuleWatch[SequenceGap]):
    """Subjects are producers; memory: {"next", "ahead": {block: bits}, "since", "last", "holes": [[first, last]]}.

    Everything before `next` is there or was reported. `ahead` is what was seen beyond it, `since` the second in which
    that began. A producer counts from 0; after producers had to be forgotten, an unknown one from where it is first
    seen.
    """

    def observe(self, out: Conclusions, second: Partial, added: dict[str, dict[str, int]]) -> None:
        """Take in which numbers came."""
        if not self.applies(out) or not second.seqs:
            return
        memory = self.memory(out)
        producers: dict[str, Any] = memory.setdefault("producers", {})
        for name, blocks in sorted(second.seqs.items()):
            known = producers.get(name)
            if known is None:
                known = producers[name] = {"next": 0, "ahead": {}, "since": NEVER, "last": 0, "holes": []}
                if memory.get("forgotten"):
                    known["next"] = min(block << SEQ_BLOCK_BITS for block in blocks)
            known["last"] = out.second
            self._take(known, blocks)
            if known["ahead"]:
                known["since"] = min(known["since"], out.second)
                if len(known["ahead"]) > AHEAD_BLOCKS_MAX:
                    self._report(out, name, known)
            self.touch(out, name)
        if len(producers) > PRODUCERS_MAX:
            memory["forgotten"] = 1
            by_age = sorted((known["last"], name) for name, known in producers.items() if name not in memory["open"])
            for _, name in by_age[: len(producers) - PRODUCERS_MAX]:
                del producers[name]

    def pass_time(self, out: Conclusions) -> None:
        """Report holes that were not filled in time."""
        memory = out.state.rules.get(self.name)
        if memory is not None:
            wait_s = seconds(self.rule.window_us)
            for name, known in sorted(memory.get("producers", {}).items()):
                if known["since"] != NEVER and out.second - known["since"] >= wait_s:
                    self._report(out, name, known)
                    self.touch(out, name)
        super().pass_time(out)

    def deadline(self, out: Conclusions) -> int:
        """When the wait for the oldest hole is over."""
        memory = out.state.rules.get(self.name)
        due = super().deadline(out) if memory and not self._ends_itself() else NEVER
        for known in memory.get("producers", {}).values() if memory else ():
            if known["since"] != NEVER:
                due = min(due, max(out.second + 1, known["since"] + seconds(self.rule.window_us)))
        return due

    def holds(self, out: Conclusions, memory: Memory, subject: str) -> Finding | None:
        """Reported holes are open."""
        known = memory.get("producers", {}).get(subject)
        missing = sum(last - first + 1 for first, last in known["holes"]) if known else 0
        if missing < self.rule.min_volume:
            return None
        text = f"{missing:,} events of producer {short(subject)} are missing"
        return self.finding("producer", subject, text, observed=float(missing), expected=0.0)

    def _take(self, known: dict[str, Any], blocks: dict[int, int]) -> None:
        ahead = known["ahead"]
        for block, bits in sorted(blocks.items()):
            if (block + 1) << SEQ_BLOCK_BITS <= known["next"]:
                _fill(known["holes"], block, bits)
                continue
            if block << SEQ_BLOCK_BITS < known["next"]:
                _fill(known["holes"], block, bits)
            ahead[str(block)] = ahead.get(str(block), 0) | bits
        self._go_on(known)

    def _go_on(self, known: dict[str, Any]) -> None:
        """Move `next` over what is there."""
        ahead = known["ahead"]
        while True:
            block, bit = known["next"] >> SEQ_BLOCK_BITS, known["next"] & (_BLOCK - 1)
            bits = ahead.get(str(block), 0) >> bit
            run = ((bits + 1) & ~bits).bit_length() - 1  # how many ones from here on
            known["next"] += min(run, _BLOCK - bit)
            if known["next"] >> SEQ_BLOCK_BITS == block:
                if not ahead.get(str(block), 0) >> (known["next"] & (_BLOCK - 1)):
                    ahead.pop(str(block), None)
                break
            ahead.pop(str(block), None)
        if not ahead:
            known["since"] = NEVER

    def _report(self, out: Conclusions, name: str, known: dict[str, Any]) -> None:
        """Say every hole before the last number seen, and go on behind it: the first HOLES_MAX, and the rest as one."""
        for said in range(HOLES_MAX):
            if not known["ahead"]:
                break
            if said == HOLES_MAX - 1:
                _skip_to_last(known)
            first = known["next"]
            block = min(map(int, known["ahead"]))
            bits = known["ahead"][str(block)]
            if block << SEQ_BLOCK_BITS < first:
                bits &= _FULL << (first - (block << SEQ_BLOCK_BITS))
            found = (block << SEQ_BLOCK_BITS) + (bits & -bits).bit_length() - 1
            known["holes"] = [*known["holes"], [first, found - 1]][-HOLES_MAX:]
            self._say_gap(out, name, first, found - 1)
            known["next"] = found
            self._go_on(known)
        known["since"] = NEVER

    def _say_gap(self, out: Conclusions, name: str, first: int, last: int) -> None:
        event_id = content_id(out.now_us, "GapDetected", out.state.tenant_id, name, str(first), str(last))
        out.events.append(
            GapDetected(
                **out.envelope(event_id),
                gap_producer_id=name,
                first_missing_seq=first,
                last_missing_seq=last,
                reason="unknown",
                detected_by=f"scopes:{self.name}",
            )
        )


def _skip_to_last(known: dict[str, Any]) -> None:
    """Leave only the highest number that was seen: one hole reaches up to it."""
    block = max(map(int, known["ahead"]))
    known["ahead"] = {str(block): 1 << (known["ahead"][str(block)].bit_length() - 1)}


def _fill(holes: list[list[int]], block: int, bits: int) -> None:
    """Take numbers that came late out of the holes that were reported."""
    if not holes:
        return
    for bit in range(_BLOCK):
        if not bits >> bit & 1:
            continue
        seq = (block << SEQ_BLOCK_BITS) + bit
        for place, (first, last) in enumerate(holes):
            if first <= seq <= last:
                holes[place : place + 1] = [part for part in ([first, seq - 1], [seq + 1, last]) if part[0] <= part[1]]
                break


class NewVersionWatch(RuleWatch[NewVersion]):
    """Subjects are versions; memory: {"first": {workflow or tenant and kind: second}, "seen": {version: second}}."""

    where_known = frozenset({"workflow"})

    def observe(self, out: Conclusions, second: Partial, added: dict[str, dict[str, int]]) -> None:
        """Note what is seen for the first time."""
        if not self.applies(out):
            return
        found = [pair("model", "", model) for model in second.models if model] if "model" in self.rule.of else []
        for key in second.versions:
            kind, workflow, version = names_of(key)
            if kind in self.rule.of and self.rule.where.matches(tenant=out.state.tenant_id, workflow=workflow):
                found.append(pair(kind, workflow if self.rule.scope == "workflow" else "", version))
        if not found:
            return
        memory = self.memory(out)
        first, seen = memory.setdefault("first", {}), memory.setdefault("seen", {})
        for subject in sorted(found):
            if subject in seen or len(seen) >= VERSIONS_MAX:
                continue
            kind, workflow, _ = names_of(subject)
            since = first.setdefault(pair(kind, workflow), out.second)
            seen[subject] = out.second
            if out.second - since >= self.rule.window_us // 1_000_000 and since != out.second:
                self.touch(out, subject)

    def holds(self, out: Conclusions, memory: Memory, subject: str) -> Finding | None:
        """It was seen in this second for the first time."""
        if memory.get("seen", {}).get(subject) != out.second:
            return None
        kind, workflow, version = names_of(subject)
        scope, value = ("workflow", workflow) if workflow else ("tenant", out.state.tenant_id)
        since = datetime.fromtimestamp(memory["first"][pair(kind, workflow)], UTC)  # a changed rule starts anew
        text = f"{kind} {short(version)} is new in {scope} {short(value)}, watched since {since:%Y-%m-%d %H:%M} UTC"
        return self.finding(scope, value, text, subject=pair(kind, version))
