"""Fifty clients against a simple model that keeps every hold and every report and adds them up anew each time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentledger.processors.hold_rules import RENEWED_US_MAX
from agentledger.processors.hold_state import ASKED as METRICS
from agentledger.schemas.events import (
    BudgetHeld,
    BudgetReleased,
    BudgetSettled,
    Event,
    HoldDecided,
    HoldReported,
    HoldRequested,
)
from tests.hold_logs import SECOND_US, T0_US, HoldLog, of

CLIENTS = 50
TTL_S = 60
DAY_US = 86_400 * SECOND_US
AMOUNTS = st.integers(0, 40)


@dataclass
class Limit:
    """One declared limit, as the model sees it."""

    budget_id: str
    metric: str
    scope: str
    scope_value: str
    amount: int
    window: str


LIMITS = (
    Limit("tenant-money", "cost_nanousd", "tenant", "", 500, "total"),
    Limit("team-money", "cost_nanousd", "team", "red", 200, "day"),
    Limit("agent-money", "cost_nanousd", "agent", "", 150, "day"),
    Limit("user-tokens", "tokens", "user", "", 120, "day"),
    Limit("run-money", "cost_nanousd", "run", "", 90, "run"),
    Limit("tier-calls", "tool_calls", "label:tier", "gold", 6, "hour"),
    Limit("agent-per-run", "cost_nanousd", "agent", "agent-0", 70, "run"),
)


@dataclass
class ModelHold:
    """One request."""

    asks: dict[str, int]
    fields: dict[str, Any]
    time_us: int
    granted: bool
    expires_us: int
    expired: bool = False
    over_us: int | None = None  # when it ended: settled, released or expired
    uses: list[tuple[int, dict[str, int], bool]] = field(default_factory=list)  # when, what, whether it was held
    places: dict[str, tuple[str, str] | None] = field(default_factory=dict)

    def place(self, limit: Limit) -> tuple[str, str] | None:
        """The account of this limit that the call falls under, or None."""
        if limit.budget_id not in self.places:
            self.places[limit.budget_id] = place_of(limit, self.fields)
        return self.places[limit.budget_id]

    def may_repeat(self, now_us: int) -> bool:
        """Whether a client would still say anything about it: within seconds after it was done, a day if it is dead."""
        if self.granted and self.over_us is None:
            return True
        if self.expired and not self.uses:
            return True
        done_us = self.uses[0][0] if self.uses else self.over_us or self.time_us
        return now_us - done_us < 100 * SECOND_US


def client_fields(number: int) -> dict[str, Any]:
    """Whose calls this client makes: nested scopes, shared among clients in different ways."""
    labels = {"team": "red" if number % 3 else "blue"}
    if number % 4 == 0:
        labels["tier"] = "gold"
    return {
        "agent_id": f"agent-{number % 5}",
        "run_id": f"run-{number % 10}",
        "actor": f"user-{number % 7}",
        "labels": labels,
    }


def value_in(scope: str, fields: dict[str, Any]) -> str:
    """The value that a client has in a scope."""
    if scope == "tenant":
        return "acme"
    if scope == "team":
        return str(fields["labels"].get("team", ""))
    if scope == "label:tier":
        return str(fields["labels"].get("tier", ""))
    names = {"agent": "agent_id", "user": "actor", "run": "run_id"}
    return str(fields[names[scope]])


def place_of(limit: Limit, fields: dict[str, Any]) -> tuple[str, str] | None:
    """The account that a call falls under, or None."""
    value = value_in(limit.scope, fields)
    if not value or (limit.scope_value and value != limit.scope_value):
        return None
    return value, fields["run_id"] if limit.window == "run" else ""


def begins(limit: Limit, time_us: int) -> int:
    """The beginning of the limit's window at this time."""
    length = {"day": DAY_US, "hour": 3600 * SECOND_US}.get(limit.window)
    return 0 if length is None else time_us - time_us % length


