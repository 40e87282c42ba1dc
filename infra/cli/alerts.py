"""`agentledger alerts`: what is open, whether a rules file is right, and when its rules would have fired."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
from rich.console import Console

from agentledger.infra.cli.times import duration_us, moment_us
from agentledger.infra.settings import load_settings
from agentledger.schemas.errors import UsageError

FIRED = 1  # exit code of try: at least one rule would have fired


@click.group("alerts")
def alerts() -> None:
    """Anomaly alerts: those that are open, and the rules behind them."""


@alerts.command("list")
@click.option("--all", "with_resolved", is_flag=True, help="Also those that are resolved.")
@click.option("--severity", type=click.Choice(["info", "warning", "critical"]), help="This one and worse.")
@click.option("--rule", default="", metavar="NAME", help="Of one rule.")
@click.option("--run", "run_id", default="", metavar="ID", help="Of one run.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many.")
@click.option("--format", "output_format", type=click.Choice(["pretty", "json", "csv"]), default="pretty")
def list_command(
    *, with_resolved: bool, severity: str | None, rule: str, run_id: str, limit: int, output_format: str
) -> None:
    """List the alerts that are open, the worst and the newest first."""
    from agentledger.infra.recorded_reads import recorded_queries
    from agentledger.sinks import print_result, query

    settings = load_settings()
    parameters = {
        "with_resolved": int(with_resolved),
        "severity": severity or "",
        "rule": rule,
        "run_id": run_id,
        "limit": limit,
    }
    with recorded_queries(settings, "alerts list", **parameters) as client:
        result = query(
            client,
            """
            SELECT raised_at, status, severity, rule, scope, scope_value, seen, summary, resolved_at, runbook_url,
                tenant_id, alert_id
            FROM alerts
            WHERE ({with_resolved:UInt8} OR status = 'open') AND indexOf(['info', 'warning', 'critical'], severity) >=
                indexOf(['info', 'warning', 'critical'], {severity:String})
                AND ({rule:String} = '' OR rule = {rule:String}) AND ({run_id:String} = '' OR run_id = {run_id:String})
            ORDER BY status, indexOf(['info', 'warning', 'critical'], severity) DESC, raised_at DESC, alert_id
            LIMIT {limit:UInt32}
            """,
            parameters=parameters,
            time_s_max=settings.query_time_s_max,
            rows_max=settings.query_rows_max,
        )
    if not result.rows and output_format == "pretty":
        click.echo("no alerts" if with_resolved else "no open alerts")
        return
    print_result(Console(), result, output_format)


@alerts.command("check")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def check(file: Path) -> None:
    """Read FILE as a rules file: every wrong place, one a line; or what it holds. Exit code 2 if something is wrong."""
    from agentledger.processors.rules.loading import RulesFileError, load_rules
    from agentledger.processors.scope_rules import watches_of

    try:
        rules = load_rules(file)
    except RulesFileError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        count = len(error.problems)
        raise UsageError(f"{count} thing{'s' * (count != 1)} wrong in {file}") from None
    watches_of(rules)
    off = sum(not rule.enabled for rule in rules)
    on_runs = sum(rule.scope == "run" for rule in rules)
    click.echo(f"{file}: {len(rules)} rules: {on_runs} on runs, {len(rules) - on_runs} on all runs together, {off} off")


@alerts.command("shipped")
def shipped() -> None:
    """Print the rules file that is shipped: a start for one of your own."""
    from importlib.resources import files

    click.echo(files("agentledger.processors.rules").joinpath("default.yaml").read_text("utf-8"), nl=False)


@alerts.command("try")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option(
    "--from", "from_text", default=None, metavar="TIME", help="From this ledger time on; default: 7 days ago."
)
@click.option("--to", "to_text", default=None, metavar="TIME", help="Before this ledger time; default: now.")
@click.option(
    "--warm-up", default="1d", show_default=True, metavar="TIME", help="Fold so much before it, without a word."
)
@click.option("--tenant", "tenant_id", default="", help="One tenant only.")
@click.option("--rule", "names", multiple=True, metavar="NAME", help="Only this rule of the file; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Every alert as JSON.")
@click.option("--summary", is_flag=True, help="Only one line per rule.")
def try_command(
    *,
    file: Path | None,
    from_text: str | None,
    to_text: str | None,
    warm_up: str,
    tenant_id: str,
    names: tuple[str, ...],
    as_json: bool,
    summary: bool,
) -> int:
    """Say when the rules in FILE would have fired on the ledger's history; without FILE, those that are shipped.

    Nothing is published. Rules that are off are tried too where --rule names them. Exit code 0: none would have fired;
    1: at least one would have. Times are ledger times such as 2026-01-31 or 2026-01-31T16:00, in UTC. Runs that began
    before the range (and its warm-up) are seen only from there on.
    """
    from agentledger.infra import alert_trial as trial
    from agentledger.infra.cli.analyst import connect
    from agentledger.infra.endpoints import open_codec, reader_login
    from agentledger.infra.recorded_reads import recorded_read
    from agentledger.processors.rules.loading import rules_or_default
    from agentledger.schemas.price_books import open_prices
    from agentledger.sinks.replay_source import ReplaySource

    rules = rules_or_default(file)
    unknown = sorted(set(names) - {rule.name for rule in rules})
    if unknown:
        raise UsageError(f"there is no rule {unknown[0]!r}", next_step=f"one of {', '.join(r.name for r in rules)}")
    if names:
        rules = tuple(rule.model_copy(update={"enabled": True}) for rule in rules if rule.name in names)
    to_us = moment_us(to_text) or time.time_ns() // 1000
    from_us = moment_us(from_text) if from_text else to_us - 7 * 86_400_000_000
    if from_us is None or from_us >= to_us:
        raise UsageError("--from is not before --to")
    settings = load_settings()
    asked = {
        "command": "alerts try", "file": str(file or ""), "from_us": from_us, "to_us": to_us, "tenant_id": tenant_id,
        "rules": list(names),
    }  # fmt: skip
    with recorded_read(settings, asked, reader_login(settings)[0]):
        tried = trial.try_rules(
            ReplaySource(connect(settings)),
            open_codec(settings),
            rules,
            open_prices(settings.prices_file),
            from_us=from_us,
            to_us=to_us,
            warm_up_us=duration_us(warm_up),
            tenant_id=tenant_id,
        )
    if as_json:
        click.echo(json.dumps(trial.as_json(tried), indent=2))
    else:
        console = Console()
        console.print(trial.summary_table(tried))
        if tried.firings and not summary:
            console.print()
            for line in trial.firing_lines(tried):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print(f"\n{tried.fired:,} alerts in {tried.records:,} records", highlight=False)
    return FIRED if tried.fired else 0


COMMANDS = {"alerts": alerts}
