"""`agentledger budgets approve` and `deny`: a person's answer to a budget that asks for more."""

from __future__ import annotations

import time
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from agentledger.infra.endpoints import kafka_config, open_codec
from agentledger.infra.settings import load_settings
from agentledger.schemas.control import RUN_BUDGETS
from agentledger.schemas.errors import UsageError

REASON_CHARS_MAX = 1000
EXIT_NOT_SEEN = 1
_QUESTION = click.argument("question")
_TENANT = click.option("--tenant", default="", metavar="NAME", help="Whose; default: AGENTLEDGER_TENANT_ID.")
_REASON = click.option("--reason", required=True, metavar="TEXT", help="Why; it stands in the ledger.")
_BY = click.option("--by", default="", metavar="NAME", help="Who answers; default: user@host.")


@click.command("approve")
@_QUESTION
@_REASON
@click.option(
    "--limit", default="", metavar="AMOUNT", help="The new limit: dollars, seconds or a count. Default: as much again."
)
@_BY
@_TENANT
def approve(question: str, reason: str, limit: str, by: str, tenant: str) -> int:
    """Give a budget more, as QUESTION asks: its halts are lifted. It has more for everybody who has it."""
    from agentledger.infra.budget_commands import known_budgets, publish_events, wait_visible
    from agentledger.infra.budget_questions import declared_anew, lifting, open_question, raised
    from agentledger.infra.cli.analyst import connect
    from agentledger.infra.control_commands import lapsing, publish_command
    from agentledger.processors.budgets import amount_text

    settings = load_settings()
    client, tenant_id, who = connect(settings), tenant or settings.tenant_id, _who(by)
    asked = open_question(client, tenant_id, question)
    change = asked.change
    changes = raised(
        asked, known_budgets(client, tenant_id, open_codec(settings)),
        limit=_amount(limit, change.metric) if limit else None, reason=_told(reason), **_answering(who),
    )  # fmt: skip
    event = declared_anew(changes)
    publish_events(kafka_config(settings), [event], open_codec(settings))
    now, before = (amount_text(change.metric, amount) for amount in (event.limit_amount, change.limit))
    resume = lifting(client, asked, tenant_id, reason=_told(reason), decided_by=who)
    if resume is not None:
        resume = lapsing(resume, time.time_ns() // 1000, None)
        publish_command(kafka_config(settings), resume, open_codec(settings), owner=RUN_BUDGETS)
    of = event.scope_value or f"each {event.scope}"
    click.echo(f"approved: {change.budget_id} of {of} has {now}, it had {before} (version {event.budget_version})")
    if change.scope == "run" and resume is None:
        click.echo(f"run {change.scope_value} is over another limit, too, and stays halted")
    click.echo("a file of budgets that says less takes it back when it is applied again")
    return _seen(wait_visible(client, tenant_id, [event]))


@click.command("deny")
@_QUESTION
@_REASON
@_BY
@_TENANT
def deny(question: str, reason: str, by: str, tenant: str) -> int:
    """Answer QUESTION with no: what is halted stays halted."""
    from agentledger.infra.budget_commands import publish_events, wait_visible
    from agentledger.infra.budget_questions import denial, open_question
    from agentledger.infra.cli.analyst import connect

    settings = load_settings()
    client, tenant_id, who = connect(settings), tenant or settings.tenant_id, _who(by)
    asked = open_question(client, tenant_id, question)
    event = denial(asked, tenant_id, reason=_told(reason), **_answering(who))
    publish_events(kafka_config(settings), [event], open_codec(settings))
    click.echo(f"denied: {asked.target} stays as it is")
    return _seen(wait_visible(client, tenant_id, [event]))


def _who(by: str) -> str:
    from agentledger.infra.control_commands import who_am_i

    return by or who_am_i()


def _answering(who: str) -> dict[str, Any]:
    from agentledger.infra.budget_commands import new_producer_id

    return {"decided_by": who, "producer_id": new_producer_id(who), "now_us": time.time_ns() // 1000}


def _told(reason: str) -> str:
    reason = reason.strip()
    if not reason or len(reason) > REASON_CHARS_MAX:
        raise UsageError("an answer needs a reason", next_step=f"give --reason, at most {REASON_CHARS_MAX} characters")
    return reason


def _amount(text: str, metric: str) -> int:
    """The limit in the metric's unit. Raises UsageError."""
    places = {"cost_nanousd": 9, "wall_clock_ms": 3}.get(metric, 0)
    try:
        amount = Decimal(text).scaleb(places)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount != amount.to_integral_value() or not 0 < amount < 2**63:
        unit = {"cost_nanousd": "dollars", "wall_clock_ms": "seconds"}.get(metric, metric.replace("_", " "))
        raise UsageError(f"--limit {text[:40]!r} is no number of {unit}", next_step="such as 40")
    return int(amount)


def _seen(is_seen: bool) -> int:
    if not is_seen:
        click.echo("agentledger: answered, but not in the ledger yet: see whether the writer runs", err=True)
    return 0 if is_seen else EXIT_NOT_SEEN
