"""Lines that usage crosses, on the accounts of one tenant: said once, and taken back when they no longer hold. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agentledger.processors.hold_book import HoldBook
from agentledger.processors.hold_events import Ending, HoldEvents, Line
from agentledger.processors.hold_state import WALL_CLOCK, Account, Context
from agentledger.schemas.events import BudgetDeclared, Event

EXCESS_ALARM_PERCENT = 10  # of the limit: so much overshoot is possible that the asks, or the ttl, are too small

TELLING = frozenset({"escalate", "ask_human"})  # what tells somebody at the limit, and doesn't only refuse


class HoldLines:
    """What is said when an account's usage or window changes."""

    def __init__(self, book: HoldBook, says: HoldEvents) -> None:
        self._book = book
        self._says = says

    def roll(self, account: Account) -> Iterator[Event]:
        """Go on to the window of now. Nothing may use an account before."""
        budget = self._book.budget_of(account)
        if account.roll(budget, self._book.head.time_us) and self._is_kept(account):
            self._book.touch(account)
            has_slid = budget.window == "sliding" and account.used > 0
            yield from self._rearm(account, Ending("" if has_slid else "window_ended"))

    def pass_time(self, account: Account) -> Iterator[Event]:
        """What follows from an account's time having come."""
        budget, now_us = self._book.budget_of(account), self._book.head.time_us
        yield from self.roll(account)
        if budget.metric == WALL_CLOCK and account.held:
            yield from self.cross(account, self._context(account), None)
        if account.is_spent(budget, now_us):
            yield from self._rearm(account, Ending("window_ended"), is_over=True)
            self._book.forget_account(account)
            return
        due_us = account.due_us(budget)
        if due_us is not None and due_us <= now_us:
            account.last_us = now_us
        self._book.touch(account)

    def change(self, account: Account, declared: BudgetDeclared, *, is_more: bool) -> Iterator[Event]:
        """What follows from the account's budget having been changed; `is_more`: it allows more than before."""
        budget = self._book.budget_of(account)
        account.roll(budget, self._book.head.time_us)
        account.excess = max(account.excess, account.used + account.held - budget.limit)
        reason = "retired" if budget.retired else "more" if is_more else ""
        ending = Ending(reason, declared.declared_by, declared.reason)
        yield from self._rearm(account, ending, is_changed=True, is_over=budget.retired)
        self._book.touch(account)

    def refuse(self, account: Account, context: Context, cause_id: str) -> Iterator[Event]:
        """A call found no room here: the first time in a window, somebody is told where the budget asks for it.

        Where usage is over the limit, they have been told of that.
        """
        budget = self._book.budget_of(account)
        if budget.on_exceeded in TELLING and not {"told", "over"} & set(account.flags):
            account.flags.append("told")
            account.last_us = self._book.head.time_us
            yield from self._says.limit_reached(Line(budget, account, context, cause_id))
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
            if budget.on_exceeded == "ask_human" and not account.question:
                yield self._says.asked(line)
        is_wide = budget.refuses and account.excess * 100 > budget.limit * EXCESS_ALARM_PERCENT
        if is_wide and "excess" not in account.flags:
            account.flags.append("excess")
            yield self._says.excess(line, budget.limit * EXCESS_ALARM_PERCENT // 100)
        if len(account.flags) > said:
            self._book.touch(account)

    def _rearm(
        self, account: Account, ending: Ending, *, is_changed: bool = False, is_over: bool = False
    ) -> Iterator[Event]:
        """Forget lines that usage is below again, and say that what was raised for them is over.

        What was told at the limit holds until `ending` has a reason: the window is over, or a person has answered.
        """
        budget, used = self._book.budget_of(account), account.used
        stays = {"told"} if not ending.reason else set()
        if used > budget.limit:
            stays |= {"over", "halted"}
        elif budget.window == "run" and not ending.reason:
            stays.add("halted")  # a run that was handed over
        if account.excess * 100 > budget.limit * EXCESS_ALARM_PERCENT:
            stays.add("excess")
        stays |= {
            flag for flag in account.flags
            if flag.isdigit() and used > 0 and used * 100 >= budget.limit * int(flag)
        }  # fmt: skip
        kept = [] if is_over else [flag for flag in account.flags if flag in stays]
        gone = [flag for flag in account.flags if flag not in kept]
        account.flags = kept
        line = Line(budget, account, self._context(account), None)
        yield from self._says.over_again(line, gone, is_changed=is_changed)
        if account.question and ending.reason:
            yield self._says.answered(line, ending)
            account.question = ""

    def _context(self, account: Account) -> Context:
        return Context(run_id=account.run_id or f"budget:{account.budget.partition(chr(0))[0]}")

    def _is_kept(self, account: Account) -> bool:
        return self._book.accounts.get(account.name) is account
