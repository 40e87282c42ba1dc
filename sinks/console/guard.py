"""The door: whoever has no key, a key of another right, a forged session or a form of another site stays outside.

Every page goes through `Guard.endpoint`, which names the right that it takes; there is no other way to add one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qsl, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from agentledger.schemas.errors import AgentledgerError, StoreError, UsageError
from agentledger.sinks.console.jobs import Jobs
from agentledger.sinks.console.ports import ConsolePorts
from agentledger.sinks.console.recent_looks import RecentLooks
from agentledger.sinks.console.rendering import render
from agentledger.sinks.console.sessions import COOKIE, SESSION_US_MAX, Sessions, Visitor
from agentledger.sinks.console.snapshots import Snapshots
from agentledger.sinks.console.visits import Handler, Visit

FORM_BYTES_MAX = 64 * 1024  # the longest form holds one SQL statement
FIELDS_MAX = 40
QUESTIONS_AT_A_TIME = 16  # to ClickHouse, of all pages under way: a page has up to eight
_BEARER = "bearer "


class Guard:
    """Lets visitors in. `hosts`: the names under which the console is asked for; empty: any (keys are asked for then).

    `is_https`: the session's cookie travels over HTTPS alone.
    """

    def __init__(
        self,
        ports: ConsolePorts,
        sessions: Sessions,
        clock: Callable[[], int],
        *,
        hosts: frozenset[str],
        is_https: bool,
    ) -> None:
        self.ports = ports
        self.sessions = sessions
        self.clock = clock
        self._hosts = hosts
        self.is_https = is_https
        self._recent_looks = RecentLooks()
        self._jobs = Jobs()
        self._questions = ThreadPoolExecutor(QUESTIONS_AT_A_TIME, "question")
        self._snapshots = Snapshots(time.monotonic_ns)

    def endpoint(self, handler: Handler, scope: str) -> Callable[[Request], object]:
        """The handler behind the door: only visitors with this right reach it."""

        async def enter(request: Request) -> Response:
            cookie = None
            try:
                self.check_host(request)
                visitor, cookie = self.visitor_of(request)
                if visitor is None:
                    return self.sign_in_page(request)
                if not visitor.may(scope):
                    return error_page(f"your key has not the right {scope}", 403, f"use one made with --scope {scope}")
                form = await self._form(request, visitor) if request.method == "POST" else {}
                answer = await run_in_threadpool(handler, self._visit(request, visitor, form))
            except RefusedVisitError as error:
                answer = error_page(error.what, 403, error.next_step)
            except AgentledgerError as error:
                answer = error_page(error.what, status_of(error), error.next_step)
            if cookie:
                self.set_cookie(answer, cookie)
            return answer

        return enter

    def visitor_of(self, request: Request) -> tuple[Visitor | None, str | None]:
        """Who sends this, and the cookie to give to a local visitor who has none yet. Raises StoreError."""
        now_us = self.clock()
        authorization = request.headers.get("authorization", "")
        if authorization:
            is_bearer = authorization[: len(_BEARER)].lower() == _BEARER
            return (self.sessions.of_key(authorization[len(_BEARER) :], now_us) if is_bearer else None), None
        visitor = self.sessions.of_cookie(request.cookies.get(COOKIE, ""), now_us)
        if visitor is not None or request.method != "GET":
            return visitor, None
        cookie = self.sessions.open_local(now_us)
        return (self.sessions.of_cookie(cookie, now_us), cookie) if cookie else (None, None)

    def check_host(self, request: Request) -> None:
        """Raise RefusedVisitError for a name that isn't ours: a page elsewhere may have pointed its own name at us."""
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if self._hosts and host not in self._hosts:
            raise RefusedVisitError("the console isn't served under this name", next_step="see agentledger status")

    def set_cookie(self, response: Response, cookie: str) -> None:
        """Hand a session out; an empty one ends it."""
        response.set_cookie(
            COOKIE, cookie, max_age=SESSION_US_MAX // 1_000_000 if cookie else 0, path="/", httponly=True,
            samesite="strict", secure=self.is_https,
        )  # fmt: skip

    def sign_in_page(self, request: Request, wrong: str = "") -> Response:
        """Asks for a key, or to go to the issuer; afterwards it goes on to where the visitor wanted to."""
        wanted = str(request.url.path) + (f"?{request.url.query}" if request.url.query else "")
        # A link on another site brings no strict cookie with it: our own page, asking once more, does.
        asks_again = request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site"
        page = render(
            "sign_in.html", wanted=wanted, wrong=wrong, asks_again=asks_again, with_oidc=self.sessions.with_oidc
        )
        return HTMLResponse(page, 401, {"WWW-Authenticate": "Bearer"})

    async def _form(self, request: Request, visitor: Visitor) -> dict[str, str]:
        check_origin(request)
        form = await read_form(request)
        if not visitor.sent(form.get("form_token", "")):
            raise RefusedVisitError("this form isn't of your session", next_step="open the page again and send it anew")
        return form

    def _visit(self, request: Request, visitor: Visitor, form: dict[str, str]) -> Visit:
        return Visit(
            ports=self.ports, visitor=visitor, now_us=self.clock(), path=request.url.path,
            place={name: str(value) for name, value in request.path_params.items()},
            asked=dict(request.query_params), form=form, recent_looks=self._recent_looks,
            jobs=self._jobs, snapshots=self._snapshots, questions=self._questions,
        )  # fmt: skip


class RefusedVisitError(AgentledgerError):
    """A request from where none may come; nothing was done."""


def check_origin(request: Request) -> None:
    """Raise RefusedVisitError for a form that a page of another site has sent."""
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    is_ours = origin is None or urlsplit(origin).netloc == request.headers.get("host", "")
    if not is_ours or site not in {"same-origin", "none"}:
        raise RefusedVisitError("this form was sent by another site", next_step="send it from the console's own page")


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form, each once. Raises UsageError where there is too much."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES_MAX:
            raise UsageError(f"the form is over {FORM_BYTES_MAX // 1024} KiB", next_step="send less")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX))
    except ValueError:
        raise UsageError("the form can't be read", next_step="send it from the console's own page") from None


def status_of(error: AgentledgerError) -> int:
    """The HTTP status of a failure."""
    if isinstance(error, UsageError):
        return 400
    return 503 if isinstance(error, StoreError) else 502


def error_page(what: str, status: int, next_step: str = "") -> Response:
    """A failure in one line, with the next step."""
    return HTMLResponse(render("error.html", what=what, next_step=next_step, status=status), status)
