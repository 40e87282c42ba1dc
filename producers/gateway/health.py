"""/healthz: the process answers. /readyz: it can take events. /metrics: what it counts."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, PlainTextResponse, Response

from agentledger.producers.gateway.admission import Gateway


def router(gateway: Gateway) -> APIRouter:
    """The routes for who watches the gateway; they ask for no key and name no tenant."""
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz", summary="The process answers", response_class=PlainTextResponse)
    async def healthz() -> str:
        return "ok\n"

    @routes.get("/readyz", summary="Events can be taken", responses={503: {"description": "Not now"}})
    async def readyz() -> JSONResponse:
        ready = gateway.is_ready()
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    @routes.get("/metrics", summary="Counters in Prometheus' text format", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(gateway.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
