"""Signing in by OIDC: against a local issuer that holds to PKCE; whatever isn't as it must be lets nobody in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.jwk import RSAKey
from starlette.testclient import TestClient

from agentledger.infra.console_wiring import oidc_config
from agentledger.infra.settings import Settings
from agentledger.schemas.errors import ConfigurationError
from agentledger.sinks.console.app import create_app
from agentledger.sinks.console.oidc import CALLBACK, Oidc, OidcConfig
from agentledger.sinks.console.sessions import COOKIE, OIDC_SESSION_US_MAX, Sessions
from agentledger.sinks.console.sign_in import PENDING_COOKIE, PENDING_US_MAX
from tests.console_rig import NOW_US, SECRET, Outside
from tests.oidc_issuer import CLIENT_ID, CLIENT_SECRET, Issuer, oidc_issuer, secret_as_key

SITE = "http://localhost"


class Clock:
    now_us = NOW_US

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture(scope="module")
def running() -> Iterator[Issuer]:
    with oidc_issuer(NOW_US / 1e6) as issuer:
        yield issuer


@pytest.fixture
def issuer(running: Issuer) -> Iterator[Issuer]:
    yield running
    running.claims, running.discovery, running.signing_key, running.algorithm = {}, {}, None, "RS256"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def config_of(issuer: Issuer, **others: Any) -> OidcConfig:
    given = {
        "issuer": issuer.url, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
        "redirect_url": f"{SITE}{CALLBACK}", "roles": {"operators": ("read", "admin"), "auditors": ("read", "export")},
        "tenant_id": "acme",
    }  # fmt: skip
    return OidcConfig(**(given | others))


def console(clock: Clock, config: OidcConfig) -> TestClient:
    app = create_app(Outside().ports(None), clock=clock, secret=SECRET, oidc=Oidc(config))
    return TestClient(app, base_url=SITE, follow_redirects=False)


def come_back(web: TestClient, wanted: str = "/alerts") -> tuple[str, httpx.Response]:
    """Go to the issuer; the path with which it sends the browser back, and its answer."""
    started = web.get("/oidc/start", params={"wanted": wanted})
    assert started.status_code == 303, started.text
    answer = httpx.get(started.headers["location"])
    parts = urlsplit(answer.headers["location"])
    return f"{parts.path}?{parts.query}", answer


def visitor_of(web: TestClient, clock: Clock) -> Any:
    return Sessions(Outside().keys, SECRET, with_oidc=True).of_cookie(web.cookies.get(COOKIE) or "", clock())


def test_who_signs_in_there_is_let_in_here_with_the_rights_of_the_roles(issuer: Issuer, clock: Clock) -> None:
    web = console(clock, config_of(issuer))
    assert "/oidc/start?wanted=%2Falerts" in web.get("/alerts").text
    path, _ = come_back(web)
    answer = web.get(path)
    assert answer.status_code == 200
    assert 'url=/alerts"' in answer.text
    visitor = visitor_of(web, clock)
    assert (visitor.tenant_id, visitor.name, visitor.scopes) == ("acme", "ann@example.com", ("admin", "read"))
    assert web.get("/run?id=").status_code == 400  # let in: no run was asked for
    assert web.get("/run.json?id=").status_code == 403  # its roles don't give export
    assert PENDING_COOKIE not in web.cookies
    clock.now_us += OIDC_SESSION_US_MAX
    assert web.get("/run?id=").status_code == 401


def test_the_issuer_is_asked_with_state_nonce_and_pkce(issuer: Issuer, clock: Clock) -> None:
    web = console(clock, config_of(issuer))
    first, second = (parse_qs(urlsplit(web.get("/oidc/start").headers["location"]).query) for _ in range(2))
    for name in ("state", "nonce", "code_challenge"):
        assert len(first[name][0]) >= 32, name
        assert first[name] != second[name], name
    assert first["code_challenge_method"] == ["S256"]
    assert first["response_type"] == ["code"]
    assert "openid" in first["scope"][0]


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"}, {"aud": "another"}, {"aud": [CLIENT_ID, "other"], "azp": "other"},
        {"exp": NOW_US // 1_000_000 - 100}, {"exp": None}, {"iat": None}, {"nonce": "another"}, {"nonce": None},
        {"sub": None}, {"groups": ["guests"]}, {"groups": []}, {"groups": None}, {"groups": {"operators": 1}},
        {"groups": [["operators"]]}, {"email": "a\nb"}, {"email": "x" * 300}, {"email": ["ann"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_token_that_says_something_else_lets_nobody_in(issuer: Issuer, clock: Clock, claims: dict[str, Any]) -> None:
    web = console(clock, config_of(issuer))
    issuer.claims = claims
    path, _ = come_back(web)
    assert web.get(path).status_code == 403
    assert COOKIE not in web.cookies


def test_a_token_that_others_signed_lets_nobody_in(issuer: Issuer, clock: Clock) -> None:
    for key, algorithm in ((RSAKey.generate_key(2048), "RS256"), (secret_as_key(), "HS256")):
        web = console(clock, config_of(issuer))
        issuer.signing_key, issuer.algorithm = key, algorithm
        path, _ = come_back(web)
        assert web.get(path).status_code == 403, algorithm
        assert COOKIE not in web.cookies


def test_an_answer_counts_once_in_its_time_and_in_the_browser_that_asked(issuer: Issuer, clock: Clock) -> None:
    web = console(clock, config_of(issuer))
    path, _ = come_back(web)
    assert console(clock, config_of(issuer)).get(path).status_code == 403  # another browser: no state is kept there
    assert web.get(path.replace("state=", "state=x")).status_code == 403
    assert web.get(path).status_code == 403  # a wrong state ended it
    path, _ = come_back(web)
    clock.now_us += PENDING_US_MAX
    assert web.get(path).status_code == 403
    clock.now_us = NOW_US
    path, _ = come_back(web)
    assert web.get(path).status_code == 200
    assert web.get(path).status_code == 403  # a second time
    assert web.get(f"{CALLBACK}?error=access_denied").status_code == 403
    web.cookies.set(PENDING_COOKIE, "forged")
    assert web.get(path).status_code == 403


def test_an_issuer_that_is_another_or_away_lets_nobody_in(issuer: Issuer, clock: Clock) -> None:
    issuer.discovery = {"issuer": "https://other.example"}
    assert console(clock, config_of(issuer)).get("/oidc/start").status_code == 403
    issuer.discovery = {"token_endpoint": None}
    assert console(clock, config_of(issuer)).get("/oidc/start").status_code == 403
    away = replace(config_of(issuer), issuer="http://127.0.0.1:9")
    assert console(clock, away).get("/oidc/start").status_code == 403


def test_the_tenant_comes_from_a_claim_where_the_settings_say_so(issuer: Issuer, clock: Clock) -> None:
    config = config_of(issuer, tenant_claim="org", tenant_id="")
    web = console(clock, config)
    path, _ = come_back(web)
    assert web.get(path).status_code == 403  # none is named
    issuer.claims = {"org": "zeta", "groups": "auditors"}
    path, _ = come_back(web)
    assert web.get(path).status_code == 200
    visitor = visitor_of(web, clock)
    assert (visitor.tenant_id, visitor.scopes) == ("zeta", ("export", "read"))


def test_a_session_of_an_issuer_ends_when_there_is_none_any_more(issuer: Issuer, clock: Clock) -> None:
    web = console(clock, config_of(issuer))
    path, _ = come_back(web)
    web.get(path)
    cookie = web.cookies[COOKIE]
    without = TestClient(create_app(Outside().ports(None), clock=clock, secret=SECRET), base_url=SITE)
    assert without.get("/run?id=", headers={"Cookie": f"{COOKIE}={cookie}"}).status_code == 401
    assert without.get("/oidc/start").status_code == 404


@pytest.mark.parametrize("wanted", ["https://evil.example/", "//evil.example", "/oidc/start", "/\r\nX: y"])
def test_signing_in_leads_to_no_other_site(issuer: Issuer, clock: Clock, wanted: str) -> None:
    web = console(clock, config_of(issuer))
    path, _ = come_back(web, wanted)
    assert 'content="0; url=/"' in web.get(path).text


def test_settings_make_the_issuer_and_wrong_ones_are_refused() -> None:
    own = {"console_oidc_issuer": "https://id.example", "console_oidc_client_id": "c", "tenant_id": "acme",
           "console_public_url": "https://ledger.example", "console_oidc_roles": {"ops": ["read"]}}  # fmt: skip
    config = oidc_config(Settings(**own))
    assert config is not None
    assert (config.redirect_url, config.roles) == ("https://ledger.example/oidc/callback", {"ops": ("read",)})
    assert oidc_config(Settings()) is None
    for wrong in (
        {"console_oidc_issuer": "http://id.example"}, {"console_public_url": "http://ledger.example"},
        {"console_oidc_client_id": ""}, {"console_oidc_roles": {}}, {"console_oidc_roles": {"ops": ["root"]}},
    ):  # fmt: skip
        with pytest.raises(ConfigurationError):
            oidc_config(Settings(**(own | wrong)))
