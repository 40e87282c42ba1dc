"""One request of somebody who was let in: what pages are given, and what they answer with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from starlette.responses import HTMLResponse, Response

from agentledger.schemas.errors import AgentledgerError, UsageError
from agentledger.sinks.console.jobs import Jobs
from agentledger.sinks.console.ports import ConsolePorts, Look
from agentledger.sinks.console.recent_looks import RecentLooks
from agentledger.sinks.console.rendering import render
from agentledger.sinks.console.sessions import Visitor
from agentledger.sinks.console.snapshots import Key, Snapshot, Snapshots
from agentledger.sinks.queries import Client, query
from agentledger.sinks.read_event import CountedReads

PAGE_TIME_S_MAX = 15  # a page that takes longer is no page: what it asks for must be narrowed
SUM_TIME_S_MAX = 120  # of what is asked in the background, for several pages
# Pages go before: one core, and a third of a page's share of it (where the server may say so: CAP_SYS_NICE). With less,
# a busy machine would hardly ever come to them.
SUM_SETTINGS = {"max_threads": 1, "os_thread_priority": 5}
PAGE_ROWS_MAX = 25_000  # above the longest page: a run's 20,000 events
TEXT_CHARS_MAX = 1024  # of what a visitor types into a field

Value = TypeVar("Value")
Question = tuple[str, Mapping[str, Any]]  # SQL, and its parameters


@dataclass(frozen=True)
class Visit:
    """A request that was let in. `form` is empty but for a POST; times are microseconds since 1970."""

    ports: ConsolePorts
    visitor: Visitor
    now_us: int
    path: str
    place: Mapping[str, str]  # what the path names
    asked: Mapping[str, str]  # the query string
    form: Mapping[str, str]
    recent_looks: RecentLooks
    jobs: Jobs
    snapshots: Snapshots
    questions: Executor

    def rows(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        """The answer to a query of ours. The visitor's tenant and the time are always parameters. Raises StoreError."""
        return self.rows_from(self.ports.client, sql, **parameters)

    def rows_from(self, client: Client, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        """The same of another client."""
        given = {**parameters, "tenant_id": self.visitor.tenant_id, "now_us": self.now_us}
        return query(client, sql, parameters=given, time_s_max=PAGE_TIME_S_MAX, rows_max=PAGE_ROWS_MAX).records()

    def sums(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        """The same for what is asked in the background and may take longer than a page. Raises StoreError."""
        given = {**parameters, "tenant_id": self.visitor.tenant_id, "now_us": self.now_us}
        return query(
            self.ports.client, sql, parameters=given, time_s_max=SUM_TIME_S_MAX, rows_max=PAGE_ROWS_MAX,
            settings=SUM_SETTINGS,
        ).records()  # fmt: skip

    def rows_together(self, questions: Mapping[str, Question]) -> dict[str, list[dict[str, Any]]]:
        """The answers to queries of ours, each with its parameters, asked at the same time. Raises StoreError."""
        asked = {
            name: self.questions.submit(self.rows, sql, **parameters) for name, (sql, parameters) in questions.items()
        }
        wait(asked.values())
        return {name: answer.result() for name, answer in asked.items()}

    def snapshot(self, key: Key, ask: Callable[[], Value]) -> Snapshot[Value]:
        """What `ask` gives for the visitor's tenant, as `Snapshots.of` has it."""
        return self.snapshots.of((self.visitor.tenant_id, *key), ask, self.now_us)

    def snapshots_together(self, asks: Mapping[Key, Callable[[], Any]]) -> dict[Key, Snapshot[Any]]:
        """The same for several, which are waited for together."""
        found = self.snapshots.together({(self.visitor.tenant_id, *key): ask for key, ask in asks.items()}, self.now_us)
        return {key[1:]: snapshot for key, snapshot in found.items()}

    def text(self, name: str) -> str:
        """A field of the query string. Raises UsageError where it is too long."""
        return _bounded(name, self.asked.get(name, ""))

    def choice(self, name: str, choices: Mapping[str, Any]) -> str:
        """A field that must be one of these; the first where it isn't given. Raises UsageError."""
        given = self.text(name) or next(iter(choices))
        if given not in choices:
            raise UsageError(f"{name} can't be {given[:40]!r}", next_step=f"one of {', '.join(choices)}")
        return given

    def field(self, name: str) -> str:
        """A field of the form. Raises UsageError where it is too long."""
        return _bounded(name, self.form.get(name, "").strip())

    def page(self, template: str, status: int = 200, /, **values: Any) -> Response:
        """A page of ours, for this visitor."""
        return HTMLResponse(render(template, visit=self, visitor=self.visitor, **values), status)

    @contextmanager
    def recorded(self, command: str, **asked: str) -> Iterator[CountedReads]:
        """A client for what agents did: that it was looked at is in the ledger when the block ends. The same look
        again within minutes, such as of a page that renews itself, is not told again.

        Raises BrokerError where it must be recorded and can't be: then nothing may be shown.
        """
        reads = CountedReads(self.ports.client)
        with self.recorded_by(reads, command, **asked):
            yield reads

    @contextmanager
    def recorded_by(self, reads: CountedReads, command: str, **asked: str) -> Iterator[None]:
        """The same for a client of another user."""
        began_s, error = time.monotonic(), ""
        try:
            yield
        except AgentledgerError as failed:
            error = str(failed)
            raise
        finally:
            look = (self.visitor.tenant_id, self.visitor.name, command, *asked.values())
            if not self.recent_looks.knows(look, self.now_us):
                took_ms = round((time.monotonic() - began_s) * 1000, 3)
                facts = {"command": f"console {command}", **asked}
                who = f"console:{self.visitor.name}"
                self.ports.record(
                    Look(facts, self.visitor.tenant_id, who, self.now_us, took_ms, reads, error)
                )  # fmt: skip
                self.recent_looks.add(look, self.now_us)


Handler = Callable[[Visit], Response]


def recorded_page(command: str, show: Handler, *names: str) -> Handler:
    """A page of several queries that are one look together, as `Visit.recorded` has it: of the query string, `names`
    tell one look from another."""

    def shown(visit: Visit) -> Response:
        with visit.recorded(command, **{name: visit.text(name) for name in names}) as client:
            return show(replace(visit, ports=replace(visit.ports, client=client)))

    return shown


def _bounded(name: str, text: str) -> str:
    if len(text) > TEXT_CHARS_MAX or "\x00" in text:
        raise UsageError(f"{name} is too long", next_step=f"give at most {TEXT_CHARS_MAX} characters")
    return text
