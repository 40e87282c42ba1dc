"""Counts and times every request, by the route it went to."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentledger.producers.gateway.metrics import GatewayMetrics

NO_ROUTE = "other"  # paths that clients make up must not become labels


class MeasuredApp:
    """The application around every other: what it counts includes refusals and failures."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count its answer; one without an answer (the client went away) as 499."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 499

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.monotonic()
        self._metrics.requests_under_way.inc()
        try:
            await self._app(scope, receive, counted)
        finally:
            self._metrics.requests_under_way.dec()
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            self._metrics.count_request(route, status, time.monotonic() - began)
