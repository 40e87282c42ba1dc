"""The calls of a run: asked for leave before, recorded after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from agentledger.producers.bounds import clean_int, clean_texts
from agentledger.producers.budget_guard import CallKind, RunBudget, RunBudgetExceededError, to_budget
from agentledger.producers.calls import Call, ModelCall, ToolCall, enclosing, set_facts
from agentledger.producers.envelope import RunEnvelope
from agentledger.producers.event_ids import new_event_id
from agentledger.producers.holds import Amounts, Estimate, ask_for_model_call, ask_for_tool_call
from agentledger.producers.metering import Meter, cost_of_tool, use_of
from agentledger.producers.run_facts import RunFacts
from agentledger.schemas import events
from agentledger.schemas.control import CONTROL_ENGINE
from agentledger.schemas.errors import AgentledgerError, ControlUnreachableError, HaltedError

if TYPE_CHECKING:
    from decimal import Decimal

    from agentledger.producers.hold_client import HoldClient
    from agentledger.producers.recorder import Ledger

_ENVELOPE = frozenset(events.Event.__dataclass_fields__)
_OWN_FIELDS = {
    name: frozenset(events.EVENT_TYPES[name].__dataclass_fields__) - _ENVELOPE
    for name in (ModelCall.record_name, ToolCall.record_name)
}


class RunCalls(RunFacts):
    """Makes and records the calls of one run, and holds it to its budget and to what control says."""

    trace_id: str

    def __init__(self, ledger: Ledger, envelope: RunEnvelope, budget: RunBudget | Mapping[str, Any] | None) -> None:
        super().__init__(ledger, envelope)
        self.meter = Meter(self.run_id, to_budget(budget), ledger.price_book)
        self.refused_by: AgentledgerError | None = None  # the halt that refused the last call; None once one may pass
        self._started_us = ledger.timer()
        self._hold_envelope: RunEnvelope | None = None
        self._asked_about: RunBudget | None = None  # the budget for which a person was asked for more

    def model_call(
        self, *, model: str, provider: str = "", service_tier: str = "", attempt: int = 1, requestor: str = "assistant",
        input: object = None,  # noqa: A002 - the word that the record has for it
        hold: Estimate | bool | None = None, max_tokens: int | None = None,
    ) -> ModelCall:  # fmt: skip
        """A call of a model, to be used in `with` or `async with`. Entering raises what `admit` raises.

        `hold` is the most that the call may use, or whether it asks for a hold at all; by default the ledger's settings
        decide. `max_tokens` is what the model is told to answer at most: the estimate goes by it.
        """
        call = ModelCall(self, model, provider)
        call.max_tokens = max_tokens
        if hold is not None:
            _set_hold(call, hold)
        call.service_tier = service_tier
        call.attempt = attempt
        call.requestor = requestor
        if input is not None:
            call.input(input)
        return call

    def tool_call(
        self, tool: str, *, arguments: object = None, effect: str = "", target: str = "", idempotency_key: str = "",
        attempt: int = 1, dry_run: bool = False, tool_version: str = "", call_id: str = "",
        policy_decision_id: str | None = None, evidence_ids: Iterable[str] = (), requestor: str = "assistant",
        hold: Estimate | bool | None = None,
    ) -> ToolCall:  # fmt: skip
        """A call of a tool, to be used in `with` or `async with`. Entering raises what `admit` raises.

        `effect` is read, write or irreversible; `policy_decision_id` is what `policy_decision` returned; `hold` is as
        for a model call.
        """
        call = ToolCall(self, tool)
        if hold is not None:
            _set_hold(call, hold)
        if arguments is not None:
            call.arguments(arguments)
        call.effect = effect
        call.target = target
        call.idempotency_key = idempotency_key
        call.attempt = attempt
        call.dry_run = dry_run
        call.tool_version = tool_version
        call.call_id = call_id
        call.requestor = requestor
        if policy_decision_id is not None:
            call.policy_decision_id = self._event_ref("policy_decision_id", policy_decision_id)
        if evidence_ids:
            call.evidence_ids = clean_texts(evidence_ids)
        return call

    def record_model_call(
        self, *, model: str, provider: str = "", status: str = "", error: BaseException | None = None,
        input: object = None, output: object = None,  # noqa: A002 - the words that the record has for them
        reported_cost_usd: Decimal | float | str | None = None, occurred_at: int | None = None,
        **facts: object,
    ) -> str:  # fmt: skip
        """Record a call that has already happened; its event id. It counts for the budget but is not refused.

        `facts` are the other fields of ModelCallCompleted: input_tokens, latency_ms, finish_reason and so on.
        `occurred_at` is in microseconds since 1970; by default now.
        """
        call = ModelCall(self, model, provider)
        if facts:
            set_facts(call, self._known(ModelCall, facts))
        if input is not None:
            call.input(input)
        if output is not None:
            call.output(output)
        return self._record_past(call, status, error, reported_cost_usd, occurred_at)

    def record_tool_call(
        self, tool: str, *, arguments: object = None, result: object = None, status: str = "",
        error: BaseException | None = None, reported_cost_usd: Decimal | float | str | None = None,
        occurred_at: int | None = None, **facts: object,
    ) -> str:  # fmt: skip
        """Record a call that has already happened; its event id. It counts for the budget but is not refused.

        `facts` are the other fields of ToolCallCompleted: effect, target, latency_ms and so on.
        """
        call = ToolCall(self, tool)
        set_facts(call, self._known(ToolCall, facts))
        if arguments is not None:
            call.arguments(arguments)
        if result is not None:
            call.result(result)
        return self._record_past(call, status, error, reported_cost_usd, occurred_at)

    def check(self) -> None:
        """Raise HaltedError where this run is halted now; ControlUnreachableError where nobody can say and the settings
        refuse. Calls ask by themselves: this is for long work between calls, and for agents that record afterwards.

        The first refusal of a halt is recorded as a PolicyDecided (engine `agentledger`, verdict `halt`), those that
        follow are not: an agent that tries again and again must not fill the ledger.
        """
        self._check("")

    def ask_leave(self, kind: CallKind, *, may_wait: bool = True) -> None:
        """Raise what `admit` raises for a next call of this kind, without counting it and without a hold.

        For calls that are asked about in one place and recorded in another. Unless it `may_wait`, halts aren't looked
        at before the control topic has been read for the first time.
        """
        control = self.ledger.control
        if may_wait or control is None or not control.must_wait:
            self._check("")
        self.meter.admit(kind, self.ledger.timer() - self._started_us)
        self.meter.withdraw(kind, None)

    def _check(self, action: str) -> None:
        control = self.ledger.control
        if control is None:
            return
        try:
            control.check(self)
        except (HaltedError, ControlUnreachableError) as refusal:
            is_first, self.refused_by = self.refused_by is None, refusal
            if is_first:
                self.policy_decision(
                    engine=CONTROL_ENGINE, policy="control", verdict="halt", enforced="blocked", action=action,
                    rule=refusal.via if isinstance(refusal, HaltedError) else "unreachable", reason=str(refusal),
                )  # fmt: skip
            raise
        self.refused_by = None

    def admit(self, call: Call) -> None:
        """Count a call that begins, and get its hold where holds are on.

        Raises HaltedError, RunBudgetExceededError (also as UnknownUsageError), HoldRefusedError; as the settings say
        ControlUnreachableError, HoldUnansweredError, UnpricedError. The call is not made then, and doesn't count.
        """
        holds = self._admit_at_once(call)
        if holds is None:
            return
        try:
            call.hold = holds.obtain(self._holding(holds), self._asked(call, holds), self.scopes)
            self._check_held(call, holds)
        except BaseException as refusal:
            self._withdraw(call, refusal)
            raise

    async def admit_async(self, call: Call) -> None:
        """Like `admit`, without blocking the event loop while it waits."""
        control = self.ledger.control
        if control is not None and control.must_wait:
            # Imported here: only an agent that is async has asyncio loaded already.
            import asyncio  # noqa: PLC0415

            await asyncio.to_thread(control.wait_first_read)
        holds = self._admit_at_once(call)
        if holds is None:
            return
        try:
            if not self.ledger.has_prices:
                import asyncio  # noqa: PLC0415

                await asyncio.to_thread(self.ledger.price_book)
            call.hold = await holds.obtain_async(self._holding(holds), self._asked(call, holds), self.scopes)
            self._check_held(call, holds)
        except BaseException as refusal:
            self._withdraw(call, refusal)
            raise

    def _admit_at_once(self, call: Call) -> HoldClient | None:
        """Control and the run's own budget; the hold client where a hold is to be asked for."""
        ledger = self.ledger
        if ledger.control is not None:
            self._check(call.name)
        try:
            warning = self.meter.admit(call.kind, ledger.timer() - self._started_us)
        except RunBudgetExceededError as refusal:
            self._ask_for_more(refusal)
            raise
        if warning is not None:
            ledger.tell("budget", str(warning))
        holds = ledger.holds
        if holds is None or call.wants_hold is False:
            return None
        wanted = call.wants_hold or holds.settings.calls in {"all", call.kind}
        return holds if wanted else None

    def _ask_for_more(self, refusal: RunBudgetExceededError) -> None:
        """Ask a person, once for each budget that wants it; `extend_budget` is the answer."""
        if refusal.on_exceeded != "ask_human" or self._asked_about is self.meter.budget:
            return
        self._asked_about = self.meter.budget
        self.approval_requested(
            approval_id=f"budget:{self.run_id}", action="raise_budget", target=f"run {self.run_id}",
            change={"metric": refusal.metric, "limit": refusal.limit, "used": refusal.used},
        )  # fmt: skip

    def _holding(self, holds: HoldClient) -> RunEnvelope:
        if self._hold_envelope is None:
            self._hold_envelope = holds.envelope_of(self.envelope)
        return self._hold_envelope

    def _asked(self, call: Call, holds: HoldClient) -> Amounts:
        if not isinstance(call, ModelCall):
            return ask_for_tool_call(call.estimate, self.ledger.price_book(), tool=call.name, at_us=self.ledger.clock())
        return ask_for_model_call(
            call.estimate, holds.settings, self.ledger.price_book(), provider=call.provider,
            model=call.requested_model, service_tier=call.service_tier, input_bytes=call.input_bytes,
            max_tokens=call.max_tokens, at_us=self.ledger.clock(),
        )  # fmt: skip

    def _check_held(self, call: Call, holds: HoldClient) -> None:
        """A halt may have come while the hold was waited for."""
        try:
            self._check(call.name)
        except AgentledgerError:
            if call.hold is not None:
                holds.release(call.hold, self._holding(holds), "halted")
            raise

    def _withdraw(self, call: Call, refusal: BaseException) -> None:
        call.hold = None
        self.meter.withdraw(call.kind, refusal if isinstance(refusal, AgentledgerError) else None)

    def record_call(self, call: Call) -> None:
        """Emit a call that ends now, add what it used, and settle its hold. Never raises."""
        now_us = self.ledger.clock()
        failures = self.meter.settle(call, now_us)
        self._emit_call(call, now_us, failures)

    def _emit_call(self, call: Call, now_us: int, failures: int) -> None:
        ledger = self.ledger
        emitter = ledger.emitter
        emitter.emit(
            emitter.kinds[call.record_name], self.envelope, call, call.event_id, call.parent_event_id, None, now_us
        )
        if call.payloads and ledger.payloads is not None:
            ledger.payloads.send(self.envelope, call.event_id, call.payloads)
        if ledger.holds is None:
            return
        if call.hold is not None:
            envelope, used = self._holding(ledger.holds), self._used(call, now_us)
            ledger.holds.settle(call.hold, envelope, used, call.event_id, failures)

    def _used(self, call: Call, at_us: int) -> Amounts:
        """What an ended call is settled at: tokens as reported, dollars by the price book or else as reported; what
        nobody knows at what was asked for, and a tool that has no price and reports none at nothing.
        """
        asked = call.hold.asked if call.hold is not None else Amounts()
        if not isinstance(call, ModelCall):
            return Amounts(max(0, cost_of_tool(call, self.ledger.price_book, at_us) or 0), 0, 0, 1)
        reported = call.reported_cost_nanousd
        use = use_of(call, self.ledger.price_book, at_us)
        tokens = asked.tokens if use.tokens is None else use.tokens
        cost = next((cost for cost in (use.cost_nanousd, clean_int(reported)) if cost is not None), asked.cost_nanousd)
        return Amounts(max(0, cost), max(0, tokens), 1, 0)

    def enclosing_event_id(self) -> str | None:
        """The event that what happens now follows from: the open call, or the start of the run around it."""
        innermost = enclosing.get()
        if innermost is not None and (self.event_id is None or self._is_mine(innermost)):
            return innermost.event_id or None
        return self.event_id

    def _record_past(
        self, call: Call, status: str, error: BaseException | None,
        reported_cost_usd: Decimal | float | str | None, occurred_at: int | None,
    ) -> str:  # fmt: skip
        if status:
            call.status = status
        if error is not None:
            call.note_error(error)
        if not call.status:
            call.status = "ok"
        if reported_cost_usd is not None:
            call.reported_cost_usd(reported_cost_usd)
        if not call.requestor:
            call.requestor = "assistant"
        now_us = self.ledger.clock() if occurred_at is None else occurred_at
        call.event_id = event_id = new_event_id(now_us)
        call.parent_event_id = self.enclosing_event_id()
        failures = self.meter.settle(call, now_us, is_counted=False)
        self._emit_call(call, now_us, failures)
        return event_id

    def _known(self, kind: type[Call], facts: Mapping[str, object]) -> Mapping[str, object]:
        """The facts that this record has fields for; the rest is told about and left out."""
        known = _OWN_FIELDS[kind.record_name]
        if facts.keys() <= known and "policy_decision_id" not in facts:
            return facts
        own = {name: value for name, value in facts.items() if name in known}
        for name in facts.keys() - own.keys():
            self.ledger.tell("unknown_field", f"{kind.record_name} has no {name}")
        if "policy_decision_id" in own:
            own["policy_decision_id"] = self._event_ref("policy_decision_id", own["policy_decision_id"])
        return own


def _set_hold(call: Call, hold: Estimate | bool) -> None:
    call.wants_hold = hold is not False
    if isinstance(hold, Estimate):
        call.estimate = hold
