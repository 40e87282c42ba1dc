"""The ASGI application: routes, and one form for every refusal."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from agentledger.producers.gateway import health
from agentledger.producers.gateway.admission import Gateway
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
    for routes in (health,):
        app.include_router(routes.router(gateway))
    return app


async def _refused(_: Request, error: RefusedRequestError) -> JSONResponse:
    return JSONResponse(error.body(), error.status, error.headers())


async def _not_served(_: Request, error: HTTPException) -> JSONResponse:
    """No such path, or not with this method."""
    reason = "method_not_allowed" if error.status_code == 405 else "not_found"
    return JSONResponse({"error": {"reason": reason, "message": error.detail}}, error.status_code, error.headers)
