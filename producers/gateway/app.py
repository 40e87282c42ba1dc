"""The ASGI application: routes, and one form for every refusal."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from agentledger.producers.gateway import events_route, health, opa_route, schemas_route, traces
from agentledger.producers.gateway.admission import Gateway
from agentledger.producers.gateway.measuring import MeasuredApp
from agentledger.producers.gateway.openapi import components
from agentledger.producers.gateway.refusals import RefusedRequestError

API_VERSION = "1.0"


def create_app(gateway: Gateway) -> FastAPI:
    """The application of one gateway; its description is at /openapi.json."""
    app = FastAPI(
        title="agentledger gateway",
        version=API_VERSION,
        summary="Events of AI agents over HTTP: answered when Kafka has them.",
        docs_url=None,  # they load scripts from another server
        redoc_url=None,
        redirect_slashes=False,
    )
    app.exception_handler(RefusedRequestError)(_refused)
    app.exception_handler(HTTPException)(_not_served)
    app.exception_handler(Exception)(_failed)
    for routes in (health, events_route, opa_route, traces, schemas_route):
        app.include_router(routes.router(gateway))
    described = app.openapi()  # FastAPI gives the same object at every request
    app.add_middleware(MeasuredApp, metrics=gateway.metrics)
    for kind, entries in components().items():
        described["components"].setdefault(kind, {}).update(entries)
    return app


async def _refused(_: Request, error: RefusedRequestError) -> JSONResponse:
    return JSONResponse(error.body(), error.status, error.headers())


async def _not_served(_: Request, error: HTTPException) -> JSONResponse:
    """No such path, or not with this method."""
    reason = "method_not_allowed" if error.status_code == 405 else "not_found"
    return JSONResponse({"error": {"reason": reason, "message": error.detail}}, error.status_code, error.headers)


async def _failed(_: Request, __: Exception) -> JSONResponse:
    """A fault of ours; what it was is in the log and not in the answer."""
    message = "the gateway failed on this request: its log says why"
    return JSONResponse({"error": {"reason": "internal", "message": message}}, 500)
