"""The scopes that a call falls under: what budgets limit, and what a halt stops. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

NAMED_SCOPES = ("tenant", "team", "workflow", "agent", "user", "run")
LABEL_SCOPE = "label:"  # and the label's name
TEAM_LABEL = "team"  # the label that names the team


def scopes_of(
    *, tenant_id: str, agent_id: str, workflow: str, actor: str, run_id: str, labels: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Each (scope, value) of a call with this envelope, the widest first; those without a value are left out."""
    values = tenant_id, labels.get(TEAM_LABEL, ""), workflow, agent_id, actor, run_id
    for scope, value in zip(NAMED_SCOPES, values, strict=True):
        if value:
            yield scope, value
    for name, value in sorted(labels.items()):
        if value:
            yield f"{LABEL_SCOPE}{name}", value
