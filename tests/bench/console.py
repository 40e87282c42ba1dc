"""Page times of the console on a large ledger, and how much of it a page reads.

AGENTLEDGER_BENCH_EVENTS says how many events (2 million unless it is set), AGENTLEDGER_BENCH_LEDGER a folder in which
the ledger is kept: to make 100 million takes a quarter of an hour and 7 GB.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import clickhouse_connect
import httpx

from agentledger.infra.stack.clickhouse import ClickHouseService
from agentledger.infra.stack.ports import free_port
from agentledger.sinks.console import ConsoleConfig, run_console
from agentledger.sinks.console.visits import SUM_SETTINGS
from agentledger.sinks.migrations import migrate
from agentledger.sinks.tables import LEDGER
from tests.bench.console_ledger import END_US, TENANT, fill
from tests.bench.report import Figure, percentile
from tests.console_rig import Outside

EVENTS = int(os.environ.get("AGENTLEDGER_BENCH_EVENTS", "2000000"))
VISITS = int(os.environ.get("AGENTLEDGER_BENCH_VISITS", "60"))
PAUSE_S = 0.5  # between two visits: longer than an answer is fresh, and shorter than a person waits
MERGE_S_MAX = 1_200.0
COUNT_S_MAX = 300.0
QUIET_LOOKS = 10  # seconds without a merge: then none is due
BACKGROUND = "sums"  # what is kept for several pages
TARGET = "under 300 on 100 million events"


class CountingClient:
    """Asks the real one, and counts the rows that the server read, by the page that is being visited.

    Those of sums that are kept are counted by themselves: they are renewed for all pages.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.page = ""
        self.rows: Counter[str] = Counter()

    def query(self, query: str, *, parameters: dict[str, Any] | None, settings: dict[str, Any]) -> Any:
        """Ask, and count."""
        page = BACKGROUND if settings.items() >= SUM_SETTINGS.items() else self.page
        found = self.client.query(query, parameters=parameters, settings=settings)
        self.rows[page] += int(found.summary.get("read_rows", 0))
        return found


def measure(folder: Path) -> list[Figure]:
    """Each page is visited again and again, in turn, over one connection."""
    kept = os.environ.get("AGENTLEDGER_BENCH_LEDGER")
    with _ledger(Path(kept) if kept else folder) as client:
        events = int(client.query(f"SELECT count() FROM {LEDGER}").result_rows[0][0])
        parts = _parts_when_merged(client)
        counting, outside = CountingClient(client), Outside()
        headers = {"Authorization": f"Bearer {outside.key(TENANT, 'read')}"}
        runs = _runs(client)
        with _console(outside.ports(counting)) as url, httpx.Client(base_url=url, headers=headers, timeout=60) as web:
            first_ms = _visit_all(web, counting, runs, 1)
            counted_s = _until_counted(web)
            counting.rows.clear()
            took_ms = _visit_all(web, counting, runs, VISITS)
        figures = [
            Figure("console_events", float(events), "events"),
            Figure("console_parts", float(parts), "parts"),
            Figure("console_sums_first_s", counted_s, "s until the first sums are counted"),
            Figure("console_sums_rows_read", counting.rows[BACKGROUND] / VISITS, "rows a round"),
        ]
        for page, times in took_ms.items():
            rows = counting.rows[page] / len(times)
            figures += [
                Figure(f"console_{page}_first_ms", first_ms[page][0], "ms"),
                Figure(f"console_{page}_ms_p50", percentile(times, 0.50), "ms"),
                Figure(f"console_{page}_ms_p95", percentile(times, 0.95), "ms", TARGET),
                Figure(f"console_{page}_rows_read", rows, "rows"),
                Figure(f"console_{page}_rows_read_share", 100 * rows / events, "% of the table"),
            ]
    return figures


def _until_counted(web: httpx.Client) -> float:
    """Seconds until the page Now has all its sums: from then on they are renewed now and then, as the day long."""
    began = time.monotonic()
    while "being counted" in web.get("/").text:
        if time.monotonic() > began + COUNT_S_MAX:
            raise RuntimeError(f"the sums of the page Now were not counted within {COUNT_S_MAX:g} s")
        time.sleep(PAUSE_S)
    return time.monotonic() - began


def _visit_all(web: httpx.Client, counting: CountingClient, runs: list[str], rounds: int) -> dict[str, list[float]]:
    took_ms: dict[str, list[float]] = {"now": [], "runs": [], "run": []}
    run_ids = itertools.cycle(runs)
    for _ in range(rounds):
        for page, path in {"now": "/", "runs": "/runs", "run": f"/run?id={next(run_ids)}"}.items():
            counting.page = page
            began = time.perf_counter()
            answer = web.get(path)
            took_ms[page].append(1000 * (time.perf_counter() - began))
            if answer.status_code != httpx.codes.OK:
                raise RuntimeError(f"{path} answered {answer.status_code}: {answer.text[-300:]}")
        time.sleep(PAUSE_S)
    return took_ms


def _runs(client: Any) -> list[str]:
    """Runs of any age, none twice."""
    sql = f"SELECT run_id FROM {LEDGER} WHERE tenant_id = '{TENANT}' AND event_type = 'RunStarted' "
    return [row[0] for row in client.query(f"{sql} ORDER BY cityHash64(run_id) LIMIT {VISITS}").result_rows]


def _parts_when_merged(client: Any) -> int:
    """How many parts the ledger has when ClickHouse sees nothing more to merge, as hours after such an amount."""
    quiet, deadline = 0, time.monotonic() + MERGE_S_MAX
    while quiet < QUIET_LOOKS and time.monotonic() < deadline:
        quiet = 0 if client.query("SELECT count() FROM system.merges").result_rows[0][0] else quiet + 1
        time.sleep(1)
    parts = "SELECT count() FROM system.parts WHERE active AND database = 'agentledger' AND table = 'ledger'"
    return int(client.query(parts).result_rows[0][0])


@contextmanager
def _ledger(folder: Path) -> Iterator[Any]:
    """A ClickHouse with a ledger of so many events: the one that is in the folder, or a new one."""
    http = free_port()
    service = ClickHouseService(folder, http, free_port({http}))
    service.start()
    try:
        service.wait_ready(time.monotonic() + 120)
        client = clickhouse_connect.get_client(
            host="127.0.0.1", port=http, autogenerate_session_id=False, send_receive_timeout=900
        )
        migrate(client)
        if not client.query(f"SELECT count() FROM {LEDGER}").result_rows[0][0]:
            sys.stderr.write(f"making a ledger of {EVENTS:,} events …\n")
            fill(client, EVENTS)
        yield client
        client.close()
    finally:
        service.stop()


@contextmanager
def _console(ports: Any) -> Iterator[str]:
    """A console whose time goes on from the ledger's end."""
    config = ConsoleConfig(host="127.0.0.1", port=free_port())
    began_ns = time.monotonic_ns()

    def clock() -> int:
        return END_US + (time.monotonic_ns() - began_ns) // 1000

    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=run_console, args=(config, ports, stop, ready.set), kwargs={"clock": clock}, name="console"
    )
    thread.start()
    try:
        ready.wait(30)
        yield f"http://127.0.0.1:{config.port}"
    finally:
        stop.set()
        thread.join(30)
