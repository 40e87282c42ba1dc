"""POST /v1/opa/logs: where Open Policy Agent uploads its decision log, answered with 200 when Kafka has all of it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from agentledger.producers.gateway.admission import Admission, Gateway
from agentledger.producers.gateway.intake import take_in
from agentledger.producers.gateway.json_bodies import parse_json
from agentledger.producers.gateway.opa_decisions import policy_decision
from agentledger.producers.gateway.openapi import answers, ref, request_body
from agentledger.producers.gateway.refusals import RefusedEventError, RefusedRequestError
from agentledger.schemas.events import PolicyDecided


def router(gateway: Gateway) -> APIRouter:
    """The route for decision logs."""
    routes = APIRouter(tags=["events"])

    bodies = {"application/json": {"type": "array", "items": ref("OpaDecision")}}

    @routes.post(
        "/v1/opa/logs", summary="Record decisions of Open Policy Agent", responses=answers(partial=False),
        openapi_extra=request_body(bodies),
    )  # fmt: skip
    async def post_opa_logs(request: Request) -> JSONResponse:
        with gateway.admit(request, "ingest") as admission:
            entries: Any = parse_json(await admission.body(), gateway.limits.depth_max)
            if not isinstance(entries, list):
                raise RefusedRequestError(400, "not_a_batch", "a decision log is a JSON array of decisions")
            if len(entries) > gateway.limits.events_max:
                raise RefusedRequestError(
                    413, "too_many_events", f"{len(entries):,} decisions are more than {gateway.limits.events_max:,}",
                    next_step="lower decision_logs.reporting.upload_size_limit_bytes",
                )  # fmt: skip
            decisions = [_decision(index, entry, admission) for index, entry in enumerate(entries)]
            intake = await take_in(admission, decisions, lambda decision: decision)
            return JSONResponse(intake.body(), intake.http_status(), intake.headers())

    return routes


def _decision(index: int, entry: Any, admission: Admission) -> PolicyDecided:
    """The decision. What is none refuses the whole upload: OPA takes any 2xx for a promise that all of it is kept."""
    try:
        return policy_decision(entry, admission.caller)
    except RefusedEventError as error:
        raise RefusedRequestError(400, error.reason, f"decision {index}: {error.what}") from None
