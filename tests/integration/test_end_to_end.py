"""The main job: all recorded runs through the live pipeline, and what the views then say is what the READMEs say."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.console_browser import leaves_its_loop, needs_chromium, running_chromium, window
from tests.processes import kill_hard
from tests.running_stack import RunningStack
from tests.traces import EXPECTED, README_PARTS, Expected, traces_folder

pytestmark = [pytest.mark.integration, pytest.mark.traces, pytest.mark.timeout(900)]

VIEWS = (
    "events",
    "runs",
    "model_calls",
    "tool_calls",
    "policy_decisions",
    "outcomes",
    "charges",
    "budget_events",
    "alerts",
    "scoreboard",
)
# Signed heads, rules over several runs and the watch over our own stages follow the clock of the ledger, not the runs.
OF_RUNS = "run_id != '' AND NOT startsWith(run_id, 'signer:')"
SETTLED = f"""SELECT (SELECT count() FROM events WHERE {OF_RUNS}) AS events,
    (SELECT count() FROM charges WHERE kind = 'model') AS charges, (SELECT count() FROM model_calls) AS model_calls,
    (SELECT uniqExact(run_id) FROM events WHERE event_type = 'OutcomeCosted') AS costed,
    (SELECT uniqExact(run_id) FROM outcomes) AS with_outcome"""


def import_all(stack: RunningStack, folder: Path) -> None:
    """All five sets, each under its own source."""
    for source, expected in EXPECTED.items():
        stack.cli("import", expected.format, str(folder / expected.path), "--source", source)


def settled(stack: RunningStack) -> dict[str, int]:
    """Wait until every model call is there and rated, and every run with an outcome is costed."""
    wanted = sum(expected.model_calls for expected in EXPECTED.values())
    return stack.settle(
        SETTLED,
        lambda row: row["charges"] == row["model_calls"] == wanted and row["costed"] == row["with_outcome"],
    )


def fingerprints(stack: RunningStack) -> dict[str, str]:
    """A hash of all rows of each view; nulls and all."""
    prints = {}
    for view in VIEWS:
        rows = f"SELECT * FROM {view} WHERE {OF_RUNS}" if view in {"events", "alerts"} else f"SELECT * FROM {view}"
        row = stack.one(f"SELECT count() AS rows, sum(cityHash64(formatRow('JSONEachRow', *))) AS hash FROM ({rows})")
        prints[view] = f"{row['rows']} {row['hash']}"
    return prints


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack with everything imported once."""
    folder = traces_folder()
    with RunningStack(tmp_path_factory.mktemp("end-to-end")) as stack:
        import_all(stack, folder)
        settled(stack)
        yield stack


@pytest.mark.parametrize(("source", "expected"), EXPECTED.items(), ids=EXPECTED)
def test_the_views_say_what_the_readmes_say(imported: RunningStack, source: str, expected: Expected) -> None:
    row = imported.one(f"""SELECT count() AS runs, sum(model_calls) AS model_calls, sum(tool_calls) AS tool_calls,
        sum(tool_errors) AS tool_errors, countIf(outcome_success) AS successes, sum(reported_cost_nanousd) AS cost
        FROM runs WHERE source = '{source}'""")
    assert row["runs"] == expected.runs
    assert row["model_calls"] == expected.model_calls
    assert row["tool_calls"] == expected.tool_calls
    assert row["cost"] == expected.cost_nanousd
    if expected.successes is not None:
        assert row["successes"] == expected.successes
    if expected.tool_errors is not None:
        assert row["tool_errors"] == expected.tool_errors


@pytest.mark.parametrize(("sql", "readme"), README_PARTS.values(), ids=README_PARTS)
def test_what_a_readme_counts_of_its_set_is_there_exactly(
    imported: RunningStack, sql: str, readme: dict[str, int]
) -> None:
    assert imported.one(sql) == readme


def test_the_views_agree_with_each_other(imported: RunningStack) -> None:
    row = imported.one("""SELECT (SELECT sum(model_calls) FROM runs) AS in_runs,
        (SELECT count() FROM model_calls) AS calls,
        (SELECT sum(cost_nanousd) FROM runs) AS run_cost, (SELECT sum(cost_nanousd) FROM charges) AS charged,
        (SELECT sum(cost_nanousd) FROM model_calls) AS call_cost, (SELECT sum(runs) FROM scoreboard) AS scored,
        (SELECT count() FROM runs) AS runs, (SELECT sum(tool_calls) FROM runs) AS run_tools,
        (SELECT count() FROM tool_calls) AS tools""")
    assert row["in_runs"] == row["calls"]
    assert row["run_cost"] == row["charged"] == row["call_cost"]
    assert row["scored"] == row["runs"]
    assert row["run_tools"] == row["tools"]


