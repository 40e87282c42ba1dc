"""The SDK's front door: a ledger that an agent records its runs with."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from agentledger.producers.bounds import clean_text
from agentledger.producers.budget_guard import RunBudget
from agentledger.producers.content import Redact
from agentledger.producers.content_rules import open_content_rules
from agentledger.producers.control import Control, ControlSettings
from agentledger.producers.delivery import DeliveryCounters
from agentledger.producers.emitter import Emitter, OnProblem, log_problem
from agentledger.producers.envelope import RunEnvelope
from agentledger.producers.hold_client import HoldClient
from agentledger.producers.holds import HoldSettings
from agentledger.producers.listeners import open_control, open_holds, open_payloads
from agentledger.producers.outbox import Outbox, OutboxSettings, open_outbox
from agentledger.producers.publisher import KafkaRecordProducer, kafka_config_from_env
from agentledger.producers.run_facts import RunFacts
from agentledger.producers.runs import LIVE, Run
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import UsageError
from agentledger.schemas.events import Event
from agentledger.schemas.ports import Clock, PriceBook, RecordProducer, SubjectKeys
from agentledger.schemas.registry import open_registry
from agentledger.schemas.testing.record_producer import FakeRecordProducer

if TYPE_CHECKING:
    from decimal import Decimal

    from agentledger.producers.personal import PersonalFields
    from agentledger.producers.redaction import Redaction, RedactionPolicy

_F = TypeVar("_F", bound=Callable[..., Any])
FLUSH_WAIT_MS_MAX = 10_000  # what an agent's end may wait for its last events; a broker that is away costs that much
DEFAULT_TENANT = "default"
PAYLOADS_ENV = "AGENTLEDGER_PAYLOADS"


def wall_clock_us() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


def monotonic_us() -> int:
    """Microseconds of a clock that never goes back, for durations."""
    return time.perf_counter_ns() // 1000


class Ledger:
    """Records what an agent does. Making one needs no broker; recording never waits for one and never raises.

    - `tenant_id`, `bootstrap_servers`, `registry_url`: by default AGENTLEDGER_TENANT_ID (else `default`),
      AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS (else 127.0.0.1:9092), AGENTLEDGER_SCHEMA_REGISTRY_URL (else the ids that are
      shipped; a registry that is named has to answer now, or SchemaError is raised). `kafka_config` is librdkafka's.
    - `redaction` says what may be kept of arguments and results, by tool and field, and whether texts are searched for
      secrets: a policy, or the path of its file; by default AGENTLEDGER_REDACTION_FILE. Or `redact`, a function, or
      `keep_content=True`, which keeps all. Without any an event carries only digest and size.
    - `personal` seals named fields under a key of their data subject before that.
    - `payloads`: whether what may be kept goes to a topic and table of its own with a short retention, prompts and
      answers, too; by default as AGENTLEDGER_PAYLOADS says (`on`), else it stands in the event, up to 64 KiB.
    - `source`: where the runs come from. Of runs that are told afterwards (a recording, a demo) say so by another name:
      rules that compare clocks, or wait for what comes next, leave those alone.
    - `prices` rates calls for budgets in dollars; by default the prices that are shipped, with those of
      the file AGENTLEDGER_PRICES_FILE before them.
    - `on_emit_problem` hears of what went wrong without stopping the agent; by default the log, a line a minute.
    - `outbox`: a folder, OutboxSettings or their names and values, or `off`: whether events are on disk before they are
      queued. By default as AGENTLEDGER_OUTBOX_DIR says; where it says nothing, on where `environment` (by default
      AGENTLEDGER_ENVIRONMENT) is prod or production, off elsewhere. ConfigurationError where it can't be made.
    - `control`: whether runs can be halted from outside (`agentledger halt`): `on` (the default with a broker), `off`,
      or ControlSettings; AGENTLEDGER_CONTROL_WHEN_UNREACHABLE and AGENTLEDGER_CONTROL_STALE_S_MAX change the default.
    - `holds`: HoldSettings, where calls have to get a hold on their budgets first; by default they don't.
    - `flush_wait_ms_max` bounds the wait for delivery at `close` and at the end of the program.
    """

    def __init__(
        self,
        *,
        agent_id: str = "",
        agent_version: str = "",
        tenant_id: str | None = None,
        environment: str | None = None,
        actor: str = "",
        labels: Mapping[str, str] | None = None,
        bootstrap_servers: str | None = None,
        kafka_config: Mapping[str, Any] | None = None,
        registry_url: str | None = None,
        producer: RecordProducer | None = None,
        outbox: OutboxSettings | Mapping[str, Any] | Path | str | None = None,
        clock: Clock | None = None,
        source: str = LIVE,
        prices: PriceBook | None = None,
        redaction: Redaction | RedactionPolicy | Mapping[str, Any] | str | Path | None = None,
        redact: Redact | None = None,
        keep_content: bool = False,
        personal: PersonalFields | None = None,
        subject_keys: SubjectKeys | None = None,
        payloads: bool | None = None,
        control: ControlSettings | Mapping[str, Any] | Literal["on", "off"] | None = None,
        holds: HoldSettings | Mapping[str, Any] | None = None,
        on_emit_problem: OnProblem = log_problem,
        flush_wait_ms_max: int = FLUSH_WAIT_MS_MAX,
    ) -> None:
        self.agent_id = agent_id
        self.agent_version = agent_version
        self.environment = os.environ.get("AGENTLEDGER_ENVIRONMENT", "") if environment is None else environment
        self.actor = actor
        self.clock: Clock = clock or wall_clock_us
        self.source = clean_text(source, 1024)
        self.timer: Clock = clock or monotonic_us  # a clock of one's own also tells how long things take
        self._prices = prices
        self._flush_wait_s = flush_wait_ms_max / 1000
        url = os.environ.get("AGENTLEDGER_SCHEMA_REGISTRY_URL", "") if registry_url is None else registry_url
        registry = open_registry(url)
        tenant = tenant_id or os.environ.get("AGENTLEDGER_TENANT_ID") or DEFAULT_TENANT
        with_payloads = os.environ.get(PAYLOADS_ENV, "").lower() == "on" if payloads is None else payloads
        self.content = open_content_rules(
            tenant_id=tenant, redact=redact, keep_content=keep_content, redaction=redaction, personal=personal,
            subject_keys=subject_keys, to_payloads=with_payloads,
        )  # fmt: skip
        self.labels = self.content.labels(labels)
        self._producer = producer or _kafka_producer(bootstrap_servers, kafka_config)
        self._outbox: Outbox | None = open_outbox(outbox, self._producer, environment=self.environment)
        self.emitter = Emitter(
            self._producer,
            registry,
            tenant_id=tenant,
            clock=self.clock,
            on_problem=on_emit_problem,
            outbox=self._outbox,
            clean=self.content.clean,
        )
        self.payloads = open_payloads(self._producer, registry, events=self.emitter) if with_payloads else None
        self._codec = Codec(registry)
        self.tenant_id = self.emitter.tenant_id
        self.control: Control | None = open_control(
            control, self._producer, tenant_id=self.tenant_id, codec=self._codec, clock=wall_clock_us, tell=self.tell
        )
        self.holds: HoldClient | None = open_holds(
            holds, self._producer, registry, events=self.emitter, codec=self._codec, prices=self.price_book,
            control=self.control,
        )  # fmt: skip
        self._closed = False
        atexit.register(self.close)

    @classmethod
    def for_testing(cls, **settings: Any) -> Self:
        """A ledger that keeps its events in memory, for the tests of an agent: see `events`."""
        return cls(producer=settings.pop("producer", None) or FakeRecordProducer(), **settings)

    @property
    def events(self) -> list[Event]:
        """The events so far, decoded, in order; only of a ledger with a FakeRecordProducer, else UsageError."""
        if not isinstance(self._producer, FakeRecordProducer):
            raise UsageError("a ledger that sends to Kafka keeps no events", next_step="use Ledger.for_testing()")
        return [self._codec.decode(record.value) for record in self._producer.records]

    @property
    def counters(self) -> DeliveryCounters:
        """What became of the events so far."""
        return self.emitter.counters

    def run(
        self,
        workflow: str = "",
        *,
        task: str = "",
        budget: RunBudget | Mapping[str, Any] | None = None,
        run_id: str | None = None,
        parent: Run | str | None = None,
        actor: str = "",
        labels: Mapping[str, str] | None = None,
        prompt_version: str = "",
        policy_version: str = "",
        toolset_version: str = "",
        traceparent: str = "",
    ) -> Run:
        """A run, for `with` or `async with`. Inside of another run it is its sub-run, unless `parent` says otherwise.

        `traceparent` is a W3C header or trace id to join. Raises UsageError for a budget that is none.
        """
        return Run(
            self, workflow=workflow, task=task, budget=budget, run_id=run_id, parent=parent, actor=actor, labels=labels,
            prompt_version=prompt_version, policy_version=policy_version, toolset_version=toolset_version,
            trace=traceparent,
        )  # fmt: skip

    def outcome(
        self, run_id: str, *, success: bool | None, verified_by: str = "", workflow: str = "",
        value_usd: Decimal | float | str | None = None, score: float | None = None, reason: str = "",
        replaces_event_id: str | None = None,
    ) -> str:  # fmt: skip
        """What really came of a run that is over, maybe days ago; the event id."""
        envelope = RunEnvelope(
            run_id, agent_id=self.agent_id, agent_version=self.agent_version, workflow=workflow,
            environment=self.environment, actor=self.actor, labels=self.labels,
        )  # fmt: skip
        return RunFacts(self, envelope).outcome(
            success=success, verified_by=verified_by, value_usd=value_usd, score=score, reason=reason,
            replaces_event_id=replaces_event_id,
        )  # fmt: skip

    @overload
    def tool(self, function: _F, /, *, run: Run | None = None, **facts: Any) -> _F: ...

    @overload
    def tool(self, function: None = None, /, *, run: Run | None = None, **facts: Any) -> Callable[[_F], _F]: ...

    def tool(self, function: _F | None = None, /, *, run: Run | None = None, **facts: Any) -> _F | Callable[[_F], _F]:
        """Decorate a tool, sync or async: each call becomes a tool call of the run that is open at the time.

        As `@ledger.tool` or `@ledger.tool(effect="write", name="create_refund", target=…)`; the facts are those of
        `Run.tool_call`.
        """
        # Imported here: decorators need runs, and runs offer this.
        from agentledger.producers.decorators import recorded_tool  # noqa: PLC0415

        if function is not None:
            return recorded_tool(self, function, run, **facts)
        return lambda decorated: recorded_tool(self, decorated, run, **facts)

    @overload
    def traced_run(self, function: _F, /, **facts: Any) -> _F: ...

    @overload
    def traced_run(self, function: None = None, /, **facts: Any) -> Callable[[_F], _F]: ...

    def traced_run(self, function: _F | None = None, /, **facts: Any) -> _F | Callable[[_F], _F]:
        """Decorate a function, sync or async: each call of it is a run, which `current_run()` gives inside.

        As `@ledger.traced_run` (the workflow is the function's name) or `@ledger.traced_run(workflow=…, budget=…)`.
        """
        from agentledger.producers.decorators import recorded_run  # noqa: PLC0415

        if function is not None:
            return recorded_run(self, function, **facts)
        return lambda decorated: recorded_run(self, decorated, **facts)

    @property
    def has_prices(self) -> bool:
        """Whether `price_book` answers at once."""
        return self._prices is not None

    def price_book(self) -> PriceBook:
        """The prices for budgets in dollars; loaded when they are first needed."""
        if self._prices is None:
            # Imported here: the prices take half a second to load, and most agents have no budget in dollars.
            from agentledger.schemas.price_books import PRICES_FILE_ENV, open_prices  # noqa: PLC0415

            self._prices = open_prices(os.environ.get(PRICES_FILE_ENV))
        return self._prices

    def listen(self) -> None:
        """Begin to listen to control and to decisions on holds, if that hasn't happened yet. Never waits."""
        if self.control is not None:
            self.control.start()
        if self.holds is not None:
            self.holds.start()

    def tell(self, reason: str, what: str) -> None:
        """Pass on a problem that does not stop the agent."""
        self.emitter.tell(reason, what)

    def flush(self, timeout_s: float | None = None) -> int:
        """Wait until all events were delivered or given up; how many still wait at the time-out. Never raises."""
        end = time.monotonic() + (self._flush_wait_s if timeout_s is None else timeout_s)
        waiting = self.emitter.flush(max(0.0, end - time.monotonic()))
        for beside in (self.holds, self.payloads):
            if beside is not None:
                waiting += beside.emitter.flush(max(0.0, end - time.monotonic()))
        return waiting

    def close(self) -> None:
        """Flush, within its bound, and end. Events that could not be delivered are given up and counted."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        waiting = self.flush()
        if waiting:
            fate = "" if self._outbox is None else f"; they wait in {self._outbox.settings.folder}"
            self.tell("not_delivered", f"{waiting} events were not delivered within {self._flush_wait_s:g} s{fate}")
        if self._outbox is not None:
            self._outbox.close()
        for listener in (self.control, self.holds):
            if listener is not None:
                listener.close()
        if isinstance(self._producer, KafkaRecordProducer):
            self._producer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        # Imported here: only an agent that is async has asyncio loaded already.
        import asyncio  # noqa: PLC0415

        await asyncio.to_thread(self.close)


def _kafka_producer(bootstrap_servers: str | None, config: Mapping[str, Any] | None) -> KafkaRecordProducer:
    named = {"bootstrap.servers": bootstrap_servers} if bootstrap_servers else {}
    return KafkaRecordProducer({**kafka_config_from_env(), **named, **(config or {})})
