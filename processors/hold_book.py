"""What is kept of one tenant's holds, in memory: found, changed, awaited, and written to its cells. Pure.

Held amounts are what open holds have asked for, and nothing else: when cells are loaded, they are summed anew.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

from agentledger.processors.hold_cells import (
    ACCOUNT,
    BUDGET,
    HALT,
    HOLD,
    Cells,
    decode_cell,
    decode_hold,
    encode_cell,
)
from agentledger.processors.hold_state import SEPARATOR, Account, Budget, Halt, Head, Hold, ask_of, clamped, cut
from agentledger.schemas import scopes
from agentledger.schemas.control import ALLOW_UNHELD, DEFAULT_UNHELD, REFUSE_UNHELD
from agentledger.schemas.events import Event

# A hold is not forgotten until this long after it could have expired, and none is left unexpired for as long: so a cell
# that a paused worker wrote again after it was forgotten is known by its age.
LEFTOVER_US = 60_000_000


_ORDERS = {"refuse": REFUSE_UNHELD, "allow": ALLOW_UNHELD}  # the strictest first


class HoldBook:
    """Budgets, accounts, holds and halts of one tenant in one partition."""

    def __init__(self, head: Head, cells: Cells) -> None:
        self.head = head
        self.budgets: dict[str, Budget] = {}
        self.accounts: dict[str, Account] = {}
        self.holds: dict[str, Hold] = {}
        self.halts: dict[str, Halt] = {}
        self.changed: set[bytes] = set()
        self.outstanding = 0
        self._by_scope: dict[tuple[str, str], list[Budget]] = {}
        self._heap: list[tuple[int, bytes, str]] = []
        self._awaited: dict[tuple[bytes, str], int] = {}
        self._load(cells)

    # Cells

    def cell(self, key: bytes) -> bytes | None:
        """The value of a cell that changed; None where it is gone."""
        kinds: dict[bytes, Any] = {BUDGET: self.budgets, ACCOUNT: self.accounts, HOLD: self.holds, HALT: self.halts}
        item = kinds[key[:1]].get(key[1:].decode())
        return None if item is None else encode_cell(self.head.offset, item)

    def _load(self, cells: Cells) -> None:
        for key, value in cells.items():
            if value is None:
                continue
            fields, name = decode_cell(value), key[1:].decode()
            if key[:1] == HOLD:
                self._load_hold(decode_hold(value))
            elif key[:1] == BUDGET:
                self.budgets[name] = Budget(*fields)
            elif key[:1] == HALT:
                self.halts[name] = Halt(*fields)
            elif key[:1] == ACCOUNT:
                self.accounts[name] = Account(*fields)
                self.accounts[name].held = 0
        self._index()
        for hold in self.holds.values():
            if hold.status == "held":
                self._hold_again(hold)
        for account in self.accounts.values():
            self.await_account(account)

    def _load_hold(self, hold: Hold) -> None:
        if hold.status == "held" and hold.due_us + LEFTOVER_US <= self.head.time_us:
            return
        self.holds[hold.hold_id] = hold
        self.outstanding += hold.status == "held"
        self._await(hold.due_us, HOLD, hold.hold_id)

    def _hold_again(self, hold: Hold) -> None:
        for account in map(self.account, hold.accounts):
            amount = ask_of(hold.asks, self.budgets[account.budget].metric)
            if amount:
                account.held = clamped(account.held + amount)
                self.accounts[account.name] = account

    # Budgets, accounts, holds

    def declare(self, budget: Budget) -> bool:
        """Take a declaration in; whether it changes anything."""
        if self.budgets.get(budget.name) == budget:
            return False
        self.budgets[budget.name] = budget
        self.changed.add(BUDGET + budget.name.encode())
        self._index()
        return True

    def order_of(self, scope: str, scope_value: str) -> str:
        """What becomes of calls of this scope that nobody decides on, as the strictest of its budgets was declared."""
        said = {budget.when_unreachable for budget in self._by_scope.get((scope, scope_value), [])}
        return next((order for when, order in _ORDERS.items() if when in said), DEFAULT_UNHELD)

    def _index(self) -> None:
        self._by_scope = {}
        for _, budget in sorted(self.budgets.items()):
            if budget.is_held and not budget.retired:
                self._by_scope.setdefault((budget.scope, budget.scope_value), []).append(budget)

    def matching(self, event: Event) -> list[Account]:
        """The account of each budget that a call falls under, in a fixed order."""
        found = []
        for scope, value in scopes_of(event):
            for budget in self._by_scope.get((scope, value), []) + self._by_scope.get((scope, ""), []):
                run_id = cut(event.run_id) if budget.window == "run" else ""
                found.append(self.account(SEPARATOR.join((budget.name, scope, value, run_id))))
        return found

    def account(self, name: str) -> Account:
        """The account of this name; an empty one, which is not kept before it is touched, where there is none."""
        known = self.accounts.get(name)
        if known is not None:
            return known
        budget_id, metric, scope, value, run_id = name.split(SEPARATOR)
        return Account(f"{budget_id}{SEPARATOR}{metric}", scope, value, run_id)

    def budget_of(self, account: Account) -> Budget:
        """The budget that it is an account of."""
        return self.budgets[account.budget]

    def touch(self, account: Account) -> None:
        """Keep the account as it is now."""
        self.accounts[account.name] = account
        self.changed.add(ACCOUNT + account.name.encode())
        self.await_account(account)

    def forget_account(self, account: Account) -> None:
        """Drop it."""
        self.accounts.pop(account.name, None)
        self.changed.add(ACCOUNT + account.name.encode())

    def keep(self, hold: Hold) -> None:
        """Keep the hold as it is now."""
        self.holds[hold.hold_id] = hold
        self.changed.add(HOLD + hold.hold_id.encode())
        self._await(hold.due_us, HOLD, hold.hold_id)

    def forget_hold(self, hold: Hold) -> None:
        """Drop it."""
        self.holds.pop(hold.hold_id, None)
        self.changed.add(HOLD + hold.hold_id.encode())

    # Halts

    def halt(self, halt: Halt, *, is_on: bool) -> None:
        """Halt a scope, or let it go on."""
        name = halt_name(halt.scope, halt.scope_value)
        if is_on:
            self.halts[name] = halt
        else:
            self.halts.pop(name, None)
        self.changed.add(HALT + name.encode())

    def halted(self, event: Event) -> tuple[str, str] | None:
        """The halted scope that a call falls under, if any."""
        for place in scopes_of(event):
            halt = self.halts.get(halt_name(*place))
            if halt is not None and (halt.expires_us is None or halt.expires_us > self.head.time_us):
                return place
        return None

    # What is awaited. An entry is at or before the time it stands for: when its turn comes, it is looked at again.

    def await_account(self, account: Account) -> None:
        """Wait until time alone may change it."""
        due_us = account.due_us(self.budgets[account.budget])
        if due_us is not None:
            self._await(due_us, ACCOUNT, account.name)

    def _await(self, due_us: int, kind: bytes, name: str) -> None:
        if due_us < self._awaited.get((kind, name), due_us + 1):
            self._awaited[kind, name] = due_us
            heapq.heappush(self._heap, (due_us, kind, name))

    def due(self, time_us: int) -> Hold | Account | None:
        """What time has come for, the longest due first; to be changed or dropped before this is called again."""
        while self._heap and self._heap[0][0] <= time_us:
            said_us, kind, name = self._heap[0]
            due_us, item = self._due_of(kind, name)
            is_newest = self._awaited.get((kind, name)) == said_us
            if is_newest and due_us == said_us:
                return item
            heapq.heappop(self._heap)
            if is_newest:
                del self._awaited[kind, name]
                if due_us is not None:
                    self._await(due_us, kind, name)
        return None

    def _due_of(self, kind: bytes, name: str) -> tuple[int | None, Hold | Account | None]:
        if kind == HOLD:
            hold = self.holds.get(name)
            return (None, None) if hold is None else (hold.due_us, hold)
        account = self.accounts.get(name)
        return (None, None) if account is None else (account.due_us(self.budgets[account.budget]), account)


def halt_name(scope: str, scope_value: str) -> str:
    """The name of a halted scope's cell."""
    return f"{scope}{SEPARATOR}{scope_value}"


def scopes_of(event: Event) -> Iterator[tuple[str, str]]:
    """Each scope that an event falls under, with its value; those without a value are left out."""
    places = scopes.scopes_of(
        tenant_id=event.tenant_id, agent_id=event.agent_id, workflow=event.workflow, actor=event.actor,
        run_id=event.run_id, labels=event.labels,
    )  # fmt: skip
    return ((scope, cut(value)) for scope, value in places)
