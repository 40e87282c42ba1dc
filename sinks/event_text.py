"""One event of a run as a few words for a terminal, coloured where it went wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

from rich.text import Text

from agentledger.sinks.run_trail import Row

PLACES, PLACES_MAX = 4, 9  # decimals of a dollar: most calls cost a few ten-thousandths, some a few billionths


def event_text(row: Row) -> Text:
    """What happened, in one line: the kind, the name, what went wrong. `row` holds the columns of `run_trail`."""
    return _KINDS.get(row["event_type"], _other)(row)


def _model(row: Row) -> Text:
    name = row["answered_model"] or row["requested_model"] or "?"
    return _call("model", name, row)


def _tool(row: Row) -> Text:
    text = _call("tool", row["tool"] or "?", row)
    if row["target"]:
        text.append(f" on {clean(row['target'])}", style="dim")
    if row["dry_run"]:
        text.append(" dry run", style="dim")
    return text


def _call(kind: str, name: str, row: Row) -> Text:
    text = Text.assemble((f"{kind} ", "cyan" if kind == "model" else "blue"), (clean(name), "bold"))
    if row["requestor"] not in {"", "assistant"}:
        text.append(f" by {clean(row['requestor'])}", style="dim")
    if row["attempt"] > 1:
        text.append(f" try {row['attempt']}", style="yellow")
    if row["status"] != "ok":
        text.append(f" {row['status'] or '?'}", style="bold red")
        reason = row["error_type"] or row["error_message"]
        if reason:
            text.append(f" {clean(reason, 60)}", style="red")
    return text


def _policy(row: Row) -> Text:
    style = {"allow": "green", "deny": "bold red"}.get(row["verdict"], "yellow")
    rule = "/".join(clean(part) for part in (row["policy"], row["rule"]) if part)
    text = Text.assemble("policy ", (row["verdict"] or "?", style), f" {rule}" if rule else "")
    details = [clean(row[name], 60) for name in ("action", "target", "enforced", "reason") if row[name]]
    if details:
        text.append(f" ({', '.join(details)})", style="dim")
    return text


def _threshold(row: Row) -> Text:
    limit = _amount(row["limit_amount"], row["metric"])
    return Text(f"! {_budget(row)}: {row['threshold_percent']} % of {limit} used", style="yellow")


def _exceeded(row: Row) -> Text:
    used, limit = (_amount(row[name], row["metric"]) for name in ("used_amount", "limit_amount"))
    then = f", {row['on_exceeded'].replace('_', ' ')}" if row["on_exceeded"] else ""
    return Text(f"!! {_budget(row)} exceeded: {used} of {limit}{then}", style="bold red")


def _alert(row: Row) -> Text:
    style = "bold red" if row["severity"] == "critical" else "yellow"
    return Text.assemble(
        (f"!! alert {row['severity']} {row['rule']}".rstrip(), style), f" {clean(row['summary'], 200)}"
    )


def _updated(row: Row) -> Text:
    return Text(f"!! alert grown {row['rule']}, {row['count']:,} times {clean(row['summary'], 200)}", style="yellow")


def _refused(row: Row) -> Text:
    """A hold that wasn't granted; one that was isn't shown."""
    why = f": {_budget(row)} allows {_amount(row['limit_amount'], row['metric'])}" if row["reason"] == "limit" else ""
    return Text(f"!! hold {row['verdict'] or '?'}, {clean(row['reason'])}{why}", style="bold red")


def _resolved(row: Row) -> Text:
    return Text(f"alert resolved {row['rule']} {clean(row['reason'])}".rstrip(), style="green")


def _outcome(row: Row) -> Text:
    text = Text.assemble("outcome ", success_text(row["success"]))
    if row["score"] is not None:
        text.append(f" score {row['score']:g}")
    if row["verified_by"]:
        text.append(f" by {clean(row['verified_by'])}", style="dim")
    if row["reason"]:
        text.append(f" ({clean(row['reason'], 120)})", style="dim")
    return text


def _started(row: Row) -> Text:
    return Text.assemble("run started", (f" {clean(row['task'], 80)}" if row["task"] else "", "dim"))


def _finished(row: Row) -> Text:
    text = Text.assemble("run ", status_text(row["status"]))
    reason = row["reason"] or row["error_type"]
    if reason:
        text.append(f" ({clean(reason, 80)})", style="dim")
    return text


def _other(row: Row) -> Text:
    """Kinds without a line of their own: their name and what they say, whatever of it there is."""
    name = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in row["event_type"]).strip()
    said = ("rule", "result", "verdict", "source", "resource", "action", "target", "decided_by", "requested_from",
            "command", "scope", "scope_value", "reason")  # fmt: skip
    details = [clean(row[part], 60) for part in said if row[part]]
    if row["evidence_ids"]:
        details.append(f"{len(row['evidence_ids'])} sources")
    return Text.assemble(name, (f" {', '.join(details)}" if details else "", "dim"))


_KINDS: dict[str, Callable[[Row], Text]] = {
    "RunStarted": _started,
    "RunFinished": _finished,
    "ModelCallCompleted": _model,
    "ToolCallCompleted": _tool,
    "PolicyDecided": _policy,
    "BudgetThresholdCrossed": _threshold,
    "BudgetExceeded": _exceeded,
    "AlertRaised": _alert,
    "AlertUpdated": _updated,
    "HoldDecided": _refused,
    "AlertResolved": _resolved,
    "OutcomeRecorded": _outcome,
}


def tokens_text(row: Row) -> str:
    given = [row[name] for name in ("input_tokens", "cache_read_tokens", "cache_write_tokens")]
    answered = [row[name] for name in ("output_tokens", "reasoning_tokens")]
    if all(count is None for count in (*given, *answered)):
        return ""
    return f"{sum(count or 0 for count in given):,}→{sum(count or 0 for count in answered):,}"


def success_text(success: bool | None) -> tuple[str, str]:
    return {True: ("success", "bold green"), False: ("failure", "bold red")}.get(success, ("unknown", "yellow"))  # type: ignore[arg-type]


def status_text(status: str) -> tuple[str, str]:
    style = {"succeeded": "green", "failed": "red", "halted": "red", "escalated": "yellow"}.get(status, "cyan")
    return status or "?", style


def _budget(row: Row) -> str:
    """Such as `cost budget of the run` or `tokens budget of team payments`."""
    metric = row["metric"].removesuffix("_nanousd").removesuffix("_ms").replace("_", " ")
    whose = "the run" if row["scope"] == "run" else f"{row['scope']} {clean(row['scope_value'], 40)}".rstrip()
    return f"{metric} budget of {whose}"


def money_text(nanousd: int | None) -> str:
    """Dollars to four places; of less than $0.001, so many places that two digits show: little must not read as 0."""
    if nanousd is None:
        return "unpriced"
    places = PLACES
    while nanousd and places < PLACES_MAX and abs(nanousd) < 10 ** (10 - places):
        places += 1
    usd = round(Decimal(abs(nanousd)).scaleb(-PLACES_MAX), places)  # half to even
    return f"{'-' if nanousd < 0 else ''}${usd:,.{places}f}"


def _amount(amount: int, metric: str) -> str:
    if metric == "cost_nanousd":
        return money_text(amount)
    return duration_text(amount) if metric == "wall_clock_ms" else f"{amount:,}"


def offset_text(moment: datetime, started: datetime) -> str:
    seconds = (utc(moment) - utc(started)).total_seconds()
    sign, seconds = ("-", -seconds) if seconds < 0 else ("+", seconds)
    if seconds < 600:
        return f"{sign}{seconds:.1f}s"
    return f"{sign}{duration_text(int(seconds * 1000))}"


def took_text(latency_ms: float | None) -> str:
    if latency_ms is None:
        return ""
    return f"{latency_ms:.0f}ms" if latency_ms < 10_000 else f"{latency_ms / 1000:.1f}s"


def duration_text(duration_ms: int) -> str:
    seconds = duration_ms // 1000
    if seconds < 60:
        return f"{duration_ms / 1000:.1f}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if minutes < 60:
        return f"{minutes}m{seconds % 60:02}s"
    return f"{hours}h{minutes % 60:02}m" if hours < 48 else f"{days}d{hours % 24:02}h"


def utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def clean(text: str, length: int = 60) -> str:
    """Recorded text on one line, without control characters, cut to a length."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    return clean if len(clean) <= length else f"{clean[: length - 1]}…"
