"""`tau2`: simulated customer conversations as tau2-bench saves them; one element of `simulations[]` is one run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentledger.producers.importers.documents import read_document
from agentledger.producers.importers.messages import Call, calls_of, pair_results, tool_call_fields, turn_digest
from agentledger.producers.importers.records import (
    TIMELESS_START_US,
    ImportOptions,
    Item,
    Rejected,
    RunBuilder,
    RunFacts,
    Unmapped,
    iso_to_us,
)
from agentledger.producers.json_values import (
    as_count,
    as_dict,
    as_list,
    as_ms,
    as_text,
    cost_nanousd,
    digest_and_size,
    short_text,
)
from agentledger.producers.usage import disjoint_tokens
from agentledger.schemas.errors import ImportFormatError
from agentledger.schemas.events import (
    ModelCallCompleted,
    OutcomeRecorded,
    PolicyDecided,
    RunFinished,
    RunStarted,
    ToolCallCompleted,
)

FAMILY = "tau2"
AGENT = "assistant"
USER = "user"
ESCALATING_TOOL = "transfer_to_human_agents"
RUN_STATUS = {
    "user_stop": "succeeded",
    "agent_stop": "succeeded",
    "max_steps": "halted",
    "too_many_errors": "failed",
    "agent_error": "failed",
}
_PROSE_COST = re.compile(r"^cost: (\d+(?:\.\d+)?(?:[eE]-?\d{1,3})?)(?:\. Error:|$)", re.MULTILINE)
_PROSE_REASON = re.compile(r"Error: (.*)", re.DOTALL)


@dataclass(frozen=True)
class Batch:
    """What all runs of one document share."""

    domain: str
    policy_version: str
    toolset_version: str
    agent: str
    agent_model: str
    user_model: str
    harness_version: str


ToolCallHook = Callable[[RunBuilder, Call, ToolCallCompleted], None]


@dataclass(frozen=True)
class LiveView:
    """What an event log knows about one run beyond the results: set by `tau2-events`."""

    utc_shift_us: int = 0
    latencies_ms: Mapping[str, float] = field(default_factory=dict)
    after_tool_call: ToolCallHook | None = None


RESULTS_ONLY = LiveView()


def read(path: Path, options: ImportOptions) -> Iterator[Item]:
    """The runs of one file. Raises ImportFormatError."""
    return parse(read_document(path), options, str(path))


def parse(
    document: Any, options: ImportOptions, origin: str, live: Mapping[str, LiveView] | None = None
) -> Iterator[Item]:
    """The runs of one document. Raises ImportFormatError where it isn't a tau2 batch."""
    if not isinstance(document, dict) or not isinstance(document.get("simulations"), list):
        raise ImportFormatError("not a tau2 batch: it has no list `simulations`", where=origin)
    batch = read_batch(document)
    if not document["simulations"]:
        yield Unmapped("batch without any run", example=origin)
    for index, simulation in enumerate(document["simulations"]):
        where = f"{origin}: simulations[{index}]"
        try:
            view = (live or {}).get(as_text(as_dict(simulation).get("id")), RESULTS_ONLY)
            yield from list(_Simulation(simulation, batch, options, view).items())
        except ImportFormatError as error:
            yield Rejected(where, error.what)


def read_batch(document: dict[str, Any]) -> Batch:
    """The settings of a batch, from its `info`."""
    info = as_dict(document.get("info"))
    environment, agent = as_dict(info.get("environment_info")), as_dict(info.get("agent_info"))
    policy, tools = as_text(environment.get("policy")), environment.get("tool_defs")
    return Batch(
        domain=as_text(environment.get("domain_name")),
        policy_version=hashlib.sha256(policy.encode()).hexdigest()[:12] if policy else "",
        toolset_version=digest_and_size(tools)[0] if tools else "",
        agent=as_text(agent.get("implementation")) or "tau2-agent",
        agent_model=as_text(agent.get("llm")),
        user_model=as_text(as_dict(info.get("user_info")).get("llm")),
        harness_version=as_text(info.get("git_commit"))[:12],
    )


