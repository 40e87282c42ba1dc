"""From a rules file to what watches a tenant in stage 2."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agentledger.processors.rules.models import UnpricedModel
from agentledger.processors.scope_calls import DenialWatch, ErrorRateWatch, LatencyWatch, UnpricedWatch
from agentledger.processors.scope_history import GapWatch, NewVersionWatch
from agentledger.processors.scope_spend import BurnRateWatch, SpikeWatch
from agentledger.processors.scope_watch import RuleWatch

_WATCHES: dict[str, type[RuleWatch[Any]]] = {
    "spend_burn_rate": BurnRateWatch,
    "spend_spike": SpikeWatch,
    "error_rate": ErrorRateWatch,
    "latency": LatencyWatch,
    "denial_burst": DenialWatch,
    "sequence_gap": GapWatch,
    "new_version": NewVersionWatch,
    "unpriced_model": UnpricedWatch,
}


def watches_of(rules: Iterable[Any]) -> list[RuleWatch[Any]]:
    """The enabled rules that stage 2 decides. Those on runs are stage 1's, `stage_lag` is the ticker's."""
    return [
        _WATCHES[rule.kind](rule)
        for rule in rules
        if rule.enabled and rule.kind in _WATCHES and not (isinstance(rule, UnpricedModel) and rule.scope == "run")
    ]
