"""Every page of the console: its path, and the right that it takes."""

from __future__ import annotations

from typing import NamedTuple

from agentledger.sinks.console.pages.alerts import answer_alert, show_alerts
from agentledger.sinks.console.pages.budgets import show_budgets
from agentledger.sinks.console.pages.commands import give_command
from agentledger.sinks.console.pages.evidence import show_evidence, start_verify
from agentledger.sinks.console.pages.exports import download_export, start_export
from agentledger.sinks.console.pages.now import show_now
from agentledger.sinks.console.pages.one_run import show_event, show_run, show_run_json
from agentledger.sinks.console.pages.outcomes import show_outcomes
from agentledger.sinks.console.pages.policy import show_policy
from agentledger.sinks.console.pages.rule_trial import start_trial
from agentledger.sinks.console.pages.runs import show_runs
from agentledger.sinks.console.pages.sql import ask, show_query
from agentledger.sinks.console.visits import Handler, recorded_page


class Page(NamedTuple):
    """One path of the console. `scope` is the right of the key that opens it."""

    name: str
    path: str
    handler: Handler
    scope: str = "read"
    method: str = "GET"


PAGES = (
    Page("now", "/", recorded_page("now", show_now)),
    Page("runs", "/runs", show_runs),
    Page("run", "/run", show_run),
    Page("event", "/run/event", show_event),
    Page("run_json", "/run.json", show_run_json, scope="export"),
    Page("budgets", "/budgets", recorded_page("budgets", show_budgets)),
    Page("commands", "/commands", give_command, scope="admin", method="POST"),
    Page("alerts", "/alerts", recorded_page("alerts", show_alerts, "state", "severity", "rule")),
    Page("answer", "/alerts/answer", answer_alert, scope="admin", method="POST"),
    Page("trial", "/alerts/try", start_trial, method="POST"),
    Page("outcomes", "/outcomes", show_outcomes),
    Page("policy", "/policy", show_policy),
    Page("evidence", "/evidence", recorded_page("evidence", show_evidence)),
    Page("verify", "/verify", start_verify, scope="admin", method="POST"),
    Page("export", "/exports", start_export, scope="export", method="POST"),
    Page("export_file", "/exports/file", download_export, scope="export"),
    Page("query", "/query", show_query),
    Page("ask", "/query", ask, method="POST"),
)
