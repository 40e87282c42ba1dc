"""The supervisor: starts the stack in order, keeps it running, stops it in the reverse order."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from agentledger.infra.stack.clickhouse import ClickHouseService
from agentledger.infra.stack.config import (
    CONSOLE_URL,
    GATEWAY_URL,
    Endpoints,
    StackConfig,
    choose_ports,
    metrics_port_name,
    remember_ports,
)
from agentledger.infra.stack.control import OnEvent, clear_stale, ignore
from agentledger.infra.stack.files import check_free_space, file_lock, make_data_dir
from agentledger.infra.stack.jars import kafka_classpath
from agentledger.infra.stack.kafka import KafkaService
from agentledger.infra.stack.memory_broker import MemoryBrokerService
from agentledger.infra.stack.ports import HOST
from agentledger.infra.stack.processes import ProcessId
from agentledger.infra.stack.programs import Program, ProgramService
from agentledger.infra.stack.restarts import MOST_DEATHS, WINDOW_SECONDS, Restarts
from agentledger.infra.stack.service import Service, StackStoppedError
from agentledger.infra.stack.state import LOCK_FILE, Phase, ServiceStatus, StackState, remove_state
from agentledger.schemas.errors import StackError

READY_SECONDS = 90.0
TICK_SECONDS = 0.2
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass
class Watched:
    """A service and how it stands."""

    service: Service
    state: str = "starting"  # starting, running, restarting
    due: float = 0.0  # when a restarting one is started, or when a starting one must be ready
    restarts: Restarts = field(default_factory=Restarts)

    def status(self) -> ServiceStatus:
        """Its line in the state file."""
        service = self.service
        process = service.process_id or ProcessId(0, "")
        return ServiceStatus(
            service.name, self.state, process.pid, service.endpoint, service.started_at, process.started,
            service.metrics_url,
        )  # fmt: skip


class Stack:
    """A local stack on one data folder. `run` is all that a command needs; the steps are there for tests.

    `prepare(endpoints)` is called when broker and ClickHouse answer, before the programs: topics, schemas, tables.
    `program_env(endpoints)` gives the programs their settings. Use it from the main thread: services die with it.
    """

    def __init__(
        self,
        config: StackConfig,
        *,
        programs: Sequence[Program] = (),
        prepare: Callable[[Endpoints], None] | None = None,
        program_env: Callable[[Endpoints], Mapping[str, str]] = Endpoints.env,
    ) -> None:
        self.config = config
        self.data_dir = config.data_dir.expanduser().resolve()
        self.programs = programs
        self.endpoints: Endpoints | None = None
        self.ports: dict[str, int] = {}
        self._prepare = prepare
        self._program_env = program_env
        self._watched: list[Watched] = []
        self._phase: Phase = "starting"
        self._since = time.time()
        self._stop = threading.Event()
        self._resources = contextlib.ExitStack()

    def run(self, on_event: OnEvent = ignore) -> None:
        """Start, keep running until SIGTERM, SIGINT or SIGHUP, stop in order. A StackError says what went wrong."""
        with self._signals():
            try:
                self.up(on_event)
                self.watch(on_event)
            except StackStoppedError:
                pass
            finally:
                self.down(on_event)

    def request_stop(self) -> None:
        """Make `up` or `watch` return soon; for signal handlers and other threads."""
        self._stop.set()

    def up(self, on_event: OnEvent = ignore) -> Endpoints:
        """Start everything in order; when it returns, all of it answers. What was started is stopped if it fails."""
        try:
            return self._up(on_event)
        except BaseException:
            self.down(on_event)
            raise

    def _up(self, on_event: OnEvent) -> Endpoints:
        make_data_dir(self.data_dir)
        self._take_lock()
        clear_stale(self.data_dir, on_event)
        check_free_space(self.data_dir)
        self._save()
        infrastructure = self._infrastructure(on_event)
        self._start(infrastructure, on_event)
        self.endpoints = Endpoints(
            infrastructure[0].endpoint, infrastructure[1].endpoint,
            self._program_url(GATEWAY_URL, "gateway"), self._program_url(CONSOLE_URL, "console"),
        )  # fmt: skip
        self._save()
        if self._prepare is not None:
            self._prepare(self.endpoints)
        env = self._program_env(self.endpoints)
        services = [
            ProgramService(program, self.data_dir, env, self.ports.get(metrics_port_name(program.name), 0))
            for program in self.programs
        ]
        self._start(services, on_event)
        self._phase = "ready"
        self._save()
        return self.endpoints

    def _take_lock(self) -> None:
        if not self._resources.enter_context(file_lock(self.data_dir / LOCK_FILE, wait=False)):
            raise StackError(
                "another `agentledger up` runs on this data folder",
                where=str(self.data_dir),
                next_step="see `agentledger status`, or give another with --data-dir",
            )
        self._resources.callback(remove_state, self.data_dir)

    def _infrastructure(self, on_event: OnEvent) -> list[Service]:
        """The broker, then ClickHouse."""
        classpath = kafka_classpath(self.config.cache_dir, on_event) if self.config.broker == "kafka" else None
        ports = self.ports = choose_ports(self.config)
        broker: Service
        if classpath is None:
            broker = MemoryBrokerService(self.data_dir)
        else:
            broker = KafkaService(self.data_dir, ports["kafka"], ports["kafka_controller"], classpath)
        clickhouse = ClickHouseService(
            self.data_dir,
            ports["clickhouse_http"],
            ports["clickhouse_native"],
            self.config.users_xml,
            self.config.clickhouse_login,
            nice=self.config.clickhouse_nice,
        )
        remember_ports(self.data_dir, ports)
        return [broker, clickhouse]

    def _program_url(self, variable: str, port_name: str) -> str:
        """Where a program of ours listens; empty where the stack hasn't one."""
        is_there = any(program.endpoint_variable == variable for program in self.programs)
        return f"http://{HOST}:{self.ports[port_name]}" if is_there else ""

    def _start(self, services: Sequence[Service], on_event: OnEvent) -> None:
        """Start these side by side, then wait for each in turn."""
        begin = time.monotonic()
        started = []
        for service in services:
            watched = Watched(service)
            self._watched.append(watched)
            started.append(watched)
            start_service(service)
            self._save()
        for watched in started:
            watched.service.wait_ready(begin + READY_SECONDS, self._stop.is_set)
            watched.state = "running"
            self._save()
            where = f" on {watched.service.endpoint}" if watched.service.endpoint else ""
            _tell(on_event, f"{watched.service.name} ready{where} after {time.monotonic() - begin:.1f} s")

    def watch(self, on_event: OnEvent = ignore) -> None:
        """Start again what dies, until asked to stop. A StackError if a service dies too often or can't come back."""
        while not self._stop.wait(TICK_SECONDS):
            for watched in self._watched:
                self._look_after(watched, time.monotonic(), on_event)

    def _look_after(self, watched: Watched, now: float, on_event: OnEvent) -> None:
        if watched.state == "restarting":
            if now >= watched.due and self._may_start(watched):
                self._start_again(watched, now, on_event)
        elif not watched.service.alive():
            self._died(watched, watched.service.death("died"), now, on_event)
        elif watched.state == "starting":
            if watched.service.is_ready():
                watched.state = "running"
                self._save()
                _tell(on_event, f"{watched.service.name} is back (pid {watched.service.pid})")
            elif now > watched.due:
                error = watched.service.death("didn't get ready in time")
                watched.service.stop()
                self._died(watched, error, now, on_event)

    def _may_start(self, watched: Watched) -> bool:
        """A program waits for the broker and ClickHouse: without them it would only die again."""
        if not isinstance(watched.service, ProgramService):
            return True
        return all(other.state == "running" for other in self._watched if not isinstance(other.service, ProgramService))

    def _start_again(self, watched: Watched, now: float, on_event: OnEvent) -> None:
        try:
            start_service(watched.service)
        except StackError as error:
            self._died(watched, error, now, on_event)
            return
        watched.state, watched.due = "starting", now + READY_SECONDS
        self._save()

    def _died(self, watched: Watched, error: StackError, now: float, on_event: OnEvent) -> None:
        delay = watched.restarts.died(now) if watched.service.restartable else None
        if delay is None:
            often = (
                f"more than {MOST_DEATHS} times in {WINDOW_SECONDS:.0f} s"
                if watched.service.restartable
                else "for good"
            )
            raise StackError(f"{error.what}; it died {often}, so everything stops", next_step=error.next_step)
        watched.state, watched.due = "restarting", now + delay
        self._save()
        _tell(on_event, f"{error.what}; starting it again in {delay:g} s")

    def down(self, on_event: OnEvent = ignore) -> None:
        """Stop everything in the reverse order of the start; nothing happens if nothing runs."""
        self._phase = "stopping"
        if self._watched:
            self._save()
        while self._watched:
            service = self._watched.pop().service
            was_alive = service.alive()
            service.stop()
            if was_alive:
                _tell(on_event, f"{service.name} stopped")
        self._resources.close()

    def _save(self) -> None:
        services = [watched.status() for watched in self._watched]
        supervisor = ProcessId.of(os.getpid())
        state = StackState(
            self._phase, supervisor, self._since, self.config.broker, self.ports, self.endpoints, services
        )
        with contextlib.suppress(OSError):  # on a full disk the stack still gets stopped
            state.save(self.data_dir)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(_number: int, _frame: FrameType | None) -> None:
            self._stop.set()

        before = {number: signal.signal(number, stop) for number in STOPS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def start_service(service: Service) -> None:
    """Start a service; what the operating system refuses is a StackError."""
    try:
        service.start()
    except OSError as error:
        raise StackError(
            f"{service.name} can't be started: {error.strerror or error}", where=str(service.run_dir)
        ) from None


def _tell(on_event: OnEvent, line: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone; the order of the stop must not depend on it
        on_event(line)
