"""One tenant's holds: what is granted, refused, settled, released and expired. Pure; time is ledger time.

Decisions that hold here:

- A hold is granted on every budget that it falls under, or on none. It asks for the most that the call may use.
- `used + held + ask <= limit` is checked for each metric that is asked for; a metric that isn't is not checked, but
  what the call really used of it counts.
- Held amounts belong to the scope, used amounts to the window of the report: a closed window never changes.
- A hold without a report until its time is up is expired: given back. A report that comes later still counts what was
  really used, once, for LATE_US; so does one for a hold that was refused or released. Reports of unknown holds count
  nothing and raise an alert.
- A hold whose owner says that the call goes on is renewed, for as long again as it was granted for, RENEWED_US_MAX at
  most in all; one that has expired isn't: somebody else may hold its part by now.
- A repeated request gets the same decision again, byte for byte; a repeated report changes nothing.
- Who was refused asks again with a new hold id.
- A run's time runs from its first hold on. When it is up while a call is under way, or at the next request, it is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentledger.processors.hold_book import LEFTOVER_US, HoldBook
from agentledger.processors.hold_cells import Cells
from agentledger.processors.hold_events import VERDICT_FIELDS, HoldEvents
from agentledger.processors.hold_lines import HoldLines
from agentledger.processors.hold_state import (
    ASKED,
    INT64_MAX,
    TOOL_RETRIES,
    WALL_CLOCK,
    Account,
    Context,
    Halt,
    Head,
    Hold,
    ask_of,
    budget_of,
    clamped,
    context_of,
    cut,
    has_room,
)
from agentledger.schemas.errors import ConfigurationError
from agentledger.schemas.events import BudgetDeclared, ControlIssued, Event, HoldReported, HoldRequested

SECOND_US = 1_000_000
TTL_US_USUAL = 60 * SECOND_US  # where a request names none
TTL_US_MAX = 600 * SECOND_US  # how long a dead owner may block a budget
REMEMBERED_US = 120 * SECOND_US  # how long a repetition is known after a hold is done; clients repeat within seconds
RENEWED_US_MAX = 6 * 3600 * SECOND_US  # how long after its grant a hold can be renewed: nobody's call takes longer
LATE_US = 86_400 * SECOND_US  # how long an expired hold still takes its report
OUTSTANDING_MAX = 10_000  # holds of a tenant at a time: calls under way at once
KEPT_MAX = 200_000  # holds of a tenant kept in all, the done ones too: 1,600 a second, some 500 bytes each
BUDGETS_PER_REQUEST_MAX = 64  # each is one event per hold
DUE_PER_RECORD_MAX = 256  # holds and windows ended with one record; the others with the next, a second later at most
HOLD_ID_CHARS_MAX = 200


class TenantHolds:
    """Budgets, accounts and holds of one tenant in one partition, and what follows from its events."""

    def __init__(self, tenant_id: str, producer_id: str, head: Head, cells: Cells) -> None:
        self.head = head
        self.book = HoldBook(head, cells)
        self._says = HoldEvents(tenant_id, producer_id, head)
        self._lines = HoldLines(self.book, self._says)

    def is_due(self, time_us: int) -> bool:
        """Whether something happens by itself at this time: a hold expires, a window ends."""
        return self.book.due(time_us) is not None

    def take(self, event: Event, offset: int, time_us: int) -> list[Event]:
        """What follows from an event of this tenant, in order."""
        self._go_on(offset, time_us)
        derived = list(self._pass_time())
        if isinstance(event, HoldRequested):
            derived += self._request(event)
        elif isinstance(event, HoldReported):
            derived += self._report(event)
        elif isinstance(event, BudgetDeclared):
            derived += self._declare(event)
        elif isinstance(event, ControlIssued):
            halt = Halt(cut(event.scope), cut(event.scope_value), event.expires_at)
            self.book.halt(halt, is_on=event.command == "halt")
        return derived

    def take_time(self, offset: int, time_us: int) -> list[Event]:
        """What follows from time alone."""
        self._go_on(offset, time_us)
        return list(self._pass_time())

    def refuse_misplaced(self, event: HoldRequested, offset: int, time_us: int) -> list[Event]:
        """The refusal of a request that came to a partition where this tenant is not decided on."""
        self._go_on(offset, time_us)
        context = context_of(event)
        return [self._says.refused_for_good(event, context, f"misplaced {offset}", ["refused", "invalid"])]

    def _go_on(self, offset: int, time_us: int) -> None:
        self.head.offset = offset
        self.head.time_us = max(self.head.time_us, time_us)  # the broker's clock may step back

    # Requests

    def _request(self, request: HoldRequested) -> Iterator[Event]:
        known = self.book.holds.get(request.hold_id)
        if known is not None:
            yield self._says.decided(known)
            return
        context = context_of(request)
        is_named = 0 < len(request.hold_id) <= HOLD_ID_CHARS_MAX
        if self.book.outstanding >= OUTSTANDING_MAX or len(self.book.holds) >= KEPT_MAX or not is_named:
            # Nothing is kept of these, so that they cost no room; a repetition is decided on anew.
            verdict = ["refused", "limit" if is_named else "invalid", "", "", "", "holds", OUTSTANDING_MAX]
            yield self._says.refused_for_good(request, context, f"unkept {self.head.offset}", verdict)
            return
        accounts = self.book.matching(request)
        for account in accounts:
            yield from self._lines.roll(account)
        asks = [int(getattr(request, f"ask_{metric}")) for metric in ASKED]
        verdict, refuser = self._refusal(request, asks, accounts)
        hold = self._decide(request, asks, accounts, context, verdict)
        yield self._says.decided(hold)
        if not verdict:
            yield from self._reserve(hold, accounts)
        if refuser is not None:
            yield from self._lines.refuse(refuser, context, request.event_id)
        for account in accounts:
            if self.book.budget_of(account).metric == WALL_CLOCK and account.start_us is not None:
                yield from self._lines.cross(account, context, request.event_id)

    def _decide(
        self, request: HoldRequested, asks: list[int], accounts: list[Account], context: Context, verdict: list[Any]
    ) -> Hold:
        """The new hold, granted where the verdict is empty; kept."""
        now, ttl_us = self.head.time_us, request.ttl_ms * 1000
        expires_us = now + min(ttl_us if ttl_us > 0 else TTL_US_USUAL, TTL_US_MAX)
        hold = Hold(
            hold_id=request.hold_id,
            status="refused" if verdict else "held",
            request_id=request.event_id,
            seq=self._says.next_seq(),
            time_us=now,
            event_id=self._says.new_id("HoldDecided", request.hold_id),
            due_us=now + REMEMBERED_US if verdict else expires_us,
            asks=asks,
            accounts=[account.name for account in accounts[:BUDGETS_PER_REQUEST_MAX]],
            verdict=verdict or ["granted", "", "", "", "", "", 0, 0, 0, "", expires_us],
            context=context,
        )
        self.book.keep(hold)
        return hold

    def _refusal(
        self, request: HoldRequested, asks: list[int], accounts: list[Account]
    ) -> tuple[list[Any], Account | None]:
        """What a refusal says after the hold's id, and the account that has no room; empty where it is granted."""
        if min(asks) < 0 or not any(asks) or len(accounts) > BUDGETS_PER_REQUEST_MAX:
            return ["refused", "invalid"], None
        place = self.book.halted(request)
        if place is not None:
            return ["refused", "halted", "", *place], None
        for account in accounts:
            budget = self.book.budget_of(account)
            if budget.refuses and not has_room(budget, account, asks):
                amounts = budget.limit, account.reserved(budget), account.used
                where = account.scope, account.scope_value
                said = ["limit", budget.budget_id, *where, budget.metric, *amounts, budget.on_exceeded]
                return ["refused", *said], account
        return [], None

    def _reserve(self, hold: Hold, accounts: list[Account]) -> Iterator[Event]:
        self.book.outstanding += 1
        for account in accounts:
            budget = self.book.budget_of(account)
            ask = ask_of(hold.asks, budget.metric)
            if not ask:
                continue
            account.held = clamped(account.held + ask)
            account.last_us = self.head.time_us
            if budget.metric == WALL_CLOCK and account.start_us is None:
                account.start_us = self.head.time_us
            self.book.touch(account)
            if budget.metric != WALL_CLOCK:
                yield self._says.held(hold, budget, account, ask)

    # Reports and time

    def _report(self, report: HoldReported) -> Iterator[Event]:
        hold = self.book.holds.get(report.hold_id)
        if report.action == "renew":
            if hold is not None and hold.status == "held":
                yield from self._renew(hold)
            return
        if hold is None:
            self.head.unknown_reports += 1
            yield from self._says.unknown_report(report, context_of(report))
            return
        if hold.status == "settled" or report.action not in {"settle", "release"}:
            return
        if report.action == "settle":
            yield from self._settle(hold, report)
        elif hold.status == "held":
            yield from self._give_back(hold, "released", report.event_id)

    def _settle(self, hold: Hold, report: HoldReported) -> Iterator[Event]:
        was_held = hold.status == "held"
        self._finish(hold, "settled", self.head.time_us + REMEMBERED_US)
        for account in map(self.book.account, hold.accounts):
            yield from self._lines.roll(account)
            budget = self.book.budget_of(account)
            ask = ask_of(hold.asks, budget.metric) if was_held else 0  # of one that isn't held nothing is left to give
            if budget.metric == TOOL_RETRIES:
                yield from self._count_failures(account, hold, report)
                continue
            amount = 0
            if budget.metric != WALL_CLOCK:
                amount = max(0, min(int(getattr(report, f"actual_{budget.metric}")), INT64_MAX))
            if not ask and not amount:
                continue
            account.held -= ask
            account.last_us = self.head.time_us
            if budget.metric != WALL_CLOCK:
                account.use(budget, self.head.time_us, amount)
                account.excess = clamped(account.excess + max(0, amount - ask))
                yield self._says.settled(hold, budget, account, amount, cause_id=report.event_id)
            self.book.touch(account)
            yield from self._lines.cross(account, hold.context, report.event_id)

    def _count_failures(self, account: Account, hold: Hold, report: HoldReported) -> Iterator[Event]:
        """A budget on retries goes by the one call of the run that failed most often in a row."""
        if report.tool_failures > account.used:
            account.used = clamped(report.tool_failures)
            account.last_us = self.head.time_us
            self.book.touch(account)
            yield from self._lines.cross(account, hold.context, report.event_id)

    def _give_back(self, hold: Hold, status: str, cause_id: str) -> Iterator[Event]:
        remembered_us = LATE_US if status == "expired" else REMEMBERED_US
        self._finish(hold, status, self.head.time_us + remembered_us)
        for account in map(self.book.account, hold.accounts):
            yield from self._lines.roll(account)
            budget = self.book.budget_of(account)
            ask = ask_of(hold.asks, budget.metric)
            if ask:
                account.held -= ask
                account.last_us = self.head.time_us
                self.book.touch(account)
                if budget.metric != WALL_CLOCK:
                    yield self._says.released(hold, budget, account, ask, reason=status, cause_id=cause_id)

    def _renew(self, hold: Hold) -> Iterator[Event]:
        """Its owner lives: the hold lasts for as long again as it was granted for, from now on."""
        ttl_us = hold.verdict[VERDICT_FIELDS.index("expires_at")] - hold.time_us
        due_us = min(self.head.time_us + ttl_us, hold.time_us + RENEWED_US_MAX)
        if due_us <= hold.due_us:
            return
        hold.due_us = due_us
        self.book.keep(hold)
        for account in map(self.book.account, hold.accounts):
            budget = self.book.budget_of(account)
            if budget.metric != WALL_CLOCK and ask_of(hold.asks, budget.metric):
                yield from self._lines.roll(account)
                yield self._says.held(hold, budget, account, 0)

    def _finish(self, hold: Hold, status: str, forget_us: int) -> None:
        self.book.outstanding -= hold.status == "held"
        hold.status = status
        hold.due_us = max(forget_us, hold.due_us + LEFTOVER_US)
        self.book.keep(hold)

    def _pass_time(self) -> Iterator[Event]:
        """Holds whose time is up, and windows that have ended."""
        for _ in range(DUE_PER_RECORD_MAX):
            item = self.book.due(self.head.time_us)
            if item is None:
                return
            if isinstance(item, Account):
                yield from self._lines.pass_time(item)
            elif item.status == "held":
                yield from self._give_back(item, "expired", item.request_id)
            else:
                self.book.forget_hold(item)

    # Budgets

    def _declare(self, declared: BudgetDeclared) -> Iterator[Event]:
        try:
            budget = budget_of(declared)
        except (ConfigurationError, ValueError):
            return  # not held, or not understood: whoever declares refuses these; one from elsewhere limits nothing
        last = self.book.budgets.get(budget.name, budget)
        places = dict.fromkeys((item.scope, item.scope_value) for item in (last, budget))
        orders = [self.book.order_of(*place) for place in places]
        if not self.book.declare(budget):
            return
        for place, before in zip(places, orders, strict=True):
            order = self.book.order_of(*place)
            if order != before:
                yield self._says.ordered(declared, place, order)
        is_more = budget.limit > last.limit or not budget.refuses
        for _, account in sorted(self.book.accounts.items()):
            if account.budget == budget.name:
                yield from self._lines.change(account, declared, is_more=is_more)
