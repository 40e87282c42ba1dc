"""Server-sent events: pages hear that something of their tenant is new, and ask again for the part that shows it.

What is sent is a word, never a record: the page's own request goes through the guard. However many pages are open, the
ledger is asked once in a while per tenant.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from agentledger.schemas.errors import AgentledgerError
from agentledger.sinks.console.guard import Guard, error_page
from agentledger.sinks.console.visits import PAGE_TIME_S_MAX
from agentledger.sinks.queries import query

INTERVAL_S = 2.0  # what is new is seen that late, and a halt within two seconds of it
LISTENERS_MAX = 200  # each holds a connection
STREAM_S_MAX = 900.0  # then the browser connects anew, and is asked for its session again
BACK_US = 600_000_000  # ten minutes: a bound for what is looked at; older news is none

_NEWEST = """
SELECT count() AS events, max(ledger_time) AS newest FROM agentledger.ledger
WHERE tenant_id = {tenant_id:String} AND event_type NOT IN ('', 'Ticked')
    AND ledger_time >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')"""


class LiveFeed:
    """The stream of each open page."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._listeners = 0
        self._newest: dict[str, tuple[int, str]] = {}  # tenant -> when it was asked, what was newest
        self._locks: dict[str, asyncio.Lock] = {}

    async def endpoint(self, request: Request) -> Response:
        """The stream, for visitors who may read."""
        try:
            self._guard.check_host(request)
            visitor, _ = self._guard.visitor_of(request)
        except AgentledgerError as error:
            return error_page(error.what, 403, error.next_step)
        if visitor is None:
            return PlainTextResponse("sign in first\n", 401)
        if not visitor.may("read"):
            return PlainTextResponse("your key has not the right read\n", 403)
        if self._listeners >= LISTENERS_MAX:
            return PlainTextResponse("too many pages are open\n", 503, {"Retry-After": "30"})
        stream = self._stream(request, visitor.tenant_id)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def _stream(self, request: Request, tenant_id: str) -> AsyncIterator[str]:
        self._listeners += 1
        try:
            told = await self._newest_of(tenant_id)
            yield "retry: 3000\nevent: open\ndata: \n\n"
            for _ in range(round(STREAM_S_MAX / INTERVAL_S)):
                await asyncio.sleep(INTERVAL_S)
                if await request.is_disconnected():
                    return
                newest = await self._newest_of(tenant_id)
                yield "event: changed\ndata: \n\n" if newest != told else ": nothing new\n\n"
                told = newest
        finally:
            self._listeners -= 1

    async def _newest_of(self, tenant_id: str) -> str:
        """What is newest, at most an interval old. Where the ledger can't be asked, nothing is new."""
        async with self._locks.setdefault(tenant_id, asyncio.Lock()):
            now_us = self._guard.clock()
            asked_us, newest = self._newest.get(tenant_id, (0, ""))
            if now_us - asked_us < INTERVAL_S * 900_000:
                return newest
            with contextlib.suppress(AgentledgerError):
                newest = await run_in_threadpool(self._ask, tenant_id, now_us)
            self._newest[tenant_id] = now_us, newest
            return newest

    def _ask(self, tenant_id: str, now_us: int) -> str:
        parameters = {"tenant_id": tenant_id, "since_us": now_us - BACK_US}
        rows = query(self._guard.ports.client, _NEWEST, parameters=parameters, time_s_max=PAGE_TIME_S_MAX).rows
        return str(rows[0])
