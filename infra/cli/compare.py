"""`agentledger costs` and `compare`: what an outcome costs by any dimension, and whether two versions really differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console

from agentledger.infra.cli.times import moment_us
from agentledger.infra.settings import load_settings
from agentledger.schemas.errors import UsageError

_BY = "workflow, tenant, agent, agent_version, model, prompt_version, policy_version, toolset_version, environment, day"


def _which_runs(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which attempts count."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Exact sums and all intervals as JSON."),
        click.option("--to", "until", default=None, metavar="DATE", help="Attempts that started before it, UTC."),
        click.option("--from", "since", default=None, metavar="DATE", help="Attempts that started then or later, UTC."),
        click.option("--model", default=None, help="Only attempts of which this model did most."),
        click.option("--agent", default=None, help="Only this agent's attempts."),
        click.option("--tenant", default=None, help="Only this tenant's attempts."),
    ):
        command = option(command)
    return command


@click.command()
@click.option("--by", default="workflow", show_default=True, help=f"{_BY}, or label:NAME.")
@click.option("--workflow", default=None, help="Only attempts at this workflow.")
@_which_runs
def costs(by: str, as_json: bool, **which: Any) -> None:
    """Show what attempts achieve and what a success costs, sub-runs included, by one dimension."""
    from agentledger.sinks import cost_table, group_record

    groups = _groups("costs", by, which)
    if as_json:
        click.echo(json.dumps([group_record(group, by) for group in groups], indent=2))
        return
    console = Console()
    console.print(cost_table(groups, by, console.width))


@click.command()
@click.option("--workflow", required=True, help="The kind of task whose attempts are compared.")
@click.option("--by", default="policy_version", show_default=True, help=f"{_BY}, or label:NAME.")
@click.option("--base", default=None, help="The value to compare with. Default: the one before the other began.")
@click.option("--other", default=None, help="The value that is compared. Default: the one that began last.")
@click.option("--confidence", type=click.FloatRange(0.5, 0.999), default=0.95, show_default=True)
@_which_runs
def compare(by: str, base: str | None, other: str | None, confidence: float, as_json: bool, **which: Any) -> None:
    """Compare two versions of a workflow: every figure side by side, and whether the change is more than noise."""
    from agentledger.sinks import choose_two, compare_groups, comparison_record, comparison_table

    groups = _groups("compare", by, which)
    if not groups:
        chosen = " that the other options choose" if any(which[name] for name in which if name != "workflow") else ""
        raise UsageError(
            f"no run of the workflow {which['workflow']!r}{chosen} is recorded",
            next_step="agentledger scoreboard lists them",
        )
    left, right = choose_two(groups, by, base, other)
    compared = compare_groups(left, right, by, confidence)
    if as_json:
        click.echo(json.dumps(comparison_record(compared), indent=2))
        return
    console = Console()
    console.print(comparison_table(compared, console.width))
    others = [group.value or "(none)" for group in groups if group.value not in {left.value, right.value}]
    if others:
        console.print(f"not shown: {', '.join(others)} (--base, --other)", style="dim", highlight=False, markup=False)


def _groups(command: str, by: str, which: dict[str, Any]) -> Any:
    from agentledger.infra.recorded_reads import recorded_queries
    from agentledger.sinks import Selection, attempt_groups

    since_us, until_us = moment_us(which["since"]), moment_us(which["until"])
    if since_us is not None and until_us is not None and since_us >= until_us:
        raise UsageError("--from is not before --to")
    settings = load_settings()
    selection = Selection(
        by=by,
        workflow=which["workflow"],
        tenant_id=which["tenant"],
        agent_id=which["agent"],
        model=which["model"],
        since_us=since_us,
        until_us=until_us,
    )
    with recorded_queries(settings, command, by=by, **which) as client:
        return attempt_groups(client, selection, time_s_max=settings.query_time_s_max)


COMMANDS = {"compare": compare, "costs": costs}