def test_unpriced_is_never_zero(imported: RunningStack) -> None:
    row = imported.one("""SELECT countIf(not priced) AS unpriced,
        countIf(not priced AND cost_nanousd IS NOT NULL) AS wrong,
        countIf(priced AND cost_nanousd IS NULL) AS lost FROM model_calls""")
    assert row["unpriced"] > 0
    assert (row["wrong"], row["lost"]) == (0, 0)


def test_each_log_is_dense_and_whole(imported: RunningStack) -> None:
    check_dense(imported)


def check_dense(stack: RunningStack) -> None:
    """Every log counts from 0 without a hole, and no position of Kafka stands in it twice."""
    logs = stack.query("""SELECT topic, partition, count() AS rows, uniqExact(log_index) AS indexes,
        min(log_index) AS first, max(log_index) AS last, uniqExact(offset) AS offsets
        FROM ledger GROUP BY topic, partition""")
    assert logs
    for log in logs:
        assert log["first"] == 0, log
        assert log["rows"] == log["indexes"] == log["offsets"] == log["last"] + 1, log


def test_importing_all_of_it_again_leaves_every_view_unchanged(imported: RunningStack) -> None:
    before = fingerprints(imported)
    count = "SELECT count() AS rows FROM ledger WHERE topic = 'agentledger.events.v1' AND event_type != 'Ticked'"
    rows = imported.one(count)["rows"]
    import_all(imported, traces_folder())
    again = imported.settle(
        count,
        lambda row: row["rows"] == 2 * rows,
    )
    assert again["rows"] == 2 * rows  # it all came again
    time.sleep(3)  # what should not follow has had time to follow
    assert fingerprints(imported) == before
    check_dense(imported)


def test_killing_everything_in_turn_during_an_import_changes_no_count(imported: RunningStack, tmp_path: Path) -> None:
    """`kill -9` of writer, worker, packer and broker at random moments; the supervisor starts them again."""
    folder = traces_folder()
    expected = imported.one(TOTALS)
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # noqa: T201 (shown where the test fails)
    rng = random.Random(seed)
    with RunningStack(tmp_path / "stack") as stack:
        for source, wanted in EXPECTED.items():
            importing = stack.popen("import", wanted.format, str(folder / wanted.path), "--source", source)
            for service in rng.sample(["writer", "worker", "packer", "kafka"], 2):
                time.sleep(rng.uniform(0.1, 1.5))
                kill_hard(stack.pid(service), signal.SIGKILL)
            output, _ = importing.communicate(timeout=240)
            assert importing.returncode == 0, output
            time.sleep(rng.uniform(0, 2))
            kill_hard(stack.pid(rng.choice(["writer", "worker"])), signal.SIGKILL)
        stack.settle(TOTALS, lambda row: row == expected, wait_s_max=180)
        assert stack.one(TOTALS) == expected
        check_dense(stack)


# Everything that must not depend on crashes. Not in it: how often the same bytes came, and when.
TOTALS = f"""SELECT (SELECT count() FROM events WHERE {OF_RUNS}) AS events,
    (SELECT sum(cityHash64(event_id)) FROM events WHERE {OF_RUNS}) AS event_ids,
    (SELECT count() FROM runs) AS runs, (SELECT sum(model_calls) FROM runs) AS model_calls,
    (SELECT sum(tool_calls) FROM runs) AS tool_calls, (SELECT sum(tool_errors) FROM runs) AS tool_errors,
    (SELECT sum(cost_nanousd) FROM runs) AS cost, (SELECT sum(reported_cost_nanousd) FROM runs) AS reported_cost,
    (SELECT countIf(outcome_success) FROM runs) AS successes, (SELECT count() FROM charges) AS charges,
    (SELECT count() FROM budget_events) AS budget_events,
    (SELECT count() FROM events WHERE startsWith(event_type, 'Alert') AND {OF_RUNS}) AS alerts,
    (SELECT count() FROM ledger WHERE occurrence = 'conflict') AS conflicts"""


