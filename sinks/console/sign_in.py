"""The ways in and out: with an API key, or by way of an OIDC issuer and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from itsdangerous import BadData, URLSafeSerializer
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from agentledger.schemas.errors import AgentledgerError
from agentledger.sinks.console.guard import Guard, check_origin, error_page, read_form, status_of
from agentledger.sinks.console.oidc import CALLBACK, Oidc, Pending, RefusedSignInError
from agentledger.sinks.console.rendering import render

PENDING_COOKIE = "agentledger_sign_in"
PENDING_US_MAX = 600_000_000  # ten minutes for whoever must find a second factor
PENDING_CHARS_MAX = 4096
Endpoint = Callable[[Request], object]


def sign_in_routes(guard: Guard, oidc: Oidc | None, secret: bytes) -> list[Route]:
    """The routes by which one comes in and goes out: the only ones that no session guards."""
    routes = [
        Route("/sign-in", _sign_in(guard), methods=["POST"]),
        Route("/sign-out", _sign_out(guard), methods=["POST"]),
    ]
    if oidc is not None:
        kept = URLSafeSerializer(secret, salt="agentledger.console.sign_in.v1")
        routes += [
            Route("/oidc/start", _start(guard, oidc, kept), methods=["GET"]),
            Route(CALLBACK, _callback(guard, oidc, kept), methods=["GET"]),
        ]
    return routes


def _sign_in(guard: Guard) -> Endpoint:
    async def enter(request: Request) -> Response:
        try:
            guard.check_host(request)
            check_origin(request)
            form = await read_form(request)
            cookie = guard.sessions.open_with(form.get("key", ""), guard.clock())
        except AgentledgerError as error:
            return error_page(error.what, status_of(error), error.next_step)
        if cookie is None:
            return guard.sign_in_page(request, "this key is unknown, expired or revoked")
        answer = RedirectResponse(own_path(form.get("wanted", "/")), 303)
        guard.set_cookie(answer, cookie)
        return answer

    return enter


def _sign_out(guard: Guard) -> Endpoint:
    async def leave(request: Request) -> Response:
        try:
            guard.check_host(request)
            check_origin(request)
        except AgentledgerError as error:
            return error_page(error.what, 403, error.next_step)
        answer = RedirectResponse("/", 303)
        guard.set_cookie(answer, "")
        return answer

    return leave


def _start(guard: Guard, oidc: Oidc, kept: URLSafeSerializer) -> Endpoint:
    async def start(request: Request) -> Response:
        try:
            guard.check_host(request)
            url, pending = await run_in_threadpool(oidc.begin)
        except AgentledgerError as error:
            return error_page(error.what, 403, error.next_step)
        wanted = own_path(request.query_params.get("wanted", "/"))[:1000]
        said = {**pending._asdict(), "wanted": wanted, "end_us": guard.clock() + PENDING_US_MAX}
        answer = RedirectResponse(url, 303)
        _keep(guard, answer, str(kept.dumps(said)))
        return answer

    return start


def _callback(guard: Guard, oidc: Oidc, kept: URLSafeSerializer) -> Endpoint:
    async def come_back(request: Request) -> Response:
        now_us = guard.clock()
        try:
            guard.check_host(request)
            said = _read(kept, request.cookies.get(PENDING_COOKIE, ""), now_us)
            pending = Pending(said["state"], said["nonce"], said["verifier"])
            who = await run_in_threadpool(oidc.finish, pending, dict(request.query_params), now_us)
        except AgentledgerError as error:
            answer: Response = error_page(error.what, 403, error.next_step)
        else:
            # A page of ours that goes on, and no redirect: behind one from the issuer, a strict cookie isn't sent.
            answer = HTMLResponse(render("signed_in.html", wanted=said["wanted"]))
            guard.set_cookie(answer, guard.sessions.open_for(who, now_us))
        _keep(guard, answer, "")
        return answer

    return come_back


def _keep(guard: Guard, answer: Response, cookie: str) -> None:
    """Lax, as the browser comes back from another site."""
    answer.set_cookie(
        PENDING_COOKIE, cookie, max_age=PENDING_US_MAX // 1_000_000 if cookie else 0, path=CALLBACK, httponly=True,
        samesite="lax", secure=guard.is_https,
    )  # fmt: skip


def _read(kept: URLSafeSerializer, cookie: str, now_us: int) -> dict[str, Any]:
    try:
        said: dict[str, Any] = kept.loads(cookie) if len(cookie) <= PENDING_CHARS_MAX else {}
    except BadData:
        said = {}
    if not said or not now_us < said["end_us"]:
        raise RefusedSignInError("this sign-in wasn't begun here, or took over ten minutes", next_step="sign in again")
    return said


def own_path(wanted: str) -> str:
    """Where to go after signing in: a page of ours, never another site."""
    is_ours = wanted.startswith("/") and not wanted.startswith(("//", "/\\", "/sign-in", "/oidc"))
    return wanted if is_ours and wanted.isprintable() else "/"
