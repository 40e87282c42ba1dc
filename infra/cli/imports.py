"""`agentledger import FORMAT PATH…`: recordings in other formats into the ledger."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agentledger.infra.endpoints import kafka_config, open_codec
from agentledger.infra.settings import load_settings
from agentledger.producers.importers import FORMATS, ImportOptions, ImportReport, find_files, import_files
from agentledger.producers.importers import Progress as ImportProgress
from agentledger.schemas.money import format_usd

REJECTED_SHOWN = 20


@click.command("import", help="Import recordings. FORMAT is one of: " + ", ".join(FORMATS) + ".")
@click.argument("format_name", metavar="FORMAT", type=click.Choice(list(FORMATS)))
@click.argument("paths", metavar="PATH…", nargs=-1, required=True)
@click.option("--source", default="", help="What runs.source says; default: the format's name.")
@click.option("--tenant", default="", help="Whose ledger; default: AGENTLEDGER_TENANT_ID.")
@click.option("--messages", default="", help="chat: field that holds the list of messages.")
@click.option("--outcome", default="", help="chat: field that holds the outcome.")
@click.option("--run-id", default="", help="chat: fields that name a run, separated by commas.")
def import_command(format_name: str, paths: tuple[str, ...], tenant: str, **given: str) -> int:
    """Publish what the files hold; exit code 1 where anything was rejected."""
    from agentledger.infra.import_publisher import ImportPublisher

    settings = load_settings()
    options = import_options(tenant or settings.tenant_id, given)
    find_files(paths, format_name)  # a wrong path is one line, before anything is connected or drawn
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("files"))
    with (
        ImportPublisher(kafka_config(settings), open_codec(settings)) as publisher,
        Progress(*columns, TextColumn("{task.fields[counts]}"), TimeElapsedColumn(), console=console) as bar,
    ):
        task = bar.add_task(f"import {format_name}", total=None, counts="")

        def show(progress: ImportProgress) -> None:
            counts = f"{progress.runs:,} runs, {progress.events:,} events"
            bar.update(task, completed=progress.files_done, total=progress.files_total, counts=counts)

        report = import_files(format_name, paths, publisher.publish, options, show)
        publisher.flush()
    print_report(Console(), report)
    return report.exit_code


def import_options(tenant_id: str, given: dict[str, str]) -> ImportOptions:
    """The importers' options from the command line's; what was not given keeps its default."""
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value}
    if "run_id" in chosen:
        chosen["run_id"] = tuple(part.strip() for part in chosen["run_id"].split(",") if part.strip())
    return ImportOptions(tenant_id=tenant_id, **chosen)


def print_report(console: Console, report: ImportReport) -> None:
    """What was read, published, could not be mapped, and was rejected and why."""
    console.print(f"read       {report.files} files, {report.runs} runs, as source [bold]{report.source}[/bold]")
    console.print(f"published  {report.event_count} events, all acknowledged")
    for name, count in sorted(report.events.items()):
        console.print(f"             {count:>7}  {name}")
    if report.unmapped:
        console.print("not mapped")
        for kind, entry in sorted(report.unmapped.items()):
            money = f", {format_usd(entry.amount_nanousd)} in all" if entry.amount_nanousd else ""
            example = f" (such as {entry.example})" if entry.example else ""
            console.print(f"             {entry.count:>7}  {kind}{money}{example}", highlight=False, markup=False)
    console.print(f"rejected   {report.rejected_count}")
    for item in report.rejected[:REJECTED_SHOWN]:
        console.print(f"             {item.where}: {item.reason}", style="red", highlight=False, markup=False)
    if report.rejected_count > REJECTED_SHOWN:
        console.print(f"             … and {report.rejected_count - REJECTED_SHOWN} more")


COMMANDS = {"import": import_command}
