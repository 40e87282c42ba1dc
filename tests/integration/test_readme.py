"""The README is run, not only read: its example records a run that is then seen, and its run-log import works. So is
the page on OpenTelemetry.
"""

from __future__ import annotations

import gzip
import io
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest
from rich.console import Console

from agentledger.infra.demo.show import show_flow
from agentledger.infra.endpoints import reader_login
from agentledger.infra.settings import load_settings
from agentledger.infra.stack import Endpoints
from agentledger.producers.otel.otlp import PROTOBUF
from agentledger.sinks.console.pages import PAGES
from tests.console_browser import leaves_its_loop, needs_chromium, running_chromium, window
from tests.otlp_requests import recorded_request
from tests.running_stack import ROOT, RunningStack
from tests.traces import traces_folder

SPAN_FACTS = (
    "event_type, trace_id, span_id, step, agent_id, agent_version, workflow, occurred_at, labels, status, duration_ms, "
    "provider, requested_model, answered_model, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, "
    "reasoning_tokens, latency_ms, reported_cost_nanousd, finish_reason, response_id, input_digest, output_digest, "
    "tool, call_id, arguments_digest, result_digest, error_type, error_message, requestor"
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

DEMO_RUNS = 8
DEMO_PAGES = {"now", "runs", "outcomes", "budgets", "alerts", "policy", "evidence", "query"}
RUN_LOG = """{"run_id":"a9c2","step":1,"type":"model_call","model":"gpt-4.1","tokens_in":1420,"tokens_out":310,"latency_ms":820}
{"run_id":"a9c2","step":2,"type":"tool_call","tool":"lookup_order","input":{"order_id":"A-10492"},"latency_ms":190}
{"run_id":"a9c2","step":3,"type":"validator","rule":"refund_amount_cap","result":"pass"}
{"run_id":"a9c2","step":4,"type":"tool_call","tool":"create_refund","input":{"order_id":"A-10492","amount_usd":38.50},"latency_ms":240}
{"run_id":"a9c2","final":"success","cost_usd":0.41,"total_latency_ms":2150}
"""  # noqa: E501 (exactly the lines of the issue)


def run_example(stack: RunningStack, page: str, name: str, folder: Path) -> None:
    """Run the program that a page shows under this name."""
    text = (ROOT / page).read_text("utf-8")
    [program] = re.findall(rf"<!-- tested: {name} -->\n```python\n(.*?)```", text, re.S)
    script = folder / "example.py"
    script.write_text(program, "utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**stack.env, **stack.exports()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_example_records_a_run_that_is_then_seen(stack: RunningStack, tmp_path: Path) -> None:
    assert stack.exports().keys() == {
        "AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS",
        "AGENTLEDGER_CLICKHOUSE_URL",
        "AGENTLEDGER_GATEWAY_URL",
        "AGENTLEDGER_CONSOLE_URL",
    }
    run_example(stack, "README.md", "sdk-example", tmp_path)
    row = stack.settle(
        "SELECT count() AS runs, any(status) AS status, any(cost_nanousd) AS cost, any(outcome_success) AS success, "
        "any(tool_calls) AS tool_calls FROM runs WHERE run_id = 'my-first-run'",
        lambda row: row["runs"] == 1 and row["cost"] is not None and row["status"] == "succeeded",
    )
    # gpt-4.1: 1,420 input tokens at $2 and 310 output tokens at $8 per million.
    assert row == {"runs": 1, "status": "succeeded", "cost": 5_320_000, "success": True, "tool_calls": 1}
    timeline = stack.cli("run", "my-first-run").stdout
    for shown in ("my-first-run", "gpt-4.1", "create_refund", "amount_cap", "succeeded"):
        assert shown in timeline
    assert "Traceback" not in timeline
    assert "refund_request" in stack.cli("scoreboard").stdout


def test_a_program_that_opentelemetry_traces_is_recorded_by_three_lines(stack: RunningStack, tmp_path: Path) -> None:
    run_example(stack, "infra/docs/OPENTELEMETRY.md", "otel-example", tmp_path)
    row = stack.settle(
        "SELECT count() AS runs, any(status) AS status, any(agent_id) AS agent, any(cost_nanousd) AS cost, "
        "any(tool_calls) AS tool_calls FROM runs WHERE run_id = 'my-traced-run'",
        lambda row: row["runs"] == 1 and row["cost"] is not None and row["status"] == "succeeded",
    )
    assert row == {"runs": 1, "status": "succeeded", "agent": "support-bot", "cost": 5_320_000, "tool_calls": 1}
    timeline = stack.cli("run", "my-traced-run").stdout
    for shown in ("my-traced-run", "gpt-4.1", "lookup_order", "succeeded"):
        assert shown in timeline


@pytest.mark.traces
def test_recordings_sent_as_otlp_are_the_rows_that_importing_them_gives(stack: RunningStack) -> None:
    folder = traces_folder() / "otel-any-agent"
    url = f"{stack.exports()['AGENTLEDGER_GATEWAY_URL']}/v1/traces"
    for path in sorted(folder.glob("*.json.gz")):
        body = gzip.compress(recorded_request(path).SerializeToString())
        headers = {"Content-Type": PROTOBUF, "Content-Encoding": "gzip"}
        with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
            assert (answer.status, answer.read()) == (200, b"")
    stack.cli("import", "otel-json", str(folder), "--tenant", "files")
    facts = f"SELECT {SPAN_FACTS} FROM ledger WHERE occurrence = 'first' AND startsWith(producer_id, "
    sent, filed = f"{facts}'otlp:')", f"{facts}'import:otel-json:')"
    row = stack.settle(
        f"SELECT (SELECT count() FROM ({sent})) AS sent, (SELECT count() FROM ({filed})) AS filed, "
        f"(SELECT count() FROM ({sent} EXCEPT {filed})) AS only_sent, "
        f"(SELECT count() FROM ({filed} EXCEPT {sent})) AS only_filed",
        lambda row: row["sent"] == row["filed"] > 0,
    )
    assert row == {"sent": 497, "filed": 497, "only_sent": 0, "only_filed": 0}


def test_a_run_log_is_imported_exactly(stack: RunningStack, tmp_path: Path) -> None:
    path = tmp_path / "my-agent.jsonl"
    path.write_text(RUN_LOG, "utf-8")
    stack.cli("import", "run-log", str(path), "--source", "my-agent")
    row = stack.settle(
        "SELECT count() AS runs, any(source) AS source, any(model_calls) AS model_calls, "
        "any(tool_calls) AS tool_calls, "
        "any(input_tokens) AS input_tokens, any(output_tokens) AS output_tokens, any(outcome_success) AS success, "
        "any(reported_cost_nanousd) AS reported FROM runs WHERE run_id = 'a9c2'",
        lambda row: row["runs"] == 1 and row["success"] is not None,
    )
    assert row == {
        "runs": 1,
        "source": "my-agent",
        "model_calls": 1,
        "tool_calls": 2,
        "input_tokens": 1420,
        "output_tokens": 310,
        "success": True,
        "reported": 410_000_000,
    }


def test_bad_input_is_one_line_and_not_zero(stack: RunningStack, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"run_id": "b"\n', "utf-8")
    for arguments in (
        ("import", "run-log", str(tmp_path / "nothing-here.jsonl")),
        ("query", "SELEC 1"),
        ("query", "INSERT INTO ledger VALUES (1)"),
        ("run", "no-such-run"),
    ):
        done = stack.cli(*arguments, check=False)
        assert done.returncode != 0, arguments
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "Traceback" not in done.stderr
    rejected = stack.cli("import", "run-log", str(broken), check=False)
    assert rejected.returncode == 1
    assert "rejected   1" in rejected.stdout


@needs_chromium
@leaves_its_loop
def test_every_page_of_the_console_opens_on_what_the_demo_records(stack: RunningStack) -> None:
    endpoints = Endpoints(**stack.endpoints())
    settings = load_settings(data_dir=stack.data_dir, clickhouse_url=endpoints.clickhouse_url)
    shown = Console(file=io.StringIO())
    show_flow(shown, settings, endpoints, reader_login(settings), runs=DEMO_RUNS, seed=7)
    told = DEMO_RUNS + 4  # the few that are not ordinary
    stack.settle("SELECT count() AS runs FROM runs WHERE environment = 'demo'", lambda row: row["runs"] == told)
    runs = stack.query("SELECT run_id FROM runs WHERE environment = 'demo'")
    with running_chromium() as chromium, window(chromium, endpoints.console_url) as (page, problems):
        for path in [*(one.path for one in PAGES if one.name in DEMO_PAGES), "/runs?range=week"]:
            assert page.goto(path).status == 200, path
        listed = page.locator("tbody").inner_text()
        assert all(agent in listed for agent in ("support-bot", "coder", "ops-bot"))
        for run in runs:
            assert page.goto(f"/run?id={quote(run['run_id'])}").status == 200, run
            assert page.locator(".steps tbody tr").count() > 2, run
        assert problems == []
