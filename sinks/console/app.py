"""The ASGI application: every page behind the guard, the sign-in, the static files, and the headers of all answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentledger.sinks.console.guard import Guard, error_page
from agentledger.sinks.console.live import LiveFeed
from agentledger.sinks.console.oidc import Oidc
from agentledger.sinks.console.pages import PAGES
from agentledger.sinks.console.ports import ConsolePorts
from agentledger.sinks.console.sessions import Sessions
from agentledger.sinks.console.sign_in import sign_in_routes

STATIC = Path(__file__).parent / "static"
# No script, style or frame but from our own files, and nothing that a text of the ledger could bring in.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
STATIC_AGE_S = 3600

log = logging.getLogger("agentledger.sinks.console")


def create_app(
    ports: ConsolePorts,
    *,
    clock: Callable[[], int],
    secret: bytes,
    local_tenant_id: str = "",
    hosts: frozenset[str] = frozenset(),
    is_https: bool = False,
    oidc: Oidc | None = None,
) -> Starlette:
    """The console. `secret` signs sessions; `local_tenant_id`: whose ledger a visitor without a key sees, empty: none.

    `hosts`: see `Guard`. `oidc`: the issuer with which people sign in, beside API keys. The clock
    gives microseconds since 1970.
    """
    sessions = Sessions(ports.keys, secret, local_tenant_id, with_oidc=oidc is not None)
    guard = Guard(ports, sessions, clock, hosts=hosts, is_https=is_https)
    feed = LiveFeed(guard)
    pages = [
        Route(page.path, guard.endpoint(page.handler, page.scope), methods=[page.method], name=page.name)
        for page in PAGES
    ]
    app = Starlette(
        routes=[
            *pages,
            Route("/live", feed.endpoint, methods=["GET"]),
            *sign_in_routes(guard, oidc, secret),
            Route("/health", _health, methods=["GET"]),
            Mount("/static", StaticFiles(directory=STATIC), name="static"),
        ],
        middleware=[Middleware(_Headers)],
        exception_handlers={HTTPException: _not_served, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return app


async def _health(_: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _not_served(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return error_page("there is no such page", status, "go back to Now")


async def _failed(_: Request, error: Exception) -> Response:
    """A fault of ours; what it was is in the log and not in the answer."""
    log.error("a page failed: %s", type(error).__name__, exc_info=error)
    answer = error_page("the console failed on this page", 500, "its log says why")
    answer.headers.update(HEADERS)  # it is made outside of what adds them
    return answer


class _Headers:
    """Adds the headers that every answer has; pages are kept by no cache."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, with the headers."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                is_static = scope["path"].startswith("/static/")
                headers["Cache-Control"] = f"public, max-age={STATIC_AGE_S}" if is_static else "no-store"
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, send_with_headers)