class _Simulation:
    """One element of `simulations[]` on its way to events."""

    def __init__(self, simulation: Any, batch: Batch, options: ImportOptions, live: LiveView) -> None:
        if not isinstance(simulation, dict) or not as_text(simulation.get("id")):
            raise ImportFormatError("a simulation has no `id`")
        if not isinstance(simulation.get("messages"), list):
            raise ImportFormatError("a simulation has no list `messages`")
        self.simulation, self.batch, self.live = simulation, batch, live
        self.messages = [as_dict(message) for message in simulation["messages"]]
        self.calls = calls_of(self.messages)
        self.answers, self.strays = pair_results(self.messages, self.calls)
        self.has_usage = any("usage" in message for message in self.messages)
        started = iso_to_us(simulation.get("start_time"))
        self.started_us = (TIMELESS_START_US if started is None else started) + live.utc_shift_us
        self.left_over: list[Unmapped] = []
        self.unpriced = 0
        self.run = RunBuilder(self._facts(), options, id_shift_us=live.utc_shift_us)

    def _facts(self) -> RunFacts:
        timed = any(message.get("timestamp") for message in self.messages)
        labels = {name: self.simulation.get(name) for name in ("trial", "seed")}
        return RunFacts(
            family=FAMILY,
            natural_id=as_text(self.simulation["id"]),
            agent_id=self.batch.agent,
            agent_version=self.batch.harness_version,
            workflow=self.batch.domain,
            labels={name: str(value) for name, value in labels.items() if value is not None}
            | {"times": ("utc" if self.live.utc_shift_us else "naive taken as utc") if timed else "of the run only"},
        )

    def items(self) -> Iterator[Item]:
        self.run.add(
            RunStarted,
            self.started_us,
            source=self.run.source,
            task=short_text(self.simulation.get("task_id", "")),
            policy_version=self.batch.policy_version,
            toolset_version=self.batch.toolset_version,
        )
        first_call = 0
        for place, message in enumerate(self.messages):
            parent = self._turn(place, message)
            while first_call < len(self.calls) and self.calls[first_call].message == place:
                self._tool_call(first_call, parent)
                first_call += 1
        self._end()
        yield self.run.finish()
        yield from self.left_over

    def _turn(self, place: int, message: dict[str, Any]) -> str | None:
        """Adds what a message stands for; the event id of its model call, if it is one."""
        role = as_text(message.get("role"))
        for prose in as_list(message.get("errors")):
            self._rejected_attempt(place, str(prose), role)
        if role == USER:
            if message.get("usage") is not None or not self.has_usage:
                paid = cost_nanousd(message.get("cost")) or 0
                self.left_over.append(Unmapped("user simulator turn", amount_nanousd=paid))
            else:
                self.left_over.append(Unmapped("preset message, no model call", example=self.run.run_id))
        elif role == AGENT:
            if self._is_model_call(place, message):
                return self._model_call(place, message)
            preset = "preset message, no model call" if self._live_before(place) else "scripted greeting, no model call"
            self.left_over.append(Unmapped(preset, example=self.run.run_id))
        elif role != "tool":
            self.left_over.append(Unmapped(f"message of role {role}", example=self.run.run_id))
        elif place in self.strays:
            self.left_over.append(Unmapped("tool result without a call", example=self.run.run_id))
        return None

    def _live_before(self, place: int) -> bool:
        """Whether anyone spoke before this message: then it isn't the greeting."""
        return place > 0

    def _is_model_call(self, place: int, message: dict[str, Any]) -> bool:
        """A message with usage; where nobody wrote usage down, any but an opening one without calls."""
        if self.has_usage:
            return message.get("usage") is not None
        return self._live_before(place) or bool(message.get("tool_calls"))

    def _model_call(self, place: int, message: dict[str, Any]) -> str:
        raw = as_dict(message.get("raw_data"))
        choice = as_dict(next(iter(as_list(raw.get("choices"))), raw))
        usage = as_dict(message.get("usage"))
        detailed = as_dict(raw.get("usage"))
        cost = cost_nanousd(message.get("cost"))
        if cost == 0 and any(as_count(count) for count in usage.values()):
            cost = None  # the price was unknown to the harness: "not priced", not "free"
            self.unpriced += 1
        # Runs that wrote no usage name the model of a template, not the one that ran.
        model = self.batch.agent_model if self.has_usage else ""
        tier = as_text(raw.get("service_tier"))
        digest, size = turn_digest(message)
        return self.run.add(
            ModelCallCompleted,
            self._time_of(place),
            provider=model.partition("/")[0] if "/" in model else "",
            requested_model=model,
            answered_model=as_text(raw.get("model")),
            requestor=AGENT,
            service_tier="" if tier == "default" else tier,
            **disjoint_tokens(detailed if detailed.get("prompt_tokens") == usage.get("prompt_tokens") else usage),
            latency_ms=self._latency_ms(place, message.get("generation_time_seconds")),
            attempt=1 + len(as_list(message.get("errors"))),
            status="ok",
            finish_reason=as_text(choice.get("finish_reason")),
            reported_cost_nanousd=cost,
            response_id=as_text(raw.get("id")),
            output_digest=digest,
            output_bytes=size,
        ).event_id

    def _rejected_attempt(self, place: int, prose: str, role: Any) -> None:
        """An attempt that the harness refused; its text, call and cost are there as prose only."""
        reason = _PROSE_REASON.search(prose)
        self.run.add(
            PolicyDecided,
            self._time_of(place),
            engine="harness",
            policy="message format",
            rule="either text or tool calls, not both and not neither",
            verdict="deny",
            enforced="blocked",
            reason=short_text(reason.group(1).strip() if reason else "rejected"),
            action=f"message of the {role}",
            input_digest=digest_and_size(prose)[0],
        )
        price = _PROSE_COST.search(prose)
        amount = cost_nanousd(price.group(1)) if price else 0
        self.left_over.append(Unmapped("cost of a rejected attempt, only in prose", amount_nanousd=amount or 0))

    def _tool_call(self, index: int, parent: str | None) -> None:
        call = self.calls[index]
        place = self.answers.get(index)
        result = None if place is None else self.messages[place]
        fields = tool_call_fields(call, result)
        if fields["status"] != "ok" and result is not None:
            fields["error_message"] = short_text(result.get("content"))
        asked_us = self._time_of(call.message)
        done_us = asked_us if place is None else self._time_of(place)
        measured = self.live.latencies_ms.get(call.call_id)
        if measured is None and place is not None and self._stamped(place) and self._stamped(call.message):
            measured = max(0, done_us - asked_us) / 1000
        event = self.run.add(ToolCallCompleted, done_us, parent_event_id=parent, latency_ms=measured, **fields)
        if self.live.after_tool_call is not None:
            self.live.after_tool_call(self.run, call, event)

    def _end(self) -> None:
        reason = as_text(self.simulation.get("termination_reason"))
        cost = cost_nanousd(self.simulation.get("agent_cost"))
        if cost == 0 and self.unpriced:
            cost = None
        if self.unpriced:
            self.left_over.append(Unmapped("cost 0 beside usage, taken as not priced", self.unpriced, self.run.run_id))
        ended = iso_to_us(self.simulation.get("end_time"))
        ended_us = self.started_us if ended is None else ended + self.live.utc_shift_us
        status = RUN_STATUS.get(reason, "failed")
        if status == "succeeded" and any(c.name == ESCALATING_TOOL and c.requestor == AGENT for c in self.calls):
            status = "escalated"
        self.run.add(
            RunFinished,
            ended_us,
            status=status,
            reason=reason,
            duration_ms=max(0, ended_us - self.started_us) // 1000,
            reported_cost_nanousd=cost,
        )
        reward = as_dict(self.simulation.get("reward_info")).get("reward")
        score = as_ms(reward)
        if score is None:
            self.left_over.append(Unmapped("run without a reward", example=self.run.run_id))
            return
        self.run.add(OutcomeRecorded, ended_us, success=score == 1, score=score, verified_by="tau2-bench reward")

    def _stamped(self, place: int) -> bool:
        return iso_to_us(self.messages[place].get("timestamp")) is not None

    def _time_of(self, place: int) -> int:
        """The message's time; without one, the run's start and a millisecond per message."""
        stamp = iso_to_us(self.messages[place].get("timestamp"))
        return self.started_us + place * 1000 if stamp is None else stamp + self.live.utc_shift_us

    def _latency_ms(self, place: int, measured_s: Any) -> float | None:
        """The measured time, else the time since the message before: what the model answered to."""
        seconds = as_ms(measured_s)
        if seconds is not None:
            return round(seconds * 1000, 3)
        if place == 0 or not (self._stamped(place) and self._stamped(place - 1)):
            return None
        return max(0, self._time_of(place) - self._time_of(place - 1)) / 1000
