"""Trying anomaly rules on the tenant's history: nothing is published, and the page says when each would have fired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import RedirectResponse, Response

from agentledger.schemas.errors import UsageError
from agentledger.sinks.console.jobs import Say
from agentledger.sinks.console.ports import TrialAsked
from agentledger.sinks.console.visits import Visit

TRIAL = "trial"
RULES_CHARS_MAX = 30_000  # the shipped file has some 5,000
_DAY_US = 86_400_000_000
_RANGES = {"day": 1, "week": 7, "month": 31}


def trial_ranges() -> list[str]:
    """The times on which rules can be tried, the first unless another is chosen."""
    return list(_RANGES)


def start_trial(visit: Visit) -> Response:
    """The form of /alerts/try. Raises UsageError where there is nothing to try, or another trial is under way."""
    ports, rules, span = visit.ports, visit.form.get("rules", ""), visit.field("range")
    try_rules = ports.try_rules
    if try_rules is None:
        raise UsageError("rules can't be tried from here", next_step="run agentledger alerts try")
    if span not in _RANGES or not rules.strip():
        raise UsageError("there is nothing to try", next_step="give the rules as YAML, and on which time")
    if len(rules) > RULES_CHARS_MAX:
        raise UsageError(f"the rules have over {RULES_CHARS_MAX:,} characters", next_step="try fewer at a time")
    tenant_id, now_us = visit.visitor.tenant_id, visit.now_us
    asked = TrialAsked(tenant_id, rules, now_us - _RANGES[span] * _DAY_US, now_us)

    def work(start: Say, progress: Say) -> Mapping[str, Any]:
        return try_rules(asked, start, progress)

    with visit.recorded("alerts try", range=span):
        visit.jobs.start(TRIAL, work, visit.visitor.name, now_us, tenant_id)
    return RedirectResponse("/alerts#trial", 303)