def test_nothing_depends_on_the_name_of_the_file(imported: RunningStack, tmp_path: Path) -> None:
    """The same recording under another name is the same runs."""
    before = imported.one(TOTALS)
    original = traces_folder() / "tau2-retail" / "telecom-solo-gpt-4.1-1task.json.gz"
    copy = tmp_path / f"{hashlib.sha256(b'other').hexdigest()[:8]}.json.gz"
    copy.write_bytes(original.read_bytes())
    imported.cli("import", "tau2", str(copy), "--source", "tau2-retail")
    time.sleep(3)
    assert imported.one(TOTALS) == before


@needs_chromium
@leaves_its_loop
def test_the_console_shows_every_set_and_its_longest_run(imported: RunningStack) -> None:
    longest = imported.query("SELECT source, run_id FROM runs ORDER BY events DESC LIMIT 1 BY source")
    assert len(longest) == len(EXPECTED)
    paths = ["/", "/runs?range=year", "/runs?state=failed", "/outcomes?by=model", "/budgets", "/alerts?state=all",
             "/policy?range=month", "/evidence", "/query"]  # fmt: skip
    with running_chromium() as chromium, window(chromium, imported.endpoints()["console_url"]) as (page, problems):
        for path in [*paths, *(f"/run?id={quote(row['run_id'])}" for row in longest)]:
            assert page.goto(path).status == 200, path
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
            assert problems == [], path
            assert "id=" not in path or page.locator(".steps tbody tr").count() > 5, path


# Calls a tool all the time, and says when it was halted.
AGENT = """
import sys, time
from agentledger.producers import ControlSettings, Ledger
from agentledger.schemas.errors import HaltedError
with Ledger(agent_id="console-agent", control=ControlSettings(first_read_s_max=20)) as ledger:
    with ledger.run("endless", run_id="to-be-halted") as run:
        while True:
            try:
                with run.tool_call("look"):
                    time.sleep(0.01)
            except HaltedError as error:
                print(time.time(), error, flush=True)
                break
"""


@needs_chromium
@leaves_its_loop
def test_a_running_agent_is_halted_from_its_run_s_page(imported: RunningStack) -> None:
    env = imported.env | {"AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS": imported.endpoints()["kafka_bootstrap_servers"]}
    agent = subprocess.Popen([sys.executable, "-c", AGENT], env=env, stdout=subprocess.PIPE, text=True)
    try:
        imported.settle(
            "SELECT count() AS runs FROM runs WHERE run_id = 'to-be-halted'", lambda row: row["runs"] == 1
        )  # fmt: skip
        with running_chromium() as chromium, window(chromium, imported.endpoints()["console_url"]) as (page, problems):
            page.goto("/run?id=to-be-halted")
            page.get_by_label("Halt this run, because").fill("tried from the console")
            clicked_s = time.time()
            page.keyboard.press("Enter")
            output, _ = agent.communicate(timeout=60)
            page.wait_for_url("**/budgets**")
            assert problems == []
    finally:
        agent.kill()
        agent.wait()
    halted_s, _, said = output.partition(" ")
    assert "tried from the console" in said
    print(f"halted {float(halted_s) - clicked_s:.2f} s after the key was pressed")  # noqa: T201 (pytest -s shows it)


RULES = "rules:\n  - name: looping\n    kind: identical_tool_calls\n    severity: warning\n    calls: 3\n"


@needs_chromium
@leaves_its_loop
def test_rules_are_tried_and_an_export_is_taken_from_the_pages(imported: RunningStack, tmp_path: Path) -> None:
    [row] = imported.query("SELECT run_id FROM runs ORDER BY events DESC LIMIT 1")
    with running_chromium() as chromium, window(chromium, imported.endpoints()["console_url"]) as (page, problems):
        page.goto("/alerts")
        page.get_by_label("rules, as in a rules file").fill(RULES)
        page.get_by_role("button", name="Try").click()
        page.get_by_text("Nobody was told.").wait_for()
        assert page.get_by_text("looping:").count() == 1
        page.goto("/evidence")
        page.get_by_label("one run").fill(row["run_id"])
        page.get_by_role("button", name="Export").click()
        with page.expect_download() as download:
            page.get_by_role("link", name="export-").click()
        assert problems == []
        packed = tmp_path / "export.zip"
        download.value.save_as(packed)
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path)
    [folder] = tmp_path.glob("export-*-parquet")
    key = tmp_path / "key"
    key.write_text(imported.cli("keys", "show").stdout)
    assert row["run_id"] in (folder / "manifest.json").read_text()
    imported.cli("verify-export", str(folder), "--key", str(key))
