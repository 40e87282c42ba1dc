"""What the console's pages say on a real ClickHouse, and that a tenant's key opens this tenant's rows alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.testclient import TestClient

from agentledger.schemas import events as e
from agentledger.schemas.errors import BrokerError
from agentledger.sinks.console.app import create_app
from agentledger.sinks.console.pages import PAGES
from agentledger.sinks.console.ports import TrialAsked
from tests.console_rig import NOW_S, NOW_US, SECRET, Outside, add_day
from tests.ledger_rows import Ledger, clickhouse_with_views, id_of

pytestmark = pytest.mark.integration

ASKED = {"/run": "?id=refund-004", "/run.json": "?id=refund-004", "/alerts": "?state=all", "/runs": "?range=year"}
PATIENCE = 60  # visits, each of which waits a second


class SpyClient:
    """Asks the real one, and remembers which tenants were asked for."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def query(self, query: str, *, parameters: dict[str, Any] | None, settings: dict[str, Any]) -> Any:
        self.asked.append((query, parameters or {}))
        return self.client.query(query, parameters=parameters, settings=settings)


@dataclass
class Served:
    outside: Outside
    ledger: Ledger
    spy: SpyClient
    client: TestClient

    def get(self, path: str, tenant_id: str = "acme", *scopes: str) -> Any:
        """The page, when its sums are counted: a page on a slow machine is shown before they are."""
        key = self.outside.key(tenant_id, *(scopes or ("read", "export", "admin")))
        for _ in range(PATIENCE):
            answer = self.client.get(path, headers={"Authorization": f"Bearer {key}"})
            if "Sums are being counted" not in answer.text:
                break
        return answer


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with clickhouse_with_views(tmp_path_factory.mktemp("clickhouse")) as (client, _):
        ledger = Ledger()
        add_day(ledger)
        ledger.write(client)
        outside, spy = Outside(), SpyClient(client)
        app = create_app(outside.ports(spy), clock=lambda: NOW_US, secret=SECRET)
        with TestClient(app, base_url="http://localhost") as web:
            yield Served(outside, ledger, spy, web)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.method == "GET" and page.name not in {"event", "export_file"}]
)
def test_a_page_shows_its_tenant_and_no_other(served: Served, page: Any) -> None:
    served.spy.asked.clear()
    mine = served.get(page.path + ASKED.get(page.path, ""))
    assert mine.status_code == 200, mine.text[-400:]
    assert "zeta" not in mine.text
    for sql, parameters in served.spy.asked:
        whole_ledger = "ledger_batches" in sql or "CheckpointSigned" in sql
        assert parameters["tenant_id"] == "acme", sql
        assert whole_ledger or "tenant_id = {tenant_id:String}" in sql, sql
    theirs = served.get(page.path + ASKED.get(page.path, ""), "zeta")
    assert "refund" not in theirs.text.replace("refund-004", "")
    assert "support-bot" not in theirs.text


def test_another_tenant_s_run_and_event_are_not_there(served: Served) -> None:
    event_id = served.get("/run.json?id=refund-004").json()["events"][0]["event_id"]
    path = f"/run/event?run=refund-004&id={event_id}"
    assert "RunStarted" in served.get(path).text
    for wanted in (path, "/run?id=refund-004", "/run.json?id=refund-004"):
        assert served.get(wanted, "zeta").status_code == 400
    assert served.get("/run?id=zeta-secret-run").status_code == 400


def test_a_run_shows_its_steps_with_what_they_cost_so_far(served: Served) -> None:
    text = served.get("/run?id=refund-004").text
    for expected in ("Refund order A-1004", "create_refund", "Timeout", "amount_cap", "1,420→310", "$0.0050"):
        assert expected in text


def test_runs_are_searched_and_filtered(served: Served) -> None:
    assert "refund-006" in served.get("/runs?state=with denials").text
    assert "refund-001" not in served.get("/runs?state=with denials").text
    assert "coding-long" in served.get("/runs?text=parser").text
    assert "refund" not in served.get("/runs?agent=coder").text.partition("<tbody>")[2]
    assert served.get("/runs?state=nonsense").status_code == 400


def test_a_budget_says_what_is_used_and_where_it_ends(served: Served) -> None:
    text = served.get("/budgets").text
    assert "acme-day" in text
    assert "$0.4463" in text
    assert "112 %" in text
    assert 'data-label="held">$0.0120</td>' in text  # of two holds one is settled
    assert text.index("acme-day") < text.index("care-tokens") < text.index("agents-hour") < text.index("each-run")


