"""The HTTP endpoint that answers to pages come back to: POST /v1/answers; /v1/answers/pagerduty for its webhooks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agentledger.schemas.errors import AgentledgerError, ConfigurationError, UsageError
from agentledger.schemas.events import Event
from agentledger.schemas.http_server import StoppableServer, open_listener
from agentledger.sinks.notify.incoming import BODY_BYTES_MAX, PageAnswer, SignatureError, answer_events, read_answer
from agentledger.sinks.notify.pagerduty_answers import BODY_BYTES_MAX as PAGERDUTY_BYTES_MAX
from agentledger.sinks.notify.pagerduty_answers import read_pagerduty_answer
from agentledger.sinks.notify.settings import Incoming, secret_of
from agentledger.sinks.notify.state import alerts_of_page

AT_ONCE_MAX = 32  # connections; people answer pages one by one

Announce = Callable[[Sequence[Event]], None]
Read = Callable[[Mapping[str, str], bytes], PageAnswer | None]  # raises SignatureError, UsageError


def incoming_app(incoming: Incoming, state_path: Path, announce: Announce) -> Starlette:
    """The endpoint, with a route for each secret. `announce` returns when the broker has all events, and raises
    BrokerError. Raises ConfigurationError where a secret is missing or unusable."""

    def record(answer: PageAnswer) -> int:
        events = answer_events(answer, alerts_of_page(state_path, answer.dedup_key), time.time_ns() // 1000)
        if events:
            announce(events)
        return len(events)

    def route(path: str, read: Read, bytes_max: int, status_of_none: int) -> Route:
        async def answers(request: Request) -> Response:
            body = b""
            async for chunk in request.stream():
                body += chunk
                if len(body) > bytes_max:
                    return PlainTextResponse("the message is too large\n", 413)
            try:
                answer = read(dict(request.headers), body)
                count = await run_in_threadpool(record, answer) if answer is not None else 0
            except SignatureError as error:
                return PlainTextResponse(f"{error}\n", 401)
            except UsageError as error:
                return PlainTextResponse(f"{error}\n", 400)
            except AgentledgerError as error:
                return PlainTextResponse(f"{error}\n", 503)
            return PlainTextResponse(f"{count} alerts\n", 202 if count else status_of_none)

        return Route(path, answers, methods=["POST"])

    routes = []
    if incoming.secret is not None:
        routes.append(route("/v1/answers", _standard_reader(incoming.secret), BODY_BYTES_MAX, 404))
    if incoming.pagerduty_secret is not None:
        # It tells of every incident of a service: most are none of ours, which is no mistake of its.
        reader = _pagerduty_reader(incoming.pagerduty_secret)
        routes.append(route("/v1/answers/pagerduty", reader, PAGERDUTY_BYTES_MAX, 202))
    return Starlette(routes=routes)


def _standard_reader(reference: str) -> Read:
    secret = secret_of(reference, "incoming")
    try:
        webhook = Webhook(secret)
    except Exception:  # noqa: BLE001 - whatever it says may hold the secret
        raise ConfigurationError(
            f"{reference} is no secret of Standard Webhooks", where="incoming", next_step="use whsec_ and base64"
        ) from None
    return lambda headers, body: read_answer(webhook, headers, body)


def _pagerduty_reader(reference: str) -> Read:
    secret = secret_of(reference, "incoming").encode()
    return lambda headers, body: read_pagerduty_answer(secret, headers, body, datetime.now(UTC))


def serve_incoming(incoming: Incoming, state_path: Path, announce: Announce, stop: threading.Event) -> threading.Thread:
    """Serve in a thread until `stop` is set. Raises ConfigurationError where it can't listen or has no secret."""
    app = incoming_app(incoming, state_path, announce)
    listener = open_listener("notify program", incoming.host, incoming.port)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, limit_concurrency=AT_ONCE_MAX, timeout_keep_alive=5, lifespan="off",
        server_header=False,
    )  # fmt: skip
    server = StoppableServer(config, stop, lambda: None)
    thread = threading.Thread(target=server.run, args=([listener],), name="notify-incoming", daemon=True)
    thread.start()
    return thread
