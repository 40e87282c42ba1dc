"""The HTTP endpoint that answers to pages come back to: POST /v1/answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
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
from agentledger.sinks.notify.incoming import BODY_BYTES_MAX, SignatureError, answer_events, read_answer
from agentledger.sinks.notify.settings import Incoming, secret_of
from agentledger.sinks.notify.state import alerts_of_page

AT_ONCE_MAX = 32  # connections; people answer pages one by one

Announce = Callable[[Event], None]


def incoming_app(webhook: Webhook, state_path: Path, announce: Announce) -> Starlette:
    """The endpoint. `announce` returns when the broker has the event, and raises BrokerError."""

    async def answers(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                return PlainTextResponse("the message is too large\n", 413)
        try:
            count = await run_in_threadpool(record, dict(request.headers), body)
        except SignatureError as error:
            return PlainTextResponse(f"{error}\n", 401)
        except UsageError as error:
            return PlainTextResponse(f"{error}\n", 400)
        except AgentledgerError as error:
            return PlainTextResponse(f"{error}\n", 503)
        return PlainTextResponse(f"{count} alerts\n", 202 if count else 404)

    def record(headers: dict[str, str], body: bytes) -> int:
        answer = read_answer(webhook, headers, body)
        events = answer_events(answer, alerts_of_page(state_path, answer.dedup_key), time.time_ns() // 1000)
        for event in events:
            announce(event)
        return len(events)

    return Starlette(routes=[Route("/v1/answers", answers, methods=["POST"])])


def serve_incoming(incoming: Incoming, state_path: Path, announce: Announce, stop: threading.Event) -> threading.Thread:
    """Serve in a thread until `stop` is set. Raises ConfigurationError where it can't listen or has no secret."""
    try:
        webhook = Webhook(secret_of(incoming.secret, "incoming"))
    except ConfigurationError:
        raise
    except Exception:  # noqa: BLE001 - whatever it says may hold the secret
        raise ConfigurationError(
            f"{incoming.secret} is no secret of Standard Webhooks", where="incoming", next_step="use whsec_ and base64"
        ) from None
    listener = open_listener("notify program", incoming.host, incoming.port)
    config = uvicorn.Config(
        incoming_app(webhook, state_path, announce), log_config=None, access_log=False, limit_concurrency=AT_ONCE_MAX,
        timeout_keep_alive=5, lifespan="off", server_header=False,
    )  # fmt: skip
    server = StoppableServer(config, stop, lambda: None)
    thread = threading.Thread(target=server.run, args=([listener],), name="notify-incoming", daemon=True)
    thread.start()
    return thread
