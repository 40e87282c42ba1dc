"""Who gets into the console: every route is walked with no key, wrong keys, too few rights and forged sessions."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from agentledger.schemas.errors import ConfigurationError
from agentledger.sinks.console.app import CONTENT_SECURITY_POLICY, create_app
from agentledger.sinks.console.guard import FORM_BYTES_MAX
from agentledger.sinks.console.pages import PAGES
from agentledger.sinks.console.server import ConsoleConfig, check_exposure
from agentledger.sinks.console.sessions import COOKIE, SESSION_US_MAX, Sessions
from tests.console_rig import NOW_US, SECRET, Outside

OPEN = {"/health", "/sign-in", "/sign-out", "/oidc/start", "/oidc/callback"}  # these show nothing of a ledger
SITE = "http://localhost"


class UntouchedClient:
    """A ClickHouse that nobody may reach."""

    def query(self, query: str, **_: Any) -> Any:
        raise AssertionError(f"the ledger was asked: {query}")


class Clock:
    now_us = NOW_US

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture
def outside() -> Outside:
    return Outside()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def app_of(outside: Outside, clock: Clock, **options: Any) -> Any:
    return create_app(outside.ports(UntouchedClient()), clock=clock, secret=SECRET, **options)


def client_of(outside: Outside, clock: Clock, **options: Any) -> TestClient:
    return TestClient(app_of(outside, clock, **options), base_url=SITE, follow_redirects=False)


def routes(app: Any) -> list[tuple[str, str]]:
    """Method and path of every route that shows or does something."""
    found = [(method, route.path) for route in app.routes if isinstance(route, Route) for method in route.methods or ()]
    return [(method, path) for method, path in found if path not in OPEN]


def assert_all_refused(outside: Outside, clock: Clock, status: int, **request: Any) -> None:
    app = app_of(outside, clock)
    walked = routes(app)
    assert len(walked) > len(PAGES)  # HEAD comes with GET
    for method, path in walked:
        with TestClient(app, base_url=SITE, follow_redirects=False) as client:
            answer = client.request(method, path, **request)
        assert answer.status_code == status, (method, path)
        assert outside.commands == []


def test_without_a_key_nothing_is_shown_and_nothing_done(outside: Outside, clock: Clock) -> None:
    assert_all_refused(outside, clock, 401)


@pytest.mark.parametrize(
    "authorization", ["Bearer alk_000000000000_" + "A" * 43, "Bearer x", "Basic YTpi", "Bearer " + "a" * 5000, "Bearer"]
)
def test_an_unknown_key_is_no_key(outside: Outside, clock: Clock, authorization: str) -> None:
    outside.key("acme", "read", "admin")
    assert_all_refused(outside, clock, 401, headers={"Authorization": authorization})


def test_a_key_without_the_right_opens_nothing(outside: Outside, clock: Clock) -> None:
    headers = {"Authorization": f"Bearer {outside.key('acme', 'ingest')}"}
    assert_all_refused(outside, clock, 403, headers=headers)


def test_who_may_read_may_neither_halt_nor_export(outside: Outside, clock: Clock) -> None:
    client = client_of(outside, clock)
    headers = {"Authorization": f"Bearer {outside.key('acme', 'read')}"}
    for page in PAGES:
        if page.scope != "read":
            assert client.request(page.method, page.path, headers=headers).status_code == 403, page
    assert {page.scope for page in PAGES} == {"read", "export", "admin"}


@pytest.mark.parametrize("kind", ["other secret", "unsigned", "expired", "revoked", "garbage", "long"])
def test_a_session_that_is_not_ours_opens_nothing(outside: Outside, clock: Clock, kind: str) -> None:
    text = outside.key("acme", "read", "export", "admin")
    sessions = Sessions(outside.keys, b"another secret" if kind == "other secret" else SECRET)
    cookie = sessions.open_with(text, clock()) or ""
    if kind == "unsigned":
        said = {"key_id": "", "end_us": NOW_US + SESSION_US_MAX, "token": "x"}
        cookie = base64.urlsafe_b64encode(json.dumps(said).encode()).decode() + "." + cookie.partition(".")[2]
    elif kind == "expired":
        clock.now_us += SESSION_US_MAX
    elif kind == "revoked":
        outside.keys.change(dict.clear)
    elif kind in {"garbage", "long"}:
        cookie = "x" if kind == "garbage" else cookie + "A" * 5000
    assert_all_refused(outside, clock, 401, headers={"Cookie": f"{COOKIE}={cookie}"})


def test_a_local_session_opens_nothing_where_keys_are_asked_for(outside: Outside, clock: Clock) -> None:
    cookie = Sessions(outside.keys, SECRET, "acme").open_local(clock()) or ""
    assert cookie
    assert_all_refused(outside, clock, 401, headers={"Cookie": f"{COOKIE}={cookie}"})


def halt(client: TestClient, token: str, **headers: str) -> Any:
    form = {"command": "halt", "scope": "agent", "scope_value": "bot", "reason": "wrong refunds", "expires": "1h"}
    return client.post("/commands", data={**form, "form_token": token}, headers=headers)


def signed_in(outside: Outside, clock: Clock, *scopes: str) -> tuple[TestClient, str]:
    """A client with a session, and the token of its forms."""
    client = client_of(outside, clock)
    answer = client.post("/sign-in", data={"key": outside.key("acme", *scopes), "wanted": "/alerts"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/alerts")
    cookie = answer.cookies[COOKIE]
    said = answer.headers["set-cookie"]
    assert "HttpOnly" in said
    assert "SameSite=strict" in said
    visitor = Sessions(outside.keys, SECRET).of_cookie(cookie, clock())
    assert visitor is not None
    return client, visitor.form_token


def test_a_halt_is_issued_in_the_visitor_s_name_and_tenant(outside: Outside, clock: Clock) -> None:
    client, token = signed_in(outside, clock, "read", "admin")
    assert halt(client, token).status_code == 303
    [command] = outside.commands
    assert (command.command, command.tenant_id, command.scope, command.scope_value) == ("halt", "acme", "agent", "bot")
    assert (command.reason, command.issued_by, command.expires_us) == ("wrong refunds", "console:tester", 3_600_000_000)


def test_a_form_without_its_token_or_from_another_site_does_nothing(outside: Outside, clock: Clock) -> None:
    client, token = signed_in(outside, clock, "read", "admin")
    assert halt(client, "").status_code == 403
    assert halt(client, token + "x").status_code == 403
    assert halt(client, token, Origin="https://evil.example").status_code == 403
    assert halt(client, token, Origin="null").status_code == 403
    assert halt(client, token, **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert outside.commands == []
    assert halt(client, token, Origin=SITE, **{"Sec-Fetch-Site": "same-origin"}).status_code == 303


@pytest.mark.parametrize(
    ("field", "value"),
    [("reason", " "), ("scope_value", ""), ("scope", "planet"), ("command", "delete"), ("expires", "9y"),
     ("reason", "x" * 2000)],
)  # fmt: skip
def test_a_command_that_lacks_something_is_refused(outside: Outside, clock: Clock, field: str, value: str) -> None:
    client, token = signed_in(outside, clock, "read", "admin")
    form = {"command": "halt", "scope": "run", "scope_value": "r1", "reason": "why", "expires": "", "form_token": token}
    assert client.post("/commands", data={**form, field: value}).status_code == 400
    assert outside.commands == []


def test_nobody_halts_another_tenant(outside: Outside, clock: Clock) -> None:
    client, token = signed_in(outside, clock, "read", "admin")
    form = {"command": "halt", "scope": "tenant", "scope_value": "zeta", "reason": "why", "expires": ""}
    assert client.post("/commands", data={**form, "form_token": token}).status_code == 303
    assert (outside.commands[0].tenant_id, outside.commands[0].scope_value) == ("acme", "acme")


def test_a_form_is_bounded(outside: Outside, clock: Clock) -> None:
    client, _ = signed_in(outside, clock, "read", "admin")
    assert client.post("/commands", content=b"x" * (FORM_BYTES_MAX + 1)).status_code == 400
    assert client.post("/sign-in", content=b"&".join([b"a=b"] * 50)).status_code == 400
    assert client.post("/sign-in", content=b"key=%ff\xff").status_code in {400, 401}


@pytest.mark.parametrize(
    "wanted", ["https://evil.example/", "//evil.example", "/\\evil.example", "x", "/\r\nSet-Cookie: a=b"]
)
def test_signing_in_leads_to_no_other_site(outside: Outside, clock: Clock, wanted: str) -> None:
    client = client_of(outside, clock)
    answer = client.post("/sign-in", data={"key": outside.key("acme", "read"), "wanted": wanted})
    assert answer.headers["location"] == "/"


def test_signing_out_ends_the_session(outside: Outside, clock: Clock) -> None:
    client, _ = signed_in(outside, clock, "read")
    client.post("/sign-out")
    assert client.get("/live").status_code == 401


def test_a_local_visitor_needs_no_key_but_the_right_name(outside: Outside, clock: Clock) -> None:
    client = client_of(outside, clock, local_tenant_id="acme", hosts=frozenset({"localhost"}))
    assert client.get("/run?id=").status_code == 400  # let in: no run was asked for
    assert COOKIE in client.cookies
    assert client.get("/run?id=", headers={"Host": "rebound.example"}).status_code == 403
    fresh = client_of(outside, clock, local_tenant_id="acme", hosts=frozenset({"localhost"}))
    assert halt(fresh, "").status_code == 401
    assert outside.commands == []


def test_every_answer_forbids_scripts_of_others(outside: Outside, clock: Clock) -> None:
    client = client_of(outside, clock)
    for path in ("/", "/health", "/static/console.js", "/nowhere", "/live"):
        answer = client.get(path)
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY, path
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in CONTENT_SECURITY_POLICY


def test_a_fault_of_ours_says_nothing_of_the_inside(outside: Outside, clock: Clock) -> None:
    app = app_of(outside, clock)
    with TestClient(app, base_url=SITE, raise_server_exceptions=False) as client:
        answer = client.get("/", headers={"Authorization": f"Bearer {outside.key('acme', 'read')}"})
    assert answer.status_code == 500
    assert "the ledger was asked" not in answer.text
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY


def test_a_ledger_without_keys_is_not_shown_to_other_machines() -> None:
    check_exposure(ConsoleConfig(host="127.0.0.1", port=1, local_tenant_id="acme"))
    check_exposure(ConsoleConfig(host="0.0.0.0", port=1))
    for config in (
        ConsoleConfig(host="0.0.0.0", port=1, local_tenant_id="acme"),
        ConsoleConfig(host="127.0.0.1", port=1, local_tenant_id="acme", public_host="ledger.example"),
        ConsoleConfig(host="127.0.0.1", port=1, session_secret="short"),
    ):
        with pytest.raises(ConfigurationError):
            check_exposure(config)
