"""Channels by their kind: each sends a delivery and says what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from agentledger.schemas.errors import ConfigurationError, MissingLibraryError
from agentledger.sinks.notify.http_post import post, warm_up
from agentledger.sinks.notify.incidents import ChannelRules, Outcome
from agentledger.sinks.notify.payloads import (
    REFRESH_S,
    Told,
    alertmanager_body,
    pagerduty_body,
    plain_body,
    plain_title,
    slack_body,
    webhook_body,
)
from agentledger.sinks.notify.settings import (
    AlertmanagerChannel,
    AppriseChannel,
    Channel,
    PagerDutyChannel,
    SlackChannel,
    WebhookChannel,
    secret_of,
)

Send = Callable[[Told], Outcome]
AT_ONCE_MAX = 4  # requests of one channel: one that hangs for 10 s still takes 24 a minute
# Where a repeated page is a second message, a crash leaves no more than one of which nobody knows. Slack takes one
# message a second of a webhook anyway.
AT_ONCE_WITHOUT_KEY = 1
_JSON = {"Content-Type": "application/json", "User-Agent": "agentledger"}
# Apprise speaks these to any address at all; the webhook channel looks where it goes.
_APPRISE_REFUSED = ("json", "xml", "form", "apprise", "file", "syslog", "dbus", "gnome", "macosx", "windows")


def rules_of(channel: Channel) -> ChannelRules:
    """What the rules need to know of this channel."""
    repeats_unsure = getattr(channel, "when_unsure", "repeat") == "repeat"
    return ChannelRules(
        attempts_max=channel.attempts_max,
        retry_pause_s=channel.retry_pause_s,
        pages_per_minute_max=channel.pages_per_minute_max,
        repeats_unsure=repeats_unsure,
        acknowledges=channel.kind not in {"alertmanager", "apprise"},
        refresh_s=REFRESH_S if channel.kind == "alertmanager" else 0.0,
        at_once_max=AT_ONCE_MAX if repeats_unsure else AT_ONCE_WITHOUT_KEY,
    )


def open_channels(channels: Mapping[str, Channel]) -> dict[str, Send]:
    """What sends to each channel. Raises ConfigurationError where a secret is missing or unusable."""
    warm_up()
    return {name: open_channel(name, channel) for name, channel in channels.items()}


def open_channel(name: str, channel: Channel) -> Send:
    """What sends to this channel. Raises ConfigurationError."""
    where = f"channel {name}"
    match channel:
        case AlertmanagerChannel():
            return _alertmanager(channel)
        case PagerDutyChannel():
            return _pagerduty(channel, secret_of(channel.routing_key, where))
        case SlackChannel():
            return _slack(channel, secret_of(channel.url, where), where)
        case WebhookChannel():
            return _webhook(channel, secret_of(channel.secret, where), where)
        case AppriseChannel():
            return _apprise(secret_of(channel.url, where), where)


def _alertmanager(channel: AlertmanagerChannel) -> Send:
    url = f"{channel.url}/api/v2/alerts"
    return lambda told: post(url, _JSON, alertmanager_body(told), allow_private=channel.allow_private)


def _pagerduty(channel: PagerDutyChannel, routing_key: str) -> Send:
    return lambda told: post(channel.url, _JSON, pagerduty_body(told, routing_key), allow_private=channel.allow_private)


def _slack(channel: SlackChannel, url: str, where: str) -> Send:
    if not url.startswith(("https://", "http://")):
        raise ConfigurationError(f"{channel.url} holds no http address", where=where)
    return lambda told: post(url, _JSON, slack_body(told), allow_private=channel.allow_private)


def _webhook(channel: WebhookChannel, secret: str, where: str) -> Send:
    try:
        from standardwebhooks import Webhook  # noqa: PLC0415
    except ModuleNotFoundError:
        raise MissingLibraryError("standardwebhooks", "notify") from None
    try:
        signer = Webhook(secret)
    except Exception:  # noqa: BLE001 - whatever it says may hold the secret
        raise ConfigurationError(
            f"{channel.secret} is no secret of Standard Webhooks", where=where, next_step="use whsec_ and base64"
        ) from None

    def send(told: Told) -> Outcome:
        body = webhook_body(told)
        at = datetime.fromtimestamp(told.now_us // 1_000_000, UTC)
        signed = {
            "webhook-id": told.delivery_id,  # the same at each attempt: who keeps it takes a page once
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": signer.sign(told.delivery_id, at, body.decode()),
        }
        return post(channel.url, {**_JSON, **signed}, body, allow_private=channel.allow_private)

    return send


def _apprise(url: str, where: str) -> Send:
    try:
        from apprise import Apprise, NotifyType  # noqa: PLC0415
    except ModuleNotFoundError:
        raise MissingLibraryError("apprise", "notify") from None
    scheme = url.partition("://")[0].lower().rstrip("s")
    if scheme in _APPRISE_REFUSED:
        raise ConfigurationError(
            f"Apprise's {scheme}:// goes to any address", where=where, next_step="use a channel of kind webhook"
        )
    target = Apprise()
    if not target.add(url):
        raise ConfigurationError("Apprise doesn't know this address", where=where, next_step="look at its list of URLs")
    for service in target:
        service.request_rate_per_sec = (
            0  # a channel's rate is the notify file's; Apprise would wait 5.5 s for each mail
        )
    kinds = {"info": NotifyType.INFO, "warning": NotifyType.WARNING, "critical": NotifyType.FAILURE}

    def send(told: Told) -> Outcome:
        # It says no more than yes or no: a no may hide a page that arrived.
        kind = NotifyType.SUCCESS if told.action == "resolve" else kinds[told.text.severity]
        is_sent = target.notify(title=plain_title(told), body=plain_body(told), notify_type=kind)
        return Outcome() if is_sent else Outcome("busy")

    return send
