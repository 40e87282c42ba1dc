"""Lines that usage crosses, on the accounts of one tenant: said once, and taken back when they no longer hold. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agentledger.processors.hold_book import HoldBook
from agentledger.processors.hold_events import HoldEvents, Line
from agentledger.processors.hold_state import WALL_CLOCK, Account, Context
from agentledger.schemas.events import Event

EXCESS_ALARM_PERCENT = 10  # of the limit: so much overshoot is possible that the asks, or the ttl, are too small


class HoldLines:
    """What is said when an account's usage or window changes."""

    def __init__(self, book: HoldBook, says: HoldEvents) -> None:
        self._book = book
        self._says = says

    def roll(self, account: Account) -> Iterator[Event]:
        """Go on to the window of now. Nothing may use an account before."""
        if account.roll(self._book.budget_of(account), self._book.head.time_us) and self._is_kept(account):
            self._book.touch(account)
            yield from self._rearm(account)

    def pass_time(self, account: Account) -> Iterator[Event]:
        """What follows from an account's time having come."""
        budget, now_us = self._book.budget_of(account), self._book.head.time_us
        yield from self.roll(account)
        if budget.metric == WALL_CLOCK and account.held:
            yield from self.cross(account, self._context(account), None)
        if account.is_spent(budget, now_us):
            yield from self._rearm(account, is_over=True)
            self._book.forget_account(account)
            return
        due_us = account.due_us(budget)
        if due_us is not None and due_us <= now_us:
            account.last_us = now_us
        self._book.touch(account)

    def change(self, account: Account) -> Iterator[Event]:
        """What follows from the account's budget having been changed."""
        budget = self._book.budget_of(account)
        account.roll(budget, self._book.head.time_us)
        account.excess = max(account.excess, account.used + account.held - budget.limit)
        yield from self._rearm(account, is_changed=True, is_over=budget.retired)
        self._book.touch(account)

    def cross(self, account: Account, context: Context, cause_id: str | None) -> Iterator[Event]:
        """Say which lines were crossed that weren't said before."""
        budget = self._book.budget_of(account)
        line = Line(budget, account, context, cause_id)
        said = len(account.flags)
        for percent in budget.thresholds:
            is_reached = account.used > 0 and account.used * 100 >= budget.limit * percent
            if is_reached and str(percent) not in account.flags:
                account.flags.append(str(percent))
                yield self._says.crossed(line, percent)
        if account.used > budget.limit and "over" not in account.flags:
            account.flags.append("over")
            yield from self._says.exceeded(line)
        is_wide = budget.refuses and account.excess * 100 > budget.limit * EXCESS_ALARM_PERCENT
        if is_wide and "excess" not in account.flags:
            account.flags.append("excess")
            yield self._says.excess(line, budget.limit * EXCESS_ALARM_PERCENT // 100)
        if len(account.flags) > said:
            self._book.touch(account)

    def _rearm(self, account: Account, *, is_changed: bool = False, is_over: bool = False) -> Iterator[Event]:
        """Forget lines that usage is below again, and say that what was raised for them is over."""
        budget, used = self._book.budget_of(account), account.used
        kept = [
            flag
            for flag in account.flags
            if (flag in {"over", "halted"} and used > budget.limit)
            or (flag == "excess" and account.excess * 100 > budget.limit * EXCESS_ALARM_PERCENT)
            or (flag.isdigit() and used > 0 and used * 100 >= budget.limit * int(flag))
        ]
        if is_over:
            kept = []
        gone = [flag for flag in account.flags if flag not in kept]
        account.flags = kept
        line = Line(budget, account, self._context(account), None)
        yield from self._says.over_again(line, gone, is_changed=is_changed)

    def _context(self, account: Account) -> Context:
        return Context(run_id=account.run_id or f"budget:{account.budget.partition(chr(0))[0]}")

    def _is_kept(self, account: Account) -> bool:
        return self._book.accounts.get(account.name) is account
