"""What a budget asks a person at its limit, and how such a question is told apart from an agent's own.

Whoever decides on a budget asks (ApprovalRequested) and says what came of it (ApprovalDecided): approved when more was
declared, expired when the question has no object any more. Of several answers to a question the first one counts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from agentledger.schemas.errors import CodecError

ACTION = "raise_budget"
RAISED = "the budget was raised"  # the reason of an answer to which nobody gave one
OWN_PREFIX = "budget:"  # of the approval ids of a run's own budget, which only its agent can extend


@dataclass(frozen=True, slots=True)
class Raise:
    """More of one limit of a budget. Amounts are in the metric's unit."""

    budget_id: str
    scope: str
    scope_value: str
    metric: str
    limit: int
    used: int

    def asked(self, held: int = 0) -> dict[str, Any]:
        """The fields of ApprovalRequested that ask for it."""
        return {
            "action": ACTION,
            "target": f"{self.budget_id} of {self.scope} {self.scope_value}",
            "change_redacted": json.dumps({**asdict(self), "held": held}),
        }


def raise_of(change_redacted: str) -> Raise:
    """The inverse. Raises CodecError for what is no such question."""
    try:
        said = json.loads(change_redacted)
        return Raise(**{name: said[name] for name in Raise.__slots__})
    except (ValueError, KeyError, TypeError):
        raise CodecError(
            "the question doesn't say which limit it is about",
            where=change_redacted[:200],
            next_step="declare more of the budget: agentledger budgets apply",
        ) from None
