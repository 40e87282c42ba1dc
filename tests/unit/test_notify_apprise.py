"""Pages by Apprise: mail to a real mail server, and one of its services over HTTP."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from email.message import EmailMessage

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from agentledger.infra.stack.ports import free_port
from agentledger.schemas.errors import ConfigurationError
from agentledger.sinks.notify.channels import Send, open_channel
from agentledger.sinks.notify.incidents import Outcome
from agentledger.sinks.notify.settings import NotifyFile
from tests.page_receiver import Answer, page_receiver
from tests.unit.test_notify_channels import told


class Postbox:
    """A mail server: answers with these lines in turn, the last of them for good, and keeps what it took."""

    def __init__(self) -> None:
        self.answers = ["250 taken"]
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.port = 0

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Take a mail, or refuse it."""
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer.startswith("250"):
            assert isinstance(envelope.content, bytes)
            self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
            self.recipients.append(envelope.rcpt_tos)
        return answer


@pytest.fixture
def postbox() -> Iterator[Postbox]:
    box = Postbox()
    box.port = free_port()
    controller = Controller(box, hostname="127.0.0.1", port=box.port)
    controller.start()
    yield box
    controller.stop()


def sender(url: str, monkeypatch: pytest.MonkeyPatch) -> Send:
    """What sends to this Apprise address."""
    monkeypatch.setenv("APPRISE_URL", url)
    channel = {"kind": "apprise", "url": "env:APPRISE_URL"}
    file = NotifyFile.model_validate({"channels": {"c": channel}, "routes": [{"name": "r", "channels": ["c"]}]})
    return open_channel("c", file.channels["c"])


def mail_url(box: Postbox) -> str:
    """The address of people whose mail it takes."""
    return f"mailto://127.0.0.1:{box.port}/?from=ledger@example.com&to=oncall@example.com&format=text"


def test_a_mail_says_what_a_page_must_say(postbox: Postbox, monkeypatch: pytest.MonkeyPatch) -> None:
    send = sender(mail_url(postbox), monkeypatch)
    assert send(told()) == Outcome()
    assert send(told("resolve")) == Outcome()
    first, last = postbox.mails
    assert postbox.recipients[0] == ["oncall@example.com"]
    assert first["subject"] == "[critical] run r1 has used $2.10 of $2.00 (and 6 more)"
    assert last["subject"].startswith("[resolved] run r1")
    lines = first.get_content().splitlines()
    for line in (
        "observed: 2.1",
        "budget: acme-runs",
        "run: r1",
        "console: https://ledger.example/run?id=r1",
        "runbook: https://runbooks.example/budget",
    ):
        assert line in lines


def test_text_of_an_alert_adds_no_header_and_no_recipient(postbox: Postbox, monkeypatch: pytest.MonkeyPatch) -> None:
    nasty = "over\r\nBcc: all@example.com\r\nX-Evil: 1\r\n\r\n<script>\u2028Cc: b@example.com\x00"
    page = told(summary=nasty, scope_value=nasty, run_id=nasty, workflow=nasty)
    assert sender(mail_url(postbox), monkeypatch)(page) == Outcome()
    [mail] = postbox.mails
    assert postbox.recipients == [["oncall@example.com"]]
    assert not {"bcc", "cc", "x-evil"} & {name.lower() for name in mail}
    assert mail["subject"].startswith("[critical] over Bcc: all@example.com X-Evil: 1")
    assert mail.get_content_type() == "text/plain"
    assert all(": " in line for line in mail.get_content().splitlines())  # each fact on its own line


def test_a_mail_that_was_refused_for_now_is_to_be_tried_again(
    postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    postbox.answers = ["451 come again", "421 closing", "250 taken"]
    send = sender(mail_url(postbox), monkeypatch)
    assert [send(told()).fault for _ in range(3)] == ["busy", "busy", ""]
    assert len(postbox.mails) == 1


def test_no_mail_server_is_to_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sender("mailto://127.0.0.1:1/?from=a@example.com&to=b@example.com", monkeypatch)(told()).fault == "busy"


def test_a_service_over_http_is_told_and_may_say_no(monkeypatch: pytest.MonkeyPatch) -> None:
    with page_receiver(Answer(500), Answer(200)) as receiver:
        send = sender(receiver.url.replace("http://", "gotify://") + "/token", monkeypatch)
        assert [send(told()).fault for _ in range(2)] == ["busy", ""]
    assert {got.path for got in receiver.got} == {"/message"}
    assert receiver.got[-1].json["title"] == "[critical] run r1 has used $2.10 of $2.00 (and 6 more)"
    assert "run: r1" in receiver.got[-1].json["message"]


@pytest.mark.parametrize("url", ["json://10.0.0.1/x", "jsons://10.0.0.1/x", "file:///etc/passwd", "nothing", "x://"])
def test_addresses_that_go_anywhere_or_nowhere_are_refused_unseen(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError) as caught:
        sender(url, monkeypatch)
    assert "10.0.0.1" not in str(caught.value)
