"""Each kind of channel against a server that takes, refuses, is busy, fails, hangs and closes; and what it is sent."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import httpcore
import jsonschema
import pytest
from slack_sdk.models.blocks import Block, SectionBlock
from standardwebhooks import Webhook

from agentledger.schemas.errors import ConfigurationError
from agentledger.sinks.notify import http_post
from agentledger.sinks.notify.alerts import Alert, link, page_text, plain
from agentledger.sinks.notify.channels import open_channel, open_channels
from agentledger.sinks.notify.http_post import is_allowed, retry_after_s
from agentledger.sinks.notify.incidents import Action, Outcome
from agentledger.sinks.notify.payloads import Told, pagerduty_body, slack_body
from agentledger.sinks.notify.settings import NotifyFile
from tests.page_receiver import Answer, page_receiver
from tests.page_schemas import ALERTMANAGER_SCHEMA, PAGERDUTY_SCHEMA, SLACK_SCHEMA, WEBHOOK_SCHEMA

NOW_US = 1_790_000_000_000_000
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
KINDS = ["alertmanager", "pagerduty", "slack", "webhook"]
SCHEMAS = {
    "alertmanager": ALERTMANAGER_SCHEMA,
    "pagerduty": PAGERDUTY_SCHEMA,
    "slack": SLACK_SCHEMA,
    "webhook": WEBHOOK_SCHEMA,
}


def alert(**fields: Any) -> Alert:
    """An alert with everything."""
    said: dict[str, Any] = {
        "alert_id": "a", "raised_event_id": "e", "tenant_id": "acme", "rule": "run_budget", "severity": "critical",
        "summary": "run r1 has used $2.10 of $2.00", "scope": "budget", "scope_value": "acme-runs", "run_id": "r1",
        "workflow": "refund", "agent_id": "clerk", "environment": "production", "team": "red",
        "runbook_url": "https://runbooks.example/budget", "count": 3, "observed": 2.1, "expected": 2.0,
        "raised_us": NOW_US, "last_us": NOW_US,
    }  # fmt: skip
    return Alert(**{**said, **fields})


def told(action: Action = "trigger", **fields: Any) -> Told:
    """A page about it."""
    text = page_text(
        alert(**fields), alerts=7, severity="critical", since_us=NOW_US, console_url="https://ledger.example"
    )
    return Told("d1", action, "k1", text, NOW_US, (("alertname", "run_budget"), ("severity", "critical")), "ann")


def channel_to(kind: str, url: str, monkeypatch: pytest.MonkeyPatch, *, allow_private: bool = True) -> Any:
    """What sends to this address as to a channel of this kind."""
    monkeypatch.setenv("PAGE_KEY", "0123456789abcdef0123456789abcdef")
    monkeypatch.setenv("PAGE_SECRET", SECRET)
    monkeypatch.setenv("PAGE_URL", url)
    own = {
        "alertmanager": {"url": url},
        "pagerduty": {"url": url, "routing_key": "env:PAGE_KEY"},
        "slack": {"url": "env:PAGE_URL"},
        "webhook": {"url": url, "secret": "env:PAGE_SECRET"},
    }[kind]
    file = NotifyFile.model_validate(
        {
            "channels": {"c": {"kind": kind, "allow_private": allow_private, **own}},
            "routes": [{"name": "all", "channels": ["c"]}],
        }
    )
    return open_channel("c", file.channels["c"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(202), Outcome(http_status=202)),
        (Answer(400), Outcome("refused", 400)),
        (Answer(429, (("Retry-After", "17"),)), Outcome("busy", 429, 17.0)),
        (Answer(500), Outcome("busy", 500)),
        (Answer(302, (("Location", "http://127.0.0.1:1/"),)), Outcome("refused", 302)),
        (Answer(fault="hang"), Outcome("unsure")),
        (Answer(fault="drip"), Outcome("unsure")),
        (Answer(fault="close"), Outcome("unsure")),
    ],
)
def test_a_channel_says_what_became_of_a_page(
    kind: str, answer: Answer, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer.fault in {"hang", "drip"}:
        monkeypatch.setattr(http_post, "TOTAL_S_MAX", 0.3)
    with page_receiver(answer) as receiver:
        assert channel_to(kind, receiver.url, monkeypatch)(told()) == outcome
        assert len(receiver.got) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_there_is_unreachable_and_a_private_address_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with page_receiver() as receiver:
        url = receiver.url
        send = channel_to(kind, url.replace("127.0.0.1", "localhost"), monkeypatch, allow_private=False)
        assert send(told()) == Outcome("refused")
        assert receiver.got == []
    assert channel_to(kind, url, monkeypatch)(told()) == Outcome("unreachable")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action", ["trigger", "update", "acknowledge", "resolve"])
def test_what_is_sent_fits_the_targets_schema(kind: str, action: Action, monkeypatch: pytest.MonkeyPatch) -> None:
    nasty = {"summary": "<!channel> & \u202e*x*\n" * 200, "scope_value": "x" * 9000, "run_id": "é" * 900}
    with page_receiver() as receiver:
        send = channel_to(kind, receiver.url, monkeypatch)
        for page in (told(action), told(action, **nasty)):
            assert not send(page).fault
    for got in receiver.got:
        jsonschema.validate(got.json, SCHEMAS[kind], format_checker=jsonschema.FormatChecker())
        assert "\u202e" not in got.body.decode()


@pytest.mark.parametrize("action", ["trigger", "update", "acknowledge", "resolve"])
def test_slacks_own_library_finds_nothing_wrong_with_the_blocks(action: Action) -> None:
    nasty = {"summary": "x" * 9000, "scope_value": "x" * 9000}
    for page in (told(action), told(action, **nasty)):
        for block in json.loads(slack_body(page))["blocks"]:
            parsed = Block.parse(block)
            assert isinstance(parsed, SectionBlock)
            parsed.validate_json()
            assert parsed.to_dict() == block  # it knows every key


def test_what_alertmanager_does_not_take_fits_no_schema_of_it() -> None:
    for wrong in ([{"annotations": {}}], [{"labels": {"a": 1}}], [{"labels": {"a-b": ""}}], [{"labels": {}, "x": 1}]):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, ALERTMANAGER_SCHEMA)


def test_a_page_carries_what_whoever_is_woken_needs() -> None:
    [event] = [told()]
    facts = dict(event.text.facts)
    assert event.text.title == "run r1 has used $2.10 of $2.00 (and 6 more)"
    assert facts["observed"] == "2.1"
    assert facts["expected"] == "2"
    assert facts["since"] == "2026-09-21 14:13:20 UTC"
    assert (facts["run"], facts["budget"], facts["workflow"]) == ("r1", "acme-runs", "refund")
    assert event.text.runbook_url == "https://runbooks.example/budget"
    assert event.text.console_url == "https://ledger.example/run?id=r1"


def test_what_comes_from_outside_is_no_markup_and_no_link() -> None:
    body = slack_body(told(summary="<!channel> *x*", runbook_url="javascript:alert(1)")).decode()
    assert "javascript" not in body
    assert '"text":"🔴 critical: &lt;!channel&gt;' in body  # the text for notifications, where it would be a mention
    assert link("https://a.example/x|y") == link("https://a.example/ y") == link("ftp://a.example") == ""
    assert plain("a\x00b\n\u202ec" + "d" * 10, 8) == "a b cdd…"


def test_pagerduty_is_told_one_key_from_trigger_to_resolve() -> None:
    bodies = [pagerduty_body(told(action), "k") for action in ("trigger", "update", "acknowledge", "resolve")]
    assert all(b'"dedup_key":"k1"' in body for body in bodies)
    assert b'"event_action":"trigger"' in bodies[1]


def test_a_webhook_is_signed_and_has_one_id_for_all_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    now_us = int(datetime.now(UTC).timestamp()) * 1_000_000
    page = told()
    fresh = Told(page.delivery_id, page.action, page.dedup_key, page.text, now_us)
    with page_receiver(Answer(500), Answer(204)) as receiver:
        send = channel_to("webhook", receiver.url, monkeypatch)
        assert [send(fresh).http_status for _ in range(2)] == [500, 204]
    assert {got.headers["webhook-id"] for got in receiver.got} == {"d1"}
    for got in receiver.got:
        assert Webhook(SECRET).verify(got.body, got.headers)["data"]["facts"]["run"] == "r1"


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("10.1.2.3", False), ("127.0.0.1", False), ("::1", False),
        ("169.254.169.254", False), ("fe80::1", False), ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False),
        ("2002:0a00:0001::1", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False),
        ("fd00::1", False),
    ],
)  # fmt: skip
def test_private_addresses_are_known_in_every_wrapping(address: str, is_public: bool) -> None:
    assert is_allowed(address, allow_private=False) == is_public


def test_allowing_private_addresses_allows_no_clouds_credentials() -> None:
    assert is_allowed("10.1.2.3", allow_private=True)
    assert not is_allowed("169.254.169.254", allow_private=True)
    assert not is_allowed("::ffff:169.254.169.254", allow_private=True)


def test_a_name_is_resolved_once_and_every_address_must_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answers(host: str, port: int, **_: object) -> list[Any]:
        asked.append(host)
        return [(2, 1, 6, "", ("8.8.8.8", port)), (2, 1, 6, "", ("10.0.0.1", port))]

    monkeypatch.setattr(http_post.socket, "getaddrinfo", answers)
    assert http_post.post("http://hooks.example/", {}, b"{}", allow_private=False) == Outcome("refused")
    assert asked == ["hooks.example"]


def test_a_dns_answer_that_changes_leads_nowhere_private(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked and connected to is the same answer: the next one may be another, and is checked, too."""
    answers, connected = ["8.8.8.8", "169.254.169.254", "8.8.4.4", "10.0.0.1"], []

    def resolve(_host: str, port: int, **_: object) -> list[Any]:
        return [(2, 1, 6, "", (answers.pop(0), port))]

    def connect(_self: object, host: str, *_: object, **__: object) -> httpcore.NetworkStream:
        connected.append(host)
        raise httpcore.ConnectError("not here")

    monkeypatch.setattr(http_post.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    found = [http_post.post("https://hooks.example/", {}, b"{}", allow_private=False).fault for _ in range(4)]
    assert found == ["unreachable", "refused", "unreachable", "refused"]
    assert connected == ["8.8.8.8", "8.8.4.4"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with page_receiver() as inside:
        elsewhere = (("Location", f"{inside.url}/latest/meta-data"),)
        with page_receiver(Answer(status, elsewhere)) as receiver:
            assert channel_to("webhook", receiver.url, monkeypatch)(told()) == Outcome("refused", status)
        assert inside.got == []


def test_retry_after_is_read_in_both_forms() -> None:
    assert retry_after_s("120", 0) == 120
    assert retry_after_s(format_datetime(datetime.fromtimestamp(1060, UTC), usegmt=True), 1000) == 60
    assert retry_after_s("soon", 0) == retry_after_s("", 0) == retry_after_s("-3", 0) == 0


def test_the_first_page_need_not_wait_for_the_authorities_to_be_read() -> None:
    http_post._tls.cache_clear()
    open_channels({})
    assert http_post._tls.cache_info().currsize == 1


def test_a_missing_secret_is_a_line_that_names_the_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    file = NotifyFile.model_validate(
        {
            "channels": {"oncall": {"kind": "pagerduty", "routing_key": "env:NO_SUCH_KEY"}},
            "routes": [{"name": "all", "channels": ["oncall"]}],
        }
    )
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="env:NO_SUCH_KEY holds no secret"):
        open_channel("oncall", file.channels["oncall"])
