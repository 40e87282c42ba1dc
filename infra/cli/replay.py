"""`agentledger replay`, `rebuild-state`: the ledger folded again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agentledger.infra.cli.times import moment_us
from agentledger.infra.settings import load_settings
from agentledger.schemas.errors import LedgerConflictError, UsageError

if TYPE_CHECKING:
    from agentledger.infra.replay_wanted import Wanted

DIFFERENT = 3  # exit code: the ledger isn't what follows from its events
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
JOBS_MAX = 64

Progressing = tuple[Callable[[int], None], Callable[[int], None]]  # what sets a bar's total, and what moves it
Looking = Callable[[], AbstractContextManager[Progressing]]


@click.command("replay")
@click.option("--from", "from_text", default="", metavar="TIME", help="Look at ledger time from here on (UTC).")
@click.option("--to", "to_text", default="", metavar="TIME", help="Look at ledger time before this (UTC).")
@click.option("--tenant", "tenant_id", default="", help="Look at one tenant.")
@click.option("--run", "run_id", default="", help="Look at one run.")
@click.option("--prices", type=FILE, help="What would the range have cost at these prices?")
@click.option("--budgets", type=FILE, help="What would have been stopped by these budgets?")
@click.option("--rules", type=FILE, help="Which alerts would these rules have raised?")
@click.option("--policy", type=FILE, help="Which recorded calls would this policy have denied?")
@click.option("--to-topic", default=None, metavar="NAME", help="Publish the range's records on a topic of yours.")
@click.option(
    "--topic", "topics", multiple=True, metavar="NAME",
    help="With --to-topic: which topics of the ledger. Default: the events.",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1, JOBS_MAX), default=None, help="Processes. Default: one per core.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def replay_command(
    from_text: str, to_text: str, tenant_id: str, run_id: str, **given: Any
) -> int:  # fmt: skip
    """Fold the ledger again and compare: exit code 0 if every conclusion is as it follows, 3 if not.

    The fold begins at the ledger's first record whatever the range is, since every state follows from all that came
    before; what is compared, counted or published is the range alone. Times are days or times, such as 2026-01-31 or
    2026-01-31T16:00.

    With other prices, budgets, rules or another policy nothing is compared byte by byte: the difference that they
    would have made is printed.
    """
    from agentledger.infra.replay_wanted import Wanted

    chosen = [name for name in ("prices", "budgets", "rules", "policy", "to_topic") if given[name] is not None]
    if len(chosen) > 1:
        options = " and ".join("--" + name.replace("_", "-") for name in chosen)
        raise UsageError(f"{options} at once", next_step="one at a time, so that its effect is its own")
    if given["topics"] and given["to_topic"] is None:
        raise UsageError("--topic without --to-topic", next_step="add --to-topic NAME")
    bounds = {"from_us": moment_us(from_text or None), "to_us": moment_us(to_text or None)}
    set_bounds = {name: value for name, value in bounds.items() if value is not None}
    wanted = Wanted(tenant_id=tenant_id, run_id=run_id, **set_bounds)
    if wanted.from_us >= wanted.to_us:
        raise UsageError("--from is not before --to")
    look = partial(_looking, {"command": "replay", **asdict(wanted), **{name: str(given[name]) for name in chosen}})
    if given["to_topic"] is not None:
        return _publish(given["to_topic"], given["topics"], wanted, look)
    if given["policy"]:
        return _try_policy(given["policy"], wanted, look, given["as_json"])
    what_if = WhatIf(prices=given["prices"], budgets=given["budgets"], rules=given["rules"])
    return _fold(what_if, wanted, look, given["jobs"] or os.cpu_count() or 1, given["as_json"])


@contextmanager
def _looking(asked: Mapping[str, Any]) -> Iterator[Progressing]:
    """The progress bar of what reads the ledger; that it was read is an event when the block ends, before anything
    of it is shown."""
    from agentledger.infra.endpoints import reader_login
    from agentledger.infra.recorded_reads import recorded_read

    settings = load_settings()
    with recorded_read(settings, asked, reader_login(settings)[0]), _progress("replay") as bar:
        yield bar


@dataclass(frozen=True)
class WhatIf:
    """The file that replaces what the programs had; None for none."""

    prices: Path | None = None
    budgets: Path | None = None
    rules: Path | None = None


def _fold(what_if: WhatIf, wanted: Wanted, look: Looking, jobs: int, as_json: bool) -> int:
    from agentledger.infra import replay_report as say
    from agentledger.infra.replay import replay
    from agentledger.infra.replay_crew import Crew
    from agentledger.infra.replay_wiring import wiring_of

    is_tally = what_if != WhatIf()
    settings = load_settings()
    wiring = wiring_of(settings).with_files(
        what_if.prices, what_if.budgets, what_if.rules, tenant_id=wanted.tenant_id or settings.tenant_id
    )
    try:
        with Crew(jobs) as crew, look() as (begin, report):  # the crew first: what looks has threads
            found = replay(wiring, wanted, crew, is_tally=is_tally, begin=begin, report=report)
    except LedgerConflictError as error:
        error.exit_code = DIFFERENT  # nothing follows from a log with a hole
        raise
    if as_json:
        click.echo(json.dumps(say.report_json(found, is_tally=is_tally), indent=2))
    elif what_if.prices:
        say.print_spend(Console(), found)
    elif what_if.budgets:
        say.print_stops(Console(), found)
    elif what_if.rules:
        say.print_alerts(Console(), found)
    else:
        say.print_comparison(Console(), found)
    return DIFFERENT if not is_tally and not found.is_equal else 0


def _publish(to_topic: str, topics: tuple[str, ...], wanted: Wanted, look: Looking) -> int:
    from agentledger.infra.endpoints import kafka_config
    from agentledger.infra.replay_parts import check_known
    from agentledger.infra.replay_wiring import wiring_of
    from agentledger.infra.republish import Republisher, check_target, republish
    from agentledger.schemas.topics import EVENTS, LEDGER_TOPICS

    known = [topic.name for topic in LEDGER_TOPICS]
    unknown = sorted(set(topics) - set(known))
    if unknown:
        raise UsageError(f"{', '.join(unknown)} is not in the ledger", next_step=f"one of {', '.join(known)}")
    check_target(to_topic)
    settings = load_settings()
    source, kafka = wiring_of(settings).source(), kafka_config(settings)
    chosen = topics or (EVENTS.name,)
    check_known(source, source.spans(chosen, to_us=wanted.to_us), wanted)
    target = partial(Republisher, kafka, to_topic, settings.kafka_partitions)
    with look() as (begin, report):
        count = republish(source, target, chosen, wanted, begin=begin, report=report)
    if not count:
        click.echo(f"nothing to publish on {to_topic}: no record of {' or '.join(chosen)} lies in this range")
        return 0
    click.echo(f"published {count:,} records on {to_topic}, all acknowledged")
    return 0


def _try_policy(path: Path, wanted: Wanted, look: Looking, as_json: bool) -> int:
    from agentledger.infra.replay_policy import print_policy, read_policy, try_policy
    from agentledger.infra.replay_wiring import wiring_of

    policy = read_policy(path)
    wiring = wiring_of(load_settings())
    with look() as (begin, report):
        found = try_policy(wiring.source(), wiring.codec(), policy, wanted, begin=begin, report=report)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        print_policy(Console(), found)
    return 0


@click.command("rebuild-state")
@click.option("--stage", "stages", multiple=True, type=click.Choice(["runs", "holds", "scopes"]), help="Default: all.")
@click.option("--replace", "is_replacing", is_flag=True, help="Take away the states that are there.")
@click.option("--jobs", type=click.IntRange(1, JOBS_MAX), default=None, help="Processes. Default: one per core.")
def rebuild_command(stages: tuple[str, ...], is_replacing: bool, jobs: int | None) -> int:
    """Write the processors' lost states to their changelogs again, from the ledger.

    Refuses while a worker runs, and where states are still there.
    """
    from agentledger.infra.endpoints import kafka_config
    from agentledger.infra.rebuild_state import rebuild
    from agentledger.infra.replay_crew import Crew
    from agentledger.infra.replay_wiring import wiring_of

    settings = load_settings()
    wiring = wiring_of(settings)
    with Crew(jobs or os.cpu_count() or 1) as crew, _progress("rebuild") as (begin, report):
        rebuilt = rebuild(
            wiring, kafka_config(settings), stages, crew, is_replacing=is_replacing, begin=begin, report=report
        )
    for one in rebuilt:
        click.echo(
            f"{one.stage}: {one.states:,} states of {one.partitions} partitions, folded from {one.folded:,} records; "
            f"the group {one.group} goes on from there"
        )
        if one.published:
            click.echo(f"  published {one.published:,} conclusions that were not in the ledger yet")
        if one.different:
            click.echo(f"  {one.different:,} of the ledger are not as they follow: see agentledger replay")
    return 0


@contextmanager
def _progress(name: str) -> Iterator[Progressing]:
    """A bar on standard error."""
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("records"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)

        def begin(total: int) -> None:
            bar.update(task, total=total)

        def report(more: int) -> None:
            bar.advance(task, more)

        yield begin, report


COMMANDS = {"replay": replay_command, "rebuild-state": rebuild_command}
