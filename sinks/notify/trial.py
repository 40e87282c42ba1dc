"""The pages of `agentledger notify test`: one that says that it is a test, and its end."""

from __future__ import annotations

from agentledger.sinks.notify.alerts import Alert, page_text
from agentledger.sinks.notify.payloads import Told


def trial_pages(now_us: int, console_url: str) -> list[Told]:
    """A trigger and its resolve."""
    alert = Alert(
        alert_id="", raised_event_id="", tenant_id="test", rule="notify_test", severity="info",
        summary="This is a test of agentledger notify: nothing has happened", scope="", scope_value="", run_id="",
        workflow="", agent_id="", environment="", team="", runbook_url="", count=1, observed=None, expected=None,
        raised_us=now_us, last_us=now_us,
    )  # fmt: skip
    text = page_text(alert, alerts=1, severity="info", since_us=now_us, console_url=console_url)
    key = f"agentledger-test-{now_us}"
    labels = (("alertname", "notify_test"), ("severity", "info"))
    return [
        Told(f"{key}/trigger", "trigger", key, text, now_us, labels),
        Told(f"{key}/resolve", "resolve", key, text, now_us + 1, labels),
    ]