class Holds(RuleBasedStateMachine):
    """Random requests, reports, repetitions, deaths, silence and crashes."""

    @initialize(start_s=st.integers(0, 86_400))
    def begin(self, start_s: int) -> None:
        self.log = HoldLog()
        self.now = T0_US - T0_US % DAY_US + start_s * SECOND_US
        self.holds: dict[str, ModelHold] = {}
        self.count = 0
        self.version = 0
        self.limits = [replace(limit) for limit in LIMITS]
        self.lowered: list[tuple[int, str, tuple[str, str], int]] = []  # when, budget, place, by how much it was over
        for limit in self.limits:
            self.declare(limit)

    def declare(self, limit: Limit) -> list[Event]:
        self.version += 1
        return self.log.declare(
            self.now,
            budget_id=limit.budget_id,
            budget_version=self.version,
            metric=limit.metric,
            scope=limit.scope,
            scope_value=limit.scope_value,
            limit_amount=limit.amount,
            window=limit.window,
        )

    # What the model says

    def expire(self) -> None:
        for hold in self.holds.values():
            if hold.granted and hold.over_us is None and hold.expires_us <= self.now:
                hold.over_us = hold.expires_us
                hold.expired = True

    def held(self, limit: Limit, place: tuple[str, str]) -> int:
        return sum(
            hold.asks[limit.metric]
            for hold in self.holds.values()
            if hold.granted and hold.over_us is None and hold.place(limit) == place
        )

    def used(self, limit: Limit, place: tuple[str, str]) -> int:
        return sum(
            used[limit.metric]
            for hold in self.holds.values()
            for when_us, used, _ in hold.uses
            if hold.place(limit) == place and when_us >= begins(limit, self.now)
        )

    def bound(self, limit: Limit, place: tuple[str, str]) -> int:
        """The published bound: what calls used beyond what was held for them in this window, and what changes took."""
        lowered = sum(
            over
            for when_us, budget_id, where, over in self.lowered
            if (budget_id, where) == (limit.budget_id, place) and when_us >= begins(limit, self.now)
        )
        return lowered + sum(
            max(0, used[limit.metric] - (hold.asks[limit.metric] if was_held else 0))
            for hold in self.holds.values()
            for when_us, used, was_held in hold.uses
            if hold.place(limit) == place and when_us >= begins(limit, self.now)
        )

    def allows(self, asks: dict[str, int], fields: dict[str, Any]) -> bool:
        for limit in self.limits:
            place = place_of(limit, fields)
            ask = asks[limit.metric]
            if place is not None and ask and self.used(limit, place) + self.held(limit, place) + ask > limit.amount:
                return False
        return True

    def one_of(self, pick: int) -> tuple[str, ModelHold]:
        repeatable = [(hold_id, hold) for hold_id, hold in self.holds.items() if hold.may_repeat(self.now)]
        return repeatable[pick % len(repeatable)]

    # What clients do

    @rule(client=st.integers(0, CLIENTS - 1), cost=AMOUNTS, tokens=AMOUNTS, tools=st.integers(0, 2))
    def request(self, client: int, cost: int, tokens: int, tools: int) -> None:
        self.expire()
        fields, hold_id = client_fields(client), f"hold-{self.count}"
        self.count += 1
        asks = dict(zip(METRICS, (cost, tokens, 0, tools), strict=True))
        is_valid = any(asks.values())
        should = is_valid and self.allows(asks, fields)
        derived = self.ask(hold_id, asks, fields)
        [decided] = of(HoldDecided, derived)
        assert (decided.verdict == "granted") == should, decided
        assert len(of(BudgetHeld, derived)) == (
            sum(bool(asks[limit.metric] and place_of(limit, fields)) for limit in self.limits) if should else 0
        )
        self.holds[hold_id] = ModelHold(asks, fields, self.now, should, self.now + TTL_S * SECOND_US)

    def ask(self, hold_id: str, asks: dict[str, int], fields: dict[str, Any]) -> list[Event]:
        names = ("ask_cost_nanousd", "ask_tokens", "ask_model_calls", "ask_tool_calls")
        named = dict(zip(names, asks.values(), strict=True))
        return self.log.take(HoldRequested, self.now, hold_id=hold_id, ttl_ms=TTL_S * 1000, **named, **fields)

    @rule(pick=st.integers(0), share=st.integers(0, 3), beyond=st.integers(0, 30), tokens=AMOUNTS)
    def settle(self, pick: int, share: int, beyond: int, tokens: int) -> None:
        """Report any hold: on time or late, granted or refused, for the first time or again."""
        self.expire()
        if not any(hold.may_repeat(self.now) for hold in self.holds.values()):
            return
        hold_id, hold = self.one_of(pick)
        used = {
            "cost_nanousd": hold.asks["cost_nanousd"] * share // 3 + (beyond if beyond > 25 else 0),
            "tokens": tokens,
            "model_calls": 0,
            "tool_calls": hold.asks["tool_calls"],
        }
        names = ("actual_cost_nanousd", "actual_tokens", "actual_model_calls", "actual_tool_calls")
        derived = self.log.take(
            HoldReported,
            self.now,
            hold_id=hold_id,
            action="settle",
            **dict(zip(names, used.values(), strict=True)),
            **hold.fields,
        )
        settled = of(BudgetSettled, derived)
        if hold.uses:
            assert settled == []  # a repetition
            return
        was_held = hold.granted and hold.over_us is None
        hold.uses.append((self.now, used, was_held))
        hold.over_us = hold.over_us or self.now
        for event in settled:
            self.compare(event)

    @rule(pick=st.integers(0))
    def release(self, pick: int) -> None:
        self.expire()
        if not any(hold.may_repeat(self.now) for hold in self.holds.values()):
            return
        hold_id, hold = self.one_of(pick)
        was_held = hold.granted and hold.over_us is None
        derived = self.log.take(HoldReported, self.now, hold_id=hold_id, action="release", **hold.fields)
        if was_held:
            hold.over_us = self.now
        own = [item for item in of(BudgetReleased, derived) if item.hold_id == hold_id and item.reason == "released"]
        assert bool(own) == (was_held and any(hold.asks[limit.metric] and hold.place(limit) for limit in self.limits))
        for event in own:
            self.compare(event)

    @rule(pick=st.integers(0))
    def renew(self, pick: int) -> None:
        """Say that the call goes on: what is open stays open for as long again, and nothing else happens."""
        self.expire()
        if not any(hold.may_repeat(self.now) for hold in self.holds.values()):
            return
        hold_id, hold = self.one_of(pick)
        derived = self.log.take(HoldReported, self.now, hold_id=hold_id, action="renew", **hold.fields)
        own = [item for item in of(BudgetHeld, derived) if item.hold_id == hold_id]
        until_us = min(self.now + TTL_S * SECOND_US, hold.time_us + RENEWED_US_MAX)
        if hold.granted and hold.over_us is None and until_us > hold.expires_us:
            hold.expires_us = until_us
            assert len(own) == sum(bool(hold.asks[limit.metric] and hold.place(limit)) for limit in self.limits)
            assert {(item.amount, item.expires_at) for item in own} <= {(0, until_us)}
        else:
            assert own == []

    @rule(pick=st.integers(0))
    def retry(self, pick: int) -> None:
        """Repeat a request: the same answer, byte for byte."""
        self.expire()
        if not any(hold.may_repeat(self.now) for hold in self.holds.values()):
            return
        hold_id, hold = self.one_of(pick)
        before = len(self.log.derived)
        passed = len(self.log.tick(self.now))
        [decided] = self.ask(hold_id, hold.asks, hold.fields)
        assert isinstance(decided, HoldDecided)
        assert (decided.verdict == "granted") == hold.granted
        assert len(self.log.derived) == before + passed

    @rule(seconds=st.sampled_from([1, 10, 30, 61, 3600]), is_silent=st.booleans())
    def wait(self, seconds: int, is_silent: bool) -> None:
        """Time passes; owners that say nothing meanwhile are dead."""
        self.now += seconds * SECOND_US
        if is_silent:
            return
        for event in of(BudgetReleased, self.log.tick(self.now)):
            assert event.reason == "expired"
            hold = self.holds[event.hold_id]
            assert hold.granted
            assert hold.over_us in {None, hold.expires_us}  # noted when the owner fell silent
            assert hold.expires_us <= self.now
        self.expire()

    @rule(pick=st.integers(0, len(LIMITS) - 1), amount=st.integers(0, 500))
    def change(self, pick: int, amount: int) -> None:
        """Raise or lower a limit: what is used and held stays, and counts against the new one."""
        self.log.tick(self.now)
        self.expire()
        limit = self.limits[pick]
        limit.amount = amount
        self.declare(limit)
        for place in {hold.place(limit) for hold in self.holds.values()} - {None}:
            assert place is not None
            over = self.used(limit, place) + self.held(limit, place) - amount
            self.lowered.append((self.now, limit.budget_id, place, max(0, over)))

    # What the machine does

    @rule()
    def commit(self) -> None:
        self.log.commit()

    @rule(keep=st.integers(0, 12))
    def crash(self, keep: int) -> None:
        """All derived events are out, only some of the states are written; `HoldLog` compares bytes on the replay."""
        self.log.crash(keep)

    def compare(self, event: BudgetSettled | BudgetReleased) -> None:
        """What an event says of its account is what the model adds up."""
        fields = self.holds[event.hold_id].fields
        [limit] = [limit for limit in self.limits if limit.budget_id == event.budget_id]
        place = place_of(limit, fields)
        assert place is not None
        assert (event.held_amount, event.used_amount) == (self.held(limit, place), self.used(limit, place)), event

    @invariant()
    def never_over_the_limit_by_more_than_the_bound(self) -> None:
        if not hasattr(self, "holds"):
            return
        self.expire()
        for limit in self.limits:
            for place in {hold.place(limit) for hold in self.holds.values()} - {None}:
                assert place is not None
                total = self.used(limit, place) + self.held(limit, place)
                assert total <= limit.amount + self.bound(limit, place)
        tenant = self.log.fold._tenant(self.log.partition, self.log.tenant_id)
        for account in tenant.book.accounts.values():
            assert account.used + account.held <= tenant.book.budget_of(account).limit + account.excess

    def teardown(self) -> None:
        """No hold is leaked: when all owners are dead, everything that was used is all that is left."""
        if not hasattr(self, "holds"):
            return
        self.now += 86_400 * SECOND_US
        self.log.crash()
        self.log.tick(self.now)
        self.expire()
        tried = set()
        for client in range(CLIENTS):
            fields = client_fields(client)
            for limit in self.limits:
                place = place_of(limit, fields)
                if place is None or (limit.budget_id, place) in tried:
                    continue
                tried.add((limit.budget_id, place))
                left = limit.amount - self.used(limit, place)
                asks = {**dict.fromkeys(METRICS, 0), limit.metric: max(1, left)}
                hold_id = f"end-{client}-{limit.budget_id}"
                [decided] = of(HoldDecided, self.ask(hold_id, asks, fields))
                assert (decided.verdict == "granted") == self.allows(asks, fields)
                self.log.take(HoldReported, self.now, hold_id=hold_id, action="release", **fields)


TestHolds = Holds.TestCase
TestHolds.settings = settings(
    max_examples=100, stateful_step_count=100, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
