"""On a running stack: the doctor finds nothing broken, every program shows metrics, every panel of ClickHouse's
dashboard has an answer, and whoever is paged comes from the page to the run, halts it, and the page is resolved.
What agents emit while the broker hangs is there once, or its loss is.
"""

from __future__ import annotations

import http.cookiejar
import json
import re
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests.notify_rig import Notify, alertmanager, end, firing, wait_for
from tests.outbox_agents import flush_outbox, said_until_killed, start_agent
from tests.page_receiver import Answer, page_receiver
from tests.processes import kill_hard
from tests.running_stack import ROOT, RunningStack

SPEND = json.loads((Path(ROOT) / "infra/grafana/spend.json").read_text("utf-8"))
PREFIXES = ("writer", "packer", "worker", "holds", "scopes", "ticker", "reconcile", "payloads", "console", "signer")
TIME_FILTER = re.compile(r"\$__timeFilter\((\w+)\)")


def test_the_doctor_finds_nothing_broken(stack: RunningStack) -> None:
    findings = json.loads(stack.cli("doctor", "--json", check=False).stdout)
    levels = {finding["check"]: finding["level"] for finding in findings if not finding["check"].startswith("disk")}
    assert {"topics", "ClickHouse", "tables", "roles", "clock", "lag of writer", "checkpoint"} <= set(levels)
    assert "fail" not in levels.values(), findings


@pytest.mark.parametrize("panel", SPEND["panels"], ids=lambda panel: str(panel["title"]))
def test_a_panel_has_an_answer(stack: RunningStack, panel: dict[str, list[dict[str, str]]]) -> None:
    for target in panel["targets"]:
        stack.query(TIME_FILTER.sub(r"\1 >= now() - INTERVAL 6 HOUR", target["rawSql"]))


def test_every_program_shows_its_metrics_where_status_says(stack: RunningStack) -> None:
    services = json.loads((stack.data_dir / "stack.json").read_text())["services"]
    urls = {service["name"]: service["metrics_url"] for service in services if service["metrics_url"]}
    assert set(urls) == set(PREFIXES)
    status = stack.cli("status").stdout
    for name, url in urls.items():
        assert f":{urllib.parse.urlsplit(url).port}" in status
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert f"\nagentledger_{name}_" in answer.read().decode()


NOTIFY_FILE = """
console_url: {console}
channels:
  am: {{kind: alertmanager, url: "{alertmanager}"}}
routes:
- {{name: loops, match: {{rule: [tool_call_loop]}}, channels: [am]}}
- {{name: rest, channels: []}}
"""
LOOPING = """
import time
from agentledger.producers import Ledger
from agentledger.schemas.errors import HaltedError
with Ledger(agent_id="looper") as ledger:
    try:
        with ledger.run("fix_issue", run_id="loops-for-ever") as run:
            for _ in range(1200):
                with run.tool_call("search", arguments={"q": "the same"}, effect="read") as call:
                    call.result({"found": 0})
                time.sleep(0.1)
    except HaltedError as error:
        print(error)
"""


def test_whoever_is_paged_comes_to_the_run_halts_it_and_the_page_is_resolved(
    stack: RunningStack, tmp_path: Path
) -> None:
    with page_receiver(Answer(200)) as people, alertmanager(tmp_path, people.url + "/people") as url:
        file = NOTIFY_FILE.format(console=stack.endpoints()["console_url"], alertmanager=url)
        notify = Notify(tmp_path / "notify", stack.endpoints()["kafka_bootstrap_servers"], file).start()
        env = {**stack.env, **stack.exports()}
        agent = subprocess.Popen([sys.executable, "-c", LOOPING], env=env, stdout=subprocess.PIPE, text=True)
        try:
            wait_for(lambda: "tool_call_loop" in firing(people.got, "firing"))
            page = people.got[0].json["alerts"][0]
            assert page["annotations"]["run"] == "loops-for-ever"
            halt_from(page["generatorURL"], "paged: it loops")
            said, _ = agent.communicate(timeout=60)
            assert "is halted by console:local" in said
            assert "paged: it loops" in said
            wait_for(lambda: "tool_call_loop" in firing(people.got, "resolved"))
        finally:
            agent.kill()
            end(notify)


def halt_from(link: str, reason: str) -> None:
    """Open the page's link as a browser does, and send the form that halts the run."""
    jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    browser = urllib.request.build_opener(jar)
    with browser.open(link, timeout=30) as page:
        shown = page.read().decode()
    form = shown[shown.index('<form class="halt"') :]
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form[: form.index("</form>")]))
    assert (fields["scope"], fields["scope_value"]) == ("run", "loops-for-ever")
    parts = urllib.parse.urlsplit(link)
    address = f"{parts.scheme}://{parts.netloc}"
    body = urllib.parse.urlencode({**fields, "reason": reason}).encode()
    with browser.open(urllib.request.Request(f"{address}/commands", body, {"Origin": address}), timeout=30) as done:
        assert done.status == 200


KEPT, CUT = "keeps-all", "gives-up-oldest"
MIB = 1 << 20


def test_what_agents_emit_while_the_broker_hangs_is_in_clickhouse_once_or_its_loss_is(
    stack: RunningStack, tmp_path: Path
) -> None:
    servers, outbox = stack.endpoints()["kafka_bootstrap_servers"], tmp_path / "outbox"
    kill_hard(stack.pid("kafka"), signal.SIGSTOP)
    try:
        kept = said_until_killed(start_agent(servers, outbox, 100_000, agent_id=KEPT), 1000)
        last = start_agent(servers, outbox, 8000, agent_id=CUT, flush_wait_ms_max=60_000, bytes_max=MIB)
        assert last.stdout is not None
        cut = [last.stdout.readline().strip() for _ in range(8000)]
    finally:
        kill_hard(stack.pid("kafka"), signal.SIGCONT)
    last.communicate(timeout=90)
    flush_outbox(servers, outbox)
    lost = "SELECT first_missing_seq, last_missing_seq FROM ledger WHERE event_type = 'GapDetected'"
    told = f"""SELECT countIf(agent_id = '{KEPT}') AS kept, countIf(agent_id = '{CUT}') AS cut,
        (SELECT sum(last_missing_seq - first_missing_seq + 1) FROM ({lost})) AS lost
        FROM events WHERE event_type = 'PolicyDecided'"""
    found = stack.settle(told, lambda row: row["kept"] >= len(kept) and row["cut"] + row["lost"] >= len(cut))
    rows = f"SELECT toString(event_id) AS id, agent_id, producer_seq FROM events WHERE agent_id IN ('{KEPT}', '{CUT}')"
    there = {row["id"]: row for row in stack.query(f"{rows} AND event_type = 'PolicyDecided'")}
    assert len(there) == found["kept"] + found["cut"]  # each once
    assert set(kept) <= set(there)
    gone = [1 + place for place, event_id in enumerate(cut) if event_id not in there]  # 0 is the run's start
    assert gone  # more than the outbox may hold
    told_of = {seq for gap in stack.query(lost) for seq in range(gap["first_missing_seq"], gap["last_missing_seq"] + 1)}
    assert set(gone) <= told_of