def test_a_look_is_recorded_once_in_ten_minutes_and_shown_only_if_it_could_be(served: Served) -> None:
    served.outside.looks.clear()
    for _ in range(3):
        served.get("/run?id=refund-001")
    [look] = served.outside.looks
    assert (look.asked["command"], look.asked["run_id"], look.who) == ("console run", "refund-001", "console:tester")
    assert look.reads.rows_read > 0

    def away(_: Any) -> None:
        raise BrokerError("no broker can be reached")

    app = create_app(served.outside.ports(served.spy, record=away), clock=lambda: NOW_US, secret=SECRET)
    with TestClient(app, base_url="http://localhost") as web:
        key = served.outside.key("acme", "read")
        answer = web.get("/run?id=refund-001", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 502
    assert "Refund order" not in answer.text


def test_every_page_that_shows_the_ledger_is_a_look(served: Served) -> None:
    event_id = served.get("/run.json?id=refund-004").json()["events"][0]["event_id"]
    asked = ASKED | {"/run/event": f"?run=refund-004&id={event_id}"}
    app = create_app(served.outside.ports(served.spy), clock=lambda: NOW_US, secret=SECRET)  # where nobody has looked
    with TestClient(app, base_url="http://localhost") as web:
        key = served.outside.key("acme", "read", "export")
        for page in PAGES:
            # A query's answer is a look, its form alone shows nothing; no export is there to be taken.
            if page.method != "GET" or page.name in {"query", "export_file"}:
                continue
            served.outside.looks.clear()
            path = page.path + asked.get(page.path, "")
            assert web.get(path, headers={"Authorization": f"Bearer {key}"}).status_code == 200
            if page.name == "run_json":  # what was seen on the page before
                continue
            assert [look.reads.rows_read > 0 for look in served.outside.looks] == [True], page.path


def test_own_sql_needs_an_analyst_of_the_tenant(served: Served) -> None:
    key = served.outside.key("acme", "read")
    asked = {"sql": "SELECT count() FROM agentledger.events", "as": "table"}
    headers = {"Authorization": f"Bearer {key}"}
    refused = served.client.post("/query", data=asked, headers=headers)
    assert refused.status_code == 400
    assert "no analyst of your tenant" in refused.text
    ports = served.outside.ports(served.spy, analyst=lambda tenant: served.spy if tenant == "acme" else None)
    with TestClient(create_app(ports, clock=lambda: NOW_US, secret=SECRET), base_url="http://localhost") as web:
        assert "1 rows" in web.post("/query", data=asked, headers=headers).text
        assert (
            web.post("/query", data=asked | {"sql": "DROP TABLE agentledger.ledger"}, headers=headers).status_code
            == 400
        )
        assert web.post("/query", data=asked | {"as": "csv"}, headers=headers).status_code == 400
        exporting = {"Authorization": f"Bearer {served.outside.key('acme', 'read', 'export')}"}
        formula = asked | {"as": "csv", "sql": "SELECT '=1+1' AS x"}
        assert web.post("/query", data=formula, headers=exporting).text == "x\r\n'=1+1\r\n"


def posted(served: Served, path: str, form: dict[str, str], tenant_id: str = "acme", **ports: Any) -> Any:
    """The answer to a form, sent with a key that may do all."""
    app = create_app(served.outside.ports(served.spy, **ports), clock=lambda: NOW_US, secret=SECRET)
    with TestClient(app, base_url="http://localhost", follow_redirects=False) as web:
        key = served.outside.key(tenant_id, "read", "export", "admin")
        return web.post(path, data=form, headers={"Authorization": f"Bearer {key}"})


def test_an_alert_is_taken_on_and_resolved_from_the_page(served: Served) -> None:
    alert_id, answers = id_of("alert1"), served.outside.answers
    answers.clear()
    wrong = [{"answer": "resolve"}, {"answer": "forget"}, {"alert_id": "x"}, {"alert_id": id_of("za")}]
    for change in wrong:
        form = {"answer": "acknowledge", "alert_id": alert_id, "reason": ""} | change
        assert posted(served, "/alerts/answer", form).status_code == 400, change
    assert posted(served, "/alerts/answer", {"answer": "acknowledge", "alert_id": alert_id}, "zeta").status_code == 400
    assert answers == []
    given = {"answer": "acknowledge", "alert_id": alert_id, "reason": "looking"}
    assert posted(served, "/alerts/answer", given).status_code == 303
    [taken_on] = answers
    assert isinstance(taken_on, e.AlertAcknowledged)
    assert (taken_on.tenant_id, taken_on.alert_id, taken_on.reason) == ("acme", alert_id, "looking")
    assert (taken_on.acknowledged_by, taken_on.via) == ("console:tester", "console")
    served.ledger.put_event(taken_on, NOW_S + 1)
    served.ledger.write(served.spy.client)
    assert "console:tester" in served.get("/alerts?state=acknowledged").text
    assert alert_id not in served.get("/alerts?state=not acknowledged").text.partition("</table>")[0]
    assert posted(served, "/alerts/answer", given | {"answer": "resolve"}).status_code == 303
    served.ledger.put_event(answers[-1], NOW_S + 2)
    served.ledger.write(served.spy.client)
    assert "looking by console:tester" in served.get("/alerts?state=resolved&rule=tool_error_rate").text
    assert posted(served, "/alerts/answer", given).status_code == 400


def test_rules_are_tried_for_the_visitor_s_tenant(served: Served) -> None:
    asked = []

    def try_rules(wanted: TrialAsked, start: Any, progress: Any) -> dict[str, Any]:
        asked.append(wanted)
        return {"fired": 0, "records": 7, "from_us": wanted.from_us, "to_us": wanted.to_us, "rules": {}, "alerts": []}

    form = {"rules": "rules: []", "range": "week"}
    assert posted(served, "/alerts/try", form).status_code == 400  # nobody is there to try them
    assert posted(served, "/alerts/try", form | {"range": "decade"}, try_rules=try_rules).status_code == 400
    assert posted(served, "/alerts/try", form | {"rules": " "}, try_rules=try_rules).status_code == 400
    assert asked == []
    assert posted(served, "/alerts/try", form, try_rules=try_rules).status_code == 303
    assert asked == [TrialAsked("acme", "rules: []", NOW_US - 7 * 86_400_000_000, NOW_US)]
