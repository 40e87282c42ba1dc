"""What declared budgets say of a call that nobody decides on: is it made, or refused? Pure rules over commands.

The program `holds` says it on the control topic, for each scope that has held budgets, and again where a declaration
changes it. A process that has read the topic knows it when the broker or that program is away, which is when it counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from agentledger.schemas.control import ALLOW_UNHELD, REFUSE_UNHELD
from agentledger.schemas.events import ControlIssued

WhenUnreachable = Literal["allow", "refuse"]
ORDERS_MAX = 10_000  # of one tenant: ten times as many as it can have budgets


class UnheldOrders:
    """The newest order of each scope and value, an empty value standing for each one. Bounded; one thread writes."""

    def __init__(self, orders_max: int = ORDERS_MAX) -> None:
        self._orders: dict[tuple[str, str], WhenUnreachable] = {}
        self._orders_max = orders_max
        self._is_whole = True  # False once an order had to be left out

    def put(self, event: ControlIssued) -> None:
        """Take in an order; one that leaves it to the client ends the one before."""
        place = event.scope, event.scope_value
        when = _WHEN.get(event.command)
        if when is None:
            self._orders.pop(place, None)
        elif place in self._orders or len(self._orders) < self._orders_max:
            self._orders[place] = when
        else:
            self._is_whole = False

    def decide(self, scopes: Iterable[tuple[str, str]], default: WhenUnreachable, *, is_known: bool) -> WhenUnreachable:
        """What becomes of a call under these scopes: the strictest order, or `default` where none is known.

        While not everything is known (`is_known` False: the topic isn't read yet) no order makes it laxer.
        """
        found = {
            order for scope, value in scopes for place in ((scope, value), (scope, ""))
            if (order := self._orders.get(place)) is not None
        }  # fmt: skip
        if "refuse" in found:
            return "refuse"
        return "allow" if found and is_known and self._is_whole else default


_WHEN: dict[str, WhenUnreachable] = {ALLOW_UNHELD: "allow", REFUSE_UNHELD: "refuse"}
