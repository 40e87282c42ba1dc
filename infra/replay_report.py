"""What a replay found, for people and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Table

from agentledger.infra.replay import ReplayReport
from agentledger.infra.replay_compare import Difference
from agentledger.infra.replay_tally import Alert, Scope, Spend, Stop, Tally, newly_stopped, no_longer_stopped
from agentledger.schemas.money import format_usd

SHOWN = 10  # differences, workflows' rows are all shown; --json has up to 1,000
LISTED = 25  # runs that would have been stopped, alerts that would have been raised
VALUE_CHARS = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def print_comparison(console: Console, report: ReplayReport) -> None:
    """How many conclusions are equal, and the first that is not."""
    _say_folded(console, report)
    if report.is_equal and not (report.equal or report.not_yet or report.ahead):
        _say(console, "nothing was concluded in this range, so nothing was compared")
        return
    _say(console, f"equal      {report.equal.total():,} conclusions, byte for byte")
    for topic, count in sorted(report.equal.items()):
        _say(console, f"             {count:>9,}  {topic}")
    if report.repeated:
        _say(console, f"repeated   {report.repeated:,} rows, written again by a worker that had started again")
    if report.not_yet:
        _say(console, f"not yet    {report.not_yet.total():,} follow from the newest events and are not written yet")
    if report.ahead:
        _say(console, f"ahead      {report.ahead:,} rows follow from events that were not in the ledger yet")
    if report.is_equal:
        return
    _say(console, f"different  {report.different:,}", style="bold red")
    for number, difference in enumerate(report.differences[:SHOWN]):
        if number == 1:
            _say(console, "then")
        for line in _difference_lines(difference):
            _say(console, line)
    if report.different > SHOWN:
        _say(console, f"  … and {report.different - SHOWN:,} more: --json names up to 1,000")
    _say_prices(console, report)


def print_spend(console: Console, report: ReplayReport) -> None:
    """What each workflow has cost, and what it would have cost."""
    _say_folded(console, report)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in ("tenant", "workflow"):
        table.add_column(column, overflow="fold")
    for column in ("calls", "unpriced", "charged", "unpriced now", "cost now", "difference"):
        table.add_column(column, justify="right", no_wrap=True)
    keys = sorted(report.stored.spend.keys() | report.replayed.spend.keys())
    if not keys:
        _say(console, "nothing was charged in this range")
        return
    for tenant, workflow in keys:
        before = report.stored.spend.get((tenant, workflow), Spend())
        after = report.replayed.spend.get((tenant, workflow), Spend())
        table.add_row(tenant, workflow or "(none)", *_spend_cells(before, after))
    table.add_row("all", "", *_spend_cells(report.stored.total(), report.replayed.total()), style="bold")
    console.print(table)
    by_version = ", ".join(f"{count:,} by {version}" for version, count in report.replayed.prices.most_common())
    if by_version:  # where the file prices none of the models, that is how one sees it
        _say(console, f"charges as replayed: {by_version}")


def print_stops(console: Console, report: ReplayReport) -> None:
    """Which runs and scopes would have been stopped, and which would not have been."""
    _say_folded(console, report)
    new = list(newly_stopped(report.stored, report.replayed))
    gone = list(no_longer_stopped(report.stored, report.replayed))
    runs = sum(scope.scope == "run" for scope, _ in new)
    refused_then, refused_now = report.stored.refused.total(), report.replayed.refused.total()
    if not (report.stored.stops or report.replayed.stops or refused_then or refused_now):
        _say(console, "nothing was stopped in this range, nor would anything have been")
        return
    _say(console, f"stopped    {len(report.stored.stops):,} then; {len(report.replayed.stops):,} as replayed")
    if refused_then or refused_now:
        _say(console, f"refused    {refused_then:,} holds then; {refused_now:,} as replayed")
    saved = sum(report.replayed.spent_after[scope] for scope, _ in new)
    _say(
        console,
        f"would have been stopped: {len(new):,}, of them {runs:,} runs; they spent {format_usd(saved)} after that",
    )
    for scope, stop in new[:LISTED]:
        after = report.replayed.spent_after[scope]
        _say(console, f"  {_stop_line(scope, stop)}" + (f"; spent {format_usd(after)} after" if after else ""))
    _more(console, len(new))
    _say(console, f"would not have been stopped: {len(gone):,}")
    for scope, stop in gone[:LISTED]:
        _say(console, f"  {_stop_line(scope, stop)}")
    _more(console, len(gone))


def print_alerts(console: Console, report: ReplayReport) -> None:
    """Which alerts would have been raised, and which would not have been."""
    _say_folded(console, report)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("rule")
    for column in ("raised", "as replayed"):
        table.add_column(column, justify="right")
    rules = sorted(report.stored.raised.keys() | report.replayed.raised.keys())
    if not rules:
        _say(console, "no alert was raised in this range, nor would one have been")
        return
    for rule in rules:
        table.add_row(rule, f"{report.stored.raised[rule]:,}", f"{report.replayed.raised[rule]:,}")
    console.print(table)
    for title, these, those in (
        ("would have been raised", report.replayed, report.stored),
        ("would not have been raised", report.stored, report.replayed),
    ):
        found = _only_alerts(these, those)
        _say(console, f"{title}: {len(found):,}")
        for _, alert in found[:LISTED]:
            _say(console, f"  {utc(alert.at_us)}  {alert.rule} ({alert.severity})  {alert.summary}")
        _more(console, len(found))


def report_json(report: ReplayReport, *, is_tally: bool) -> dict[str, Any]:
    """The report as JSON has it. Times are microseconds since 1970, money is nano-dollars."""
    found: dict[str, Any] = {"folded": report.folded, "logs": report.logs, "seconds": round(report.seconds, 3)}
    found["left_out"] = list(report.left_out)
    if not is_tally:
        return found | {
            "conclusions": report.expected,
            "equal": dict(sorted(report.equal.items())),
            "repeated": report.repeated,
            "not_yet": dict(sorted(report.not_yet.items())),
            "ahead": report.ahead,
            "different": report.different,
            "differences": [
                asdict(one) | {"fields": [item._asdict() for item in one.fields]} for one in report.differences
            ],
        }
    keys = sorted(report.stored.spend.keys() | report.replayed.spend.keys())
    spend = [
        {"tenant_id": key[0], "workflow": key[1]}
        | {name: asdict(tally.spend.get(key, Spend())) for name, tally in _sides(report)}
        for key in keys
    ]
    return found | {
        "spend": spend,
        "charges_by_price_version": {name: dict(sorted(tally.prices.items())) for name, tally in _sides(report)},
        "would_be_stopped": [_stop_json(report, one) for one in newly_stopped(report.stored, report.replayed)],
        "would_not_be_stopped": [_stop_json(report, one) for one in no_longer_stopped(report.stored, report.replayed)],
        "holds_refused": {name: dict(tally.refused) for name, tally in _sides(report)},
        "alerts_raised": {name: dict(sorted(tally.raised.items())) for name, tally in _sides(report)},
        "would_be_raised": [_alert_json(one) for one in _only_alerts(report.replayed, report.stored)],
        "would_not_be_raised": [_alert_json(one) for one in _only_alerts(report.stored, report.replayed)],
    }


def utc(time_us: int) -> str:
    """A time for people, with milliseconds."""
    try:
        return f"{_EPOCH + timedelta(microseconds=time_us):%Y-%m-%d %H:%M:%S.%f}"[:-3]
    except OverflowError:
        return f"{time_us} us"


def _say_folded(console: Console, report: ReplayReport) -> None:
    rate, took = report.folded / report.seconds if report.seconds else 0.0, f"{report.seconds:.1f} s"
    _say(console, f"folded     {report.folded:,} records of {report.logs} logs in {took} ({rate:,.0f} a second)")
    for stage in report.left_out:
        text = "concludes of tenants, from the sums of all runs, and names no run; --tenant compares that"
        _say(console, f"left out   stage {stage}: {text}")


def _say_prices(console: Console, report: ReplayReport) -> None:
    """Other prices make nearly every conclusion differ, and are the likeliest cause."""
    versions = {
        f"charges in the ledger are of {item.in_ledger or 'no price'}, the replay has {item.replayed or 'no price'}"
        for one in report.differences
        for item in one.fields
        if item.name == "price_version"
    }
    for text in sorted(versions)[:SHOWN]:
        _say(console, f"prices     {text}")
    if versions:
        _say(
            console,
            "           set AGENTLEDGER_PRICES_FILE as it was then, or look at the time since it changed: --from",
        )


def _difference_lines(one: Difference) -> list[str]:
    place = f"{one.topic}, partition {one.partition}"
    place += f", index {one.log_index}" if one.log_index is not None else ""
    who = f"{one.producer_id} {one.producer_seq}" if one.producer_id else "an unknown producer"
    lines = [
        f"  {one.kind}: {place}, {utc(one.ledger_time_us)} UTC",
        f"    {one.event_type or 'record'} {one.event_id} of run {one.run_id or '(none)'}, by {who}",
    ]
    lines += [
        f"    {item.name}: expected {_value(item.replayed)}, found {_value(item.in_ledger)}" for item in one.fields
    ]
    if one.kind == "changed" and not one.fields and not one.text:
        lines.append("    every field is equal, and the bytes are not")
    return lines + ([f"    {one.text}"] if one.text else [])


def _value(value: object) -> str:
    text = repr(value)
    return text if len(text) <= VALUE_CHARS else text[: VALUE_CHARS - 1] + "…"


def _spend_cells(before: Spend, after: Spend) -> list[str]:
    difference = after.cost_nanousd - before.cost_nanousd
    return [
        f"{after.charges:,}",
        f"{before.unpriced:,}",
        format_usd(before.cost_nanousd),
        f"{after.unpriced:,}",
        format_usd(after.cost_nanousd),
        ("+" if difference > 0 else "") + format_usd(difference),
    ]


def _stop_line(scope: Scope, stop: Stop) -> str:
    used, limit = _amount(stop.metric, stop.used), _amount(stop.metric, stop.limit)
    who = f"{scope.tenant_id} {scope.scope} {scope.value}"
    return f"{utc(stop.at_us)}  {who}: {stop.metric} {used} of {limit} ({stop.on_exceeded})"


def _amount(metric: str, amount: int) -> str:
    return format_usd(amount) if metric == "cost_nanousd" else f"{amount:,}"


def _only_alerts(these: Tally, those: Tally) -> list[tuple[str, Alert]]:
    found = [(alert_id, alert) for alert_id, alert in these.alerts.items() if alert_id not in those.alerts]
    return sorted(found, key=lambda one: (one[1].at_us, one[0]))


def _sides(report: ReplayReport) -> tuple[tuple[str, Tally], tuple[str, Tally]]:
    return ("ledger", report.stored), ("replay", report.replayed)


def _stop_json(report: ReplayReport, one: tuple[Scope, Stop]) -> dict[str, Any]:
    scope, stop = one
    return scope._asdict() | stop._asdict() | {"spent_after_nanousd": report.replayed.spent_after[scope]}


def _alert_json(one: tuple[str, Alert]) -> dict[str, Any]:
    alert_id, alert = one
    return {"alert_id": alert_id} | alert._asdict() | {"scope": alert.scope._asdict()}


def _more(console: Console, count: int) -> None:
    if count > LISTED:
        _say(console, f"  … and {count - LISTED:,} more: see --json")


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style or None, highlight=False, markup=False, soft_wrap=True)
